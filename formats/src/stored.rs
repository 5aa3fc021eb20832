//! Reading for the layers that store every byte as it is: what their extents say is all that is needed.

use crate::error::{ImageError, Result};
use crate::extent::LayerKind;
use crate::layer::ImageLayer;

/// Reads the layer's bytes from where its extents say that they lie; `doing` is what an error says was attempted.
///
/// For layers without [`LayerKind::Encoded`].
pub fn read_stored(layer: &dyn ImageLayer, doing: &'static str, guest_offset: u64, buffer: &mut [u8]) -> Result<()> {
    layer.geometry().check_range(guest_offset, buffer.len() as u64)?;
    let (mut guest_offset, mut left) = (guest_offset, buffer);
    while !left.is_empty() {
        let extent = layer.extent_at(guest_offset, left.len() as u64)?;
        let (part, rest) = left.split_at_mut((extent.length_bytes as usize).min(left.len()));
        match extent.kind {
            LayerKind::Zero | LayerKind::Absent => part.fill(0),
            LayerKind::Data(range) => {
                let open = layer.host_files().get(range.file.0);
                let read = open.map_or(Err(std::io::ErrorKind::NotFound.into()), |open| {
                    open.file.read_exact_at(range.host_offset, part)
                });
                read.map_err(|cause| ImageError::io(doing, cause).at_host(range.host_offset).at_guest(guest_offset))?;
            }
            LayerKind::Encoded => {
                return Err(ImageError::unsupported(doing, "the range is encoded").at_guest(guest_offset));
            }
        }
        guest_offset += extent.length_bytes;
        left = rest;
    }
    Ok(())
}
