//! Running `tintype serve`, and the words of the NBD protocol for clients that do what no library does.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::{Run, Sandbox};

pub const READ: u16 = 0;
pub const WRITE: u16 = 1;
pub const DISC: u16 = 2;
pub const FLUSH: u16 = 3;
pub const TRIM: u16 = 4;
pub const WRITE_ZEROES: u16 = 6;
pub const BLOCK_STATUS: u16 = 7;

/// How long a server may take to end.
const END: Duration = Duration::from_secs(10);

/// A running server, ended with the test whatever becomes of it.
pub struct Serving {
    pub child: Child,
    /// What it printed first, a line for each export.
    pub uris: Vec<String>,
}

impl Serving {
    /// Starts a server that prints so many lines.
    pub fn start(sandbox: &Sandbox, lines: usize, args: &[&str]) -> Serving {
        let command = sandbox.command([&["serve"], args].concat());
        Self::of(command, lines)
    }

    /// Starts a command that prints so many lines.
    pub fn of(mut command: Command, lines: usize) -> Serving {
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

    /// How clients reach the first export.
    pub fn uri(&self) -> &str {
        &self.uris[0]
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("send a signal");
    }

    /// Has it end, and says how it did.
    pub fn stop(self) -> Run {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Waits until it ends by itself.
    pub fn wait(mut self) -> Run {
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

/// An option of the handshake.
pub fn option(number: u32, data: &[u8]) -> Vec<u8> {
    [b"IHAVEOPT", &number.to_be_bytes()[..], &(data.len() as u32).to_be_bytes(), data].concat()
}

/// A request, without what is to be written; its cookie is the offset.
pub fn request(command: u16, flags: u16, offset: u64, length_bytes: u32) -> Vec<u8> {
    let (magic, cookie) = (0x2560_9513u32.to_be_bytes(), offset.to_be_bytes());
    let (flags, command) = (flags.to_be_bytes(), command.to_be_bytes());
    [&magic[..], &flags, &command, &cookie, &offset.to_be_bytes(), &length_bytes.to_be_bytes()].concat()
}

/// The error of the next simple reply.
pub fn reply(stream: &mut UnixStream) -> u32 {
    let mut bytes = [0; 16];
    stream.read_exact(&mut bytes).unwrap();
    assert_eq!(bytes[..4], 0x6744_6698u32.to_be_bytes());
    u32::from_be_bytes(bytes[4..8].try_into().unwrap())
}

/// Reads a range that can be read.
pub fn read_at(stream: &mut UnixStream, offset: u64, length: usize) -> Vec<u8> {
    stream.write_all(&request(READ, 0, offset, length as u32)).unwrap();
    assert_eq!(reply(stream), 0);
    let mut data = vec![0; length];
    stream.read_exact(&mut data).unwrap();
    data
}

/// A certificate authority, a server and a client, in PEM, as QEMU and libnbd name the files.
pub fn make_certificates(sandbox: &Sandbox) {
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

/// A client of the only export, with simple replies or structured ones.
pub fn client(sandbox: &Sandbox, structured: bool) -> UnixStream {
    let mut stream = UnixStream::connect(sandbox.path("s")).expect("connect");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a limit");
    stream.set_write_timeout(Some(Duration::from_secs(20))).expect("a limit");
    let structured = if structured { option(8, b"") } else { Vec::new() };
    stream.write_all(&[&3u32.to_be_bytes()[..], &structured, &option(1, b"")].concat()).expect("options");
    let mut answer = vec![0; 18 + if structured.is_empty() { 0 } else { 20 } + 10];
    stream.read_exact(&mut answer).expect("a greeting and a disk");
    stream
}
