//! What the README says is so.

mod common;

use std::fs;
use std::path::Path;

use common::Sandbox;

fn readme() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).expect("README.md")
}

#[test]
fn the_table_of_formats_is_the_registry() {
    let sandbox = Sandbox::new();
    let table = sandbox.run(["formats", "--markdown"]).ok().stdout;
    assert!(readme().contains(&table), "the README's table of formats should be:\n{table}");
}

#[test]
fn the_first_command_converts_a_fixture() {
    let sandbox = Sandbox::new();
    let readme = readme();
    let line = readme
        .lines()
        .find(|line| line.trim_start().starts_with("cargo run --release -- convert"))
        .expect("the command");
    let words: Vec<_> = line.split_whitespace().skip(4).collect();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join(words[1]);
    sandbox.run(["convert", fixture.to_str().unwrap(), words[2]]).ok();
    sandbox.run(["compare", fixture.to_str().unwrap(), words[2]]).ok();
}

#[test]
fn every_command_in_the_examples_exists() {
    let sandbox = Sandbox::new();
    let readme = readme();
    let commands = readme.lines().filter_map(|line| line.trim_start().strip_prefix("tintype "));
    let mut count = 0;
    for command in commands {
        let name = command.split_whitespace().next().expect("a command");
        sandbox.run([name, "--help"]).ok();
        count += 1;
    }
    assert!(count >= 10, "{count} examples");
}
