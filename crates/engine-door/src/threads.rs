//! The door's threads.
//!
//! It is open before anything else is there, and closes last. Nothing but forwarding runs on its
//! threads, so whatever blocks or fills the others does not delay it.

use std::{
    io,
    net::{SocketAddr, TcpListener},
};

use axum::{Router, serve::ListenerExt};
use preconf_chassis::{Context, Shutdown};
use tokio::{
    net,
    runtime::{Builder, Runtime},
};

/// Enough for one consensus client, one of whose bodies is being parsed.
const THREADS: usize = 2;

/// Binds the door and serves it `until` the rest of this process has ended, and then until what is
/// under way is answered.
///
/// # Errors
/// If the address cannot be bound.
pub(crate) fn spawn(
    context: &Context,
    address: SocketAddr,
    router: Router,
    until: Shutdown,
) -> io::Result<SocketAddr> {
    let bind =
        |source: io::Error| io::Error::new(source.kind(), format!("binding {address}: {source}"));
    let listener = TcpListener::bind(address).map_err(bind)?;
    listener.set_nonblocking(true)?;
    let local = listener.local_addr()?;
    context.announce("engine", &format_args!("http://{local}"));
    let threads = Threads::start()?;
    context.tasks.spawn("engine", async move {
        let served = threads.get().spawn(serve(listener, router, until));
        served.await.map_err(io::Error::other)?
    });
    Ok(local)
}

async fn serve(listener: TcpListener, router: Router, until: Shutdown) -> io::Result<()> {
    let listener = net::TcpListener::from_std(listener)?.tap_io(|stream| {
        // A stream that cannot be tuned still serves.
        let _ = stream.set_nodelay(true);
    });
    let drain = async move { until.cancelled().await };
    axum::serve(listener, router).with_graceful_shutdown(drain).await
}

/// A runtime that ends with its owner, without making it wait.
struct Threads(Option<Runtime>);

impl Threads {
    fn start() -> io::Result<Self> {
        let mut builder = Builder::new_multi_thread();
        let runtime = builder.worker_threads(THREADS).thread_name("engine").enable_all().build()?;
        Ok(Self(Some(runtime)))
    }

    fn get(&self) -> &Runtime {
        self.0.as_ref().expect("it is taken when it is dropped, and not before")
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use axum::routing::any;
    use preconf_engine::{EngineClient, EngineError, JwtSecret};
    use serde_json::Value;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn the_door_is_open_until_the_rest_has_ended() {
        let context = Context::for_test();
        let until = Shutdown::new();
        let answer = || async { r#"{"id":1,"result":true}"# };
        let router = Router::new().fallback(any(answer));
        let loopback = "127.0.0.1:0".parse().unwrap();
        let address = spawn(&context, loopback, router, until.clone()).unwrap();
        let url = format!("http://{address}").parse().unwrap();
        let secret = Arc::new(JwtSecret::from_bytes([1; 32]));
        let client = EngineClient::new(&url, secret).unwrap();
        let ask = async || client.request::<_, bool>("eth_any", &Value::Null, DEADLINE).await;

        context.shutdown.trigger();
        assert!(ask().await.unwrap());
        until.trigger();
        context.finish(DEADLINE).await.map_err(|exit| exit.to_string()).unwrap();
        assert!(matches!(ask().await, Err(EngineError::Transport { .. })));
    }
}
