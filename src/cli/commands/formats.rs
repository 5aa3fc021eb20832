//! `tintype formats`

use clap::Args as ClapArgs;
use serde::Serialize;
use tintype_formats::format::Format;
use tintype_formats::registry::FORMATS;

use crate::cli::failure::Failure;
use crate::cli::{Global, Outcome, output};

/// List the formats, and what can be done with each
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Print the table of the README
    #[arg(long)]
    markdown: bool,
}

#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    title: &'a str,
    extensions: &'a [&'a str],
    reads: &'a str,
    creates: bool,
    subformats: &'a [&'a str],
    compressions: &'a [&'a str],
    parents: bool,
    streamable: &'a [&'a str],
    options: Vec<OptionRow<'a>>,
}

#[derive(Serialize)]
struct OptionRow<'a> {
    name: &'a str,
    values: &'a str,
    help: &'a str,
}

pub fn run(args: &Args, mut global: Global) -> Result<Outcome, Failure> {
    if args.markdown {
        global = global.without_json("--json and --markdown are two forms of the same list: choose one")?;
    }
    let rows: Vec<_> = FORMATS.iter().copied().map(row).collect();
    if global.json {
        output::print_json(&rows)?;
    } else if args.markdown {
        output::print(&markdown(&rows))?;
    } else {
        output::print(&rows.iter().map(text).collect::<Vec<_>>().join("\n"))?;
    }
    Ok(Outcome::Done)
}

fn row(format: &'static Format) -> Row<'static> {
    let create = format.create.as_ref();
    let option = |option: &'static tintype_formats::format::OptionHelp| OptionRow {
        name: option.name,
        values: option.values,
        help: option.help,
    };
    Row {
        name: format.name,
        title: format.title,
        extensions: format.extensions,
        reads: format.reads,
        creates: create.is_some(),
        subformats: create.map_or(&[], |create| create.subformats),
        compressions: create.map_or(&[], |create| create.compressions),
        parents: create.is_some_and(|create| create.parents),
        streamable: create.map_or(&[], |create| create.streamable),
        options: create.map_or(&[][..], |create| create.options).iter().map(option).collect(),
    }
}

/// What can be created, in a few words.
fn creates(row: &Row<'_>) -> String {
    if !row.creates {
        return "–".to_owned();
    }
    let mut words: Vec<String> = row.subformats.iter().map(|name| (*name).to_owned()).collect();
    words.extend(row.compressions.iter().map(|name| format!("{name} compression")));
    if row.parents {
        words.push("with a backing file".to_owned());
    }
    match row.streamable {
        [] => (),
        all if all.len() == row.subformats.len() => words.push("to a pipe".to_owned()),
        some => words.push(format!("{} to a pipe", some.join(", "))),
    }
    words.join(", ")
}

fn text(row: &Row<'_>) -> String {
    let mut text = format!("{}: {} (.{})\n", row.name, row.title, row.extensions.join(", ."));
    text += &format!("  read:    {}\n  create:  {}\n", row.reads, creates(row));
    for option in &row.options {
        text += &format!("  -o {}={}\n      {}\n", option.name, option.values, option.help);
    }
    text
}

fn markdown(rows: &[Row<'_>]) -> String {
    let mut text = "| format | name | read | create | options (`-o`) |\n|---|---|---|---|---|\n".to_owned();
    for row in rows {
        let options: Vec<_> = row.options.iter().map(|option| format!("`{}=`", option.name)).collect();
        let options = if options.is_empty() { "–".to_owned() } else { options.join(", ") };
        text += &format!("| {} | `{}` | {} | {} | {options} |\n", row.title, row.name, row.reads, creates(row));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_says_its_default_in_the_same_way() {
        for create in FORMATS.iter().filter_map(|format| format.create.as_ref()) {
            for option in create.options {
                let default = option.values.split_once(" (default: ").and_then(|(_, rest)| rest.strip_suffix(')'));
                assert!(default.is_some_and(|default| !default.is_empty()), "{}={}", option.name, option.values);
            }
        }
    }
}
