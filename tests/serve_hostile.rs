//! What clients can do to the NBD server, and to each other: nothing beyond their own connection.

mod common;
#[path = "common/served.rs"]
mod served;

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::nbd::{
    BLOCK_STATUS, DISC, FLUSH, READ, TRIM, WRITE, WRITE_ZEROES, make_certificates, option, read_at, reply, request,
};
use common::{Sandbox, have};
use proptest::prelude::*;
use served::{DISK_BYTES, Served, assert_ends, serve};
use tintype::serve::nbd::{Access, Export, Exports, Limits, Listener, Server, Settings, TlsFiles, TlsSettings};
use tintype::sources::{NbdAddress, NbdFile, NbdOptions, WritableDisk};
use tintype_formats::testing::{ModelDisk, Random, read_all};
use tintype_formats::{BlockSource, HostFile};

#[test]
fn who_breaks_the_rules_ends_alone() {
    let served = serve(false, Settings::default());
    let (stop, reads) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut good = served.client();
            let mut random = Random(1);
            while !stop.load(Ordering::Relaxed) {
                let offset = random.below(DISK_BYTES - 70_000);
                assert_eq!(read_at(&mut good, offset, 70_000), served.content[offset as usize..][..70_000]);
                reads.fetch_add(1, Ordering::Relaxed);
            }
        });
        let long = [b"IHAVEOPT", &3u32.to_be_bytes()[..], &(65u32 << 10).to_be_bytes()].concat();
        for handshake in [&[0xff; 4][..], &[0, 0, 0, 1, b'I', b'h'], &option(3, b"")[..], b"GET / HTTP/1.1\r\n\r\n1234"]
        {
            let mut stream = served.connect();
            let _ = stream.write_all(&[handshake, &[0; 64]].concat());
            assert_ends(stream);
        }
        for options in [&long, &option(1, b"no such"), &option(1, &[0xff; 9]), &option(2, b"")] {
            let mut stream = served.connect();
            stream.write_all(&[&1u32.to_be_bytes()[..], options].concat()).unwrap();
            assert_ends(stream);
        }
        for requests in [vec![0; 28], request(WRITE, 0, 0, (32 << 20) + 1), request(DISC, 0, 0, 0), vec![0x25; 28]] {
            let mut stream = served.client();
            stream.write_all(&requests).unwrap();
            assert_ends(stream);
        }
        let mut half = served.client();
        half.write_all(&request(READ, 0, 0, 1)[..17]).unwrap();
        drop(half);
        // Who only stays is no burden.
        let mut half = served.client();
        half.write_all(&request(WRITE, 0, 0, 1000)).unwrap();
        served.wait_for_connections(2);
        let before = reads.load(Ordering::Relaxed);
        let began = Instant::now();
        while reads.load(Ordering::Relaxed) < before + 20 {
            assert!(began.elapsed() < Duration::from_secs(10), "the other client does not go on");
            std::thread::sleep(Duration::from_millis(5));
        }
        stop.store(true, Ordering::Relaxed);
    });
    served.server.stop().unwrap();
}

#[test]
fn what_makes_no_sense_is_refused_and_the_connection_goes_on() {
    let served = serve(false, Settings::default());
    let mut client = served.client();
    let refused = |client: &mut UnixStream, request: Vec<u8>, payload: usize| {
        client.write_all(&[request, vec![0; payload]].concat()).unwrap();
        reply(client)
    };
    assert_eq!(refused(&mut client, request(READ, 0, DISK_BYTES, 1), 0), 22);
    assert_eq!(refused(&mut client, request(READ, 0, u64::MAX, 4096), 0), 22);
    assert_eq!(refused(&mut client, request(READ, 0, 0, u32::MAX), 0), 75);
    assert_eq!(refused(&mut client, request(READ, 1 << 2, 0, 1), 0), 22, "no fragments without structured replies");
    assert_eq!(refused(&mut client, request(WRITE, 0, 0, 100), 100), 1);
    assert_eq!(refused(&mut client, request(TRIM, 0, 0, 100), 0), 1);
    assert_eq!(refused(&mut client, request(BLOCK_STATUS, 0, 0, 100), 0), 22);
    assert_eq!(refused(&mut client, request(4711, 0, 0, 0), 0), 22);
    assert!(read_at(&mut client, DISK_BYTES, 0).is_empty());
    assert_eq!(read_at(&mut client, 0, DISK_BYTES as usize), served.content);
}

#[test]
fn who_never_reads_waits_alone() {
    let served = serve(false, Settings::default());
    let mut deaf = served.client();
    let requests = request(READ, 0, 0, 1 << 20).repeat(1000);
    // A million requests, or as many as the server lets come.
    for _ in 0..1000 {
        if deaf.write_all(&requests).is_err() {
            break;
        }
    }
    let mut good = served.client();
    assert_eq!(read_at(&mut good, 0, DISK_BYTES as usize), served.content);
    let began = Instant::now();
    served.server.stop().unwrap();
    assert!(began.elapsed() < Duration::from_secs(1), "the end takes {:?}", began.elapsed());
    assert_ends(good);
}

#[test]
fn a_server_that_stops_finishes_what_it_has_begun() {
    let served = serve(true, Settings::default());
    let mut client = served.client();
    client.write_all(&[request(WRITE, 0, 512, 4096), vec![9; 4096]].concat()).unwrap();
    assert_eq!(reply(&mut client), 0);
    served.server.stop().unwrap();
    assert_ends(client);
    assert!(!served.path.exists());
}

#[test]
fn writes_of_many_clients_are_one_disk() {
    let served = serve(true, Settings::default());
    let parts = 4;
    let part_bytes = DISK_BYTES / parts;
    let expected = std::thread::scope(|scope| {
        let served = &served;
        let work = |part: u64| {
            let mut model = served.content[(part * part_bytes) as usize..][..part_bytes as usize].to_vec();
            let (mut client, mut random) = (served.client(), Random(part));
            for round in 0..200u64 {
                let length = random.below(70_000) + 1;
                let at = random.below(part_bytes - length);
                let (guest_offset, fua) = (part * part_bytes + at, (round % 3 == 0) as u16);
                let place = &mut model[at as usize..][..length as usize];
                let message = match random.below(4) {
                    0 => {
                        place.fill(0);
                        request(WRITE_ZEROES, fua | (random.below(2) as u16) << 1, guest_offset, length as u32)
                    }
                    _ => {
                        place.fill(round as u8);
                        [request(WRITE, fua, guest_offset, length as u32), vec![round as u8; length as usize]].concat()
                    }
                };
                client.write_all(&message).unwrap();
                assert_eq!(reply(&mut client), 0);
            }
            client.write_all(&request(FLUSH, 0, 0, 0)).unwrap();
            assert_eq!(reply(&mut client), 0);
            model
        };
        let workers: Vec<_> = (0..parts).map(|part| scope.spawn(move || work(part))).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect::<Vec<_>>()
    });
    let mut client = served.client();
    assert!(read_at(&mut client, 0, DISK_BYTES as usize) == expected, "the disk differs");
    client.write_all(&request(WRITE, 0, DISK_BYTES, 1)).unwrap();
    client.write_all(&[1]).unwrap();
    assert_eq!(reply(&mut client), 28);
}

/// A disk that takes its time for a read, and is full when it is written to.
struct Faulty(ModelDisk, Duration);

impl BlockSource for Faulty {
    fn geometry(&self) -> tintype_formats::Geometry {
        self.0.geometry()
    }

    fn extent_at(
        &self,
        guest_offset: u64,
        max_bytes: u64,
    ) -> Result<tintype_formats::extent::DiskExtent, tintype_formats::ImageError> {
        self.0.extent_at(guest_offset, max_bytes)
    }

    fn read_at(&self, guest_offset: u64, buffer: &mut [u8]) -> Result<(), tintype_formats::ImageError> {
        std::thread::sleep(self.1);
        self.0.read_at(guest_offset, buffer)
    }
}

impl WritableDisk for Faulty {
    fn write_at(&self, _: u64, _: &[u8]) -> Result<(), tintype_formats::ImageError> {
        Err(tintype_formats::ImageError::io("write", io::ErrorKind::StorageFull.into()))
    }

    fn write_zeros_at(&self, guest_offset: u64, _: u64) -> Result<(), tintype_formats::ImageError> {
        self.write_at(guest_offset, &[])
    }

    fn discard_at(&self, _: u64, _: u64) -> Result<(), tintype_formats::ImageError> {
        panic!("a bug of a disk")
    }

    fn flush(&self) -> Result<(), tintype_formats::ImageError> {
        Ok(())
    }
}

#[test]
fn a_full_disk_is_told_as_such_and_a_panic_ends_one_connection() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let disk = Faulty(ModelDisk::random(5, DISK_BYTES, 20, 20), Duration::ZERO);
    let exports = Exports::only(Export::new("a", "", Access::Writable(Arc::new(disk))));
    let path = folder.path().join("s");
    let server = Server::start(vec![Listener::unix(&path).unwrap()], exports, Settings::default()).unwrap();
    let served = Served { server, path, content: Vec::new(), _folder: folder };
    let mut client = served.client();
    client.write_all(&[request(WRITE, 0, 0, 10), vec![0; 10]].concat()).unwrap();
    assert_eq!(reply(&mut client), 28);
    let mut other = served.client();
    client.write_all(&request(TRIM, 0, 0, 512)).unwrap();
    assert_ends(client);
    read_at(&mut other, 0, 512);
}

#[test]
fn a_slow_disk_is_no_silence_of_its_client_in_tls_either() {
    if !have("openssl") {
        return;
    }
    let sandbox = Sandbox::new();
    make_certificates(&sandbox);
    let files = TlsFiles {
        certificate: sandbox.path("tls/server-cert.pem"),
        key: sandbox.path("tls/server-key.pem"),
        client_authority: None,
    };
    let failures = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&failures);
    let settings = Settings {
        tls: Some(TlsSettings::load(&files).unwrap()),
        limits: Limits { idle: Some(Duration::from_millis(200)), ..Limits::default() },
        observer: Some(Box::new(move |event| told.lock().unwrap().push(event))),
        ..Settings::default()
    };
    let disk = ModelDisk::random(5, DISK_BYTES, 20, 20);
    let content = read_all(&disk).unwrap();
    let exports =
        Exports::only(Export::new("a", "", Access::ReadOnly(Arc::new(Faulty(disk, Duration::from_millis(600))))));
    let path = sandbox.path("s");
    let server = Server::start(vec![Listener::unix(&path).unwrap()], exports, settings).unwrap();
    let address = NbdAddress::parse(&format!("nbds+unix:///a?socket={}", path.display())).unwrap();
    let options = NbdOptions { tls_folder: Some(sandbox.path("tls")), ..NbdOptions::default() };
    let file = NbdFile::open(&address, &options).unwrap();
    for at in 0..4 {
        let mut read = [0; 4096];
        file.read_exact_at(at * 4096, &mut read).unwrap();
        assert_eq!(read, content[at as usize * 4096..][..4096]);
    }
    drop(file);
    server.stop().unwrap();
    assert_eq!(*failures.lock().unwrap(), [], "connections failed");
}

/// Messages that are right but for what chance makes of them.
fn messages(seed: u64, handshake: bool) -> Vec<u8> {
    let mut random = Random(seed);
    let mut stream = Vec::new();
    if handshake {
        stream.extend((random.below(4) as u32).to_be_bytes());
    }
    for _ in 0..random.below(12) {
        let noise: Vec<u8> = (0..random.below(40)).map(|_| random.next_u64() as u8).collect();
        if handshake {
            let name = [&1u32.to_be_bytes()[..], b"a", &(random.below(3) as u32).to_be_bytes()].concat();
            let data = [&b""[..], b"a", &name, &noise][random.below(4) as usize];
            stream.extend(option(random.below(12) as u32, data));
        } else {
            let offset = [random.below(DISK_BYTES), DISK_BYTES, random.next_u64()][random.below(3) as usize];
            let length = [random.below(9000), random.below(DISK_BYTES), random.next_u64()][random.below(3) as usize];
            stream.extend(request(random.below(9) as u16, random.below(32) as u16, offset, length as u32));
            stream.extend(noise);
        }
    }
    for _ in 0..random.below(4) {
        if let Some(byte) =
            random.next_u64().checked_rem(stream.len() as u64).and_then(|at| stream.get_mut(at as usize))
        {
            *byte = random.next_u64() as u8;
        }
    }
    stream
}

#[test]
fn no_stream_of_bytes_does_any_harm() {
    let served = serve(true, Settings::default());
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 3000,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let context =
        [&1u32.to_be_bytes()[..], b"a", &1u32.to_be_bytes(), &15u32.to_be_bytes(), b"base:allocation"].concat();
    let go = [&1u32.to_be_bytes()[..], b"a", &0u16.to_be_bytes()].concat();
    let structured = [&3u32.to_be_bytes()[..], &option(8, b""), &option(10, &context), &option(7, &go)].concat();
    let ran = runner.run(&(any::<u64>(), 0..3), |(seed, kind)| {
        let (mut stream, begin) = match kind {
            0 => (served.connect(), &[][..]),
            1 => (served.connect(), &structured[..]),
            _ => (served.client(), &[][..]),
        };
        // It may hang up at any byte.
        let _ = stream.write_all(&[begin, &messages(seed, kind == 0)].concat());
        let _ = stream.shutdown(std::net::Shutdown::Write);
        assert_ends(stream);
        Ok(())
    });
    ran.unwrap();
    served.wait_for_connections(0);
    assert_eq!(read_at(&mut served.client(), 0, 512).len(), 512);
    served.server.stop().unwrap();
}
