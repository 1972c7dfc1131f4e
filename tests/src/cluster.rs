//! The whole system in processes of its own, on ports of the system's choice.
//!
//! Systems run one at a time: what they promise depends on time, and a test machine is small. Two that have
//! little to do, and mostly wait, may run at the same time.

use std::{sync::Arc, time::Duration};

use clap::{CommandFactory as _, FromArgMatches as _};
use preconf_devnet::{
    Console, Devnet, Options,
    build::Binaries,
    consensus::{CanonicalBlock, Source},
    rpc::Rpc,
};
use tokio::{
    sync::{OnceCell, Semaphore, SemaphorePermit, watch},
    time::timeout,
};

/// How long anything may take before a test fails.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Flags of every system: ports that are free, and time enough for an unoptimised builder on a
/// machine that has other things to do. What is promised does not depend on it.
pub const FLAGS: [&str; 7] =
    ["--no-build", "--base-port", "0", "--slot-ms", "3000", "--seal-budget-ms", "1500"];

/// What one system that has little to do takes.
const BESIDE: u32 = 1;
/// What any other takes: all there is.
const ALONE: u32 = 2 * BESIDE;

static TURNS: Semaphore = Semaphore::const_new(ALONE as usize);
static BINARIES: OnceCell<Binaries> = OnceCell::const_new();

/// The turn to run a system. Held until it is dropped.
pub struct Turn {
    _held: SemaphorePermit<'static>,
    /// The service binaries, built from the sources as they are.
    pub binaries: Binaries,
}

impl Turn {
    /// Waits for the turn, and builds the services if nobody has.
    ///
    /// # Panics
    /// If they cannot be built.
    pub async fn take() -> Self {
        Self::of(ALONE).await
    }

    async fn of(part: u32) -> Self {
        let _held = TURNS.acquire_many(part).await.expect("it is never closed");
        let build = async || {
            let binaries = Binaries::beside_ourselves().expect("tests are built by cargo");
            binaries.build_with_tests().await.expect("the services can be built");
            binaries
        };
        let binaries = BINARIES.get_or_init(build).await.clone();
        Self { _held, binaries }
    }
}

/// The options of a test: [`FLAGS`], and what the test adds or says otherwise.
///
/// # Panics
/// If they are not options.
pub fn options(flags: &[&str]) -> Options {
    let given = ["devnet"].iter().chain(&FLAGS).chain(flags);
    let given = Options::command().args_override_self(true).try_get_matches_from(given);
    Options::from_arg_matches(&given.expect("they are options")).expect("they are options")
}

/// A system that runs, and those who talk to it.
pub struct Cluster {
    /// The chain id (EIP-155).
    pub chain_id: u64,
    /// The system.
    pub devnet: Devnet,
    /// The overlay.
    pub overlay: Rpc,
    /// The RPC node's client.
    pub rpc_node: Rpc,
    _turn: Turn,
}

impl Cluster {
    /// Starts a system.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn start(flags: &[&str]) -> Self {
        Self::of(options(flags)).await
    }

    /// Starts a system with these options.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn of(options: Options) -> Self {
        Self::in_turn(Turn::take().await, options).await
    }

    /// Starts a system that has little to do, and may have one such beside it.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn start_beside(flags: &[&str]) -> Self {
        Self::in_turn(Turn::of(BESIDE).await, options(flags)).await
    }

    async fn in_turn(turn: Turn, options: Options) -> Self {
        let started = Devnet::start(&options, &turn.binaries, Console::Silent).await;
        let devnet = started.unwrap_or_else(|error| panic!("{}", preconf_chassis::Chain(&error)));
        let rpc = |url: &url::Url| Rpc::new(url.clone()).expect("a port of ours is a URL");
        let overlay = rpc(&devnet.endpoints.overlay);
        let rpc_node = rpc(&devnet.endpoints.rpc_node);
        Self { chain_id: options.chain.id(), devnet, overlay, rpc_node, _turn: turn }
    }

    /// Waits until the next block begins to be built.
    ///
    /// # Panics
    /// If that takes too long.
    pub async fn next_window(&self) {
        let mut window = self.devnet.consensus.window();
        until(&mut window, |open| !*open).await;
        until(&mut window, |open| *open).await;
    }

    /// Waits until everybody has the block with this number.
    ///
    /// # Panics
    /// If that takes too long, the system fails, or the block is not the builder's.
    pub async fn canonical(&mut self, number: u64) -> Arc<CanonicalBlock> {
        loop {
            let next = timeout(DEADLINE, self.devnet.next_block());
            let block = next.await.expect("blocks come").expect("the system runs");
            assert_builders(&block);
            if block.number >= number {
                return block;
            }
        }
    }

    /// Stops everything.
    ///
    /// # Panics
    /// If something does not end as it should.
    pub async fn stop(self) {
        if let Err(failures) = self.devnet.stop().await {
            panic!("{}", failures[0]);
        }
    }
}

/// Asserts that a block is the builder's.
///
/// # Panics
/// If it is a fallback: names the block, why, and how long it was waited for.
pub fn assert_builders(block: &CanonicalBlock) {
    let (number, source, waited) = (block.number, &block.source, block.waited);
    assert_eq!(*source, Source::Builder, "block {number} is a {source} after {waited:?}");
}

/// Waits for a condition.
///
/// # Panics
/// If it does not come true in time.
pub async fn until<T>(watched: &mut watch::Receiver<T>, condition: impl FnMut(&T) -> bool) {
    let waited = timeout(DEADLINE, watched.wait_for(condition)).await;
    waited.expect("the condition comes true in time").expect("what is watched goes on");
}
