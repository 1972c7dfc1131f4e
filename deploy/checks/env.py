#!/usr/bin/env python3
"""Whether the environment that the chart gives each component is a configuration that it takes.

usage: env.py BINARIES RENDERED...

Runs the services themselves, with the rendered variables and with files of the expected form in place
of the mounts. The port for health is taken already, so that a service which finds everything in order
ends when it opens its first socket, and not before. A variable that the service does not know is an
error too: nobody would notice that it does nothing.
"""
import base64
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import tempfile

import yaml

PUBKEY = "0x97f1d3a73197d7942695638c4fa9ac0fc3688c4f9774b905a14e3a3f171bac586c55e83ff97a1aeffb3af00adb22c6bb"
GENESIS = {
    "config": {"chainId": 1337, "terminalTotalDifficulty": 0, "shanghaiTime": 0, "cancunTime": 0,
               **{f"{fork}Block": 0 for fork in ("homestead", "eip150", "eip155", "eip158", "byzantium",
                  "constantinople", "petersburg", "istanbul", "berlin", "london")}},
    "difficulty": "0x0", "gasLimit": "0x1c9c380", "timestamp": "0x0", "extraData": "0x", "alloc": {},
}
CONTENTS = {
    "genesis.json": json.dumps(GENESIS),
    "jwt": "0x" + "11" * 32,
    "key": "0x" + "00" * 31 + "01",
    "flashblock-signing-key": "0x" + "00" * 31 + "01",
    "whitelist.json": json.dumps([PUBKEY]),
    "validator-jwts.json": json.dumps({PUBKEY: "0x" + "22" * 32}),
    "sequencer-jwt": "0x" + "33" * 32,
}


def variables(doc):
    """The variables of a workload's only container, as far as they have values here."""
    entries = doc["spec"]["template"]["spec"]["containers"][0]["env"]
    return {e["name"]: e["value"] for e in entries if "value" in e}


def with_files(env, folder, certificate):
    """The same, with paths in `folder`, where the files are."""
    moved = {}
    for name, value in env.items():
        if value.startswith(("/etc/preconf/", "/var/lib/preconf/")):
            path = folder / value.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            content = certificate.get(path.name) or CONTENTS.get(path.name)
            if content:
                path.write_text(content)
                path.chmod(0o400)
            value = str(path)
        moved[name] = value
    return moved


def fault(binary, env, folder, certificate, taken):
    """What the service says against its environment, or None."""
    usage = subprocess.run([binary, "--help"], capture_output=True, text=True, timeout=30, env={}).stdout
    known = set(re.findall(r"\[env: ([A-Z0-9_]+)=", usage))
    strange = sorted(n for n in env if n not in known and not n.startswith("OTEL_") and n != "TZ")
    if strange:
        return f"does not know {', '.join(strange)}"
    moved = with_files(env, folder, certificate) | {"PRECONF_HEALTH_ADDR": taken}
    moved.pop("OTEL_EXPORTER_OTLP_ENDPOINT", None)
    try:
        ran = subprocess.run([binary], capture_output=True, text=True, timeout=30, env=moved)
    except subprocess.TimeoutExpired:
        return "went on although its health port was taken"
    last = (ran.stderr.strip().splitlines() or [""])[-1]
    return None if ran.returncode == 1 and f"binding http://{taken}" in last else f"exit {ran.returncode}: {last}"


def certificate_of(paths):
    """A certificate that Helm made, in one of the renders."""
    for doc in (d for path in paths for d in yaml.safe_load_all(open(path)) if d):
        if doc["kind"] == "Secret" and doc.get("type") == "kubernetes.io/tls":
            return {name: base64.b64decode(data).decode() for name, data in doc["data"].items()}
    sys.exit("none of the renders holds a certificate")


def main():
    binaries, paths = pathlib.Path(sys.argv[1]), sys.argv[2:]
    certificate = certificate_of(paths)
    faults, checked, missing = [], 0, set()
    with socket.socket() as listener, tempfile.TemporaryDirectory() as scratch:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        taken = f"127.0.0.1:{listener.getsockname()[1]}"
        for path in paths:
            for doc in (d for d in yaml.safe_load_all(open(path)) if d and d["kind"] in ("Deployment", "StatefulSet")):
                component = doc["metadata"]["labels"].get("app.kubernetes.io/component")
                if not component:
                    continue  # An execution client beside the release.
                binary = binaries / f"preconf-{component}"
                if not os.access(binary, os.X_OK):
                    missing.add(str(binary))
                    continue
                folder = pathlib.Path(tempfile.mkdtemp(dir=scratch))
                complaint = fault(binary, variables(doc), folder, certificate, taken)
                faults += [f"{path}: {component}: {complaint}"] if complaint else []
                checked += 1
    faults += [f"{binary} is not there" for binary in sorted(missing)]
    print(*faults, f"{checked} environments were tried", sep="\n")
    sys.exit(bool(faults) or not checked)


main()
