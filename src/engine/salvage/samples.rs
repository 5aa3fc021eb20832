//! Looks whether what a map calls read is where it is said to be.

use std::ops::Range;

use tintype_formats::BlockSource;

use super::area_map::{AreaMap, State};
use crate::error::Result;
use crate::sources::AlignedBuffer;

/// Number of places that are compared, and the length of each in bytes.
const SAMPLES: u64 = 16;
const SAMPLE_BYTES: u64 = 4096;

/// Compares some places that a map calls read in the source and in what holds them; returns the first that differs. What the
/// source does not give any more is passed over.
///
/// Another disk at the same address differs nearly everywhere, and so does a target that was made again.
pub fn first_difference(map: &AreaMap, source: &dyn BlockSource, holder: &dyn BlockSource) -> Result<Option<u64>> {
    for place in places(map) {
        let length_bytes = (place.end - place.start) as usize;
        let (mut read, mut held) = (AlignedBuffer::zeroed(length_bytes), AlignedBuffer::zeroed(length_bytes));
        if source.read_at(place.start, &mut read).is_err() {
            continue;
        }
        holder.read_at(place.start, &mut held)?;
        if read[..] != held[..] {
            return Ok(Some(place.start));
        }
    }
    Ok(None)
}

/// The beginning and the end of what was read, and places in equal distances between.
fn places(map: &AreaMap) -> Vec<Range<u64>> {
    let step_bytes = (map.size_bytes() / (SAMPLES - 1)).max(1);
    let wanted = (0..SAMPLES).map(|number| (number * step_bytes).min(map.size_bytes().saturating_sub(SAMPLE_BYTES)));
    let finished = map.areas_in(State::Finished);
    let mut places: Vec<Range<u64>> = Vec::new();
    for wanted in wanted {
        // The area that has the place, or else the next one.
        let Some(area) = finished.iter().find(|area| area.end > wanted) else { break };
        let begin = area.start.max(wanted / SAMPLE_BYTES * SAMPLE_BYTES);
        let place = begin..area.end.min(begin + SAMPLE_BYTES);
        if places.last() != Some(&place) {
            places.push(place);
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_lie_in_what_was_read() {
        let mut map = AreaMap::new(1 << 20, State::NotScraped);
        assert!(places(&map).is_empty());
        map.set(512..1024, State::Finished);
        map.set(700 << 10..1 << 20, State::Finished);
        let found = places(&map);
        assert_eq!(found[0], 512..1024);
        assert_eq!(found[1], 700 << 10..704 << 10);
        assert_eq!(found.last().unwrap().end, 1 << 20);
        assert_eq!(places(&AreaMap::new(100, State::Finished)), [0..100; 1]);
    }
}
