//! `tintype measure`

use clap::Args as ClapArgs;
use serde::Serialize;

use crate::access::Address;
use crate::cli::create_args::{CreateArgs, parse_bytes};
use crate::cli::failure::Failure;
use crate::cli::source_args::{SourceArgs, address_parser};
use crate::cli::{Global, Outcome, output, units};
use crate::engine::map::touched_bytes;
use tintype_formats::Geometry;

/// Say how large the image of a disk would become in another format, without compression
#[derive(Debug, ClapArgs)]
#[command(override_usage = "tintype measure -O <FORMAT> [OPTIONS] <IMAGE | --size <BYTES>>")]
pub struct Args {
    /// The disk
    #[arg(value_name = "IMAGE", value_parser = address_parser(), required_unless_present = "size")]
    image: Option<Address>,
    /// Size of an empty disk, in place of an image
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes, conflicts_with = "image")]
    size: Option<u64>,
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    create: CreateArgs,
}

#[derive(Serialize)]
struct Report {
    required_bytes: u64,
    fully_allocated_bytes: u64,
}

pub fn run(args: &Args, global: Global) -> Result<Outcome, Failure> {
    let format = args.create.format(None)?;
    let measure = match &args.image {
        Some(image) => {
            let opened = args.source.open(image, None, global)?;
            let disk = opened.disk.as_ref();
            format.measure(&args.create.options(format, for_platform(args, disk.geometry())?)?, &|unit_bytes| {
                touched_bytes(disk, unit_bytes)
            })?
        }
        None => {
            let geometry = Geometry::of_512_byte_sectors(args.size.unwrap_or_default(), 512);
            format.measure(&args.create.options(format, for_platform(args, geometry)?)?, &|_| Ok(0))?
        }
    };
    let report =
        Report { required_bytes: measure.required_bytes, fully_allocated_bytes: measure.fully_allocated_bytes };
    if global.json {
        output::print_json(&report)?;
    } else {
        let (required, full) =
            (units::exact_size(report.required_bytes), units::exact_size(report.fully_allocated_bytes));
        output::print(&format!("required:         {required}\nfully allocated:  {full}\n"))?;
    }
    Ok(Outcome::Done)
}

fn for_platform(args: &Args, disk: Geometry) -> Result<Geometry, Failure> {
    Ok(Geometry { size_bytes: args.create.size_for_platform(disk)?, ..disk })
}
