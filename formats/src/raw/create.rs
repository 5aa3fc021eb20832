//! Creating: every byte has its place already.

use std::sync::Arc;

use crate::HostFileMut;
use crate::error::{ImageError, Result};
use crate::format::{Measure, TouchedBytes};
use crate::sink::{
    CreateOptions, GuestUnit, IdentitySeed, ImageWriter, RunKind, TargetFiles, UnitWriter, WriterLayout,
};

/// Any boundary would do; this one keeps direct I/O and clones possible.
const UNIT_BYTES: u64 = 4096;

struct RawWriter {
    file: Arc<dyn HostFileMut>,
    holds_old_data: bool,
}

pub(super) fn begin(files: &dyn TargetFiles, options: &CreateOptions) -> Result<Box<dyn ImageWriter>> {
    let file = files.main();
    let size_bytes = options.geometry.size_bytes;
    if !options.target_holds_old_data {
        file.set_len_bytes(size_bytes).map_err(|cause| ImageError::io("set the length of the raw disk", cause))?;
        if options.subformat.as_deref() == Some("full") && size_bytes > 0 {
            file.allocate(0, size_bytes).map_err(|cause| ImageError::io("reserve space for the whole disk", cause))?;
        }
    }
    Ok(Box::new(RawWriter { file, holds_old_data: options.target_holds_old_data }))
}

pub(super) fn measure(options: &CreateOptions, touched_bytes: &TouchedBytes<'_>) -> Result<Measure> {
    let all = options.geometry.size_bytes;
    let full = options.subformat.as_deref() == Some("full");
    let required_bytes = if full { all } else { touched_bytes(UNIT_BYTES)? };
    Ok(Measure { required_bytes, fully_allocated_bytes: all })
}

impl UnitWriter for RawWriter {
    type Encoded<'a> = GuestUnit<'a>;

    fn layout(&self) -> WriterLayout {
        WriterLayout { unit_bytes: UNIT_BYTES, clones: true, in_place: true }
    }

    fn encode<'a>(&self, unit: &GuestUnit<'a>) -> Result<GuestUnit<'a>> {
        Ok(*unit)
    }

    fn place(&self, _: &mut GuestUnit<'_>) -> Result<()> {
        Ok(())
    }

    fn write(&self, unit: &GuestUnit<'_>) -> Result<()> {
        for run in unit.runs {
            let host_offset = unit.guest_offset + run.offset;
            match run.kind {
                RunKind::Data => unit.write_part(run.offset, run.length_bytes, self.file.as_ref(), host_offset),
                RunKind::Zero if self.holds_old_data => self.file.write_zeros_at(host_offset, run.length_bytes),
                RunKind::Zero | RunKind::Inherited => Ok(()),
            }
            .map_err(|cause| ImageError::io("write raw disk", cause).at_host(host_offset))?;
        }
        Ok(())
    }

    fn finish(self, _: &IdentitySeed) -> Result<()> {
        self.file.sync_data().map_err(|cause| ImageError::io("flush the raw disk", cause))
    }
}
