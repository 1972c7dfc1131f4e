#!/usr/bin/env python3
"""Whether every metric that an alert, a dashboard or an autoscaler asks for is there, with its labels.

usage: metrics.py

What is ours is read from docs/metrics.md, which a test compares with what the services register; what a
scrape adds, from the golden ServiceMonitor. Alerts also need a runbook each, and runbooks an alert.
"""
import json
import pathlib
import re
import sys
import textwrap

import yaml

import promql

ROOT = pathlib.Path(__file__).parents[2]
CHART = ROOT / "deploy/k8s/preconf"
GOLDEN = CHART / "golden/full.yaml"
# Of others, which alerts and dashboards may ask for too: name and labels.
FOREIGN = {
    **dict.fromkeys(("kube_horizontalpodautoscaler_status_current_replicas", "kube_horizontalpodautoscaler_spec_max_replicas"),
                    {"namespace", "horizontalpodautoscaler"}),
    **dict.fromkeys(("certmanager_certificate_expiration_timestamp_seconds", "certmanager_certificate_renewal_timestamp_seconds"),
                    {"namespace", "name"}),
    "container_cpu_usage_seconds_total": {"namespace", "pod", "container"},
}
HISTOGRAM = {"_bucket": {"le"}, "_sum": set(), "_count": set()}
METRIC = re.compile(r"\b(?:preconf|kube|certmanager|container|process)_[a-z0-9_]+|\bup\b")
SELECTOR = re.compile(r"([a-z_:][a-z0-9_:]*)?\{([^{}]*)\}")
MATCHER = re.compile(r'(\w+) *(=~|!~|!=|=) *"([^"]*)"')


def target_labels():
    """The labels of what is scraped, by label: where it is from. Two the operator sets by itself."""
    monitor = next(d for d in yaml.safe_load_all(GOLDEN.read_text()) if d["kind"] == "ServiceMonitor")["spec"]
    sources = {r["targetLabel"]: r["sourceLabels"] for r in monitor["endpoints"][0]["relabelings"]}
    return {"namespace": ["__meta_kubernetes_namespace"], "pod": ["__meta_kubernetes_pod_name"], **sources}


def documented_scrape():
    """The same of the scrape configuration that is shown to those without the operator."""
    shown = re.search(r"^    scrape_configs:\n(?:      .*\n)+", (ROOT / "docs/operations.md").read_text(), re.M).group()
    relabelings = yaml.safe_load(textwrap.dedent(shown))["scrape_configs"][0]["relabel_configs"]
    return {r["target_label"]: r["source_labels"] for r in relabelings if "target_label" in r}


def known():
    """The metrics that there are and their labels, as they are scraped."""
    target = set(target_labels())
    metrics = {"up": target, **FOREIGN}
    row = r"^\| `(preconf_[a-z0-9_]+)` \| (\w+) \| [^|]* \| ([^|]*) \|"
    for name, kind, labels in re.findall(row, (ROOT / "docs/metrics.md").read_text(), re.M):
        own = target | set(re.findall(r"`(\w+)`", labels))
        metrics |= {name + end: own | more for end, more in HISTOGRAM.items()} if kind == "histogram" else {name: own}
    return metrics


def wrong(expr, metrics):
    """Yields what an expression asks for in vain."""
    labels = set()
    for name in METRIC.findall(re.sub(r'"[^"]*"', "", expr)):
        labels |= metrics.get(name, set())
        if name not in metrics:
            yield f"metric {name}"
    for name, inner in SELECTOR.findall(expr):
        matchers = MATCHER.findall(inner)
        names = re.compile(next((value for label, _, value in matchers if label == "__name__"), re.escape(name)))
        found = [own for metric, own in metrics.items() if names.fullmatch(metric)]
        labels = labels.union(*found)
        if not found:
            yield f"metric {names.pattern}"
        for label in {label for label, _, _ in matchers} - {"__name__"}:
            if not any(label in own for own in found):
                yield f"label {label} of {names.pattern}"
    for listed in re.findall(r"\b(?:by|without|on|ignoring|group_left|group_right) *\(([^()]*)\)", expr):
        for label in set(re.findall(r"\w+", listed)) - labels:
            yield f"label {label} of what {listed} is to be told of"


def asked():
    """The expressions: (where, PromQL)."""
    expressions = []
    for path in sorted((CHART / "files/rules").glob("*.yaml")):
        for group in yaml.safe_load(path.read_text())["groups"]:
            expressions += [(f"{path.name}: {rule['alert']}", rule["expr"]) for rule in group["rules"]]
    expressions += [(where, text) for where, text, is_promql, _ in [*promql.panels(), *promql.from_traces(GOLDEN)] if is_promql]
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    for component, block in values.items():
        scaling = block.get("autoscaling") if isinstance(block, dict) else None
        expressions += [(f"values.yaml: {component}", name) for name in (scaling or {}).get("podMetrics") or {}]
    return expressions


def runbooks():
    """Yields what is wrong between alerts and their runbooks."""
    folder, named = ROOT / "docs/runbooks", {}
    for path in sorted((CHART / "files/rules").glob("*.yaml")):
        tested = (CHART / "tests/rules" / path.name).read_text()
        for rule in (r for g in yaml.safe_load(path.read_text())["groups"] for r in g["rules"]):
            alert, runbook = rule["alert"], rule["annotations"]["runbook"]
            named.setdefault(runbook, []).append(alert)
            # The longest interval of scrapes that the chart accepts is 15s.
            if windows := [w for w in re.findall(r"\[(\d+)s\]", rule["expr"]) if int(w) < 60]:
                yield f"{alert} looks at {windows[0]} s, which is less than four scrapes"
            for told in re.findall(r"\(([^()]*\bnamespace\b[^()]*)\)", re.sub(r"\{[^}]*\}", "", rule["expr"])):
                if "release" not in told:
                    yield f"{alert} tells by {told}, which is all releases of a namespace together"
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
    metrics = known()
    faults = [f"{where}: there is no {fault}" for where, expr in asked() for fault in wrong(expr, metrics)]
    if documented_scrape() != target_labels():
        faults.append("docs/operations.md scrapes with other labels than the ServiceMonitor")
    boards = [json.loads(p.read_text()) for p in (CHART / "files/dashboards").glob("*.json")]
    if len({b["uid"] for b in boards}) != len(boards):
        faults.append("two dashboards have one uid")
    faults += runbooks()
    print(*dict.fromkeys(faults), sep="\n", end="\n" if faults else "")
    sys.exit(bool(faults))


main()
