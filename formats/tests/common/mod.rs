//! The images that every suite goes through: each format that can be created, in its variants.

#![allow(dead_code)]

use std::sync::Arc;

use tintype_formats::sink::{Compression, CreateOptions};
use tintype_formats::testing::{MemoryFile, ModelDisk, create_image};
use tintype_formats::{BlockSource, FORMATS, Format};

/// A variant: subformat, options, compression.
type Variant = (Option<&'static str>, &'static [(&'static str, &'static str)], Compression);

const PLAIN: Compression = Compression::None;

/// The variants worth testing; every format has at least its default one.
fn variants(format: &Format) -> Vec<Variant> {
    match format.name {
        "qcow2" => vec![
            (None, &[], PLAIN),
            (None, &[("cluster_size", "512")], PLAIN),
            (None, &[("cluster_size", "2M")], PLAIN),
            (None, &[("compat", "0.10")], PLAIN),
            (None, &[("extended_l2", "on")], PLAIN),
            (None, &[], Compression::Zlib(6)),
            (None, &[], Compression::Zstd(3)),
            (None, &[("cluster_size", "4k")], Compression::Zstd(1)),
        ],
        "vhdx" => vec![
            (None, &[], PLAIN),
            (None, &[("block_size", "1M")], PLAIN),
            (None, &[("logical_sector", "4096"), ("block_size", "2M")], PLAIN),
            (Some("fixed"), &[("block_size", "1M")], PLAIN),
        ],
        "vhd" => vec![
            (None, &[], PLAIN),
            (None, &[("block_size", "512k")], PLAIN),
            (None, &[("block_size", "16M")], PLAIN),
            (Some("fixed"), &[], PLAIN),
        ],
        // Its disks have whole gigabytes, which nothing here could go through: its own tests go through these suites.
        "gce" => Vec::new(),
        // The other variants consist of several files: the format's own tests make those.
        "vmdk" => vec![
            (None, &[], PLAIN),
            (Some("streamOptimized"), &[], PLAIN),
            (None, &[("adapter_type", "ide")], Compression::Zlib(1)),
        ],
        // A format whose subformats and compressions can be had in any combination needs no line of its own here.
        _ => {
            let create = format.create.as_ref().expect("only formats that can be created");
            let plain = create.subformats.iter().map(|name| (Some(*name), &[][..], PLAIN));
            let compressed = create.compressions.iter().filter_map(|name| match *name {
                "zlib" => Some((None, &[][..], Compression::Zlib(6))),
                "zstd" => Some((None, &[][..], Compression::Zstd(2))),
                _ => None,
            });
            plain.chain(compressed).collect()
        }
    }
}

/// A format with the options for a new image.
pub struct Case {
    pub format: &'static Format,
    pub name: String,
    variant: Variant,
}

impl Case {
    pub fn options(&self, disk: &dyn BlockSource) -> CreateOptions {
        let (subformat, options, compression) = self.variant;
        CreateOptions {
            subformat: subformat.map(str::to_owned),
            options: options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            compression,
            ..CreateOptions::new(disk.geometry())
        }
    }

    pub fn create(&self, disk: &ModelDisk) -> Arc<MemoryFile> {
        create_image(self.format, &self.options(disk), disk, None)
            .unwrap_or_else(|error| panic!("{}: create: {error}", self.name))
    }

    pub fn is_compressed(&self) -> bool {
        self.variant.2 != PLAIN
    }

    pub fn is_raw(&self) -> bool {
        self.format.name == "raw"
    }

    /// Whether all of the disk has storage, whatever it holds.
    pub fn is_preallocated(&self) -> bool {
        matches!(self.variant.0, Some("full" | "fixed"))
    }

    /// The unit of allocation that the variant asks for, in bytes: tables come in it.
    pub fn unit_bytes(&self) -> u64 {
        let sizes = self.variant.1.iter().filter(|(name, _)| matches!(*name, "cluster_size" | "block_size"));
        sizes.filter_map(|(_, size)| tintype_formats::sink::parse_size(size)).next().unwrap_or(64 << 10)
    }

    /// The largest disk that the suites make, in bytes: 16 TiB, or what the format can hold.
    pub fn max_disk_bytes(&self) -> u64 {
        match self.format.name {
            // Small clusters limit the disk: their tables would be too large.
            _ if self.unit_bytes() < 64 << 10 => 64 << 30,
            "vhd" => 2000 << 30,
            _ => 16 << 40,
        }
    }

    /// Whether the disk's size has to be a multiple of more than 512 bytes.
    pub fn sector_bytes(&self) -> u64 {
        if self.variant.1.contains(&("logical_sector", "4096")) { 4096 } else { 512 }
    }
}

/// Every creatable format in every variant.
pub fn cases() -> Vec<Case> {
    let creatable = FORMATS.iter().copied().filter(|format| format.create.is_some());
    creatable
        .flat_map(|format| {
            variants(format).into_iter().map(move |variant| {
                let (subformat, options, compression) = &variant;
                let name = format!("{} {subformat:?} {options:?} {compression:?}", format.name);
                Case { format, name, variant }
            })
        })
        .collect()
}
