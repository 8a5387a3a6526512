//! The lake: where everything Starmere knows is stored, and how it is changed and read.
//!
//! | module | holds |
//! | --- | --- |
//! | [`store`] | the warehouse's object store: a durable folder, memory, S3 |
//! | [`paths`] | the only place that builds or parses an object path |
//! | [`delta`] | Delta tables: log, snapshots, commits at an exact version, checkpoints, files with statistics |
//! | [`damage`] | files that are not what was written: counted and named |
//! | [`echo`] | what clients wrote, in messages to them |
//! | [`events`] | the columns of a stream's table |
//! | [`landing`] | the protocol by which a batch of events gets into a stream exactly once |
//! | [`reread`] | rows of a stream that get other envelopes after they have landed |
//! | [`catalog`] | numbered snapshots that pin a version of every table, so that many change at once |
//! | [`provider`] | a pinned Delta version as plain Parquet scans for DataFusion |
//! | [`session`] | DataFusion sessions, set up for star joins |
//! | [`watch`] | stops a query that runs, wherever it is |
//! | [`meter`] | how much memory the threads of a query have taken |
//! | [`widths`] | smaller batches where rows are wide |
//! | [`sql_times`] | times in SQL, of microseconds |
//! | [`arithmetic`] | casts that lose something, and integers that have no room |
//! | [`literals`] | numbers with a point in SQL, exact beside decimals |
//! | [`machine`] | how much memory this process may use |
//! | `bounds` | how large the values may be that functions of SQL make |
//! | [`json`] | many paths of a JSON text in one validating pass |
//! | [`format_number`] | which binaries may write and read a warehouse |
//! | [`formats`] | what payloads are written in, and how each is read as JSON |
//! | [`upkeep`] | compaction of small files, and clean-up of what nobody needs |
//! | [`time`] | timestamps as events write them |
//! | [`metrics`] | what a process counts, and the names of all metrics |
//! | [`troubles`] | failures that last, logged ever less often |
//!
//! Invariant of the room: a file that a reader can see is complete, and durable before anybody is told of it.

pub mod arithmetic;
mod bounds;
pub mod catalog;
pub mod corrections;
pub mod damage;
pub mod delta;
pub mod echo;
mod error;
pub mod events;
pub mod format_number;
pub mod formats;
pub mod json;
pub mod landing;
pub mod literals;
pub mod machine;
pub mod meter;
pub mod metrics;
mod misread;
pub mod paths;
pub mod provider;
pub mod reread;
mod scan;
pub mod session;
pub mod sql_times;
mod star;
pub mod store;
pub mod time;
pub mod troubles;
pub mod upkeep;
pub mod watch;
pub mod widths;

pub use error::{Error, Kind, Result};
