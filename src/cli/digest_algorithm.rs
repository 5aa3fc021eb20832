//! Digests on the command line.

use clap::ValueEnum;

use crate::engine::digest::Algorithm;

/// The digests that can be made.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum DigestAlgorithm {
    Sha256,
    Blake3,
}

impl From<DigestAlgorithm> for Algorithm {
    fn from(algorithm: DigestAlgorithm) -> Self {
        match algorithm {
            DigestAlgorithm::Sha256 => Algorithm::Sha256,
            DigestAlgorithm::Blake3 => Algorithm::Blake3,
        }
    }
}
