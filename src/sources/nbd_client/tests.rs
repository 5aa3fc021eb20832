//! The client against servers that lose connections, answer in any order, or say anything at all.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::atomic::AtomicUsize;

use proptest::prelude::*;
use tintype_formats::testing::Random;

use super::wire::Fields;
use super::*;

pub const DISK_BYTES: u64 = 1 << 20;

type Streams = Arc<Mutex<Vec<UnixStream>>>;

/// What a server says until the disk is agreed on: everything is granted, whatever is asked.
pub fn hello(flags: u16, min_bytes: u32) -> Vec<u8> {
    let option = |number: u32, kind: u32, data: &[u8]| {
        let head =
            [&nbd_protocol::OPTION_REPLY_MAGIC.to_be_bytes()[..], &number.to_be_bytes(), &kind.to_be_bytes()].concat();
        [&head, &(data.len() as u32).to_be_bytes()[..], data].concat()
    };
    let info = [&[0, 0][..], &DISK_BYTES.to_be_bytes(), &flags.to_be_bytes()].concat();
    let blocks = [&[0, 3][..], &min_bytes.to_be_bytes(), &[0, 0, 16, 0], &65536_u32.to_be_bytes()].concat();
    [
        nbd_protocol::GREETING_MAGIC.to_be_bytes().to_vec(),
        nbd_protocol::OPTION_MAGIC.to_be_bytes().to_vec(),
        vec![0, 3],
        option(nbd_protocol::option::STRUCTURED_REPLY, nbd_protocol::option_reply::ACK, &[]),
        option(
            nbd_protocol::option::SET_META_CONTEXT,
            nbd_protocol::option_reply::META_CONTEXT,
            b"\0\0\0\x07base:allocation",
        ),
        option(nbd_protocol::option::SET_META_CONTEXT, nbd_protocol::option_reply::ACK, &[]),
        option(nbd_protocol::option::GO, nbd_protocol::option_reply::INFO, &info),
        option(nbd_protocol::option::GO, nbd_protocol::option_reply::INFO, &blocks),
        option(nbd_protocol::option::GO, nbd_protocol::option_reply::ACK, &[]),
    ]
    .concat()
}

/// A client whose every connection is served by this function.
pub fn client(patience: Duration, serve: impl Fn(UnixStream) + Send + Sync + Clone + 'static) -> io::Result<NbdFile> {
    let connector = move |deadline: Instant| {
        let (ours, theirs) = UnixStream::pair()?;
        let serve = serve.clone();
        std::thread::spawn(move || serve(theirs));
        let (channel, export) = negotiate(transport::ticking(ours)?, &Wanted { export: "x", tls: None, deadline })?;
        Ok(Connection::new(channel, export, patience))
    };
    NbdFile::over(Arc::new(connector), patience)
}

/// A client of a server that says this, and nothing after it.
pub fn client_of(words: Vec<u8>) -> io::Result<NbdFile> {
    let open: Streams = Arc::default();
    client(Duration::from_millis(60), move |mut stream: UnixStream| {
        let _ = stream.write_all(&words);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        open.lock().unwrap().push(stream);
    })
}

/// A server of a disk in memory, which may answer in another order, and ends a connection after so many requests.
#[derive(Clone)]
struct Honest {
    disk: Arc<Mutex<Vec<u8>>>,
    requests_left: Arc<AtomicUsize>,
    requests_again: usize,
    flags: u16,
}

impl Honest {
    fn new(flags: u16) -> Self {
        let mut random = Random(1);
        let disk = (0..DISK_BYTES / 8).flat_map(|_| random.next_u64().to_le_bytes()).collect();
        Honest {
            disk: Arc::new(Mutex::new(disk)),
            requests_left: Arc::new(AtomicUsize::new(usize::MAX)),
            requests_again: usize::MAX,
            flags,
        }
    }

    fn serve(&self, mut stream: UnixStream) {
        let _ = stream.write_all(&hello(self.flags, 512));
        // Flags and three options, whose lengths are those of this client.
        let mut greeting = vec![0; 4 + 16 + (16 + 5 + 4 + 4 + 15) + (16 + 5 + 4)];
        let _ = stream.read_exact(&mut greeting);
        let mut held: Option<Vec<u8>> = None;
        let mut head = [0; 28];
        while stream.read_exact(&mut head).is_ok() {
            if self.requests_left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_err() {
                self.requests_left.store(self.requests_again, Relaxed);
                return;
            }
            let mut fields = Fields(&head[6..]);
            let (command, cookie) = (fields.u16().unwrap(), fields.u64().unwrap());
            let (offset, length) = (fields.u64().unwrap() as usize, fields.u32().unwrap() as usize);
            let answer = self.answer(&mut stream, command, cookie, offset, length);
            // Every other answer comes after the one to the next request, if that comes soon.
            if held.is_none() && cookie % 2 == 0 {
                held = Some(answer);
                stream.set_read_timeout(Some(Duration::from_millis(2))).unwrap();
                let more = stream.peek_one();
                stream.set_read_timeout(None).unwrap();
                if more {
                    continue;
                }
                let _ = stream.write_all(&held.take().unwrap());
                continue;
            }
            let _ = stream.write_all(&answer);
            if let Some(held) = held.take() {
                let _ = stream.write_all(&held);
            }
        }
    }

    fn answer(&self, stream: &mut UnixStream, command: u16, cookie: u64, offset: usize, length: usize) -> Vec<u8> {
        let mut disk = self.disk.lock().unwrap();
        match command {
            0 => {
                let half = length / 2;
                [
                    chunk(
                        0,
                        nbd_protocol::chunk::OFFSET_DATA,
                        cookie,
                        &data(offset + half, &disk[offset + half..offset + length]),
                    ),
                    chunk(1, nbd_protocol::chunk::OFFSET_DATA, cookie, &data(offset, &disk[offset..offset + half])),
                ]
                .concat()
            }
            1 => {
                stream.read_exact(&mut disk[offset..offset + length]).unwrap();
                chunk(1, nbd_protocol::chunk::NONE, cookie, &[])
            }
            _ => [&nbd_protocol::SIMPLE_REPLY_MAGIC.to_be_bytes()[..], &[0; 4], &cookie.to_be_bytes()].concat(),
        }
    }
}

trait PeekOne {
    fn peek_one(&self) -> bool;
}

impl PeekOne for UnixStream {
    fn peek_one(&self) -> bool {
        rustix::net::recv(self, &mut [0_u8][..], rustix::net::RecvFlags::PEEK).is_ok_and(|(length, _)| length > 0)
    }
}

pub fn chunk(flags: u16, kind: u16, cookie: u64, data: &[u8]) -> Vec<u8> {
    let head = [&nbd_protocol::CHUNK_MAGIC.to_be_bytes()[..], &flags.to_be_bytes(), &kind.to_be_bytes()].concat();
    [&head, &cookie.to_be_bytes()[..], &(data.len() as u32).to_be_bytes(), data].concat()
}

fn data(offset: usize, bytes: &[u8]) -> Vec<u8> {
    [&(offset as u64).to_be_bytes()[..], bytes].concat()
}

fn read_all(file: &NbdFile) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; DISK_BYTES as usize];
    file.read_exact_at(0, &mut bytes)?;
    Ok(bytes)
}

#[test]
fn many_threads_share_connections_that_answer_in_any_order() {
    for flags in [1, 1 | nbd_protocol::export_flag::CAN_MULTI_CONN] {
        let server = Honest::new(flags);
        let expected = server.disk.lock().unwrap().clone();
        let file = client(Duration::from_secs(5), move |stream| server.serve(stream)).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let (file, expected) = (&file, &expected);
                scope.spawn(move || {
                    let mut random = Random(thread);
                    for _ in 0..100 {
                        let offset = random.below(DISK_BYTES - 1);
                        let mut found = vec![0; random.below(150_000).min(DISK_BYTES - offset) as usize];
                        file.read_exact_at(offset, &mut found).unwrap();
                        assert!(found == expected[offset as usize..][..found.len()]);
                    }
                });
            }
        });
    }
}

#[test]
fn reads_are_asked_again_when_connections_are_lost() {
    let server = Honest { requests_left: Arc::new(AtomicUsize::new(5)), requests_again: 9, ..Honest::new(1) };
    let expected = server.disk.lock().unwrap().clone();
    let file = client(Duration::from_secs(5), move |stream| server.serve(stream)).unwrap();
    assert!(read_all(&file).unwrap() == expected);
}

#[test]
fn a_write_is_repeated_only_if_nothing_else_can_be_lost() {
    let flags = 1 | nbd_protocol::export_flag::SEND_FLUSH;
    let server = Honest { requests_left: Arc::new(AtomicUsize::new(0)), ..Honest::new(flags) };
    let left = server.requests_left.clone();
    let disk = server.disk.clone();
    let file = client(Duration::from_secs(5), move |stream| server.serve(stream)).unwrap();
    file.write_all_at(512, &[7; 512]).unwrap();
    file.sync_data().unwrap();
    assert_eq!(disk.lock().unwrap()[512..1024], [7; 512]);
    // A part of one of the server's blocks.
    file.write_all_at(1000, &[8; 100]).unwrap();
    file.sync_data().unwrap();
    assert_eq!(disk.lock().unwrap()[999..1001], [7, 8]);
    file.write_all_at(0, &[1; 512]).unwrap();
    left.store(0, Relaxed);
    let error = file.sync_data().unwrap_err().to_string();
    assert!(error.contains("some of it may be missing"), "{error}");
    assert!(file.write_all_at(0, &[1; 512]).is_err() && file.sync_data().is_err());
    assert!(read_all(&file).is_ok(), "it can still be read");
}

#[test]
fn a_connection_that_is_lost_by_a_read_is_a_loss_for_the_writes_too() {
    let server = Honest::new(1 | nbd_protocol::export_flag::SEND_FLUSH);
    let left = server.requests_left.clone();
    let file = client(Duration::from_secs(5), move |stream| server.serve(stream)).unwrap();
    file.write_all_at(0, &[1; 512]).unwrap();
    left.store(0, Relaxed);
    file.read_exact_at(4096, &mut [0; 512]).unwrap();
    assert!(file.sync_data().is_err());
}

#[test]
fn a_server_that_says_nothing_is_given_up() {
    let silent: Streams = Arc::default();
    let hold = silent.clone();
    let began = Instant::now();
    let file = client(Duration::from_millis(600), move |mut stream: UnixStream| {
        stream.write_all(&hello(1, 1)).unwrap();
        hold.lock().unwrap().push(stream);
    });
    let error = read_all(&file.unwrap()).unwrap_err().to_string();
    assert!(error.contains("silent"), "{error}");
    assert!(client(Duration::from_millis(300), move |stream| silent.lock().unwrap().push(stream)).is_err());
    assert!(began.elapsed() < Duration::from_secs(8));
}

#[test]
fn answers_that_are_not_what_was_asked_are_refused() {
    let short = data(0, &[1; 256]);
    let wrong: Vec<(&str, Vec<u8>)> = vec![
        ("half of it", chunk(1, nbd_protocol::chunk::OFFSET_DATA, 0, &short)),
        (
            "the same twice",
            [
                chunk(0, nbd_protocol::chunk::OFFSET_DATA, 0, &short),
                chunk(1, nbd_protocol::chunk::OFFSET_DATA, 0, &short),
            ]
            .concat(),
        ),
        ("too much", chunk(1, nbd_protocol::chunk::OFFSET_DATA, 0, &data(0, &[1; 513]))),
        ("another place", chunk(1, nbd_protocol::chunk::OFFSET_DATA, 0, &data(512, &[1; 512]))),
        ("before the place", chunk(1, nbd_protocol::chunk::OFFSET_DATA, 0, &data(usize::MAX, &[1; 512]))),
        (
            "a hole that is too large",
            chunk(1, nbd_protocol::chunk::OFFSET_HOLE, 0, &[&[0; 8][..], &[0xff; 4]].concat()),
        ),
        ("somebody else's", chunk(1, nbd_protocol::chunk::OFFSET_DATA, 99, &data(0, &[1; 512]))),
        ("a status", chunk(1, nbd_protocol::chunk::BLOCK_STATUS, 0, &[0, 0, 0, 7, 0, 0, 2, 0, 0, 0, 0, 0])),
        ("no chunk", [&nbd_protocol::SIMPLE_REPLY_MAGIC.to_be_bytes()[..], &[0; 12], &[1; 512]].concat()),
        ("a long message", chunk(1, nbd_protocol::chunk::ERROR_BIT | 1, 0, &[0; 100_000])),
    ];
    for (name, words) in wrong {
        let file = client_of([hello(1, 512), words].concat()).unwrap();
        assert!(file.read_exact_at(0, &mut [0; 512]).is_err(), "{name}");
    }
    let right = chunk(1, nbd_protocol::chunk::OFFSET_DATA, 0, &data(0, &[1; 512]));
    let file = client_of([hello(1, 512), right].concat()).unwrap();
    let mut found = [0; 512];
    file.read_exact_at(0, &mut found).unwrap();
    assert_eq!(found, [1; 512]);
}

#[test]
fn what_is_allocated_is_asked_once() {
    let status: Vec<u8> =
        [7_u32, 4096, 0, 8192, 3, 4096, 0, 1 << 30, 2].iter().flat_map(|word| word.to_be_bytes()).collect();
    let file = client_of([hello(1, 512), chunk(1, nbd_protocol::chunk::BLOCK_STATUS, 0, &status)].concat()).unwrap();
    let extent = |offset, max_bytes| file.extent_at(offset, max_bytes).unwrap();
    assert_eq!(extent(0, DISK_BYTES), HostExtent { length_bytes: 4096, hole: false });
    assert_eq!(extent(5000, 100), HostExtent { length_bytes: 100, hole: true });
    assert_eq!(extent(5000, DISK_BYTES - 5000), HostExtent { length_bytes: 7288, hole: true });
    assert_eq!(extent(16384, DISK_BYTES - 16384), HostExtent { length_bytes: DISK_BYTES - 16384, hole: true });
}

/// Pieces of answers, some of them right.
fn words() -> impl Strategy<Value = Vec<u8>> {
    let number = || prop_oneof![Just(0_u64), Just(1), Just(512), any::<u64>()];
    let reply =
        (0..2_u16, prop_oneof![Just(0_u16), Just(1), Just(2), Just(5), Just(0x8001), any::<u16>()], number(), 0..3_u64)
            .prop_flat_map(|(flags, kind, offset, cookie)| {
                prop::collection::vec(any::<u8>(), 0..600)
                    .prop_map(move |bytes| chunk(flags, kind, cookie, &data(offset as usize, &bytes)))
            });
    let simple = (0..3_u32, 0..3_u64).prop_map(|(error, cookie)| {
        [&nbd_protocol::SIMPLE_REPLY_MAGIC.to_be_bytes()[..], &error.to_be_bytes(), &cookie.to_be_bytes()].concat()
    });
    let noise = prop::collection::vec(any::<u8>(), 0..100);
    prop::collection::vec(prop_oneof![3 => reply, 1 => simple, 1 => noise], 0..6).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_server_may_say_anything(words in words(), cut in any::<prop::sample::Index>(), flips in prop::collection::vec(any::<(prop::sample::Index, u8)>(), 0..4)) {
        let mut all = [hello(1 | nbd_protocol::export_flag::SEND_FLUSH, 512), words].concat();
        if let Some((index, byte)) = flips.first() {
            let place = index.index(all.len());
            all[place] = *byte;
        }
        if flips.len() > 2 {
            all.truncate(cut.index(all.len()));
        }
        let began = Instant::now();
        if let Ok(file) = client_of(all) {
            let size = file.len_bytes().unwrap();
            let length = size.min(1024);
            let _ = file.read_exact_at(0, &mut vec![0; length as usize]);
            if size > 0 {
                let extent = file.extent_at(0, size);
                prop_assert!(extent.is_err() || extent.is_ok_and(|extent| extent.length_bytes > 0 && extent.length_bytes <= size));
            }
            let _ = file.write_all_at(0, &vec![0; length as usize]);
            let _ = file.sync_data();
        }
        prop_assert!(began.elapsed() < Duration::from_secs(8));
    }
}

#[test]
fn a_full_server_is_a_full_disk() {
    let error = [&28_u32.to_be_bytes()[..], &4_u16.to_be_bytes(), b"full"].concat();
    let file = client_of([hello(1, 512), chunk(1, nbd_protocol::chunk::ERROR_BIT | 1, 0, &error)].concat()).unwrap();
    let error = file.write_all_at(0, &[1; 512]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert!(error.to_string().contains("full"));
}
