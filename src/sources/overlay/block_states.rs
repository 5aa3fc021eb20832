//! What each block of the disk is, in memory, and which pages of the table have changed since they were last taken.
//!
//! Lookups take no lock. Changes to one word (32 blocks) come from one thread at a time: who changes holds the lock of the
//! blocks' group, which is two whole words.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Release};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Mutex, OnceLock};

use tintype_formats::ImageError;
use tintype_formats::locks::Unpoisoned as _;

use super::layout::{BLOCKS_PER_PAGE, Layout, PAGE_BYTES};

const BLOCKS_PER_WORD: u64 = 32;
const WORDS_PER_PAGE: usize = PAGE_BYTES as usize / 8;

/// One of the two bits of every block of a word.
const LOW_BITS: u64 = 0x5555_5555_5555_5555;

/// Where the bytes of a block are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockState {
    /// In the disk below.
    Inherited,
    /// In the data area.
    Data,
    /// Nowhere: they are zeros.
    Zero,
}

impl BlockState {
    fn of_bits(bits: u64) -> Self {
        match bits {
            0 => BlockState::Inherited,
            1 => BlockState::Data,
            _ => BlockState::Zero,
        }
    }

    /// A word of blocks that are all of this state.
    fn whole_word(self) -> u64 {
        LOW_BITS
            * match self {
                BlockState::Inherited => 0,
                BlockState::Data => 1,
                BlockState::Zero => 2,
            }
    }
}

struct Page {
    words: [AtomicU64; WORDS_PER_PAGE],
    is_changed: AtomicBool,
    /// Whether the file has room for it.
    is_reserved: AtomicBool,
}

impl Page {
    fn of_words(mut word: impl FnMut(usize) -> u64, is_reserved: bool) -> Box<Self> {
        Box::new(Page {
            words: std::array::from_fn(|index| AtomicU64::new(word(index))),
            is_changed: AtomicBool::new(false),
            is_reserved: AtomicBool::new(is_reserved),
        })
    }

    fn word(&self, block: u64) -> &AtomicU64 {
        &self.words[(block % BLOCKS_PER_PAGE / BLOCKS_PER_WORD) as usize]
    }
}

/// A page of the table as it is to stand in the file.
pub struct PageCopy {
    /// Its number.
    pub index: usize,
    /// Its content.
    pub bytes: Box<[u8; PAGE_BYTES as usize]>,
}

/// The states of all blocks of a disk.
pub struct BlockStates {
    blocks: u64,
    /// Pages without any block that is not inherited take no memory.
    pages: Vec<OnceLock<Box<Page>>>,
    changed: Mutex<BTreeSet<usize>>,
    reserving: Mutex<()>,
}

impl BlockStates {
    /// Everything is inherited.
    pub fn new(layout: &Layout) -> Self {
        BlockStates {
            blocks: layout.blocks,
            pages: (0..layout.pages).map(|_| OnceLock::new()).collect(),
            changed: Mutex::default(),
            reserving: Mutex::default(),
        }
    }

    /// Takes a page of the table over from the file.
    pub fn load(&mut self, index: usize, bytes: &[u8; PAGE_BYTES as usize]) -> Result<(), ImageError> {
        let (words, _) = bytes.as_chunks::<8>();
        let first_block = index as u64 * BLOCKS_PER_PAGE;
        for (word, first) in words.iter().zip((first_block..).step_by(BLOCKS_PER_WORD as usize)) {
            let word = u64::from_le_bytes(*word);
            let known = self.blocks.saturating_sub(first).min(BLOCKS_PER_WORD);
            let past_the_end = if known == BLOCKS_PER_WORD { 0 } else { word >> (2 * known) };
            if word & (word >> 1) & LOW_BITS != 0 || past_the_end != 0 {
                let detail = format!("a block among the 32 from block {first} on has a state that there is not");
                return Err(ImageError::corrupt("read the overlay's table", detail));
            }
        }
        if let Some(slot) = self.pages.get_mut(index) {
            *slot = OnceLock::from(Page::of_words(|index| u64::from_le_bytes(words[index]), true));
        }
        Ok(())
    }

    /// The state of a block, and how many blocks from there on have it: at least one, at most `max_blocks`.
    pub fn run(&self, block: u64, max_blocks: u64) -> (BlockState, u64) {
        let state = self.state(block);
        let end = block.saturating_add(max_blocks).min(self.blocks);
        let mut next = block + 1;
        while next < end {
            match self.page(next) {
                None if state == BlockState::Inherited => next = (next / BLOCKS_PER_PAGE + 1) * BLOCKS_PER_PAGE,
                None => break,
                Some(page) => {
                    let word = page.word(next).load(Acquire);
                    if next.is_multiple_of(BLOCKS_PER_WORD) && word == state.whole_word() {
                        next += BLOCKS_PER_WORD;
                    } else if state_in(word, next) == state {
                        next += 1;
                    } else {
                        break;
                    }
                }
            }
        }
        (state, next.min(end).max(block + 1) - block)
    }

    /// Whether all of these blocks have the state.
    pub fn are_all(&self, blocks: &Range<u64>, state: BlockState) -> bool {
        self.run(blocks.start, blocks.end - blocks.start) == (state, blocks.end - blocks.start)
    }

    /// The state of one block.
    pub fn state(&self, block: u64) -> BlockState {
        self.page(block).map_or(BlockState::Inherited, |page| state_in(page.word(block).load(Acquire), block))
    }

    /// Gives blocks of one page their state. The caller holds the lock of their group.
    pub fn set(&self, blocks: &Range<u64>, state: BlockState) {
        let index = (blocks.start / BLOCKS_PER_PAGE) as usize;
        let page = self.page_or_new(index);
        let mut block = blocks.start;
        while block < blocks.end {
            let end = (block / BLOCKS_PER_WORD + 1).saturating_mul(BLOCKS_PER_WORD).min(blocks.end);
            let mask = (u64::MAX >> (64 - 2 * (end - block))) << (2 * (block % BLOCKS_PER_WORD));
            let word = page.word(block);
            word.store(word.load(Acquire) & !mask | state.whole_word() & mask, Release);
            block = end;
        }
        // After the states: a flush takes the mark away first, and then looks at the states.
        if !page.is_changed.swap(true, AcqRel) {
            self.changed.lock().unpoisoned().insert(index);
        }
    }

    /// Calls `reserve` with the number of the page of a block, unless that has succeeded before.
    pub fn reserve<E>(&self, block: u64, reserve: impl FnOnce(usize) -> Result<(), E>) -> Result<(), E> {
        let index = (block / BLOCKS_PER_PAGE) as usize;
        let page = self.page_or_new(index);
        if page.is_reserved.load(Acquire) {
            return Ok(());
        }
        // One at a time: zeros written once more would come after the page's content.
        let _turn = self.reserving.lock().unpoisoned();
        if !page.is_reserved.load(Acquire) {
            reserve(index)?;
            page.is_reserved.store(true, Release);
        }
        Ok(())
    }

    /// Copies of the pages that have changed, which then count as unchanged.
    pub fn take_changed(&self) -> Vec<PageCopy> {
        let taken = std::mem::take(&mut *self.changed.lock().unpoisoned());
        let pages = taken.into_iter().filter_map(|index| Some((index, self.pages.get(index)?.get()?)));
        pages
            .map(|(index, page)| {
                page.is_changed.swap(false, AcqRel);
                let mut bytes = Box::new([0; PAGE_BYTES as usize]);
                let (places, _) = bytes.as_chunks_mut::<8>();
                for (place, word) in places.iter_mut().zip(&page.words) {
                    *place = word.load(Acquire).to_le_bytes();
                }
                PageCopy { index, bytes }
            })
            .collect()
    }

    /// Lets pages count as changed that were taken in vain.
    pub fn give_back(&self, copies: &[PageCopy]) {
        for copy in copies {
            if !self.page_or_new(copy.index).is_changed.swap(true, AcqRel) {
                self.changed.lock().unpoisoned().insert(copy.index);
            }
        }
    }

    fn page(&self, block: u64) -> Option<&Page> {
        self.pages.get((block / BLOCKS_PER_PAGE) as usize)?.get().map(|page| &**page)
    }

    /// Callers have checked that the block, and so its page, is on the disk.
    fn page_or_new(&self, index: usize) -> &Page {
        self.pages[index].get_or_init(|| Page::of_words(|_| 0, false))
    }
}

fn state_in(word: u64, block: u64) -> BlockState {
    BlockState::of_bits(word >> (2 * (block % BLOCKS_PER_WORD)) & 3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::overlay::layout::BLOCK_BYTES;
    use BlockState::{Data, Inherited, Zero};

    fn states(blocks: u64) -> BlockStates {
        BlockStates::new(&Layout::of_size(blocks * BLOCK_BYTES).unwrap())
    }

    #[test]
    fn runs_end_where_the_state_changes() {
        let states = states(3 * BLOCKS_PER_PAGE + 5);
        states.set(&(10..200), Data);
        states.set(&(40..41), Zero);
        let last = 3 * BLOCKS_PER_PAGE + 4;
        states.set(&(last..last + 1), Zero);
        assert_eq!(states.run(0, u64::MAX), (Inherited, 10));
        assert_eq!(states.run(10, u64::MAX), (Data, 30));
        assert_eq!(states.run(10, 7), (Data, 7));
        assert_eq!(states.run(40, u64::MAX), (Zero, 1));
        assert_eq!(states.run(41, u64::MAX), (Data, 159));
        assert_eq!(states.run(200, u64::MAX), (Inherited, last - 200));
        assert_eq!(states.run(last, u64::MAX), (Zero, 1));
        assert!(states.are_all(&(41..200), Data) && !states.are_all(&(39..200), Data));
    }

    #[test]
    fn what_is_taken_loads_again() {
        let before = states(2 * BLOCKS_PER_PAGE);
        before.set(&(BLOCKS_PER_PAGE + 3..BLOCKS_PER_PAGE + 67), Zero);
        let copies = before.take_changed();
        assert_eq!(copies.iter().map(|copy| copy.index).collect::<Vec<_>>(), [1]);
        assert!(before.take_changed().is_empty());
        let mut after = states(2 * BLOCKS_PER_PAGE);
        after.load(1, &copies[0].bytes).unwrap();
        assert_eq!(after.run(0, u64::MAX), (Inherited, BLOCKS_PER_PAGE + 3));
        assert_eq!(after.run(BLOCKS_PER_PAGE + 3, u64::MAX), (Zero, 64));
        before.give_back(&copies);
        assert_eq!(before.take_changed().len(), 1);
    }

    #[test]
    fn states_that_there_are_not_do_not_load() {
        let mut states = states(5);
        let mut page = [0; PAGE_BYTES as usize];
        page[1] = 0b01;
        assert!(states.load(0, &page).is_ok());
        page[1] = 0b100;
        assert!(states.load(0, &page).is_err(), "past the last block");
        page[1] = 0b11;
        assert!(states.load(0, &page).is_err(), "the fourth state");
    }
}
