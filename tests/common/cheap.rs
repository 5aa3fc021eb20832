//! Encrypted repositories whose passwords are cheap to try: a command takes a third of a second less.

#![allow(dead_code)]

use std::path::Path;
use std::sync::Arc;

use tintype::repository::store::LocalStore;
use tintype::repository::{DEFAULT_CHUNK_BYTES, InitOptions, Repository};
use tintype_formats::secrets::Secret;
use tintype_tin::keys::Role;
use tintype_tin::slot::Cost;

/// What the tests can wait for, many times.
pub const CHEAP: Cost = Cost { memory_kib: 8, passes: 1, lanes: 1 };

/// Makes what `init --no-recovery-key --reserve 0` makes.
pub fn init(folder: &Path, password: &str) -> Arc<Repository> {
    init_with(folder, password, DEFAULT_CHUNK_BYTES)
}

/// The same, with chunks of another length.
pub fn init_with(folder: &Path, password: &str, chunk_bytes: u64) -> Arc<Repository> {
    let store = Box::new(LocalStore::create(folder).expect("a store"));
    let secret = Secret::passphrase(password.as_bytes().to_vec());
    let options = InitOptions { chunk_bytes, secret: Some(&secret), recovery: None, holder: "admin", cost: CHEAP };
    Repository::init(store, None, &options).expect("a repository")
}

/// Gives somebody a key; the password is the name.
pub fn add(repository: &Repository, role: Role, name: &str) {
    let secret = Secret::passphrase(name.as_bytes().to_vec());
    repository.add_holder(role, name, &secret, name, CHEAP).expect("a key");
}
