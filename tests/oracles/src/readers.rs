//! One function per crate: opens an image and reads the whole guest disk from its beginning to its end.

use std::fmt::Display;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use sha2::{Digest, Sha256};

/// How much is asked for at a time: the largest cluster of QCOW2.
const CHUNK_BYTES: u64 = 2 << 20;

/// A crate that reads disk images.
pub struct Reader {
    name: &'static str,
    /// Whether it opens the image for writing: it must be given a copy.
    pub writes_into_its_source: bool,
    /// Hashes the guest content and gives its size.
    read: fn(&Path, &mut Sha256) -> Result<u64, String>,
}

const READERS: &[Reader] = &[
    Reader { name: "qcow2-rs", writes_into_its_source: false, read: read_with_qcow2_rs },
    Reader { name: "imago", writes_into_its_source: false, read: read_with_imago },
    Reader { name: "vhdx", writes_into_its_source: true, read: read_with_vhdx },
    Reader { name: "vhdx-core", writes_into_its_source: false, read: read_with_vhdx_core },
];

impl Reader {
    /// The SHA-256 of the guest content, and its size in bytes.
    pub fn digest(&self, image: &Path) -> Result<(String, u64), String> {
        let mut hash = Sha256::new();
        let size_bytes = (self.read)(image, &mut hash)?;
        Ok((format!("{:x}", hash.finalize()), size_bytes))
    }
}

/// The reader of that name.
pub fn find(name: &str) -> Option<&'static Reader> {
    READERS.iter().find(|reader| reader.name == name)
}

/// The names of all readers.
pub fn names() -> Vec<&'static str> {
    READERS.iter().map(|reader| reader.name).collect()
}

/// Cuts a disk into pieces of at most `CHUNK_BYTES`: guest offset and length.
fn chunks(size_bytes: u64) -> impl Iterator<Item = (u64, usize)> {
    let starts = (0..size_bytes).step_by(CHUNK_BYTES as usize);
    starts.map(move |guest_offset| (guest_offset, CHUNK_BYTES.min(size_bytes - guest_offset) as usize))
}

/// Says what was being done when something failed.
fn failed(doing: &str) -> impl Fn(&dyn Display) -> String + '_ {
    move |cause| format!("{doing}: {cause}")
}

/// Its reads must be aligned to 512 bytes, its buffers come from its own allocator.
fn read_with_qcow2_rs(image: &Path, hash: &mut Sha256) -> Result<u64, String> {
    use qcow2_rs::dev::Qcow2DevParams;
    use qcow2_rs::helpers::Qcow2IoBuf;

    let parameters = Qcow2DevParams::new(9, None, None, true, false);
    let disk = qcow2_rs::utils::qcow2_setup_dev_sync(image, &parameters).map_err(|cause| failed("open")(&cause))?;
    futures::executor::block_on(async {
        disk.qcow2_prep_io().await.map_err(|cause| failed("prepare")(&cause))?;
        let size_bytes = disk.info.virtual_size();
        for (guest_offset, length) in chunks(size_bytes) {
            let mut buffer = Qcow2IoBuf::<u8>::new(length);
            let got = disk.read_at(&mut buffer, guest_offset).await.map_err(|cause| failed("read")(&cause))?;
            if got != length {
                return Err(format!("read at guest offset {guest_offset:#x}: {got} of {length} bytes"));
            }
            hash.update(&buffer[..]);
        }
        Ok(size_bytes)
    })
}

/// Allowed to open whatever files the image names: tests give it no strange images.
fn read_with_imago(image: &Path, hash: &mut Sha256) -> Result<u64, String> {
    use imago::file::File;
    use imago::qcow2::Qcow2;
    use imago::{FormatAccess, FormatDriverBuilder, PermissiveImplicitOpenGate};

    let layer = Qcow2::<File>::builder_path(image)
        .open(PermissiveImplicitOpenGate::default())
        .map_err(|cause| failed("open")(&cause))?;
    let disk = FormatAccess::new(layer);
    let size_bytes = disk.size();
    let mut buffer = vec![0; CHUNK_BYTES as usize];
    for (guest_offset, length) in chunks(size_bytes) {
        let buffer = &mut buffer[..length];
        disk.read(&mut *buffer, guest_offset).map_err(|cause| failed("read")(&cause))?;
        hash.update(&buffer);
    }
    Ok(size_bytes)
}

/// Prints while it opens, replays the log into the file, and reads on past the disk's end if one lets it.
fn read_with_vhdx(image: &Path, hash: &mut Sha256) -> Result<u64, String> {
    let mut disk = vhdx::Vhdx::load(image);
    let mut reader = disk.reader();
    let size_bytes = reader.seek(SeekFrom::End(0)).map_err(|cause| failed("find the end")(&cause))?;
    reader.rewind().map_err(|cause| failed("rewind")(&cause))?;
    hash_stream(reader, size_bytes, hash)
}

/// Refuses differencing images.
fn read_with_vhdx_core(image: &Path, hash: &mut Sha256) -> Result<u64, String> {
    let reader = vhdx_core::VhdxReader::open(image).map_err(|cause| failed("open")(&cause))?;
    let size_bytes = reader.virtual_disk_size();
    hash_stream(reader, size_bytes, hash)
}

fn hash_stream(mut reader: impl Read, size_bytes: u64, hash: &mut Sha256) -> Result<u64, String> {
    let mut buffer = vec![0; CHUNK_BYTES as usize];
    for (guest_offset, length) in chunks(size_bytes) {
        let buffer = &mut buffer[..length];
        reader.read_exact(buffer).map_err(|cause| format!("read at guest offset {guest_offset:#x}: {cause}"))?;
        hash.update(&buffer);
    }
    Ok(size_bytes)
}
