//! The `tintype` command.

fn main() -> std::process::ExitCode {
    tintype::cli::main()
}
