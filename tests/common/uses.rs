//! Dependencies among the files of a crate, from their `use` lines and paths.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A file by the path of its module: `["cli", "output"]`. A crate's own file is the empty path.
pub type Module = Vec<String>;

/// What each file uses, without its tests.
pub type Uses = BTreeMap<Module, BTreeSet<Module>>;

/// The Rust files in a folder and below it.
pub fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
        if entry.is_dir() {
            files.extend(rust_files(&entry));
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            files.push(entry);
        }
    }
    files
}

/// Returns the files below the root of a crate, with the files that each uses.
pub fn uses_below(root: &Path) -> Uses {
    let of_tests = |module: &Module| module.iter().any(|part| part == "tests" || part == "testing");
    let files: BTreeMap<Module, PathBuf> =
        rust_files(root).into_iter().map(|file| (module_of(root, &file), file)).collect();
    let mut uses = Uses::new();
    for (module, file) in files.iter().filter(|(module, _)| !of_tests(module)) {
        let text = without_tests(&fs::read_to_string(file).expect("a source file"));
        let named = paths_in(&text).into_iter().filter_map(|path| absolute(module, path));
        let found = named.filter_map(|mut path| {
            while !files.contains_key(&path) {
                path.pop()?;
            }
            Some(path)
        });
        uses.insert(module.clone(), found.filter(|path| path != module && !of_tests(path)).collect());
    }
    uses
}

/// The files that use each other in a circle. A file and those of its own folder below it may.
pub fn circles(uses: &Uses) -> Vec<Vec<Module>> {
    let is_family = |a: &Module, b: &Module| a.starts_with(b) || b.starts_with(a);
    let reach = |from: &Module| {
        let (mut seen, mut waiting) = (BTreeSet::new(), vec![from.clone()]);
        while let Some(module) = waiting.pop() {
            let next = uses.get(&module).into_iter().flatten().filter(|next| !is_family(&module, next));
            waiting.extend(next.filter(|next| seen.insert((*next).clone())).cloned().collect::<Vec<_>>());
        }
        seen
    };
    let reached: BTreeMap<&Module, BTreeSet<Module>> = uses.keys().map(|module| (module, reach(module))).collect();
    let mut found: BTreeSet<Vec<Module>> = BTreeSet::new();
    for (module, all) in reached.iter().filter(|(module, all)| all.contains(**module)) {
        let circle = all.iter().filter(|other| reached.get(other).is_some_and(|back| back.contains(*module)));
        found.insert(circle.cloned().collect());
    }
    found.into_iter().collect()
}

fn module_of(root: &Path, file: &Path) -> Module {
    let relative = file.strip_prefix(root).expect("a file below the root").with_extension("");
    let mut module: Module = relative.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if ["mod", "lib", "main"].contains(&module.last().map_or("", String::as_str)) {
        module.pop();
    }
    module
}

/// The code of a file: no comments, and nothing that only tests have.
fn without_tests(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
    let mut kept = String::new();
    let mut lines = lines.into_iter();
    while let Some(line) = lines.next() {
        if !line.contains("#[cfg(test)]") {
            kept.push_str(line);
            kept.push('\n');
        } else if lines.next().is_some_and(|next| next.trim_end().ends_with('{') && next.contains("mod ")) {
            // The module of the tests is the last in a file.
            break;
        }
    }
    kept
}

/// The paths that the code names: those of `use` lines, and others that begin with `crate` or `super`.
fn paths_in(code: &str) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    let mut rest = String::new();
    for (index, piece) in code.split("use ").enumerate() {
        let is_use = index > 0 && !code[..offset_of(code, piece)].trim_end_matches("use ").ends_with(is_letter);
        match piece.split_once(';').filter(|_| is_use) {
            Some((tree, after)) => {
                expand(&[], tree, &mut paths);
                rest.push_str(after);
            }
            None => rest.push_str(piece),
        }
    }
    for start in ["crate::", "super::"] {
        for (at, _) in rest
            .match_indices(start)
            .filter(|(at, _)| !rest[..*at].ends_with([':', '_']) && !rest[..*at].ends_with(is_letter))
        {
            let path =
                rest[at..].split(|letter: char| !(is_letter(letter) || letter == ':')).next().unwrap_or_default();
            paths.push(path.split("::").filter(|part| !part.is_empty()).map(str::to_owned).collect());
        }
    }
    paths
}

fn offset_of(whole: &str, part: &str) -> usize {
    part.as_ptr() as usize - whole.as_ptr() as usize
}

fn is_letter(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || letter == '_'
}

/// `a::{b, c::{d, e}}` as `a::b`, `a::c::d`, `a::c::e`.
fn expand(before: &[String], tree: &str, paths: &mut Vec<Vec<String>>) {
    let tree = tree.trim();
    let Some((head, body)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap_or_default();
        let parts =
            path.split("::").map(|part| part.trim().to_owned()).filter(|part| !part.is_empty() && part != "self");
        // `self` at the begin of a path means this module; at its end the module itself.
        paths.push(before.iter().cloned().chain(parts).collect());
        return;
    };
    let head: Vec<String> = before
        .iter()
        .cloned()
        .chain(head.split("::").map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()))
        .collect();
    let body = body.rsplit_once('}').map_or(body, |(body, _)| body);
    let (mut depth, mut begin) = (0, 0);
    for (at, letter) in body.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                expand(&head, &body[begin..at], paths);
                begin = at + 1;
            }
            _ => {}
        }
    }
    if !body[begin..].trim().is_empty() {
        expand(&head, &body[begin..], paths);
    }
}

/// The path from the crate's root; nothing for those of other crates.
fn absolute(module: &Module, path: Vec<String>) -> Option<Module> {
    match path.first()?.as_str() {
        "crate" => Some(path[1..].to_vec()),
        "super" => {
            let ups = path.iter().take_while(|part| *part == "super").count();
            let base = module.get(..module.len().checked_sub(ups)?)?;
            Some(base.iter().chain(&path[ups..]).cloned().collect())
        }
        // A module of its own folder, or another crate: then there is no such file, and the file itself is all that is found.
        _ => Some(module.iter().chain(&path).cloned().collect()),
    }
}
