//! Partitions that are not read on: why, and how to go on.
//!
//! A stop is an object beside the table, so that any process can list it. It says what the process that stopped has
//! seen, and holds for as long as the partition's position is the one it speaks of. To go on is one commit, which
//! moves the position over what is lost, or begins the partition's next incarnation, and says so for good.

use serde::{Deserialize, Serialize};
use starmere_lake::delta::Snapshot;
use starmere_lake::landing::{Outcome, Part, SourcePartition, Stream};

use super::position::Mark;
use crate::{Error, Result};

/// A partition that is not read on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    #[serde(flatten)]
    pub partition: SourcePartition,
    pub why: Why,
    /// When, in microseconds since 1970.
    pub at: i64,
}

/// Why a partition is not read on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// The broker no longer has the records from `position` up to `earliest`.
    Expired { position: i64, earliest: i64 },
    /// The record before `position` is not the one that landed, or the topic is shorter and ends at `end`: it was
    /// deleted and made again.
    MadeAgain {
        position: i64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        end: Option<i64>,
    },
}

impl std::fmt::Display for Stop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let SourcePartition { topic, partition, .. } = &self.partition;
        match self.why {
            Why::Expired { position, earliest } => write!(
                f,
                "partition {partition} of `{topic}`: the broker no longer has the records from {position} up to \
                 {earliest}; they were not landed"
            ),
            Why::MadeAgain { position, end: None } => write!(
                f,
                "partition {partition} of `{topic}`: the record before {position} is not the one that landed; the \
                 topic was made again"
            ),
            Why::MadeAgain { position, end: Some(end) } => write!(
                f,
                "partition {partition} of `{topic}`: it ends at {end}, before our position {position}; the topic was \
                 made again"
            ),
        }
    }
}

impl Why {
    /// The partition's position when it was stopped.
    pub(super) fn position(&self) -> i64 {
        let (Self::Expired { position, .. } | Self::MadeAgain { position, .. }) = self;
        *position
    }
}

impl Stop {
    /// Nobody has gone on since: the table's positions are as they were.
    pub(super) fn holds(&self, stream: &Stream, snapshot: &Snapshot) -> bool {
        let next = SourcePartition { incarnation: self.partition.incarnation + 1, ..self.partition.clone() };
        stream.position(snapshot, &self.partition) == Some(self.why.position())
            && stream.position(snapshot, &next).is_none()
    }
}

/// The partitions of `stream` that are stopped.
pub async fn stops(stream: &Stream) -> Result<Vec<Stop>> {
    let table = stream.table();
    let Some(snapshot) = table.snapshot().await? else { return Ok(Vec::new()) };
    let mut stops = Vec::new();
    for object in table.store().list(&table.path().stopped_folder(), None).await? {
        let Some(bytes) = table.store().read(&object.location).await? else { continue };
        let corrupt = |error: serde_json::Error| starmere_lake::Error::Corrupt {
            path: object.location.to_string(),
            reason: error.to_string(),
        };
        let stop: Stop = serde_json::from_slice(&bytes).map_err(corrupt)?;
        if stop.holds(stream, &snapshot) {
            stops.push(stop);
        }
    }
    Ok(stops)
}

/// Writes down that a partition is not read on.
pub(super) async fn record(stream: &Stream, stop: &Stop) -> Result<()> {
    let table = stream.table();
    let SourcePartition { source, topic, incarnation, partition } = &stop.partition;
    let path = table.path().stopped(source, topic, *incarnation, *partition);
    let bytes = serde_json::to_vec(stop).map_err(|error| Error::Task(error.to_string()))?;
    table.store().write(&path, bytes.into()).await?;
    Ok(())
}

/// Reads the partition on, by accepting what `stop` says; whether it was still stopped there.
pub async fn go_on(stream: &Stream, stop: &Stop) -> Result<bool> {
    if !stop.holds(stream, &*stream.open().await?) {
        return Ok(false);
    }
    let (partition, from, to) = match stop.why {
        Why::Expired { position, earliest } => (stop.partition.clone(), position, earliest),
        Why::MadeAgain { .. } => {
            let incarnation = stop.partition.incarnation + 1;
            (SourcePartition { incarnation, ..stop.partition.clone() }, 0, 0)
        }
    };
    let mark = serde_json::to_value(Mark::WentOn(stop.why.clone())).map_err(|error| Error::Task(error.to_string()))?;
    let part = Part { partition, from, to, rows: 0, digest: 0, mark: Some(mark) };
    Ok(matches!(stream.land(std::slice::from_ref(&part), Vec::new()).await?, Outcome::Landed(_)))
}
