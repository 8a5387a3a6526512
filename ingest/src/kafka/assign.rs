//! Partitions come and go: claiming them where the table is, and giving them back.
//!
//! ```text
//!  assigned ─► the table's position ─► claimed: records ─► batch
//!                                         ▲                  │ `Behind`, an error
//!                    read again, all ─────┴──── reset ◄──────┘
//!  revoked ─► what was gathered lands, if it can in time ─► given back
//! ```
//!
//! A partition that is held stays as it is while others come: what the batch has of it belongs to its state. Both
//! begin anew together, or neither does.

use std::time::{Duration, Instant};

use rdkafka::topic_partition_list::Offset;
use starmere_lake::Kind;

use super::claim::{Claim, State};
use super::client::{ANSWER, Client, Key};
use super::position::{Mark, Position, Positions};
use super::run::{Again, PAUSES, Run};
use super::stopped::Why;
use super::{Membership, Start};
use crate::{Error, Result};

/// How long a partition that is taken from us may wait for its last batch.
const HAND_OVER: Duration = Duration::from_secs(10);

impl<C: Client> Run<C> {
    /// Takes partitions that are to be claimed.
    pub(super) fn assigned(&mut self, partitions: Vec<Key>) {
        self.unclaimed.push_back(partitions);
        self.again.get_or_insert(Again { at: Instant::now(), pause: PAUSES.0, all: false });
    }

    /// Drops what was gathered; all is read again from the table, after a pause.
    pub(super) fn reset(&mut self, pause: Duration) {
        self.gather.drop_batch();
        let again = self.again.get_or_insert(Again { at: Instant::now() + pause, pause: PAUSES.0, all: true });
        again.all = true;
    }

    /// Claims what waits to be claimed and, after a reset, begins anew what is held.
    pub(super) fn read_the_table_again(&mut self) -> Result<()> {
        let Some(Again { at, pause, all }) = self.again else { return Ok(()) };
        // A batch that is being landed decides where the table is.
        if Instant::now() < at || self.flight.is_some() {
            return Ok(());
        }
        let positions = self.gather.runtime.block_on(Positions::read(&self.gather.stream, &self.source.name));
        let claimed = positions.and_then(|positions| {
            if all {
                self.begin_held_anew(&positions)?;
            }
            self.claim_assigned(&positions)
        });
        match claimed {
            Ok(()) => {
                self.again = None;
                Ok(())
            }
            Err(error) if self.is_once() || error.kind() == Kind::Invalid => Err(error),
            Err(error) => {
                tracing::warn!(source = self.source.name, error = %error, "positions could not be read; trying again");
                self.again = Some(Again { at: Instant::now() + pause, pause: (pause * 2).min(PAUSES.1), all });
                Ok(())
            }
        }
    }

    /// Reads the partitions that are held from the table's positions; those that are stopped stay so where they are.
    fn begin_held_anew(&mut self, positions: &Positions) -> Result<()> {
        let mut keys = Vec::new();
        for (key, claim) in &self.claims {
            let position = positions.of(&key.0, key.1);
            let stop = claim.state.stopped.as_ref();
            let stays = stop
                .is_some_and(|stop| position.partition == stop.partition && position.next == Some(stop.why.position()));
            if !stays {
                keys.push(key.clone());
            }
        }
        if keys.is_empty() {
            return Ok(());
        }
        let begun = self.begin_all(keys, positions)?;
        let keys: Vec<Key> = begun.iter().map(|(key, ..)| key.clone()).collect();
        self.client.unassign(&keys).map_err(|error| self.kafka(error))?;
        for key in &keys {
            self.claims.remove(key);
        }
        // From here on they are like newly assigned ones, should anything fail.
        self.unclaimed.push_front(keys);
        self.claim(begun)?;
        self.unclaimed.pop_front();
        Ok(())
    }

    /// Claims the partitions that were assigned.
    fn claim_assigned(&mut self, positions: &Positions) -> Result<()> {
        while let Some(keys) = self.unclaimed.front().cloned() {
            // What is held already is read anew by a reset alone.
            let keys = keys.into_iter().filter(|key| !self.claims.contains_key(key)).collect();
            let begun = self.begin_all(keys, positions)?;
            self.greet(&begun);
            // An assignment of nothing is to be answered, too.
            self.claim(begun)?;
            self.unclaimed.pop_front();
        }
        Ok(())
    }

    /// Says once that a group is new to the broker while the table has positions: its name was another one before, or
    /// was not given when the default was the same for all sources.
    fn greet(&mut self, begun: &[(Key, Offset, State)]) {
        let Membership::Group(group) = &self.source.membership else { return };
        let known: Vec<Key> =
            begun.iter().filter(|(_, _, state)| state.next.is_some()).map(|(key, ..)| key.clone()).collect();
        if self.knows_group || self.is_once() || known.is_empty() {
            return;
        }
        self.knows_group = true;
        // From its first commit on, the broker knows the group.
        if let Ok(false) = self.client.has_committed(&known) {
            let (source, partitions) = (&self.source.name, known.len());
            tracing::warn!(
                source,
                group,
                partitions,
                "the group is new to the broker; reading goes on from the table's positions"
            );
        }
    }

    fn begin_all(&self, keys: Vec<Key>, positions: &Positions) -> Result<Vec<(Key, Offset, State)>> {
        let begin = |key: Key| {
            let (offset, state) = self.begin(positions.of(&key.0, key.1))?;
            Ok((key, offset, state))
        };
        keys.into_iter().map(begin).collect()
    }

    fn claim(&mut self, begun: Vec<(Key, Offset, State)>) -> Result<()> {
        let offsets: Vec<(Key, Offset)> = begun.iter().map(|(key, offset, _)| (key.clone(), *offset)).collect();
        self.client.assign(&offsets).map_err(|error| self.kafka(error))?;
        for (key, _, state) in begun {
            let Some(queue) = self.client.queue(&key) else {
                let message = format!("partition {} of `{}` has no queue", key.1, key.0);
                return Err(Error::of_kafka(&self.source.name, message, Kind::Internal));
            };
            self.claims.insert(key, Claim { queue, state });
        }
        Ok(())
    }

    /// Where to read a partition on, and what is to come first.
    fn begin(&self, position: Position) -> Result<(Offset, State)> {
        let Position { partition, next, mark } = position;
        let key = (partition.topic.clone(), partition.partition);
        let mut end = None;
        if self.is_once() {
            let (_, last) = self.client.watermarks(&key, ANSWER).map_err(|error| self.kafka(error))?;
            // An end before the position is none: the topic was made again, or the broker does not know better.
            end = (last >= next.unwrap_or(0)).then_some(last);
        }
        let (offset, expect) = match (next, mark) {
            (Some(_), Some(Mark::Last(seen))) => (Offset::Offset(seen.offset), Some(seen)),
            (Some(_), Some(Mark::WentOn(Why::MadeAgain { .. }))) => (Offset::Beginning, None),
            (Some(next), _) => (Offset::Offset(next), None),
            (None, _) => (self.start(&key)?, None),
        };
        Ok((offset, State::at(partition, next, expect, end)))
    }

    fn start(&self, key: &Key) -> Result<Offset> {
        match &self.source.start {
            Start::Earliest => Ok(Offset::Beginning),
            Start::Latest => Ok(Offset::End),
            Start::Offsets(offsets) => {
                let offset = offsets.get(&key.0).and_then(|offsets| offsets.get(&key.1));
                Ok(offset.map_or(Offset::Beginning, |&offset| Offset::Offset(offset)))
            }
            Start::Time(time) => self.client.offset_at(key, *time).map_err(|error| self.kafka(error)),
        }
    }

    /// Reads a partition from its position on, without what was to come first.
    pub(super) fn restart(&mut self, key: &Key) -> Result<()> {
        self.read_again(key, |state| {
            state.expect = None;
            state.next.map_or(Offset::Beginning, Offset::Offset)
        })
    }

    /// Reads a partition again from the last record that was gathered, which must come first.
    pub(super) fn check(&mut self, key: &Key) -> Result<()> {
        self.read_again(key, |state| {
            state.expect = state.last.clone();
            (state.heard, state.checked) = (Instant::now(), Some(Instant::now()));
            state.last.as_ref().map_or(Offset::Beginning, |last| Offset::Offset(last.offset))
        })
    }

    fn read_again(&mut self, key: &Key, from: impl FnOnce(&mut State) -> Offset) -> Result<()> {
        let Some(mut claim) = self.claims.remove(key) else { return Ok(()) };
        let offset = from(&mut claim.state);
        self.client.unassign(std::slice::from_ref(key)).map_err(|error| self.kafka(error))?;
        self.claim(vec![(key.clone(), offset, claim.state)])
    }

    /// Lands what was gathered of them, for as long as that may take, and gives partitions back.
    pub(super) fn give_back(&mut self, keys: &[Key]) -> Result<()> {
        let until = Instant::now() + HAND_OVER;
        let resets = |run: &Self| run.again.is_some_and(|again| again.all);
        while !self.client.assignment_lost() && !resets(self) && Instant::now() < until {
            if self.flight.is_none() {
                if self.gather.batch.is_empty() {
                    break;
                }
                self.flush()?;
            }
            self.landed(until.saturating_duration_since(Instant::now()))?;
        }
        let mut gathered = false;
        for key in keys {
            if let Some(claim) = self.claims.remove(key) {
                gathered |= self.gather.has(&claim.state.partition);
            }
            for waiting in &mut self.unclaimed {
                waiting.retain(|waiting| waiting != key);
            }
        }
        if gathered {
            self.reset(Duration::ZERO);
        }
        self.client.unassign(keys).map_err(|error| self.kafka(error))
    }
}
