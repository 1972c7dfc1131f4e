#!/usr/bin/env python3
"""Renders the values that the documentation shows.

usage: snippets.py HELM OUT

Each ```yaml block of the documentation is values for the chart: it is rendered on top of ci/base.yaml into
the folder OUT, where the other checks find it. `0x…` stands for a public key. What one block calls over
mutual TLS at a name outside the cluster, another has to have in a certificate.
"""
import pathlib
import re
import subprocess
import sys

import yaml

ROOT = pathlib.Path(__file__).parents[2]
CHART = ROOT / "deploy/k8s/preconf"
PUBKEY = yaml.safe_load((CHART / "ci/base.yaml").read_text())["chain"]["sequencerPublicKeys"][0]
# The variables that name a peer of ours.
PEERS = {f"PRECONF_{name}" for name in ("SIGNER", "UPSTREAM", "FLASHBLOCKS_URL", "PENDING", "INGRESS", "BUILDER_PAYLOADS")}


class Once(yaml.SafeLoader):
    """Refuses a key that is there twice, of which Helm would take the last."""

    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value]
        for key in {key for key in keys if keys.count(key) > 1}:
            raise yaml.constructor.ConstructorError(None, None, f"{key} is there twice", node.start_mark)
        return super().construct_mapping(node, deep)


def render(helm, block):
    """What the values render to, and what Helm has against them."""
    try:
        yaml.load(block, Once)
    except yaml.YAMLError as error:
        return "", str(error)
    command = [helm, "template", "r", CHART, "-n", "preconf", "-f", CHART / "ci/base.yaml", "-f", "-"]
    ran = subprocess.run(command, input=block, capture_output=True, text=True, timeout=60)
    return ran.stdout, ran.stderr if ran.returncode else ""


def calls(docs):
    """The hosts outside the cluster that are called over mutual TLS."""
    for doc in (d for d in docs if d["kind"] in ("Deployment", "StatefulSet")):
        for entry in doc["spec"]["template"]["spec"]["containers"][0].get("env") or []:
            host = re.match(r"https://([^:/]+)", entry.get("value", "")) if entry["name"] in PEERS else None
            if host and not host[1].endswith(".svc"):
                yield host[1]


def main():
    helm, out = sys.argv[1], pathlib.Path(sys.argv[2])
    blocks = "|".join(yaml.safe_load((CHART / "values.yaml").read_text()))
    faults, count, called, certified = [], 0, set(), set()
    for path in sorted((ROOT / "docs").rglob("*.md")):
        text = path.read_text()
        if re.search(rf"\n\n    (?:{blocks}):", text):
            faults.append(f"{path.relative_to(ROOT)} shows values outside of a ```yaml block, where nobody tries them")
        for number, block in enumerate(re.findall(r"^```yaml\n(.*?)^```$", text, re.M | re.S), 1):
            count += 1
            rendered, fault = render(helm, block.replace("0x…", PUBKEY))
            (out / f"{path.stem}-{number}.yaml").write_text(rendered)
            if fault:
                faults.append(f"{path.relative_to(ROOT)}, values {number}: {' '.join(fault.split())}")
            docs = [doc for doc in yaml.safe_load_all(rendered) if doc]
            called.update(calls(docs))
            certified.update(name for doc in docs if doc["kind"] == "Certificate" for name in doc["spec"].get("dnsNames", []))
    faults += [f"the documentation calls {host}, which is in no certificate that it shows" for host in sorted(called - certified)]
    print(*faults, sep="\n", end="\n" if faults else "")
    sys.exit(bool(faults) or not count)


main()
