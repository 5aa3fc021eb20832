//! What is to go, and what is worth being copied for it.

use std::collections::HashMap;

use tintype_tin::id::Id;
use tintype_tin::pack;

use super::survey::{PackUse, Standing, Survey};

/// A pack shorter than this is small.
const SMALL_BYTES: u64 = pack::TARGET_BYTES as u64 / 4;

/// So many small packs of one author and kind are made into few: each costs a request in every listing, verify and copy.
const MANY_SMALL: usize = 64;

/// What is left free beside the copies, in bytes: index segments and the epoch's objects take some.
const SPARED_BYTES: u64 = 1 << 20;

/// The space that the copy of a pack's used chunks takes, with its table and what the file system adds.
fn copy_bytes(pack: &PackUse) -> u64 {
    pack.used_bytes + pack.used_bytes / 64 + (64 << 10)
}

/// What a prune means to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Packs without anything that is used.
    pub garbage: Vec<Id>,
    /// Packs whose used chunks are copied into new ones.
    pub repack: Vec<Id>,
    /// Packs that would be copied if there were space for the copies.
    pub later: Vec<Id>,
    /// The length of all packs that stay or are copied, of what is used in them, and of what is not.
    pub before: Amounts,
    /// The same when all is done.
    pub after: Amounts,
    /// Packs of which nothing is known, because they are damaged: they stay.
    pub unknown: usize,
}

/// How much there is, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Amounts {
    /// How many packs.
    pub packs: usize,
    /// Their length.
    pub bytes: u64,
    /// The length of the chunks that are in use.
    pub used_bytes: u64,
    /// What a prune that leaves nothing over frees of it.
    pub unused_bytes: u64,
}

impl Amounts {
    fn add(&mut self, pack: &PackUse) {
        self.packs += 1;
        self.bytes += pack.len_bytes;
        self.used_bytes += pack.used_bytes;
        self.unused_bytes += pack.unused_bytes();
    }
}

impl Plan {
    /// Chooses so that at most `max_unused` (a part of 1,000 of what is used) is left unused.
    pub fn new(survey: &Survey, max_unused_permille: u64) -> Plan {
        let mut plan = Plan::choose(&survey.packs, max_unused_permille);
        for pack in &survey.returned {
            plan.garbage.push(pack.id);
            plan.before.packs += 1;
            plan.before.bytes += pack.len_bytes;
        }
        plan.before.unused_bytes = survey.unused_bytes();
        plan.garbage.sort();
        plan
    }

    fn choose(packs: &HashMap<Id, PackUse>, max_unused_permille: u64) -> Plan {
        let mut plan = Plan::default();
        let mut partly = Vec::new();
        for (id, pack) in packs {
            plan.before.add(pack);
            let known = pack.kind.is_some();
            plan.unknown += usize::from(!known);
            match pack.used_bytes {
                0 if known => plan.garbage.push(*id),
                _ => {
                    plan.after.add(pack);
                    // What is damaged cannot be copied.
                    partly.extend((known && pack.standing == Standing::Kept).then_some((*id, *pack)));
                }
            }
        }
        plan.repack_wasteful(&mut partly, max_unused_permille);
        plan.repack_small(&partly);
        plan.repack.sort();
        plan
    }

    /// Takes those with the largest part unused, until little enough is unused in all.
    fn repack_wasteful(&mut self, partly: &mut Vec<(Id, PackUse)>, max_unused_permille: u64) {
        let waste = |pack: &PackUse| u128::from(pack.unused_bytes()) * 1000 / u128::from(pack.chunk_bytes.max(1));
        partly.sort_by_key(|(id, pack)| (waste(pack), *id));
        let allowed = u128::from(self.after.used_bytes) * u128::from(max_unused_permille) / 1000;
        while u128::from(self.after.unused_bytes) > allowed
            && let Some((id, pack)) = partly.pop_if(|(_, pack)| pack.unused_bytes() > 0)
        {
            self.copy(id, &pack);
        }
    }

    fn repack_small(&mut self, partly: &[(Id, PackUse)]) {
        let mut groups: HashMap<_, Vec<&(Id, PackUse)>> = HashMap::new();
        for one in partly.iter().filter(|(_, pack)| pack.len_bytes < SMALL_BYTES) {
            groups.entry((one.1.author, one.1.kind)).or_default().push(one);
        }
        for (id, pack) in groups.into_values().filter(|group| group.len() >= MANY_SMALL).flatten() {
            self.copy(*id, pack);
        }
    }

    fn copy(&mut self, id: Id, pack: &PackUse) {
        self.repack.push(id);
        self.after.packs -= 1;
        self.after.bytes = self.after.bytes.saturating_sub(pack.len_bytes).saturating_add(pack.used_bytes);
        self.after.unused_bytes = self.after.unused_bytes.saturating_sub(pack.unused_bytes());
    }

    /// Leaves those packs for later whose copies do not fit in so many bytes; those that free the most for their copy come first.
    pub fn fit(&mut self, packs: &HashMap<Id, PackUse>, free_bytes: u64) {
        let mut wanted: Vec<(Id, PackUse)> =
            self.repack.drain(..).filter_map(|id| Some((id, *packs.get(&id)?))).collect();
        let share = |pack: &PackUse| u128::from(pack.used_bytes) * 1000 / u128::from(pack.len_bytes.max(1));
        wanted.sort_by_key(|(id, pack)| (share(pack), *id));
        let mut left_bytes = free_bytes.saturating_sub(SPARED_BYTES);
        for (id, pack) in wanted {
            match left_bytes.checked_sub(copy_bytes(&pack)) {
                Some(left) => {
                    left_bytes = left;
                    self.repack.push(id);
                }
                None => self.put_off(id, &pack),
            }
        }
        self.repack.sort();
    }

    /// Takes a pack out of those that are copied.
    fn put_off(&mut self, id: Id, pack: &PackUse) {
        self.later.push(id);
        self.after.packs += 1;
        self.after.bytes = self.after.bytes.saturating_add(pack.len_bytes).saturating_sub(pack.used_bytes);
        self.after.unused_bytes = self.after.unused_bytes.saturating_add(pack.unused_bytes());
    }

    /// Leaves packs for later that could not be copied.
    pub fn put_off_all(&mut self, packs: &HashMap<Id, PackUse>, ids: &[Id]) {
        self.repack.retain(|id| !ids.contains(id));
        for id in ids {
            let pack = packs.get(id).copied();
            pack.into_iter().for_each(|pack| self.put_off(*id, &pack));
        }
    }

    /// The space that the copies take until the old packs are gone, in bytes.
    pub fn needed_bytes(&self, packs: &HashMap<Id, PackUse>) -> u64 {
        let copies: u64 = self.repack.iter().filter_map(|id| packs.get(id)).map(copy_bytes).sum();
        if copies == 0 { 0 } else { copies + SPARED_BYTES }
    }

    /// The length of the packs without anything that is used, in bytes; of those that are there again nothing is known.
    pub fn garbage_bytes(&self, packs: &HashMap<Id, PackUse>) -> u64 {
        self.garbage.iter().filter_map(|id| packs.get(id)).map(|pack| pack.len_bytes).sum()
    }

    /// Adds what a later epoch of the same prune did.
    pub fn go_on_with(&mut self, next: Plan) {
        self.garbage.extend(next.garbage);
        self.repack.extend(next.repack);
        (self.later, self.after, self.unknown) = (next.later, next.after, next.unknown);
    }
}

#[cfg(test)]
mod tests {
    use tintype_tin::chunk::ChunkKind;

    use super::*;

    fn pack(used_bytes: u64, chunk_bytes: u64) -> PackUse {
        PackUse {
            len_bytes: chunk_bytes + 1000,
            standing: Standing::Kept,
            kind: Some(ChunkKind::Data),
            author: [0; 32],
            chunk_bytes,
            used_bytes,
        }
    }

    fn packs(list: &[PackUse]) -> HashMap<Id, PackUse> {
        (0..).zip(list).map(|(number, pack)| (Id([number; 16]), *pack)).collect()
    }

    const MIB: u64 = 1 << 20;

    #[test]
    fn what_nobody_uses_goes_and_the_worst_are_copied_first() {
        let list = [pack(0, 16 * MIB), pack(15 * MIB, 16 * MIB), pack(MIB, 16 * MIB), pack(16 * MIB, 16 * MIB)];
        let plan = Plan::choose(&packs(&list), 50);
        assert_eq!(plan.garbage, [Id([0; 16])]);
        // 1 MiB of 32 is less than 5 %.
        assert_eq!(plan.repack, [Id([2; 16])]);
        assert_eq!((plan.after.packs, plan.after.unused_bytes), (2, MIB));
        assert_eq!(Plan::choose(&packs(&list), 0).repack, [Id([1; 16]), Id([2; 16])]);
        assert_eq!(Plan::choose(&packs(&list), 10_000).repack, []);
    }

    #[test]
    fn what_is_damaged_or_not_known_stays() {
        let quarantined = PackUse { standing: Standing::Quarantined, ..pack(MIB, 16 * MIB) };
        let unknown = PackUse { kind: None, ..pack(0, 0) };
        let unused = PackUse { standing: Standing::Quarantined, ..pack(0, 16 * MIB) };
        let plan = Plan::choose(&packs(&[quarantined, unknown, unused]), 0);
        assert_eq!((plan.garbage, plan.repack, plan.unknown), (vec![Id([2; 16])], vec![], 1));
    }

    #[test]
    fn copies_that_do_not_fit_are_left_for_later() {
        let list = [pack(12 * MIB, 16 * MIB), pack(2 * MIB, 16 * MIB), pack(8 * MIB, 16 * MIB)];
        let packs = packs(&list);
        let all = Plan::choose(&packs, 0);
        assert_eq!(all.needed_bytes(&packs) / MIB, 23);
        let fitted = |free_bytes| {
            let mut plan = all.clone();
            plan.fit(&packs, free_bytes);
            plan
        };
        assert_eq!(fitted(24 * MIB), all);
        let some = fitted(12 * MIB);
        assert_eq!((some.repack, some.later), (vec![Id([1; 16]), Id([2; 16])], vec![Id([0; 16])]));
        assert_eq!((some.after.packs, some.after.unused_bytes), (1, 4 * MIB));
        assert_eq!(fitted(MIB).repack, []);
        let mut none = all.clone();
        none.put_off_all(&packs, &all.repack);
        assert_eq!((none.after, none.repack.len()), (all.before, 0));
    }

    #[test]
    fn many_small_packs_become_few() {
        let small = vec![pack(1000, 1000); MANY_SMALL];
        assert_eq!(Plan::choose(&packs(&small), 50).repack.len(), MANY_SMALL);
        assert_eq!(Plan::choose(&packs(&small[1..]), 50).repack.len(), 0);
        let mut others = small.clone();
        others[0].author = [1; 32];
        assert_eq!(Plan::choose(&packs(&others), 50).repack.len(), 0);
    }
}
