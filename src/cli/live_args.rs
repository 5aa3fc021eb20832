//! Whether disks in use are read.

use std::path::Path;

use clap::Args;

use super::Global;
use super::failure::Failure;
use crate::access::{self, Address, Admitted, Found};
use crate::sources::Watch;

/// Whether disks in use are taken.
#[derive(Debug, Clone, Copy, Args)]
pub struct LiveArgs {
    /// Read a disk although it is mounted or otherwise in use: the copy may be torn
    #[arg(long, env = "TINTYPE_LIVE", value_parser = clap::builder::BoolishValueParser::new())]
    live: bool,
}

impl LiveArgs {
    /// Refuses a source in use, unless it is to be taken as it is.
    pub fn admit(self, address: &Address, watch: Watch, global: Global) -> Result<Admitted, Failure> {
        self.admit_named(address.to_string(), address.shown(), watch, global)
    }

    /// The same, of the file at `path`.
    pub fn admit_named(self, name: String, path: &Path, watch: Watch, global: Global) -> Result<Admitted, Failure> {
        Ok(access::admit(name, path, watch, self.live, &global)?)
    }

    /// Asks all sources again, at the end of the run.
    pub fn ask_again(self, sources: &[Admitted], global: Global) -> Found {
        access::ask_again(sources, self.live, &global)
    }
}
