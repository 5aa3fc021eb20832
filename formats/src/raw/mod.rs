//! Raw images: the guest's bytes and nothing else.

mod create;
mod read;

pub(crate) use read::open_doubtful;

use crate::format::{Create, Format};

/// The raw format. Everything looks like it, so it is only ever a guess.
pub static FORMAT: Format = Format {
    name: "raw",
    title: "Raw disk",
    extensions: &["raw", "img", "dd", "bin"],
    reads: "files with holes, block devices, standard input",
    folder_entry: None,
    is_guest_content: |_, _| false,
    probe: |_| true,
    open: read::open,
    create: Some(Create {
        begin: create::begin,
        measure: create::measure,
        subformats: &["sparse", "full"],
        options: &[],
        compressions: &[],
        parents: false,
        records_sectors: false,
        streamable: &["sparse", "full"],
    }),
};
