#!/usr/bin/env python3
"""Whether every metric that an alert, a dashboard or an autoscaler asks for is one of ours.

usage: metrics.py

What is ours is read from docs/metrics.md, which a test compares with what the services register. Alerts also need a runbook each, and runbooks an alert or a place in operations.md.
"""
import json
import pathlib
import re
import sys

import yaml

ROOT = pathlib.Path(__file__).parents[2]
CHART = ROOT / "deploy/k8s/preconf"
# Of others, which alerts and dashboards may ask for too.
FOREIGN = {"up", "kube_horizontalpodautoscaler_status_current_replicas",
           "kube_horizontalpodautoscaler_spec_max_replicas", "certmanager_certificate_expiration_timestamp_seconds"}
HISTOGRAM = ("_bucket", "_sum", "_count")


def known():
    """Names as they are scraped, from the list that the code writes."""
    names = set()
    for name, kind in re.findall(r"^\| `(preconf_[a-z0-9_]+)` \| (\w+) ", (ROOT / "docs/metrics.md").read_text(), re.M):
        names |= {name + suffix for suffix in HISTOGRAM} if kind == "histogram" else {name}
    return names


def asked():
    """Yields (where, name)."""
    expressions = []
    for path in sorted((CHART / "files/rules").glob("*.yaml")):
        for group in yaml.safe_load(path.read_text())["groups"]:
            expressions += [(f"{path.name}: {rule['alert']}", rule["expr"]) for rule in group["rules"]]
    for path in sorted((CHART / "files/dashboards").glob("*.json")):
        board = json.loads(path.read_text())
        for panel in board["panels"]:
            expressions += [(f"{path.name}: {panel['title']}", t["expr"]) for t in panel["targets"] if "expr" in t]
        expressions += [(path.name, v["query"]) for v in board["templating"]["list"] if v["type"] == "query"]
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    for component, block in values.items():
        scaling = block.get("autoscaling") if isinstance(block, dict) else None
        expressions += [(f"values.yaml: {component}", name) for name in (scaling or {}).get("podMetrics") or {}]
    for where, text in expressions:
        without = re.sub(r'=~?"[^"]*"', "", text) if '__name__' not in text else text
        for name in re.findall(r"\b(?:preconf|kube|certmanager|container|process)_[a-z0-9_]+|\bup\b", without):
            yield where, name


def runbooks():
    """Yields what is wrong between alerts and their runbooks."""
    folder, named = ROOT / "docs/runbooks", {}
    for path in sorted((CHART / "files/rules").glob("*.yaml")):
        tested = (CHART / "tests/rules" / path.name).read_text()
        for rule in (r for g in yaml.safe_load(path.read_text())["groups"] for r in g["rules"]):
            alert, runbook = rule["alert"], rule["annotations"]["runbook"]
            named.setdefault(runbook, []).append(alert)
            if f'alertname="{alert}"' not in tested:
                yield f"{alert} has no test"
            if not (folder / runbook).exists():
                yield f"{alert}: there is no docs/runbooks/{runbook}"
            elif alert not in (folder / runbook).read_text():
                yield f"docs/runbooks/{runbook} does not name {alert}"
    for path in folder.glob("*.md"):
        if path.name not in named and path.name != "README.md":
            yield f"docs/runbooks/{path.name} belongs to no alert"


def main():
    ours = known() | FOREIGN
    faults = [f"{where}: there is no metric {name}" for where, name in asked()
              if name not in ours and not name.startswith("preconf_.")]
    boards = [json.loads(p.read_text()) for p in (CHART / "files/dashboards").glob("*.json")]
    if len({b["uid"] for b in boards}) != len(boards):
        faults.append("two dashboards have one uid")
    faults += runbooks()
    print(*dict.fromkeys(faults), sep="\n", end="\n" if faults else "")
    sys.exit(bool(faults))


main()
