//! The list of all metrics, written from where the services register them.

use std::fmt::Write;

use preconf_chassis::describe_metrics;
use preconf_telemetry::{
    Registry,
    metrics::{Described, Kind},
};

const HEAD: &str = "\
# Metrics

What each service counts, at `/metrics` of its health port, in the OpenMetrics text format. Written
from the registrations in the code by `cargo run -p preconf-tests --bin metrics`; do not edit.

A histogram has the series `_bucket`, `_sum` and `_count`. What is observed in a sampled trace is
kept as the exemplar of its bucket (`trace_id`). The values of labels are fixed in the code: none of
them comes from a peer. A series with labels appears when it is first counted.
";

type Register = fn(&Registry);

const SERVICES: [(&str, Register); 7] = [
    ("builder", preconf_builder::register_metrics),
    ("signer", preconf_signer::register_metrics),
    ("gateway", preconf_gateway::register_metrics),
    ("consumer", preconf_consumer::register_metrics),
    ("rpc-overlay", preconf_rpc_overlay::register_metrics),
    ("payload-server", preconf_payload_server::register_metrics),
    ("validator-sidecar", preconf_validator_sidecar::register_metrics),
];

/// The document.
#[must_use]
pub fn document() -> String {
    let mut text = HEAD.to_owned();
    for (service, register) in SERVICES {
        let _ = write!(text, "\n## {service}\n\n");
        text.push_str("| metric | type | unit | labels | meaning |\n|---|---|---|---|---|\n");
        for metric in describe_metrics(service, register) {
            text.push_str(&row(&metric));
        }
    }
    text
}

fn row(metric: &Described) -> String {
    let Described { name, kind, labels, help } = metric;
    let labels: Vec<_> = labels.iter().map(|label| format!("`{label}`")).collect();
    let (kind, unit, labels) = (kind.as_str(), unit(metric), labels.join(", "));
    format!("| `{name}` | {kind} | {unit} | {labels} | {help} |\n")
}

/// The unit, which is the end of the name.
fn unit(metric: &Described) -> &'static str {
    let name = metric.name.trim_end_matches("_total");
    match (name.rsplit('_').next(), metric.kind) {
        (Some("seconds"), _) => "seconds",
        (Some("bytes"), _) => "bytes",
        (_, Kind::Counter) => "count",
        (_, Kind::Gauge | Kind::Histogram) => "",
    }
}
