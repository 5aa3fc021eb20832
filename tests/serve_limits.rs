//! Limits of a server: of time, of clients and of memory.

mod common;
#[path = "common/served.rs"]
mod served;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::nbd::{READ, Serving, WRITE, client, make_certificates, option, read_at, reply, request};
use common::{Sandbox, have};
use served::{DISK_BYTES, assert_ends, serve};
use tintype::serve::nbd::{Access, Export, Exports, Limits, Listener, Server, Settings, TlsFiles, TlsSettings};
use tintype::sources::{NbdAddress, NbdFile, NbdOptions};
use tintype_formats::HostFile;
use tintype_formats::testing::{ModelDisk, Random, read_all};

#[test]
fn there_are_limits_for_clients_that_do_nothing() {
    let limits = Limits {
        connections: 1,
        handshake: Duration::from_millis(200),
        idle: Some(Duration::from_millis(300)),
        ..Limits::default()
    };
    let served = serve(false, Settings { limits, ..Settings::default() });
    let silent = served.connect();
    let mut slow = served.connect();
    let idle = served.client();
    let mut fourth = UnixStream::connect(&served.path).unwrap();
    assert_eq!(fourth.read(&mut [0; 18]).unwrap(), 0, "more clients than allowed");
    slow.write_all(&1u32.to_be_bytes()).unwrap();
    let began = Instant::now();
    // A byte at a time does not make the time longer.
    let trickle = std::iter::repeat_with(|| {
        std::thread::sleep(Duration::from_millis(50));
        slow.write_all(b"I")
    });
    let count = trickle.take(40).take_while(Result::is_ok).count();
    assert!(count < 20, "{count} bytes");
    assert_ends(silent);
    assert_ends(idle);
    assert!(began.elapsed() < Duration::from_secs(5));
    served.wait_for_connections(0);
}

/// Clients that never finish their handshake take no place of those that do.
#[test]
fn handshakes_that_stop_keep_nobody_out() {
    if !have("openssl") {
        return;
    }
    let sandbox = Sandbox::new();
    make_certificates(&sandbox);
    let files = TlsFiles {
        certificate: sandbox.path("tls/server-cert.pem"),
        key: sandbox.path("tls/server-key.pem"),
        client_authority: Some(sandbox.path("tls/ca-cert.pem")),
    };
    let settings = Settings { tls: Some(TlsSettings::load(&files).unwrap()), ..Settings::default() };
    let disk = ModelDisk::random(5, DISK_BYTES, 20, 20);
    let content = read_all(&disk).unwrap();
    let exports = Exports::only(Export::new("a", "", Access::ReadOnly(Arc::new(disk))));
    let listener = Listener::tcp("127.0.0.1:0".parse().unwrap()).unwrap();
    let server = Server::start(vec![listener], exports, settings).unwrap();
    let tintype::serve::nbd::Address::Tcp(at) = server.addresses()[0].clone() else { panic!("a TCP address") };
    let stopped: Vec<_> = (0..400)
        .map(|_| {
            let mut stream = std::net::TcpStream::connect(at).unwrap();
            // One that was sent away already cannot hear it.
            let _ = stream.write_all(&[&3u32.to_be_bytes()[..], &option(5, b"")].concat());
            stream
        })
        .collect();
    let address = NbdAddress::parse(&format!("nbds://127.0.0.1:{}/a?tls-hostname=localhost", at.port())).unwrap();
    let options = NbdOptions { tls_folder: Some(sandbox.path("tls")), ..NbdOptions::default() };
    for _ in 0..5 {
        let file = NbdFile::open(&address, &options).unwrap();
        let mut read = [0; 4096];
        file.read_exact_at(0, &mut read).unwrap();
        assert_eq!(read, content[..4096]);
    }
    assert!(server.counters().connections <= 256 + 20, "{:?}", server.counters());
    drop(stopped);
}

#[test]
fn idle_clients_make_room_and_busy_ones_do_not() {
    let serve_64 = |yields_after| {
        let limits = Limits { connections: 64, yields_after, ..Limits::default() };
        let served = serve(false, Settings { limits, ..Settings::default() });
        let clients: Vec<_> = (0..64).map(|_| served.client()).collect();
        (served, clients)
    };
    let (served, _clients) = serve_64(Duration::MAX);
    let mut late = UnixStream::connect(&served.path).unwrap();
    assert_eq!(late.read(&mut [0; 18]).unwrap(), 0, "nobody was idle for long enough");
    let (served, mut clients) = serve_64(Duration::from_millis(1));
    std::thread::sleep(Duration::from_millis(50));
    read_at(&mut clients[0], 0, 512);
    let mut new = served.client();
    assert_eq!(read_at(&mut new, 0, 4096), served.content[..4096]);
    // The one that was idle for the longest has gone.
    assert_eq!(read_at(&mut clients[0], 0, 512), served.content[..512]);
    served.wait_for_connections(64);
}

/// A byte now and then makes the time for a request no longer.
#[test]
fn a_request_has_a_deadline_whatever_drips_in() {
    let limits = Limits { request: Some(Duration::from_millis(300)), ..Limits::default() };
    let served = serve(true, Settings { limits, ..Settings::default() });
    let write = [request(WRITE, 0, 0, 40_000), vec![7; 40_000]].concat();
    for message in [&write[..], &request(READ, 0, 0, 512)[..27]] {
        let mut client = served.client();
        let began = Instant::now();
        let bytes = message.iter().cycle().take(200);
        let sent = bytes.take_while(|byte| {
            std::thread::sleep(Duration::from_millis(30));
            client.write_all(&[**byte]).is_ok()
        });
        // The last 28 bytes are a header; then what is written comes as slowly.
        let count = sent.count();
        assert!(count < 150, "{count} bytes in {:?}", began.elapsed());
        assert_ends(client);
    }
    // A client that was silent between two requests is none of those.
    let mut client = served.client();
    std::thread::sleep(Duration::from_millis(700));
    read_at(&mut client, 0, 512);
}

#[test]
fn all_clients_together_get_no_more_memory_than_a_server_has() {
    const MOST_BYTES: usize = 32 << 20;
    let sandbox = Sandbox::new();
    sandbox.raw_disk("disk.raw", 96 << 20, 200);
    let serving = Serving::start(&sandbox, 1, &["disk.raw", "--overlay", "o", "--socket", "s", "--quiet"]);
    let mut others = Vec::new();
    // Some read nothing of what they asked for, some stop in the middle of a write.
    for number in 0..56 {
        let mut stream = client(&sandbox, number % 2 == 0);
        stream.write_all(&request(READ, 0, 33 << 20, MOST_BYTES as u32).repeat(16)).expect("requests");
        others.push(stream);
    }
    for _ in 0..6 {
        let mut stream = client(&sandbox, false);
        let half = vec![7; MOST_BYTES / 2];
        stream.write_all(&[request(WRITE, 0, 64 << 20, MOST_BYTES as u32), half].concat()).expect("half a write");
        others.push(stream);
    }
    let mut random = Random(1);
    let content: Vec<u8> = (0..MOST_BYTES / 8).flat_map(|_| random.next_u64().to_le_bytes()).collect();
    let mut stream = client(&sandbox, false);
    stream.write_all(&[request(WRITE, 1, 0, MOST_BYTES as u32), content.clone()].concat()).expect("a write");
    assert_eq!(reply(&mut stream), 0);
    assert!(read_at(&mut stream, 0, MOST_BYTES) == content, "another content");
    stream.write_all(&[request(WRITE, 0, 65 << 20, MOST_BYTES as u32), content].concat()).expect("a write");
    assert_eq!(reply(&mut stream), 28, "it reaches past the end");
    read_at(&mut stream, 0, 512);
    let status = std::fs::read_to_string(format!("/proc/{}/status", serving.child.id())).expect("its status");
    let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("its memory");
    let most_kib: u64 = most.trim().trim_end_matches(" kB").parse().expect("a number");
    assert!(most_kib < 256 << 10, "{most_kib} KiB");
    drop(others);
    serving.stop().ok();
}
