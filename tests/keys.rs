//! Passwords, key files and recovery keys: which opens what, and what is said of it.

mod common;
#[path = "common/keys.rs"]
mod keys;

use common::cheap::CHEAP;
use common::{Run, Sandbox};
use keys::Keys;
use tintype::repository::store::LocalStore;
use tintype::repository::{DEFAULT_CHUNK_BYTES, InitOptions, Repository};
use tintype_formats::secrets::Secret;
use tintype_tin::recovery::RecoveryKey;

/// A repository whose slots are cheap to try, and its recovery key.
fn with_recovery_key() -> (Keys, String) {
    let keys = Keys(Sandbox::new());
    for name in ["admin", "new", "other"] {
        std::fs::write(keys.0.path(name), name).unwrap();
    }
    let key = RecoveryKey::generate().expect("a recovery key");
    let secret = Secret::passphrase(b"admin".to_vec());
    let (secret, recovery, chunk_bytes) = (Some(&secret), Some(&key), DEFAULT_CHUNK_BYTES);
    let options = InitOptions { chunk_bytes, secret, recovery, holder: "admin", cost: CHEAP };
    let store = Box::new(LocalStore::create(&keys.0.path("repo")).expect("a store"));
    Repository::init(store, None, &options).expect("a repository");
    let key = key.shown().to_string();
    std::fs::write(keys.0.path("recovery"), &key).unwrap();
    (keys, key)
}

fn opens(keys: &Keys, password: &str) -> Run {
    Run::of(&keys.command(&["snapshots"]).env("TINTYPE_PASSWORD", password).output().expect("run tintype"))
}

fn slots(keys: &Keys, who: &str) -> Vec<serde_json::Value> {
    keys.json(who, &["key", "list"])["keys"].as_array().expect("keys").clone()
}

#[test]
fn a_password_that_opens_a_key_already_is_refused_and_the_key_named() {
    let keys = Keys::new();
    std::fs::write(keys.0.path("file"), [0, 255, 10]).unwrap();
    keys.run("admin", &["key", "add", "--role", "use", "--name", "by file", "--new-key-file", "file"]).ok();
    let listed = slots(&keys, "admin");
    let id_of = |label: &str| listed.iter().find(|key| key["label"] == label).unwrap()["id"].as_str().unwrap();
    let add = ["key", "add", "--role", "write", "--name", "x"];
    for (option, secret, label) in [
        ("--new-password-file", "admin", "admin"),
        ("--new-password-file", "read", "read"),
        ("--new-key-file", "file", "by file"),
        ("--new-password-command", "echo write", "write"),
    ] {
        let refused = keys.run("admin", &[&add[..], &[option, secret]].concat()).fails(2, id_of(label));
        assert!(refused.stderr.contains(label), "{}", refused.stderr);
    }
    // So does a host that makes another password for itself, or changes its own: to another's, or to what it is.
    keys.run("write", &["key", "add", "--same", "--new-password-file", "admin"]).fails(2, id_of("admin"));
    keys.run("write", &["key", "passwd", "--new-password-file", "admin"]).fails(2, id_of("admin"));
    keys.run("write", &["key", "passwd", "--new-password-file", "write"]).fails(2, id_of("write"));
    assert_eq!(slots(&keys, "admin").len(), listed.len(), "nothing was made");
    // What opens nothing any more can be used again.
    keys.run("admin", &["key", "remove", id_of("read")]).ok();
    keys.run("admin", &["key", "add", "--role", "read", "--name", "x", "--new-password-file", "read"]).ok();
    keys.run("read", &["snapshots"]).ok();
}

/// One slot that nobody can try must not shut out the others.
#[test]
fn a_slot_that_cannot_be_tried_shuts_nobody_out() {
    let keys = Keys::new();
    let listed = slots(&keys, "admin");
    let folder = keys.0.path("repo/keys");
    let mut slot = std::fs::read(folder.join(listed[0]["id"].as_str().unwrap())).unwrap();
    // No lanes.
    slot[20..24].fill(0);
    std::fs::write(folder.join("00000000000000000000000000000000"), slot).unwrap();
    keys.run("admin", &["snapshots"]).ok();
    keys.run("new", &["snapshots"]).fails(4, "not whole");
}

#[test]
fn what_is_said_of_a_changed_password_is_true() {
    let keys = Keys::new();
    let passwd = |who: &str, new: &str| keys.run(who, &["key", "passwd", "--new-password-file", new]);
    let said = passwd("write", "new").ok().stderr;
    let id = slots(&keys, "new").iter().find(|key| key["own"] == true).unwrap()["id"].as_str().unwrap().to_owned();
    assert!(said.contains(&format!("the new password opens key {id}; the old one opens nothing any more")), "{said}");
    keys.run("new", &["snapshots"]).ok();
    keys.run("write", &["snapshots"]).fails(12, "opens none");
    // The label stays, and other keys of the same owner are named.
    keys.run("new", &["key", "add", "--same", "--label", "second", "--new-password-file", "write"]).ok();
    std::fs::write(keys.0.path("third"), "third").unwrap();
    let said = passwd("new", "third").ok().stderr;
    assert!(said.contains("other key of the same owner") && said.contains("(second)"), "{said}");
    assert!(slots(&keys, "third").iter().any(|key| key["own"] == true && key["label"] == "write"));
    keys.run("write", &["snapshots"]).ok();
}

#[test]
fn a_recovery_key_is_read_however_it_is_typed() {
    let (keys, key) = with_recovery_key();
    let letters = key.replace('-', "");
    assert_eq!((key.len(), letters.len()), (39, 32), "{key}");
    for typed in [key.clone(), key.to_uppercase(), letters.clone(), letters.to_uppercase(), key.replace('-', " ")] {
        opens(&keys, &typed).ok();
    }
    // A wrong letter is a typing error, whichever it is.
    for index in [0, 13, 31] {
        let mut wrong = letters.clone().into_bytes();
        wrong[index] = if wrong[index] == b'k' { b'm' } else { b'k' };
        opens(&keys, std::str::from_utf8(&wrong).unwrap()).fails(12, "typing error");
    }
    opens(&keys, &key[..37]).fails(12, "typing error");
    let other = with_recovery_key().1;
    opens(&keys, &other).fails(12, "of another repository");
    let wrong = opens(&keys, "a wrong password").fails(12, "opens none");
    assert!(!wrong.stderr.contains("typing error"), "{}", wrong.stderr);
}

/// Whoever has lost the password makes a new one with the recovery key, and has both then.
#[test]
fn a_new_password_made_with_the_recovery_key_leaves_it_as_it_is() {
    let (keys, key) = with_recovery_key();
    let said = keys.run("recovery", &["key", "passwd", "--new-password-file", "new"]).ok().stderr;
    assert!(said.contains("the recovery key still opens key"), "{said}");
    assert!(said.contains("other key of the same owner"), "the lost password: {said}");
    for password in ["new", "admin", &key] {
        opens(&keys, password).ok();
    }
    let listed = slots(&keys, "new");
    let labels: Vec<_> = listed.iter().filter(|key| key["label"] == "recovery").collect();
    assert_eq!((listed.len(), labels.len(), &labels[0]["kind"]), (3, 1, &"recovery".into()), "{listed:?}");
    assert!(listed.iter().any(|key| key["own"] == true && key["label"] != "recovery"));
}

#[test]
fn init_prints_a_recovery_key_that_opens_the_repository() {
    let keys = Keys(Sandbox::new());
    std::fs::write(keys.0.path("admin"), "admin").unwrap();
    let said = keys.run("admin", &["init", "repo"]).ok().stdout;
    let key = said.lines().next().and_then(|line| line.strip_prefix("recovery key: ")).expect("a recovery key");
    opens(&keys, &key.to_uppercase()).ok();
    opens(&keys, "admin").ok();
}

#[test]
fn a_new_recovery_key_replaces_the_old_one() {
    let (keys, old) = with_recovery_key();
    let before = slots(&keys, "admin").iter().find(|key| key["kind"] == "recovery").unwrap()["id"].clone();
    let renewed = keys.json("admin", &["key", "recovery"]);
    assert_eq!(renewed["replaces"], serde_json::json!([before]));
    let new = renewed["recovery_key"].as_str().unwrap();
    opens(&keys, new).ok();
    opens(&keys, &old).fails(12, "a newer one has replaced it");
    opens(&keys, "admin").ok();
    let run = keys.run("admin", &["key", "recovery"]).ok();
    assert!(run.stdout.starts_with("recovery key: ") && run.stderr.contains("the old one opens nothing"), "{run:?}");
    opens(&keys, new).fails(12, "opens none");
    let printed = run.stdout.lines().next().unwrap().trim_start_matches("recovery key: ").to_owned();
    // With the recovery key itself, as somebody does who has nothing else.
    std::fs::write(keys.0.path("recovery"), printed.to_uppercase()).unwrap();
    let last = keys.json("recovery", &["key", "recovery"]);
    opens(&keys, &printed).fails(12, "opens none");
    opens(&keys, last["recovery_key"].as_str().unwrap()).ok();
    // Only an administrator makes one, and where there was none it is the first.
    keys.run("admin", &["key", "add", "--role", "use", "--name", "x", "--new-password-file", "other"]).ok();
    keys.run("other", &["key", "recovery"]).fails(12, "role admin");
    let keys = Keys::new();
    let run = keys.run("admin", &["key", "recovery"]).ok();
    assert!(run.stderr.contains("there was none before"), "{}", run.stderr);
}

/// Backups that were made with a lost password go on under the same owner.
#[test]
fn the_recovery_key_is_the_same_owner() {
    let (keys, _) = with_recovery_key();
    keys.disk("a.raw", 4);
    keys.run("admin", &["backup", "a.raw"]).ok();
    let done = keys.json("recovery", &["backup", "a.raw"]);
    assert_eq!(done["stored_bytes"], 0);
    let listed = keys.json("admin", &["snapshots"]);
    assert_eq!(listed["snapshots"][0]["signing_key"], listed["snapshots"][1]["signing_key"]);
}

/// A key that nobody has read is none: the old one stays.
#[test]
fn a_recovery_key_that_nobody_could_read_replaces_none() {
    let (keys, recovery) = (Keys::new(), "recovery");
    let made = keys.run("admin", &["key", "recovery"]).ok().stdout;
    let key = made.lines().next().unwrap().strip_prefix("recovery key: ").unwrap().to_owned();
    std::fs::write(keys.0.path(recovery), key).unwrap();
    for args in [&["key", "recovery"][..], &["key", "recovery", "--json"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = keys.command(args);
        let output = command.env("TINTYPE_PASSWORD_FILE", "admin").stdout(writer).output().unwrap();
        Run::of(&output).fails(1, "could not be shown");
        let mut closed = std::process::Command::new("sh");
        closed
            .args(["-c", "exec \"$0\" key recovery >&-", env!("CARGO_BIN_EXE_tintype")])
            .current_dir(keys.0.path("."));
        closed.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        Run::of(&closed.output().unwrap()).fails(2, "shown to nobody");
    }
    let listed = keys.json(recovery, &["key", "list"])["keys"].as_array().unwrap().clone();
    assert_eq!(listed.iter().filter(|key| key["kind"] == "recovery").count(), 1, "{listed:?}");
}
