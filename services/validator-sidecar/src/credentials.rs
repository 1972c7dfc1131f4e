//! What the sequencers know the validator by, and the validator them: files, which may be replaced
//! while the process runs. One that cannot be used changes nothing; the other one counts.

use std::path::PathBuf;

use parking_lot::Mutex;
use preconf_chassis::{Chain, ConfigError};
use preconf_payload_api::{
    Authorities, ClientConfig, PayloadClient, SequencerUrl, ValidatorSecret,
};
use preconf_telemetry::metrics::{Counter, Family};
use tracing::{error, info};

use crate::Config;

/// The files, and what they last said.
#[derive(Debug)]
pub(crate) struct Credentials {
    secret: PathBuf,
    authorities: Option<PathBuf>,
    urls: Vec<SequencerUrl>,
    max_response_bytes: usize,
    current: Mutex<Current>,
}

#[derive(Clone, Debug)]
struct Current {
    secret: ValidatorSecret,
    authorities: Option<Authorities>,
}

impl Credentials {
    /// Reads the files.
    ///
    /// # Errors
    /// If one of them cannot be used.
    pub(crate) fn read(config: &Config) -> Result<Self, ConfigError> {
        let (secret, authorities) =
            (config.sequencer_jwt_secret.clone(), config.sequencer_ca_cert.clone());
        let current = Current {
            secret: ValidatorSecret::read(&secret)?,
            authorities: authorities.as_deref().map(Authorities::read).transpose()?,
        };
        Ok(Self {
            secret,
            authorities,
            urls: config.sequencer_urls.clone(),
            max_response_bytes: config.max_response_bytes,
            current: Mutex::new(current),
        })
    }

    /// The files.
    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        [&self.secret].into_iter().chain(&self.authorities).cloned().collect()
    }

    /// Clients of the sequencers, in the order of the operator.
    ///
    /// # Errors
    /// If what a URL needs is not there.
    pub(crate) fn clients(&self) -> Result<Vec<PayloadClient>, ConfigError> {
        let Current { secret, authorities } = self.current.lock().clone();
        let client = |url: &SequencerUrl| {
            PayloadClient::new(ClientConfig {
                authorities: authorities.clone().filter(|_| url.is_tls()),
                url: url.clone(),
                secret: secret.clone(),
                max_response_bytes: self.max_response_bytes,
            })
        };
        self.urls.iter().map(client).collect()
    }

    /// Reads the files anew.
    pub(crate) fn reload(&self, reloaded: &Family<Counter, 2>) {
        match ValidatorSecret::read(&self.secret) {
            Ok(secret) => {
                self.current.lock().secret = secret;
                info!("Sequencer JWT secret reloaded");
                reloaded.get(["sequencer_jwt_secret", "ok"]).inc();
            }
            Err(error) => {
                error!(error = %Chain(&error), "Failed to reload the sequencer JWT secret");
                reloaded.get(["sequencer_jwt_secret", "failed"]).inc();
            }
        }
        match self.authorities.as_deref().map(Authorities::read).transpose() {
            Ok(None) => {}
            Ok(authorities) => {
                self.current.lock().authorities = authorities;
                info!("Sequencer CA certificate reloaded");
                reloaded.get(["sequencer_ca_cert", "ok"]).inc();
            }
            Err(error) => {
                error!(error = %Chain(&error), "Failed to reload the sequencer CA certificate");
                reloaded.get(["sequencer_ca_cert", "failed"]).inc();
            }
        }
    }
}
