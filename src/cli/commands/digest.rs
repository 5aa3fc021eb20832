//! `tintype digest`

use clap::Args as ClapArgs;
use serde::Serialize;

use crate::access::Address;
use crate::cli::digest_algorithm::DigestAlgorithm;
use crate::cli::failure::Failure;
use crate::cli::source_args::{SourceArgs, ThreadArgs, address_parser};
use crate::cli::{Global, Outcome, escape, job, output};
use crate::engine::NamedDisk;
use crate::engine::digest::{Algorithm, digest};

/// As many reads at once as a fast disk wants.
const MIN_READERS: usize = 8;

/// Print the digest of a disk's content, whatever format it is stored in
///
/// Two images of the same disk have the same digest. For raw images it is what sha256sum or b3sum print.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The disk
    #[arg(value_name = "IMAGE", value_parser = address_parser())]
    image: Address,
    /// How to hash: sha256 uses one core, blake3 all of them
    #[arg(long, short, value_name = "ALGORITHM", default_value = "sha256", env = "TINTYPE_DIGEST")]
    algorithm: DigestAlgorithm,
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    threads: ThreadArgs,
}

#[derive(Serialize)]
struct Report<'a> {
    r#type: &'static str,
    algorithm: &'a str,
    digest: String,
    size_bytes: u64,
}

pub fn run(args: &Args, global: Global) -> Result<Outcome, Failure> {
    let opened = args.source.open(&args.image, None, global)?;
    let algorithm = Algorithm::from(args.algorithm);
    let disk = NamedDisk { disk: opened.disk.as_ref(), path: args.image.shown() };
    let digest = job::run(global, "hashing", |progress| {
        digest(disk, algorithm, args.threads.workers_at_least(MIN_READERS), progress)
    })?;
    if global.json {
        let size_bytes = opened.disk.geometry().size_bytes;
        let report = Report { r#type: "digest", algorithm: algorithm.name(), digest: digest.to_hex(), size_bytes };
        output::print_json_line(&report)?;
    } else {
        let name = escape::printable(&args.image.to_string());
        output::print(&format!("{}  {name}\n", digest.to_hex()))?;
    }
    Ok(if opened.is_incomplete() { Outcome::Incomplete } else { Outcome::Done })
}
