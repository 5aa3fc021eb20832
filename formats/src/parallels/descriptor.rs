//! `DiskDescriptor.xml`: what a bundle consists of (QEMU's docs/interop/prl-xml.txt).

use roxmltree::{Document, Node, ParsingOptions};
use uuid::{Uuid, uuid};

use super::on_disk::SECTOR_BYTES;
use crate::error::{ImageError, Result};
use crate::format::PROBE_BYTES;
use crate::host_file::OpenFile;
use crate::limits::{MAX_CHAIN_DEPTH, MAX_DISK_BYTES, MAX_REFERENCE_NAME_BYTES};

const READ: &str = "read DiskDescriptor.xml";

const ROOT_ELEMENT: &str = "Parallels_disk_image";

/// Largest descriptor, in bytes; one of a hundred snapshots has some 30 KiB.
const MAX_DESCRIPTOR_BYTES: u64 = 4 << 20;

/// Most elements, attributes and texts of a descriptor: each takes memory.
const MAX_XML_NODES: u32 = 200_000;

/// Most image files of a bundle, one for each shot and storage. Each is an open file when the disk is read.
const MAX_IMAGES: usize = 4096;

/// Most shots of a bundle: each is looked for among all of them.
const MAX_SHOTS: usize = 1024;

/// The top shot, unless the descriptor names another.
const USUAL_TOP: Uuid = uuid!("5fbaabe3-6958-40ff-92a7-860e329aab41");

/// A descriptor whose numbers are checked.
#[derive(Debug, Clone)]
pub(super) struct Descriptor {
    pub disk_bytes: u64,
    pub physical_sector_bytes: u32,
    /// What keeps the disk from being read, although it can be described.
    pub unreadable: Option<String>,
    /// One behind the other, from the beginning of the disk to its end or past it.
    pub storages: Vec<Storage>,
    pub shots: Vec<Shot>,
    pub top: Uuid,
    /// What the user called the disk, if it says so.
    pub name: Option<String>,
}

/// A range of the disk, and its images, one for each shot.
#[derive(Debug, Clone)]
pub(super) struct Storage {
    /// Where it begins in the disk, in bytes.
    pub start: u64,
    /// Where it ends, in bytes.
    pub end: u64,
    pub cluster_bytes: u64,
    pub images: Vec<StorageImage>,
}

/// A file of a storage.
#[derive(Debug, Clone)]
pub(super) struct StorageImage {
    pub shot: Uuid,
    pub expanding: bool,
    pub file: String,
}

/// A state of the disk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shot {
    pub id: Uuid,
    /// The shot that it changes; nil if there is none.
    pub parent: Uuid,
}

/// Whether the beginning of a file looks like a descriptor.
pub(super) fn looks_like_one(head: &[u8]) -> bool {
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
    text.starts_with(b"<") && text.windows(ROOT_ELEMENT.len() + 1).any(|part| part == b"<Parallels_disk_image")
}

/// Whether the file looks like a descriptor.
pub(super) fn is_descriptor(file: &OpenFile) -> Result<bool> {
    let len_bytes = file.file.len_bytes().map_err(|cause| ImageError::io("find out the file's length", cause))?;
    let mut head = vec![0; len_bytes.min(PROBE_BYTES as u64) as usize];
    file.file
        .read_exact_at(0, &mut head)
        .map_err(|cause| ImageError::io("read the beginning of the file", cause).at_host(0))?;
    Ok(looks_like_one(&head))
}

/// Reads the descriptor that `file` is.
pub(super) fn read(file: &OpenFile) -> Result<Descriptor> {
    let len_bytes = file.file.len_bytes().map_err(|cause| ImageError::io("find out the file's length", cause))?;
    if len_bytes > MAX_DESCRIPTOR_BYTES {
        let detail = format!("it has {len_bytes} bytes, at most {MAX_DESCRIPTOR_BYTES} are read");
        return Err(ImageError::limit_exceeded(READ, detail));
    }
    let mut bytes = vec![0; len_bytes as usize];
    file.file.read_exact_at(0, &mut bytes).map_err(|cause| ImageError::io(READ, cause).at_host(0))?;
    let text =
        std::str::from_utf8(&bytes).map_err(|cause| ImageError::corrupt(READ, "it is no UTF-8").caused_by(cause))?;
    let options = ParsingOptions { allow_dtd: false, nodes_limit: MAX_XML_NODES, ..ParsingOptions::default() };
    let document = Document::parse_with_options(text.trim_start_matches('\u{feff}'), options)
        .map_err(|cause| ImageError::corrupt(READ, "it is no well-formed XML").caused_by(cause))?;
    Descriptor::parse(document.root_element())
}

fn corrupt(detail: impl Into<String>) -> ImageError {
    ImageError::corrupt(READ, detail)
}

impl Descriptor {
    fn parse(root: Node<'_, '_>) -> Result<Self> {
        if root.tag_name().name() != ROOT_ELEMENT {
            let found = root.tag_name().name().escape_debug();
            return Err(ImageError::not_this_format(READ, format!("it is a \"{found}\", no {ROOT_ELEMENT}")));
        }
        let parameters = child(root, "Disk_Parameters")?;
        let disk_bytes = sectors_in(parameters, "Disk_size")?;
        let physical = optional(parameters, "PhysicalSectorSize").and_then(|text| text.parse().ok());
        let snapshots = child(root, "Snapshots")?;
        let top = match optional(snapshots, "TopGUID") {
            Some(text) => parse_guid(text)?,
            None => USUAL_TOP,
        };
        let descriptor = Descriptor {
            disk_bytes,
            physical_sector_bytes: physical.filter(|bytes| matches!(bytes, 512 | 4096)).unwrap_or(512),
            unreadable: unreadable(root, parameters),
            storages: parse_storages(child(root, "StorageData")?)?,
            shots: children(snapshots, "Shot").map(parse_shot).collect::<Result<_>>()?,
            top,
            name: optional(parameters, "Name").map(str::to_owned),
        };
        descriptor.check_numbers()?;
        descriptor.check_storages()?;
        descriptor.chain_of(top)?;
        Ok(descriptor)
    }

    fn check_numbers(&self) -> Result<()> {
        let listed: usize = self.storages.iter().map(|storage| storage.images.len()).sum();
        let (shots, images) = (self.shots.len(), listed.max(self.storages.len().saturating_mul(self.shots.len())));
        if shots > MAX_SHOTS || images > MAX_IMAGES {
            let detail = format!("it has {shots} shots and {images} images, at most {MAX_SHOTS} and {MAX_IMAGES} work");
            return Err(ImageError::limit_exceeded(READ, detail));
        }
        Ok(())
    }

    /// The storages cover the disk without gaps; the last one may be rounded up.
    fn check_storages(&self) -> Result<()> {
        let mut covered = 0;
        for storage in &self.storages {
            if storage.start != covered || storage.end <= storage.start {
                let (start, end) = (storage.start, storage.end);
                return Err(corrupt(format!("a storage goes from {start:#x} to {end:#x}, expected from {covered:#x}")));
            }
            covered = storage.end;
        }
        if covered < self.disk_bytes {
            return Err(corrupt(format!("the storages end at {covered:#x}, the disk at {:#x}", self.disk_bytes)));
        }
        Ok(())
    }

    /// The shots that the state `id` is made of, from the top down.
    pub fn chain_of(&self, id: Uuid) -> Result<Vec<Uuid>> {
        let (mut chain, mut next) = (Vec::new(), id);
        while !next.is_nil() {
            let shot = self.shots.iter().find(|shot| shot.id == next);
            let shot = shot.ok_or_else(|| corrupt(format!("there is no shot {}", next.braced())))?;
            if chain.contains(&next) {
                return Err(corrupt(format!("the shot {} is its own ancestor", next.braced())));
            }
            if chain.len() >= MAX_CHAIN_DEPTH {
                let detail = format!("the chain of shots is longer than {MAX_CHAIN_DEPTH}");
                return Err(ImageError::limit_exceeded(READ, detail));
            }
            chain.push(next);
            next = shot.parent;
        }
        Ok(chain)
    }
}

/// What a disk has that is not read: `info` describes it all the same.
fn unreadable(root: Node<'_, '_>, parameters: Node<'_, '_>) -> Option<String> {
    let version = root.attribute("Version").unwrap_or_default();
    if version != "1.0" {
        return Some(format!("its version is \"{}\", only 1.0 is known", version.escape_debug()));
    }
    let padding = optional(parameters, "Padding").unwrap_or("0");
    if padding != "0" {
        return Some(format!("it has padding (\"{}\"), which nobody describes", padding.escape_debug()));
    }
    let sector = optional(parameters, "LogicSectorSize").unwrap_or("512");
    if sector != "512" {
        return Some(format!("its logical sectors have \"{}\" bytes, only 512 are known", sector.escape_debug()));
    }
    let encryption = children(parameters, "Encryption").next()?;
    let engine = optional(encryption, "Engine").filter(|text| !text.is_empty())?;
    let plain = Uuid::try_parse(engine).is_ok_and(|engine| engine.is_nil());
    (!plain).then(|| format!("it is encrypted (engine \"{}\")", engine.escape_debug()))
}

fn parse_storages(data: Node<'_, '_>) -> Result<Vec<Storage>> {
    let mut storages = children(data, "Storage").map(parse_storage).collect::<Result<Vec<_>>>()?;
    storages.sort_by_key(|storage| storage.start);
    Ok(storages)
}

fn parse_storage(storage: Node<'_, '_>) -> Result<Storage> {
    Ok(Storage {
        start: sectors_in(storage, "Start")?,
        end: sectors_in(storage, "End")?,
        cluster_bytes: sectors_in(storage, "Blocksize")?,
        images: children(storage, "Image").map(parse_image).collect::<Result<_>>()?,
    })
}

fn parse_image(image: Node<'_, '_>) -> Result<StorageImage> {
    let expanding = match text_in(image, "Type")? {
        "Compressed" => true,
        "Plain" => false,
        other => {
            let detail = format!("an image has the type \"{}\", expected Compressed or Plain", other.escape_debug());
            return Err(ImageError::unsupported(READ, detail));
        }
    };
    let file = text_in(image, "File")?;
    if file.len() > MAX_REFERENCE_NAME_BYTES {
        let detail = format!("a file's name has {} bytes, at most {MAX_REFERENCE_NAME_BYTES} are allowed", file.len());
        return Err(ImageError::limit_exceeded(READ, detail));
    }
    Ok(StorageImage { shot: parse_guid(text_in(image, "GUID")?)?, expanding, file: file.to_owned() })
}

fn parse_shot(shot: Node<'_, '_>) -> Result<Shot> {
    Ok(Shot { id: parse_guid(text_in(shot, "GUID")?)?, parent: parse_guid(text_in(shot, "ParentGUID")?)? })
}

fn parse_guid(text: &str) -> Result<Uuid> {
    Uuid::try_parse(text).map_err(|cause| corrupt(format!("\"{}\" is no GUID", text.escape_debug())).caused_by(cause))
}

fn children<'a, 'input: 'a>(
    node: Node<'a, 'input>,
    name: &'static str,
) -> impl Iterator<Item = Node<'a, 'input>> + use<'a, 'input> {
    node.children().filter(move |child| child.is_element() && child.tag_name().name() == name)
}

/// The only child element of that name.
fn child<'a, 'input>(node: Node<'a, 'input>, name: &'static str) -> Result<Node<'a, 'input>> {
    let mut found = children(node, name);
    match (found.next(), found.next()) {
        (Some(child), None) => Ok(child),
        (found, _) => {
            let count = if found.is_some() { "several" } else { "no" };
            let parent = node.tag_name().name();
            Err(corrupt(format!("the element {parent} has {count} {name}, expected one")))
        }
    }
}

fn text_in<'a>(node: Node<'a, '_>, name: &'static str) -> Result<&'a str> {
    Ok(child(node, name)?.text().unwrap_or_default().trim())
}

fn optional<'a>(node: Node<'a, '_>, name: &'static str) -> Option<&'a str> {
    children(node, name).next().map(|child| child.text().unwrap_or_default().trim())
}

/// A number of sectors, in bytes.
fn sectors_in(node: Node<'_, '_>, name: &'static str) -> Result<u64> {
    let text = text_in(node, name)?;
    let sectors: u64 = text.parse().map_err(|cause| {
        corrupt(format!("{name} is \"{}\", expected a number", text.escape_debug())).caused_by(cause)
    })?;
    let bytes = sectors.checked_mul(SECTOR_BYTES).filter(|bytes| *bytes <= MAX_DISK_BYTES);
    bytes.ok_or_else(|| {
        let detail = format!("{name} is {sectors} sectors, at most {MAX_DISK_BYTES} bytes work");
        ImageError::limit_exceeded(READ, detail)
    })
}
