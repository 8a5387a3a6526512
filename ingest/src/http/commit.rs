//! Grouping requests into commits.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::http::StatusCode;
use starmere_lake::formats::{Header, Incoming};
use starmere_lake::landing::{Outcome, SourcePartition, Stream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Refusal;
use super::request::{Events, busy};
use crate::envelope::{Mapping, Reader};
use crate::memory::Share;
use crate::rows::{Batch, Rows};
use crate::{Error, Result};

/// A commit takes at most this many payload bytes.
const COMMIT_BYTES: usize = 32 << 20;
/// Requests that may wait.
const QUEUE: usize = 4096;
/// The longest pause between two attempts at a store that does not answer.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What became of a request's events.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    /// The table's version that holds them.
    pub(super) version: u64,
    pub(super) events: u64,
    pub(super) rejects: u64,
    pub(super) first_reject: Option<String>,
    /// Every event has an id that survives being sent again.
    pub(super) exactly_once: bool,
}

struct Request {
    events: Events,
    came: Instant,
    /// Or why its events will not land.
    answer: oneshot::Sender<Result<Answer, String>>,
    /// Memory, given back when the request is answered.
    share: Share,
    unlanded: Unlanded,
}

/// Events that were taken and have not landed yet, counted until this is dropped.
struct Unlanded {
    all: Arc<AtomicU64>,
    events: u64,
}

impl Unlanded {
    fn count(all: &Arc<AtomicU64>, events: u64) -> Self {
        all.fetch_add(events, Ordering::Relaxed);
        Self { all: all.clone(), events }
    }
}

impl Drop for Unlanded {
    fn drop(&mut self) {
        self.all.fetch_sub(self.events, Ordering::Relaxed);
    }
}

/// Lands one stream's requests, one commit after the other.
#[derive(Debug)]
pub(super) struct Committer {
    queue: mpsc::Sender<Request>,
    /// Events of all committers of the listener that have not landed yet.
    unlanded: Arc<AtomicU64>,
    task: tokio::sync::Mutex<Option<JoinHandle<()>>>,
}

impl Committer {
    /// Each commit takes what comes within `gather` of its first request.
    pub(super) fn start(
        stream: Stream,
        mapping: Mapping,
        gather: Duration,
        unlanded: &Arc<AtomicU64>,
        stop: CancellationToken,
    ) -> Self {
        let (queue, requests) = mpsc::channel(QUEUE);
        let run = Run {
            partition: SourcePartition {
                source: "http".into(),
                topic: uuid::Uuid::now_v7().to_string(),
                incarnation: 0,
                partition: 0,
            },
            stream,
            mapping,
            gather,
            position: 0,
        };
        let task = tokio::spawn(run.commit_all(requests, stop));
        Self { queue, unlanded: unlanded.clone(), task: tokio::sync::Mutex::new(Some(task)) }
    }

    /// Lands the events and tells where, or why not.
    pub(super) async fn submit(
        &self,
        events: Events,
        share: Share,
        wait: Duration,
    ) -> std::result::Result<Answer, Refusal> {
        let hint = "send the request again, with the same ids or the same Idempotency-Key";
        let (answer, answered) = oneshot::channel();
        let unlanded = Unlanded::count(&self.unlanded, events.ranges.len() as u64);
        let request = Request { events, came: Instant::now(), answer, share, unlanded };
        self.queue.try_send(request).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => busy(),
            mpsc::error::TrySendError::Closed(_) => {
                Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the listener is ending; nothing has landed", hint)
            }
        })?;
        let unknown = |reason: &str| {
            let message = format!("{reason}; whether the events have landed is not known yet");
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, message, hint)
        };
        match tokio::time::timeout(wait, answered).await {
            Ok(Ok(Ok(answer))) => Ok(answer),
            Ok(Ok(Err(reason))) => Err(unknown(&reason)),
            Ok(Err(_)) => Err(unknown("the listener has ended")),
            Err(_) => Err(unknown("the store does not answer")),
        }
    }

    /// The task, which ends when everything queued has landed and nobody holds the committer any more.
    pub(super) fn retire(&self) -> Option<JoinHandle<()>> {
        // Held only by somebody who waits for the same end.
        self.task.try_lock().ok()?.take()
    }

    pub(super) async fn finished(&self) {
        if let Some(task) = self.task.lock().await.take()
            && let Err(error) = task.await
        {
            tracing::error!(%error, "the committer of a stream died");
        }
    }
}

struct Run {
    stream: Stream,
    mapping: Mapping,
    partition: SourcePartition,
    gather: Duration,
    /// The position after the last commit of this run.
    position: i64,
}

impl Run {
    async fn commit_all(mut self, mut requests: mpsc::Receiver<Request>, stop: CancellationToken) {
        loop {
            let first = tokio::select! {
                biased;
                request = requests.recv() => request,
                () = stop.cancelled() => {
                    requests.close();
                    requests.recv().await
                }
            };
            let Some(first) = first else { return };
            // Counted from when it came: it may have waited for the commit before.
            let gathered = tokio::time::sleep_until(first.came + self.gather);
            let mut size = first.events.body.len();
            let mut group = vec![first];
            tokio::pin!(gathered);
            while size < COMMIT_BYTES {
                tokio::select! {
                    biased;
                    request = requests.recv() => match request {
                        Some(request) => {
                            size += request.events.body.len();
                            group.push(request);
                        }
                        None => break,
                    },
                    () = &mut gathered => break,
                    // Nobody comes any more.
                    () = stop.cancelled() => break,
                }
            }
            self.commit(group).await;
        }
    }

    /// Lands the group, however long the store takes; unless it must not be written any more.
    async fn commit(&mut self, group: Vec<Request>) {
        let apart = |Request { events, answer, share, unlanded, .. }: Request| (events, (answer, share, unlanded));
        let (events, waiting): (Vec<Events>, Vec<_>) = group.into_iter().map(apart).unzip();
        let events = Arc::new(events);
        let mut pause = Duration::from_millis(50);
        loop {
            match self.offer(&events).await {
                Ok((version, answers)) => {
                    for ((waits, _share, _unlanded), answer) in waiting.into_iter().zip(answers) {
                        // Whoever no longer waits has got 503 and may send again.
                        let _ = waits.send(Ok(Answer { version, ..answer }));
                    }
                    return;
                }
                // To offer it again does not help.
                Err(Error::Lake(error @ starmere_lake::Error::Format { .. })) => {
                    // An earlier attempt may have landed: what comes next must not be taken for it.
                    self.begin_run();
                    for (waits, _share, _unlanded) in waiting {
                        let _ = waits.send(Err(error.to_string()));
                    }
                    return;
                }
                Err(error) => {
                    // Its trouble is told by whoever lands rows.
                    tracing::debug!(stream = self.stream.name(), %error, "events over HTTP could not be landed yet");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// What comes next is the first of another run.
    fn begin_run(&mut self) {
        (self.partition.topic, self.position) = (uuid::Uuid::now_v7().to_string(), 0);
    }

    async fn offer(&mut self, group: &Arc<Vec<Events>>) -> Result<(u64, Vec<Answer>)> {
        let (group, partition, from) = (group.clone(), self.partition.clone(), self.position);
        let reader = Reader::new(self.mapping.clone(), &Arc::default());
        // It takes its time, and may wait for the encoder.
        let reading = tokio::task::spawn_blocking(move || gathered(&group, reader, partition, from));
        let (rows, answers, next) = reading.await.map_err(|error| Error::Task(error.to_string()))??;
        let snapshot = match rows.land(&self.stream).await? {
            Outcome::Landed(snapshot) => snapshot,
            // Nobody else writes this run's partition: an earlier attempt at this very group has landed.
            Outcome::Behind(snapshot) if self.stream.position(&snapshot, &self.partition) >= Some(next) => snapshot,
            // Unless the table has lost versions under us. The group is the first of another run then.
            Outcome::Behind(snapshot) => {
                self.begin_run();
                let (table, version) = (self.stream.table().path().to_string(), snapshot.version() + 1);
                return Err(starmere_lake::Error::Conflict { table, version }.into());
            }
        };
        self.position = next;
        Ok((snapshot.version(), answers))
    }
}

/// The events of the group as rows of `partition` behind `from`, what to answer, and the position behind them.
fn gathered(
    group: &[Events],
    mut reader: Reader,
    partition: SourcePartition,
    from: i64,
) -> Result<(Rows, Vec<Answer>, i64)> {
    let mut batch = Batch::default();
    batch.begin(partition, from);
    let mut position = from;
    let mut answers = Vec::with_capacity(group.len());
    for Events { body, ranges, headers, key, at } in group {
        let headers: Vec<Header<'_>> =
            headers.iter().map(|(name, value)| (name.as_str(), Some(value.as_slice()))).collect();
        let headers = Some(headers.as_slice()).filter(|headers| !headers.is_empty());
        let events = ranges.len() as u64;
        let mut answer = Answer { version: 0, events, rejects: 0, first_reject: None, exactly_once: true };
        for (number, range) in ranges.iter().enumerate() {
            let event = &body[range.clone()];
            let made = key.as_ref().map(|key| made_id(key, number, event));
            let incoming = Incoming { headers, timestamp: Some(*at), ..Incoming::of(event) };
            let read = batch.push(&mut reader, &incoming, position, position + 1, made)?;
            answer.exactly_once &= key.is_some() || read.has_id;
            if let Some(reason) = read.rejection {
                answer.rejects += 1;
                answer.first_reject.get_or_insert_with(|| format!("event {}: {reason}", number + 1));
            }
            position += 1;
        }
        answers.push(answer);
    }
    Ok((batch.finish()?, answers, position))
}

/// The id of an event that has none of its own: the request's key, the event's place in the request from 0, and a
/// digest of its bytes, so that a key used again for other events makes other ids.
pub(super) fn made_id(key: &str, number: usize, event: &[u8]) -> String {
    format!("{key}/{number}/{:032x}", xxhash_rust::xxh3::xxh3_128(event))
}

/// Whether an id was made so, for an event of these bytes.
pub(crate) fn is_made_id(id: &str, event: &[u8]) -> bool {
    id.ends_with(&format!("/{:032x}", xxhash_rust::xxh3::xxh3_128(event)))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use starmere_lake::delta::Warehouse;
    use starmere_lake::paths::TablePath;
    use starmere_lake::store::Store;

    use super::*;
    use crate::envelope::TypeOf;

    fn events(text: &'static str) -> Arc<Vec<Events>> {
        let (body, range) = (Bytes::from_static(text.as_bytes()), 0..text.len());
        Arc::new(vec![Events { body, ranges: Vec::from([range]), headers: Vec::new(), key: None, at: 0 }])
    }

    /// Tries to have events acknowledged that are nowhere: an older log is restored while the listener runs.
    #[tokio::test]
    async fn what_is_acknowledged_is_there_although_the_table_has_lost_versions() {
        let store = Store::memory();
        let stream = || Stream::new("s", Warehouse::new(store.clone()).table(TablePath::stream("d", "s")));
        let partition =
            SourcePartition { source: "http".into(), topic: "first run".into(), incarnation: 0, partition: 0 };
        let mapping = Mapping::new(TypeOf::Constant("x".into()), None);
        let mut run = Run { stream: stream(), mapping, partition, gather: Duration::ZERO, position: 0 };
        for text in ["{\"a\":1}", "{\"a\":2}", "{\"a\":3}"] {
            run.offer(&events(text)).await.unwrap();
        }
        let table = stream().table().clone();
        store.delete([2, 3].map(|version| table.path().commit(version))).await.unwrap();
        run.stream = stream();
        run.offer(&events("{\"a\":4}")).await.unwrap_err();
        let (version, answers) = run.offer(&events("{\"a\":4}")).await.unwrap();
        assert_eq!((version, answers.len()), (2, 1));
        assert_eq!(stream().open().await.unwrap().rows(), Some(2));
    }
}
