//! What each role may do, command by command: what it may not ends with exit code 12 and changes nothing.

mod common;
#[path = "common/keys.rs"]
mod keys;

use std::collections::BTreeSet;

use keys::Keys;
use tintype_tin::keys::Role;

const ROLES: [&str; 5] = ["write", "read", "use", "maintain", "admin"];

/// A command, and its exit code for each role, in the order of [`ROLES`].
const TABLE: &[(&str, [i32; 5])] = &[
    // What reads the content of disks.
    ("restore of-ROLE x.raw --force", [12, 0, 0, 12, 0]),
    ("restore of-admin x.raw --force", [12, 0, 0, 12, 0]),
    ("convert ::of-ROLE x.raw --force", [12, 0, 0, 12, 0]),
    ("convert ::of-admin x.raw --force", [12, 0, 0, 12, 0]),
    ("digest ::of-ROLE", [12, 0, 0, 12, 0]),
    ("digest ::of-admin", [12, 0, 0, 12, 0]),
    ("compare ::of-ROLE a.raw", [12, 0, 0, 12, 0]),
    ("serve ::of-ROLE --socket s", [12, -1, -1, 12, -1]),
    ("mount ::of-ROLE m", [12, -1, -1, 12, -1]),
    ("mount repo m", [12, -1, -1, 12, -1]),
    ("verify --boot of-ROLE", [12, -1, -1, 12, -1]),
    ("verify --depth plain", [12, 0, 0, 12, 0]),
    // What reads maps and what stands beside them.
    ("verify --depth stored", [0, 0, 0, 0, 0]),
    ("snapshots", [0, 0, 0, 0, 0]),
    ("info ::of-ROLE", [0, 0, 0, 0, 0]),
    ("info ::of-admin", [12, 0, 0, 0, 0]),
    ("map ::of-ROLE", [0, 0, 0, 0, 0]),
    ("diff of-ROLE of-ROLE", [0, 0, 0, 0, 0]),
    ("stats", [0, 0, 0, 0, 0]),
    ("key list", [0, 0, 0, 0, 0]),
    // What adds.
    ("backup a.raw --name new", [0, 12, 0, 0, 0]),
    ("backup a.raw --name new --dry-run", [0, 12, 0, 0, 0]),
    ("import exported.tin", [12, 12, 0, 12, 0]),
    ("import foreign.tin", [0, 12, 0, 0, 0]),
    // What forgets, prunes and repairs.
    ("tag of-ROLE@latest --set a=b", [12, 12, 12, 0, 0]),
    ("forget doomed@latest", [12, 12, 12, 0, 0]),
    ("forget --keep-last 1", [12, 12, 12, 0, 0]),
    ("forget --keep-last 1 --dry-run", [12, 12, 12, 0, 0]),
    ("prune", [12, 12, 12, 0, 0]),
    ("prune --dry-run", [12, 12, 12, 0, 0]),
    ("repair", [12, 12, 12, 0, 0]),
    // Keys.
    ("key add --role write --name x --new-password-file new", [12, 12, 12, 12, 0]),
    ("key remove SLOT", [12, 12, 12, 12, 0]),
    ("key rotate", [12, 12, 12, 12, 0]),
    ("key recovery", [12, 12, 12, 12, 0]),
    ("key add --same --new-password-file new", [0, 12, 0, 0, 0]),
    ("key passwd --new-password-file new", [0, 0, 0, 0, 0]),
];

fn repository() -> Keys {
    let keys = Keys::new();
    common::cheap::add(&keys.open("admin"), Role::Maintain, "maintain");
    keys.disk("a.raw", 8);
    for role in ROLES {
        let writer = if role == "read" { "admin" } else { role };
        keys.run(writer, &["backup", "a.raw", "--name", &format!("of-{role}")]).ok();
    }
    keys.run("admin", &["backup", "a.raw", "--name", "doomed"]).ok();
    keys.run("admin", &["export", "of-admin", "exported.tin"]).ok();
    keys.0.run(["convert", "a.raw", "foreign.tin"]).ok();
    std::fs::create_dir(keys.0.path("m")).unwrap();
    keys.0.tool("cp", ["-a", "repo", "untouched"]);
    keys
}

/// The next command finds what this one found.
fn put_back(keys: &Keys) {
    keys.0.tool("rm", ["-rf", "repo", "cache"]);
    keys.0.tool("cp", ["-a", "untouched", "repo"]);
}

/// The names of the objects that are there, but for leases and ledgers.
fn objects(keys: &Keys) -> BTreeSet<String> {
    let found = keys
        .0
        .tool("find", ["repo", "-type", "f", "-not", "-path", "repo/sessions/*", "-not", "-path", "repo/ledger/*"]);
    found.lines().map(str::to_owned).collect()
}

#[test]
fn every_role_may_do_what_it_promises_and_nothing_else() {
    let keys = repository();
    let before = objects(&keys);
    for (command, codes) in TABLE {
        for (role, code) in ROLES.iter().zip(codes) {
            // What lasts until it is stopped is only tried where it is refused.
            if *code < 0 {
                continue;
            }
            let slot = || {
                let listed = keys.json("admin", &["key", "list"]);
                let writer = listed["keys"].as_array().unwrap().iter().find(|key| key["role"] == "write").unwrap();
                writer["id"].as_str().unwrap().to_owned()
            };
            let words: Vec<String> = command
                .split(' ')
                .map(|word| if word == "SLOT" { slot() } else { word.replace("ROLE", role) })
                .collect();
            let run = keys.run(role, &words.iter().map(String::as_str).collect::<Vec<_>>());
            let said = format!("{role}: {command}: {}{}", run.stdout, run.stderr);
            assert_eq!(run.code, Some(*code), "{said}");
            let after = objects(&keys);
            if *code == 12 {
                assert!(run.stderr.contains("role") || run.stderr.contains("key"), "{said}");
                assert_eq!(after, before, "{said}");
                assert!(!keys.0.path("x.raw").exists(), "{said}");
            }
            // But for its own password.
            if *role == "read" && !command.starts_with("key passwd") {
                assert_eq!(after, before, "{said}");
            }
            let _ = std::fs::remove_file(keys.0.path("x.raw"));
            if after != before {
                put_back(&keys);
            }
        }
    }
}
