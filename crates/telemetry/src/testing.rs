//! What the tests of several modules need.

use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};

use crate::{TelemetryArgs, traces};

/// Runs `scene` under a subscriber of its own, which records every span.
pub(crate) fn observed(scene: impl FnOnce()) {
    let provider = SdkTracerProvider::builder().with_sampler(Sampler::AlwaysOn).build();
    let subscriber = traces::subscriber(&TelemetryArgs::default(), &provider, std::io::sink);
    tracing::subscriber::with_default(subscriber, scene);
}
