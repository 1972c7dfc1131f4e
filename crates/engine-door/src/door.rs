//! Opening the door.

use std::{net::SocketAddr, sync::Arc};

use preconf_chassis::{
    Context, Exit, Security, Shutdown, grpc,
    reload::{Hangup, Stamps},
};
use preconf_engine::{EngineClient, EngineError, EngineHooks, EngineProxy, JwtSecret, ProxyConfig};
use preconf_telemetry::Registry;
use preconf_wire::admin;
use tonic::service::Routes;

use crate::{
    DoorArgs,
    secrets::{self, Secrets},
    switch::{Admin, Gauges, Signals, follow_passthrough},
    threads,
};

/// A door that can be opened: its secrets have been read. They follow their files while it is open.
#[derive(Clone, Debug)]
pub struct Door {
    pub(crate) args: DoorArgs,
    pub(crate) inbound: Arc<JwtSecret>,
    pub(crate) outbound: Arc<JwtSecret>,
    /// What the secrets' files were before they were read.
    pub(crate) seen: Stamps,
    pub(crate) security: Security,
}

impl Door {
    /// A client of the execution client, with connections that nobody else has.
    ///
    /// # Errors
    /// If its URL cannot be used.
    pub fn execution_client(&self) -> Result<EngineClient, EngineError> {
        EngineClient::new(&self.args.execution_engine_url, self.outbound.clone())
    }

    /// Opens the door, and keeps it open `until` the rest of this process has ended and what is
    /// under way is answered. The hooks run on the runtime that this is called in. `left_alone` is
    /// called with `true` whenever the hooks are left alone (what they began is of no use), and with
    /// `false` when they are asked again. Returns where it is.
    ///
    /// # Errors
    /// If an address cannot be bound.
    pub async fn open(
        self,
        context: &Context,
        hooks: Arc<dyn EngineHooks>,
        limits: ProxyConfig,
        until: Shutdown,
        left_alone: impl Fn(bool) + Send + 'static,
    ) -> Result<SocketAddr, Exit> {
        let signals = Signals::take()?;
        context.follow_certificates(&self.security);
        let mut files = vec![(self.args.engine_jwt_secret.clone(), self.inbound.clone())];
        files.extend(
            self.args.execution_jwt_secret.clone().map(|path| (path, self.outbound.clone())),
        );
        let secrets = Secrets::new(files, &context.registry);
        let (paths, shutdown) = (secrets.paths(), context.shutdown.clone());
        let reading =
            Hangup::take()?.obey(paths, self.seen.clone(), move || secrets.read(), shutdown);
        context.tasks.spawn("secrets", reading);
        let client = self.execution_client()?;
        let proxy = EngineProxy::new(client, self.inbound, hooks, limits);
        if self.args.passthrough {
            proxy.enter_passthrough("--passthrough");
        }
        let address = threads::spawn(context, self.args.engine_addr, proxy.router(), until)?;

        let gauges = Gauges::register(&context.registry);
        let shutdown = context.shutdown.clone();
        let following = follow_passthrough(proxy.clone(), gauges, shutdown, left_alone);
        context.tasks.spawn("passthrough", following);
        let obeying = signals.obey(proxy.clone(), context.shutdown.clone());
        context.tasks.spawn("signals", obeying);

        if let Some(endpoint) = &self.args.admin_listen {
            let listener = context.bind("admin", endpoint, &self.security).await?;
            let listener = listener.allow_names(self.args.admin_allow_names);
            let routes = Routes::new(admin::server(Arc::new(Admin::new(proxy))));
            context.tasks.spawn("admin", grpc::serve(listener, routes, context.shutdown.clone()));
        }
        Ok(address)
    }
}

/// Registers what a door counts, as it does when it opens: for documentation.
pub fn register_metrics(registry: &Registry) {
    let _ = Gauges::register(registry);
    let _ = secrets::register(registry);
}
