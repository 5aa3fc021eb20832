//! Where what lies in an overlay file, and its header (SPEC.md).

use tintype_formats::{BlockSource, Geometry, ImageError};

/// The granularity of the overlay, in bytes.
pub const BLOCK_BYTES: u64 = 4096;

/// One page of the table, in bytes.
pub const PAGE_BYTES: u64 = 4096;

/// How many blocks a page of the table describes, with 2 bits each.
pub const BLOCKS_PER_PAGE: u64 = PAGE_BYTES * 4;

/// The length of the header, in bytes.
pub const HEADER_BYTES: usize = 4096;

const MAGIC: &[u8; 16] = b"tintype overlay\n";
const VERSION: u32 = 1;
const DATA_ALIGN_BYTES: u64 = 64 << 10;
const SUM_OFFSET: usize = HEADER_BYTES - 32;

/// The table's index takes 16 bytes of memory for every 64 MiB of disk: 64 MiB for the largest.
const MAX_DISK_BYTES: u64 = 256 << 40;

/// The places of an overlay for a disk of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// The disk's size in bytes.
    pub size_bytes: u64,
    /// How many blocks that are.
    pub blocks: u64,
    /// Where the table begins.
    pub table_offset: u64,
    /// How many pages it has.
    pub pages: u64,
    /// Where block 0 lies, in bytes.
    pub data_offset: u64,
    /// How long the file is.
    pub file_bytes: u64,
}

impl Layout {
    /// The layout for a disk of this size.
    pub fn of_size(size_bytes: u64) -> Result<Self, ImageError> {
        if size_bytes > MAX_DISK_BYTES {
            let detail = format!("the disk has {size_bytes} bytes, an overlay is for at most {MAX_DISK_BYTES}");
            return Err(ImageError::limit_exceeded("lay out the overlay", detail));
        }
        let blocks = size_bytes.div_ceil(BLOCK_BYTES);
        let (table_offset, pages) = (HEADER_BYTES as u64, blocks.div_ceil(BLOCKS_PER_PAGE));
        let data_offset = (table_offset + pages * PAGE_BYTES).next_multiple_of(DATA_ALIGN_BYTES);
        let file_bytes = data_offset + blocks * BLOCK_BYTES;
        Ok(Layout { size_bytes, blocks, table_offset, pages, data_offset, file_bytes })
    }

    /// The header for an overlay over a disk of this fingerprint.
    pub fn header(&self, fingerprint: &[u8; 32]) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        header[..16].copy_from_slice(MAGIC);
        header[16..20].copy_from_slice(&VERSION.to_le_bytes());
        header[20..24].copy_from_slice(&(BLOCK_BYTES as u32).to_le_bytes());
        header[24..32].copy_from_slice(&self.size_bytes.to_le_bytes());
        header[32..40].copy_from_slice(&self.table_offset.to_le_bytes());
        header[40..48].copy_from_slice(&self.data_offset.to_le_bytes());
        header[48..80].copy_from_slice(fingerprint);
        let sum = blake3::hash(&header[..SUM_OFFSET]);
        header[SUM_OFFSET..].copy_from_slice(sum.as_bytes());
        header
    }

    /// Reads the layout and the fingerprint out of a header.
    pub fn parse(header: &[u8; HEADER_BYTES]) -> Result<(Self, [u8; 32]), ImageError> {
        const DOING: &str = "read the overlay's header";
        if !header.starts_with(MAGIC) {
            return Err(ImageError::not_this_format(DOING, "it does not begin as an overlay of tintype does"));
        }
        let version = u32::from_le_bytes(array(header, 16));
        if version != VERSION {
            let detail = format!("it is of version {version}, only {VERSION} is known");
            return Err(ImageError::unsupported(DOING, detail));
        }
        if blake3::hash(&header[..SUM_OFFSET]) != blake3::Hash::from_bytes(array(header, SUM_OFFSET)) {
            return Err(ImageError::corrupt(DOING, "its checksum is wrong"));
        }
        let layout = Self::of_size(u64::from_le_bytes(array(header, 24)))?;
        let fingerprint = array(header, 48);
        if layout.header(&fingerprint) != *header {
            return Err(ImageError::corrupt(DOING, "its places are not those of a disk of its size"));
        }
        Ok((layout, fingerprint))
    }
}

fn array<const N: usize>(header: &[u8; HEADER_BYTES], offset: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&header[offset..offset + N]);
    array
}

/// Tells disks from each other by samples of what the guest sees.
pub fn fingerprint(disk: &dyn BlockSource) -> Result<[u8; 32], ImageError> {
    const LARGE_BYTES: u64 = 64 << 10;
    const PARTS: u64 = 16;
    let Geometry { size_bytes, .. } = disk.geometry();
    let spread = (1..PARTS).map(|part| (size_bytes / PARTS * part / BLOCK_BYTES * BLOCK_BYTES, BLOCK_BYTES));
    // Where partition tables, the first file system's own description, and the second partition table lie.
    let places = [(0, LARGE_BYTES), (1 << 20, LARGE_BYTES)].into_iter().chain(spread);
    let mut hasher = blake3::Hasher::new();
    hasher.update(&size_bytes.to_le_bytes());
    let mut buffer = [0; LARGE_BYTES as usize];
    for (offset, length) in places.chain([(size_bytes.saturating_sub(LARGE_BYTES), LARGE_BYTES)]) {
        let part = &mut buffer[..size_bytes.saturating_sub(offset).min(length) as usize];
        disk.read_at(offset.min(size_bytes), part)?;
        hasher.update(part);
    }
    Ok(*hasher.finalize().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tintype_formats::testing::ModelDisk;

    #[test]
    fn a_header_says_what_was_put_into_it() {
        let layout = Layout::of_size((100 << 30) + 512).unwrap();
        assert_eq!(layout.blocks, (100 << 18) + 1);
        assert_eq!(layout.data_offset % DATA_ALIGN_BYTES, 0);
        let header = layout.header(&[7; 32]);
        assert_eq!(Layout::parse(&header).unwrap(), (layout, [7; 32]));
        for byte in [0, 17, 21, 25, 33, 41, 50, 100, 4095] {
            let mut damaged = header;
            damaged[byte] ^= 1;
            assert!(Layout::parse(&damaged).is_err(), "byte {byte}");
        }
        assert!(Layout::of_size(u64::MAX).is_err());
    }

    #[test]
    fn fingerprints_tell_disks_apart() {
        let of = |disk: &ModelDisk| fingerprint(disk).unwrap();
        let mut disk = ModelDisk::random(1, 64 << 20, 40, 20);
        let before = of(&disk);
        assert_eq!(before, of(&disk));
        assert_ne!(before, of(&disk.clone().resized(65 << 20)));
        disk.write(257, 99);
        assert_ne!(before, of(&disk));
        for size_bytes in [0, 1, 512, 65536, (1 << 20) + 5] {
            of(&ModelDisk::new(size_bytes));
        }
    }
}
