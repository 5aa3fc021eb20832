//! The repository's protocol (`src/repository/FORMAT.md` §11, §12) as a model that is checked in all its interleavings.
//!
//! ```text
//!   writer  W1 begin, W2 epochs, W3 packs, W4 put, W6 end          reader  begin, look, list, look again
//!   pruner  P1 epochs, P3 repack, P4 condemned, P5 sessions,       world   delete, put once more, forget, damage, plant
//!           P6 snapshots and packs, P7 verdict, P8 done
//! ```
//!
//! What P2 chooses is left open: any set of packs may be condemned, so safety hangs on nothing that planning does. The
//! properties are in [`protocol`]; [`rules::Rule`] names what the tests leave out to see that the check can fail; [`index`]
//! is a model of its own, for index segments.

#![forbid(unsafe_code)]

mod alone;
pub mod check;
pub mod index;
pub mod protocol;
mod pruner;
mod reader;
pub mod rules;
pub mod set;
pub mod state;
pub mod symmetry;
mod world;
mod writer;

pub use protocol::{Action, Protocol, Sizes};
pub use rules::Rule;
