//! The layer of an image with such tables.

use std::io;

use super::{Run, RunKind, Shape, TwoLevel};
use crate::codec;
use crate::error::{ImageError, Result};
use crate::extent::{HostFileId, HostRange, LayerExtent, LayerKind};
use crate::host_file::OpenFile;
use crate::layer::ImageLayer;
use crate::source::Geometry;

const READ_COMPRESSED: &str = "read compressed cluster";

/// One image's part of a disk.
pub(crate) struct TwoLevelLayer {
    geometry: Geometry,
    tables: TwoLevel,
    files: [OpenFile; 1],
}

impl TwoLevelLayer {
    /// Reads the L1 table; [`Shape::check_l1`] has been called.
    pub fn open(file: OpenFile, shape: Shape, geometry: Geometry) -> Result<TwoLevelLayer> {
        let tables = TwoLevel::open(file.file.clone(), shape)?;
        Ok(TwoLevelLayer { geometry, tables, files: [file] })
    }

    fn run_at(&self, guest_offset: u64, max_bytes: u64) -> Result<Run> {
        self.tables.run_at(guest_offset, max_bytes)
    }

    fn read_run(&self, run: &Run, target: &mut [u8]) -> Result<()> {
        match run.kind {
            RunKind::Absent | RunKind::Zero => target.fill(0),
            RunKind::Data(host_offset) => {
                let read = self.read_host(host_offset, target);
                read.map_err(|cause| ImageError::io("read cluster", cause).at_host(host_offset))?;
            }
            RunKind::Compressed { host_offset, stored_bytes, skip_bytes } => {
                let cluster = self.decode(host_offset, stored_bytes)?;
                let wanted = cluster.iter().skip(skip_bytes as usize);
                target.iter_mut().zip(wanted).for_each(|(to, from)| *to = *from);
            }
        }
        Ok(())
    }

    fn read_host(&self, host_offset: u64, target: &mut [u8]) -> io::Result<()> {
        let [open] = &self.files;
        open.file.read_exact_at(host_offset, target)
    }

    fn decode(&self, host_offset: u64, stored_bytes: u64) -> Result<Vec<u8>> {
        let cluster_bytes = self.tables.shape.cluster_bytes as usize;
        let mut stored = vec![0; stored_bytes as usize];
        let read = self.read_host(host_offset, &mut stored);
        read.map_err(|cause| ImageError::io(READ_COMPRESSED, cause).at_host(host_offset))?;
        let mut cluster = vec![0; cluster_bytes];
        codec::inflate_raw(&stored, &mut cluster).map_err(|cause| {
            let detail = format!("it does not decode to a cluster of {cluster_bytes} bytes");
            ImageError::corrupt(READ_COMPRESSED, detail).at_host(host_offset).caused_by(cause)
        })?;
        Ok(cluster)
    }
}

impl ImageLayer for TwoLevelLayer {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn extent_at(&self, guest_offset: u64, max_bytes: u64) -> Result<LayerExtent> {
        let run = self.run_at(guest_offset, self.geometry.clamp(guest_offset, max_bytes)?)?;
        let kind = match run.kind {
            RunKind::Absent => LayerKind::Absent,
            RunKind::Zero => LayerKind::Zero,
            RunKind::Data(host_offset) => LayerKind::Data(HostRange { file: HostFileId(0), host_offset }),
            RunKind::Compressed { .. } => LayerKind::Encoded,
        };
        Ok(LayerExtent { length_bytes: run.length_bytes, kind })
    }

    fn read_at(&self, guest_offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.geometry.check_range(guest_offset, buffer.len() as u64)?;
        let (mut guest_offset, mut left) = (guest_offset, buffer);
        while !left.is_empty() {
            let run = self.run_at(guest_offset, left.len() as u64)?;
            let (part, rest) = left.split_at_mut(run.length_bytes as usize);
            self.read_run(&run, part).map_err(|error| error.at_guest(guest_offset))?;
            guest_offset += run.length_bytes;
            left = rest;
        }
        Ok(())
    }

    fn host_files(&self) -> &[OpenFile] {
        &self.files
    }
}
