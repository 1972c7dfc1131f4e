//! What the `OTEL_*` variables say about this process, as far as the SDK does not read them itself.
//!
//! They are read once. As the specification has it, an empty variable is not set, and a value that
//! is not known counts as if it were not set either: that is told, and nothing fails on it. Only
//! the protocol must be one that we speak, since spans would go nowhere otherwise.

use crate::{TelemetryError, sampling::Sampling};

/// What it says.
#[derive(Debug)]
pub(crate) struct Environment {
    /// Whether spans are sent to a collector.
    pub(crate) exports: bool,
    /// Whether context is taken from other processes and given to them.
    pub(crate) propagates: bool,
    /// Which spans are kept.
    pub(crate) sampling: Sampling,
    /// What is not understood: the variable and its value, or a part of that.
    pub(crate) ignored: Vec<(&'static str, String)>,
}

impl Environment {
    /// The environment of the process.
    ///
    /// # Errors
    /// If spans are to be sent in a protocol that is not spoken.
    pub(crate) fn read() -> Result<Self, TelemetryError> {
        Self::parse(|name| std::env::var(name).ok())
    }

    fn parse(read: impl Fn(&'static str) -> Option<String>) -> Result<Self, TelemetryError> {
        let read = |name| read(name).map(|text| text.trim().to_owned()).unwrap_or_default();
        let mut ignored = Vec::new();
        let exports = exports(&read, &mut ignored);
        if exports {
            // That for traces alone wins.
            let names = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"];
            let protocol = names.into_iter().map(&read).find(|protocol| !protocol.is_empty());
            if let Some(protocol) = protocol.filter(|protocol| protocol != "grpc") {
                return Err(TelemetryError::Protocol(protocol));
            }
        }
        let propagates = propagates(&read("OTEL_PROPAGATORS"), &mut ignored);
        let (sampler, argument) = (read("OTEL_TRACES_SAMPLER"), read("OTEL_TRACES_SAMPLER_ARG"));
        let (sampling, complaint) = Sampling::parse(&sampler, &argument);
        ignored.extend(complaint);
        Ok(Self { exports, propagates, sampling, ignored })
    }
}

type Ignored = Vec<(&'static str, String)>;

fn exports(read: &impl Fn(&'static str) -> String, ignored: &mut Ignored) -> bool {
    let exporters = read("OTEL_TRACES_EXPORTER");
    let is_off = read("OTEL_SDK_DISABLED").eq_ignore_ascii_case("true") || exporters == "none";
    let strange = items(&exporters).filter(|exporter| !["otlp", "none"].contains(exporter));
    ignored.extend(strange.map(|exporter| ("OTEL_TRACES_EXPORTER", exporter.to_owned())));
    let named = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"];
    !is_off && named.into_iter().any(|name| !read(name).is_empty())
}

/// There is nothing in our baggage: naming it changes nothing.
fn propagates(propagators: &str, ignored: &mut Ignored) -> bool {
    let is_known = |name: &&str| ["tracecontext", "baggage", "none"].contains(name);
    let (known, strange): (Vec<_>, Vec<_>) = items(propagators).partition(is_known);
    ignored.extend(strange.into_iter().map(|name| ("OTEL_PROPAGATORS", name.to_owned())));
    known.is_empty() || (known.contains(&"tracecontext") && !known.contains(&"none"))
}

fn items(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|item| !item.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLLECTOR: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317");

    #[test]
    fn spans_are_sent_to_a_collector_that_is_named_and_not_switched_off() {
        let traces = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://collector:4317");
        for (variables, exports) in [
            (&[][..], false),
            (&[COLLECTOR], true),
            (&[traces], true),
            (&[("OTEL_EXPORTER_OTLP_ENDPOINT", "")], false),
            (&[COLLECTOR, ("OTEL_SDK_DISABLED", "True")], false),
            (&[COLLECTOR, ("OTEL_SDK_DISABLED", "1")], true),
            (&[COLLECTOR, ("OTEL_TRACES_EXPORTER", "none")], false),
            (&[COLLECTOR, ("OTEL_TRACES_EXPORTER", "otlp")], true),
        ] {
            let environment = given(variables).unwrap();
            assert_eq!(environment.exports, exports, "{variables:?}");
            assert!(environment.ignored.is_empty(), "{variables:?}");
        }
    }

    #[test]
    fn context_is_passed_on_unless_the_propagators_leave_it_out() {
        for (propagators, propagates) in [
            ("", true),
            ("tracecontext", true),
            ("tracecontext,baggage", true),
            ("baggage , tracecontext", true),
            ("baggage", false),
            ("none", false),
        ] {
            let environment = given(&[("OTEL_PROPAGATORS", propagators)]).unwrap();
            assert_eq!(environment.propagates, propagates, "{propagators}");
            assert!(environment.ignored.is_empty(), "{propagators}");
        }
    }

    #[test]
    fn what_is_not_understood_is_as_if_it_were_not_set_and_is_told() {
        for (variable, value) in [
            ("OTEL_PROPAGATORS", "b3"),
            ("OTEL_TRACES_EXPORTER", "zipkin"),
            ("OTEL_TRACES_SAMPLER", "xray"),
        ] {
            let environment = given(&[COLLECTOR, (variable, value)]).unwrap();
            assert!(environment.exports && environment.propagates, "{variable}");
            assert_eq!(environment.ignored, [(variable, value.to_owned())]);
        }
        for ratio in ["much", "1.5", "-1"] {
            let sampler = ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio");
            let environment = given(&[sampler, ("OTEL_TRACES_SAMPLER_ARG", ratio)]).unwrap();
            assert_eq!(environment.ignored, [("OTEL_TRACES_SAMPLER_ARG", ratio.to_owned())]);
        }
    }

    #[test]
    fn a_protocol_that_is_not_spoken_is_refused_if_spans_are_to_be_sent() {
        let http = ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf");
        let grpc = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc");

        let refused = given(&[COLLECTOR, http]).unwrap_err();
        assert!(matches!(refused, TelemetryError::Protocol(protocol) if protocol == http.1));
        assert!(given(&[COLLECTOR, http, grpc]).is_ok(), "that for traces wins");
        assert!(given(&[http]).is_ok(), "nothing is sent");
    }

    fn given(variables: &[(&str, &str)]) -> Result<Environment, TelemetryError> {
        Environment::parse(|name| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }
}
