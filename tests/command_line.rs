//! The help texts and messages, as people see them. `TRYCMD=overwrite cargo test --test command_line` accepts new ones.

mod common;

use common::Sandbox;

#[test]
fn messages_are_as_reviewed() {
    trycmd::TestCases::new().case("tests/cli/*/*.toml");
}

#[test]
fn the_manual_has_one_page_for_each_command() {
    let sandbox = Sandbox::new();
    sandbox.run(["man", "--output", "man"]).ok();
    let mut pages: Vec<_> = std::fs::read_dir(sandbox.path("man"))
        .unwrap()
        .map(|page| page.unwrap().file_name().into_string().unwrap())
        .collect();
    pages.sort_unstable();
    let commands = |args: &[&str]| {
        let help = sandbox.run(args).ok().stdout;
        let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
        let names = lines.map(|line| line.split_whitespace().next().unwrap().to_owned());
        names.filter(|name| *name != "help").collect::<Vec<_>>()
    };
    let mut expected = vec!["tintype.1".to_owned()];
    for name in commands(&["help"]) {
        expected.extend(commands(&["help", &name]).iter().map(|part| format!("tintype-{name}-{part}.1")));
        expected.push(format!("tintype-{name}.1"));
    }
    expected.sort_unstable();
    assert_eq!(pages, expected);
}
