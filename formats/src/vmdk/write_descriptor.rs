//! Writing descriptors.

use super::on_disk::SECTOR_BYTES;
use crate::error::{ImageError, Result};
use crate::sink::{CreateOptions, IdentitySeed, invalid_option};

/// The hardware version that a disk asks for; every product since VMware Server 1 has it.
const DEFAULT_HARDWARE_VERSION: u32 = 4;

/// What tells a machine that nobody installed VMware's tools by hand: their version is "unmanaged".
const TOOLS_VERSION: u32 = i32::MAX as u32;

/// The longest embedded descriptor, in sectors: what VMware's own programs leave for it.
pub(super) const EMBEDDED_DESCRIPTOR_SECTORS: u64 = 20;

/// What the descriptor says about the machine.
#[derive(Debug, Clone)]
pub(super) struct Hardware {
    adapter_type: &'static str,
    hardware_version: u32,
}

/// The kinds of controllers that a descriptor can name.
const ADAPTER_TYPES: [&str; 4] = ["lsilogic", "ide", "buslogic", "legacyESX"];

impl Hardware {
    pub fn from_options(options: &CreateOptions) -> Result<Self> {
        let adapter_type = match options.options.get("adapter_type") {
            None => ADAPTER_TYPES[0],
            Some(wanted) => *ADAPTER_TYPES
                .iter()
                .find(|known| known.eq_ignore_ascii_case(wanted))
                .ok_or_else(|| invalid_option("adapter_type", wanted, &ADAPTER_TYPES.join(", ")))?,
        };
        let hardware_version = match options.options.get("hwversion") {
            None => DEFAULT_HARDWARE_VERSION,
            Some(text) => text
                .parse()
                .ok()
                .filter(|version| (3..=99).contains(version))
                .ok_or_else(|| invalid_option("hwversion", text, "a number from 3 to 99"))?,
        };
        Ok(Hardware { adapter_type, hardware_version })
    }
}

/// An extent of the new disk.
pub(super) struct NewExtent {
    pub length_bytes: u64,
    /// `FLAT` or `SPARSE`.
    pub kind: &'static str,
    pub name: String,
}

/// What tells this content from every other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ContentIds {
    pub short: u32,
    /// The short one, with more before it.
    pub long: Option<String>,
}

impl ContentIds {
    pub fn from_seed(seed: &IdentitySeed) -> Self {
        let (upper, lower) = seed.uuid("content id").as_u64_pair();
        let short = usual(lower as u32);
        let long = format!("{upper:016x}{:08x}{short:08x}", (lower >> 32) as u32);
        ContentIds { short, long: Some(long) }
    }

    /// For a stream, where the identity comes before the content. Who imports it gives it its own; only the children of a
    /// disk ask for it.
    pub fn of_stream(size_bytes: u64) -> Self {
        let hash = blake3::hash(&size_bytes.to_le_bytes());
        let [first, second, third, fourth, ..] = *hash.as_bytes();
        ContentIds { short: usual(u32::from_le_bytes([first, second, third, fourth])), long: None }
    }
}

/// The highest content ids mean something else: that there is no parent, or that the id is not known.
fn usual(cid: u32) -> u32 {
    cid & 0x7fff_ffff
}

/// Everything that a new descriptor says.
pub(super) struct NewDescriptor<'a> {
    pub create_type: &'static str,
    pub access: &'static str,
    pub ids: ContentIds,
    pub extents: &'a [NewExtent],
    pub hardware: &'a Hardware,
}

impl NewDescriptor<'_> {
    /// The text.
    pub fn text(&self) -> String {
        let size_bytes = self.extents.iter().map(|extent| extent.length_bytes).sum();
        let (cylinders, heads, sectors) = chs(size_bytes, self.hardware.adapter_type);
        let extents: String = self.extents.iter().map(|extent| self.extent_line(extent)).collect();
        let long_content_id =
            self.ids.long.as_ref().map(|id| format!("ddb.longContentID = \"{id}\"\n")).unwrap_or_default();
        format!(
            "# Disk DescriptorFile\n\
             version=1\n\
             encoding=\"UTF-8\"\n\
             CID={:08x}\n\
             parentCID=ffffffff\n\
             createType=\"{}\"\n\
             \n\
             # Extent description\n\
             {extents}\
             \n\
             # The Disk Data Base\n\
             #DDB\n\
             \n\
             ddb.adapterType = \"{}\"\n\
             ddb.encoding = \"UTF-8\"\n\
             ddb.geometry.cylinders = \"{cylinders}\"\n\
             ddb.geometry.heads = \"{heads}\"\n\
             ddb.geometry.sectors = \"{sectors}\"\n\
             {long_content_id}\
             ddb.toolsVersion = \"{TOOLS_VERSION}\"\n\
             ddb.virtualHWVersion = \"{}\"\n",
            self.ids.short, self.create_type, self.hardware.adapter_type, self.hardware.hardware_version
        )
    }

    /// The text, filled up to the room that there is for it in a sparse extent.
    pub fn embedded(&self) -> Result<Vec<u8>> {
        let mut bytes = self.text().into_bytes();
        let room = (EMBEDDED_DESCRIPTOR_SECTORS * SECTOR_BYTES) as usize;
        if bytes.len() > room {
            let detail = format!("the descriptor has {} bytes, there is room for {room}", bytes.len());
            return Err(ImageError::limit_exceeded("create VMDK image", detail));
        }
        bytes.resize(room, 0);
        Ok(bytes)
    }

    fn extent_line(&self, extent: &NewExtent) -> String {
        let sectors = extent.length_bytes / SECTOR_BYTES;
        let offset = if extent.kind == "FLAT" { " 0" } else { "" };
        format!("{} {sectors} {} \"{}\"{offset}\n", self.access, extent.kind, extent.name)
    }
}

/// Cylinders, heads and sectors, as VMware's own programs choose them.
fn chs(size_bytes: u64, adapter_type: &str) -> (u64, u64, u64) {
    const GIB: u64 = 1 << 30;
    let (heads, sectors) = match (adapter_type, size_bytes) {
        ("ide", _) => (16, 63),
        (_, size) if size <= GIB => (64, 32),
        (_, size) if size <= 2 * GIB => (128, 32),
        _ => (255, 63),
    };
    let most = if adapter_type == "ide" { 16383 } else { 65535 };
    ((size_bytes / (heads * sectors * SECTOR_BYTES)).clamp(1, most), heads, sectors)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn geometries_are_those_of_vmware() {
        assert_eq!(chs(30 << 20, "lsilogic"), (30, 64, 32));
        assert_eq!(chs(2 << 20, "lsilogic"), (2, 64, 32));
        assert_eq!(chs(8 << 30, "lsilogic"), (1044, 255, 63));
        assert_eq!(chs(8 << 30, "ide"), (16383, 16, 63));
        assert_eq!(chs(512, "buslogic"), (1, 64, 32));
    }
}
