//! A map of what was read of a disk: every byte of it has a state, and neighbours of one state are one area.

use std::collections::BTreeMap;
use std::ops::Range;

/// Most areas of a map: about 50 MB of memory. A disk with more of them is given up.
pub const MAX_AREAS: usize = 1_000_000;

/// Most ranges in a report or a manifest. Where there are more, those that are closest are joined, across bytes that were read.
const MAX_LISTED: usize = 100_000;

/// What is known about an area. The letters are those of ddrescue's mapfile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Not read yet.
    NotTried,
    /// A large read failed: the edges may be readable.
    NotTrimmed,
    /// The edges were read: sectors inside may be readable.
    NotScraped,
    /// Sectors that failed one by one.
    Bad,
    /// Read, and stored.
    Finished,
}

impl State {
    /// The letter in a mapfile.
    pub fn letter(self) -> char {
        match self {
            State::NotTried => '?',
            State::NotTrimmed => '*',
            State::NotScraped => '/',
            State::Bad => '-',
            State::Finished => '+',
        }
    }

    /// The state of a mapfile's letter.
    pub fn of_letter(letter: &str) -> Option<State> {
        [State::NotTried, State::NotTrimmed, State::NotScraped, State::Bad, State::Finished]
            .into_iter()
            .find(|state| state.letter().encode_utf8(&mut [0; 4]) == letter)
    }
}

/// The states of all bytes of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AreaMap {
    size_bytes: u64,
    /// The beginning of each area, and its state; it ends where the next one begins. Neighbours differ.
    areas: BTreeMap<u64, State>,
}

impl AreaMap {
    /// A disk of this size that is in one state.
    pub fn new(size_bytes: u64, state: State) -> Self {
        let areas = if size_bytes > 0 { BTreeMap::from([(0, state)]) } else { BTreeMap::new() };
        AreaMap { size_bytes, areas }
    }

    /// Size of the disk in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Returns the areas in ascending order; they cover the disk.
    pub fn areas(&self) -> impl Iterator<Item = (Range<u64>, State)> {
        let ends = self.areas.keys().skip(1).copied().chain([self.size_bytes]);
        self.areas.iter().zip(ends).map(|((begin, state), end)| (*begin..end, *state))
    }

    /// Returns the areas of one state.
    pub fn areas_in(&self, wanted: State) -> Vec<Range<u64>> {
        self.areas().filter(|(_, state)| *state == wanted).map(|(range, _)| range).collect()
    }

    /// Returns the parts of a range, each with its state.
    pub fn parts_of(&self, range: Range<u64>) -> Vec<(Range<u64>, State)> {
        let first = self.areas.range(..=range.start).next_back().map(|(begin, _)| *begin);
        let mut parts: Vec<(Range<u64>, State)> = Vec::new();
        for (begin, state) in self.areas.range(first.unwrap_or(0)..range.end.max(first.unwrap_or(0))) {
            if let Some((last, _)) = parts.last_mut() {
                last.end = *begin;
            }
            parts.push(((*begin).max(range.start)..range.end.min(self.size_bytes), *state));
        }
        parts.retain(|(part, _)| part.start < part.end);
        parts
    }

    /// Sum of the bytes that are not finished.
    pub fn unfinished_bytes(&self) -> u64 {
        self.areas().filter(|(_, state)| *state != State::Finished).map(|(range, _)| range.end - range.start).sum()
    }

    /// Sum of the bytes in one state.
    pub fn bytes_in(&self, wanted: State) -> u64 {
        self.areas().filter(|(_, state)| *state == wanted).map(|(range, _)| range.end - range.start).sum()
    }

    /// Returns the ranges that are not finished, ascending; joined across good bytes where there are very many.
    pub fn unfinished(&self) -> Vec<Range<u64>> {
        self.unfinished_within(MAX_LISTED)
    }

    fn unfinished_within(&self, max_ranges: usize) -> Vec<Range<u64>> {
        let mut gap_bytes = 0;
        loop {
            let mut joined: Vec<Range<u64>> = Vec::new();
            for (range, _) in self.areas().filter(|(_, state)| *state != State::Finished) {
                match joined.last_mut() {
                    Some(last) if range.start - last.end <= gap_bytes => last.end = range.end,
                    _ => joined.push(range),
                }
            }
            if joined.len() <= max_ranges {
                return joined;
            }
            gap_bytes = (gap_bytes * 2).max(512);
        }
    }

    /// Puts a range into a state.
    pub fn set(&mut self, range: Range<u64>, state: State) {
        let range = range.start..range.end.min(self.size_bytes);
        if range.is_empty() {
            return;
        }
        let after = self.areas.range(..=range.end).next_back().map(|(_, state)| *state);
        let before = self.areas.range(..range.start).next_back().map(|(_, state)| *state);
        self.areas.retain_outside(range.clone());
        if before != Some(state) {
            self.areas.insert(range.start, state);
        }
        if range.end < self.size_bytes {
            match after {
                Some(after) if after != state => _ = self.areas.insert(range.end, after),
                _ => _ = self.areas.remove(&range.end),
            }
        }
    }

    /// True if the disk has more areas than a map keeps.
    pub fn is_full(&self) -> bool {
        self.areas.len() > MAX_AREAS
    }

    /// Finishes what of a range was not tried yet.
    pub fn finish_untried(&mut self, range: Range<u64>) {
        for (part, state) in self.parts_of(range) {
            if state == State::NotTried {
                self.set(part, State::Finished);
            }
        }
    }
}

/// Joins ranges of a disk of this size: ascending, and as few as those of a map.
pub fn joined(size_bytes: u64, ranges: impl IntoIterator<Item = Range<u64>>) -> Vec<Range<u64>> {
    let mut map = AreaMap::new(size_bytes, State::Finished);
    ranges.into_iter().for_each(|range| map.set(range, State::Bad));
    map.unfinished()
}

trait RetainOutside {
    /// Removes the keys of a range.
    fn retain_outside(&mut self, range: Range<u64>);
}

impl RetainOutside for BTreeMap<u64, State> {
    fn retain_outside(&mut self, range: Range<u64>) {
        let inside: Vec<u64> = self.range(range).map(|(begin, _)| *begin).collect();
        inside.iter().for_each(|begin| _ = self.remove(begin));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STATES: [State; 5] = [State::NotTried, State::NotTrimmed, State::NotScraped, State::Bad, State::Finished];

    proptest! {
        /// A map knows of each byte what an array of bytes would know.
        #[test]
        fn every_byte_has_the_state_that_it_got_last(
            changes in prop::collection::vec((0u64..70, 0u64..30, 0usize..5), 0..40), asked in (0u64..64, 0u64..64),
        ) {
            let mut map = AreaMap::new(64, State::NotTried);
            let mut bytes = [State::NotTried; 64];
            for (begin, length, state) in changes {
                map.set(begin..begin + length, STATES[state]);
                bytes.iter_mut().skip(begin as usize).take(length as usize).for_each(|byte| *byte = STATES[state]);
            }
            let found: Vec<State> =
                map.areas().flat_map(|(range, state)| range.map(move |_| state)).collect();
            prop_assert_eq!(&found, &bytes);
            let areas: Vec<_> = map.areas().collect();
            prop_assert!(areas.windows(2).all(|pair| pair[0].1 != pair[1].1 && pair[0].0.end == pair[1].0.start));
            let part = asked.0.min(asked.1)..asked.0.max(asked.1);
            let parts: Vec<State> =
                map.parts_of(part.clone()).into_iter().flat_map(|(range, state)| range.map(move |_| state)).collect();
            prop_assert_eq!(&parts, &bytes[part.start as usize..part.end as usize]);
            let unfinished = bytes.iter().filter(|state| **state != State::Finished).count() as u64;
            prop_assert_eq!(map.unfinished_bytes(), unfinished);
            prop_assert_eq!(map.unfinished().iter().map(|range| range.end - range.start).sum::<u64>(), unfinished);
        }
    }

    #[test]
    fn a_list_of_very_many_areas_is_joined_and_none_is_lost() {
        let mut map = AreaMap::new(1 << 30, State::Finished);
        let bad = |index: u64| index * 8192..index * 8192 + 512;
        (0..1000).for_each(|index| map.set(bad(index), State::Bad));
        assert_eq!(map.unfinished().len(), 1000);
        let listed = map.unfinished_within(100);
        assert!(listed.len() <= 100);
        let covers = |range: Range<u64>| listed.iter().any(|area| area.start <= range.start && area.end >= range.end);
        assert!((0..1000).all(|index| covers(bad(index))));
    }
}
