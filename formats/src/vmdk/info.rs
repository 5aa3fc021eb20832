//! What an image says about itself, for people and programs.

use super::descriptor::{Access, Descriptor};
use super::header::{Directory, Shape, SparseKind};
use crate::layer::{Detail, ImageInfo};
use crate::source::Geometry;

/// Makes the description of an image.
pub(super) fn describe(shape: Option<&Shape>, descriptor: Option<&Descriptor>, geometry: Geometry) -> ImageInfo {
    let mut details = Vec::new();
    if let Some(descriptor) = descriptor {
        describe_descriptor(descriptor, &mut details);
    }
    if let Some(shape) = shape {
        describe_shape(shape, &mut details);
    }
    let warnings = warnings(shape, descriptor, geometry);
    let identity = descriptor.and_then(Descriptor::identity);
    ImageInfo { format: super::FORMAT.name, geometry, identity, details, warnings }
}

fn describe_descriptor(descriptor: &Descriptor, details: &mut Vec<(&'static str, Detail)>) {
    details.push(("type", descriptor.create_type.clone().into()));
    if let Some(cid) = descriptor.identity() {
        details.push(("content_id", cid.into()));
    }
    details.push(("extents", (descriptor.extents.len() as u64).into()));
    const VALUES: [(&str, &str); 5] = [
        ("adapter_type", "ddb.adaptertype"),
        ("hardware_version", "ddb.virtualhwversion"),
        ("tools_version", "ddb.toolsversion"),
        ("long_content_id", "ddb.longcontentid"),
        ("uuid", "ddb.uuid"),
    ];
    for (name, key) in VALUES {
        if let Some(value) = descriptor.values.get(key) {
            details.push((name, value.clone().into()));
        }
    }
}

fn describe_shape(shape: &Shape, details: &mut Vec<(&'static str, Detail)>) {
    details.push(("layout", shape.kind.to_string().into()));
    if shape.kind == SparseKind::Hosted {
        details.push(("format_version", shape.version.into()));
    }
    details.push(("grain_size_bytes", shape.grain_bytes.into()));
    details.push(("compressed", shape.compressed.into()));
}

fn warnings(shape: Option<&Shape>, descriptor: Option<&Descriptor>, geometry: Geometry) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(shape) = shape {
        if shape.unclean {
            warnings.push("the file was not closed properly, or is in use".to_owned());
        }
        if shape.directory == Directory::Lost {
            warnings.push(
                "the end of the file is missing, with its tables: the grains are looked for one after the other, and what \
                 is lost with the end cannot be read"
                    .to_owned(),
            );
        }
        if descriptor.is_none() {
            warnings.push(
                "this is an extent without its descriptor: it is read as a disk of its own, and what a parent would hold \
                 reads as zeros"
                    .to_owned(),
            );
        }
        if let Some(said) = descriptor.and_then(|descriptor| descriptor.extents.first())
            && said.length_bytes != geometry.size_bytes
        {
            let text = format!(
                "the header says that the disk has {} bytes, the descriptor says {}",
                geometry.size_bytes, said.length_bytes
            );
            warnings.push(text);
        }
    }
    let hidden = |descriptor: &Descriptor| descriptor.extents.iter().any(|extent| extent.access == Access::None);
    if shape.is_none() && descriptor.is_some_and(hidden) {
        warnings.push("the guest has no access to some extents (NOACCESS): they read as zeros".to_owned());
    }
    warnings
}
