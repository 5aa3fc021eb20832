//! Where disks go to: new image files, devices, existing raw files, standard output.

mod access;
mod image_file;
mod new_files;
mod open;
mod output_file;
mod physical_disk;
mod standard_output;
mod temporary_name;

pub use access::Access;
pub use open::{Target, TargetOptions};
pub use output_file::OutputFile;
