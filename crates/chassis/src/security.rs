//! Which links are allowed, and with what they are authenticated.
//!
//! A link is a Unix socket whose peer runs as our own user (or a user named with `--allow-uid`),
//! or mutual TLS: both sides show a certificate of the same authority. Plaintext stays on loopback
//! unless the operator insists with `--insecure-plaintext`.
//!
//! The files are read at start, and again as long as the process runs
//! ([`Context::follow_certificates`](crate::Context::follow_certificates)): connections that are made
//! after a renewal use what was renewed, on either side.

use std::{fmt, path::PathBuf, sync::Arc};

use crate::{
    ConfigError, Endpoint,
    tls::{Files, Tls},
};

/// Flags for links between our processes, shared by every service.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Links")]
pub struct SecurityArgs {
    /// The certificate chain shown to peers on `https://` endpoints (PEM).
    #[arg(long, env = "PRECONF_TLS_CERT", value_name = "FILE")]
    #[arg(requires = "tls_key", requires = "tls_ca")]
    pub tls_cert: Option<PathBuf>,

    /// The private key of the certificate (PEM, not readable by other users).
    #[arg(long, env = "PRECONF_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,

    /// The authority that certificates of peers must come from (PEM).
    #[arg(long, env = "PRECONF_TLS_CA", value_name = "FILE", requires = "tls_cert")]
    pub tls_ca: Option<PathBuf>,

    /// Allow plaintext `http://` endpoints beyond loopback.
    #[arg(long, env = "PRECONF_INSECURE_PLAINTEXT")]
    pub insecure_plaintext: bool,

    /// Accept Unix socket peers that run as this user, besides our own.
    #[arg(
        long = "allow-uid",
        env = "PRECONF_ALLOW_UID",
        value_name = "UID",
        value_delimiter = ','
    )]
    pub allow_uids: Vec<u32>,
}

/// What links are authenticated with.
///
/// The default has no certificates: Unix sockets of our own user, and plaintext on loopback.
#[derive(Clone, Default)]
pub struct Security {
    tls: Option<Arc<Tls>>,
    insecure_plaintext: bool,
    allow_uids: Arc<[u32]>,
}

impl Security {
    /// Reads the files that the flags name.
    ///
    /// # Errors
    ///
    /// If one of them is missing or malformed, or if key and certificate do not belong together.
    pub fn load(args: &SecurityArgs) -> Result<Self, ConfigError> {
        let tls = match (&args.tls_cert, &args.tls_key, &args.tls_ca) {
            (Some(cert), Some(key), Some(ca)) => {
                let (cert, key, ca) = (cert.clone(), key.clone(), ca.clone());
                Some(Arc::new(Tls::load(Files { cert, key, ca })?))
            }
            (None, None, None) => None,
            _ => {
                return Err(ConfigError::flag(
                    "--tls-cert",
                    "must be given together with --tls-key and --tls-ca",
                ));
            }
        };
        Ok(Self {
            tls,
            insecure_plaintext: args.insecure_plaintext,
            allow_uids: args.allow_uids.clone().into(),
        })
    }

    /// Reads the files again, and uses what they hold from here on. `false` if they hold what they
    /// held. Clones share what is used.
    ///
    /// # Errors
    ///
    /// As [`Security::load`]. What was used before is used on.
    pub fn reload(&self) -> Result<bool, ConfigError> {
        self.tls.as_ref().map_or(Ok(false), |tls| tls.reload())
    }

    /// Whether `endpoint` may be used. Binding and connecting ask this too; a service that asks
    /// while it prepares refuses before any socket is open.
    ///
    /// # Errors
    ///
    /// If it is plaintext beyond loopback, or TLS without certificates.
    pub fn check(&self, endpoint: &Endpoint) -> Result<(), ConfigError> {
        let refusal = match endpoint {
            Endpoint::Unix(_) => return Ok(()),
            Endpoint::Plaintext(at) if at.is_loopback() || self.insecure_plaintext => return Ok(()),
            Endpoint::Tls(_) if self.tls.is_some() => return Ok(()),
            Endpoint::Plaintext(_) => {
                "is plaintext beyond loopback: use https:// or unix:, or give --insecure-plaintext"
            }
            Endpoint::Tls(_) => "needs --tls-cert, --tls-key and --tls-ca",
        };
        Err(ConfigError::flag(endpoint, refusal))
    }

    /// For the one listener that may be plaintext wherever it is.
    pub(crate) fn plaintext_anywhere() -> Self {
        Self { insecure_plaintext: true, ..Self::default() }
    }

    pub(crate) fn tls(&self) -> Option<&Arc<Tls>> {
        self.tls.as_ref()
    }

    pub(crate) fn allow_uids(&self) -> &Arc<[u32]> {
        &self.allow_uids
    }

    pub(crate) fn allows_plaintext_anywhere(&self) -> bool {
        self.insecure_plaintext
    }
}

impl fmt::Debug for Security {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Security")
            .field("tls", &self.tls.is_some())
            .field("insecure_plaintext", &self.insecure_plaintext)
            .field("allow_uids", &self.allow_uids)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        security: SecurityArgs,
    }

    #[test]
    fn plaintext_stays_on_loopback_unless_the_operator_insists() {
        let anywhere = "http://0.0.0.0:9000".parse().unwrap();
        let loopback = "http://127.0.0.1:9000".parse().unwrap();
        let insisting = SecurityArgs { insecure_plaintext: true, ..Default::default() };

        assert!(Security::default().check(&loopback).is_ok());
        assert_eq!(
            Security::default().check(&anywhere).unwrap_err().to_string(),
            "http://0.0.0.0:9000: is plaintext beyond loopback: use https:// or unix:, \
             or give --insecure-plaintext"
        );
        assert!(Security::load(&insisting).unwrap().check(&anywhere).is_ok());
    }

    #[test]
    fn tls_needs_certificates() {
        let endpoint = "https://localhost:9000".parse().unwrap();

        let refused = Security::default().check(&endpoint).unwrap_err().to_string();

        assert!(refused.ends_with("needs --tls-cert, --tls-key and --tls-ca"), "{refused}");
    }

    #[test]
    fn a_certificate_without_its_key_is_refused_with_the_flags() {
        assert!(Flags::try_parse_from(["x", "--tls-cert", "a"]).is_err());
        assert!(Flags::try_parse_from(["x", "--tls-key", "a", "--tls-ca", "b"]).is_err());
        let all = ["x", "--tls-cert", "a", "--tls-key", "b", "--tls-ca", "c"];
        assert!(Flags::try_parse_from(all).is_ok());
    }

    #[test]
    fn users_are_listed_with_commas_or_by_repeating_the_flag() {
        let flags = ["x", "--allow-uid", "1,2", "--allow-uid", "3"];

        let flags = Flags::try_parse_from(flags).unwrap();

        assert_eq!(flags.security.allow_uids, [1, 2, 3]);
    }
}
