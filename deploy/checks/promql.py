#!/usr/bin/env python3
"""Has Prometheus parse every query that Grafana is given, with its variables replaced.

usage: promql.py RENDERED OUT      RENDERED: a release with its datasources

Writes all of them as rules into the file OUT, for promtool: of panels, of variables, and from traces to
metrics. Those for Loki are not PromQL; their variables are looked for too.
"""
import json
import pathlib
import re
import sys

import yaml

DASHBOARDS = pathlib.Path(__file__).parents[1] / "k8s/preconf/files/dashboards"
# What Grafana has by itself.
BUILT_IN = {"__rate_interval": "1m"}
VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
# What a variable's query asks for.
VALUES = re.compile(r"label_values\((.+), *[a-z_]+\)")


def panels():
    """Yields (where, text, whether it is PromQL, the variables that there are)."""
    for path in sorted(DASHBOARDS.glob("*.json")):
        board = json.loads(path.read_text())
        known = {v["name"] for v in board["templating"]["list"]}
        for variable in board["templating"]["list"]:
            if variable["type"] == "query":
                found = VALUES.fullmatch(variable["query"])
                yield f"{path.name}: ${variable['name']}", found.group(1) if found else variable["query"], True, known
        for panel in board["panels"]:
            for target in panel["targets"]:
                text = target.get("expr") or target.get("query") or ""
                where = f"{path.name}: {panel['title']}, {target['refId']}"
                yield where, text, target["datasource"]["type"] == "prometheus", known


def from_traces(path):
    """Yields the same for the queries that lead from a span to metrics."""
    for doc in yaml.safe_load_all(open(path)):
        if doc and doc["kind"] == "ConfigMap" and doc["metadata"]["name"].endswith("-datasources"):
            # Grafana replaces variables of its environment in these files: $$ is a dollar.
            for source in yaml.safe_load(doc["data"]["preconf.yaml"].replace("$$", "$"))["datasources"]:
                link = source["jsonData"].get("tracesToMetrics", {})
                tags = ",".join(f'{tag["value"]}="x"' for tag in link.get("tags", []))
                for query in link.get("queries", []):
                    text = query["query"].replace("$__tags", tags)
                    yield f"datasources: {source['name']}, {query['name']}", text, True, set()


def replaced(text, known):
    """A query as Grafana would send it, and the variables in it that nobody has."""
    used = {braced or bare for braced, bare in VARIABLE.findall(text)}
    value = lambda found: BUILT_IN.get(found.group(1) or found.group(2), "x")
    return VARIABLE.sub(value, text), sorted(used - known - BUILT_IN.keys())


def main():
    rules, faults = [], []
    for where, text, is_promql, known in [*panels(), *from_traces(sys.argv[1])]:
        query, unknown = replaced(text, known)
        faults += [f"{where}: there is no variable ${name}" for name in unknown]
        if is_promql:
            rules.append({"alert": where, "expr": query})
    for least, of in ((3, ": $"), (50, ""), (1, "datasources: ")):
        if len([rule for rule in rules if of in rule["alert"]]) < least:
            faults.append(f"fewer than {least} queries were found ({of or 'all'})")
    pathlib.Path(sys.argv[2]).write_text(yaml.safe_dump({"groups": [{"name": "grafana", "rules": rules}]}))
    print(*faults, sep="\n", end="\n" if faults else "")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
