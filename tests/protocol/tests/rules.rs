//! Each rule is there because the check finds harm without it.

use tintype_protocol_model::protocol::*;
use tintype_protocol_model::state::Budget;
use tintype_protocol_model::{Protocol, Rule, check};

/// Checks that without the rule the property falls.
fn needed(rule: Rule, sizes: Sizes, property: &'static str) {
    let model = Protocol { sizes, broken: Some(rule), keep_names: check::traces() };
    check::falls(&format!("{rule:?}"), model, property);
}

fn budget() -> Budget {
    Budget { writes: 2, prunes: 2, forgets: 1, ..Budget::default() }
}

fn two_of_each() -> Sizes {
    Sizes { writers: 2, pruners: 2, budget: budget(), ..Sizes::default() }
}

fn with_duplicates() -> Sizes {
    let budget = Budget { prunes: 3, duplicates: 1, ..budget() };
    Sizes { writers: 2, pruners: 2, budget, ..Sizes::default() }
}

fn with_damage() -> Sizes {
    Sizes { budget: Budget { damages: 1, ..budget() }, ..Sizes::default() }
}

fn with_voids() -> Sizes {
    Sizes { budget: Budget { voids: 1, ..budget() }, ..Sizes::default() }
}

fn with_pages() -> Sizes {
    Sizes { pages: true, needs: PAGE_AND_CHUNK, packs: 6, budget: budget(), ..Sizes::default() }
}

macro_rules! rules {
    ($($name:ident: $rule:ident, $sizes:expr, $property:expr;)*) => {
        $(#[test] fn $name() { needed(Rule::$rule, $sizes, $property); })*
    };
}

rules! {
    w1_session_before_epochs: SessionBeforeEpochs, two_of_each(), NOTHING_LOST;
    w2_every_verdict_excluded: EveryVerdictExcluded, with_duplicates(), NOTHING_LOST;
    w2_condemned_excluded: CondemnedExcluded, two_of_each(), NOTHING_LOST;
    w3_entries_need_listed_packs: EntriesNeedListedPacks, Sizes { budget: Budget { mishaps: 1, ..budget() }, ..Sizes::default() }, NOTHING_LOST;
    w3_pages_need_their_chunks: PagesNeedTheirChunks, with_pages(), NOTHING_LOST;
    w3_quarantined_not_usable: QuarantinedNotUsable, with_damage(), NEW_ONES_WHOLE;
    w3_trust_before_use: TrustBeforeUse, Sizes { budget: Budget { plants: 1, ..budget() }, ..Sizes::default() }, NOTHING_LOST;
    w3_resume_by_listing: ResumeByListing, two_of_each(), NOTHING_LOST;
    w4_pack_names_are_new: PackNamesAreNew, two_of_each(), NOTHING_LOST;
    w5_packs_before_manifest: PacksBeforeManifest, two_of_each(), NOTHING_LOST;
    w6_ends_are_exclusive_for_the_fence: EndsAreExclusive, two_of_each(), ONE_END;
    w6_ends_are_exclusive_for_the_writer: EndsAreExclusive, two_of_each(), NOTHING_LOST;
    tags_are_writers: TagsAreWriters, Sizes { budget: Budget { tags: 1, ..budget() }, ..two_of_each() }, NOTHING_LOST;
    p1_one_open_epoch: OneOpenEpoch, two_of_each(), NOTHING_LOST;
    p1_take_over: TakeOver, Sizes { garbage: true, ..Sizes::default() }, GARBAGE_GOES;
    p2_dead_names_are_garbage: DeadNamesAreGarbage, Sizes { garbage: true, ..with_duplicates() }, GARBAGE_GOES;
    p4_losers_drop_their_plan: LosersDropTheirPlan, two_of_each(), NOTHING_LOST;
    p5_sessions_after_condemned: SessionsAfterCondemned, two_of_each(), NOTHING_LOST;
    p5_sessions_are_waited_for: SessionsAreWaitedFor, two_of_each(), NOTHING_LOST;
    p5_dead_sessions_are_fenced: DeadSessionsAreFenced, Sizes { garbage: true, ..Sizes::default() }, GARBAGE_GOES;
    p6_snapshots_after_sessions: SnapshotsAfterSessions, two_of_each(), NOTHING_LOST;
    p6_snapshots_before_packs: SnapshotsBeforePacks, Sizes { needs: TWO_CHUNKS, ..two_of_each() }, NO_FALSE_ALARM;
    p6_stop_at_unreadable_page: StopAtUnreadablePage, Sizes { budget: Budget { damages: 1, ..budget() }, ..with_pages() }, NOTHING_LOST;
    p6_dead_names_are_not_kept: DeadNamesAreNotKept, with_duplicates(), NOTHING_LOST;
    p6_quarantined_not_kept: QuarantinedNotKept, with_damage(), NOTHING_LOST;
    p6_trust_before_kept: TrustBeforeKept, Sizes { budget: Budget { plants: 1, ..budget() }, ..Sizes::default() }, NOTHING_LOST;
    p6_leases_are_visible: LeasesAreVisible, Sizes { leases: true, budget: Budget { reads: 1, ..budget() }, ..Sizes::default() }, LEASES_HOLD;
    p6_void_ends_keep_chunks: VoidEndsKeepChunks, with_voids(), NOTHING_LOST;
    void_objects_end: VoidObjectsEnd, Sizes { garbage: true, ..with_voids() }, GARBAGE_GOES;
    p7_rescue: Rescue, two_of_each(), NOTHING_LOST;
    p7_verdict_is_exclusive: VerdictIsExclusive, two_of_each(), NOTHING_LOST;
    p8_only_the_verdict_is_deleted: OnlyTheVerdictIsDeleted, two_of_each(), NOTHING_LOST;
    p8_verdicts_stay: VerdictsStay, with_duplicates(), NOTHING_LOST;
    forget_tombstones_stay: TombstonesStay, two_of_each(), NOTHING_LOST;
    reader_every_epoch_object_counts: EveryEpochObjectCounts, Sizes { two_pages: true, budget: Budget { reads: 1, ..budget() }, ..Sizes::default() }, NO_FALSE_ALARM;
    reader_looks_again: LookAgain, Sizes { two_pages: true, budget: Budget { reads: 1, ..budget() }, ..Sizes::default() }, NO_FALSE_ALARM;
}

/// The order of W2 and W3 turned out to make no difference: verdicts stay, so what is read later excludes no less.
#[test]
fn w2_and_w3_in_either_order() {
    let model = Protocol { sizes: with_duplicates(), broken: Some(Rule::EpochsBeforePacks), keep_names: false };
    check::holds("W3 before W2", model);
}
