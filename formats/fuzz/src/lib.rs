//! What fuzz targets make of inputs whose checksums, encodings or lengths would stop nearly every change of them.
//!
//! An input that begins (or ends) as a file of the format does is one, as it is, so that fixtures are seeds. Any other input
//! is a *shape*: short, without what the target can work out, and made an image here. The seeds in `fixtures/fuzz` are of
//! both kinds. `formats/tests/fuzz_seeds.rs` includes this file, to run them without a fuzzer.

pub mod dmg;
pub mod ewf;
pub mod gce;
pub mod ova;
pub mod tar;
pub mod vma;
