//! `tintype completions`

use clap::{Args as ClapArgs, CommandFactory};
use clap_complete::Shell;

use super::failure::Failure;
use super::{Cli, Outcome, output};

/// Print the completions for a shell
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The shell
    shell: Shell,
}

pub fn run(args: &Args) -> Result<Outcome, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "tintype", &mut script);
    output::print(&String::from_utf8_lossy(&script))?;
    Ok(Outcome::Done)
}
