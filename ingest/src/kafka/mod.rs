//! Kafka as a source.
//!
//! The table's positions are the truth: partitions are read from there, whatever the broker thinks that a group has
//! read. The group's offsets are committed after the table's, for monitoring.
//!
//! ```text
//!  a partition is ours ─► position and mark from the table ─► read on from the record before the position
//!                                                              │ is it the one that landed?
//!                                        no, or out of range ◄─┴─► yes: records ─► batch ─► encode ─► land
//!                                        stop the partition                                    │
//!                                        and write down why        `Behind`, or an error: drop what was gathered,
//!                                                                  read again from the table ◄─┘
//! ```
//!
//! All partitions of a source that are ours share a batch and its commit. One batch is gathered while the one before
//! it is landed. A partition that another process took over is fenced by the table: whoever is second finds the
//! position elsewhere, drops its batch and reads again. So a member that believes for too long that a partition is
//! its own does no harm.
//!
//! Offsets may have gaps (compaction, transactions); a batch begins at the position where the last one ended, so gaps
//! between batches cannot be.
//!
//! On a crash nothing is left but what the table says.

mod assign;
mod claim;
mod client;
mod consumer;
mod position;
mod registry;
mod run;
mod stopped;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

pub use consumer::check_setting;
pub use registry::Registry;
pub use run::{Ends, Report, Until, check_pattern, ends, land, matches};
pub use stopped::{Stop, Why, go_on, stops};

/// Topics that feed a stream.
#[derive(Clone, Debug)]
pub struct Source {
    pub name: String,
    /// Names, or patterns that begin with `^`.
    pub topics: Vec<String>,
    pub membership: Membership,
    pub start: Start,
    /// Where payloads' schemas are registered.
    pub registry: Option<Registry>,
    /// Settings of librdkafka's, `bootstrap.servers` among them.
    pub settings: BTreeMap<String, String>,
}

/// Which partitions are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Membership {
    /// Those that the group gives to this process.
    Group(String),
    /// The same, in a group of this name and of the id of the stream's table: two warehouses of one project, on one
    /// broker, share no group, so each gets every record.
    OfTable(String),
    /// These of each topic; patterns do not go with it.
    Partitions(Vec<i32>),
}

/// Where a partition begins of which nothing has landed yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    Earliest,
    Latest,
    /// The first record at or after this time, in milliseconds since 1970; the end, if there is none.
    Time(i64),
    /// By topic and partition; the others begin at their earliest record.
    Offsets(BTreeMap<String, BTreeMap<i32, i64>>),
}

/// Settings that the protocol of landing decides, with why.
pub const OURS: [(&str, &str); 7] = [
    ("group.id", "write `group:`"),
    ("bootstrap.servers", "write `brokers:`"),
    ("auto.offset.reset", "write `start:`; a range that has expired stops its partition"),
    ("enable.auto.commit", "offsets are committed after the table's"),
    ("enable.auto.offset.store", "offsets are committed after the table's"),
    ("enable.partition.eof", "it is how `--once` knows the end"),
    ("partition.assignment.strategy", "members share partitions cooperatively"),
];
