//! Finds the zeros in what was read, and what equals the parent.

use tintype_formats::is_zero;
use tintype_formats::sink::{RunKind, UnitRun};

/// The granularity, in bytes: what file systems and formats can leave out.
pub const BLOCK_BYTES: usize = 4096;

/// Appends a run to ascending runs, as part of the last one where that has the same kind and ends there.
pub fn push_run(runs: &mut Vec<UnitRun>, offset: u64, length_bytes: u64, kind: RunKind) {
    match runs.last_mut() {
        Some(last) if last.kind == kind && last.offset + last.length_bytes == offset => {
            last.length_bytes += length_bytes
        }
        _ if length_bytes > 0 => runs.push(UnitRun { offset, length_bytes, kind }),
        _ => {}
    }
}

/// Splits `bytes[begin..end]` into data and zeros, and appends the runs.
///
/// Blocks are counted from the beginning of `bytes`, whose guest offset is a multiple of [`BLOCK_BYTES`].
pub fn scan(bytes: &[u8], begin: usize, end: usize, runs: &mut Vec<UnitRun>) {
    let kind_of = |part: std::ops::Range<usize>| if is_zero(&bytes[part]) { RunKind::Zero } else { RunKind::Data };
    for_each_block(begin, end, |part| push_run(runs, part.start as u64, part.len() as u64, kind_of(part)));
}

/// The same, with what equals `parent` inherited from it.
pub fn scan_against(bytes: &[u8], parent: &[u8], runs: &mut Vec<UnitRun>) {
    for_each_block(0, bytes.len(), |part| {
        let kind = match &bytes[part.clone()] {
            block if *block == parent[part.clone()] => RunKind::Inherited,
            block if is_zero(block) => RunKind::Zero,
            _ => RunKind::Data,
        };
        push_run(runs, part.start as u64, part.len() as u64, kind);
    });
}

fn for_each_block(begin: usize, end: usize, mut visit: impl FnMut(std::ops::Range<usize>)) {
    let mut offset = begin;
    while offset < end {
        let next = ((offset / BLOCK_BYTES + 1) * BLOCK_BYTES).min(end);
        visit(offset..next);
        offset = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_cover_the_range_and_alternate() {
        let mut bytes = vec![0; 5 * BLOCK_BYTES + 700];
        bytes[BLOCK_BYTES] = 1;
        bytes[3 * BLOCK_BYTES - 1] = 1;
        *bytes.last_mut().unwrap() = 1;
        let mut runs = Vec::new();
        scan(&bytes, 0, bytes.len(), &mut runs);
        let found: Vec<_> = runs.iter().map(|run| (run.offset, run.length_bytes, run.kind)).collect();
        let block = BLOCK_BYTES as u64;
        assert_eq!(
            found,
            [
                (0, block, RunKind::Zero),
                (block, 2 * block, RunKind::Data),
                (3 * block, 2 * block, RunKind::Zero),
                (5 * block, 700, RunKind::Data)
            ]
        );
    }

    #[test]
    fn equal_blocks_are_inherited_and_zeros_that_hide_data_are_explicit() {
        let mut bytes = vec![0; 3 * BLOCK_BYTES];
        let mut parent = bytes.clone();
        parent[BLOCK_BYTES] = 1;
        bytes[2 * BLOCK_BYTES] = 1;
        let mut runs = Vec::new();
        scan_against(&bytes, &parent, &mut runs);
        let kinds: Vec<_> = runs.iter().map(|run| run.kind).collect();
        assert_eq!(kinds, [RunKind::Inherited, RunKind::Zero, RunKind::Data]);
    }
}
