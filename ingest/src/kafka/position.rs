//! Where each partition is to be read on, by the table.

use std::collections::HashMap;

use rdkafka::message::Message;
use serde::{Deserialize, Serialize};
use starmere_lake::landing::{SourcePartition, Stream, hexadecimal, row_digest};

use super::stopped::Why;
use crate::Result;
use crate::marks::marks;

/// What a commit says of a partition, so that it is known again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Mark {
    /// The last record that landed.
    Last(Seen),
    /// Something was lost, and that was accepted.
    WentOn(Why),
}

/// A record, as it is known again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seen {
    pub(super) offset: i64,
    /// Milliseconds since 1970.
    pub(super) timestamp: Option<i64>,
    /// See [`row_digest`].
    #[serde(with = "hexadecimal")]
    pub(super) digest: u128,
}

impl Seen {
    pub(super) fn of(message: &impl Message) -> Self {
        Self::with(message, row_digest(message.offset(), message.payload().unwrap_or_default(), message.key()))
    }

    pub(super) fn with(message: &impl Message, digest: u128) -> Self {
        Self { offset: message.offset(), timestamp: message.timestamp().to_millis(), digest }
    }
}

/// Where a partition is to be read on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) partition: SourcePartition,
    /// None: nothing has landed.
    pub(super) next: Option<i64>,
    pub(super) mark: Option<Mark>,
}

/// The newest incarnation of each partition of a source, by topic and number.
#[derive(Debug, Default)]
pub(super) struct Positions {
    source: String,
    known: HashMap<(String, i32), Position>,
}

impl Positions {
    /// As the table has them now.
    pub(super) async fn read(stream: &Stream, source: &str) -> Result<Self> {
        let snapshot = stream.open().await?;
        let mut known: HashMap<(String, i32), Position> = HashMap::new();
        for (partition, mark) in marks(stream, &snapshot, source).await? {
            let next = stream.position(&snapshot, &partition);
            let place = (partition.topic.clone(), partition.partition);
            let is_older = known.get(&place).is_some_and(|known| known.partition.incarnation > partition.incarnation);
            if !is_older {
                known.insert(place, Position { partition, next, mark: serde_json::from_value(mark).ok() });
            }
        }
        Ok(Self { source: source.to_owned(), known })
    }

    /// Where a partition stands; at nothing, where nothing of it has landed.
    pub(super) fn of(&self, topic: &str, partition: i32) -> Position {
        let place = (topic.to_owned(), partition);
        self.known.get(&place).cloned().unwrap_or_else(|| Position {
            partition: SourcePartition {
                source: self.source.clone(),
                topic: topic.to_owned(),
                incarnation: 0,
                partition,
            },
            next: None,
            mark: None,
        })
    }
}
