//! The flags of a door.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use preconf_chassis::{ConfigError, Endpoint, Security, reload::Stamps};
use preconf_engine::JwtSecret;
use url::Url;

use crate::Door;

/// Where the door is, where it leads, and who may close it.
#[derive(Clone, Debug, clap::Args)]
pub struct DoorArgs {
    /// Where the consensus client finds the Engine API.
    #[arg(
        long,
        env = "PRECONF_ENGINE_ADDR",
        default_value = "127.0.0.1:8551",
        value_name = "HOST:PORT"
    )]
    pub engine_addr: SocketAddr,

    /// The secret that the consensus client presents: a file with 32 bytes of hex.
    #[arg(long, env = "PRECONF_ENGINE_JWT_SECRET", value_name = "PATH")]
    pub engine_jwt_secret: PathBuf,

    /// The execution client's Engine API.
    #[arg(long, env = "PRECONF_EXECUTION_ENGINE_URL", value_name = "URL")]
    pub execution_engine_url: Url,

    /// The secret that the execution client expects; the consensus client's if unset.
    #[arg(long, env = "PRECONF_EXECUTION_JWT_SECRET", value_name = "PATH")]
    pub execution_jwt_secret: Option<PathBuf>,

    /// Where operators switch passthrough and ask for the status; off if unset. SIGUSR1 switches
    /// passthrough on, and SIGUSR2 off, in any case.
    #[arg(long, env = "PRECONF_ADMIN_LISTEN", value_name = "ENDPOINT")]
    pub admin_listen: Option<Endpoint>,

    /// A name that a certificate must carry to be served on an `https://` admin listener.
    #[arg(
        long = "admin-allow-name",
        env = "PRECONF_ADMIN_ALLOW_NAME",
        value_name = "NAME",
        value_delimiter = ',',
        default_value = "admin"
    )]
    pub admin_allow_names: Vec<String>,

    /// Begin in passthrough: leave all blocks to the execution client until somebody switches it
    /// off. What is switched while the process runs is not remembered by the next one.
    #[arg(long, env = "PRECONF_PASSTHROUGH")]
    pub passthrough: bool,
}

impl DoorArgs {
    /// Reads the secrets, and checks that the admin listener is allowed.
    ///
    /// # Errors
    /// Names the file or flag that is wrong.
    pub fn prepare(&self, security: &Security) -> Result<Door, ConfigError> {
        let files = [&self.engine_jwt_secret].into_iter().chain(&self.execution_jwt_secret);
        let seen = Stamps::of(files);
        let inbound = secret(&self.engine_jwt_secret)?;
        let outbound = match &self.execution_jwt_secret {
            Some(path) => secret(path)?,
            None => inbound.clone(),
        };
        if let Some(endpoint) = &self.admin_listen {
            security.check(endpoint)?;
        }
        Ok(Door { args: self.clone(), inbound, outbound, seen, security: security.clone() })
    }
}

fn secret(path: &Path) -> Result<Arc<JwtSecret>, ConfigError> {
    let secret = JwtSecret::read(path);
    secret.map(Arc::new).map_err(|error| ConfigError::file(path, error.to_string()))
}
