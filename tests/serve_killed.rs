//! A server that is killed while clients write loses nothing that was flushed.

mod common;

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use common::nbd::{FLUSH, Serving, WRITE, WRITE_ZEROES, client, read_at, request};
use common::{Sandbox, assert_holds};
use rustix::process::{Pid, Signal, kill_process};
use tintype_formats::testing::Random;

const BLOCK_BYTES: usize = 4096;

/// What the blocks of a disk may hold after a crash: what was there at the last flush, and all that was written since.
struct Model {
    possible: Vec<Vec<Vec<u8>>>,
    random: Random,
    flushes: u64,
}

impl Model {
    /// Checks what a disk holds; from now on that is what it holds.
    fn check(&mut self, disk: &[u8], round: u32) {
        for (number, (block, possible)) in disk.chunks(BLOCK_BYTES).zip(&mut self.possible).enumerate() {
            let found = possible.iter().rposition(|content| content == block);
            let found = found.unwrap_or_else(|| panic!("round {round}: block {number} is none of {}", possible.len()));
            *possible = vec![possible.swap_remove(found)];
        }
    }

    /// What was written last is durable.
    fn settle(&mut self, blocks: std::ops::Range<usize>) {
        self.possible[blocks].iter_mut().for_each(|possible| drop(possible.drain(..possible.len() - 1)));
    }

    /// Writes and flushes until the server has gone.
    fn write_on(&mut self, stream: &mut UnixStream) -> io::Result<()> {
        let lanes = 8;
        let lane_bytes = self.possible.len() * BLOCK_BYTES / lanes;
        loop {
            // Eight at once, each somewhere else.
            let writes: Vec<_> = (0..lanes).map(|lane| self.write(lane * lane_bytes, lane_bytes)).collect();
            writes.iter().try_for_each(|(message, ..)| stream.write_all(message))?;
            let mut replies = vec![0; lanes * 16];
            stream.read_exact(&mut replies)?;
            writes.into_iter().filter(|(_, fua, _)| *fua).for_each(|(.., blocks)| self.settle(blocks));
            if self.random.below(3) == 0 {
                stream.write_all(&request(FLUSH, 0, 0, 0))?;
                stream.read_exact(&mut replies[..16])?;
                self.settle(0..self.possible.len());
                self.flushes += 1;
            }
        }
    }

    /// A request that changes a few blocks, or parts of them, whether it is to be durable, and which blocks they are.
    fn write(&mut self, begin: usize, room: usize) -> (Vec<u8>, bool, std::ops::Range<usize>) {
        let length = 512 * (1 + self.random.below(64) as usize);
        let at = begin + 512 * self.random.below(((room - length) / 512 + 1) as u64) as usize;
        let (zeroes, fua) = (self.random.below(4) == 0, self.random.below(8) == 0);
        let noise = self.random.next_u64().to_le_bytes();
        let bytes: Vec<u8> = match zeroes {
            true => vec![0; length],
            false => noise.iter().copied().cycle().take(length).collect(),
        };
        let blocks = at / BLOCK_BYTES..(at + length).div_ceil(BLOCK_BYTES);
        for number in blocks.clone() {
            let mut block = self.possible[number].last().expect("a content").clone();
            let (from, to) = (at.max(number * BLOCK_BYTES), (at + length).min((number + 1) * BLOCK_BYTES));
            block[from - number * BLOCK_BYTES..to - number * BLOCK_BYTES].copy_from_slice(&bytes[from - at..to - at]);
            self.possible[number].push(block);
        }
        let command = if zeroes { WRITE_ZEROES } else { WRITE };
        let payload = if zeroes { Vec::new() } else { bytes };
        ([request(command, fua as u16, at as u64, length as u32), payload].concat(), fua, blocks)
    }
}

#[test]
fn a_server_that_is_killed_again_and_again_keeps_what_was_flushed() {
    const ROUNDS: u32 = 30;
    let sandbox = Sandbox::new();
    let disk = std::fs::read(sandbox.raw_disk("disk.raw", 2 << 20, 20)).expect("a disk");
    let possible = disk.chunks(BLOCK_BYTES).map(|block| vec![block.to_vec()]).collect();
    let mut model = Model { possible, random: Random(1), flushes: 0 };
    for round in 0..=ROUNDS {
        let serving = Serving::start(&sandbox, 1, &["disk.raw", "--overlay", "o", "--socket", "s", "--quiet"]);
        let mut stream = client(&sandbox, false);
        model.check(&read_at(&mut stream, 0, disk.len()), round);
        if round == ROUNDS {
            break;
        }
        let (process, delay) = (Pid::from_child(&serving.child), Duration::from_micros(model.random.below(40_000)));
        std::thread::scope(|scope| {
            scope.spawn(move || {
                std::thread::sleep(delay);
                kill_process(process, Signal::KILL).expect("kill it");
            });
            model.write_on(&mut stream).expect_err("it was killed");
        });
    }
    assert!(model.flushes > 0, "nothing was flushed in time");
    assert_holds(&sandbox.path("disk.raw"), &disk, "the disk below");
}
