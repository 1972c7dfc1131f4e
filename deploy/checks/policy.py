#!/usr/bin/env python3
"""What a rendered chart is allowed to be, and who can reach whom in it.

usage: policy.py RENDERED REACH        exit 1 if anything is found
       policy.py RENDERED --print      print the reachability instead

Every pod is under the restricted profile, and under a few rules of our own. The NetworkPolicies are
evaluated for every pair of pods, and for strangers around them; what can be reached has to be what
the file REACH says, no less and no more.
"""
import re
import sys

import yaml

NAMESPACE = "preconf"
WORKLOADS = {"Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob", "Pod"}
VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim",
           "projected", "secret"}
SECRET_WORDS = ("PRIVATE_KEY", "SECRET", "PASSWORD", "MNEMONIC", "TOKEN")

# Those around the release: labels, labels of their namespace, and the ports that they serve.
# `internet` has an address instead of labels.
STRANGERS = {
    "neighbour": ({}, {"kubernetes.io/metadata.name": NAMESPACE}, []),
    "monitoring": ({}, {"kubernetes.io/metadata.name": "monitoring"}, [4317]),
    "dns": ({"k8s-app": "kube-dns"}, {"kubernetes.io/metadata.name": "kube-system"}, [53]),
    "execution": ({"app": "reth"}, {"kubernetes.io/metadata.name": "chain"}, [8545, 8546, 8547, 8551]),
    "consensus": ({"app": "beacond"}, {"kubernetes.io/metadata.name": "chain"}, [26657]),
    "proxies": ({}, {"kubernetes.io/metadata.name": "proxies"}, []),
    "operators": ({}, {"kubernetes.io/metadata.name": "operators"}, []),
    "other-builder": ({"app.kubernetes.io/component": "builder"}, {"kubernetes.io/metadata.name": "sequencer"}, []),
    "internet": (None, None, [8548, 9090, 9102]),
}


def pod_of(doc):
    """The labels and the spec of a workload's pod."""
    if doc["kind"] == "Pod":
        return doc["metadata"].get("labels") or {}, doc["spec"]
    spec = doc["spec"]["jobTemplate"]["spec"] if doc["kind"] == "CronJob" else doc["spec"]
    return spec["template"]["metadata"].get("labels") or {}, spec["template"]["spec"]


def is_hook(doc):
    return "helm.sh/hook" in (doc["metadata"].get("annotations") or {})


def twice(entries):
    """The names that a list has more than once, which an API server that merges lists refuses."""
    names = [entry["name"] for entry in entries or []]
    return sorted({name for name in names if names.count(name) > 1})


def check_pod(doc, labels, spec, hpas):
    """Yields what is wrong with a pod."""
    if spec.get("automountServiceAccountToken") is not False:
        yield "automountServiceAccountToken is not false"
    if spec.get("enableServiceLinks") is not False:
        yield "enableServiceLinks is not false"
    for key in ("hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"):
        if spec.get(key):
            yield f"{key} is set"
    for volume in spec.get("volumes") or []:
        kinds = set(volume) - {"name"}
        if not kinds <= VOLUMES:
            yield f"volume {volume['name']} is of kind {kinds}"
        if "secret" in volume and volume["secret"].get("defaultMode") not in (0o400, 0o440):
            yield f"secret volume {volume['name']} is readable by others"
    context = spec.get("securityContext") or {}
    # An execution client beside the release has probes and ends of its own.
    ours = labels.get("app.kubernetes.io/part-of") == "preconf"
    serving = spec["containers"] if ours and doc["kind"] in ("Deployment", "StatefulSet") else []
    yield from (f"volume {name} is there twice" for name in twice(spec.get("volumes")))
    yield from check_spread(doc, spec)
    for container in (spec.get("initContainers") or []) + spec["containers"]:
        for fault in check_container(container, context, container in serving):
            yield f"{container['name']}: {fault}"
    scaled = any(h["spec"]["scaleTargetRef"]["name"] == doc["metadata"]["name"] for h in hpas)
    if scaled and "replicas" in doc["spec"]:
        yield "replicas are set, and an autoscaler owns them"
    for container in serving:
        sleep = container["lifecycle"]["preStop"]["sleep"]["seconds"]
        drain = next(int(e["value"]) for e in container["env"] if e["name"] == "PRECONF_DRAIN_TIMEOUT_MS")
        if spec["terminationGracePeriodSeconds"] <= sleep + drain / 1000:
            yield "the grace period ends before the drain does"


def check_spread(doc, spec):
    """Yields what would leave a pod without a node for ever."""
    for spread in spec.get("topologySpreadConstraints") or []:
        key = spread["topologyKey"]
        if spread["whenUnsatisfiable"] != "DoNotSchedule":
            continue
        if key != "kubernetes.io/hostname":
            yield f"has to be spread over {key}, which nodes need not have"
        if spread.get("nodeTaintsPolicy") != "Honor":
            yield f"is spread over {key} of nodes that it cannot run on"
        if doc["kind"] == "Deployment" and spread.get("matchLabelKeys") != ["pod-template-hash"]:
            yield f"is spread over {key} together with the pods that it replaces"


def check_container(container, context, is_serving):
    """Yields what is wrong with a container."""
    own = container.get("securityContext") or {}
    effective = lambda key: own.get(key, context.get(key))
    if effective("runAsNonRoot") is not True or (effective("runAsUser") or 0) < 10000:
        yield "may run as root or as a user of the system"
    if (effective("seccompProfile") or {}).get("type") not in ("RuntimeDefault", "Localhost"):
        yield "has no seccomp profile"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "may escalate privileges"
    if own.get("readOnlyRootFilesystem") is not True:
        yield "may write to its root"
    if (own.get("capabilities") or {}) != {"drop": ["ALL"]}:
        yield "has capabilities"
    image = container["image"]
    if "@sha256:" not in image and (":" not in image.rsplit("/", 1)[-1] or image.endswith(":latest")):
        yield f"image {image} is not pinned"
    resources = container.get("resources") or {}
    if not {"cpu", "memory"} <= set(resources.get("requests") or {}) or "memory" not in (resources.get("limits") or {}):
        yield "has no requests or no limit of memory"
    if is_serving:
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            health = next(p["containerPort"] for p in container["ports"] if p["name"] == "health")
            if (container.get(probe) or {}).get("grpc", {}).get("port") != health:
                yield f"has no {probe} on the health port"
    for key in ("env", "ports", "volumeMounts"):
        yield from (f"{key} has {name} twice" for name in twice(container.get(key)))
    known = set()
    for entry in container.get("env") or []:
        for name in set(re.findall(r"(?<!\$)\$\((\w+)\)", str(entry.get("value", "")))) - known:
            yield f"variable {entry['name']} refers to {name}, which is not before it"
        known.add(entry["name"])
        is_path = str(entry.get("value", "")).startswith("/")
        if entry.get("value") and not is_path and any(w in entry["name"] for w in SECRET_WORDS):
            yield f"variable {entry['name']} looks like a secret"


def selects(selector, labels):
    if selector.get("matchExpressions"):
        raise SystemExit("policy.py knows no matchExpressions")
    return all(labels.get(k) == v for k, v in (selector.get("matchLabels") or {}).items())


def is_peer(peer, other):
    """Whether a NetworkPolicy peer means `other`."""
    labels, space = other["labels"], other["space"]
    if "ipBlock" in peer:
        # Everything has an address; which one a pod has is not for a chart to know.
        return peer["ipBlock"]["cidr"] in ("0.0.0.0/0", "::/0") or labels is None
    if labels is None:
        return False
    in_space = selects(peer["namespaceSelector"], space) if "namespaceSelector" in peer else (
        space.get("kubernetes.io/metadata.name") == NAMESPACE)
    return in_space and selects(peer.get("podSelector", {}), labels)


def allows(policies, direction, me, other, server, port):
    """Whether the policies of `me` let it talk with `other` about a port of `server`."""
    if not me["ours"]:
        return True
    applying = [p for p in policies if selects(p["podSelector"], me["labels"]) and direction in p["policyTypes"]]
    key, side = ("ingress", "from") if direction == "Ingress" else ("egress", "to")
    for rule in (r for p in applying for r in p.get(key) or []):
        ports = rule.get("ports")
        named = not ports or any(p["port"] == port or server["names"].get(p["port"]) == port for p in ports)
        if named and (not rule.get(side) or any(is_peer(p, other) for p in rule[side])):
            return True
    return not applying


def reachability(docs):
    """Every edge as `from>to:port`."""
    policies = [d["spec"] for d in docs if d["kind"] == "NetworkPolicy"]
    for policy in policies:
        policy.setdefault("policyTypes", ["Ingress"])
    all_of = {}
    for doc in docs:
        if doc["kind"] not in WORKLOADS:
            continue
        labels, spec = pod_of(doc)
        containers = (spec.get("initContainers") or []) + spec["containers"]
        names = {p["name"]: p["containerPort"] for c in containers for p in c.get("ports") or []}
        space = {"kubernetes.io/metadata.name": NAMESPACE}
        component = labels.get("app.kubernetes.io/component", doc["metadata"]["name"])
        all_of[component] = {"labels": labels, "space": space, "names": names, "ours": True}
    for name, (labels, space, ports) in STRANGERS.items():
        names = {str(p): p for p in ports}
        all_of[name] = {"labels": labels, "space": space, "names": names, "ours": False}
    for source, me in all_of.items():
        for target, server in all_of.items():
            if source == target or not (me["ours"] or server["ours"]):
                continue
            for port in sorted(set(server["names"].values())):
                if allows(policies, "Egress", me, server, server, port) and allows(
                        policies, "Ingress", server, me, server, port):
                    yield f"{source}>{target}:{port}"


def check_test(work):
    """Yields what keeps the pod of `helm test` from nodes where the release runs."""
    needs = lambda spec: (set((spec.get("nodeSelector") or {}).items()), spec.get("tolerations") or [])
    placed = [needs(pod_of(d)[1]) for d in work if not is_hook(d)]
    for doc in filter(is_hook, work):
        selector, tolerations = needs(doc["spec"])
        if not any(selector <= theirs and all(t in tolerations for t in tolerated) for theirs, tolerated in placed):
            yield f"Pod/{doc['metadata']['name']}: may run nowhere that the release does"


def main():
    docs = [d for d in yaml.safe_load_all(open(sys.argv[1])) if d]
    edges = sorted(set(reachability(docs)))
    if sys.argv[2] == "--print":
        return print(*edges, sep="\n")
    hpas = [d for d in docs if d["kind"] == "HorizontalPodAutoscaler"]
    work = [d for d in docs if d["kind"] in WORKLOADS]
    faults = [f"{d['kind']}/{d['metadata']['name']}: {fault}"
              for d in work for fault in check_pod(d, *pod_of(d), hpas)]
    faults += check_test(work)
    for account in (d for d in docs if d["kind"] == "ServiceAccount"):
        if account.get("automountServiceAccountToken") is not False:
            faults.append(f"ServiceAccount/{account['metadata']['name']}: mounts its token")
    for doc in docs:
        if "app.kubernetes.io/part-of" not in (doc["metadata"].get("labels") or {}):
            faults.append(f"{doc['kind']}/{doc['metadata']['name']}: has not the common labels")
    wanted = {line.strip() for line in open(sys.argv[2]) if line.strip() and not line.startswith("#")}
    faults += [f"can be reached, and should not: {e}" for e in edges if e not in wanted]
    faults += [f"cannot be reached, and should: {e}" for e in sorted(wanted - set(edges))]
    if not [d for d in work if not is_hook(d)]:
        faults.append("nothing was rendered")
    print(*faults, sep="\n", end="\n" if faults else "")
    return sys.exit(bool(faults))


if __name__ == "__main__":
    main()
