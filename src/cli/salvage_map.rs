//! `--salvage-map`: what a map says of its source, and whether a run may go on from it.

use std::path::{Path, PathBuf};

use tintype_formats::BlockSource;

use super::failure::Failure;
use crate::access::Address;
use crate::engine::salvage::map_file::About;
use crate::engine::salvage::{AreaMap, first_difference};
use crate::sources::{self, BlockDevice};

/// The comments of a map of this source; `target` holds the bytes that were read.
pub fn about(source: &Address, size_bytes: u64, target: String) -> About {
    About { source: source.to_string(), identity: identity(source), size_bytes, target }
}

/// Fails if a map is `of` another source than this run is `about`.
pub fn check_source(of: &About, about: &About, path: &Path) -> Result<(), Failure> {
    if of.identity == about.identity && of.size_bytes == about.size_bytes {
        return Ok(());
    }
    let (was, is) = ((&of.source, &of.identity), (&about.source, &about.identity));
    Err(wrong(path, &format!("the map is of {} ({}), and the source is {} ({})", was.0, was.1, is.0, is.1)))
}

/// Fails if what the map calls read is not what `holder` has.
pub fn check_held(
    map: &AreaMap,
    source: &dyn BlockSource,
    holder: &dyn BlockSource,
    path: &Path,
) -> Result<(), Failure> {
    match first_difference(map, source, holder)? {
        None => Ok(()),
        Some(at) => Err(wrong(
            path,
            &format!(
                "the map calls read what the source has at {at:#x}, and something else is stored there: it is another \
                 disk, or it was changed, or what was stored was"
            ),
        )),
    }
}

/// A map that this run cannot go on from.
pub fn wrong(path: &Path, message: &str) -> Failure {
    Failure::usage(format!("{}: {message}", path.display())).hinted("name another map to begin anew")
}

/// Returns text that identifies a source: the hardware name of a device or else its path, and the choices inside.
fn identity(source: &Address) -> String {
    let hardware = BlockDevice::at(&source.path).and_then(BlockDevice::hardware_name);
    let whole = hardware.unwrap_or_else(|| format!("path {}", full_path(&source.path).display()));
    format!("{whole}{}", source.choices())
}

/// Fails if the map would be written over the source or the target, which may not be there yet.
pub fn check_own_file(map: &Path, others: &[&Path]) -> Result<(), Failure> {
    let is_same = |other: &&&Path| place(map) == place(other) || sources::is_same_file(map, other);
    match others.iter().find(is_same) {
        None => Ok(()),
        Some(other) => Err(wrong(map, &format!("the map would take the place of {}", other.display()))),
    }
}

/// Returns the full path of a file that may not exist yet.
fn place(path: &Path) -> PathBuf {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    full_path(folder).join(path.file_name().unwrap_or_default())
}

/// A path from the root on, as far as it can be found.
pub fn full_path(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}
