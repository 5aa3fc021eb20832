//! The arguments of commands that go on past what cannot be read.

use std::time::Duration;

use clap::Args;

use super::units::parse_duration;
use crate::engine::salvage::{DEFAULT_PASSES, Tolerance};

/// How hard to try what cannot be read.
#[derive(Debug, Clone, Args)]
pub struct SalvageArgs {
    /// Go on past what cannot be read, put zeros there, and list it (exit code 3)
    #[arg(long)]
    pub salvage: bool,
    /// Stop retrying what cannot be read after this long (90s, 10m, 24h)
    #[arg(long, value_name = "TIME", requires = "salvage", value_parser = parse_duration)]
    pub salvage_time: Option<Duration>,
    /// How many passes to make: 1 large reads, 2 also the edges of what failed, 3 also its single sectors, more: try bad sectors again
    #[arg(long, value_name = "N", requires = "salvage", default_value_t = DEFAULT_PASSES)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub salvage_passes: u32,
}

impl SalvageArgs {
    /// As the engine understands it; none if everything must be readable.
    pub fn tolerance(&self) -> Option<Tolerance> {
        let (passes, time) = (self.salvage_passes, self.salvage_time);
        self.salvage.then_some(Tolerance { passes, time, ..Tolerance::SALVAGE })
    }
}
