//! Disks by name.

use std::sync::Arc;

use tintype_formats::{BlockSource, Geometry};

use crate::error::{Error, Kind, Result};
use crate::nbd_protocol::{MAX_STRING_BYTES, export_flag};
use crate::sources::WritableDisk;

/// Longest range of one request that has or gets bytes; what is longer is cut by the client.
pub const MAX_PAYLOAD_BYTES: u32 = 32 << 20;

/// Least block size that is recommended to clients, in bytes: the page of most of them.
const MIN_PREFERRED_BYTES: u64 = 4096;

/// What clients may do with a disk.
#[derive(Clone)]
pub enum Access {
    /// Only read it.
    ReadOnly(Arc<dyn BlockSource>),
    /// Write to it as well.
    Writable(Arc<dyn WritableDisk>),
}

/// A disk by a name.
#[derive(Clone)]
pub struct Export {
    name: String,
    description: String,
    access: Access,
}

impl Export {
    /// An export of this name; the description is for people.
    pub fn new(name: impl Into<String>, description: impl Into<String>, access: Access) -> Self {
        Export { name: name.into(), description: description.into(), access }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it is, for people.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// Its disk, for reading.
    pub fn disk(&self) -> &dyn BlockSource {
        match &self.access {
            Access::ReadOnly(disk) => disk.as_ref(),
            Access::Writable(disk) => disk.as_ref(),
        }
    }

    /// Its disk, for writing, if that is allowed.
    pub fn writable(&self) -> Option<&dyn WritableDisk> {
        match &self.access {
            Access::ReadOnly(_) => None,
            Access::Writable(disk) => Some(disk.as_ref()),
        }
    }

    /// The numbers that describe its disk.
    pub fn geometry(&self) -> Geometry {
        self.disk().geometry()
    }

    /// The flags that say what clients can ask of it. "Don't fragment" makes sense with structured replies only.
    pub(super) fn flags(&self, structured: bool) -> u16 {
        use export_flag::{
            CAN_MULTI_CONN, HAS_FLAGS, READ_ONLY, SEND_CACHE, SEND_DF, SEND_FLUSH, SEND_FUA, SEND_TRIM,
            SEND_WRITE_ZEROES,
        };
        let writing = match self.access {
            Access::ReadOnly(_) => READ_ONLY,
            Access::Writable(_) => SEND_FLUSH | SEND_FUA | SEND_TRIM | SEND_WRITE_ZEROES,
        };
        HAS_FLAGS | CAN_MULTI_CONN | SEND_CACHE | writing | if structured { SEND_DF } else { 0 }
    }

    /// The block size that reads and writes are best made of, in bytes: a power of two.
    pub(super) fn preferred_block_bytes(&self) -> u32 {
        let unit = self.geometry().unit_bytes.clamp(MIN_PREFERRED_BYTES, MAX_PAYLOAD_BYTES.into());
        u32::try_from(unit.next_power_of_two()).unwrap_or(MAX_PAYLOAD_BYTES)
    }
}

/// All that a server offers: exports by name, and which of them answers to the empty name.
#[derive(Clone, Default)]
pub struct Exports {
    all: Vec<Arc<Export>>,
    default: Option<usize>,
}

impl Exports {
    /// One export, which is also the default.
    pub fn only(export: Export) -> Self {
        Exports { all: vec![Arc::new(export)], default: Some(0) }
    }

    /// Adds an export; fails if the name is taken, or too long for the protocol.
    pub fn add(&mut self, export: Export) -> Result<()> {
        let name = export.name();
        if name.len() > MAX_STRING_BYTES {
            let message = format!("a name of {} bytes; the protocol allows {MAX_STRING_BYTES}", name.len());
            return Err(Error::new(Kind::Usage, message));
        }
        if self.all.iter().any(|known| known.name() == name) {
            return Err(Error::new(Kind::Usage, format!("two exports are called \"{}\"", name.escape_debug())));
        }
        self.all.push(Arc::new(export));
        Ok(())
    }

    /// Has the export that was added first answer to the empty name.
    pub fn with_first_as_default(mut self) -> Self {
        self.default = (!self.all.is_empty()).then_some(0);
        self
    }

    /// The export of that name.
    pub fn find(&self, name: &str) -> Option<&Arc<Export>> {
        let named = self.all.iter().find(|export| export.name() == name);
        named.or_else(|| self.default.filter(|_| name.is_empty()).and_then(|index| self.all.get(index)))
    }

    /// All of them, in the order in which they were added.
    pub fn iter(&self) -> impl Iterator<Item = &Export> {
        self.all.iter().map(AsRef::as_ref)
    }
}
