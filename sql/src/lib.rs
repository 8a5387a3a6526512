//! Serves: Flight SQL, HTTP; who may see what.
//!
//! ```text
//!   BI tools ──► flight ─┐                    ┌─► Views (given by the binary): one catalog
//!                        ├─► access ─► query ─┤     snapshot as a DataFusion session
//!   programs ──► http ───┘                    └─► wire: types that every client reads
//! ```
//!
//! * [`view`]: what a query sees, and how the rest of Starmere hands it over.
//! * [`query`]: the one place that runs queries; both protocols use it. Bounded in number and time, listed
//!   while they run, and cancelled when told to or when nobody listens any more.
//! * [`flight`]: Arrow Flight SQL, for ADBC, JDBC, ODBC and the tools built on them.
//! * [`http`]: `POST /v1/sql` and its neighbours, for programs and people with `curl`.
//! * [`access`]: who is asking. [`error`]: what went wrong, and how each protocol says it.
//! * [`wire`]: which Arrow types leave this process. [`types`]: what they are called.
//! * [`server`]: the listeners.
//!
//! Nothing here writes. Every query opens its own view, so it sees one moment; after a crash there is
//! nothing to mend, for the only state is in memory: running queries, prepared statements, plans and tokens.
//! Clients that come back ask again.

pub mod access;
mod counted;
pub mod error;
pub mod flight;
pub mod http;
pub mod params;
mod plan;
mod plans;
pub mod query;
pub mod server;
mod statement;
#[cfg(test)]
mod testing;
pub mod types;
mod versions;
pub mod view;
pub mod wire;

pub use access::{Access, Caller, Right, Rights, Users, check_listener};
pub use error::{ErrorKind, QueryError, hide_paths};
pub use params::Params;
pub use plans::Plans;
pub use query::{Answer, Batches, Description, Limits, Queries, Query, RunningQuery};
pub use server::{serve_flight, serve_http};
pub use view::{ForeignKey, TableInfo, TableKind, View, Views};
