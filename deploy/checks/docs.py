#!/usr/bin/env python3
"""Whether what the documentation names exists: flags, variables, metrics, alerts, values, files, links.

usage: docs.py BINARIES

Flags and variables are those that the programs in BINARIES list in their help. What belongs to programs
of others is listed here, so that a flag of ours that is misspelt or gone is found.
"""
import pathlib
import re
import subprocess
import sys

import yaml

ROOT = pathlib.Path(__file__).parents[2]
CHART = ROOT / "deploy/k8s/preconf"
SERVICES = ("signer", "builder", "gateway", "consumer", "rpc-overlay", "payload-server", "validator-sidecar")
TOOLS = (["preconf-builder", "passthrough"], ["devnet"], ["devnet", "node"], ["preconf-monitor"], ["conformance"])
# What the documentation says of programs that are not ours, by program.
FOREIGN = {
    "bera-reth, reth": "http http.addr http.api ws ws.addr ws.api authrpc.addr authrpc.port authrpc.jwtsecret "
                       "builder.deadline sequencer-enabled engine.always-process-payload-attributes-on-canonical-head "
                       "engine.allow-unwind-canonical-header rpc.eth-proof-window",
    "beacon-kit": "beacon-kit.engine.rpc-dial-url beacon-kit.engine.jwt-secret-path beacon-kit.payload-builder.enabled "
                  "beacon-kit.preconf.enabled beacon-kit.preconf.sequencer-mode beacon-kit.preconf.whitelist-path "
                  "beacon-kit.preconf.validator-jwts-path beacon-kit.preconf.api-port "
                  "beacon-kit.preconf.fetch-timeout beacon-kit.preconf.sequencer-url "
                  "beacon-kit.preconf.sequencer-jwt-path beacon-kit.preconf.sequencer-ca-cert-path",
    "other consensus clients": "always-prepare-payload prepare-all-payloads prepare-payload-lookahead emit features",
    "cargo; preconf-bench, which no test builds": "release workspace bin fuzz-dir rounds",
    "docker": "load rm tmpfs provenance sbom",
    "kubectl, helm, kind": "create-namespace wait force from-file install set set-file image previous show-only profile target replicas reuse-values reset-then-reuse-values dry-run cascade",
    "prometheus": "enable-feature",
    "deploy/check, deploy/check-containers": "write alerts",
}
# A metric of bera-reth.
OF_OTHERS = {"preconf_rpc_state_lookup_total"}
# Those that OpenTelemetry's SDK reads by itself.
VARIABLES = {f"OTEL_{name}" for name in (
    "BSP_MAX_EXPORT_BATCH_SIZE", "EXPORTER_OTLP_HEADERS", "EXPORTER_OTLP_TIMEOUT", "SPAN_ATTRIBUTE_COUNT_LIMIT",
    "SPAN_EVENT_COUNT_LIMIT", "SPAN_LINK_COUNT_LIMIT")}


def usage(binaries, command):
    binary = binaries / command[0]
    if not binary.exists():
        sys.exit(f"{binary} is not there")
    return subprocess.run([binary, *command[1:], "--help"], capture_output=True, text=True, timeout=30, env={}).stdout


def flags_of(text):
    return set(re.findall(r"--([a-z][a-z0-9.-]*[a-z0-9])", text))


def slug(heading):
    """The anchor of a heading, as GitHub makes it."""
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower().replace("`", "")
    return re.sub(r"[^\w\- ]", "", text).strip().replace(" ", "-")


def links(path, text):
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        found = (path.parent / file).resolve() if file else path
        if not found.exists():
            yield f"links to {target}"
        elif anchor and anchor not in map(slug, re.findall(r"^#+ (.*)$", found.read_text(), re.M)):
            yield f"links to {target}, which has no such heading"


def files(path, text):
    for name in re.findall(r"`((?:\.ci|crates|services|deploy|devnet|docs|proto|tests|bench|ci|files|golden)/[\w./*-]+)`", text):
        if not any(list(base.glob(name.rstrip("/"))) for base in (ROOT, CHART, path.parent)):
            yield f"names the file {name}"


def has(tree, keys):
    """Whether a value is there; below an empty map anything may be."""
    for key in keys:
        if not isinstance(tree, dict) or (tree and key not in tree):
            return False
        tree = tree.get(key, {})
    return True


def values(text, tree):
    for name in re.findall(r"`([a-z][A-Za-z]+(?:\.[a-zA-Z]+)+)[`:]", text):
        keys = name.split(".")
        # A component has the defaults too.
        found = has(tree, keys) or has(tree["defaults"], keys) or has(tree["defaults"], keys[1:])
        if keys[0] in tree and not found and not name.startswith(("tls.crt", "tls.key")):
            yield f"names the value {name}"


def main():
    binaries = pathlib.Path(sys.argv[1])
    helps = {service: usage(binaries, [f"preconf-{service}"]) for service in SERVICES}
    said = "".join(helps.values()) + "".join(usage(binaries, command) for command in TOOLS)
    flags = flags_of(said) | {"help", "version"}
    flags |= {flag for listed in FOREIGN.values() for flag in listed.split()}
    variables = VARIABLES | set(re.findall(r"\[env: ([A-Z0-9_]+)=", said))
    sources = [p for p in ROOT.rglob("*.rs") if "target" not in p.relative_to(ROOT).parts]
    sources += [ROOT / ".ci/run", ROOT / ".ci/full", ROOT / "deploy/images/Dockerfile", CHART / "templates/_pod.tpl"]
    variables |= set(re.findall(r"\b(?:PRECONF|OTEL)_[A-Z0-9_]+", "".join(p.read_text() for p in sources)))
    metrics = set(re.findall(r"^\| `(preconf_[a-z0-9_]+)`", (ROOT / "docs/metrics.md").read_text(), re.M))
    alerts = set(re.findall(r"alert: (\w+)", "".join(p.read_text() for p in CHART.glob("files/rules/*.yaml"))))
    tree = yaml.safe_load((CHART / "values.yaml").read_text())
    faults, documents = [], [ROOT / "README.md", ROOT / "ARCHITECTURE.md", CHART / "README.md", *(ROOT / "docs").rglob("*.md")]
    for path in sorted(documents):
        text = path.read_text()
        found = [f"names the flag --{flag}" for flag in sorted(flags_of(text) - flags)]
        for service, row in re.findall(r"^\| `preconf-([a-z-]+)` \|(.*)", text, re.M):
            found += [f"names the flag --{flag} of {service}" for flag in sorted(flags_of(row) - flags_of(helps[service]))]
        found += [f"names the variable {name}" for name in sorted(set(re.findall(r"\b(?:PRECONF|OTEL)_[A-Z0-9_]+\b(?!_)", text)) - variables)]
        for name in sorted(set(re.findall(r"\bpreconf_[a-z0-9_]+[a-z0-9]\b", text))):
            series = re.sub(r"_(bucket|sum|count)$", "", name)
            if not {name, series} & metrics and name not in OF_OTHERS:
                found.append(f"names the metric {name}")
        found += [f"names the alert {name}" for name in sorted(set(re.findall(r"\bPreconf[A-Z]\w+", text)) - alerts)]
        found += [*links(path, text), *files(path, text), *values(text, tree)]
        faults += [f"{path.relative_to(ROOT)} {fault}, which does not exist" for fault in dict.fromkeys(found)]
    print(*faults, sep="\n", end="\n" if faults else "")
    sys.exit(bool(faults))


main()
