//! `tintype serve` as other people's clients see it.

mod common;

use std::io::Write;
use std::path::Path;
use std::process::Command;

use common::nbd::{Serving, WRITE, client, make_certificates, read_at, reply, request};
use common::{Sandbox, assert_holds, digest, have, partitioned_disk};
use rustix::process::Signal;

fn nbdinfo(sandbox: &Sandbox, args: &[&str]) -> serde_json::Value {
    let text = sandbox.tool("nbdinfo", [&["--json"], args].concat());
    serde_json::from_str(&text).expect("JSON")
}

#[test]
fn libnbd_and_qemu_read_a_disk_of_any_format() {
    if !(have("nbdinfo") && have("nbdcopy") && have("qemu-img")) {
        return;
    }
    let sandbox = Sandbox::new();
    let raw = partitioned_disk(&sandbox, "disk.raw");
    sandbox.run(["convert", "disk.raw", "disk.qcow2", "--compress", "zstd"]).ok();
    for source in ["disk.raw", "disk.qcow2"] {
        let serving = Serving::start(&sandbox, 3, &[source, "--socket", "s", "--quiet"]);
        let path = sandbox.path("s").display().to_string();
        let uri = |name: &str| format!("nbd+unix:///{name}?socket={path}");
        assert_eq!(serving.uris, [uri("disk"), uri("disk/part1"), uri("disk/part2")]);
        for name in ["", "disk"] {
            let _ = std::fs::remove_file(sandbox.path("copy"));
            sandbox.tool("nbdcopy", ["--connections=4", &uri(name), "copy"]);
            assert_holds(&sandbox.path("copy"), &raw, source);
        }
        sandbox.tool("nbdcopy", [&uri("disk/part1"), "part"]);
        assert_holds(&sandbox.path("part"), &raw[64 * 512..][..4000 * 512], source);
        sandbox.tool("qemu-img", ["compare", "-f", "raw", "-F", "raw", serving.uri(), "disk.raw"]);
        sandbox.tool("qemu-img", ["convert", "-f", "raw", "-O", "qcow2", serving.uri(), "by-qemu.qcow2"]);
        common::assert_qemu_reads_the_same(&sandbox, "disk.raw", "by-qemu.qcow2", "qcow2");
        serving.stop().ok();
        assert!(!sandbox.path("s").exists(), "the socket is left behind");
    }
}

#[test]
fn clients_learn_what_is_there() {
    if !have("nbdinfo") {
        return;
    }
    let sandbox = Sandbox::new();
    partitioned_disk(&sandbox, "disk.raw");
    let file = std::fs::File::create(sandbox.path("sparse.raw")).expect("a file");
    file.set_len(4 << 20).expect("a size");
    std::os::unix::fs::FileExt::write_all_at(&file, &[7; 65536], 1 << 20).expect("data");
    let serving = Serving::start(&sandbox, 3, &["disk.raw", "--listen", "127.0.0.1:0", "--name", "web 1"]);
    assert!(serving.uri().ends_with("/web%201"), "{}", serving.uri());
    let list = nbdinfo(&sandbox, &["--list", serving.uri()]);
    let names: Vec<_> =
        list["exports"].as_array().expect("exports").iter().map(|one| one["export-name"].clone()).collect();
    assert_eq!(names, ["web 1", "web 1/part1", "web 1/part2"]);
    let first = &list["exports"][0];
    assert_eq!((first["export-size"].as_u64(), first["is_read_only"].as_bool()), (Some(8 << 20), Some(true)));
    assert_eq!((first["can_multi_conn"].as_bool(), first["can_df"].as_bool()), (Some(true), Some(true)));
    assert_eq!(first["block_size_minimum"], 1);
    assert_eq!(first["contexts"][0], "base:allocation");
    serving.stop().ok();
    let serving = Serving::start(&sandbox, 1, &["sparse.raw", "--listen", "127.0.0.1:0", "--json", "--quiet"]);
    let line: serde_json::Value = serde_json::from_str(serving.uri()).expect("JSON");
    assert_eq!((line["type"].as_str(), line["name"].as_str()), (Some("export"), Some("sparse")));
    let map = nbdinfo(&sandbox, &["--map", line["uri"].as_str().expect("a URI")]);
    let rows: Vec<_> =
        map.as_array().expect("rows").iter().map(|row| (row["offset"].as_u64(), row["type"].as_u64())).collect();
    assert_eq!(rows, [(Some(0), Some(3)), (Some(1 << 20), Some(0)), (Some((1 << 20) + 65536), Some(3))]);
    serving.stop().ok();
}

#[test]
fn what_is_written_goes_to_the_overlay_and_outlives_the_server() {
    if !have("qemu-io") {
        return;
    }
    let sandbox = Sandbox::new();
    let mut disk = partitioned_disk(&sandbox, "disk.raw");
    let args = ["disk.raw", "--overlay", "o", "--socket", "s", "--quiet"];
    let serving = Serving::start(&sandbox, 3, &args);
    let write = |commands: &[&str], uri: &str| {
        let commands = commands.iter().flat_map(|command| ["-c", command]);
        sandbox.tool("qemu-io", ["-f", "raw"].into_iter().chain(commands).chain([uri]))
    };
    write(
        &["write -P 1 1000 5000", "write -f -P 2 1M 64k", "write -z 2M 100k", "write -z -u 3M 64k", "flush"],
        serving.uri(),
    );
    disk[1000..6000].fill(1);
    disk[1 << 20..][..64 << 10].fill(2);
    disk[2 << 20..][..100 << 10].fill(0);
    disk[3 << 20..][..64 << 10].fill(0);
    write(&["write -P 3 0 512", "flush"], &serving.uris[2]);
    disk[8192 * 512..][..512].fill(3);
    write(&["discard 5M 1M", "write -P 4 5M 1M", "flush"], serving.uri());
    disk[5 << 20..][..1 << 20].fill(4);
    // Killed, it keeps what was flushed.
    serving.signal(Signal::KILL);
    drop(serving);
    let serving = Serving::start(&sandbox, 3, &args);
    sandbox.tool("nbdcopy", [serving.uri(), "copy"]);
    assert_holds(&sandbox.path("copy"), &disk, "after a kill");
    write(&["write -P 5 7M 64k"], serving.uri());
    disk[7 << 20..][..64 << 10].fill(5);
    // Told to end, it flushes.
    serving.stop().ok();
    let serving = Serving::start(&sandbox, 3, &args);
    sandbox.tool("nbdcopy", [serving.uri(), "copy"]);
    assert_holds(&sandbox.path("copy"), &disk, "after an end");
    sandbox
        .run(["serve", "disk.raw", "--overlay", "o", "--socket", "other"])
        .fails(1, "another process uses the overlay");
}

#[test]
fn each_disk_of_a_snapshot_has_its_name() {
    if !have("nbdinfo") {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.raw_disk("a.raw", 3 << 20, 9);
    sandbox.raw_disk("b.raw", 5 << 20, 9);
    std::fs::write(sandbox.path("password"), "secret\n").expect("a file");
    fn with<'a>(args: &[&'a str]) -> Vec<&'a str> {
        [args, &["--password-file", "password"]].concat()
    }
    let init: Vec<&str> = vec!["init", "repo", "--password-file", "password"];
    sandbox.run(init).ok();
    sandbox.run(with(&["backup", "a.raw", "b.raw", "--repo", "repo", "--name", "web"])).ok();
    let serving = Serving::start(&sandbox, 2, &with(&["repo::web", "--socket", "s"]));
    for (uri, name) in serving.uris.iter().zip(["a.raw", "b.raw"]) {
        sandbox.tool("nbdcopy", [uri.as_str(), "copy"]);
        let expected = std::fs::read(sandbox.path(name)).expect("a disk");
        assert_holds(&sandbox.path("copy"), &expected, uri);
    }
    let path = sandbox.path("s").display().to_string();
    let unknown = format!("nbd+unix:///sdx?socket={path}");
    sandbox
        .run(["info", &unknown])
        .fails(1, "no export of that name (\"there is no export of that name\"); it has \"a\", \"b\"");
    let default = Command::new("nbdinfo").arg(format!("nbd+unix:///?socket={path}")).output().expect("nbdinfo");
    assert!(!default.status.success(), "there is a default among two");
    let said = serving.stop().ok().stderr;
    assert!(said.contains("several disks"), "{said}");
    sandbox.run(with(&["serve", "repo::web", "--name", "x"])).fails(2, "--name names one disk");
    sandbox.run(with(&["serve", "repo::web", "--overlay", "o"])).fails(2, "--overlay is written for one disk");
    let serving = Serving::start(&sandbox, 1, &with(&["repo::web?disk=2", "--socket", "s"]));
    sandbox.tool("nbdcopy", [&format!("nbd+unix:///?socket={path}"), "copy"]);
    assert_holds(&sandbox.path("copy"), &std::fs::read(sandbox.path("b.raw")).expect("a disk"), "the chosen one");
    serving.stop().ok();
}

#[test]
fn nbdkit_is_a_client_too() {
    if !(have("nbdkit") && have("nbdinfo")) {
        return;
    }
    let sandbox = Sandbox::new();
    let raw = partitioned_disk(&sandbox, "disk.raw");
    let serving = Serving::start(&sandbox, 3, &["disk.raw", "--socket", "s", "--quiet"]);
    let uri = format!("uri={}", serving.uri());
    sandbox.tool("nbdkit", ["-U", "-", "nbd", &uri, "--run", "nbdcopy $uri copy"]);
    assert_holds(&sandbox.path("copy"), &raw, "through nbdkit");
}

#[test]
fn it_ends_with_its_last_client() {
    if !(have("nbdinfo") && have("nbdcopy")) {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.raw_disk("disk.raw", 8 << 20, 9);
    let serving = Serving::start(&sandbox, 1, &["disk.raw", "--socket", "s", "--exit-with-last"]);
    sandbox.tool("nbdcopy", ["--connections=4", serving.uri(), "null:"]);
    serving.wait().ok();
    assert!(!sandbox.path("s").exists());
}

#[test]
fn with_certificates_everything_is_encrypted() {
    if !(have("nbdinfo") && have("openssl")) {
        return;
    }
    let sandbox = Sandbox::new();
    let raw = partitioned_disk(&sandbox, "disk.raw");
    make_certificates(&sandbox);
    let with_tls = |uri: &str, folder: &str| {
        let folder = sandbox.path(folder).display().to_string();
        format!("{}?tls-certificates={folder}", uri.replace("127.0.0.1", "localhost"))
    };
    let fails = |uri: &str| {
        let output = Command::new("nbdinfo").args(["--size", uri]).output().expect("nbdinfo");
        assert!(!output.status.success(), "{uri} is served: {}", String::from_utf8_lossy(&output.stdout));
    };
    let args = ["disk.raw", "--listen", "127.0.0.1:0", "--quiet", "--tls-certificates", "tls"];
    let serving = Serving::start(&sandbox, 3, &args);
    assert!(serving.uri().starts_with("nbds://127.0.0.1:"), "{}", serving.uri());
    sandbox.tool("nbdcopy", ["--connections=4", &with_tls(serving.uri(), "anonymous"), "copy"]);
    assert_holds(&sandbox.path("copy"), &raw, "encrypted");
    fails(&serving.uri().replace("nbds:", "nbd:"));
    serving.stop().ok();
    let serving = Serving::start(&sandbox, 3, &[&args[..], &["--tls-verify-clients"]].concat());
    fails(&with_tls(serving.uri(), "anonymous"));
    let ours = serving.uri().replace("127.0.0.1", "localhost");
    sandbox.run(["info", &ours, "--nbd-tls", "anonymous"]).fails(1, "a folder with client-cert.pem and client-key.pem");
    sandbox.run(["compare", "disk.raw", &ours, "--nbd-tls", "tls"]).ok();
    assert_eq!(sandbox.tool("nbdinfo", ["--size", &with_tls(serving.uri(), "tls")]).trim(), "8388608");
    serving.stop().ok();
    sandbox.run(["serve", "disk.raw", "--tls-certificates", "anonymous"]).fails(2, "server-cert.pem");
}

#[test]
fn systemd_can_open_the_socket() {
    if !(have("python3") && have("nbdinfo")) {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.raw_disk("disk.raw", 1 << 20, 9);
    let script = "import os, socket, sys\n\
        s = socket.socket(socket.AF_UNIX); s.bind('activated'); s.listen()\n\
        os.dup2(s.fileno(), 3); os.set_inheritable(3, True); os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1')\n\
        os.execv(sys.argv[1], sys.argv[1:])";
    let mut command = Command::new("python3");
    command.current_dir(sandbox.path("")).args(["-c", script, env!("CARGO_BIN_EXE_tintype"), "serve", "disk.raw"]);
    let serving = Serving::of(command, 1);
    let uri = format!("nbd+unix:///?socket={}", sandbox.path("activated").display());
    assert_eq!(sandbox.tool("nbdinfo", ["--size", &uri]).trim(), "1048576");
    serving.stop().ok();
    assert!(sandbox.path("activated").exists(), "the socket is not the server's");
}

#[test]
fn a_socket_is_replaced_only_if_nobody_listens() {
    let sandbox = Sandbox::new();
    sandbox.raw_disk("disk.raw", 1 << 20, 9);
    let args = ["disk.raw", "--socket", "s"];
    let serving = Serving::start(&sandbox, 1, &args);
    let mode = std::fs::metadata(sandbox.path("s")).expect("the socket").permissions();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777, 0o600);
    let taken = sandbox.run(["serve", "disk.raw", "--socket", "s"]).fails(1, "somebody listens on the socket already");
    assert!(taken.stderr.contains("choose another --socket"), "{}", taken.stderr);
    serving.signal(Signal::KILL);
    drop(serving);
    assert!(sandbox.path("s").exists());
    Serving::start(&sandbox, 1, &args).stop().ok();
    std::fs::write(sandbox.path("s"), "somebody's only copy").expect("a file");
    sandbox.run(["serve", "disk.raw", "--socket", "s"]).fails(2, "it exists and is no socket");
    assert!(Path::new(&sandbox.path("s")).exists());
    sandbox.run(["serve", "disk.raw", "--listen", "nonsense"]).fails(2, "expected ADDRESS:PORT");
    sandbox.run(["serve", "disk.raw", "--socket", "s2", "--overlay", "none/o"]).fails(1, "there is no folder for it");
    sandbox.run(["serve", "disk.raw", "--socket", "none/s"]).fails(1, "there is no folder for it");
    sandbox.run(["serve", "disk.raw", "--socket", &"s".repeat(108)]).fails(2, "107 bytes");
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = port.local_addr().expect("an address").to_string();
    sandbox.run(["serve", "disk.raw", "--listen", &address]).fails(1, "another program listens there");
    sandbox.run(["serve", "disk.raw", "--listen", "192.0.2.1:0"]).fails(1, "this machine does not have that address");
}

#[test]
fn what_is_gone_is_told_and_the_rest_is_read() {
    if !have("qemu-io") {
        return;
    }
    let sandbox = Sandbox::new();
    let disk = sandbox.raw_disk("disk.raw", 8 << 20, 30);
    let serving = Serving::start(&sandbox, 1, &["disk.raw", "--socket", "s"]);
    let file = std::fs::File::options().write(true).open(disk).expect("the disk");
    file.set_len(4 << 20).expect("cut it");
    let reads = |at: u64, length: u64| {
        let command = format!("read {at} {length}");
        let output = Command::new("qemu-io").args(["-r", "-f", "raw", "-c", &command, serving.uri()]).output();
        output.expect("qemu-io").status.success()
    };
    for length in [4096, 300 << 10] {
        assert!(reads(0, length), "what is whole cannot be read");
        assert!(!reads(5 << 20, length), "what is gone can be read");
        assert!(!reads((4 << 20) - 2048, length), "what is half gone can be read");
    }
    let said = serving.stop().ok().stderr;
    assert!(said.contains("warning: disk: read"), "{said}");
}

/// What libnbd's shell is told to do; `uri` is put before it.
const NBDSH_SCRIPT: &str = r#"
size = h.get_size()
assert h.get_structured_replies_negotiated() and h.can_meta_context("base:allocation")
assert h.can_multi_conn() and h.can_fua() and h.can_trim() and h.can_zero() and h.can_flush() and h.can_df()
assert not h.is_read_only()
def chunks(length, offset, flags=0):
    found = []
    def chunk(data, at, status, error):
        found.append((at, len(data), status))
    h.pread_structured(length, offset, chunk, flags)
    return sorted(found)
def status(length, offset, flags=0):
    found = []
    h.block_status(length, offset, lambda context, at, entries, error: found.extend(entries), flags)
    return list(zip(found[::2], found[1::2]))
assert h.pread(1 << 20, 0) == open("disk.raw", "rb").read(1 << 20)
h.zero(1 << 20, 2 << 20)
assert chunks(1 << 20, 2 << 20) == [(2 << 20, 1 << 20, nbd.READ_HOLE)], chunks(1 << 20, 2 << 20)
h.pwrite(b"Z" * 65536, (2 << 20) + 131072, nbd.CMD_FLAG_FUA)
assert status(1 << 20, 2 << 20) == [(131072, 2), (65536, 0), ((1 << 20) - 196608, 2)], status(1 << 20, 2 << 20)
assert status(1 << 20, 2 << 20, nbd.CMD_FLAG_REQ_ONE) == [(131072, 2)]
found = chunks(1 << 20, 2 << 20)
assert [(a, s) for a, l, s in found] == [(2 << 20, 2), ((2 << 20) + 131072, 1), ((2 << 20) + 196608, 2)], found
assert len(chunks(1 << 20, 2 << 20, nbd.CMD_FLAG_DF)) == 1
h.trim(65536, (2 << 20) + 131072)
assert h.pread(1 << 20, 2 << 20) == bytes(1 << 20)
h.zero(65536, 4 << 20, nbd.CMD_FLAG_NO_HOLE)
assert status(65536, 4 << 20) == [(65536, 0)]
others = []
for number in range(4):
    other = nbd.NBD()
    other.connect_uri(uri)
    cookies = []
    for place in range(number * 8, number * 8 + 8):
        data = nbd.Buffer.from_bytearray(bytearray([place]) * 65536)
        cookies.append(other.aio_pwrite(data, (5 << 20) + place * 65536))
    others.append((other, cookies))
for other, cookies in others:
    while cookies:
        other.poll(-1)
        cookies = [cookie for cookie in cookies if not other.aio_command_completed(cookie)]
others = [other for other, _ in others]
others[0].flush()
for other in [h] + others:
    assert all(other.pread(65536, (5 << 20) + place * 65536) == bytes([place]) * 65536 for place in range(32))
h.set_strict_mode(0)
try:
    h.pread(1024, size - 512)
    raise SystemExit("a read past the end is answered")
except nbd.Error as error:
    assert error.errno == "EINVAL", error
h.pwrite(b"last", size - 4, nbd.CMD_FLAG_FUA)
"#;

#[test]
fn nbdsh_can_ask_for_everything() {
    if !have("nbdsh") {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.raw_disk("disk.raw", 8 << 20, 30);
    let args = ["disk.raw", "--overlay", "o", "--socket", "s", "--quiet"];
    let serving = Serving::start(&sandbox, 1, &args);
    let script = format!("uri = {:?}\n{NBDSH_SCRIPT}", serving.uri());
    // The Python of the system is the one that has its packages.
    sandbox.tool("env", ["PATH=/usr/bin:/bin", "nbdsh", "--base-allocation", "--uri", serving.uri(), "-c", &script]);
    // What was forced to be there is there.
    serving.signal(Signal::KILL);
    drop(serving);
    let _serving = Serving::start(&sandbox, 1, &args);
    let mut stream = client(&sandbox, false);
    assert_eq!(read_at(&mut stream, (8 << 20) - 4, 4), b"last");
    assert_eq!(read_at(&mut stream, (5 << 20) + (31 << 16), 65536), [31; 65536]);
}

#[test]
fn a_snapshot_is_restored_to_an_export() {
    let sandbox = Sandbox::new();
    let raw = partitioned_disk(&sandbox, "disk.raw");
    sandbox.raw_disk("old.raw", 8 << 20, 60);
    sandbox.run(["init", "repo", "--no-encryption"]).ok();
    sandbox.run(["backup", "disk.raw", "--repo", "repo", "--name", "web"]).ok();
    let args = ["old.raw", "--overlay", "o", "--socket", "s", "--quiet"];
    let holds = |expected: &[u8]| assert!(read_at(&mut client(&sandbox, false), 0, expected.len()) == expected);
    let restore = |target: &str, more: &[&str]| {
        let args = [&["restore", "web", target, "--repo", "repo"], more].concat();
        sandbox.run(args)
    };
    let serving = Serving::start(&sandbox, 1, &args);
    restore(serving.uri(), &[]).fails(1, "everything on it would be overwritten");
    restore(serving.uri(), &["--force"]).ok();
    // What a restore says is done survives the server.
    serving.signal(Signal::KILL);
    drop(serving);
    let serving = Serving::start(&sandbox, 3, &args);
    holds(&raw);
    let part2 = 8192 * 512..16384 * 512;
    let mut stream = client(&sandbox, false);
    stream.write_all(&[request(WRITE, 1, part2.start as u64, 9000), vec![9; 9000]].concat()).expect("a write");
    assert_eq!(reply(&mut stream), 0);
    restore(&serving.uris[2], &["--partition", "2", "--force"]).ok();
    holds(&raw);
    stream.write_all(&[request(WRITE, 1, 5 << 20, 9000), vec![9; 9000]].concat()).expect("a write");
    assert_eq!(reply(&mut stream), 0);
    restore(serving.uri(), &["--delta", "--force"]).ok();
    holds(&raw);
    // The same way, by a conversion of another disk.
    let other = sandbox.raw_disk("other.raw", 8 << 20, 40);
    sandbox.run(["convert", "other.raw", "other.qcow2"]).ok();
    sandbox.run(["convert", "other.qcow2", serving.uri(), "--force", "--verify"]).ok();
    holds(&std::fs::read(&other).expect("a disk"));
    serving.stop().ok();
    let digested = sandbox.run(["digest", "old.raw", "--with-overlay", "o"]).ok().stdout;
    assert!(digested.starts_with(&digest(&sandbox, &other)));
}

#[test]
fn clients_may_not_be_idle_for_no_time_at_all() {
    let sandbox = Sandbox::new();
    sandbox.raw_disk("a.raw", 1 << 20, 1);
    let run = ["serve", "a.raw", "--socket", "s", "--idle-timeout", "0"];
    sandbox.run(run).fails(2, "longer than nothing");
}
