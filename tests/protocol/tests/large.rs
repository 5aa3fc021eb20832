//! Larger sizes, which take minutes: `cargo test -p tintype-protocol-model --test large -- --ignored --nocapture`.

use tintype_protocol_model::index::{Index, Who};
use tintype_protocol_model::protocol::*;
use tintype_protocol_model::state::Budget;
use tintype_protocol_model::{Protocol, check};

fn protocol(sizes: Sizes) -> Protocol {
    Protocol { sizes, ..Protocol::default() }
}

#[test]
#[ignore = "minutes"]
fn three_epochs() {
    let budget = Budget { writes: 3, prunes: 4, forgets: 2, ..Budget::default() };
    let sizes = Sizes { writers: 2, pruners: 2, epochs: 3, sessions: 4, packs: 5, budget, ..Sizes::default() };
    check::holds("large: three epochs", protocol(sizes));
}

#[test]
#[ignore = "minutes"]
fn duplicates_and_repacks() {
    let budget = Budget { writes: 2, prunes: 3, forgets: 1, duplicates: 1, repacks: 1, ..Budget::default() };
    let sizes = Sizes { pruners: 2, packs: 5, budget, ..Sizes::default() };
    check::holds("large: duplicates and repacks", protocol(sizes));
}

#[test]
#[ignore = "minutes"]
fn two_chunks() {
    let budget = Budget { writes: 3, prunes: 2, forgets: 1, ..Budget::default() };
    let sizes = Sizes { writers: 2, pruners: 2, sessions: 4, packs: 5, needs: TWO_CHUNKS, budget, ..Sizes::default() };
    check::holds("large: two chunks", protocol(sizes));
}

#[test]
#[ignore = "minutes"]
fn lists_of_two_pages() {
    let budget = Budget { writes: 2, prunes: 2, forgets: 2, ..Budget::default() };
    let sizes = Sizes { writers: 2, pruners: 2, sessions: 4, packs: 6, two_pages: true, budget, ..Sizes::default() };
    check::holds("large: lists of two pages", protocol(sizes));
}

#[test]
#[ignore = "minutes"]
fn pages_and_damage() {
    let budget = Budget { writes: 2, prunes: 2, forgets: 1, repacks: 1, damages: 1, plants: 1, ..Budget::default() };
    let sizes = Sizes { pruners: 2, packs: 7, pages: true, needs: PAGE_AND_CHUNK, budget, ..Sizes::default() };
    check::holds("large: pages and damage", protocol(sizes));
}

#[test]
#[ignore = "minutes"]
fn readers() {
    let budget = Budget { writes: 2, prunes: 2, forgets: 1, reads: 2, repacks: 1, ..Budget::default() };
    let sizes = Sizes { packs: 6, two_pages: true, sessions: 4, budget, ..Sizes::default() };
    check::holds("large: readers", protocol(sizes));
}

#[test]
#[ignore = "minutes"]
fn leases() {
    let budget = Budget { writes: 2, prunes: 3, forgets: 2, reads: 2, duplicates: 1, ..Budget::default() };
    let sizes = Sizes { writers: 2, pruners: 2, leases: true, sessions: 5, packs: 5, budget, ..Sizes::default() };
    check::holds("large: leases", protocol(sizes));
}

#[test]
#[ignore = "minutes"]
fn tags_voids_and_mishaps() {
    let budget = Budget { writes: 2, prunes: 2, forgets: 2, tags: 1, voids: 1, mishaps: 1, ..Budget::default() };
    let sizes = Sizes { writers: 2, pruners: 2, sessions: 4, budget, ..Sizes::default() };
    check::holds("large: tags, voids, mishaps", protocol(sizes));
}

#[test]
#[ignore = "minutes"]
fn power_cuts() {
    let budget = Budget { writes: 3, prunes: 2, forgets: 2, cuts: 1, ..Budget::default() };
    let sizes = Sizes { writers: 2, pruners: 2, sessions: 4, budget, ..Sizes::default() };
    check::holds("large: power cuts", protocol(sizes));
}

#[test]
#[ignore = "minutes"]
fn index() {
    check::holds("large: index, a pruner", Index { broken: None, compactions: 3, who: Who::Pruner });
}
