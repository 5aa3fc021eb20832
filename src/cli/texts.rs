//! Texts that several commands print.

use tintype_tin::manifest::DiskRecord;

use super::escape::printable;
use super::failure::Failure;
use super::units;
use crate::error::{Error, Kind};

/// Nothing is known by this name.
pub fn no_such_name(name: &str) -> Failure {
    let message = format!("find the snapshots named \"{}\": there are none", name.escape_debug());
    Error::new(Kind::NoSnapshot, message).into()
}

/// The ranges of a disk that could not be read, for people: the first ten.
pub fn unreadable_text(disk: &DiskRecord) -> String {
    const SHOWN: usize = 10;
    let ranges = disk.unreadable.iter().take(SHOWN);
    let mut ranges: Vec<_> = ranges.map(|(at, length)| format!("{length} bytes at {at:#x}")).collect();
    if disk.unreadable.len() > SHOWN {
        ranges.push(format!("{} more", units::count((disk.unreadable.len() - SHOWN) as u64, "range", "ranges")));
    }
    let (size, name) = (units::exact_size(disk.unreadable_bytes()), printable(&disk.name));
    format!("{size} of {name} could not be read when it was backed up, and are zeros: {}", ranges.join(", "))
}

/// What is printed of a new recovery key.
pub fn recovery_text(shown: &str) -> String {
    format!(
        "recovery key: {shown}\nIt opens the repository as the password does. Write it down, and keep it elsewhere; capital \
         letters and dashes do not matter when it is typed.\n"
    )
}

/// Columns, as wide as they have to be.
pub fn table(rows: &[impl AsRef<[String]>]) -> String {
    let rows: Vec<&[String]> = rows.iter().map(AsRef::as_ref).collect();
    let columns = rows.iter().map(|row| row.len()).max().unwrap_or(0);
    let cells = |column: usize| rows.iter().filter_map(move |row| row.get(column));
    let widths: Vec<_> =
        (0..columns).map(|column| cells(column).map(|cell| cell.chars().count()).max().unwrap_or(0)).collect();
    let line = |row: &&[String]| {
        let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        cells.join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}
