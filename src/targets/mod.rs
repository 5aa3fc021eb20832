//! Where disks go to: new image files, devices, existing raw files, standard output.

mod image_file;
mod new_files;
mod open;
mod output_file;
mod physical_disk;
mod standard_output;

pub use open::{Target, TargetOptions};
pub use output_file::OutputFile;
