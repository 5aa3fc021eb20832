//! The rules of the protocol, each of which can be left out to see what it is there for.

/// A rule; the step of the specification that it belongs to stands in front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// W1 before W2: a session is there before the epochs are read.
    SessionBeforeEpochs,
    /// W2 before W3: the epochs are read before the packs are listed.
    EpochsBeforePacks,
    /// W2: every verdict is excluded, not the newest only.
    EveryVerdictExcluded,
    /// W2: what an epoch without verdict condemned is excluded.
    CondemnedExcluded,
    /// W3: an entry or a hint counts only if its pack is listed.
    EntriesNeedListedPacks,
    /// W3: a page counts as stored only if all that it refers to is.
    PagesNeedTheirChunks,
    /// W3: a quarantined pack is not built on.
    QuarantinedNotUsable,
    /// W3: a chunk of an author that is not trusted is not built on.
    TrustBeforeUse,
    /// W3: what a dead writer stored is found by listing, never through a journal.
    ResumeByListing,
    /// W3: the names of listed packs are synced before they are built on.
    ListedPacksAreSynced,
    /// W4: a pack name is never used for other bytes, nor for the same again.
    PackNamesAreNew,
    /// W5: everything is durable before the manifest.
    PacksBeforeManifest,
    /// W6: an end marker is created exclusively.
    EndsAreExclusive,
    /// A tag, which gives a snapshot another manifest, is a writer, and gives up unless all is usable.
    TagsAreWriters,
    /// P1: an open epoch is taken over; no other one begins before.
    OneOpenEpoch,
    /// P1: an open epoch is taken over at all.
    TakeOver,
    /// P2: names on old verdicts that are there again are garbage.
    DeadNamesAreGarbage,
    /// P4: who lost throws the plan away.
    LosersDropTheirPlan,
    /// P5: sessions are listed after the condemned were published.
    SessionsAfterCondemned,
    /// P5: every open session is waited for, or fenced.
    SessionsAreWaitedFor,
    /// P5: who does not end is fenced.
    DeadSessionsAreFenced,
    /// P5: a session whose manifest is whole is neither waited for nor fenced.
    WholeManifestsAreNotFenced,
    /// P6: a whole manifest without an end is as good as visible.
    WholeManifestsAreVisible,
    /// P6: snapshots are read after the sessions have ended.
    SnapshotsAfterSessions,
    /// P6: snapshots are read before the packs are listed.
    SnapshotsBeforePacks,
    /// P6: a snapshot whose end marker is there and does not count keeps its chunks.
    VoidEndsKeepChunks,
    /// An end that does not count ends the session; an epoch whose object does not count is over, with nothing deleted.
    VoidObjectsEnd,
    /// P6: a page that cannot be read stops the pruner.
    StopAtUnreadablePage,
    /// P6: names on older verdicts are not kept.
    DeadNamesAreNotKept,
    /// P6: quarantined packs are not kept, in that they cannot stand in for others.
    QuarantinedNotKept,
    /// P6: a pack of an author that is not trusted cannot stand in for others.
    TrustBeforeKept,
    /// P6: the snapshot that a lease names is as good as visible.
    LeasesAreVisible,
    /// P6: the names of listed packs are synced before they stand in for others.
    KeptPacksAreSynced,
    /// P6: tombstones are synced before anything is deleted because of them.
    TombstonesAreSynced,
    /// P7: condemned packs with used chunks are taken out.
    Rescue,
    /// P7: the verdict is created exclusively.
    VerdictIsExclusive,
    /// P8: exactly the verdict's packs are deleted.
    OnlyTheVerdictIsDeleted,
    /// P8: verdicts are never deleted.
    VerdictsStay,
    /// Forget creates a tombstone, and does not delete the manifest.
    TombstonesStay,
    /// Readers: anything new under `epochs/` means to look again, not only a new epoch's number.
    EveryEpochObjectCounts,
    /// Readers: what is not found is looked for again if there is anything new under `epochs/`.
    LookAgain,
}
