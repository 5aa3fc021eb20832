//! `convert --layers`: a chain becomes a chain, file by file, from the base up.

use std::path::{Path, PathBuf};

use super::{Args, convert_one};
use crate::cli::address::Address;
use crate::cli::create_args::formats_that;
use crate::cli::failure::Failure;
use crate::cli::{Global, Outcome};

/// A file of the chain, and what becomes of it.
struct Step {
    source: PathBuf,
    format: &'static str,
    target: PathBuf,
}

/// Converts every file of the chain. The top one becomes the target; each other keeps its name, with the target's
/// extension, in the target's folder. If one fails, those that were made before it are removed again.
pub fn convert_all(args: &Args, global: Global) -> Result<Outcome, Failure> {
    let format = args.to.create.format(Some(&args.target))?;
    if !format.create.as_ref().is_some_and(|create| create.parents) {
        let able = formats_that(|create| create.parents);
        return Err(Failure::usage(format!("{} has no backing files; formats that have them: {able}", format.name)));
    }
    let steps = steps(args, global)?;
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

/// The files of the chain, from the top down.
fn steps(args: &Args, global: Global) -> Result<Vec<Step>, Failure> {
    let opened = args.input.open_to_copy(&args.source, None, global)?;
    let extension = args.target.extension().unwrap_or_default();
    let mut steps: Vec<Step> = Vec::new();
    for (index, (name, info)) in opened.layers.iter().enumerate() {
        let source = PathBuf::from(name);
        let name = source.file_name().map(|name| Path::new(name).with_extension(extension)).unwrap_or_default();
        let target = if index == 0 { args.target.clone() } else { args.target.with_file_name(name) };
        let exists = index > 0 && target.symlink_metadata().is_ok();
        if exists || steps.iter().any(|step| step.target == target) {
            let message = format!("\"{}\" of the chain would become \"{}\"", source.display(), target.display());
            let reason = if exists { "which exists already" } else { "as another one does" };
            return Err(Failure::usage(format!("{message}, {reason}")));
        }
        steps.push(Step { source, format: info.format, target });
    }
    Ok(steps)
}

/// The arguments that convert one file of the chain over what has become of the one below it.
fn arguments(args: &Args, steps: &[Step], index: usize, format: &str) -> Args {
    let mut one = args.clone();
    if index > 0 {
        one.source = Address { path: steps[index].source.clone(), stored: None, disk: None, snapshot: None };
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
