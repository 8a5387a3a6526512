//! Keeping the lake healthy: few large files instead of many small ones, and nothing that nobody needs.
//!
//! ```text
//! small files ─► compact: the same rows in a new file, in one commit at an exact version
//!                    │ the old files stay: whoever reads an older version still finds them
//!                    ▼
//! nobody's files ─► clean up: what no retained snapshot, no consumer and no newest version needs, a week later
//! old commits    ─► clean up: a thousand become one object, an hour later
//! ```
//!
//! Neither changes a row; only a stream's retention does, by forgetting what is old ([`retain`]). All are safe to be
//! killed, and to be run beside each other, beside landing and beside builds: a compaction that is overtaken is decided
//! again, and its file, without a commit, is nobody's.

mod clean;
mod compact;
mod logs;
mod retain;
#[cfg(test)]
mod tests;

pub use clean::{Cleaned, Keep, clean_up, forget_environment};
pub use compact::{Compacted, Sizes, compact, groups};
pub use retain::{cut_of, due, retain};
