//! The header extensions: what follows the header in its cluster, each with a type and a length.

use zerocopy::FromBytes;

use super::on_disk::*;
use crate::error::{ImageError, Result};

pub(super) const READ_HEADER: &str = "read qcow2 header";

/// What the known extensions say; unknown ones change nothing for a reader.
#[derive(Debug, Clone, Default)]
pub(super) struct Extensions {
    pub backing_format: Option<String>,
    pub data_file: Option<String>,
    pub bitmaps: Option<BitmapsPlace>,
    pub crypto_header: Option<CryptoHeaderPlace>,
    feature_names: Vec<(u8, u8, String)>,
}

/// Where the bitmap directory lies.
#[derive(Debug, Clone, Copy)]
pub(super) struct BitmapsPlace {
    pub bitmap_count: u32,
    pub directory_offset: u64,
    pub directory_bytes: u64,
}

/// Where the LUKS header lies.
#[derive(Debug, Clone, Copy)]
pub(super) struct CryptoHeaderPlace {
    pub host_offset: u64,
    pub length_bytes: u64,
}

impl Extensions {
    /// What the image itself calls the incompatible feature of this bit.
    pub fn incompatible_feature_name(&self, bit: u8) -> Option<&str> {
        self.feature_names.iter().find(|(kind, named, _)| *kind == 0 && *named == bit).map(|(_, _, name)| name.as_str())
    }
}

/// Whether the extensions end within `area`, so that what follows it does not matter.
pub(super) fn have_ended(area: &[u8]) -> bool {
    let mut rest = area;
    while let Ok((head, after)) = ExtensionHead::read_from_prefix(rest) {
        if head.kind.get() == EXTENSION_END {
            return true;
        }
        rest = after.get((head.data_bytes.get() as usize).next_multiple_of(8)..).unwrap_or_default();
    }
    false
}

/// Reads the extensions in `area`, which begins at `host_offset` and ends where extensions must end.
pub(super) fn parse(area: &[u8], host_offset: u64) -> Result<Extensions> {
    let mut extensions = Extensions::default();
    let mut rest = area;
    while let Ok((head, after)) = ExtensionHead::read_from_prefix(rest) {
        let (kind, data_bytes) = (head.kind.get(), head.data_bytes.get() as usize);
        if kind == EXTENSION_END {
            break;
        }
        let place = host_offset + (area.len() - rest.len()) as u64;
        let Some(data) = after.get(..data_bytes) else {
            let detail = format!("extension {kind:#x} has {data_bytes} bytes, there is room for {}", after.len());
            return Err(ImageError::corrupt("read qcow2 header extension", detail).at_host(place));
        };
        extensions.take(kind, data).map_err(|error| error.at_host(place))?;
        // The padding of the last one may be missing.
        rest = after.get(data_bytes.next_multiple_of(8)..).unwrap_or_default();
    }
    Ok(extensions)
}

impl Extensions {
    fn take(&mut self, kind: u32, data: &[u8]) -> Result<()> {
        match kind {
            EXTENSION_BACKING_FORMAT => self.backing_format = Some(text(data)),
            EXTENSION_DATA_FILE => self.data_file = Some(text(data)),
            EXTENSION_FEATURE_NAMES => self.feature_names = feature_names(data),
            EXTENSION_BITMAPS => self.bitmaps = Some(bitmaps(data)?),
            EXTENSION_CRYPTO_HEADER => self.crypto_header = Some(crypto_header(data)?),
            _ => {}
        }
        Ok(())
    }
}

fn text(data: &[u8]) -> String {
    String::from_utf8_lossy(data).into_owned()
}

fn feature_names(data: &[u8]) -> Vec<(u8, u8, String)> {
    let name_of = |feature: &FeatureName| {
        let length = feature.name.iter().position(|byte| *byte == 0).unwrap_or(feature.name.len());
        (feature.kind, feature.bit, text(feature.name.get(..length).unwrap_or_default()))
    };
    // More names than there are bits would only be there to waste time.
    let entries = data.chunks_exact(size_of::<FeatureName>()).take(3 * 64);
    entries.filter_map(|entry| FeatureName::ref_from_bytes(entry).ok()).map(name_of).collect()
}

fn bitmaps(data: &[u8]) -> Result<BitmapsPlace> {
    let found = BitmapsExtension::read_from_bytes(data).map_err(|_| wrong_length("bitmaps", data, 24))?;
    Ok(BitmapsPlace {
        bitmap_count: found.bitmap_count.get(),
        directory_offset: found.directory_offset.get(),
        directory_bytes: found.directory_bytes.get(),
    })
}

fn crypto_header(data: &[u8]) -> Result<CryptoHeaderPlace> {
    let found =
        CryptoHeaderExtension::read_from_bytes(data).map_err(|_| wrong_length("encryption header", data, 16))?;
    Ok(CryptoHeaderPlace { host_offset: found.offset.get(), length_bytes: found.length_bytes.get() })
}

fn wrong_length(name: &str, data: &[u8], expected: usize) -> ImageError {
    let detail = format!("the {name} extension has {} bytes, expected {expected}", data.len());
    ImageError::corrupt(READ_HEADER, detail)
}
