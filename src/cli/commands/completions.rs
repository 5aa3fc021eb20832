//! `tintype completions`

use clap::{Args as ClapArgs, CommandFactory};
use clap_complete::Shell;

use crate::cli::failure::Failure;
use crate::cli::{Cli, Global, Outcome, output};

/// Print the completions for a shell
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The shell
    shell: Shell,
}

pub fn run(args: &Args, global: Global) -> Result<Outcome, Failure> {
    global.without_json("a script for a shell is no JSON document: completions has no --json")?;
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "tintype", &mut script);
    output::print(&String::from_utf8_lossy(&script))?;
    Ok(Outcome::Done)
}
