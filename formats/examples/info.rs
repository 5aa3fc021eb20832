//! Prints what an image is: `cargo run --example info -- web.vmdk`

use std::process::ExitCode;

use tintype_formats::local::{self, Opening};

fn main() -> ExitCode {
    let Some(path) = std::env::args_os().nth(1) else {
        eprintln!("usage: info IMAGE");
        return ExitCode::from(2);
    };
    match local::info(path, &Opening::default()) {
        Ok(info) => {
            println!("{}: {} bytes", info.format, info.geometry.size_bytes);
            info.warnings.iter().for_each(|warning| println!("warning: {warning}"));
            ExitCode::SUCCESS
        }
        Err(cause) => {
            eprintln!("{cause}");
            ExitCode::FAILURE
        }
    }
}
