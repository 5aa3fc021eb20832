//! Creating images: the options, the three steps, and how large it becomes.

use std::io;
use std::sync::{Arc, Mutex};

use super::finish::{Backing, HeaderSettings, TablePlaces, TailClusters, header_cluster, place_tables};
use super::info::qemu_driver_of_format;
use super::on_disk::*;
use super::place::{Allocator, Places, Segment, TableWrite};
use super::plan::{PlanSettings, UnitPlan, plan};
use crate::HostFileMut;
use crate::error::{ImageError, Result};
use crate::format::{Measure, OptionHelp, TouchedBytes};
use crate::limits::MAX_DISK_BYTES;
use crate::locks::Unpoisoned as _;
use crate::sink::{
    Compression, CreateOptions, GuestUnit, IdentitySeed, ImageWriter, TargetFiles, UnitContent, UnitWriter,
    WriterLayout, invalid_option,
};
use crate::zeros::is_zero;

const DEFAULT_CLUSTER_BYTES: u64 = 64 << 10;

/// The options for new images.
pub(super) static OPTIONS: &[OptionHelp] = &[
    OptionHelp {
        name: "compat",
        values: "1.1 or v3, 0.10 or v2 (default: 1.1)",
        help: "The version: 0.10 is for QEMU before 1.1, and has neither explicit zeros, zstd nor extended L2 entries",
    },
    OptionHelp {
        name: "cluster_size",
        values: "512 to 2M, a power of two (default: 64k)",
        help: "The unit of allocation: small ones save space, large ones need fewer tables",
    },
    OptionHelp {
        name: "extended_l2",
        values: "on or off (default: off)",
        help: "Lets the 32 parts of a cluster be stored each for itself; for clusters of 16k or more",
    },
];

struct Settings {
    header: HeaderSettings,
    plan: PlanSettings,
}

impl Settings {
    fn from_options(options: &CreateOptions) -> Result<Self> {
        let version = version_option(options)?;
        let shape = shape_option(options, version)?;
        let zstd = matches!(options.compression, Compression::Zstd(_));
        if zstd && version == 2 {
            return Err(invalid_option("compress", "zstd", "zlib or none with compat=0.10"));
        }
        let disk_bytes = check_size(options.geometry.size_bytes, shape)?;
        let parent = options.parent.as_ref();
        let backing = parent.map(|parent| Backing {
            name: parent.name.clone(),
            format: qemu_driver_of_format(&parent.format).to_owned(),
        });
        let plan = PlanSettings {
            shape,
            compression: options.compression,
            zero_flag: version >= 3,
            parent_bytes: parent.map_or(0, |parent| parent.size_bytes),
            holds_old_data: options.target_holds_old_data,
        };
        Ok(Settings { header: HeaderSettings { shape, version, zstd, disk_bytes, backing }, plan })
    }
}

fn version_option(options: &CreateOptions) -> Result<u32> {
    match options.options.get("compat").map(String::as_str) {
        None | Some("1.1" | "v3") => Ok(3),
        Some("0.10" | "v2") => Ok(2),
        Some(other) => Err(invalid_option("compat", other, "1.1, v3, 0.10 or v2")),
    }
}

fn shape_option(options: &CreateOptions, version: u32) -> Result<Shape> {
    let cluster_bytes = options.size_option("cluster_size")?.unwrap_or(DEFAULT_CLUSTER_BYTES);
    let cluster_bits = cluster_bytes.trailing_zeros();
    if !cluster_bytes.is_power_of_two() || !(MIN_CLUSTER_BITS..=MAX_CLUSTER_BITS).contains(&cluster_bits) {
        return Err(invalid_option("cluster_size", &cluster_bytes.to_string(), "a power of two from 512 to 2M"));
    }
    let extended_l2 = options.flag_option("extended_l2")?.unwrap_or(false);
    if extended_l2 && version == 2 {
        return Err(invalid_option("extended_l2", "on", "off with compat=0.10"));
    }
    if extended_l2 && cluster_bits < MIN_EXTENDED_L2_CLUSTER_BITS {
        return Err(invalid_option("extended_l2", "on", "off, or a cluster_size of 16k or more"));
    }
    Ok(Shape { cluster_bits, extended_l2 })
}

/// Checks that the L1 table of such a disk stays within what readers accept; returns the size in whole sectors.
fn check_size(size_bytes: u64, shape: Shape) -> Result<u64> {
    const DOING: &str = "create qcow2 image";
    if size_bytes > MAX_DISK_BYTES {
        let detail = format!("the disk has {size_bytes} bytes, at most {MAX_DISK_BYTES} work");
        return Err(ImageError::limit_exceeded(DOING, detail));
    }
    let fits = |shape: &Shape| shape.l1_entries_for(size_bytes) * 8 <= MAX_L1_TABLE_BYTES;
    if fits(&shape) {
        return Ok(size_bytes.next_multiple_of(512));
    }
    let mut larger = (shape.cluster_bits + 1..=MAX_CLUSTER_BITS).map(|cluster_bits| Shape { cluster_bits, ..shape });
    let advice = match larger.find(fits) {
        Some(shape) => format!("cluster_size={} fits", shape.cluster_bytes()),
        None => "no cluster size fits".to_owned(),
    };
    let detail =
        format!("a disk of {size_bytes} bytes is too large for clusters of {}: {advice}", shape.cluster_bytes());
    Err(ImageError::limit_exceeded(DOING, detail))
}

/// Other than `qemu-img measure`, this counts only the L2 tables that the data need: there are no others in what is created.
pub(super) fn measure(options: &CreateOptions, touched_bytes: &TouchedBytes<'_>) -> Result<Measure> {
    let HeaderSettings { shape, disk_bytes, .. } = Settings::from_options(options)?.header;
    let l1_entries = shape.l1_entries_for(disk_bytes);
    let file_bytes = |data_clusters: u64, l2_tables: u64| {
        let used = 1 + data_clusters + l2_tables;
        (used + TailClusters::new(shape, l1_entries, used, 0).sum()) * shape.cluster_bytes()
    };
    let all_clusters = shape.clusters_for(disk_bytes);
    let all_l2_tables = all_clusters.div_ceil(shape.l2_entries());
    let data_clusters = shape.clusters_for(touched_bytes(shape.cluster_bytes())?).min(all_clusters);
    let l2_tables = touched_bytes(shape.l2_span_bytes())?.div_ceil(shape.l2_span_bytes()).min(all_l2_tables);
    Ok(Measure {
        required_bytes: file_bytes(data_clusters, l2_tables),
        fully_allocated_bytes: file_bytes(all_clusters, all_l2_tables),
    })
}

struct Qcow2Writer {
    file: Arc<dyn HostFileMut>,
    settings: Settings,
    allocator: Mutex<Allocator>,
}

pub(super) fn begin(files: &dyn TargetFiles, options: &CreateOptions) -> Result<Box<dyn ImageWriter>> {
    let file = files.main();
    let settings = Settings::from_options(options)?;
    // Fails now rather than at the end, if the header cannot be made.
    header_cluster(&settings.header, &TablePlaces::default())?;
    if options.target_holds_old_data {
        // An old header must not survive a crash.
        let wiped = file.write_zeros_at(0, settings.header.shape.cluster_bytes()).and_then(|()| file.sync_data());
        wiped.map_err(|cause| ImageError::io("wipe the old header", cause).at_host(0))?;
    }
    let allocator = Mutex::new(Allocator::new(settings.header.shape, settings.header.disk_bytes));
    Ok(Box::new(Qcow2Writer { file, settings, allocator }))
}

/// A unit between the steps.
struct EncodedUnit<'a> {
    unit: GuestUnit<'a>,
    plan: UnitPlan,
    places: Places,
}

impl UnitWriter for Qcow2Writer {
    type Encoded<'a> = EncodedUnit<'a>;

    fn layout(&self) -> WriterLayout {
        let clones = self.settings.plan.compression == Compression::None;
        WriterLayout { unit_bytes: self.settings.header.shape.cluster_bytes(), clones, in_place: false }
    }

    fn encode<'a>(&self, unit: &GuestUnit<'a>) -> Result<EncodedUnit<'a>> {
        let plan = plan(&self.settings.plan, unit)?;
        Ok(EncodedUnit { unit: *unit, plan, places: Places::default() })
    }

    fn place(&self, encoded: &mut EncodedUnit<'_>) -> Result<()> {
        let first_cluster = encoded.unit.guest_offset / self.settings.header.shape.cluster_bytes();
        let mut allocator = self.allocator.lock().unpoisoned();
        encoded.places = allocator.place(first_cluster, &encoded.plan.pieces)?;
        Ok(())
    }

    fn write(&self, encoded: &EncodedUnit<'_>) -> Result<()> {
        for segment in &encoded.places.data {
            self.write_data(encoded, segment)?;
        }
        for segment in &encoded.places.packed {
            let packed = &encoded.plan.packed[segment.offset as usize..][..segment.length_bytes as usize];
            write_at(self.file.as_ref(), "write compressed clusters", segment.host_offset, packed)?;
        }
        write_tables(self.file.as_ref(), &encoded.places, self.settings.plan.holds_old_data)
    }

    fn finish(self, _: &IdentitySeed) -> Result<()> {
        let Qcow2Writer { file, settings, allocator } = self;
        let (tables, places) = place_tables(allocator.into_inner().unpoisoned())?;
        write_tables(file.as_ref(), &places, settings.plan.holds_old_data)?;
        if !settings.plan.holds_old_data {
            let set = file.set_len_bytes(tables.end);
            set.map_err(|cause| ImageError::io("set the length of the qcow2 image", cause))?;
        }
        let sync = || file.sync_data().map_err(|cause| ImageError::io("flush qcow2 image", cause));
        sync()?;
        let header = header_cluster(&settings.header, &tables)?;
        write_table(file.as_ref(), "write qcow2 header", 0, &header, settings.plan.holds_old_data)?;
        sync()
    }
}

/// Zeros in tables are left out in multiples of this: small enough for large clusters, large enough for few writes.
const TABLE_STEP_BYTES: usize = 32 << 10;

impl Qcow2Writer {
    /// Writes what is to be stored of a range of the unit that has one place in the file.
    fn write_data(&self, encoded: &EncodedUnit<'_>, segment: &Segment) -> Result<()> {
        let end = segment.offset + segment.length_bytes;
        let spans = &encoded.plan.spans;
        let first = spans.partition_point(|span| span.offset + span.length_bytes <= segment.offset);
        for span in spans.iter().skip(first).take_while(|span| span.offset < end) {
            let offset = span.offset.max(segment.offset);
            let length_bytes = (span.offset + span.length_bytes).min(end) - offset;
            let host_offset = segment.host_offset + (offset - segment.offset);
            let written = match encoded.unit.content {
                UnitContent::Nothing => self.file.write_zeros_at(host_offset, length_bytes),
                _ => encoded.unit.write_part(offset, length_bytes, self.file.as_ref(), host_offset),
            };
            written.map_err(|cause| write_error("write clusters", host_offset, cause))?;
        }
        let past_the_disk = end.saturating_sub(encoded.unit.length_bytes);
        if self.settings.plan.holds_old_data && past_the_disk > 0 {
            let host_offset = segment.host_offset + segment.length_bytes - past_the_disk;
            let written = self.file.write_zeros_at(host_offset, past_the_disk);
            written.map_err(|cause| write_error("fill the last cluster", host_offset, cause))?;
        }
        Ok(())
    }
}

fn write_tables(file: &dyn HostFileMut, places: &Places, holds_old_data: bool) -> Result<()> {
    let write = |table: &TableWrite| write_table(file, "write tables", table.host_offset, &table.bytes, holds_old_data);
    places.tables.iter().try_for_each(write)
}

/// Writes a table; in a fresh file the zeros in it are there already, and with large clusters these are most of it.
fn write_table(
    file: &dyn HostFileMut,
    doing: &'static str,
    host_offset: u64,
    bytes: &[u8],
    holds_old_data: bool,
) -> Result<()> {
    if holds_old_data {
        return write_at(file, doing, host_offset, bytes);
    }
    let is_used = |step: &[u8]| !is_zero(step);
    let mut offset = host_offset;
    for run in bytes.chunks(TABLE_STEP_BYTES).collect::<Vec<_>>().chunk_by(|a, b| is_used(a) == is_used(b)) {
        let length: usize = run.iter().map(|step| step.len()).sum();
        if run.first().is_some_and(|step| is_used(step)) {
            let begin = (offset - host_offset) as usize;
            write_at(file, doing, offset, &bytes[begin..begin + length])?;
        }
        offset += length as u64;
    }
    Ok(())
}

fn write_at(file: &dyn HostFileMut, doing: &'static str, host_offset: u64, bytes: &[u8]) -> Result<()> {
    file.write_all_at(host_offset, bytes).map_err(|cause| write_error(doing, host_offset, cause))
}

fn write_error(doing: &'static str, host_offset: u64, cause: io::Error) -> ImageError {
    ImageError::io(doing, cause).at_host(host_offset)
}
