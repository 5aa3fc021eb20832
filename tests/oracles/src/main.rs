//! Reads a disk image with a format crate that other people wrote, and prints the digest of what the guest sees.
//!
//! ```text
//! oracle READER IMAGE     prints "<sha256 of the guest content> <size in bytes>", or fails with exit code 1
//!
//!   oracle ──copy──► oracle --inside READER COPY      under limits of memory and time
//!          ◄─pipe──  ...noise...                      (the crates print what they like)
//!                    oracle: <sha256> <size>          the last line
//! ```
//!
//! None of these crates can be trusted: they panic, crash, hang, print, and write into the image. So each reads in a
//! process of its own, and only its last line counts. `README.md` says which images each reads right.

#![forbid(unsafe_code)]

mod limits;
mod readers;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use readers::Reader;

/// Stands before the answer, so that it is not mistaken for something that a crate printed.
const ANSWER_PREFIX: &str = "oracle: ";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--inside", reader, image] => answer_inside(reader, Path::new(image)),
        [reader, image] => answer(reader, Path::new(image)).map(|line| println!("{line}")),
        _ => Err(format!("usage: oracle {} IMAGE", readers::names().join("|"))),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("oracle: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Reads in this very process, which is the inner one.
fn answer_inside(name: &str, image: &Path) -> Result<(), String> {
    limits::limit_this_process().map_err(|cause| format!("set limits: {cause}"))?;
    let (digest, size_bytes) = reader_named(name)?.digest(image)?;
    println!("\n{ANSWER_PREFIX}{digest} {size_bytes}");
    Ok(())
}

/// Reads in a process of its own, and gives the line that it answers.
fn answer(name: &str, image: &Path) -> Result<String, String> {
    let reader = reader_named(name)?;
    let image = image.canonicalize().map_err(|cause| format!("open {}: {cause}", image.display()))?;
    let copy = if reader.writes_into_its_source { Some(copy_of(&image)?) } else { None };
    let path = copy.as_ref().map_or(image.clone(), |copy| copy.path().to_path_buf());
    let output = run_inside(name, &path, &folder_of(&image))?;
    output
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix(ANSWER_PREFIX))
        .map(str::to_owned)
        .ok_or_else(|| format!("{name} gave no answer"))
}

fn reader_named(name: &str) -> Result<&'static Reader, String> {
    readers::find(name).ok_or_else(|| format!("no reader {name}: {}", readers::names().join(", ")))
}

/// Starts the inner process in the image's own folder, where some crates look for backing files.
fn run_inside(name: &str, image: &Path, folder: &Path) -> Result<String, String> {
    let program = std::env::current_exe().map_err(|cause| format!("find this program: {cause}"))?;
    let child = Command::new(program)
        .args(["--inside", name])
        .arg(image)
        .current_dir(folder)
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|cause| format!("start {name}: {cause}"))?;
    let output = limits::wait_with_deadline(child)?;
    if !output.status.success() {
        return Err(format!("{name} failed: {}", output.status));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn folder_of(image: &Path) -> PathBuf {
    image.parent().map_or_else(PathBuf::new, Path::to_path_buf)
}

/// Copies an image, holes and all, to a place that is removed afterwards.
fn copy_of(image: &Path) -> Result<tempfile::NamedTempFile, String> {
    let copy = tempfile::NamedTempFile::new().map_err(|cause| format!("make a temporary file: {cause}"))?;
    let status = Command::new("cp")
        .arg("--sparse=always")
        .arg(image)
        .arg(copy.path())
        .status()
        .map_err(|cause| format!("copy {}: {cause}", image.display()))?;
    if status.success() { Ok(copy) } else { Err(format!("copy {}: {status}", image.display())) }
}
