//! `tintype man`

use std::path::PathBuf;

use clap::{Args as ClapArgs, CommandFactory};
use clap_mangen::Man;

use super::failure::Failure;
use super::{Cli, Global, Outcome, output};
use crate::error::{Error, OnPath as _};

/// Print the manual page of a command, or write all of them into a folder
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The command; the page of tintype itself if none is given
    command: Option<String>,
    /// Write all pages into this folder
    #[arg(long, value_name = "DIR", conflicts_with = "command")]
    output: Option<PathBuf>,
}

pub fn run(args: &Args, global: Global) -> Result<Outcome, Failure> {
    if global.json {
        return Err(Failure::usage("a manual page is no JSON document: man has no --json"));
    }
    // The help command would have a page for each command again.
    let mut root = Cli::command().disable_help_subcommand(true);
    root.build();
    if let Some(folder) = &args.output {
        std::fs::create_dir_all(folder).map_err(|cause| Error::io("create the folder", cause)).on_path(folder)?;
        clap_mangen::generate_to(root, folder)
            .map_err(|cause| Error::io("write the manual pages", cause))
            .on_path(folder)?;
        return Ok(Outcome::Done);
    }
    let command = match &args.command {
        None => root,
        Some(name) => root
            .find_subcommand(name)
            .cloned()
            .ok_or_else(|| Failure::usage(format!("there is no command \"{}\"", name.escape_debug())))?,
    };
    let mut page = Vec::new();
    Man::new(command).render(&mut page).map_err(|cause| Error::io("make the manual page", cause))?;
    output::print(&String::from_utf8_lossy(&page))?;
    Ok(Outcome::Done)
}
