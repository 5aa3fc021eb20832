//! `tintype man`

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Args as ClapArgs, Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use crate::cli::failure::Failure;
use crate::cli::{Cli, Global, Outcome, output};
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
    global.without_json("a manual page is no JSON document: man has no --json")?;
    // The help command would have a page for each command again.
    let mut root = Cli::command().disable_help_subcommand(true);
    root.build();
    if let Some(folder) = &args.output {
        std::fs::create_dir_all(folder).map_err(|cause| Error::io("create the folder", cause)).on_path(folder)?;
        write_all(root, folder)?;
        return Ok(Outcome::Done);
    }
    let command = match &args.command {
        None => root,
        Some(name) => root
            .find_subcommand(name)
            .cloned()
            .ok_or_else(|| Failure::usage(format!("there is no command \"{}\"", name.escape_debug())))?,
    };
    let page = page(command).map_err(|cause| Error::io("make the manual page", cause))?;
    output::print(&String::from_utf8_lossy(&page))?;
    Ok(Outcome::Done)
}

/// Writes the pages of a command and of all below it.
fn write_all(command: Command, folder: &Path) -> Result<(), Failure> {
    for command in command.get_subcommands().filter(|command| !command.is_hide_set()).cloned() {
        write_all(command, folder)?;
    }
    let path = folder.join(Man::new(command.clone()).get_filename());
    let written = page(command).and_then(|page| std::fs::write(&path, page));
    Ok(written.map_err(|cause| Error::io("write a manual page", cause)).on_path(&path)?)
}

fn page(command: Command) -> io::Result<Vec<u8>> {
    let environment = environment(&command);
    let mut page = Vec::new();
    Man::new(command).render(&mut page)?;
    environment.to_writer(&mut page)?;
    Ok(page)
}

/// The variables that a command reads.
fn environment(command: &Command) -> Roff {
    let mut variables = BTreeMap::new();
    for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
        let name = arg.get_env().and_then(OsStr::to_str);
        let value = arg.get_long().map_or_else(|| arg.to_string(), |long| format!("--{long}"));
        variables.extend(name.map(|name| (name, format!("The value of {value}, where that is not typed."))));
    }
    if variables.contains_key("TINTYPE_PASSWORD_FILE") || command.has_subcommands() {
        let text = "The password of the repository, or of an encrypted image. --password-file, --password-command and --key-file, \
                    and their variables, come before it. A password in the environment can be read by other programs of the same \
                    user: a file is safer.";
        variables.insert("TINTYPE_PASSWORD", text.to_owned());
    }
    let mut roff = Roff::new();
    roff.control("SH", ["ENVIRONMENT"]);
    for (name, text) in variables {
        roff.control("TP", []).text([bold(name)]).text([roman(text)]);
    }
    roff.control("PP", []).text([roman(
        "A variable that is set to nothing counts as not set. A typed option overrides every variable that contradicts it. A flag \
         that a variable switches on is switched off for one run by setting the variable to nothing, or to false.",
    )]);
    roff
}
