//! Reading the chain at one block from memory, and changing it without losing the original.
//!
//! Nothing here waits: a read either is in memory or says [`NeedState`], and somebody else fetches
//! the key. In reading order:
//!
//! * [`key`] — the nouns: [`Key`], [`Value`], [`Account`], [`NeedState`].
//! * [`reader`] — [`StateReader`]: the state of one block, as far as it is in memory.
//! * [`diff`] — [`Diff`]: what changed.
//! * [`overlay`] — [`Overlay`]: a reader with changes on top; the executor's database.
//! * [`cache`] — [`StateCache`]: what has been read of one block, advanced from block to block.
//! * [`memory`] — [`MemoryState`]: a complete state.

pub mod key;
pub mod reader;

pub mod diff;
mod layers;
pub mod overlay;

pub mod cache;
pub mod memory;

pub use cache::StateCache;
pub use diff::{AccountDiff, Diff};
pub use key::{Account, Key, NeedState, Value};
pub use memory::MemoryState;
pub use overlay::Overlay;
pub use reader::StateReader;
pub use revm::bytecode::Bytecode;
