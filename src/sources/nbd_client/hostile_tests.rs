//! The client against servers that make it wait or work for ever: every request ends, and every answer is bounded work.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use super::tests::{DISK_BYTES, chunk, client, hello};
use super::*;

const PATIENCE: Duration = Duration::from_millis(300);

/// A server that answers every request with this, piece by piece, for ever.
fn dripping(piece: impl Fn(u64) -> Vec<u8> + Send + Sync + Clone + 'static, pause: Duration) -> NbdFile {
    let serve = move |mut stream: UnixStream| {
        let _ = stream.write_all(&hello(1, 512));
        let mut greeting = vec![0; 4 + 16 + (16 + 5 + 4 + 4 + 15) + (16 + 5 + 4)];
        let _ = stream.read_exact(&mut greeting);
        let mut head = [0; 28];
        if stream.read_exact(&mut head).is_err() {
            return;
        }
        let cookie = u64::from_be_bytes(head[8..16].try_into().unwrap());
        while stream.write_all(&piece(cookie)).is_ok() {
            std::thread::sleep(pause);
        }
    };
    client(PATIENCE, serve).unwrap()
}

#[track_caller]
fn gives_up(file: &NbdFile) {
    let began = Instant::now();
    let error = file.read_exact_at(0, &mut vec![0; 65536]).unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted, "{error}");
    assert!(error.to_string().contains("no whole answer within"), "{error}");
}

#[test]
fn a_byte_now_and_then_is_no_answer() {
    let head = chunk(0, nbd_protocol::chunk::OFFSET_DATA, 0, &[0; 60000]);
    let next = std::sync::atomic::AtomicUsize::new(0);
    let next = Arc::new(next);
    let piece = move |_| vec![*head.get(next.fetch_add(1, Relaxed) % 30000).unwrap()];
    gives_up(&dripping(piece, Duration::from_millis(20)));
}

#[test]
fn empty_chunks_are_no_answer() {
    let piece = |cookie| chunk(0, nbd_protocol::chunk::NONE, cookie, &[]);
    gives_up(&dripping(piece, Duration::from_millis(40)));
}

/// An answer about 128 KiB in pieces of a byte, and one about a single byte: as many questions as for a good server.
#[test]
fn extents_of_single_bytes_are_bounded_work() {
    let pieces: Vec<(u32, u32)> = (0..131_071).map(|index| (1, if index % 2 == 0 { 3 } else { 0 })).collect();
    let runs = joined(&pieces, 0, 1 << 27);
    assert_eq!(runs, [(131_071, false)]);
    assert_eq!(joined(&[(1, 3)], 4096, 1 << 27), [(4096 + LEAST_ANSWER_BYTES, false)]);
    assert_eq!(joined(&[(0, 3), (0, 0)], 0, 1 << 27), [(LEAST_ANSWER_BYTES, false)]);
    assert_eq!(
        joined(&[(4096, 0), (4095, 3), (1, 0), (1 << 20, 3)], 0, 1 << 27),
        [(8192, false), (8192 + (1 << 20), true)]
    );
    assert_eq!(joined(&[(u32::MAX, 3)], 0, 10_000), [(10_000, true)]);
    // Holes of the least size, and data of a byte between them.
    let pieces: Vec<(u32, u32)> = (0..131_071).map(|index| if index % 2 == 0 { (4096, 3) } else { (1, 0) }).collect();
    assert!(joined(&pieces, 0, 1 << 27).len() as u64 <= 2 * (1 << 27) / LEAST_HOLE_BYTES + 1);
}

#[test]
fn a_server_of_single_bytes_is_refused() {
    let words = |max_bytes: u32| {
        let mut words = hello(1, 1);
        let at = words.windows(8).position(|part| part == [0, 0, 16, 0, 0, 1, 0, 0]).unwrap() + 4;
        words[at..at + 4].copy_from_slice(&max_bytes.to_be_bytes());
        words
    };
    for max_bytes in [1, 512, 4095] {
        let error = super::tests::client_of(words(max_bytes)).err().expect("a refusal").to_string();
        assert!(error.contains("expected at least 4096"), "{error}");
    }
    assert_eq!(super::tests::client_of(words(4096)).unwrap().len_bytes().unwrap(), DISK_BYTES);
}
