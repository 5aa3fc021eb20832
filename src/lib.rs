//! Tintype: reads any disk, and makes any disk of it.
//!
//! Arrows go one way: `cli -> jobs -> access -> engine -> {sources, targets, repository, serve, boot} -> volumes -> formats`; `error`, `system`,
//! `progress`, `nbd_protocol` and `channel` are below all of them.

mod access;
pub mod boot;
mod channel;
pub mod cli;
pub mod engine;
pub mod error;
mod jobs;
mod nbd_protocol;
pub mod progress;
pub mod repository;
pub mod serve;
pub mod sources;
mod system;
pub mod targets;
