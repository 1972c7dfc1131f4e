//! Importing a block in one go, as an execution client does, with the reason where it is refused.

use std::sync::Arc;

use alloy_hardforks::EthereumHardforks;
use alloy_primitives::B256;
use alloy_rlp::Decodable;
use preconf_chain::{Block, ChainSpec};
use preconf_evm::{BlockError, execute_block, execute_mined};
use preconf_state::Overlay;

use crate::feed::{Known, root_of};

/// Why a block is not one of the chain.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The bytes are no block.
    #[error("decoding the block")]
    Decode(#[source] alloy_rlp::Error),
    /// Something follows it.
    #[error("{0} bytes follow the block")]
    TrailingBytes(usize),
    /// Its parent is not known.
    #[error("the parent {0} is not known")]
    UnknownParent(B256),
    /// It is not valid after its parent.
    #[error("the block is not valid")]
    Block(#[source] BlockError),
    /// It leads to another state than it says.
    #[error("stateRoot is {claimed}, not {computed}")]
    StateRoot {
        /// What the header says.
        claimed: B256,
        /// The root of the state after it.
        computed: B256,
    },
}

/// The block that these bytes are, with nothing after it.
///
/// # Errors
/// If they are none.
pub fn decode(mut bytes: &[u8]) -> Result<Block, Refused> {
    let block = Block::decode(&mut bytes).map_err(Refused::Decode)?;
    if bytes.is_empty() { Ok(block) } else { Err(Refused::TrailingBytes(bytes.len())) }
}

/// Executes a block on its parent, mined or not, and checks everything that its header says.
///
/// # Errors
/// Says why it is not valid.
pub fn import(spec: &Arc<ChainSpec>, parent: &Known, block: &Block) -> Result<Known, Refused> {
    let overlay = Overlay::new(parent.state.clone());
    let outcome = if spec.is_paris_active_at_block(block.header.number) {
        execute_block(spec, &parent.header, block, None, overlay)
    } else {
        execute_mined(spec, &parent.header, block, overlay)
    };
    let diff = outcome.map_err(Refused::Block)?.diff();
    let mut state = parent.state.as_ref().clone();
    state.apply(&diff);
    let (claimed, computed) = (block.header.state_root, root_of(&state));
    if claimed != computed {
        return Err(Refused::StateRoot { claimed, computed });
    }
    Ok(Known::new(block.header.clone(), state))
}
