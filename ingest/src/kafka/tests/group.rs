//! A consumer group in this process, as cooperative rebalancing has it: members get partitions, are asked to give them
//! back, lose them when they lag, and die. What happens follows from a seed, but for the interleaving of threads.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use fastrand::Rng;
use rdkafka::Timestamp;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{Message, OwnedMessage};
use rdkafka::topic_partition_list::Offset;

use super::super::client::{Client, Key, Queue};
use super::super::consumer::Change;

/// A broker with one topic and one group.
#[derive(Clone)]
pub(super) struct Broker(Arc<Mutex<State>>);

struct State {
    random: Rng,
    logs: BTreeMap<Key, Vec<OwnedMessage>>,
    ends: BTreeMap<Key, i64>,
    members: BTreeMap<u32, InGroup>,
    next: u32,
    owners: BTreeMap<Key, u32>,
    targets: BTreeMap<Key, u32>,
    empty_reads: u64,
}

/// What the broker and the client know of a member.
#[derive(Default)]
struct InGroup {
    changes: VecDeque<Change>,
    /// What was told and is not answered yet; the client tells nothing else before.
    awaits: Option<Change>,
    is_lost: bool,
    reading: BTreeMap<Key, Reading>,
}

/// Where a member reads a partition.
struct Reading {
    /// Counts assignments, so that an old queue is known.
    version: u64,
    offset: i64,
    /// Came before the partition had a queue of its own.
    early: VecDeque<OwnedMessage>,
}

/// A member's client.
#[derive(Clone)]
pub(super) struct Member {
    broker: Broker,
    pub(super) id: u32,
}

pub(super) struct Records {
    member: Member,
    key: Key,
    version: u64,
}

impl Broker {
    pub(super) fn new(seed: u64, topic: &str, partitions: i32) -> Self {
        let keys: Vec<Key> = (0..partitions).map(|number| (topic.to_owned(), number)).collect();
        Self(Arc::new(Mutex::new(State {
            random: Rng::with_seed(seed),
            logs: keys.iter().map(|key| (key.clone(), Vec::new())).collect(),
            ends: keys.iter().map(|key| (key.clone(), 0)).collect(),
            members: BTreeMap::new(),
            next: 0,
            owners: BTreeMap::new(),
            targets: BTreeMap::new(),
            empty_reads: 0,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub(super) fn produce(&self, payload: String) {
        let mut state = self.state();
        let partitions = state.logs.len();
        let number = state.random.usize(0..partitions);
        // Transactions and compaction leave gaps.
        let gap = if state.random.u32(0..10) == 0 { state.random.i64(1..4) } else { 0 };
        let key = state.logs.keys().nth(number).unwrap().clone();
        let offset = state.ends[&key] + gap;
        let timestamp = Timestamp::CreateTime(offset);
        let message = OwnedMessage::new(Some(payload.into()), None, key.0.clone(), timestamp, key.1, offset, None);
        state.logs.get_mut(&key).unwrap().push(message);
        state.ends.insert(key, offset + 1);
    }

    /// The topic is deleted and made again, with so many other records in its first partition. Members read on.
    pub(super) fn make_again(&self, records: i64) {
        let mut state = self.state();
        let key = state.logs.keys().next().unwrap().clone();
        for log in state.logs.values_mut() {
            log.clear();
        }
        for offset in 0..records {
            let (payload, timestamp) = (format!("other {offset}"), Timestamp::CreateTime(1000 + offset));
            let message = OwnedMessage::new(Some(payload.into()), None, key.0.clone(), timestamp, key.1, offset, None);
            state.logs.get_mut(&key).unwrap().push(message);
        }
        state.ends.values_mut().for_each(|end| *end = 0);
        state.ends.insert(key, records);
    }

    /// How often a member has asked for records, and there were none.
    pub(super) fn empty_reads(&self) -> u64 {
        self.state().empty_reads
    }

    /// The position behind the last record of each partition.
    pub(super) fn ends(&self) -> BTreeMap<Key, i64> {
        self.state().ends.clone()
    }

    pub(super) fn member(&self) -> Member {
        let mut state = self.state();
        state.next += 1;
        Member { broker: self.clone(), id: state.next }
    }

    /// The group notices that a member is dead.
    pub(super) fn gone(&self, id: u32) {
        let mut state = self.state();
        state.members.remove(&id);
        state.owners.retain(|_, owner| *owner != id);
        state.share_anew();
    }

    /// The group takes a member's partitions away, which has not polled for too long; the member joins again.
    pub(super) fn evict(&self, id: u32) {
        let mut state = self.state();
        let Some(member) = state.members.get_mut(&id) else { return };
        if member.awaits.is_some() || member.is_lost {
            return;
        }
        let held: Vec<Key> = member.reading.keys().cloned().collect();
        member.changes.clear();
        member.is_lost = true;
        member.changes.push_back(Change::Revoked(held));
        state.owners.retain(|_, owner| *owner != id);
        state.share_anew();
    }
}

impl State {
    /// Who is to have which partition: now and then, nobody keeps what they have.
    fn share_anew(&mut self) {
        let ids: Vec<u32> = self.members.keys().copied().collect();
        self.targets.clear();
        if ids.is_empty() {
            return;
        }
        let shift = if self.random.bool() { self.random.usize(0..ids.len()) } else { 0 };
        for (number, key) in self.logs.keys().enumerate() {
            self.targets.insert(key.clone(), ids[(number + shift) % ids.len()]);
        }
        self.balance();
    }

    /// Tells members what they lose, then what they get: a partition is free once its holder has given it back.
    fn balance(&mut self) {
        let ids: Vec<u32> = self.members.keys().copied().collect();
        for id in ids {
            let loses: Vec<Key> = self
                .owners
                .iter()
                .filter(|(key, owner)| **owner == id && self.targets.get(key) != Some(&id))
                .map(|(key, _)| key.clone())
                .collect();
            let gets: Vec<Key> = self
                .targets
                .iter()
                .filter(|(key, target)| **target == id && !self.owners.contains_key(*key))
                .map(|(key, _)| key.clone())
                .collect();
            let Some(member) = self.members.get_mut(&id) else { continue };
            if member.awaits.is_some() || !member.changes.is_empty() {
                continue;
            }
            if !loses.is_empty() {
                member.changes.push_back(Change::Revoked(loses));
            } else if !gets.is_empty() {
                gets.iter().for_each(|key| _ = self.owners.insert(key.clone(), id));
                member.changes.push_back(Change::Assigned(gets));
            } else if self.random.u32(0..10) == 0 {
                member.changes.push_back(Change::Assigned(Vec::new()));
            }
        }
    }

    /// The records of a partition from an offset on.
    fn from(&self, key: &Key, offset: i64) -> impl Iterator<Item = &OwnedMessage> {
        let log = &self.logs[key];
        let first = log.partition_point(|message| message.offset() < offset);
        log[first..].iter()
    }
}

fn invalid() -> KafkaError {
    KafkaError::MessageConsumption(RDKafkaErrorCode::InvalidArgument)
}

impl Client for Member {
    type Queue = Records;

    fn subscribe(&self, _: &[String]) -> KafkaResult<()> {
        let mut state = self.broker.state();
        state.members.insert(self.id, InGroup::default());
        state.share_anew();
        Ok(())
    }

    fn topics(&self, _: Duration) -> KafkaResult<BTreeMap<String, Vec<i32>>> {
        unreachable!("members of a group do not ask for topics")
    }

    fn take_changes(&self) -> VecDeque<Change> {
        let mut state = self.broker.state();
        let Some(member) = state.members.get_mut(&self.id) else { return VecDeque::new() };
        let changes = std::mem::take(&mut member.changes);
        if let Some(change) = changes.back() {
            member.awaits = Some(change.clone());
        }
        changes
    }

    fn assignment_lost(&self) -> bool {
        self.broker.state().members.get(&self.id).is_none_or(|member| member.is_lost)
    }

    fn assign(&self, partitions: &[(Key, Offset)]) -> KafkaResult<()> {
        let mut state = self.broker.state();
        let mut begun = Vec::new();
        for (key, offset) in partitions {
            let offset = match offset {
                Offset::Beginning => 0,
                Offset::Offset(offset) => *offset,
                _ => return Err(invalid()),
            };
            let early = if state.random.u32(0..3) == 0 { state.random.usize(0..4) } else { 0 };
            let early: VecDeque<OwnedMessage> = state.from(key, offset).take(early).cloned().collect();
            let offset = early.back().map_or(offset, |last| last.offset() + 1);
            begun.push((key.clone(), Reading { version: state.random.u64(..), offset, early }));
        }
        let Some(member) = state.members.get_mut(&self.id) else { return Ok(()) };
        if begun.iter().any(|(key, _)| member.reading.contains_key(key)) {
            return Err(invalid());
        }
        member.reading.extend(begun);
        if matches!(member.awaits, Some(Change::Assigned(_))) {
            member.awaits = None;
        }
        state.balance();
        Ok(())
    }

    fn unassign(&self, partitions: &[Key]) -> KafkaResult<()> {
        let mut state = self.broker.state();
        let Some(member) = state.members.get_mut(&self.id) else { return Ok(()) };
        if partitions.iter().any(|key| !member.reading.contains_key(key)) {
            return Err(invalid());
        }
        partitions.iter().for_each(|key| _ = member.reading.remove(key));
        let mut free = Vec::new();
        if let Some(Change::Revoked(_)) = member.awaits {
            member.awaits = None;
            free.extend_from_slice(partitions);
            if std::mem::take(&mut member.is_lost) {
                state.share_anew();
            }
        }
        let id = self.id;
        for key in free {
            if state.owners.get(&key) == Some(&id) {
                state.owners.remove(&key);
            }
        }
        state.balance();
        Ok(())
    }

    fn queue(&self, key: &Key) -> Option<Records> {
        let state = self.broker.state();
        // Who was forgotten by the group reads nothing any more.
        let version =
            state.members.get(&self.id).and_then(|member| member.reading.get(key)).map(|reading| reading.version);
        Some(Records { member: self.clone(), key: key.clone(), version: version.unwrap_or_default() })
    }

    fn poll(&self, wait: Duration) -> Option<KafkaResult<impl Message>> {
        if !wait.is_zero() {
            // As the client does where nothing comes; nobody unparks the thread.
            std::thread::park_timeout(Duration::from_micros(500));
        }
        let mut state = self.broker.state();
        let member = state.members.get_mut(&self.id)?;
        member.reading.values_mut().find_map(|reading| reading.early.pop_front()).map(Ok)
    }

    fn watermarks(&self, key: &Key, _: Duration) -> KafkaResult<(i64, i64)> {
        Ok((0, self.broker.state().ends[key]))
    }

    fn offset_at(&self, _: &Key, _: i64) -> KafkaResult<Offset> {
        Ok(Offset::End)
    }

    fn commit(&self, _: &[(Key, i64)]) -> KafkaResult<()> {
        Ok(())
    }

    fn has_committed(&self, _: &[Key]) -> KafkaResult<bool> {
        Ok(true)
    }

    fn is_news(&self, _: &str) -> bool {
        false
    }

    fn close(&self) {
        self.broker.gone(self.id);
    }
}

impl Queue for Records {
    fn poll(&self) -> Option<KafkaResult<impl Message>> {
        let mut state = self.member.broker.state();
        if state.random.u32(0..20) == 0 {
            return None;
        }
        let reading = state.members.get(&self.member.id)?.reading.get(&self.key)?;
        if reading.version != self.version {
            return None;
        }
        let found = state.from(&self.key, reading.offset).next().cloned();
        let Some(message) = found else {
            state.empty_reads += 1;
            return None;
        };
        let reading = state.members.get_mut(&self.member.id)?.reading.get_mut(&self.key)?;
        reading.offset = message.offset() + 1;
        Some(Ok(message))
    }
}
