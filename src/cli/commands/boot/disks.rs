//! The disks of a machine, and what is kept of what it writes to them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tintype_formats::BlockSource;
use tintype_tin::id::Id;

use crate::access::Address;
use crate::boot::{BootDisk, Exports, Overlay, Parent};
use crate::cli::failure::Failure;
use crate::cli::source_args::SourceArgs;
use crate::cli::{Global, output};
use crate::repository::lease::Lease;
use crate::sources::OpenedDisk;

/// The formats that QEMU reads as well: an overlay over such a file is one without this program.
const OF_QEMU: [&str; 12] =
    ["raw", "qcow2", "qcow", "qed", "vhdx", "vhd", "vmdk", "vdi", "parallels", "bochs", "cloop", "dmg"];

/// A disk as it was named.
struct Named {
    disk: Arc<dyn BlockSource>,
    /// The address of this disk alone.
    address: Address,
    /// What an overlay that is kept names; without it, it names an export by this name.
    file: Option<Parent>,
    export: String,
}

/// The disks of a machine.
pub struct Disks {
    named: Vec<Named>,
    sources: Vec<Arc<dyn BlockSource>>,
    keep: Option<PathBuf>,
    _leases: Vec<Lease>,
}

impl Disks {
    /// Opens the disks; of a stored snapshot all, if none is named.
    pub fn open(
        addresses: &[Address],
        input: &SourceArgs,
        keep: Option<&Path>,
        global: Global,
    ) -> Result<Disks, Failure> {
        let (mut named, mut leases) = (Vec::new(), Vec::new());
        for address in addresses {
            if address.is_standard_input() {
                return Err(Failure::usage("a machine needs a disk that can be read at any place, not standard input"));
            }
            let opened = input.open_all(address, "boot", global)?;
            leases.extend(opened.lease);
            for (name, disk) in opened.disks {
                named.push(match (opened.snapshot, name) {
                    (Some(snapshot), Some(name)) => stored(address, snapshot, name, disk),
                    _ => Named {
                        file: file_of(address, &disk),
                        disk: Arc::from(disk.disk),
                        address: address.clone(),
                        export: address.to_string(),
                    },
                });
            }
        }
        let sources = named.iter().map(|named| Arc::clone(&named.disk)).collect();
        Ok(Disks { named, sources, keep: keep.map(Path::to_owned), _leases: leases })
    }

    /// The disks themselves.
    pub fn sources(&self) -> &[Arc<dyn BlockSource>] {
        &self.sources
    }

    /// Puts an overlay over each.
    pub fn attach(&self, exports: &Exports) -> Result<Vec<BootDisk>, Failure> {
        let mut disks = Vec::new();
        for (index, named) in self.named.iter().enumerate() {
            let geometry = named.disk.geometry();
            let overlay = match self.kept_file(index) {
                None => Overlay::temporary(geometry, &Parent::export(&Exports::name(index), &exports.socket())),
                Some(path) => {
                    let parent = self.parent_of(named, &path);
                    match path.symlink_metadata().is_ok() {
                        true => Overlay::open(&path, geometry, &parent),
                        false => Overlay::create(&path, geometry, &parent),
                    }
                }
            };
            disks.push(BootDisk { disk: Arc::clone(&named.disk), overlay: overlay? });
        }
        Ok(disks)
    }

    /// The files that are kept.
    pub fn kept(&self) -> impl Iterator<Item = PathBuf> {
        (0..self.named.len()).filter_map(|index| self.kept_file(index))
    }

    /// Tells what the files are that were kept, and what can be done with them.
    pub fn tell_what_is_kept(&self, global: Global) {
        for (index, named) in self.named.iter().enumerate() {
            let Some(path) = self.kept_file(index) else { continue };
            let (shown, address) = (path.display(), &named.address);
            output::note(
                &format!("{shown} holds what the machine wrote; boot again with --keep to go on from it"),
                global,
            );
            let text = match &named.file {
                Some(_) => {
                    let name = self.parent_of(named, &path).name;
                    let is_beside = !Path::new(&name).is_absolute();
                    let folder =
                        Path::new(&name).parent().map(|folder| folder.display().to_string()).unwrap_or_default();
                    let allow = if is_beside { String::new() } else { format!(" --allow-references '{folder}'") };
                    format!(
                        "it is an overlay over {name}, as long as that is unchanged; to make one disk of both: tintype \
                         convert {shown} NEW.qcow2{allow}"
                    )
                }
                None => format!(
                    "it is an overlay over {address}; to make one disk of both: tintype serve '{address}' --name '{}' \
                     --socket {}, and meanwhile: qemu-img convert -O qcow2 {shown} NEW.qcow2",
                    named.export,
                    socket_beside(&path).display()
                ),
            };
            output::note(&text, global);
        }
    }

    /// What the overlay names: a file in its own folder or below by a relative name, so that both can be moved together.
    fn parent_of(&self, named: &Named, kept: &Path) -> Parent {
        let Some(file) = &named.file else { return Parent::export(&named.export, &socket_beside(kept)) };
        let folder = kept.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let folder = std::fs::canonicalize(folder).unwrap_or_default();
        let relative = Path::new(&file.name).strip_prefix(&folder).ok().and_then(Path::to_str);
        match relative {
            // A colon would make the name's begin a protocol.
            Some(name) if !name.contains(':') => Parent { name: name.to_owned(), format: file.format.clone() },
            _ => file.clone(),
        }
    }

    /// Where the overlay of a disk is kept: `kept.qcow2`, then `kept-2.qcow2` and so on.
    fn kept_file(&self, index: usize) -> Option<PathBuf> {
        let first = self.keep.as_ref()?;
        if index == 0 {
            return Some(first.clone());
        }
        let mut name = first.file_stem().unwrap_or_default().to_owned();
        name.push(format!("-{}", index + 1));
        if let Some(extension) = first.extension() {
            name.push(".");
            name.push(extension);
        }
        Some(first.with_file_name(name))
    }
}

/// Where a server for the disk below a kept overlay has to listen, so that the overlay finds it.
fn socket_beside(kept: &Path) -> PathBuf {
    let mut name = kept.file_name().unwrap_or_default().to_owned();
    name.push(".socket");
    let path = kept.with_file_name(name);
    std::path::absolute(&path).unwrap_or(path)
}

/// The file that an overlay over this disk can name, if QEMU reads it and sees the same disk in it.
fn file_of(address: &Address, opened: &OpenedDisk) -> Option<Parent> {
    if address.disk.is_some() || address.snapshot.is_some() || address.partition.is_some() {
        return None;
    }
    let format = opened.layers.first().map_or("raw", |(_, info)| info.format);
    let path = std::fs::canonicalize(&address.path).ok().filter(|path| path.is_file() || opened.layers.is_empty())?;
    let name = path.to_str()?.to_owned();
    OF_QEMU.contains(&format).then(|| Parent { name, format: format.to_owned() })
}

/// A disk of a stored snapshot, by the snapshot's id: the newest of a name may be another one next time.
fn stored(address: &Address, snapshot: Id, name: String, opened: OpenedDisk) -> Named {
    Named {
        disk: Arc::from(opened.disk),
        export: format!("{snapshot}-{name}"),
        address: Address { stored: Some(snapshot.to_string()), disk: Some(name), ..address.clone() },
        file: None,
    }
}
