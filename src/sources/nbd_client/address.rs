//! Addresses of NBD exports: `nbd://host:port/name`, `nbd+unix:///name?socket=PATH`, and `nbds` for TLS.

use std::borrow::Cow;
use std::fmt;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};
use tintype_formats::host_file::FileIdentity;

const SCHEMES: [(&str, bool, bool); 4] =
    [("nbd://", false, false), ("nbds://", true, false), ("nbd+unix://", false, true), ("nbds+unix://", true, true)];

/// The port that is registered for NBD.
const DEFAULT_PORT: u16 = 10809;

/// The longest name that the protocol allows, in bytes.
const MAX_NAME_BYTES: usize = 4096;

/// In place of a device number, for exports: they are known by where they are.
const NBD_DEVICE: u64 = u64::MAX - 1;

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// A host, by name or number, and a port.
    Tcp(String, u16),
    /// A socket of this machine.
    Unix(PathBuf),
}

/// An export of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NbdAddress {
    /// Where the server listens.
    pub endpoint: Endpoint,
    /// What it calls the disk.
    pub export: String,
    /// Whose certificate is expected; without TLS `None`.
    pub tls_name: Option<String>,
}

/// Whether a path is such an address, or is meant to be one. A file that really has this name wins.
pub fn is_nbd(path: &Path) -> bool {
    let bytes = path.as_os_str().as_bytes();
    let is_meant = SCHEMES.iter().any(|(scheme, ..)| {
        let scheme = scheme.trim_end_matches('/').as_bytes();
        let begin = bytes.get(..scheme.len()).filter(|begin| begin.eq_ignore_ascii_case(scheme));
        // Two colons stand between a repository and a snapshot.
        begin.is_some() && bytes.get(scheme.len()) != Some(&b':')
    });
    is_meant && path.symlink_metadata().is_err()
}

impl NbdAddress {
    /// Reads an address; says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let known = SCHEMES.iter().find_map(|(scheme, tls, unix)| Some((text.strip_prefix(scheme)?, *tls, *unix)));
        let (rest, tls, unix) =
            known.ok_or("an NBD address begins with nbd://, nbds://, nbd+unix:// or nbds+unix://")?;
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, name) = place.split_once('/').unwrap_or((place, ""));
        let (mut socket, mut tls_name) = (None, None);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("socket", value)) if unix && !value.is_empty() => socket = Some(decoded(value)?),
                Some(("tls-hostname", value)) if tls && !value.is_empty() => tls_name = Some(decoded(value)?),
                _ => return Err(format!("\"{}\" after the question mark is not known here", pair.escape_debug())),
            }
        }
        let endpoint = match (unix, socket) {
            (false, _) => tcp_endpoint(authority)?,
            (true, Some(socket)) if authority.is_empty() => Endpoint::Unix(socket.into()),
            (true, Some(_)) => {
                return Err("an address of a Unix socket has no host: nbd+unix:///NAME?socket=PATH".to_owned());
            }
            (true, None) => return Err("the socket is missing: nbd+unix:///NAME?socket=PATH".to_owned()),
        };
        let export = decoded(name)?;
        if export.len() > MAX_NAME_BYTES {
            return Err(format!("the export's name is longer than {MAX_NAME_BYTES} bytes"));
        }
        let host = match &endpoint {
            Endpoint::Tcp(host, _) => host.clone(),
            Endpoint::Unix(_) => "localhost".to_owned(),
        };
        Ok(NbdAddress { endpoint, export, tls_name: tls.then(|| tls_name.unwrap_or(host)) })
    }

    /// Who the disk is: the same for the same place and name.
    pub fn identity(&self) -> FileIdentity {
        let hash = blake3::hash(format!("{:?}\0{}", self.endpoint, self.export).as_bytes());
        let mut inode = [0; 8];
        inode.copy_from_slice(&hash.as_bytes()[..8]);
        FileIdentity { device: NBD_DEVICE, inode: u64::from_le_bytes(inode) }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Endpoint::Tcp(host, port) => write!(f, "{host}:{port}"),
            Endpoint::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

fn tcp_endpoint(authority: &str) -> Result<Endpoint, String> {
    let wrong = || format!("\"{}\" is not HOST, HOST:PORT or, of IPv6, [ADDRESS]:PORT", authority.escape_debug());
    if authority.contains('@') {
        return Err("NBD has no user names: nbd://HOST/NAME".to_owned());
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']').ok_or_else(wrong)?;
            (host, if after.is_empty() { None } else { Some(after.strip_prefix(':').ok_or_else(wrong)?) })
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let host = decoded(host)?;
    let port = port.map_or(Ok(DEFAULT_PORT), |port| port.parse().map_err(|_| wrong()))?;
    if host.is_empty() { Err("the host is missing: nbd://HOST/NAME".to_owned()) } else { Ok(Endpoint::Tcp(host, port)) }
}

/// What a part of a URI need not escape: RFC 3986's unreserved characters, and `/`, which paths and queries may have.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// Returns bytes as a part of a URI, where what means something else there is escaped.
pub fn nbd_uri_part(part: &[u8]) -> String {
    percent_encode(part, ESCAPED).to_string()
}

/// Puts bytes in the place of `%41` and the like.
fn decoded(text: &str) -> Result<String, String> {
    let has_digits = |rest: &str| rest.bytes().take(2).filter(u8::is_ascii_hexdigit).count() == 2;
    let is_whole = text.split('%').skip(1).all(has_digits);
    percent_decode_str(text).decode_utf8().ok().filter(|_| is_whole).map(Cow::into_owned).ok_or_else(|| {
        format!("\"{}\" has a % that no two hexadecimal digits follow, or is not UTF-8", text.escape_debug())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_say_where_and_what() {
        let parse = |text| NbdAddress::parse(text);
        let tcp = |host: &str, port| Endpoint::Tcp(host.to_owned(), port);
        let found = parse("nbd://backup.example/disk%201").unwrap();
        assert_eq!(
            (found.endpoint, found.export.as_str(), found.tls_name),
            (tcp("backup.example", 10809), "disk 1", None)
        );
        assert_eq!(parse("nbd://[::1]:77").unwrap().endpoint, tcp("::1", 77));
        let found = parse("nbds://host:9/a/b?tls-hostname=other").unwrap();
        assert_eq!((found.export.as_str(), found.tls_name.as_deref()), ("a/b", Some("other")));
        let found = parse("nbd+unix:///x?socket=/run/a%3f").unwrap();
        assert_eq!((found.endpoint, found.export.as_str()), (Endpoint::Unix("/run/a?".into()), "x"));
        for wrong in [
            "http://a/b",
            "nbd:///x",
            "nbd://host:x/",
            "nbd://host:99999/",
            "nbd://me@host/",
            "nbd+unix:///x",
            "nbd+unix://host/x?socket=a",
            "nbd://host/x?socket=a",
            "nbd://host/%4",
            "nbd://host/%zz",
            "nbd://host/%+1",
            "nbd://host/%%41",
            "nbd://host/%ff",
            "nbd://[::1/",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_meant_as_an_address_is_no_name_of_a_file() {
        for meant in ["nbd://host/x", "NBDS://host", "nbd:unix:/run/s", "nbd+unix:/x?socket=s", "nbd:host:10809"] {
            assert!(is_nbd(Path::new(meant)), "{meant}");
        }
        for other in ["nbd", "nbd::web", "nbdx://host", "./nbd:x", "nbd.raw"] {
            assert!(!is_nbd(Path::new(other)), "{other}");
        }
    }

    #[test]
    fn the_same_export_has_the_same_identity() {
        let of = |text| NbdAddress::parse(text).unwrap().identity();
        assert_eq!(of("nbd://a/x"), of("nbds://a:10809/%78"));
        assert_ne!(of("nbd://a/x"), of("nbd://a/y"));
    }
}
