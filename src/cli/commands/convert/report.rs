//! What `convert` says when it is done.

use std::path::Path;

use serde::Serialize;
use tintype_formats::Format;

use super::Args;
use crate::access::LIVE;
use crate::cli::escape::printable;
use crate::cli::failure::Failure;
use crate::cli::target_args::{Unreadable, shown_rate, shown_writing};
use crate::cli::{Global, output, units};
use crate::engine::write_disk::Written;

#[derive(Serialize)]
struct Summary<'a> {
    r#type: &'static str,
    target: String,
    format: &'a str,
    size_bytes: u64,
    stored_bytes: u64,
    file_bytes: Option<u64>,
    digest: Option<String>,
    verified: bool,
    unreadable: Vec<Unreadable>,
    #[serde(skip_serializing_if = "Option::is_none")]
    consistency: Option<&'static str>,
    elapsed_s: f64,
}

/// Prints the digest, what could not be read, and a summary.
pub fn report(args: &Args, format: &Format, written: &Written, is_live: bool, global: Global) -> Result<(), Failure> {
    let converted = &written.converted;
    if global.json {
        return output::print_json_line(&Summary {
            r#type: "summary",
            target: args.target.display().to_string(),
            format: format.name,
            size_bytes: converted.size_bytes,
            stored_bytes: converted.stored_bytes,
            file_bytes: written.file_bytes,
            digest: converted.digest.as_ref().map(|digest| format!("{}:{}", digest.algorithm.name(), digest.to_hex())),
            verified: converted.verified,
            unreadable: converted.unreadable.iter().map(Unreadable::from).collect(),
            consistency: is_live.then_some(LIVE),
            elapsed_s: written.elapsed.as_secs_f64(),
        });
    }
    converted.unreadable.iter().for_each(|range| output::say(&Unreadable::from(range).to_string()));
    if let Some(digest) = &converted.digest {
        print_digest(args, &digest.to_hex())?;
    }
    if !global.quiet {
        say_summary(args, written);
    }
    Ok(())
}

/// On standard output, unless the disk went there.
fn print_digest(args: &Args, digest: &str) -> Result<(), Failure> {
    let line = format!("{digest}  {}", printable(&args.source.to_string()));
    if args.target == Path::new("-") {
        output::say(&line);
        return Ok(());
    }
    output::print(&(line + "\n"))
}

fn shown_target(args: &Args) -> String {
    let is_output = args.target == Path::new("-");
    if is_output { "standard output".to_owned() } else { args.target.display().to_string() }
}

fn say_summary(args: &Args, written: &Written) {
    let converted = &written.converted;
    output::say(&format!(
        "{}: disk of {}, {}, {}",
        printable(&shown_target(args)),
        units::size(converted.size_bytes),
        shown_writing(written),
        shown_rate(converted.size_bytes, written.elapsed)
    ));
}
