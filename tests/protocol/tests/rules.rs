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

fn with(budget: Budget) -> Sizes {
    Sizes { budget, ..Sizes::default() }
}

fn one_of_each() -> Sizes {
    with(budget())
}

fn two_of_each() -> Sizes {
    Sizes { writers: 2, pruners: 2, ..one_of_each() }
}

fn two_chunks() -> Sizes {
    Sizes { needs: TWO_CHUNKS, ..two_of_each() }
}

fn duplicates() -> Sizes {
    Sizes { budget: Budget { prunes: 3, duplicates: 1, ..budget() }, ..two_of_each() }
}

fn damage() -> Sizes {
    with(Budget { damages: 1, ..budget() })
}

fn hostile() -> Sizes {
    with(Budget { plants: 1, ..budget() })
}

fn mishap() -> Sizes {
    with(Budget { mishaps: 1, ..budget() })
}

fn void() -> Sizes {
    with(Budget { voids: 1, ..budget() })
}

fn lost_end() -> Sizes {
    Sizes { manifests: true, ..with(Budget { losses: 1, ..budget() }) }
}

fn manifests() -> Sizes {
    Sizes { manifests: true, ..one_of_each() }
}

fn power_cut() -> Sizes {
    Sizes { budget: Budget { cuts: 1, ..budget() }, ..two_of_each() }
}

fn tags() -> Sizes {
    Sizes { budget: Budget { tags: 1, ..budget() }, ..two_of_each() }
}

fn pages() -> Sizes {
    Sizes { pages: true, needs: PAGE_AND_CHUNK, packs: 6, ..one_of_each() }
}

fn damaged_pages() -> Sizes {
    Sizes { budget: damage().budget, ..pages() }
}

fn reader() -> Sizes {
    Sizes { two_pages: true, ..with(Budget { reads: 1, forgets: 0, ..budget() }) }
}

fn lease() -> Sizes {
    Sizes { leases: true, ..with(Budget { reads: 1, ..budget() }) }
}

/// The same, with the property that garbage can go.
fn garbage(sizes: Sizes) -> Sizes {
    Sizes { garbage: true, ..sizes }
}

macro_rules! rules {
    ($($name:ident: $rule:ident, $sizes:expr, $property:expr;)*) => {
        $(#[test] fn $name() { needed(Rule::$rule, $sizes, $property); })*
    };
}

rules! {
    w1_session_before_epochs: SessionBeforeEpochs, two_of_each(), NOTHING_LOST;
    w2_every_verdict_excluded: EveryVerdictExcluded, duplicates(), NOTHING_LOST;
    w2_condemned_excluded: CondemnedExcluded, two_of_each(), NOTHING_LOST;
    w3_entries_need_listed_packs: EntriesNeedListedPacks, mishap(), NOTHING_LOST;
    w3_pages_need_their_chunks: PagesNeedTheirChunks, pages(), NOTHING_LOST;
    w3_quarantined_not_usable: QuarantinedNotUsable, damage(), NEW_ONES_WHOLE;
    w3_trust_before_use: TrustBeforeUse, hostile(), NOTHING_LOST;
    w3_listed_packs_are_synced: ListedPacksAreSynced, power_cut(), NOTHING_LOST;
    w3_resume_by_listing: ResumeByListing, two_of_each(), NOTHING_LOST;
    w4_pack_names_are_new: PackNamesAreNew, two_of_each(), NOTHING_LOST;
    w5_packs_before_manifest: PacksBeforeManifest, two_of_each(), NOTHING_LOST;
    w6_ends_are_exclusive_for_the_fence: EndsAreExclusive, two_of_each(), ONE_END;
    w6_ends_are_exclusive_for_the_writer: EndsAreExclusive, two_of_each(), NOTHING_LOST;
    tags_are_writers: TagsAreWriters, tags(), NOTHING_LOST;
    p1_one_open_epoch: OneOpenEpoch, two_of_each(), NOTHING_LOST;
    p1_take_over: TakeOver, garbage(one_of_each()), GARBAGE_GOES;
    p2_dead_names_are_garbage: DeadNamesAreGarbage, garbage(duplicates()), GARBAGE_GOES;
    p4_losers_drop_their_plan: LosersDropTheirPlan, two_of_each(), NOTHING_LOST;
    p5_sessions_after_condemned: SessionsAfterCondemned, two_of_each(), NOTHING_LOST;
    p5_sessions_are_waited_for: SessionsAreWaitedFor, two_of_each(), NOTHING_LOST;
    p5_dead_sessions_are_fenced: DeadSessionsAreFenced, garbage(one_of_each()), GARBAGE_GOES;
    p5_whole_manifests_are_not_fenced: WholeManifestsAreNotFenced, lost_end(), ONE_END;
    p6_whole_manifests_are_visible: WholeManifestsAreVisible, manifests(), NOTHING_LOST;
    p6_whole_manifests_without_their_end_are_visible: WholeManifestsAreVisible, lost_end(), NOTHING_LOST;
    p6_snapshots_after_sessions: SnapshotsAfterSessions, two_of_each(), NOTHING_LOST;
    p6_snapshots_before_packs: SnapshotsBeforePacks, two_chunks(), NO_FALSE_ALARM;
    p6_stop_at_unreadable_page: StopAtUnreadablePage, damaged_pages(), NOTHING_LOST;
    p6_dead_names_are_not_kept: DeadNamesAreNotKept, duplicates(), NOTHING_LOST;
    p6_quarantined_not_kept: QuarantinedNotKept, damage(), NOTHING_LOST;
    p6_trust_before_kept: TrustBeforeKept, hostile(), NOTHING_LOST;
    p6_leases_are_visible: LeasesAreVisible, lease(), LEASES_HOLD;
    p6_void_ends_keep_chunks: VoidEndsKeepChunks, void(), NOTHING_LOST;
    void_objects_end: VoidObjectsEnd, garbage(void()), GARBAGE_GOES;
    p6_kept_packs_are_synced: KeptPacksAreSynced, power_cut(), NOTHING_LOST;
    p6_tombstones_are_synced: TombstonesAreSynced, power_cut(), NOTHING_LOST;
    p7_rescue: Rescue, two_of_each(), NOTHING_LOST;
    p7_verdict_is_exclusive: VerdictIsExclusive, two_of_each(), NOTHING_LOST;
    p8_only_the_verdict_is_deleted: OnlyTheVerdictIsDeleted, two_of_each(), NOTHING_LOST;
    p8_verdicts_stay: VerdictsStay, duplicates(), NOTHING_LOST;
    forget_tombstones_stay: TombstonesStay, two_of_each(), NOTHING_LOST;
    reader_every_epoch_object_counts: EveryEpochObjectCounts, reader(), NO_FALSE_ALARM;
    reader_looks_again: LookAgain, reader(), NO_FALSE_ALARM;
}

/// The order of W2 and W3 turned out to make no difference: verdicts stay, so what is read later excludes no less.
#[test]
fn w2_and_w3_in_either_order() {
    let model = Protocol { sizes: duplicates(), broken: Some(Rule::EpochsBeforePacks), keep_names: false };
    check::holds("W3 before W2", model);
}
