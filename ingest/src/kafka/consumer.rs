//! The client: its settings, and what the group says between two records.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::RDKafkaRespErr;

use super::client::{Key, keys_of};
use super::{Membership, Source};

/// Bounds of what the client reads ahead of a partition. A record that is larger than what is fetched comes all the same.
const LEAST_FETCH: usize = 16 << 10;
const MOST_FETCH: usize = 32 << 20;
const MOST_FETCHED: usize = 1 << 20;

/// What the group has decided; to be carried out by the thread that reads.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Assigned(Vec<Key>),
    Revoked(Vec<Key>),
}

/// Keeps what librdkafka calls back with.
#[derive(Debug)]
pub(super) struct Context {
    source: String,
    changes: Mutex<VecDeque<Change>>,
    /// Nobody carries out changes any more: the consumer is being closed.
    closing: AtomicBool,
    /// What was said, and when: a broker that is down is told of several times a second.
    said: Mutex<HashMap<String, Instant>>,
}

/// The same trouble is said again after so long.
const SAY_AGAIN: Duration = Duration::from_secs(60);

impl Context {
    /// The changes since it was asked last, oldest first.
    pub(super) fn take_changes(&self) -> VecDeque<Change> {
        std::mem::take(&mut *self.changes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether this is to be said: it was not said a while ago.
    pub(super) fn is_news(&self, words: &str) -> bool {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.get(words).is_some_and(|at| at.elapsed() < SAY_AGAIN) {
            return false;
        }
        said.insert(words.to_owned(), Instant::now());
        true
    }

    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        use RDKafkaLogLevel::{Alert, Critical, Debug, Emerg, Error, Info, Notice, Warning};
        let source = self.source.as_str();
        match level {
            Emerg | Alert | Critical => tracing::error!(source, facility, message, "kafka"),
            // Errors come by the callback as well.
            Error | Warning | Notice | Info | Debug => tracing::debug!(source, facility, message, "kafka"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::PartitionEOF) {
            return;
        }
        let words = error.to_string();
        if self.is_news(&words) {
            tracing::warn!(source = self.source, error = words, reason, "kafka");
        }
    }
}

impl ConsumerContext for Context {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, event: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        if self.closing.load(Ordering::Relaxed) {
            if let Err(error) = consumer.incremental_unassign(partitions) {
                tracing::debug!(source = self.source, %error, "partitions could not be given back");
            }
            return;
        }
        let change = match event {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => Change::Assigned(keys_of(partitions)),
            _ => Change::Revoked(keys_of(partitions)),
        };
        self.changes.lock().unwrap_or_else(PoisonError::into_inner).push_back(change);
    }

    fn commit_callback(&self, result: KafkaResult<()>, _: &TopicPartitionList) {
        if let Err(error) = result {
            tracing::debug!(source = self.source, %error, "the group's offsets could not be committed; positions are in the table");
        }
    }
}

/// Why librdkafka has no such setting, or none with such a value.
pub fn check_setting(name: &str, value: &str) -> Result<(), String> {
    match ClientConfig::new().set(name, value).create_native_config() {
        Ok(_) => Ok(()),
        Err(KafkaError::ClientConfig(_, reason, ..)) => Err(reason.trim_end().to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// A consumer that is in no group yet. `once`: ends of partitions are told; `ahead`: bytes of each partition that it
/// may read ahead.
pub(super) fn consumer(source: &Source, once: bool, ahead: Option<usize>) -> KafkaResult<Arc<BaseConsumer<Context>>> {
    let group = match &source.membership {
        Membership::Group(group) | Membership::OfTable(group) => group.clone(),
        // It is never joined; the client wants one all the same.
        Membership::Partitions(_) => format!("starmere-{}", source.name),
    };
    let mut config = ClientConfig::new();
    config.set("client.id", "starmere").set("isolation.level", "read_committed").set("statistics.interval.ms", "0");
    // The partitions of a member that was killed go to the others after so long; librdkafka's default is 45 s.
    config.set("session.timeout.ms", "10000");
    // A topic that is made later is read after so long; librdkafka's default is five minutes.
    config.set("topic.metadata.refresh.interval.ms", "10000");
    // Where reading begins anew, the broker's answer to the last question is waited for: by default, half a second.
    config.set("fetch.wait.max.ms", "100");
    if let Some(ahead) = ahead {
        // What is fetched at once comes on top of what is queued.
        let half = (ahead / 2).clamp(LEAST_FETCH, MOST_FETCH);
        // A queue that is full is looked at again soon: by default, a second later.
        config.set("fetch.queue.backoff.ms", "5");
        config.set("queued.max.messages.kbytes", (half >> 10).to_string());
        config.set("fetch.message.max.bytes", half.min(MOST_FETCHED).to_string());
    }
    for (name, value) in &source.settings {
        config.set(name, value);
    }
    config
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        .set("enable.partition.eof", if once { "true" } else { "false" })
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set_log_level(RDKafkaLogLevel::Warning);
    let context = Context {
        source: source.name.clone(),
        changes: Mutex::default(),
        closing: AtomicBool::new(false),
        said: Mutex::default(),
    };
    config.create_with_context(context).map(Arc::new)
}
