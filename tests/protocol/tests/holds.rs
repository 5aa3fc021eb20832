//! Writers, pruners, forgets, crashes, fences, takeover, duplicated requests.

use tintype_protocol_model::protocol::*;
use tintype_protocol_model::state::Budget;
use tintype_protocol_model::{Protocol, check};

fn protocol(sizes: Sizes) -> Protocol {
    Protocol { sizes, ..Protocol::default() }
}

#[test]
fn one_writer_and_one_pruner() {
    check::holds("one writer, one pruner", protocol(Sizes { garbage: true, ..Sizes::default() }));
}

#[test]
fn two_writers() {
    let budget = Budget { writes: 3, prunes: 2, forgets: 2, ..Budget::default() };
    let sizes = Sizes { writers: 2, epochs: 2, sessions: 4, packs: 5, budget, ..Sizes::default() };
    check::holds("two writers", protocol(sizes));
}

#[test]
fn two_pruners() {
    let budget = Budget { writes: 2, prunes: 3, forgets: 1, ..Budget::default() };
    let sizes = Sizes { pruners: 2, epochs: 2, budget, ..Sizes::default() };
    check::holds("two pruners", protocol(sizes));
}

#[test]
fn duplicates() {
    let budget = Budget { writes: 2, prunes: 3, forgets: 1, duplicates: 1, ..Budget::default() };
    let sizes = Sizes { writers: 2, pruners: 2, epochs: 2, budget, ..Sizes::default() };
    check::holds("duplicates", protocol(sizes));
}

#[test]
fn repacks() {
    let budget = Budget { writes: 2, prunes: 3, forgets: 1, repacks: 1, ..Budget::default() };
    let sizes = Sizes { writers: 2, pruners: 2, epochs: 2, budget, packs: 5, ..Sizes::default() };
    check::holds("repacks", protocol(sizes));
}

#[test]
fn two_chunks() {
    let budget = Budget { writes: 2, prunes: 2, forgets: 1, repacks: 0, ..Budget::default() };
    let sizes = Sizes { writers: 2, pruners: 2, epochs: 2, needs: TWO_CHUNKS, budget, ..Sizes::default() };
    check::holds("two chunks", protocol(sizes));
}

#[test]
fn two_page_lists() {
    let budget = Budget { writes: 2, prunes: 2, forgets: 1, ..Budget::default() };
    let sizes = Sizes { writers: 2, pruners: 2, two_pages: true, budget, sessions: 4, ..Sizes::default() };
    check::holds("two pages", protocol(sizes));
}

#[test]
fn pages() {
    let budget = Budget { writes: 2, prunes: 2, forgets: 1, repacks: 1, ..Budget::default() };
    let sizes =
        Sizes { writers: 1, pruners: 1, packs: 7, pages: true, needs: PAGE_AND_CHUNK, budget, ..Sizes::default() };
    check::holds("pages", protocol(sizes));
}

#[test]
fn damage() {
    let budget = Budget { writes: 2, prunes: 2, forgets: 1, damages: 1, plants: 1, ..Budget::default() };
    let sizes = Sizes { writers: 1, pruners: 2, garbage: true, budget, ..Sizes::default() };
    check::holds("damage", protocol(sizes));
}

#[test]
fn readers() {
    let budget = Budget { writes: 1, prunes: 2, forgets: 1, reads: 1, repacks: 1, ..Budget::default() };
    let sizes = Sizes { writers: 1, pruners: 1, two_pages: true, budget, packs: 6, ..Sizes::default() };
    check::holds("readers", protocol(sizes));
}

#[test]
fn leases() {
    let budget = Budget { writes: 1, prunes: 2, forgets: 2, reads: 1, ..Budget::default() };
    let sizes = Sizes { writers: 1, pruners: 2, leases: true, budget, ..Sizes::default() };
    check::holds("leases", protocol(sizes));
}

#[test]
fn voids() {
    let budget = Budget { writes: 1, prunes: 2, forgets: 1, voids: 1, ..Budget::default() };
    let sizes = Sizes { writers: 1, pruners: 2, garbage: true, budget, ..Sizes::default() };
    check::holds("voids", protocol(sizes));
}

#[test]
fn tags() {
    let budget = Budget { writes: 2, prunes: 2, forgets: 2, tags: 1, ..Budget::default() };
    let sizes = Sizes { writers: 2, pruners: 2, budget, ..Sizes::default() };
    check::holds("tags", protocol(sizes));
}
