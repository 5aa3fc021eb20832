//! `convert --layers`: a chain becomes a chain, file by file, from the base up.

use super::{Args, convert_one};
use crate::access::{Address, Opened};
use crate::cli::create_args::formats_that;
use crate::cli::failure::Failure;
use crate::cli::{Global, Outcome};
use crate::engine::layers::{Step, steps};

/// Converts every file of the chain. If one fails, those that were made before it are removed again.
pub fn convert_all(args: &Args, global: Global) -> Result<Outcome, Failure> {
    if args.source.partition.is_some() {
        return Err(Failure::usage("--layers keeps whole files; leave ?partition= out, or --layers"));
    }
    let format = args.to.create.format(Some(&args.target))?;
    if !format.create.as_ref().is_some_and(|create| create.parents) {
        let able = formats_that(|create| create.parents);
        return Err(Failure::usage(format!("{} has no backing files; formats that have them: {able}", format.name)));
    }
    let layers = match args.input.open_or_stream(&args.source, None, None, global)? {
        Opened::Disk(opened) => opened.layers,
        Opened::Pipe(..) => Vec::new(),
    };
    if layers.is_empty() {
        return Err(Failure::usage(format!("{} is no image file, and has no chain; leave --layers out", args.source)));
    }
    let steps = steps(&layers, &args.target)?;
    let mut made = Vec::new();
    let mut worst = Outcome::Done;
    for (index, step) in steps.iter().enumerate().rev() {
        match convert_one(&arguments(args, &steps, index, format.name), global) {
            Ok(Outcome::Done) => {}
            Ok(outcome) => worst = outcome,
            Err(failure) => {
                made.iter().for_each(|path| drop(std::fs::remove_file(path)));
                return Err(failure);
            }
        }
        made.push(step.target.as_path());
    }
    Ok(worst)
}

/// The arguments that convert one file of the chain over what has become of the one below it.
fn arguments(args: &Args, steps: &[Step], index: usize, format: &str) -> Args {
    let mut one = args.clone();
    if index > 0 {
        one.source = Address::of_path(&steps[index].source);
        one.input.format = Some(steps[index].format.to_owned());
        one.digest = None;
        one.to.force = false;
    }
    one.target.clone_from(&steps[index].target);
    if let Some(below) = steps.get(index + 1) {
        one.stands_for = Some(below.source.clone());
        one.backing = Some(below.target.clone());
        one.backing_format = Some(format.to_owned());
    }
    one
}
