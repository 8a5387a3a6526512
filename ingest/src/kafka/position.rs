//! Where each partition is to be read on, by the table.

use std::collections::HashMap;

use rdkafka::message::Message;
use serde::{Deserialize, Serialize};
use starmere_lake::landing::{SourcePartition, Stream};
use xxhash_rust::xxh3::Xxh3;

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
    /// Of key and value.
    pub(super) digest: String,
}

impl Seen {
    pub(super) fn of(message: &impl Message) -> Self {
        let mut digest = Xxh3::new();
        for bytes in [message.key(), message.payload()] {
            digest.update(&bytes.map_or(-1, |bytes| bytes.len() as i64).to_le_bytes());
            digest.update(bytes.unwrap_or_default());
        }
        let timestamp = message.timestamp().to_millis();
        Self { offset: message.offset(), timestamp, digest: format!("{:032x}", digest.digest128()) }
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
