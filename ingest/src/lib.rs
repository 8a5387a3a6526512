//! Ingestion: brings events from sources into the lake, exactly once.
//!
//! | module | holds |
//! | --- | --- |
//! | [`envelope`] | where a payload keeps what every event has, and why one could not be read |
//! | [`rows`] | payloads in, columns of a stream's table out |
//! | [`memory`] | the memory that all sources of a process share |
//! | [`lines`] | bytes in, lines out, however long |
//! | [`files`] | files and standard input: which have landed, what is new |
//! | [`kafka`] | topics: which partitions are ours, what of them has landed |
//! | [`landings`] | whether the store takes what this process lands |
//! | [`repair`] | rejected rows, taken up again after a mapping was mended |
//! | [`reread`] | all rows, read anew by a mended mapping, and the way back |
//! | [`http`] | the listener: requests in, commits out, answered after the commit |
//!
//! Every source ends in [`starmere_lake::landing`]; nothing here remembers a position of its own.

pub mod envelope;
mod error;
pub mod files;
pub mod http;
pub mod kafka;
pub mod landings;
pub mod lines;
mod marks;
pub mod memory;
pub mod repair;
pub mod reread;
pub mod rows;
mod stored;
#[cfg(test)]
#[path = "../../tests/support/stores.rs"]
#[expect(dead_code, reason = "others need the rest of it")]
mod stores;

pub use error::{Error, Result};
