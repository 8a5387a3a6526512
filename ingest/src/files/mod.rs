//! Files as a source: newline-delimited events or CSV, plain, gzip or zstd, and files of Parquet and Avro, in a
//! file, a folder, a glob or standard input.
//!
//! A file's identity is its content: how many bytes (unpacked) have landed and the digest of exactly those. So a
//! file that grew is continued, a renamed, rotated or packed one is known again, a copy adds nothing, and a file
//! whose landed bytes are no longer its beginning is *replaced* and refused. What was known of a file stands in
//! the commit that landed it ([`identity::Mark`]); there is no state beside the table.
//!
//! ```text
//! find ─► identify (I/O) ─► decide (pure) ─► read lines ─► batch ─► encode ─► land
//!                                               │ one batch is read while the one before is encoded and landed
//!                                               ▼
//!                            `Behind`: another process was first ─► start over from the table
//! ```
//!
//! Positions of lines and records are byte offsets of the unpacked content; a batch ends at the end of one. A last
//! line without newline waits, unless the end of input is declared. Positions in files of Parquet and Avro are
//! numbers of rows. On a crash nothing is left but what the table says.

mod containers;
mod identity;
mod read;
mod records;
mod refused;
mod run;
#[cfg(test)]
pub(crate) mod tests;

pub use identity::{Decision, Mark, Observed, decide, find_twins};
pub use read::check_pattern;
pub use refused::{Refused, record_refused, refused};
pub use run::{Progress, Report, Source, land};
