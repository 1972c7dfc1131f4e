#!/usr/bin/env python3
"""Runs a rendered release as containers, and sees whether it does what the chart says.

usage: containers.py RENDERED SCRATCH [--alerts]      see deploy/check-containers

Each pod is one container, with its environment, files and security context; the NetworkPolicies are
enforced as rules of nftables between them. There is no cluster: what a Service would do, lead to the
pods that are ready, is done here by what names resolve to, and nothing is restarted but by this.
"""
import base64
import json
import os
import pathlib
import re
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

import websockets.exceptions
import websockets.sync.client
import yaml

import policy
from consensus import Consensus

# Of its own, also beside another check on this host: addresses are given out for all networks of a name.
NETWORK, SUBNET = f"preconf-check-{os.getpid()}", "10.77.1"
JWT = "11" * 32
KEY = "00" * 31 + "01"
DEADLINE = 60
# How long readiness is watched where nothing happens; longer than a snapshot may be old.
QUIET = 15
# Readers of a gateway that is stopped.
READERS = 8
# What fires in a Prometheus when a pod is gone, besides that it is down.
FIRES = {"signer": {"PreconfNoFlashblocks"}, "gateway": {"PreconfConsumerFeedDown"}, "consumer": {"PreconfSnapshotStale"}}


def sh(*command, check=True):
    ran = subprocess.run(command, capture_output=True, text=True)
    if check and ran.returncode:
        raise SystemExit(f"{' '.join(command)}: {ran.stderr.strip()}")
    return ran


def until(what, condition, deadline=DEADLINE):
    """Waits for a condition, and says how long it took."""
    begun = time.monotonic()
    while time.monotonic() - begun < deadline:
        if answer := condition():
            print(f"   {what}: {time.monotonic() - begun:.1f} s")
            return answer
        time.sleep(0.05)
    raise SystemExit(f"FAILED: {what}: not within {deadline} s")


def require(holds, what):
    if not holds:
        raise SystemExit(f"FAILED: {what}")
    print(f"   {what}")


def stay_ready(release, pods, what):
    """They are ready all the time, for longer than a snapshot may be old."""
    begun = time.monotonic()
    while time.monotonic() - begun < QUIET:
        for pod in pods:
            if (said := release.readiness(pod)) != "ok":
                raise SystemExit(f"FAILED: {what}: {pod} is not ready: {said}")
        time.sleep(0.2)
    print(f"   {what}: ready for {QUIET} s")


class Release:
    """The containers of a release."""

    def __init__(self, docs, scratch):
        self.docs, self.scratch = docs, scratch
        self.test = next(d for d in docs if policy.is_hook(d) and d["kind"] == "Pod")["spec"]
        kinds = ("Deployment", "StatefulSet")
        self.work = {d["metadata"]["labels"]["app.kubernetes.io/component"]: d for d in docs if d["kind"] in kinds}
        self.component = {pod: c for c, d in self.work.items() for pod in self.pods_of(c, d["spec"].get("replicas", 1))}
        self.ip = {name: f"{SUBNET}.{at}" for at, name in enumerate([*self.component, "execution", "test"], 10)}
        # Which pod stands for its component.
        self.leads = {c: pod for pod, c in reversed(self.component.items())}
        self.objects = {(d["kind"], d["metadata"]["name"]): d for d in docs}

    @staticmethod
    def pods_of(component, replicas):
        return [component] if replicas == 1 else [f"{component}-{at}" for at in range(replicas)]

    def content(self, volume):
        """The files of a volume, by name."""
        if "secret" in volume:
            name = volume["secret"]["secretName"]
            made = {"jwt": {"jwt.hex": JWT}, "sequencer-key": {"flashblock-signing-key": KEY}}.get(name)
            data = made or {k: base64.b64decode(v).decode() for k, v in self.objects[("Secret", name)]["data"].items()}
            items = volume["secret"].get("items")
        else:
            data = self.objects[("ConfigMap", volume["configMap"]["name"])]["data"]
            items = volume["configMap"].get("items")
        return {i["path"]: data[i["key"]] for i in items} if items else data

    def files(self, pod, spec, uid):
        """Arguments that mount what the pod mounts."""
        volumes = {v["name"]: v for v in spec.get("volumes") or []}
        for mount in spec["containers"][0].get("volumeMounts") or []:
            folder = self.scratch / pod / mount["name"]
            folder.mkdir(parents=True, exist_ok=True)
            if mount["name"] in volumes:
                for name, text in self.content(volumes[mount["name"]]).items():
                    (folder / name).write_text(text)
                    os.chmod(folder / name, 0o440)
                    os.chown(folder / name, 0, uid)
            else:
                os.chown(folder, uid, uid)
            yield from ("-v", f"{folder}:{mount['mountPath']}:{'ro' if mount.get('readOnly') else 'rw'}")

    def names(self):
        """Every name that a cluster's DNS would know, and its address."""
        for (kind, name), doc in self.objects.items():
            if kind == "Service":
                component = doc["spec"]["selector"]["app.kubernetes.io/component"]
                yield f"{name}.preconf.svc", self.ip[self.leads[component]]
        yield "execution.chain.svc", self.ip["execution"]

    def lead(self, pod):
        """From now on the names of its component lead to this pod."""
        self.leads[self.component[pod]] = pod
        for other in self.component:
            path = pathlib.Path(sh("podman", "inspect", "-f", "{{.HostsPath}}", other).stdout.strip())
            if path.is_file():
                # In place: it is mounted.
                path.write_text("127.0.0.1 localhost\n" + "".join(f"{ip} {name}\n" for name, ip in self.names()))

    def address(self, name):
        """Arguments for a place in the network. A container that comes back with the address that it had
        must have the hardware address too, or its peers do not find it until they forget the old one."""
        return ("--network", NETWORK, "--ip", self.ip[name],
                "--mac-address", "02:00:00:00:00:" + self.ip[name].rsplit(".", 1)[1])

    @staticmethod
    def confined(spec, container):
        """Arguments for what a container may do and use, and for its variables."""
        user, own = spec["securityContext"], container["securityContext"]
        yield from ("--user", f"{user['runAsUser']}:{user['runAsGroup']}")
        if own["readOnlyRootFilesystem"]:
            yield from ("--read-only", "--read-only-tmpfs=false")
        yield from (f"--cap-drop={cap}" for cap in own["capabilities"]["drop"])
        if not own["allowPrivilegeEscalation"]:
            yield "--security-opt=no-new-privileges"
        yield from ("--memory", container["resources"]["limits"]["memory"].replace("Gi", "g").replace("Mi", "m"))
        yield from (arg for e in container.get("env") or [] if "value" in e for arg in ("-e", f"{e['name']}={e['value']}"))

    def hosts(self):
        return (f"--add-host={name}:{ip}" for name, ip in self.names())

    def create(self, pod):
        spec = self.work[self.component[pod]]["spec"]["template"]["spec"]
        container = spec["containers"][0]
        sh("podman", "create", "--name", pod, "--hostname", pod, *self.address(pod), *self.confined(spec, container),
           "--stop-timeout", str(spec["terminationGracePeriodSeconds"]), *self.hosts(),
           *self.files(pod, spec, spec["securityContext"]["runAsUser"]), container["image"])

    def run_test(self):
        """The pod of `helm test`: yields the name of each container, whether it ended well, and what it said."""
        sidecar, = self.test["initContainers"]
        sh("podman", "run", "-d", "--name", "test", *self.address("test"), *self.confined(self.test, sidecar),
           *self.hosts(), sidecar["image"])
        for container in self.test["containers"]:
            ran = self.ask(container, container["args"])
            yield container["name"], ran.returncode == 0, ran.stdout + ran.stderr

    def ask(self, container, args):
        """Runs a container beside the sidecar of the test's pod, to its end."""
        return sh("podman", "run", "--rm", "--network", "container:test", *self.confined(self.test, container),
                  container["image"], *args, check=False)

    def start_execution(self):
        folder = self.scratch / "execution"
        folder.mkdir(parents=True)
        (folder / "genesis.json").write_text((pathlib.Path(__file__).parent / "genesis.json").read_text())
        (folder / "jwt").write_text(JWT)
        (folder / "jwt").chmod(0o400)
        os.chown(folder / "jwt", 65532, 65532)
        sh("podman", "run", "-d", "--name", "execution", *self.address("execution"),
           "-v", f"{folder}:/chain:ro", "localhost/preconf/execution:dev", "node", "--genesis", "/chain/genesis.json",
           "--http", "0.0.0.0:8545", "--ws", "0.0.0.0:8546", "--authrpc", "0.0.0.0:8551", "--jwt-secret", "/chain/jwt")

    def pid(self, pod):
        return sh("podman", "inspect", "-f", "{{.State.Pid}}", pod).stdout.strip()

    def readiness(self, pod):
        """What a pod says of its readiness."""
        try:
            return urllib.request.urlopen(f"http://{self.ip[pod]}:9500/readyz", timeout=1).read().decode().strip()
        except urllib.error.HTTPError as not_ready:
            return not_ready.read().decode().strip()
        except OSError as silent:
            return str(silent)

    def is_ready(self, pod):
        return self.readiness(pod) == "ok"

    def metric(self, pod, name):
        """The sum of a metric over its labels."""
        text = urllib.request.urlopen(f"http://{self.ip[pod]}:9500/metrics", timeout=2).read().decode()
        return sum(float(v) for v in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.M))

    def rpc(self, method, *params):
        """What the overlay answers."""
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
        request = urllib.request.Request(f"http://{self.ip['rpc-overlay']}:8545", body, {"Content-Type": "application/json"})
        return json.load(urllib.request.urlopen(request, timeout=5))["result"]

    def enforce(self):
        """Makes rules of the policies, and returns the edges that they allow, and all edges."""
        allowed = set(policy.reachability(self.docs))
        rules = ["table inet preconf_check {", " chain forward {",
                 "  type filter hook forward priority -10; policy drop;", "  ct state established,related accept"]
        ports = {c: [p["containerPort"] for p in d["spec"]["template"]["spec"]["containers"][0]["ports"]]
                 for c, d in self.work.items()} | {"execution": [8545, 8546, 8551]}
        kind = {**self.component, "execution": "execution", "test": "test"}
        every = [(a, b, p) for a in self.ip for b in self.ip if kind[a] != kind[b] for p in ports.get(kind[b], [])]
        edges = {(a, b, p) for a, b, p in every if f"{kind[a]}>{kind[b]}:{p}" in allowed}
        rules += [f"  ip saddr {self.ip[a]} ip daddr {self.ip[b]} tcp dport {p} accept" for a, b, p in sorted(edges)]
        path = self.scratch / "policies.nft"
        path.write_text("\n".join([*rules, " }", "}"]) + "\n")
        sh("nft", "-f", str(path))
        return edges, every

    def connects(self, source, target, port):
        attempt = f"import socket; socket.create_connection(('{self.ip[target]}', {port}), 0.6)"
        return sh("nsenter", f"--net=/proc/{self.pid(source)}/ns/net", sys.executable, "-c", attempt, check=False).returncode == 0


def check_isolation(release, running, edges, every):
    print("-- who can reach whom, as enforced")
    there = {*running, "execution"}
    every = [(a, b, port) for a, b, port in every if {a, b} <= there]
    edges = edges & set(every)
    wrong = [e for e in every if release.connects(*e) != (e in edges)]
    require(not wrong, f"{len(edges)} edges connect, {len(every) - len(edges)} do not" if not wrong else f"edges as declared: {wrong}")
    print("-- what a process may do")
    for pod in running:
        status = pathlib.Path(f"/proc/{release.pid(pod)}/status").read_text()
        field = lambda name: re.search(rf"^{name}:\s+(\S+)", status, re.M)[1]
        sound = (int(field("CapEff"), 16), int(field("CapBnd"), 16), field("NoNewPrivs"), field("Uid")) == (0, 0, "1", "65532")
        require(sound and field("Seccomp") == "2", f"{pod}: user 65532, no capabilities, no new privileges, seccomp")


def read_feed(release):
    return websockets.sync.client.connect(f"ws://{release.ip['gateway']}:8548", open_timeout=5)


def check_feed(release):
    print("-- flashblocks reach a WebSocket client")
    seen = []
    with read_feed(release) as feed:
        begun = time.monotonic()
        while time.monotonic() - begun < 6:
            seen.append(json.loads(feed.recv(timeout=5)))
    require(len(seen) >= 20 and all("seal" in m for m in seen), f"{len(seen)} sealed flashblocks in 6 s")
    block = release.rpc("eth_getBlockByNumber", "pending", False)
    require(int(block["number"], 16) > 0, f"the overlay has block {int(block['number'], 16)} pending")


def check_drain(release):
    print(f"-- a gateway that is stopped, with {READERS} readers")
    ends = []

    def read(feed):
        try:
            while True:
                feed.recv(timeout=30)
        except websockets.exceptions.ConnectionClosed as closed:
            ends.append((time.monotonic(), closed.rcvd and (closed.rcvd.code, closed.rcvd.reason)))
    feeds = [read_feed(release) for _ in range(READERS)]
    readers = [threading.Thread(target=read, args=(feed,), daemon=True) for feed in feeds]
    for reader in readers:
        reader.start()
    begun = time.monotonic()
    stop = subprocess.Popen(["podman", "stop", "gateway"], stdout=subprocess.DEVNULL)
    for reader in readers:
        reader.join(timeout=60)
    stop.wait(timeout=60)
    told = [close for _, close in ends if close and close[0] == 1012 and re.search(r"\d+:\d+", close[1])]
    require(len(told) == READERS, f"closes each with 1012 and where it was, as {told[0] if told else ends}")
    after = sorted(at - begun for at, _ in ends)
    gaps = [later - earlier for earlier, later in zip(after, after[1:])]
    require(min(gaps) > 0.05, "one after the other: after " + ", ".join(f"{s:.1f}" for s in after) + " s")
    require(sh("podman", "inspect", "-f", "{{.State.ExitCode}}", "gateway").stdout.strip() == "0", "ends with code 0")
    sh("podman", "start", "gateway")
    until("it is ready again", lambda: release.is_ready("gateway"))


def is_served(release, consensus, pod):
    """Everything works again, with this builder."""
    before = consensus.number
    until("two more blocks", lambda: consensus.number >= before + 2)
    published = lambda: release.metric(pod, "preconf_builder_flashblocks_total")
    count = published()
    until("flashblocks are published", lambda: published() > count + 5)
    heard = lambda: release.metric("rpc-overlay", "preconf_rpc_overlay_updates_total")
    count = heard()
    until("the overlay hears of it", lambda: heard() > count)
    require(release.is_ready("rpc-overlay"), "the overlay is ready")


def check_kill(release, consensus, pod):
    print(f"-- kill -9 of the {pod}")
    before = consensus.number
    sh("podman", "kill", "-s", "KILL", pod)
    until("the chain goes on for two blocks without it", lambda: consensus.number >= before + 2)
    if pod == "consumer":
        stay_ready(release, ["rpc-overlay"], "the overlay without it")
        number = consensus.number
        require(int(release.rpc("eth_blockNumber"), 16) >= number, "it answers from the execution client")
    sh("podman", "start", pod)
    until("it is ready again", lambda: release.is_ready(pod))
    is_served(release, consensus, release.leads["builder"])


def check_standby(release, consensus):
    """The builder that builds is killed; the other one goes on; the first one comes back as standby."""
    first, second = "builder-0", "builder-1"
    stands_by = lambda pod: "another builder has the lease" in release.readiness(pod)
    print(f"-- kill -9 of {first}, while {second} stands by")
    sh("podman", "start", second)
    until(f"{second} stands by", lambda: stands_by(second))
    require(release.is_ready(first), f"{first} has the lease")
    # It has to have heard some of what is published.
    until("it follows", lambda: release.metric(second, "preconf_builder_heard_total") > 5)
    sh("podman", "kill", "-s", "KILL", first)
    until(f"{second} is ready", lambda: release.is_ready(second))
    release.lead(second)
    is_served(release, consensus, second)
    sh("podman", "start", first)
    until(f"{first} stands by", lambda: stands_by(first))


def check_test(release, standby):
    """`helm test` passes, and fails for a builder that stands by."""
    print("-- helm test")
    for name, is_passed, said in release.run_test():
        require(is_passed, f"{name}: {said.strip()}".replace("\n", "\n      "))
    probe = release.test["containers"][0]
    ran = release.ask(probe, ["probe", f"--url=http://{release.ip[standby]}:9500", "--within-ms=0"])
    require(ran.returncode == 1 and "NOT_SERVING" in ran.stdout, f"{standby}: {ran.stdout.strip()}")
    sh("podman", "rm", "-f", "-t", "0", "test")


def check_alerts(release):
    """A Prometheus that scrapes the release sees pods go."""
    print("-- alerts in a Prometheus")
    targets = [{"targets": [f"{release.ip[pod]}:9500"],
                "labels": {"part_of": "preconf", "component": component, "pod": pod, "namespace": "preconf",
                           "release": release.work[component]["metadata"]["labels"]["app.kubernetes.io/instance"]}}
               for pod, component in release.component.items()]
    rules = release.scratch / "rules.yaml"
    rules.write_text(yaml.safe_dump(next(d["spec"] for d in release.docs if d["kind"] == "PrometheusRule")))
    config = {"global": {"scrape_interval": "2s", "evaluation_interval": "2s"},
              "rule_files": [str(rules)],
              "scrape_configs": [{"job_name": "preconf", "static_configs": targets}]}
    path = release.scratch / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    server = subprocess.Popen(["prometheus", f"--config.file={path}", f"--storage.tsdb.path={release.scratch}/tsdb",
                               "--web.listen-address=127.0.0.1:9599"], stderr=subprocess.DEVNULL)
    ask = lambda query: json.load(urllib.request.urlopen(
        "http://127.0.0.1:9599/api/v1/query?query=" + urllib.parse.quote(query), timeout=5))["data"]["result"]

    def answer(query):
        try:
            return ask(query)
        except OSError:
            return []
    try:
        up = 'count(up{part_of="preconf"} == 1) == ' + str(len(release.component))
        until("everything is scraped", lambda: answer(up))
        time.sleep(20)
        names = lambda: {a["metric"]["alertname"] for a in answer('ALERTS{alertstate="firing"}')}
        require(not names(), f"nothing fires while all is well ({names() or 'none'})")
        for pod, more in FIRES.items():
            sh("podman", "kill", "-s", "KILL", pod)
            wanted = {"PreconfDown", *more}
            until(f"{' and '.join(sorted(wanted))} fire without a {pod}", lambda: wanted <= names(), 240)
            sh("podman", "start", pod)
            until("they are silent again", lambda: not wanted & names(), 240)
    finally:
        server.terminate()
        server.wait()


def main():
    docs = [d for d in yaml.safe_load_all(open(sys.argv[1])) if d]
    release = Release(docs, pathlib.Path(sys.argv[2]))
    sh("podman", "network", "create", "--disable-dns", "--subnet", f"{SUBNET}.0/24", NETWORK)
    print("-- starting")
    release.start_execution()
    edges, every = release.enforce()
    # The standby comes later: a signer that is started again gives the lease to whoever asks first.
    running = [pod for pod in release.component if pod != "builder-1"]
    for pod in release.component:
        release.create(pod)
    for pod in running:
        sh("podman", "start", pod)
    for pod in running:
        until(f"{pod} is ready", lambda: release.is_ready(pod))
    stay_ready(release, running, "all of them without a consensus client")
    consensus = Consensus(lambda: f"http://{release.ip[release.leads['builder']]}:8551", JWT)
    consensus.start()
    until("there is a block", lambda: consensus.number > 0)
    check_isolation(release, running, edges, every)
    check_feed(release)
    check_drain(release)
    for pod in ("signer", "gateway", "consumer"):
        check_kill(release, consensus, pod)
    require(not consensus.faults, f"no call of the consensus client has failed ({consensus.faults or 'none'})")
    check_standby(release, consensus)
    check_test(release, "builder-0")
    if "--alerts" in sys.argv:
        check_alerts(release)
    consensus.stopping.set()
    consensus.join()
    print(f"-- {consensus.number} blocks; calls that failed while the builder or the signer was down: {len(consensus.faults)}")
    print(*consensus.faults, sep="\n")


main()
