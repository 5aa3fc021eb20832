//! Sets of at most eight things, in a byte: states are compared by the million.

use std::fmt;
use std::ops::{BitAnd, BitOr, BitOrAssign, Sub, SubAssign};

/// A set of packs, chunks or sessions, by their numbers.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Set(pub u8);

impl Set {
    /// The set without members.
    pub const EMPTY: Self = Self(0);

    /// The set of one member.
    pub const fn one(member: usize) -> Self {
        Self(1 << member)
    }

    /// Whether `member` is in.
    pub const fn has(self, member: usize) -> bool {
        self.0 >> member & 1 == 1
    }

    /// Whether nothing is in.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether all of this is in `other`.
    pub const fn within(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }

    /// The members, the smallest first.
    pub fn members(self) -> impl Iterator<Item = usize> {
        (0..8).filter(move |&member| self.has(member))
    }

    /// All subsets but the empty one.
    pub fn subsets(self) -> impl Iterator<Item = Self> {
        (1..=self.0).map(Self).filter(move |subset| subset.within(self))
    }

    /// The same members under new numbers: what was `order[i]` becomes `i`.
    pub fn renumbered(self, order: &[usize]) -> Self {
        let bits = order.iter().enumerate().map(|(new, &old)| u8::from(self.has(old)) << new);
        Self(bits.fold(0, |all, bit| all | bit))
    }
}

impl BitOr for Set {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitAnd for Set {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl Sub for Set {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl BitOrAssign for Set {
    fn bitor_assign(&mut self, other: Self) {
        *self = *self | other;
    }
}

impl SubAssign for Set {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}

impl fmt::Debug for Set {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_set().entries(self.members()).finish()
    }
}
