//! What the directory of persistent bitmaps refers to.

use zerocopy::FromBytes;

use super::super::header::TablePlace;
use super::super::on_disk::*;
use super::super::table_reader::TableReader;
use super::{Checker, damage_or_error};
use crate::error::{ImageError, Result};

impl Checker<'_> {
    pub(super) fn check_bitmaps(&mut self) -> Result<()> {
        let header = &self.image.header;
        // "If the bitmaps extension is present but this bit is unset, the bitmaps extension data must be considered
        // inconsistent": its clusters are leaks.
        let consistent = header.features.autoclear & AUTOCLEAR_BITMAPS != 0;
        let Some(place) = header.extensions.bitmaps.filter(|_| consistent) else { return Ok(()) };
        let offset = place.directory_offset;
        if place.bitmap_count > MAX_BITMAPS || place.directory_bytes > MAX_BITMAP_DIRECTORY_BYTES {
            self.corruption(offset, || format!("the bitmap directory is too large ({} bitmaps)", place.bitmap_count));
            return Ok(());
        }
        self.refer_to("the bitmap directory", offset, place.directory_bytes);
        let file = self.image.file.file.as_ref();
        let mut reader =
            TableReader::new(file, self.image.file_bytes, "read bitmap directory", offset, place.directory_bytes);
        for _ in 0..place.bitmap_count {
            match read_bitmap_entry(&mut reader).map_err(damage_or_error) {
                Ok(entry) => self.check_bitmap(&entry)?,
                Err(Ok(problem)) => {
                    self.complete = false;
                    self.corruption(offset, || problem);
                    break;
                }
                Err(Err(error)) => return Err(error),
            }
        }
        Ok(())
    }

    fn check_bitmap(&mut self, entry: &BitmapEntry) -> Result<()> {
        let table = TablePlace { host_offset: entry.table_offset.get(), entries: entry.table_entries.get().into() };
        let misplaced = self.shape.within_cluster(table.host_offset) != 0;
        let too_long =
            entry.table_entries.get() > MAX_BITMAP_TABLE_ENTRIES || table.length_bytes() > self.bitmap_bytes_left;
        if misplaced || too_long {
            self.corruption(table.host_offset, || format!("a bitmap table cannot have {} entries here", table.entries));
            return Ok(());
        }
        self.bitmap_bytes_left -= table.length_bytes();
        self.refer_to("a bitmap table", table.host_offset, table.length_bytes());
        self.for_each_entry(table.host_offset, table.entries, &mut |checker, index, entry| {
            let host_offset = entry & ENTRY_OFFSET_MASK;
            let reserved = entry & BITMAP_TABLE_RESERVED_MASK != 0 || (host_offset != 0 && entry & 1 != 0);
            if reserved || checker.shape.within_cluster(host_offset) != 0 {
                checker
                    .corruption(table.host_offset, || format!("bitmap table: entry {index} is damaged ({entry:#x})"));
            } else if host_offset != 0 {
                checker.refer_to("a bitmap cluster", host_offset, checker.shape.cluster_bytes());
            }
            Ok(())
        })
    }
}

fn read_bitmap_entry(reader: &mut TableReader<'_>) -> Result<BitmapEntry> {
    let fixed: [u8; size_of::<BitmapEntry>()] = reader.take()?;
    let entry = BitmapEntry::read_from_bytes(&fixed)
        .map_err(|_| ImageError::corrupt("read bitmap directory", "an entry is cut short"))?;
    let extra_bytes = u64::from(entry.extra_bytes.get());
    if extra_bytes > MAX_BITMAP_DIRECTORY_BYTES {
        return Err(ImageError::corrupt(
            "read bitmap directory",
            format!("an entry has {extra_bytes} bytes of extra data"),
        ));
    }
    reader.take_vec(extra_bytes as usize)?;
    reader.take_vec(entry.name_bytes.get().into())?;
    reader.skip_padding();
    Ok(entry)
}
