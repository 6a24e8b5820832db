//! Replacements of a bucket for tests: [`MemoryStore`] keeps objects in memory, and [`InstrumentedStore`]
//! wraps any store and counts, delays and fails its calls. Not part of the program.

// Paths are those of the whole program.
use ossvault_base as base;
use ossvault_object as object;
use ossvault_store as store;

pub mod instrumented_store;
pub mod memory_store;

pub use instrumented_store::{Call, Failure, Fate, Hooks, InstrumentedStore, Mood, Refusal};
pub use memory_store::MemoryStore;
