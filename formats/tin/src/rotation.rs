//! Rotation: new data and map keys, sealed to every holder's host key (FORMAT.md §4).

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::certificate::{Certificate, Role};
use crate::error::{Result, TinError};
use crate::id::random;
use crate::keys::{ExchangeKey, KeyRing, MAX_KEYS, check_keys, key_id};
use crate::parts::Parts;
use crate::seal::{Ephemeral, open_sealed, seal_to};
use crate::slot::Pair;

/// Most holders of a rotation, so that it stays a small object.
const MAX_HOLDERS: usize = 1024;

/// Most sealed bytes for one holder.
const MAX_SEALED_BYTES: usize = 4096;

const CONTEXT: &[u8] = b"tintype rotation 1\0";
const MAKE: &str = "rotate the keys";
const READ: &str = "read a rotation of the keys";

/// What one holder gets.
#[derive(Serialize, Deserialize)]
struct Content {
    data: Pair,
    map: Pair,
}

impl KeyRing {
    /// Makes new data and map keys for these holders, and gives the body of the rotation of this number.
    pub fn rotation(&self, number: u32, holders: &[Certificate]) -> Result<Vec<u8>> {
        if self.is_public() {
            let detail = "a repository without encryption has no keys but the public ones";
            return Err(TinError::invalid_option(MAKE, detail));
        }
        if self.data.len() >= MAX_KEYS || self.map.len() >= MAX_KEYS {
            let detail = format!("there were {MAX_KEYS} keys already, and no more are possible");
            return Err(TinError::limit_exceeded(MAKE, detail));
        }
        if holders.len() > MAX_HOLDERS {
            let detail = format!("there are {} holders, at most {MAX_HOLDERS} are possible", holders.len());
            return Err(TinError::limit_exceeded(MAKE, detail));
        }
        let data = ExchangeKey::of_private(Zeroizing::new(random()?))?;
        let map = ExchangeKey::of_private(Zeroizing::new(random()?))?;
        let mut ephemeral = Ephemeral::random()?;
        let mut body = (holders.len() as u32).to_le_bytes().to_vec();
        for holder in holders {
            let plain = content_for(holder.role, &data, &map)?;
            let (encapsulated, sealed) =
                seal_to(&holder.host, &plain, &self.rotation_info(number, holder), &mut ephemeral)?;
            body.extend_from_slice(&key_id(&holder.host));
            body.extend_from_slice(&encapsulated);
            body.extend_from_slice(&(sealed.len() as u32).to_le_bytes());
            body.extend_from_slice(&sealed);
        }
        Ok(body)
    }

    /// Takes the new keys of a rotation into the ring, as its newest; false if there are none for this holder, or it has
    /// them already. The body is that of an object that counts.
    pub fn rotate(&mut self, number: u32, body: &[u8]) -> Result<bool> {
        let own_id = key_id(&self.host.public);
        let mut parts = Parts::new(READ, body);
        let count = parts.u32()?;
        let mut own = None;
        for _ in 0..count {
            let (id, encapsulated, length_bytes) = (parts.array::<16>()?, parts.array::<32>()?, parts.u32()? as usize);
            if length_bytes > MAX_SEALED_BYTES {
                let detail = format!("a part of it has {length_bytes} bytes, at most {MAX_SEALED_BYTES} are read");
                return Err(TinError::limit_exceeded(READ, detail));
            }
            let sealed = parts.slice(length_bytes)?;
            if id == own_id {
                own.get_or_insert((encapsulated, sealed));
            }
        }
        parts.end()?;
        own.map_or(Ok(false), |(encapsulated, sealed)| self.take(number, &encapsulated, sealed))
    }

    fn take(&mut self, number: u32, encapsulated: &[u8; 32], sealed: &[u8]) -> Result<bool> {
        let wrong = |detail: &str| TinError::corrupt(READ, format!("number {number}: {detail}"));
        let info = self.rotation_info(number, self.certificate());
        let Some(private) = &self.host.private else { return Err(wrong("the ring has no private host key")) };
        let plain = open_sealed(private, encapsulated, sealed, &info)
            .ok_or_else(|| wrong("it names our host key, which does not open it"))?;
        // Without serde's words: they may quote what is secret.
        let content: Content = serde_json::from_slice(&plain).map_err(|_| wrong("it holds no keys"))?;
        let (data, map) = (ExchangeKey::from(content.data), ExchangeKey::from(content.map));
        let role = self.role();
        for (key, private, what) in [(&data, role.reads_data(), "data"), (&map, role.reads_maps(), "map")] {
            check_keys(std::slice::from_ref(key), private).map_err(|cause| wrong(&format!("{what} key: {cause}")))?;
        }
        let known = |keys: &[ExchangeKey], new: &ExchangeKey| keys.iter().any(|key| key.public == new.public);
        if known(&self.data, &data) && known(&self.map, &map) {
            return Ok(false);
        }
        if self.data.len() >= MAX_KEYS || self.map.len() >= MAX_KEYS {
            return Err(wrong(&format!("there were {MAX_KEYS} keys already")));
        }
        self.data.insert(0, data);
        self.map.insert(0, map);
        Ok(true)
    }

    /// What is sealed, and for whom: bound to the repository, the rotation and the holder's certificate.
    fn rotation_info(&self, number: u32, holder: &Certificate) -> Vec<u8> {
        [CONTEXT, &self.repository().0, &number.to_le_bytes(), blake3::hash(holder.as_bytes()).as_bytes()].concat()
    }

    /// How many data keys there have been: 1, and one more with every rotation.
    pub fn generations(&self) -> usize {
        self.data.len()
    }
}

/// The keys that a role has, as JSON.
fn content_for(role: Role, data: &ExchangeKey, map: &ExchangeKey) -> Result<Zeroizing<Vec<u8>>> {
    let content =
        Content { data: Pair::from(&data.copy(role.reads_data())), map: Pair::from(&map.copy(role.reads_maps())) };
    // The buffer never grows, so that no copy of it stays behind.
    let mut plain = Zeroizing::new(Vec::with_capacity(MAX_SEALED_BYTES));
    serde_json::to_writer(&mut *plain, &content)
        .map_err(|_| TinError::corrupt(MAKE, "the keys cannot be written as JSON"))?;
    Ok(plain)
}
