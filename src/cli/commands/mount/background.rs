//! A mount that goes on when its command has ended.
//!
//! The program starts itself a second time. That one does all the work, and writes a line to its standard output when the
//! mount is there: the first one waits for it, so that whatever fails before is told at the terminal, with the exit code.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, ExitStatus, Stdio};

use super::write_line;
use crate::cli::failure::Failure;
use crate::cli::{Global, Outcome, output};
use crate::error::{Error, Kind};

/// Says in the environment of the second program that it is it.
const CHILD_VARIABLE: &str = "TINTYPE_MOUNT_IN_BACKGROUND";

/// Whether this is the second program.
pub fn is_child() -> bool {
    std::env::var_os(CHILD_VARIABLE).is_some_and(|value| !value.is_empty())
}

/// Starts the program again, and waits until it has mounted.
pub fn start(global: Global) -> Result<Outcome, Failure> {
    let doing = |cause| Error::io("start tintype in the background", cause);
    let program = std::env::current_exe().map_err(doing)?;
    let mut command = Command::new(program);
    command.args(std::env::args_os().skip(1)).env(CHILD_VARIABLE, "1");
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(doing)?;
    let mut line = String::new();
    if let Some(output) = child.stdout.take() {
        BufReader::new(output).read_line(&mut line).map_err(doing)?;
    }
    if line.is_empty() {
        return Err(ended_early(child.wait().map_err(doing)?));
    }
    if !global.quiet || global.json {
        output::print(&line)?;
    }
    Ok(Outcome::Done)
}

/// Ends this program as the second one ended, which has said why.
fn ended_early(status: ExitStatus) -> Failure {
    match status.code() {
        Some(code) if code != 0 => std::process::exit(code),
        _ => Error::new(Kind::Io, format!("the program in the background ended with {status}")).into(),
    }
}

/// Lets go of the terminal, and tells the first program that the mount is there.
pub fn detach(line: &str) -> Result<(), Failure> {
    let doing = |cause: std::io::Error| Error::io("go on in the background", cause);
    let nothing = std::fs::File::options().read(true).write(true).open("/dev/null").map_err(doing)?;
    // Fails only for the leader of a group, which a program that was just started is not.
    let _ = rustix::process::setsid();
    std::env::set_current_dir("/").map_err(doing)?;
    // Whoever reads standard error waits for its end.
    rustix::stdio::dup2_stderr(&nothing).map_err(|errno| doing(errno.into()))?;
    write_line(line).map_err(doing)?;
    rustix::stdio::dup2_stdout(&nothing).map_err(|errno| doing(errno.into()))?;
    Ok(())
}
