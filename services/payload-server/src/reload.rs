//! The files that are read anew, at SIGHUP and when they change.

use std::path::PathBuf;

pub(crate) use preconf_chassis::reload::{Hangup, Stamps};

use crate::{metrics::Metrics, tls::Certificate, validators::Validators};

/// All that is read from files.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    pub(crate) validators: Validators,
    pub(crate) certificate: Option<Certificate>,
}

impl Files {
    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        let certificate = self.certificate.iter().flat_map(Certificate::paths);
        self.validators.paths().into_iter().chain(certificate).cloned().collect()
    }

    /// Every key is checked to be a point of the curve, which takes a while.
    pub(crate) fn reload(&self, metrics: &Metrics) {
        self.validators.reload(&metrics.reloaded);
        if let Some(certificate) = &self.certificate {
            certificate.reload(&metrics.reloaded);
        }
    }
}
