//! Makes another image of an image, by the names of both: `cargo run --example convert -- web.vmdk web.qcow2`

use std::process::ExitCode;

use tintype_formats::local::{self, Opening};

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let [source, target] = arguments.as_slice() else {
        eprintln!("usage: convert SOURCE TARGET");
        return ExitCode::from(2);
    };
    match local::open(source, &Opening::default()).and_then(|disk| local::write(&disk, target)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(cause) => {
            eprintln!("{cause}");
            ExitCode::FAILURE
        }
    }
}
