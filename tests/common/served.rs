//! A server in the test's own process, and clients that do what no library does.
#![allow(dead_code, reason = "every test takes what it needs")]

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tintype::serve::nbd::{Access, Export, Exports, Listener, Server, Settings};
use tintype::sources::Overlay;
use tintype_formats::BlockSource;
use tintype_formats::testing::{ModelDisk, read_all};

use crate::common::nbd::option;

pub const DISK_BYTES: u64 = 4 << 20;

/// A server of one disk, "a", and where it is.
pub struct Served {
    pub server: Server,
    pub path: PathBuf,
    pub content: Vec<u8>,
    pub _folder: TempDir,
}

pub fn serve(writable: bool, settings: Settings) -> Served {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let disk: Arc<dyn BlockSource> = Arc::new(ModelDisk::random(5, DISK_BYTES, 20, 20));
    let content = read_all(&disk).unwrap();
    let access = match writable {
        false => Access::ReadOnly(disk),
        true => Access::Writable(Arc::new(Overlay::temporary(folder.path(), disk).unwrap())),
    };
    let path = folder.path().join("s");
    let listener = Listener::unix(&path).unwrap();
    let server = Server::start(vec![listener], Exports::only(Export::new("a", "", access)), settings).unwrap();
    Served { server, path, content, _folder: folder }
}

impl Served {
    /// A client that has heard the greeting.
    pub fn connect(&self) -> UnixStream {
        let mut stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting).unwrap();
        assert_eq!(greeting[..16], *b"NBDMAGICIHAVEOPT");
        stream
    }

    /// A client that has chosen the disk, in the oldest way: replies are simple.
    pub fn client(&self) -> UnixStream {
        let mut stream = self.connect();
        stream.write_all(&[&3u32.to_be_bytes()[..], &option(1, b"a")].concat()).unwrap();
        let mut chosen = [0; 10];
        stream.read_exact(&mut chosen).unwrap();
        assert_eq!(chosen[..8], DISK_BYTES.to_be_bytes());
        stream
    }

    pub fn wait_for_connections(&self, expected: usize) {
        let began = Instant::now();
        while self.server.counters().connections != expected {
            assert!(began.elapsed() < Duration::from_secs(10), "{:?}", self.server.counters());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Reads until the server hangs up.
pub fn assert_ends(mut stream: UnixStream) {
    match io::copy(&mut stream, &mut io::sink()) {
        Ok(_) => {}
        Err(cause) => assert_eq!(cause.kind(), io::ErrorKind::ConnectionReset),
    }
}
