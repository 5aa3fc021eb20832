//! What verify and repair find out, piece by piece: which objects count, what is in the packs, and what snapshots need of it.

pub mod maps;
pub mod objects;
pub mod packs;
mod parallel;

use serde::{Deserialize, Serialize};

pub use self::parallel::{Room, in_parallel};

/// How deeply to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Depth {
    /// Every object is what it should be, and everything that a snapshot needs is there by the packs' tables.
    Structure,
    /// Also every stored byte of the packs is the one that was written; this takes no key to any disk.
    Stored,
    /// Also every chunk opens to the bytes that its id is made of.
    Plain,
}

impl Depth {
    /// Its name, as the ledger has it.
    pub fn name(self) -> &'static str {
        match self {
            Depth::Structure => "structure",
            Depth::Stored => "stored",
            Depth::Plain => "plain",
        }
    }
}

/// What is wrong with an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Wrong {
    /// It is not what was written, or does not count.
    Damaged,
    /// It is not there.
    Missing,
}

/// An object that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Its name.
    pub object: String,
    /// What is wrong with it.
    pub wrong: Wrong,
    /// What was found.
    pub detail: String,
}

impl Finding {
    /// An object that is damaged.
    pub fn damaged(object: impl Into<String>, detail: impl Into<String>) -> Finding {
        Finding { object: object.into(), wrong: Wrong::Damaged, detail: detail.into() }
    }

    /// An object that should be there.
    pub fn missing(object: impl Into<String>, detail: impl Into<String>) -> Finding {
        Finding { object: object.into(), wrong: Wrong::Missing, detail: detail.into() }
    }
}
