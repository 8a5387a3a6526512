//! What `starmere.yaml` says, and what holds where it leaves something out.

use std::collections::BTreeMap;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use starmere_ingest::memory::Memory;
use starmere_lake::machine::Machine;
use starmere_models::define::{Placed, Scalar};
use starmere_sql::{Right, Rights};

use crate::limits::QueryLimits;
use crate::sources::SourceFile;
use crate::webhooks::WebhookFile;

/// Catalog snapshots are retained so many days unless the project says otherwise.
const SNAPSHOT_DAYS: u32 = 30;
/// The least memory of ingestion, in MiB.
pub(super) const LEAST_INGEST_MEMORY_MIB: usize = 32;
/// Memory of builds, unless the project says otherwise: a quarter of what the process may use, at most this; and the least.
/// In MiB.
pub(super) const BUILD_MEMORY_MIB: u64 = 2048;
pub(super) const LEAST_BUILD_MEMORY_MIB: u64 = 176;
/// What is resident of the program itself, and what every process takes.
const PROGRAM_MIB: u64 = 112;
/// Events over HTTP are gathered so long unless the project says otherwise, and at most; in milliseconds.
pub(super) const GATHER_MS: u32 = 250;
pub(super) const MOST_GATHER_MS: u32 = 10_000;
/// `up` publishes at most this often unless the project says otherwise, in seconds.
pub(super) const PUBLISH_SECONDS: u32 = 2;

/// `starmere.yaml`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProjectFile {
    pub(crate) project: String,
    /// A folder, `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix` or `memory://`; may hold references.
    pub(crate) warehouse: Placed<String>,
    #[serde(default)]
    pub(crate) sources: BTreeMap<String, Placed<SourceFile>>,
    /// What `${NAME}` stands for in definitions.
    #[serde(default)]
    pub(crate) variables: BTreeMap<String, Placed<Scalar>>,
    #[serde(default)]
    pub(crate) listeners: Listeners,
    /// By stream: how requests to it are signed.
    #[serde(default)]
    pub(crate) webhooks: BTreeMap<String, Placed<WebhookFile>>,
    /// How long an earlier catalog snapshot may be asked for, in days; 30 where it is left out.
    #[serde(default)]
    pub(crate) snapshot_days: Option<u32>,
    /// How long `up` waits between two builds, and so between two catalog snapshots, in seconds; 2 where it is left out.
    #[serde(default)]
    pub(crate) publish_every_seconds: Option<Placed<u32>>,
    /// Memory that events may take on their way into the lake, over all sources; 512 where it is left out.
    #[serde(default)]
    pub(crate) ingest_memory_mib: Option<Placed<usize>>,
    /// Memory of builds; where it is left out, a quarter of the machine's or of the cgroup's limit, 2048 at most.
    #[serde(default)]
    pub(crate) build_memory_mib: Option<Placed<u64>>,
    /// How much queries may take; follows the machine where it is left out.
    #[serde(default)]
    pub(crate) queries: QueryLimits,
    /// Without users, only loopback addresses may be listened on.
    #[serde(default)]
    pub(crate) users: BTreeMap<String, Placed<User>>,
}

impl ProjectFile {
    /// How long catalog snapshots are retained.
    pub(crate) fn snapshot_days(&self) -> u32 {
        self.snapshot_days.unwrap_or(SNAPSHOT_DAYS)
    }

    /// How long `up` waits between two builds.
    pub(crate) fn publish_every(&self) -> Duration {
        let seconds = self.publish_every_seconds.as_ref().map_or(PUBLISH_SECONDS, |seconds| seconds.value);
        Duration::from_secs(u64::from(seconds))
    }

    /// The memory that a build works with, in bytes: what is declared, without what the program itself takes.
    pub(crate) fn build_memory(&self) -> u64 {
        let mib =
            self.build_memory_mib.as_ref().map_or_else(|| build_memory_of(Machine::here().memory), |mib| mib.value);
        mib.saturating_sub(PROGRAM_MIB).saturating_mul(1 << 20)
    }

    pub(super) fn ingest_memory(&self) -> Memory {
        self.ingest_memory_mib
            .as_ref()
            .map_or_else(Memory::default, |mib| Memory::new(mib.value.saturating_mul(1 << 20)))
    }
}

/// Memory of builds in MiB, where the process may use so many bytes.
pub(super) fn build_memory_of(limit: u64) -> u64 {
    ((limit >> 20) / 4).clamp(LEAST_BUILD_MEMORY_MIB, BUILD_MEMORY_MIB)
}

/// Where to listen.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Listeners {
    #[serde(default = "http_default")]
    pub(crate) http: Placed<String>,
    #[serde(default = "flight_default")]
    pub(crate) flight: Placed<String>,
    /// Names by which clients call the HTTP listener, beside its addresses and `localhost`; without port.
    #[serde(default)]
    pub(crate) hosts: Vec<Placed<String>>,
    /// How long events over HTTP are gathered into one commit, in milliseconds; 250 where it is left out.
    #[serde(default)]
    pub(crate) gather_ms: Option<Placed<u32>>,
}

impl Listeners {
    /// How long events over HTTP are gathered into one commit.
    pub(crate) fn gather(&self) -> Duration {
        Duration::from_millis(u64::from(self.gather_ms.as_ref().map_or(GATHER_MS, |ms| ms.value)))
    }
}

fn http_default() -> Placed<String> {
    Placed::from("127.0.0.1:7070".to_owned())
}

fn flight_default() -> Placed<String> {
    Placed::from("127.0.0.1:7071".to_owned())
}

impl Default for Listeners {
    fn default() -> Self {
        Self { http: http_default(), flight: flight_default(), hosts: Vec::new(), gather_ms: None }
    }
}

/// Who may connect.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct User {
    /// A reference: `${env:NAME}` or `${file:PATH}`.
    pub(crate) password: String,
    /// What the user may do; everything but `operate` where it is left out.
    #[serde(default)]
    pub(crate) can: Option<Vec<Can>>,
}

/// One thing that a user may do.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Can {
    /// Query ports.
    Query,
    /// Query raw events: the tables of `lake`.
    Raw,
    /// Post events.
    Post,
    /// See and stop queries of others, read metrics.
    Operate,
}

impl User {
    pub(super) fn rights(&self) -> Rights {
        let right = |can: &Can| match can {
            Can::Query => Right::Query,
            Can::Raw => Right::Raw,
            Can::Post => Right::Post,
            Can::Operate => Right::Operate,
        };
        self.can.as_ref().map_or_else(Rights::default, |can| Rights::of(&can.iter().map(right).collect::<Vec<_>>()))
    }
}
