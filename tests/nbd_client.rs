//! Disks of NBD servers, as sources and as targets: other people's servers, servers that fail, and servers that go away.

mod common;

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Sandbox, assert_holds, digest, have};

const DISK_BYTES: u64 = 24 << 20;

/// A server that listens on a socket in the sandbox, and ends with the test.
struct Server(Child);

impl Server {
    /// Starts nbdkit with these arguments.
    fn nbdkit(sandbox: &Sandbox, socket: &str, args: &[&str]) -> Server {
        let common = ["-f", "-U", socket, "--exit-with-parent"];
        Self::start(sandbox, "nbdkit", &[&common, args].concat(), &sandbox.path(socket))
    }

    /// Starts qemu-nbd with these arguments.
    fn qemu(sandbox: &Sandbox, socket: &str, args: &[&str]) -> Server {
        let path = sandbox.path(socket);
        let common = ["-t", "-k", path.to_str().expect("UTF-8")];
        Self::start(sandbox, "qemu-nbd", &[&common, args].concat(), &path)
    }

    fn start(sandbox: &Sandbox, name: &str, args: &[&str], socket: &Path) -> Server {
        let _ = std::fs::remove_file(socket);
        let child =
            Command::new(name).current_dir(sandbox.path("")).args(args).stdin(Stdio::null()).spawn().expect(name);
        let began = Instant::now();
        while !socket.exists() {
            assert!(began.elapsed() < Duration::from_secs(20), "{name} does not begin to listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Server(child)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn address(socket: &str) -> String {
    format!("nbd+unix:///?socket={socket}")
}

#[test]
fn every_server_gives_the_same_disk() {
    if !have("nbdkit") || !have("qemu-nbd") {
        return;
    }
    let sandbox = Sandbox::new();
    let raw = sandbox.raw_disk("disk.raw", DISK_BYTES, 12);
    let expected = digest(&sandbox, &raw);
    sandbox.tool("qemu-img", ["convert", "-O", "qcow2", "disk.raw", "disk.qcow2"]);
    let limits = [
        "--filter=blocksize-policy",
        "file",
        "disk.raw",
        "blocksize-minimum=4096",
        "blocksize-preferred=4096",
        "blocksize-maximum=65536",
        "blocksize-error-policy=error",
    ];
    let servers: Vec<(&str, Server)> = vec![
        ("plain", Server::nbdkit(&sandbox, "plain", &["file", "disk.raw"])),
        ("limits", Server::nbdkit(&sandbox, "limits", &limits)),
        ("simple", Server::nbdkit(&sandbox, "simple", &["--no-sr", "file", "disk.raw"])),
        ("dense", Server::nbdkit(&sandbox, "dense", &["--filter=noextents", "file", "disk.raw"])),
        ("old", Server::nbdkit(&sandbox, "old", &["--mask-handshake=0", "file", "disk.raw"])),
        ("qemu", Server::qemu(&sandbox, "qemu", &["-f", "qcow2", "disk.qcow2", "--shared=2"])),
        ("qemu-ro", Server::qemu(&sandbox, "qemu-ro", &["-r", "-f", "raw", "disk.raw", "--shared=8"])),
    ];
    for (socket, _) in &servers {
        let run = sandbox.run(["digest", &address(socket)]);
        if *socket == "old" {
            // Without the fixed newstyle there is nothing to negotiate with.
            run.fails(1, "fixed newstyle");
            continue;
        }
        assert!(run.ok().stdout.starts_with(&expected), "{socket}");
        sandbox.run(["compare", "disk.raw", &address(socket)]).ok();
    }
    sandbox.run(["convert", &address("plain"), "copy.qcow2"]).ok();
    sandbox.tool("qemu-img", ["compare", "-q", "disk.raw", "copy.qcow2"]);
    let map = sandbox.run(["map", &address("plain")]).ok().stdout;
    assert!(map.contains("hole") && map.contains("data"), "{map}");
    assert!(common::allocated_bytes(&sandbox.path("copy.qcow2")) < DISK_BYTES / 2);
    let info = sandbox.run(["info", &address("plain")]).ok().stdout;
    assert!(info.contains("raw") && info.contains("25165824"), "{info}");
    sandbox.run(["digest", "nbd+unix:///nothing?socket=qemu"]).fails(1, "no export of that name");
    sandbox.run(["digest", &address("missing")]).fails(1, "there is no socket missing");
    sandbox.run(["digest", &address("disk.raw")]).fails(1, "no server listens at disk.raw");
    sandbox.run(["digest", "nbd:unix:qemu"]).fails(2, "an NBD address begins with nbd://");
    sandbox.run(["digest", "nbd:///x"]).fails(2, "the host is missing");
}

#[test]
fn images_lie_behind_servers_only_if_that_is_said() {
    if !have("nbdkit") {
        return;
    }
    let sandbox = Sandbox::new();
    let raw = sandbox.raw_disk("disk.raw", DISK_BYTES, 12);
    sandbox.run(["convert", "disk.raw", "disk.qcow2"]).ok();
    let _server = Server::nbdkit(&sandbox, "s", &["file", "disk.qcow2"]);
    let found = sandbox.run(["digest", "-f", "qcow2", &address("s")]).ok().stdout;
    assert!(found.starts_with(&digest(&sandbox, &raw)));
    assert!(!sandbox.run(["digest", &address("s")]).ok().stdout.starts_with(&digest(&sandbox, &raw)));
}

#[test]
fn a_network_is_a_way_too() {
    if !have("nbdkit") {
        return;
    }
    let sandbox = Sandbox::new();
    let raw = sandbox.raw_disk("disk.raw", DISK_BYTES, 12);
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
    let args = ["-f", "-i", "127.0.0.1", "-p", &port.to_string(), "-P", "pid", "-e", "a disk", "file", "disk.raw"];
    let _server = Server::start(&sandbox, "nbdkit", &args, &sandbox.path("pid"));
    let run = sandbox.run(["digest", &format!("nbd://127.0.0.1:{port}/a%20disk")]).ok();
    assert!(run.stdout.starts_with(&digest(&sandbox, &raw)));
}

#[test]
fn an_export_is_written_like_a_device() {
    if !have("nbdkit") || !have("qemu-nbd") || !have("nbdcopy") {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.raw_disk("disk.raw", DISK_BYTES, 12);
    let expected = std::fs::read(sandbox.path("disk.raw")).expect("a disk");
    let filter = [
        "--filter=blocksize-policy",
        "file",
        "target",
        "blocksize-minimum=4096",
        "blocksize-preferred=4096",
        "blocksize-maximum=1M",
        "blocksize-error-policy=error",
    ];
    let ways: [(&str, &[&str]); 4] = [
        ("plain", &["file", "target"]),
        ("limits", &filter),
        ("nozero", &["--filter=nozero", "file", "target"]),
        ("noextents", &["--filter=noextents", "file", "target"]),
    ];
    for (socket, args) in ways {
        std::fs::write(sandbox.path("target"), vec![0xaa; DISK_BYTES as usize]).expect("an old disk");
        let _server = Server::nbdkit(&sandbox, socket, args);
        let target = address(socket);
        sandbox.run(["convert", "disk.raw", &target]).fails(1, "everything on it would be overwritten");
        sandbox.run(["convert", "disk.raw", &target, "--force", "--verify"]).ok();
        assert_holds(&sandbox.path("target"), &expected, socket);
        sandbox.run(["compare", "disk.raw", &target]).ok();
        sandbox.run(["convert", &target, &target, "--force"]).fails(1, "the target is the source");
    }
    sandbox.tool("qemu-img", ["create", "-q", "-f", "qcow2", "target.qcow2", "24M"]);
    let _server = Server::qemu(&sandbox, "qemu", &["-f", "qcow2", "--discard=unmap", "target.qcow2"]);
    sandbox.run(["convert", "disk.raw", &address("qemu"), "--force", "-n", "--verify"]).ok();
    let _memory = Server::nbdkit(&sandbox, "memory", &["memory", "24M"]);
    sandbox.run(["init", "repo", "--no-encryption"]).ok();
    sandbox.run(["backup", "disk.raw", "--repo", "repo", "--name", "a"]).ok();
    sandbox.run(["restore", "a", &address("memory"), "--repo", "repo", "--force"]).ok();
    for socket in ["qemu", "memory"] {
        // As another client reads it.
        sandbox.tool("nbdcopy", [&address(socket), "back"]);
        assert_holds(&sandbox.path("back"), &expected, socket);
    }
    sandbox.run(["convert", "disk.raw", &address("qemu"), "--force", "-O", "vhdx"]).fails(2, "is written as raw");
    let _small = Server::nbdkit(&sandbox, "small", &["memory", "1M"]);
    sandbox.run(["convert", "disk.raw", &address("small"), "--force"]).fails(14, "1048576 bytes");
    let _fixed = Server::nbdkit(&sandbox, "fixed", &["-r", "memory", "24M"]);
    sandbox.run(["convert", "disk.raw", &address("fixed"), "--force"]).fails(1, "lets nobody write to it");
    let full = ["--filter=error", "memory", "24M", "error-pwrite=ENOSPC", "error-pwrite-rate=100%"];
    let _full = Server::nbdkit(&sandbox, "full", &full);
    sandbox.run(["convert", "disk.raw", &address("full"), "--force"]).fails(13, "no space left");
}

/// Chunks of an incremental backup are written all over the disk, and a server far away takes its time for each.
#[test]
fn writes_to_a_slow_server_do_not_wait_for_each_other() {
    if !have("nbdkit") {
        return;
    }
    let sandbox = Sandbox::new();
    let mut bytes = vec![0; 16 << 20];
    let mut random = tintype_formats::testing::Random(11);
    bytes.chunks_exact_mut(8).for_each(|word| word.copy_from_slice(&random.next_u64().to_le_bytes()));
    sandbox.run(["init", "repo", "--no-encryption"]).ok();
    for first in [64, 0, 1] {
        (first..64).step_by(2).for_each(|chunk| bytes[chunk << 18] ^= 1);
        std::fs::write(sandbox.path("disk.raw"), &bytes).unwrap();
        sandbox.run(["backup", "disk.raw", "--repo", "repo", "--name", "a"]).ok();
    }
    let delay = Duration::from_millis(100);
    let _server = Server::nbdkit(&sandbox, "slow", &["--filter=delay", "memory", "16M", "wdelay=100ms"]);
    let began = Instant::now();
    sandbox.run(["restore", "a", &address("slow"), "--repo", "repo", "--force"]).ok();
    // 64 chunks, of which no two neighbours are read at once.
    assert!(began.elapsed() < 64 * delay / 2, "{:?}", began.elapsed());
    sandbox.tool("nbdcopy", [&address("slow"), "back"]);
    assert_holds(&sandbox.path("back"), &bytes, "slow");
}

#[test]
fn what_a_server_cannot_read_is_an_error() {
    if !have("nbdkit") {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.raw_disk("disk.raw", DISK_BYTES, 12);
    let args = ["--filter=error", "file", "disk.raw", "error-pread=EIO", "error-pread-rate=100%"];
    let _server = Server::nbdkit(&sandbox, "s", &args);
    sandbox.run(["digest", &address("s")]).fails(1, "input/output error");
    // A copy of nothing but zeros would be none.
    sandbox.run(["convert", &address("s"), "copy.raw", "--salvage"]).fails(1, "nothing of the disk could be read");
    assert!(!sandbox.path("copy.raw").exists());
}

#[test]
fn a_server_that_comes_back_is_read_on() {
    if !have("nbdkit") {
        return;
    }
    let sandbox = Sandbox::new();
    let raw = sandbox.raw_disk("disk.raw", DISK_BYTES, 40);
    let args = ["--filter=delay", "--filter=noextents", "file", "disk.raw", "rdelay=400ms"];
    let server = Server::nbdkit(&sandbox, "s", &args);
    let run = sandbox.command(["digest", &address("s")]).stdout(Stdio::piped()).spawn().expect("tintype");
    std::thread::sleep(Duration::from_millis(300));
    drop(server);
    std::thread::sleep(Duration::from_millis(700));
    let server = Server::nbdkit(&sandbox, "s", &args);
    let output = run.wait_with_output().expect("an end");
    assert!(common::Run::of(&output).ok().stdout.starts_with(&digest(&sandbox, &raw)));
    // It goes, and stays away.
    let mut command = sandbox.command(["digest", &address("s"), "--nbd-timeout", "1"]);
    let run = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("tintype");
    std::thread::sleep(Duration::from_millis(300));
    drop(server);
    let began = Instant::now();
    common::Run::of(&run.wait_with_output().expect("an end")).fails(1, "not back within 1 s");
    assert!(began.elapsed() < Duration::from_secs(8));
}

#[test]
fn a_server_that_comes_back_may_have_lost_what_was_written() {
    if !have("nbdkit") {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.raw_disk("disk.raw", DISK_BYTES, 60);
    let args = ["--filter=delay", "memory", "24M", "wdelay=60ms"];
    let server = Server::nbdkit(&sandbox, "s", &args);
    let mut command = sandbox.command(["convert", "disk.raw", &address("s"), "--force"]);
    let run = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("tintype");
    std::thread::sleep(Duration::from_millis(400));
    drop(server);
    let _server = Server::nbdkit(&sandbox, "s", &args);
    let run = common::Run::of(&run.wait_with_output().expect("an end"));
    run.fails(1, "some of it may be missing");
}

#[test]
fn tls_proves_who_the_server_is() {
    if !have("nbdkit") || !have("openssl") {
        return;
    }
    let sandbox = Sandbox::new();
    let raw = sandbox.raw_disk("disk.raw", DISK_BYTES, 12);
    for folder in ["pki", "others"] {
        make_certificates(&sandbox, folder);
    }
    let args = ["--tls=require", "--tls-certificates=pki", "--tls-verify-peer", "file", "disk.raw"];
    let _server = Server::nbdkit(&sandbox, "s", &args);
    let at = |scheme: &str, name: &str| format!("{scheme}+unix:///?socket=s{name}");
    let digest_of =
        |address: &str, folder: &str| sandbox.run(["digest", address, "--nbd-tls", folder, "--nbd-timeout", "3"]);
    let found = digest_of(&at("nbds", ""), "pki").ok().stdout;
    assert!(found.starts_with(&digest(&sandbox, &raw)));
    sandbox.run(["digest", &at("nbd", "")]).fails(1, "it wants TLS");
    digest_of(&at("nbds", ""), "others").fails(1, "--nbd-tls names a folder with the ca-cert.pem");
    digest_of(&at("nbds", "&tls-hostname=elsewhere"), "pki").fails(1, "?tls-hostname=NAME");
    std::fs::create_dir(sandbox.path("nobody")).expect("a folder");
    digest_of(&at("nbds", ""), "nobody").fails(2, "it has no ca-cert.pem");
    std::fs::copy(sandbox.path("pki/ca-cert.pem"), sandbox.path("nobody/ca-cert.pem")).expect("a copy");
    digest_of(&at("nbds", ""), "nobody").fails(1, "a folder with client-cert.pem and client-key.pem");
    std::fs::copy(sandbox.path("pki/client-cert.pem"), sandbox.path("nobody/client-cert.pem")).expect("a copy");
    digest_of(&at("nbds", ""), "nobody").fails(2, "expected both client-cert.pem and client-key.pem");
    let _plain = Server::nbdkit(&sandbox, "plain", &["file", "disk.raw"]);
    digest_of("nbds+unix:///?socket=plain", "pki").fails(1, "has no TLS");
}

/// An authority, and a certificate of localhost that is both the server's and the client's.
fn make_certificates(sandbox: &Sandbox, folder: &str) {
    std::fs::create_dir(sandbox.path(folder)).expect("a folder");
    let path = |name: &str| format!("{folder}/{name}");
    let authority = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=authority"];
    let (ca, ca_key) = (path("ca-cert.pem"), path("ca-key.pem"));
    sandbox.tool("openssl", authority.iter().copied().chain(["-keyout", &ca_key, "-out", &ca]));
    let (key, request, certificate) = (path("server-key.pem"), path("request"), path("server-cert.pem"));
    let asks = ["req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-keyout", &key, "-out", &request];
    sandbox.tool("openssl", asks);
    std::fs::write(sandbox.path(&path("extensions")), "subjectAltName=DNS:localhost\n").expect("a file");
    let extensions = path("extensions");
    let signs = [
        "x509",
        "-req",
        "-in",
        &request,
        "-CA",
        &ca,
        "-CAkey",
        &ca_key,
        "-CAcreateserial",
        "-days",
        "2",
        "-extfile",
        &extensions,
        "-out",
        &certificate,
    ];
    sandbox.tool("openssl", signs);
    for (from, to) in [("server-cert.pem", "client-cert.pem"), ("server-key.pem", "client-key.pem")] {
        std::fs::copy(sandbox.path(&path(from)), sandbox.path(&path(to))).expect("a copy");
    }
}

#[test]
fn an_overlay_is_read_with_its_disk() {
    use tintype::sources::{OpenOptions, Overlay, WritableDisk as _, open_disk};
    let sandbox = Sandbox::new();
    let raw = sandbox.raw_disk("disk.raw", DISK_BYTES, 12);
    sandbox.run(["convert", "disk.raw", "disk.qcow2"]).ok();
    let opened = open_disk(&raw, &OpenOptions::default(), None).expect("a disk");
    let overlay = Overlay::create(&sandbox.path("kept"), opened.disk.into()).expect("an overlay");
    overlay.write_at(1_000_000, &[0x5a; 70_000]).expect("a write");
    overlay.write_zeros_at(4 << 20, 1 << 20).expect("zeros");
    overlay.flush().expect("a flush");
    sandbox.run(["digest", "disk.raw", "--with-overlay", "kept"]).fails(1, "another process uses the overlay");
    drop(overlay);
    std::fs::copy(&raw, sandbox.path("expected.raw")).expect("a copy");
    let expected = File::options().write(true).open(sandbox.path("expected.raw")).expect("a file");
    expected.write_all_at(&[0x5a; 70_000], 1_000_000).expect("a write");
    expected.write_all_at(&vec![0; 1 << 20], 4 << 20).expect("a write");
    let wanted = digest(&sandbox, &sandbox.path("expected.raw"));
    // The disk below may have got another format meanwhile.
    for disk in ["disk.raw", "disk.qcow2"] {
        let found = sandbox.run(["digest", disk, "--with-overlay", "kept"]).ok().stdout;
        assert!(found.starts_with(&wanted), "{disk}");
    }
    sandbox.run(["convert", "disk.raw", "merged.vhdx", "--with-overlay", "kept", "--verify"]).ok();
    assert_eq!(digest(&sandbox, &sandbox.path("merged.vhdx")), wanted);
    sandbox.run(["compare", "disk.qcow2", "expected.raw", "--with-overlay", "kept"]).ok();
    sandbox.run(["digest", "expected.raw", "--with-overlay", "disk.qcow2"]).fails(1, "does not begin as an overlay");
    sandbox.raw_disk("other.raw", DISK_BYTES, 40);
    sandbox.run(["digest", "other.raw", "--with-overlay", "kept"]).fails(2, "was not made for this disk");
    sandbox.run(["digest", "-f", "raw", "-", "--with-overlay", "kept"]).fails(2, "not standard input");
    sandbox
        .run(["convert", "disk.raw", "kept", "-O", "raw", "--force", "--with-overlay", "kept"])
        .fails(1, "the target is the source");
}

#[test]
fn an_overlay_on_a_full_disk_fails_the_writer_only() {
    use tintype::sources::{OpenOptions, Overlay, WritableDisk as _, open_disk};
    if !common::have_root() {
        return;
    }
    let sandbox = Sandbox::new();
    let raw = sandbox.raw_disk("disk.raw", DISK_BYTES, 12);
    std::fs::create_dir(sandbox.path("small")).expect("a folder");
    sandbox.tool("mount", ["-t", "tmpfs", "-o", "size=4M", "none", "small"]);
    let open = || open_disk(&raw, &OpenOptions::default(), None).expect("a disk").disk.into();
    let overlay = Overlay::create(&sandbox.path("small/kept"), open()).expect("an overlay");
    let written = (0..24_u64)
        .take_while(|mib| overlay.write_at(mib << 20, &vec![*mib as u8 + 1; 1 << 20]).is_ok())
        .count() as u64;
    let failed =
        overlay.write_at(20 << 20, &vec![9; 4 << 20]).map_err(|error| error.io_cause().map(std::io::Error::kind));
    let flushed = overlay.flush();
    let seen: Vec<u8> = first_bytes(&overlay, written);
    drop(overlay);
    let again: Vec<u8> = first_bytes(&Overlay::open(&sandbox.path("small/kept"), open()).expect("an overlay"), written);
    sandbox.tool("umount", ["small"]);
    assert!((1..4).contains(&written), "{written} MiB were written");
    assert_eq!(failed.unwrap_err(), Some(std::io::ErrorKind::StorageFull));
    flushed.expect("what was written can be flushed");
    assert_eq!(seen, (1..=written as u8).collect::<Vec<_>>());
    assert_eq!(again, seen);
}

fn first_bytes(disk: &dyn tintype_formats::BlockSource, mebibytes: u64) -> Vec<u8> {
    let first = |mib: u64| {
        let mut byte = [0];
        disk.read_at(mib << 20, &mut byte).expect("a read");
        byte[0]
    };
    (0..mebibytes).map(first).collect()
}
