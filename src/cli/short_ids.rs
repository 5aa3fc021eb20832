//! Ids cut short for people: as long as they have to be to name one snapshot.

use std::collections::HashMap;

use tintype_tin::id::Id;

use crate::repository::listing::Listing;

/// The fewest digits that are shown.
const MIN_DIGITS: usize = 8;

/// How many digits of each id tell it from the others.
pub struct ShortIds(HashMap<Id, usize>);

impl ShortIds {
    /// Cuts these ids, which are all that there are.
    pub fn of(ids: impl IntoIterator<Item = Id>) -> ShortIds {
        let mut ids: Vec<Id> = ids.into_iter().collect();
        ids.sort_unstable();
        ids.dedup();
        let shared: Vec<usize> = ids.windows(2).map(|pair| shared_digits(pair[0], pair[1])).collect();
        let digits = |place: usize| {
            let before = place.checked_sub(1).and_then(|before| shared.get(before));
            let most = before.max(shared.get(place)).copied().unwrap_or(0);
            MIN_DIGITS.max(most + 1)
        };
        ShortIds(ids.iter().enumerate().map(|(place, id)| (*id, digits(place))).collect())
    }

    /// Cuts the ids of all snapshots of a repository, also of those that cannot be seen.
    pub fn of_listing(listing: &Listing) -> ShortIds {
        let visible = listing.snapshots.iter().chain(&listing.uncommitted).map(|snapshot| snapshot.id);
        ShortIds::of(visible.chain(listing.damaged.iter().map(|damage| damage.id)))
    }

    /// An id, cut short; whole if it is not one of them.
    pub fn show(&self, id: Id) -> String {
        let mut text = id.to_string();
        text.truncate(self.0.get(&id).copied().unwrap_or(text.len()));
        text
    }
}

fn shared_digits(one: Id, other: Id) -> usize {
    one.to_string().bytes().zip(other.to_string().bytes()).take_while(|(one, other)| one == other).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_as_long_as_they_must_be() {
        let id = |text: &str| format!("{text:0<32}").parse::<Id>().unwrap();
        let (a, b, c) = (id("01a22bfb10"), id("01a22bfb1f"), id("01a3"));
        let short = ShortIds::of([b, c, a]);
        assert_eq!([a, b, c].map(|id| short.show(id)), ["01a22bfb10", "01a22bfb1f", "01a30000"]);
        let twin = Id([7; 16]);
        let mut other = twin;
        other.0[15] = 8;
        assert_eq!(ShortIds::of([twin, other, twin]).show(twin).len(), 32);
        assert_eq!(ShortIds::of([a]).show(c).len(), 32);
        assert!(ShortIds::of([]).0.is_empty());
    }
}
