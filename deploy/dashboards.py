#!/usr/bin/env python3
"""Writes the Grafana dashboards of the chart.

usage: dashboards.py           writes k8s/preconf/files/dashboards/*.json
       dashboards.py --check   exit 1 if they are not what would be written

Dashboards are long and repeat themselves; this is the short form. Every dashboard has a variable for
the datasources, the namespace, the release and the pod; every graph of a histogram shows exemplars, which lead to
the trace; every one ends with the traces of its services, what went wrong in them, and what the logs say of that.
checks/traces.py compares what the trace panels ask for with the spans in the code, checks/promql.py has
Prometheus parse every query.
"""
import json
import pathlib
import sys

TARGET = pathlib.Path(__file__).parent / "k8s/preconf/files/dashboards"
SCOPE = 'namespace="$namespace",release=~"$release",pod=~"$pod"'
SECONDS, RATE, SHARE, COUNT, BYTES = "s", "cps", "percentunit", "short", "bytes"


def rate(metric, by="", where=""):
    """A counter per second."""
    inner = f"rate({metric}{{{SCOPE}{',' + where if where else ''}}}[$__rate_interval])"
    return f"sum by ({by}) ({inner})" if by else f"sum({inner})"


def quantiles(metric, where=""):
    """Median and the slowest hundredth of a histogram."""
    buckets = f"sum by (le) (rate({metric}_bucket{{{SCOPE}{',' + where if where else ''}}}[$__rate_interval]))"
    return [(f"histogram_quantile({q}, {buckets})", name) for q, name in ((0.5, "p50"), (0.99, "p99"))]


def gauge(metric, by="pod", how="max"):
    return f"{how} by ({by}) ({metric}{{{SCOPE}}})"


def age(metric, by="pod"):
    """How long ago a time was when it was scraped: time() would add the age of the scrape."""
    return f"max by ({by}) (timestamp({metric}{{{SCOPE}}}) - {metric}{{{SCOPE}}})"


def graph(title, unit, *queries, text=""):
    """A panel with lines; a query is PromQL, or PromQL and its legend."""
    pairs = [q if isinstance(q, tuple) else (q, "__auto") for q in queries]
    targets = [
        {"refId": chr(65 + i), "expr": expr, "legendFormat": legend, "exemplar": "_bucket{" in expr,
         "datasource": {"type": "prometheus", "uid": "${datasource}"}}
        for i, (expr, legend) in enumerate(pairs)
    ]
    return {"type": "timeseries", "title": title, "description": text, "targets": targets,
            "datasource": {"type": "prometheus", "uid": "${datasource}"},
            "fieldConfig": {"defaults": {"unit": unit, "min": 0, "custom": {"fillOpacity": 8, "showPoints": "never"}},
                            "overrides": []},
            "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}}}


def number(title, unit, expr, text="", steps=()):
    """A panel with one number; steps are (from, colour)."""
    thresholds = [{"color": "green", "value": None}] + [{"color": c, "value": v} for v, c in steps]
    return {"type": "stat", "title": title, "description": text,
            "datasource": {"type": "prometheus", "uid": "${datasource}"},
            "targets": [{"refId": "A", "expr": expr, "datasource": {"type": "prometheus", "uid": "${datasource}"}}],
            "fieldConfig": {"defaults": {"unit": unit, "thresholds": {"mode": "absolute", "steps": thresholds}},
                            "overrides": []},
            "options": {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value", "graphMode": "area"}}


def traces(service, title, wanted, text=""):
    """A panel with a table of the newest traces that hold a wanted span of a service."""
    own = (f'resource.service.name=~"(preconf-)?{service}" && resource.k8s.namespace.name="$namespace"'
           ' && resource.service.namespace=~"$release"')
    query = f"{{{own} && {wanted}}}"
    return {"type": "table", "title": f"Traces of {service}: {title}", "description": text,
            "datasource": {"type": "tempo", "uid": "${tempo}"},
            "targets": [{"refId": "A", "queryType": "traceql", "query": query, "limit": 20, "tableType": "traces",
                         "datasource": {"type": "tempo", "uid": "${tempo}"}}],
            "fieldConfig": {"defaults": {}, "overrides": []}, "options": {}}


def service_map():
    return {"type": "nodeGraph", "title": "Who calls whom", "datasource": {"type": "tempo", "uid": "${tempo}"},
            "targets": [{"refId": "A", "queryType": "serviceMap", "datasource": {"type": "tempo", "uid": "${tempo}"}}],
            "fieldConfig": {"defaults": {}, "overrides": []}, "options": {}}


def logs():
    """The log lines of warnings and errors, which lead to their traces."""
    loki = {"type": "loki", "uid": "${loki}"}
    wanted = '{namespace="$namespace",pod=~"$pod"} |~ "WARN|ERROR"'
    return {"type": "logs", "title": "Warnings and errors", "datasource": loki,
            "targets": [{"refId": "A", "expr": wanted, "queryType": "range", "datasource": loki}],
            "fieldConfig": {"defaults": {}, "overrides": []},
            "options": {"showTime": True, "wrapLogMessage": True, "enableLogDetails": True, "sortOrder": "Descending"}}


# By service: what a panel is called, and which spans it wants.
TRACES = {
    "builder": [
        ("newest blocks", 'name="build"', "From the wish for a block to the head that it became."),
        ("blocks that were not sealed", 'name="build" && span.end!="sealed"'),
        ("slow flashblocks", 'name="flashblock" && duration > 20ms'),
        ("slow answers", '(name="seal" || name="getPayload") && duration > 200ms'),
    ],
    "signer": [
        ("newest signatures", 'name="preconf.signer.v1.Signer/Sign"'),
        ("slow calls", 'name=~"preconf.signer.v1.Signer/.*" && duration > 10ms'),
    ],
    "gateway": [
        ("newest messages", 'name="fanout"', "One span for each message, however many readers."),
        ("slow messages", 'name="fanout" && duration > 20ms'),
    ],
    "consumer": [
        ("newest flashblocks", 'name="execute"'),
        ("slow flashblocks", 'name="execute" && duration > 100ms'),
    ],
    "rpc-overlay": [
        ("newest transactions", 'name="eth_sendRawTransaction"'),
        ("transactions to their receipts", 'name="receipt served"'),
        ("slow snapshots", 'name="snapshot" && duration > 50ms'),
        ("slow requests", 'kind=server && duration > 200ms'),
    ],
    "payload-server": [
        ("newest requests", 'name="payload"'),
        ("requests without a payload", 'name="payload" && span.result!="ok"'),
    ],
    "validator-sidecar": [
        ("newest choices", 'name="getPayload"'),
        ("fetched in vain", 'name="fetch" && span.outcome!="ok"'),
        ("slow requests", 'name="fetch" && duration > 200ms'),
    ],
}


def variable(name, kind, query, **more):
    return {"name": name, "type": kind, "query": query, "refresh": 1, **more}


def values(label, series, *matchers):
    """A variable's values: those of a label of the series, of which some match already."""
    metric, _, matched = series.rstrip("}").partition("{")
    return f"label_values({metric}{{{','.join(filter(None, [matched, *matchers]))}}}, {label})"


def dashboard(name, title, services, series, panels):
    """A dashboard: `series` are those that tell namespaces, releases and pods."""
    for service in services:
        panels = [*panels, *(traces(service, *wanted) for wanted in TRACES[service]),
                  traces(service, "warnings and errors", 'name="fault"', "Kept whatever share of traces is.")]
    panels = [*panels, logs()]
    x = y = height = 0
    for at, panel in enumerate(panels, 1):
        width = {"stat": 4, "nodeGraph": 24, "logs": 24}.get(panel["type"], 12)
        tall = {"stat": 4, "nodeGraph": 12}.get(panel["type"], 8)
        if x + width > 24:
            x, y, height = 0, y + height, 0
        panel |= {"id": at, "gridPos": {"x": x, "y": y, "w": width, "h": tall}}
        x, height = x + width, max(height, tall)
    prometheus = {"type": "prometheus", "uid": "${datasource}"}
    many = {"datasource": prometheus, "includeAll": True, "multi": True, "allValue": ".*",
            "current": {"text": "All", "value": "$__all"}}
    explore = '/explore?left={"datasource":"${loki}","queries":[{"expr":"{namespace=\\"$namespace\\",pod=~\\"$pod\\"}"}]}'
    return {
        "uid": f"preconf-{name}", "title": f"preconf / {title}", "tags": ["preconf"], "schemaVersion": 39,
        "editable": True, "refresh": "10s", "time": {"from": "now-30m", "to": "now"}, "timezone": "browser",
        "links": [
            {"type": "dashboards", "title": "preconf", "tags": ["preconf"], "asDropdown": True, "includeVars": True, "keepTime": True},
            {"type": "link", "title": "Logs", "url": explore, "targetBlank": True},
        ],
        "templating": {"list": [
            variable("datasource", "datasource", "prometheus", label="Prometheus"),
            variable("tempo", "datasource", "tempo", label="Tempo"),
            variable("loki", "datasource", "loki", label="Loki"),
            variable("namespace", "query", values("namespace", series), datasource=prometheus),
            variable("release", "query", values("release", series, 'namespace="$namespace"'), **many),
            variable("pod", "query", values("pod", series, 'namespace="$namespace"', 'release=~"$release"'), **many),
        ]},
        "annotations": {"list": []},
        "panels": panels,
    }


B, S, G, C, O, P, V = ("preconf_builder", "preconf_signer", "preconf_gateway", "preconf_consumer",
                    "preconf_rpc_overlay", "preconf_payload_server", "preconf_validator_sidecar")
# Nothing of what there was is a share too: none.
KEPT = "({kept} or 0 * {all}) / {all}".format(kept=rate(C + "_promises_total", where='end="kept"'), all=rate(C + "_promises_total"))

BOARDS = [
    dashboard("overview", "overview: are promises kept, and how fast", ["builder"], 'up{part_of="preconf"}', [
        number("Promises kept", SHARE, KEPT, "Of the transactions that consumers saw preconfirmed and canonical."),
        number("Flashblocks per second", RATE, rate(B + "_flashblocks_total")),
        number("Age when served, p99", SECONDS, quantiles(O + "_flashblock_age_seconds")[1][0],
               "From publication to the snapshot of an overlay.", [(0.3, "orange"), (0.5, "red")]),
        number("Passthrough", COUNT, f"max({B}_passthrough{{{SCOPE}}})", "1 while all blocks are left to the execution client.", [(1, "red")]),
        number("Readers", COUNT, f"sum({G}_readers{{{SCOPE}}})"),
        number("Pods that are down", COUNT, f'count(up{{part_of="preconf",{SCOPE}}} == 0) or vector(0)', steps=[(1, "red")]),
        graph("How promises ended", RATE, rate(C + "_promises_total", "end")),
        graph("What was taken back", RATE, rate(B + "_retractions_total", "cause")),
        graph("How builds ended", RATE, rate(B + "_builds_total", "end")),
        graph("Whose block was handed out", RATE, rate(B + "_payloads_total", "source")),
        graph("Age of flashblocks at gateways", SECONDS, *quantiles(G + "_flashblock_age_seconds")),
        graph("Age of flashblocks at overlays", SECONDS, *quantiles(O + "_flashblock_age_seconds")),
        graph("Certificates renewed, or not", RATE,
              f'sum by (component, outcome) (rate({{__name__=~"preconf_.*_certificates_reloaded_total",{SCOPE}}}[$__rate_interval]))'),
        graph("Links refused", RATE,
              f'sum by (component, reason) (rate({{__name__=~"preconf_.*_connections_refused_total",{SCOPE}}}[$__rate_interval]))'),
        service_map(),
    ]),
    dashboard("builder", "builder", ["builder"], f"{B}_build_info", [
        graph("Flashblocks", RATE, (rate(B + "_flashblocks_total", "is_last"), "last: {{is_last}}")),
        graph("Transactions per flashblock", COUNT, *quantiles(B + "_flashblock_transactions")),
        graph("Bytes per flashblock", BYTES, *quantiles(B + "_flashblock_bytes")),
        graph("Cut after its tick", SECONDS, *quantiles(B + "_cut_late_seconds"), text="The build thread, and nothing else."),
        graph("From cut to publication", SECONDS, *quantiles(B + "_publish_seconds"), text="Journal and signature included."),
        graph("Sealing", SECONDS, *quantiles(B + "_seal_seconds"), text="Its budget is builder.config.sealBudgetMs."),
        graph("Whose block was handed out", RATE, rate(B + "_payloads_total", "source")),
        graph("How builds ended", RATE, rate(B + "_builds_total", "end")),
        graph("Heads", RATE, (rate(B + "_heads_total", "followed"), "followed: {{followed}}")),
        graph("Transactions offered", RATE, rate(B + "_submissions_total", "source, outcome")),
        graph("Handed to the execution client's pool", RATE, rate(B + "_shared_transactions_total", "outcome")),
        graph("Executed ahead", SECONDS, *quantiles(B + "_speculation_seconds")),
        graph("Let go without a block", RATE, rate(B + "_dropped_transactions_total", "cause")),
        graph("Blocks of others", RATE, (rate(B + "_foreign_blocks_total", "kept"), "state kept: {{kept}}")),
        graph("Taken back", RATE, rate(B + "_retractions_total", "cause")),
        graph("Not signed", RATE, rate(B + "_lost_statements_total", "statement, cause")),
        graph("What the standby heard", RATE, rate(B + "_heard_total", "outcome")),
        graph("Epoch of the lease", COUNT, gauge(B + "_lease_epoch")),
        graph("Passthrough", COUNT, gauge(B + "_passthrough")),
        graph("Connections", COUNT, gauge(B + "_connections", "listener", "sum")),
        graph("Secrets read anew", RATE, rate(B + "_secrets_reloaded_total", "outcome")),
    ]),
    dashboard("signer", "signer", ["signer"], f"{S}_build_info", [
        graph("Signatures", RATE, rate(S + "_signatures_total", "kind")),
        graph("Time to sign", SECONDS, *quantiles(S + "_sign_seconds"), text="Half a millisecond when nothing is in the way."),
        graph("Time to record", SECONDS, *quantiles(S + "_record_sync_seconds"), text="The disk; part of the time to sign."),
        graph("Refused", RATE, rate(S + "_refusals_total", "reason"), text="An equivocation is never normal."),
        graph("Signed again on request", RATE, rate(S + "_repeats_total", "kind")),
        graph("Sessions opened", RATE, rate(S + "_sessions_total")),
        graph("Epoch", COUNT, gauge(S + "_epoch")),
        graph("Newest session", COUNT, gauge(S + "_last_seq")),
        graph("Connections refused", RATE, rate(S + "_connections_refused_total", "reason")),
    ]),
    dashboard("feed", "feed: gateways", ["gateway"], f"{G}_build_info", [
        graph("Readers", COUNT, gauge(G + "_readers", "via", "sum")),
        graph("Readers by pod", COUNT, gauge(G + "_readers", "pod", "sum")),
        graph("Taken", RATE, rate(G + "_readers_accepted_total", "via")),
        graph("Turned away", RATE, rate(G + "_readers_refused_total", "reason")),
        graph("Gone", RATE, rate(G + "_readers_ended_total", "reason")),
        graph("Over their budget for replay", RATE, rate(G + "_readers_over_budget_total", "outcome")),
        graph("From receipt to the last reader's queue", SECONDS, *quantiles(G + "_fanout_seconds")),
        graph("From publication to the last reader's queue", SECONDS, *quantiles(G + "_flashblock_age_seconds")),
        graph("Served", RATE, rate(G + "_messages_served_total", "kind")),
        graph("Dropped", RATE, rate(G + "_messages_dropped_total", "reason")),
        graph("Invalid", RATE, rate(G + "_messages_invalid_total", "reason")),
        graph("Upstream", COUNT, gauge(G + "_upstream_connected"), (rate(G + "_upstream_disconnected_total", "reason"), "ended: {{reason}}")),
        graph("Kept for replay", BYTES, gauge(G + "_window_bytes")),
        graph("Messages kept for replay", COUNT, gauge(G + "_window_messages")),
        graph("Replayed", "Bps", rate(G + "_replayed_bytes_total", "pod")),
    ]),
    dashboard("read-side", "read side: consumers and overlays", ["consumer", "rpc-overlay"], f'{{__name__=~"{C}_build_info|{O}_build_info"}}', [
        graph("Requests", RATE, rate(O + "_requests_total", "method")),
        graph("Failed requests", RATE, rate(O + "_requests_total", "method, outcome", 'outcome!="ok"')),
        graph("Time to answer", SECONDS, *quantiles(O + "_request_seconds")),
        graph("Executions of a call", COUNT, *quantiles(O + "_call_rounds"), text="Until all its state was in memory."),
        graph("Forwarded to the execution client", RATE, rate(O + "_forwarded_total", "outcome")),
        graph("Transactions sent to the builder", RATE, rate(O + "_submitted_total", "outcome")),
        graph("Age of the snapshot", SECONDS, age(O + "_snapshot_received_seconds")),
        graph("Pending blocks", COUNT, gauge(O + "_snapshot_blocks"), gauge(C + "_pending_depth")),
        graph("Updates of the consumer", RATE, rate(O + "_updates_total", "outcome")),
        graph("Retractions", RATE, rate(O + "_retractions_total"), rate(C + "_retractions_total", "cause")),
        graph("Feed, consumer: connected", COUNT, gauge(C + "_feed_connected"), gauge(O + "_consumer_connected")),
        graph("Ends of connections to the feed", RATE, rate(C + "_feed_disconnected_total", "reason")),
        graph("Flashblocks received", RATE, rate(C + "_flashblocks_total", "reception")),
        graph("From publication to the snapshot", SECONDS, *quantiles(C + "_age_seconds")),
        graph("Verifying", SECONDS, *quantiles(C + "_verify_seconds")),
        graph("Executing", SECONDS, *quantiles(C + "_execution_seconds")),
        graph("Waiting for state", SECONDS, *quantiles(C + "_state_seconds")),
        graph("Reads of state", RATE, rate(C + "_state_reads_total", "outcome"), rate(C + "_state_keys_total")),
        graph("How promises ended", RATE, rate(C + "_promises_total", "end")),
        graph("Blocks behind the sequencer", COUNT, gauge(C + "_head_lag_blocks")),
        graph("Canonical blocks", RATE, rate(C + "_heads_total", "relation")),
        graph("Refused, invalid, asked for again", RATE, rate(C + "_refused_total", "reason"), rate(C + "_invalid_total", "reason"), rate(C + "_replays_total")),
        graph("Sessions held", BYTES, gauge(C + "_session_bytes")),
        graph("Overlays", COUNT, gauge(C + "_overlays")),
        graph("Overlays let go or not taken", RATE, (rate(C + "_overlays_dropped_total"), "too slow"), (rate(C + "_overlays_refused_total"), "no room")),
    ]),
    dashboard("payloads", "payload fetch", ["payload-server", "validator-sidecar"], f'{{__name__=~"{P}_build_info|{V}_build_info"}}', [
        graph("Requests of validators", RATE, rate(P + "_payload_requests_total", "result")),
        graph("Time to answer", SECONDS, *quantiles(P + "_payload_request_seconds"), text="Validators give up after half a second."),
        graph("Time that the builder took", SECONDS, *quantiles(P + "_builder_seconds")),
        graph("Was it the validator's turn?", RATE, (rate(P + "_proposer_checks_total", "matched"), "{{matched}}")),
        graph("Proposers announced", RATE, rate(P + "_proposers_announced_total", "by")),
        graph("Files read anew", RATE, rate(P + "_files_reloaded_total", "file, outcome")),
        graph("Sidecar: whose block was handed out", RATE, rate(V + "_payloads_total", "source")),
        graph("Sidecar: from getPayload to the choice", SECONDS, *quantiles(V + "_choice_seconds")),
        graph("Sidecar: requests to sequencers", RATE, rate(V + "_fetches_total", "outcome")),
        graph("Sidecar: fetched and refused", RATE, rate(V + "_refusals_total", "reason"), text="Each is a block that would have been lost."),
        graph("Sidecar: left to the execution client", RATE, rate(V + "_fallbacks_total", "reason")),
        graph("Sidecar: sequencers left alone, passthrough", COUNT, gauge(V + "_sequencers_lost"), gauge(V + "_passthrough")),
        graph("Sidecar: files and secrets read anew", RATE, rate(V + "_files_reloaded_total", "file, outcome"),
              rate(V + "_secrets_reloaded_total", "outcome")),
    ]),
]


def main():
    stale = []
    TARGET.mkdir(exist_ok=True)
    wanted = {board["uid"].removeprefix("preconf-") + ".json": json.dumps(board, indent=1) + "\n" for board in BOARDS}
    for name, text in wanted.items():
        path = TARGET / name
        if path.exists() and path.read_text() == text:
            continue
        stale.append(name)
        if "--check" not in sys.argv:
            path.write_text(text)
    stale += [path.name for path in TARGET.glob("*.json") if path.name not in wanted]
    if "--check" in sys.argv and stale:
        sys.exit(f"not as deploy/dashboards.py writes them: {', '.join(stale)}")


main()
