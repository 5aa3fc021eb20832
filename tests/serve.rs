//! `tintype serve` as other people's clients see it.

mod common;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Run, Sandbox, assert_holds, have};
use rustix::process::{Pid, Signal, kill_process};

/// How long a server may take to end.
const END: Duration = Duration::from_secs(10);

/// A running server, ended with the test whatever becomes of it.
struct Serving {
    child: Child,
    /// What it printed first, a line for each export.
    uris: Vec<String>,
}

impl Serving {
    /// Starts a server that prints so many lines.
    fn start(sandbox: &Sandbox, lines: usize, args: &[&str]) -> Serving {
        let command = sandbox.command([&["serve"], args].concat());
        Self::of(command, lines)
    }

    fn of(mut command: Command, lines: usize) -> Serving {
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut serving = Serving { child: child.expect("run tintype"), uris: Vec::new() };
        let mut output = BufReader::new(serving.child.stdout.take().expect("its output")).lines();
        serving.uris.extend(output.by_ref().take(lines).map(|line| line.expect("a line")));
        if serving.uris.len() < lines {
            let said = std::io::read_to_string(serving.child.stderr.take().expect("its errors"));
            panic!("tintype printed only {:?}: {}", serving.uris, said.unwrap_or_default());
        }
        serving
    }

    fn uri(&self) -> &str {
        &self.uris[0]
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("send a signal");
    }

    /// Has it end, and says how it did.
    fn stop(self) -> Run {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Waits until it ends by itself.
    fn wait(mut self) -> Run {
        let began = Instant::now();
        let status = loop {
            match self.child.try_wait().expect("wait") {
                Some(status) => break status,
                None if began.elapsed() < END => std::thread::sleep(Duration::from_millis(10)),
                None => panic!("tintype serve goes on"),
            }
        };
        let stderr = std::io::read_to_string(self.child.stderr.take().expect("its errors")).expect("its errors");
        Run { code: status.code(), stdout: String::new(), stderr }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A disk with two partitions in an MBR.
fn partitioned_disk(sandbox: &Sandbox, name: &str) -> Vec<u8> {
    let path = sandbox.raw_disk(name, 8 << 20, 30);
    let mut disk = std::fs::read(&path).expect("a disk");
    disk[446..512].fill(0);
    for (place, begin, sectors) in [(0usize, 64u32, 4000u32), (1, 8192, 8192)] {
        let at = 446 + 16 * place;
        disk[at + 4] = 0x83;
        disk[at + 8..at + 12].copy_from_slice(&begin.to_le_bytes());
        disk[at + 12..at + 16].copy_from_slice(&sectors.to_le_bytes());
    }
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    std::fs::write(path, &disk).expect("write a disk");
    disk
}

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

/// A certificate authority, a server and a client, in PEM, as QEMU and libnbd name the files.
fn make_certificates(sandbox: &Sandbox) {
    let openssl = |args: &str| sandbox.tool("openssl", args.split(' '));
    std::fs::write(sandbox.path("server.ext"), "subjectAltName=DNS:localhost,IP:127.0.0.1\n").expect("a file");
    std::fs::write(sandbox.path("client.ext"), "extendedKeyUsage=clientAuth\n").expect("a file");
    std::fs::create_dir(sandbox.path("tls")).expect("a folder");
    openssl("req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=ca -keyout ca.key -out tls/ca-cert.pem");
    for who in ["server", "client"] {
        openssl(&format!("req -new -newkey rsa:2048 -nodes -subj /CN={who} -keyout tls/{who}-key.pem -out {who}.csr"));
        let sign = "-CA tls/ca-cert.pem -CAkey ca.key -CAcreateserial -days 2";
        openssl(&format!("x509 -req -in {who}.csr {sign} -extfile {who}.ext -out tls/{who}-cert.pem"));
    }
    std::fs::create_dir(sandbox.path("anonymous")).expect("a folder");
    std::fs::copy(sandbox.path("tls/ca-cert.pem"), sandbox.path("anonymous/ca-cert.pem")).expect("a copy");
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
    sandbox.run(["serve", "disk.raw", "--socket", "s"]).fails(1, "somebody listens on the socket already");
    serving.signal(Signal::KILL);
    drop(serving);
    assert!(sandbox.path("s").exists());
    Serving::start(&sandbox, 1, &args).stop().ok();
    std::fs::write(sandbox.path("s"), "somebody's only copy").expect("a file");
    sandbox.run(["serve", "disk.raw", "--socket", "s"]).fails(2, "it exists and is no socket");
    assert!(Path::new(&sandbox.path("s")).exists());
    sandbox.run(["serve", "disk.raw", "--listen", "nonsense"]).fails(2, "expected ADDRESS:PORT");
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
