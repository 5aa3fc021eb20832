//! Index segments that are merged and deleted while others read them.

use tintype_protocol_model::check;
use tintype_protocol_model::index::{Index, IndexRule, Who};
use tintype_protocol_model::protocol::{NO_FALSE_ALARM, NOTHING_LOST};

#[test]
fn a_pruner_may_look_while_segments_are_merged() {
    check::holds("index, a pruner", Index { broken: None, compactions: 2, who: Who::Pruner });
}

#[test]
fn a_reader_may_look_while_segments_are_merged() {
    check::holds("index, a reader", Index { broken: None, compactions: 2, who: Who::Reader });
}

fn needed(rule: IndexRule, who: Who, property: &'static str) {
    check::falls(&format!("{rule:?}"), Index { broken: Some(rule), compactions: 2, who }, property);
}

#[test]
fn unnamed_packs_are_asked() {
    needed(IndexRule::UnnamedPacksAreAsked, Who::Pruner, NOTHING_LOST);
}

#[test]
fn packs_are_named_whole() {
    needed(IndexRule::PacksAreNamedWhole, Who::Pruner, NOTHING_LOST);
}

#[test]
fn segments_are_trusted() {
    needed(IndexRule::SegmentsAreTrusted, Who::Pruner, NOTHING_LOST);
}

#[test]
fn readers_ask_tables() {
    needed(IndexRule::ReadersAskTables, Who::Reader, NO_FALSE_ALARM);
}
