//! The protocol holds, in every interleaving, at sizes that take seconds. Each test adds one thing to the others.

use tintype_protocol_model::protocol::*;
use tintype_protocol_model::state::Budget;
use tintype_protocol_model::{Protocol, check};

fn holds(name: &str, sizes: Sizes) {
    check::holds(name, Protocol { sizes, ..Protocol::default() });
}

fn budget() -> Budget {
    Budget { writes: 2, prunes: 2, forgets: 1, ..Budget::default() }
}

fn two_of_each() -> Sizes {
    Sizes { writers: 2, pruners: 2, budget: budget(), ..Sizes::default() }
}

#[test]
fn one_writer_and_one_pruner() {
    holds("one writer, one pruner", Sizes { garbage: true, ..Sizes::default() });
}

#[test]
fn two_writers() {
    let budget = Budget { writes: 3, forgets: 2, ..budget() };
    holds("two writers", Sizes { writers: 2, sessions: 4, packs: 5, garbage: true, budget, ..Sizes::default() });
}

#[test]
fn two_pruners() {
    let budget = Budget { prunes: 3, ..budget() };
    holds("two pruners", Sizes { pruners: 2, garbage: true, budget, ..Sizes::default() });
}

#[test]
fn puts_and_deletes_that_come_again() {
    let budget = Budget { prunes: 3, duplicates: 1, ..budget() };
    holds("duplicates", Sizes { budget, ..two_of_each() });
}

#[test]
fn repacked_packs() {
    let budget = Budget { repacks: 1, ..budget() };
    holds("repacks", Sizes { packs: 5, budget, ..two_of_each() });
}

#[test]
fn snapshots_that_share_a_chunk() {
    holds("two chunks", Sizes { needs: TWO_CHUNKS, ..two_of_each() });
}

#[test]
fn lists_of_two_pages() {
    holds("lists of two pages", Sizes { two_pages: true, sessions: 4, ..two_of_each() });
}

#[test]
fn map_pages_and_repacking() {
    let budget = Budget { repacks: 1, ..budget() };
    let sizes = Sizes { packs: 7, pages: true, needs: PAGE_AND_CHUNK, garbage: true, budget, ..Sizes::default() };
    holds("map pages", sizes);
}

#[test]
fn quarantine_and_a_hostile_writer() {
    let budget = Budget { damages: 1, plants: 1, ..budget() };
    holds("damage", Sizes { pruners: 2, garbage: true, budget, ..Sizes::default() });
}

#[test]
fn damaged_map_pages() {
    let budget = Budget { damages: 1, ..budget() };
    let sizes = Sizes { packs: 6, pages: true, needs: PAGE_AND_CHUNK, garbage: true, budget, ..Sizes::default() };
    holds("damaged map pages", sizes);
}

#[test]
fn a_reader_that_looks_once() {
    let budget = Budget { writes: 1, reads: 1, repacks: 1, ..budget() };
    holds("a reader", Sizes { two_pages: true, packs: 6, budget, ..Sizes::default() });
}

#[test]
fn a_reader_with_a_lease() {
    let budget = Budget { writes: 1, forgets: 2, reads: 1, ..budget() };
    holds("a lease", Sizes { pruners: 2, leases: true, budget, ..Sizes::default() });
}

#[test]
fn another_manifest_for_a_snapshot() {
    let budget = Budget { forgets: 2, tags: 1, ..budget() };
    holds("tags", Sizes { budget, ..two_of_each() });
}

#[test]
fn manifests_without_an_end() {
    holds("manifests before their ends", Sizes { manifests: true, garbage: true, ..Sizes::default() });
    let budget = Budget { prunes: 3, losses: 1, ..budget() };
    holds("lost ends", Sizes { manifests: true, garbage: true, budget, ..Sizes::default() });
    holds("two of each", Sizes { manifests: true, ..two_of_each() });
}

#[test]
fn manifests_of_tags_without_an_end() {
    let budget = Budget { forgets: 2, tags: 1, losses: 1, ..budget() };
    holds("tags and lost ends", Sizes { manifests: true, pruners: 2, budget, ..Sizes::default() });
}

#[test]
fn packs_that_are_deleted_by_hand() {
    holds("mishaps", Sizes { budget: Budget { mishaps: 1, ..budget() }, ..two_of_each() });
}

#[test]
fn power_cuts() {
    let budget = Budget { cuts: 1, ..budget() };
    holds("power cuts", Sizes { garbage: true, budget, ..two_of_each() });
}

#[test]
fn objects_that_do_not_count() {
    let budget = Budget { prunes: 3, voids: 1, ..budget() };
    holds("void objects", Sizes { pruners: 2, garbage: true, budget, ..Sizes::default() });
}
