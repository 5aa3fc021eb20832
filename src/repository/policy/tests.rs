//! What policies keep.

use proptest::prelude::*;

use super::*;

fn time(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

/// Judges snapshots of these times, numbered from 0; says which are kept, and why.
fn kept(policy: &Policy, times: &[&str]) -> Vec<(u8, Vec<Reason>)> {
    kept_in(policy, times, &TimeZone::UTC)
}

fn kept_in(policy: &Policy, times: &[&str], zone: &TimeZone) -> Vec<(u8, Vec<Reason>)> {
    let tags = BTreeMap::new();
    let candidates: Vec<Candidate<'_>> = (0..)
        .zip(times)
        .map(|(number, text)| Candidate {
            id: Id([number; 16]),
            time: text.parse().ok(),
            tags: &tags,
            is_incomplete: false,
        })
        .collect();
    let mut judged = judge(policy, &candidates, zone, time("2026-11-23T12:00:00Z")).complete;
    judged.retain(|(_, reasons)| !reasons.is_empty());
    let mut kept: Vec<(u8, Vec<Reason>)> = judged.into_iter().map(|(id, reasons)| (id.0[0], reasons)).collect();
    kept.sort();
    kept
}

#[test]
fn the_newest_of_each_day_is_kept() {
    let policy = Policy { daily: Count::Of(2), ..Policy::default() };
    let times = [
        "2026-11-19T01:00:00Z",
        "2026-11-20T01:00:00Z",
        "2026-11-20T23:59:59Z",
        "2026-11-22T00:00:00Z",
        "2026-11-22T00:00:01Z",
    ];
    // A day without snapshots takes no place.
    assert_eq!(kept(&policy, &times), [(2, vec![Reason::Daily]), (4, vec![Reason::Daily])]);
}

#[test]
fn a_rule_with_places_left_keeps_the_oldest() {
    let policy = Policy { monthly: Count::Of(5), ..Policy::default() };
    let times = ["2026-10-01T01:00:00Z", "2026-10-20T01:00:00Z", "2026-11-20T01:00:00Z"];
    let expected = [(0, vec![Reason::Oldest]), (1, vec![Reason::Monthly]), (2, vec![Reason::Monthly])];
    assert_eq!(kept(&policy, &times), expected);
}

#[test]
fn calendars_are_those_of_the_time_zone() {
    let policy = Policy { daily: Count::Of(9), ..Policy::default() };
    let times = ["2026-11-19T23:30:00Z", "2026-11-20T00:30:00Z", "2026-11-20T01:00:00Z"];
    assert_eq!(kept(&policy, &times).len(), 2);
    let east = TimeZone::fixed(jiff::tz::offset(1));
    // All on the 20th there: the newest, and the oldest because there are places left.
    assert_eq!(kept_in(&policy, &times, &east), [(0, vec![Reason::Oldest]), (2, vec![Reason::Daily])]);
    let half = TimeZone::fixed(jiff::tz::Offset::from_seconds(5 * 3600 + 1800).expect("an offset"));
    let policy = Policy { hourly: Count::Of(2), ..Policy::default() };
    let times = ["2026-11-20T00:10:00Z", "2026-11-20T00:20:00Z", "2026-11-20T00:40:00Z"];
    let kept = kept_in(&policy, &times, &half);
    assert_eq!(kept, [(1, vec![Reason::Hourly]), (2, vec![Reason::Hourly])]);
}

#[test]
fn weeks_and_years_do_not_mix() {
    let policy = Policy { weekly: Count::Of(1), yearly: Count::Of(1), ..Policy::default() };
    // The Friday and the Monday of one week, in two years.
    let times = ["2024-12-30T01:00:00Z", "2025-01-03T01:00:00Z"];
    assert_eq!(kept(&policy, &times), [(1, vec![Reason::Weekly, Reason::Yearly])]);
}

#[test]
fn spans_are_counted_from_the_newest() {
    let within = |text: &str| Policy { within: Some(text.parse().expect("a span")), ..Policy::default() };
    let times = ["2025-11-20T00:00:00Z", "2026-09-20T00:00:00Z", "2026-09-21T00:00:00Z", "2026-10-20T00:00:00Z"];
    let numbers = |policy: &Policy| kept(policy, &times).into_iter().map(|(number, _)| number).collect::<Vec<_>>();
    assert_eq!(numbers(&within("29d")), [2, 3]);
    assert_eq!(numbers(&within("1mo")), [1, 2, 3]);
    assert_eq!(numbers(&within("10mo29d23h")), [1, 2, 3]);
    assert_eq!(numbers(&within("1y")), [0, 1, 2, 3]);
    assert_eq!(numbers(&within("9999y")), [0, 1, 2, 3]);
    for wrong in ["", "d", "5", "5x", "5d3", "-1d", "1ä", "0d", "99999999999999999999d", "6m"] {
        assert!(wrong.parse::<Within>().is_err(), "{wrong}");
    }
}

#[test]
fn a_snapshot_of_the_future_takes_no_place() {
    let policy = Policy { last: Count::Of(1), ..Policy::default() };
    let times = ["2026-11-20T00:00:00Z", "2099-01-01T00:00:00Z", "nonsense", "2026-11-24T11:00:00Z"];
    let expected = [(1, vec![Reason::Future]), (2, vec![Reason::NoTime]), (3, vec![Reason::Last])];
    assert_eq!(kept(&policy, &times), expected);
    assert_eq!(kept(&policy, &times[..3])[0], (0, vec![Reason::Last]));
}

fn count() -> impl Strategy<Value = Count> {
    prop_oneof![3 => Just(Count::None), 3 => (0u32..6).prop_map(Count::Of), 1 => Just(Count::Unlimited)]
}

fn policies() -> impl Strategy<Value = Policy> {
    let counts = (count(), count(), count(), count(), count(), count());
    (counts, prop::option::of((0i64..3, 0i64..40))).prop_map(|(counts, within)| Policy {
        last: counts.0,
        hourly: counts.1,
        daily: counts.2,
        weekly: counts.3,
        monthly: counts.4,
        yearly: counts.5,
        within: within.map(|(months, days)| Within(Span::new().months(months).days(days))),
        tags: Vec::new(),
    })
}

/// Judges complete snapshots that are so many minutes older than a certain time.
fn keeps(policy: &Policy, ages: &[u32]) -> Vec<bool> {
    let complete: Vec<(u32, bool)> = ages.iter().map(|age| (*age, false)).collect();
    keeps_mixed(policy, &complete)
}

/// The same of snapshots each of which may be incomplete.
fn keeps_mixed(policy: &Policy, ages: &[(u32, bool)]) -> Vec<bool> {
    let tags = BTreeMap::new();
    let now = time("2026-11-23T12:00:00Z");
    let at = |age: u32| Timestamp::from_second(now.as_second() - i64::from(age) * 60).expect("a time");
    let candidates: Vec<Candidate<'_>> = (0u8..)
        .zip(ages)
        .map(|(number, (age, is_incomplete))| Candidate {
            id: Id([number; 16]),
            time: Some(at(*age)),
            tags: &tags,
            is_incomplete: *is_incomplete,
        })
        .collect();
    let mut kept = vec![false; ages.len()];
    for (id, reasons) in judge(policy, &candidates, &TimeZone::UTC, now).rows() {
        kept[usize::from(id.0[0])] = !reasons.is_empty();
    }
    kept
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn the_newest_complete_and_the_newest_incomplete_stay(
        policy in policies(),
        ages in prop::collection::vec((0u32..2_000_000, any::<bool>()), 1..60),
    ) {
        let kept = keeps_mixed(&policy, &ages);
        for list in [false, true] {
            let newest = ages.iter().filter(|(_, of)| *of == list).map(|(age, _)| age).min();
            let stays = |(age, kept): (&(u32, bool), &bool)| Some(&age.0) == newest && age.1 == list && *kept;
            prop_assert!(newest.is_none() || ages.iter().zip(&kept).any(stays));
        }
    }

    #[test]
    fn no_complete_snapshot_goes_because_of_an_incomplete_one(
        policy in policies(),
        ages in prop::collection::vec((0u32..2_000_000, any::<bool>()), 1..60),
    ) {
        let mixed = keeps_mixed(&policy, &ages);
        let kept: Vec<bool> = ages.iter().zip(mixed).filter(|((_, is_incomplete), _)| !is_incomplete).map(|(_, kept)| kept).collect();
        let alone: Vec<u32> = ages.iter().filter(|(_, is_incomplete)| !is_incomplete).map(|(age, _)| *age).collect();
        prop_assert_eq!(kept, keeps(&policy, &alone));
    }

    #[test]
    fn incomplete_snapshots_do_not_pile_up(
        policy in policies(),
        ages in prop::collection::vec((0u32..2_000_000, any::<bool>()), 1..60),
    ) {
        // No more than if they were complete, the one newest apart.
        let count = |kept: &[bool]| kept.iter().filter(|kept| **kept).count();
        let incomplete: Vec<u32> = ages.iter().filter(|(_, is_incomplete)| *is_incomplete).map(|(age, _)| *age).collect();
        let mixed = keeps_mixed(&policy, &ages);
        let kept: Vec<bool> = ages.iter().zip(mixed).filter(|((_, is_incomplete), _)| *is_incomplete).map(|(_, kept)| kept).collect();
        prop_assert!(count(&kept) <= count(&keeps(&policy, &incomplete)));
    }

    #[test]
    fn a_policy_that_says_something_keeps_the_newest(policy in policies(), ages in prop::collection::vec(0u32..2_000_000, 1..60)) {
        let kept = keeps(&policy, &ages);
        let newest = ages.iter().min().expect("one");
        let keeps_newest = ages.iter().zip(&kept).any(|(age, kept)| age == newest && *kept);
        prop_assert!(keeps_newest);
        prop_assert!(!policy.is_empty() || kept.iter().filter(|kept| **kept).count() == 1);
    }

    #[test]
    fn more_places_keep_no_less(policy in policies(), ages in prop::collection::vec(0u32..2_000_000, 1..60)) {
        let before = keeps(&policy, &ages);
        let more = Policy { daily: Count::Unlimited, ..policy };
        prop_assert!(before.iter().zip(keeps(&more, &ages)).all(|(before, after)| !before || after));
    }

    #[test]
    fn what_is_kept_is_kept_again(policy in policies(), ages in prop::collection::vec(0u32..2_000_000, 1..60)) {
        let kept = keeps(&policy, &ages);
        let left: Vec<u32> = ages.iter().zip(&kept).filter(|(_, kept)| **kept).map(|(age, _)| *age).collect();
        prop_assert!(keeps(&policy, &left).into_iter().all(|kept| kept));
    }

    #[test]
    fn one_place_per_rule(last in 0u32..9, ages in prop::collection::vec(0u32..2_000_000, 1..60)) {
        let policy = Policy { last: Count::Of(last), ..Policy::default() };
        let kept = keeps(&policy, &ages).into_iter().filter(|kept| *kept).count();
        prop_assert_eq!(kept, ages.len().min(last.max(1) as usize));
    }
}
