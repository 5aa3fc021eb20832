//! Index segments that are merged and deleted while others read them.

use tintype_protocol_model::check;
use tintype_protocol_model::index::{Index, IndexRule};
use tintype_protocol_model::protocol::{NO_FALSE_ALARM, NOTHING_LOST};

#[test]
fn holds() {
    check::holds("index", Index { broken: None, compactions: 2 });
}

fn needed(rule: IndexRule, property: &'static str) {
    check::falls(&format!("{rule:?}"), Index { broken: Some(rule), compactions: 2 }, property);
}

#[test]
fn unnamed_packs_are_asked() {
    needed(IndexRule::UnnamedPacksAreAsked, NOTHING_LOST);
}

#[test]
fn packs_are_named_whole() {
    needed(IndexRule::PacksAreNamedWhole, NOTHING_LOST);
}

#[test]
fn segments_are_trusted() {
    needed(IndexRule::SegmentsAreTrusted, NOTHING_LOST);
}

#[test]
fn readers_ask_tables() {
    needed(IndexRule::ReadersAskTables, NO_FALSE_ALARM);
}
