#!/usr/bin/env python3
"""Whether the trace panels of the dashboards ask for spans that the services send.

usage: traces.py

What is sent is read from the code: the spans that a service makes, with their attributes, and the calls
of the proto files. docs/traces.md has to list the same spans.
"""
import json
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).parents[2]
SERVICES = ("signer", "builder", "gateway", "consumer", "rpc-overlay", "payload-server", "validator-sidecar")
# Of every service: what the telemetry crate makes of warnings, and of requests.
EVERYWHERE = {"fault": set()}
SPAN = re.compile(r"\b(?:info|debug)_span!\s*\(((?:[^()]|\([^()]*\))*)\)", re.S)
# Where the chart says what a process is.
RESOURCE = re.compile(r'define "preconf.otelResource" -}}\n(.*)')


def made(service):
    """The spans of a service: name and attributes."""
    spans = dict(EVERYWHERE)
    for path in sorted((ROOT / "services" / service / "src").rglob("*.rs")):
        if path.stem == "tests" or "tests" in path.parts:
            continue
        code = path.read_text().split("#[cfg(test)]\nmod tests {")[0]
        for body in SPAN.findall(code):
            parts = [part.strip() for part in body.split(",")]
            parts = [part for part in parts if part and not part.startswith("parent:")]
            names = [re.match(r"[%?]?([a-z_.]+)", part).group(1) for part in parts[1:]]
            spans[parts[0].strip('"')] = {name for name in names if not name.startswith("otel.")}
    return spans


def calls():
    """The names of calls over gRPC."""
    for path in (ROOT / "proto").rglob("*.proto"):
        text = path.read_text()
        package = re.search(r"^package ([a-z0-9.]+);", text, re.M).group(1)
        for service, body in re.findall(r"^service (\w+) \{(.*?)^\}", text, re.M | re.S):
            for method in re.findall(r"^\s*rpc (\w+)", body, re.M):
                yield f"{package}.{service}/{method}"


def documented():
    """The spans of docs/traces.md, by service."""
    rows = re.findall(r"^\| ([a-z-]+) \| `([^`]+)` \| [^|]* \|([^|]*)\|", (ROOT / "docs/traces.md").read_text(), re.M)
    return {(service, span): set(re.findall(r"`([^`]+)`", attributes)) for service, span, attributes in rows}


def asked():
    """Yields (where, TraceQL)."""
    for path in sorted((ROOT / "deploy/k8s/preconf/files/dashboards").glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel["targets"]:
                if target.get("queryType") == "traceql":
                    yield f"{path.name}: {panel['title']}", target["query"]


def resources():
    """The attributes that all spans of a process have."""
    listed = RESOURCE.search((ROOT / "deploy/k8s/preconf/templates/_pod.tpl").read_text()).group(1)
    return {"resource.service.name"} | {f"resource.{name}" for name in re.findall(r"([a-z0-9.]+)=", listed)}


def wrong(query, spans, methods):
    """Yields what a query asks for in vain."""
    matched = [s for pattern in re.findall(r'service\.name=~?"([^"]+)"', query) for s in SERVICES
               if re.fullmatch(pattern, s) and re.fullmatch(pattern, f"preconf-{s}")]
    if not matched:
        yield "no service"
    known = {name for service in matched for name in spans[service]} | methods
    for pattern in re.findall(r'(?<![.\w])name\s*=~?\s*"([^"]+)"', query):
        found = {name for name in known if re.fullmatch(pattern, name)}
        if not found and not re.fullmatch(r"(eth|debug)_\w+", pattern):
            yield f"no span {pattern}"
        for attribute in re.findall(r"\bspan\.([\w.]+)", query):
            if not any(attribute in spans[s].get(name, ()) for s in matched for name in found):
                yield f"no attribute {attribute} of {pattern}"
    for field in re.findall(r"\b((?:resource\.)[\w.]+)", query):
        if field not in resources():
            yield f"no {field}"


def main():
    spans, methods = {service: made(service) for service in SERVICES}, set(calls())
    queries = list(asked())
    faults = [f"{where}: there is {fault}" for where, query in queries for fault in wrong(query, spans, methods)]
    code = {(service, name): attributes for service in SERVICES for name, attributes in spans[service].items()
            if name not in EVERYWHERE and name != "rpc"}
    listed = documented()
    for key in sorted(code.keys() | listed.keys()):
        if code.get(key) != listed.get(key):
            faults.append(f"docs/traces.md: {' '.join(key)}: {listed.get(key)}, in the code {code.get(key)}")
    if not queries or not code:
        faults.append("nothing was compared")
    print(*faults, sep="\n", end="\n" if faults else "")
    sys.exit(bool(faults))


main()
