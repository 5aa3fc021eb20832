//! The manifest: a digest of each file, one line each (DSP0243, 5.1): `SHA256(machine.ovf)= 9f86d0…`.

use std::io;

use sha1::Sha1;
use sha2::{Digest, Sha256, Sha512};

use crate::error::{ImageError, Result};
use crate::hex::to_hex;
use crate::host_file::HostFile;

/// Longest manifest that is read: a line of some 200 bytes for each of a few thousand files.
pub const MAX_MANIFEST_BYTES: u64 = 1 << 20;

const READ_BYTES: u64 = 1 << 20;

/// A line of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The file, or the chunk of one, as it is called in the package.
    pub name: String,
    /// How its digest is made.
    pub algorithm: Algorithm,
    /// The digest, in lower-case hexadecimal.
    pub digest: String,
}

/// How a digest is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// OVF 1.
    Sha1,
    /// OVF 2.
    Sha256,
    /// Seen from some tools.
    Sha512,
}

impl Algorithm {
    /// As manifests call it.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Sha1 => "SHA1",
            Algorithm::Sha256 => "SHA256",
            Algorithm::Sha512 => "SHA512",
        }
    }

    fn named(name: &str) -> Option<Self> {
        let plain = name.replace('-', "").to_ascii_uppercase();
        [Algorithm::Sha1, Algorithm::Sha256, Algorithm::Sha512].into_iter().find(|known| known.name() == plain)
    }

    fn hex_digits(self) -> usize {
        match self {
            Algorithm::Sha1 => 40,
            Algorithm::Sha256 => 64,
            Algorithm::Sha512 => 128,
        }
    }

    /// The digest of some bytes.
    pub fn of_bytes(self, bytes: &[u8]) -> String {
        match self {
            Algorithm::Sha1 => to_hex(&Sha1::digest(bytes)),
            Algorithm::Sha256 => to_hex(&Sha256::digest(bytes)),
            Algorithm::Sha512 => to_hex(&Sha512::digest(bytes)),
        }
    }

    /// The digest of a file, which is read from front to back.
    pub fn of_file(self, file: &dyn HostFile) -> io::Result<String> {
        match self {
            Algorithm::Sha1 => digest_file::<Sha1>(file),
            Algorithm::Sha256 => digest_file::<Sha256>(file),
            Algorithm::Sha512 => digest_file::<Sha512>(file),
        }
    }
}

fn digest_file<D: Digest>(file: &dyn HostFile) -> io::Result<String> {
    let len_bytes = file.len_bytes()?;
    let mut buffer = vec![0; len_bytes.min(READ_BYTES) as usize];
    let (mut hasher, mut done) = (D::new(), 0);
    while done < len_bytes {
        let part = &mut buffer[..(len_bytes - done).min(READ_BYTES) as usize];
        file.read_exact_at(done, part)?;
        hasher.update(&*part);
        done += part.len() as u64;
    }
    Ok(to_hex(&hasher.finalize()))
}

/// Reads a manifest.
pub fn parse(bytes: &[u8]) -> Result<Vec<Entry>> {
    let text = String::from_utf8_lossy(bytes);
    let lines = text.trim_end_matches('\0').lines().map(str::trim).enumerate().filter(|(_, line)| !line.is_empty());
    lines.map(|(index, line)| entry(line).ok_or_else(|| not_a_line(index + 1, line))).collect()
}

/// The spaces vary: `SHA1(a)= 0f` is VMware's, `SHA1 (a) = 0f` is OpenSSL's. Names may have parentheses.
fn entry(line: &str) -> Option<Entry> {
    let (algorithm, rest) = line.split_once('(')?;
    let (name, digest) = rest.rsplit_once('=')?;
    let name = name.trim_end().strip_suffix(')')?;
    let algorithm = Algorithm::named(algorithm.trim())?;
    let digest = digest.trim().to_ascii_lowercase();
    let fits = digest.len() == algorithm.hex_digits() && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
    fits.then(|| Entry { name: name.to_owned(), algorithm, digest })
}

fn not_a_line(number: usize, line: &str) -> ImageError {
    let line: String = line.chars().take(80).collect();
    let detail = format!("line {number} is \"{}\", expected SHA256(NAME)= DIGEST", line.escape_debug());
    ImageError::corrupt("read OVF manifest", detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::MemoryFile;

    #[test]
    fn lines_come_in_several_spellings() {
        let digest = "DA39A3EE5E6B4B0D3255BFEF95601890AFD80709";
        let text = format!("SHA1(a (1).vmdk)= {digest}\r\n\r\nsha1 (b) = {digest}\nSHA-1(c=d)={digest}\n\0\0");
        let found = parse(text.as_bytes()).unwrap();
        assert_eq!(found.iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>(), ["a (1).vmdk", "b", "c=d"]);
        assert!(found.iter().all(|entry| entry.digest == Algorithm::Sha1.of_bytes(b"")));
        for bad in ["x", "MD5(a)= 00", "SHA1(a)= 00", "SHA1 a = 00", &format!("SHA256(a)= {digest}")] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn files_have_the_digest_of_their_bytes() {
        let bytes: Vec<u8> = (0..(2 << 20) + 5u32).map(|i| (i >> 3) as u8).collect();
        let file = MemoryFile::from_bytes(&bytes);
        for algorithm in [Algorithm::Sha1, Algorithm::Sha256, Algorithm::Sha512] {
            let digest = algorithm.of_file(&file).unwrap();
            assert_eq!(digest, algorithm.of_bytes(&bytes));
            assert_eq!(digest.len(), algorithm.hex_digits());
        }
    }
}
