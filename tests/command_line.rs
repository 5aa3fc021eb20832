//! The help texts and messages, as people see them. `TRYCMD=overwrite cargo test --test command_line` accepts new ones.

#[test]
fn messages_are_as_reviewed() {
    trycmd::TestCases::new().case("tests/cli/*/*.toml");
}
