//! What fuzzing and mutation tests do with a file that may be anything.

use std::sync::Arc;

use super::{MemoryFile, open_file};
use crate::check::CheckReport;
use crate::error::{ErrorKind, Result};
use crate::extent::LayerKind;
use crate::format::Format;
use crate::layer::{Image, ImageLayer};
use crate::reference_gate::NoReferences;
use crate::zeros::is_zero;

/// How many extents of a layer are looked at.
const MAX_EXTENTS: usize = 2000;

/// How many disks of a container are looked at.
const MAX_DISKS: usize = 4;

/// How many bytes of a layer are read.
const MAX_READ_BYTES: u64 = 16 << 20;

/// Opens the file as `format` and uses all of it: every call succeeds or fails with an error, in bounded time and memory,
/// and what succeeds keeps the promises of [`ImageLayer`].
///
/// Returns an error if the file could not be opened at all.
pub fn exercise(format: &'static Format, file: Arc<MemoryFile>) -> Result<()> {
    exercise_image((format.open)(open_file(file))?.as_ref());
    Ok(())
}

fn exercise_image(image: &dyn Image) {
    let mut report = CheckReport::default();
    let _ = image.check(&mut report);
    let snapshots: Vec<_> = image.snapshots().iter().take(4).map(|snapshot| snapshot.id.clone()).collect();
    for snapshot in std::iter::once(None).chain(snapshots.iter().map(|id| Some(id.as_str()))) {
        if let Ok(layer) = image.layer(snapshot, &NoReferences) {
            exercise_layer(layer.as_ref());
        }
    }
    for index in 0..image.disks().len().min(MAX_DISKS) {
        if let Ok(disk) = image.open_disk(index, &NoReferences) {
            exercise_image(disk.as_ref());
        }
    }
}

fn exercise_layer(layer: &dyn ImageLayer) {
    let size = layer.geometry().size_bytes;
    for offset in [size, size.saturating_add(1), u64::MAX] {
        let kind = layer.extent_at(offset, 1).map_err(|error| error.kind());
        assert_eq!(kind, Err(ErrorKind::OutOfRange), "an extent at {offset:#x} of {size:#x}");
    }
    let (mut offset, mut read_bytes) = (0, 0);
    for _ in 0..MAX_EXTENTS {
        if offset >= size || read_bytes > MAX_READ_BYTES {
            break;
        }
        let Ok(extent) = layer.extent_at(offset, size - offset) else {
            // A damaged table: what lies behind it may be fine.
            offset += layer.geometry().unit_bytes.max(512);
            continue;
        };
        assert!(
            extent.length_bytes > 0 && extent.length_bytes <= size - offset,
            "{extent:?} at {offset:#x} of {size:#x}"
        );
        read_bytes += read_part(layer, offset, extent.length_bytes, extent.kind);
        offset += extent.length_bytes;
    }
}

/// Reads the beginning of an extent, and its last bytes.
fn read_part(layer: &dyn ImageLayer, offset: u64, length: u64, kind: LayerKind) -> u64 {
    let mut buffer = vec![0xaa; length.min(256 << 10) as usize];
    for place in [offset, offset + length - buffer.len() as u64] {
        let read = layer.read_at(place, &mut buffer);
        if matches!(kind, LayerKind::Zero | LayerKind::Absent) && read.is_ok() {
            assert!(is_zero(&buffer), "data in {kind:?} at {place:#x}");
        }
        if let LayerKind::Data(range) = kind {
            let mut stored = vec![0; buffer.len()];
            let host_offset = range.host_offset + (place - offset);
            let file = &layer.host_files()[range.file.0].file;
            if read.is_ok() && file.read_exact_at(host_offset, &mut stored).is_ok() {
                assert!(stored == buffer, "the host range at {host_offset:#x} holds other bytes");
            }
        }
    }
    2 * buffer.len() as u64
}
