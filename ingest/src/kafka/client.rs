//! What a run asks of the broker.
//!
//! librdkafka's consumer answers it; in tests, so does a member of a simulated group, whose every rebalance, delay and
//! death follows from a seed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::KafkaResult;
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::consumer::{Change, Context};

/// How long to wait for the broker's answer to a question.
pub(super) const ANSWER: Duration = Duration::from_secs(30);
/// The same, for an answer that can be done without.
pub(super) const SHORT_ANSWER: Duration = Duration::from_secs(5);

/// A partition of a topic, as the broker names it.
pub(super) type Key = (String, i32);

/// A consumer.
pub(super) trait Client: Clone {
    type Queue: Queue;

    /// Joins the group, and shares these topics with its other members.
    fn subscribe(&self, topics: &[String]) -> KafkaResult<()>;

    /// All topics of the cluster, with their partitions.
    fn topics(&self, patience: Duration) -> KafkaResult<BTreeMap<String, Vec<i32>>>;

    /// What the group has decided since it was asked last, oldest first.
    fn take_changes(&self) -> VecDeque<Change>;

    /// The group has given our partitions to others already.
    fn assignment_lost(&self) -> bool;

    /// Reads these partitions as well, each from its offset on; answers an assignment.
    fn assign(&self, partitions: &[(Key, Offset)]) -> KafkaResult<()>;

    /// Reads these partitions no more; answers a revocation.
    fn unassign(&self, partitions: &[Key]) -> KafkaResult<()>;

    /// The records of a partition that was assigned, apart from the others'.
    fn queue(&self, key: &Key) -> Option<Self::Queue>;

    /// Lets the client work, and gives what does not come by a partition's own queue.
    fn poll(&self, wait: Duration) -> Option<KafkaResult<impl Message>>;

    /// The first offset of a partition, and the one behind its last record.
    fn watermarks(&self, key: &Key, wait: Duration) -> KafkaResult<(i64, i64)>;

    /// Where the first record at or after this time is, in milliseconds since 1970; the end, if there is none.
    fn offset_at(&self, key: &Key, time: i64) -> KafkaResult<Offset>;

    /// Tells the group how far we are.
    fn commit(&self, offsets: &[(Key, i64)]) -> KafkaResult<()>;

    /// Whether the group has ever committed an offset of one of these partitions.
    fn has_committed(&self, partitions: &[Key]) -> KafkaResult<bool>;

    /// Whether this is to be said: it was not said a while ago.
    fn is_news(&self, words: &str) -> bool;

    /// Nobody carries out changes any more.
    fn close(&self);
}

/// The records of one partition.
pub(super) trait Queue {
    /// The next one, or an error in its place, if it is here.
    fn poll(&self) -> Option<KafkaResult<impl Message>>;
}

pub(super) fn keys_of(partitions: &TopicPartitionList) -> Vec<Key> {
    partitions.elements().iter().map(|element| (element.topic().to_owned(), element.partition())).collect()
}

fn list_of<'a>(partitions: impl Iterator<Item = (&'a Key, Offset)>) -> KafkaResult<TopicPartitionList> {
    let mut list = TopicPartitionList::new();
    for ((topic, number), offset) in partitions {
        list.add_partition_offset(topic, *number, offset)?;
    }
    Ok(list)
}

impl Client for Arc<BaseConsumer<Context>> {
    type Queue = PartitionQueue<Context>;

    fn subscribe(&self, topics: &[String]) -> KafkaResult<()> {
        let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
        Consumer::subscribe(&**self, &topics)
    }

    fn topics(&self, patience: Duration) -> KafkaResult<BTreeMap<String, Vec<i32>>> {
        let metadata = self.fetch_metadata(None, patience)?;
        let of = |topic: &rdkafka::metadata::MetadataTopic| {
            (topic.name().to_owned(), topic.partitions().iter().map(|partition| partition.id()).collect())
        };
        Ok(metadata.topics().iter().map(of).collect())
    }

    fn take_changes(&self) -> VecDeque<Change> {
        self.context().take_changes()
    }

    fn assignment_lost(&self) -> bool {
        Consumer::assignment_lost(&**self)
    }

    fn assign(&self, partitions: &[(Key, Offset)]) -> KafkaResult<()> {
        self.incremental_assign(&list_of(partitions.iter().map(|(key, offset)| (key, *offset)))?)
    }

    fn unassign(&self, partitions: &[Key]) -> KafkaResult<()> {
        self.incremental_unassign(&list_of(partitions.iter().map(|key| (key, Offset::Invalid)))?)
    }

    fn queue(&self, (topic, number): &Key) -> Option<Self::Queue> {
        self.split_partition_queue(topic, *number)
    }

    fn poll(&self, wait: Duration) -> Option<KafkaResult<impl Message>> {
        BaseConsumer::poll(self, wait)
    }

    fn watermarks(&self, (topic, number): &Key, wait: Duration) -> KafkaResult<(i64, i64)> {
        self.fetch_watermarks(topic, *number, wait)
    }

    fn offset_at(&self, key: &Key, time: i64) -> KafkaResult<Offset> {
        let found = self.offsets_for_times(list_of([(key, Offset::Offset(time))].into_iter())?, ANSWER)?;
        let found = found.find_partition(&key.0, key.1).map(|element| element.offset());
        Ok(found.filter(|offset| matches!(offset, Offset::Offset(_))).unwrap_or(Offset::End))
    }

    fn commit(&self, offsets: &[(Key, i64)]) -> KafkaResult<()> {
        let offsets = list_of(offsets.iter().map(|(key, offset)| (key, Offset::Offset(*offset))))?;
        Consumer::commit(&**self, &offsets, CommitMode::Async)
    }

    fn has_committed(&self, partitions: &[Key]) -> KafkaResult<bool> {
        let list = list_of(partitions.iter().map(|key| (key, Offset::Invalid)))?;
        let committed = self.committed_offsets(list, SHORT_ANSWER)?;
        Ok(committed.elements().iter().any(|element| matches!(element.offset(), Offset::Offset(_))))
    }

    fn is_news(&self, words: &str) -> bool {
        self.context().is_news(words)
    }

    fn close(&self) {
        self.context().close();
    }
}

impl Queue for PartitionQueue<Context> {
    fn poll(&self) -> Option<KafkaResult<impl Message>> {
        PartitionQueue::poll(self, Duration::ZERO)
    }
}
