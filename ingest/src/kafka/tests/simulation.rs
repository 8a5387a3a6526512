//! Groups whose members join, leave, are killed, lag and are evicted, in any order, over a store that fails: each record
//! lands once, no commit lacks a mark, and lag falls to zero.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;
use futures::StreamExt;
use object_store::memory::InMemory;
use starmere_lake::Kind;
use starmere_lake::delta::Warehouse;
use starmere_lake::landing::{Part, SourcePartition, Stream, parts};
use starmere_lake::paths::TablePath;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::super::claim::Gather;
use super::super::position::{Mark, Seen};
use super::super::run::{Run, Until};
use super::group::Broker;
use super::{TOPIC, event, mapping};
use crate::Result;
use crate::envelope::Reader;
use crate::kafka::{Membership, Report, Source, Start, Why, go_on, stops};
use crate::memory::Memory;
use crate::stores::{Failing, plain, tampered};

/// So many run in CI; `STARMERE_SEEDS` runs others, or more.
const SEEDS: u64 = 1000;
const AT_ONCE: usize = 48;
/// A seed takes a second or so; whatever takes this long is stalled.
const PATIENCE: Duration = Duration::from_secs(60);

fn seeds() -> Range<u64> {
    let Ok(text) = std::env::var("STARMERE_SEEDS") else { return 0..SEEDS };
    let number = |text: &str| text.trim().parse().expect("STARMERE_SEEDS is a number or a range such as 17..18");
    match text.split_once("..") {
        Some((first, end)) => number(first)..number(end),
        None => 0..number(&text),
    }
}

fn source() -> Source {
    Source {
        name: "kafka".into(),
        topics: vec![TOPIC.into()],
        membership: Membership::Group("g".into()),
        start: Start::Earliest,
        registry: None,
        settings: BTreeMap::new(),
    }
}

fn stream(warehouse: &Warehouse) -> Stream {
    Stream::new("s", warehouse.table(TablePath::stream("d", "s")))
}

/// A process that follows the topic.
struct Process {
    id: u32,
    stop: CancellationToken,
    kill: CancellationToken,
    running: JoinHandle<Result<Report>>,
}

impl Process {
    async fn start(broker: &Broker, warehouse: &Warehouse, batch_age: Duration) -> Self {
        let member = broker.member();
        let (id, stop, kill) = (member.id, CancellationToken::new(), CancellationToken::new());
        let stream = stream(warehouse);
        let reader = Reader::of(mapping(), &stream).await.unwrap();
        let gather = Gather::new(stream, reader, None, Handle::current(), Arc::default(), Memory::new(8 << 20));
        let mut run = Run::new(source(), member, gather, Until::Stopped(stop.clone()), kill.clone(), None);
        (run.batch_age, run.quiet) = (batch_age, batch_age / 2);
        Self { id, stop, kill, running: tokio::task::spawn_blocking(move || run.run_to_the_end()) }
    }

    async fn leaves(self) {
        self.stop.cancel();
        self.running.await.unwrap().unwrap();
    }
}

/// The position of each partition in the table.
async fn positions(stream: &Stream) -> BTreeMap<i32, i64> {
    let snapshot = stream.open().await.unwrap();
    stream.positions(&snapshot).into_iter().map(|(partition, position)| (partition.partition, position)).collect()
}

/// The same by the log, each of whose commits is looked at.
async fn landed(stream: &Stream) -> BTreeMap<i32, i64> {
    let newest = stream.open().await.unwrap().version();
    let mut positions = BTreeMap::new();
    for commit in stream.table().commits(0, newest).await.unwrap() {
        for Part { partition, from, to, mark, .. } in parts(&commit) {
            let mark: Mark = serde_json::from_value(mark.expect("a part has a mark")).unwrap();
            let Mark::Last(Seen { offset, .. }) = mark else { panic!("{mark:?}") };
            assert_eq!(offset + 1, to, "the mark is that of the last record");
            let before = positions.insert(partition.partition, to);
            assert!(before.is_none_or(|before| before == from), "ranges abut");
        }
    }
    positions
}

async fn run(seed: u64) {
    let mut random = Rng::with_seed(seed);
    let store = Arc::new(InMemory::new());
    let failing = Failing::new(seed, random.u32(0..12));
    let broker = Broker::new(seed, TOPIC, random.i32(1..7));
    let batch_age = Duration::from_millis(random.u64(0..20));
    let mut processes = Vec::new();
    let mut numbers = 0..;
    for _ in 0..random.usize(4..14) {
        for number in numbers.by_ref().take(random.usize(0..24)) {
            broker.produce(event(number));
        }
        let chosen = if processes.is_empty() { 0 } else { random.usize(0..processes.len()) };
        match random.u32(0..8) {
            0..3 if processes.len() < 4 => {
                processes.push(Process::start(&broker, &tampered(&store, &failing), batch_age).await);
            }
            3 if !processes.is_empty() => processes.swap_remove(chosen).leaves().await,
            4 if !processes.is_empty() => {
                // The group notices at once, or when the process has long gone; the process may land a last batch.
                let process = processes.swap_remove(chosen);
                if random.bool() {
                    broker.gone(process.id);
                }
                process.kill.cancel();
                process.running.await.unwrap().unwrap();
            }
            5 if !processes.is_empty() => broker.evict(processes[chosen].id),
            _ => {}
        }
        tokio::time::sleep(Duration::from_millis(random.u64(0..30))).await;
    }
    failing.heal();
    if processes.is_empty() {
        processes.push(Process::start(&broker, &plain(&store), batch_age).await);
    }
    let stream = stream(&plain(&store));
    let ends: BTreeMap<i32, i64> =
        broker.ends().into_iter().filter(|(_, end)| *end > 0).map(|((_, number), end)| (number, end)).collect();
    let begun = Instant::now();
    while positions(&stream).await != ends {
        assert!(begun.elapsed() < PATIENCE, "lag stays: {:?} of {ends:?} landed", positions(&stream).await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(landed(&stream).await, ends);
    for process in processes {
        process.leaves().await;
    }
    if ends.is_empty() {
        return;
    }
    let produced: BTreeSet<Vec<u8>> = (0..numbers.start).map(|number| event(number).into_bytes()).collect();
    let rows = super::rows(&plain(&store).store().clone(), &stream).await;
    let found = super::payloads(&rows);
    assert_eq!(found.len(), produced.len(), "each record has landed once");
    assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), produced);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_becomes_of_a_group_each_record_lands_and_lag_falls_to_zero() {
    let runs = futures::stream::iter(seeds()).for_each_concurrent(AT_ONCE, |seed| async move {
        if let Err(error) = tokio::spawn(run(seed)).await {
            panic!("seed {seed} (STARMERE_SEEDS={seed}..{} runs it alone): {error}", seed + 1);
        }
    });
    runs.await;
}

/// What a release before this one left behind: a commit whose part has no mark, after one that has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_whose_last_commit_has_no_mark_is_read_on() {
    let store = Arc::new(InMemory::new());
    let (warehouse, broker) = (plain(&store), Broker::new(1, TOPIC, 1));
    let (stream, age) = (stream(&warehouse), Duration::from_millis(1));
    let at_the_end = async || {
        let end = broker.ends()[&(TOPIC.to_owned(), 0)];
        let partition = SourcePartition { source: "kafka".into(), topic: TOPIC.into(), incarnation: 0, partition: 0 };
        let begun = Instant::now();
        while stream.position(&stream.open().await.unwrap(), &partition) != Some(end) {
            assert!(begun.elapsed() < PATIENCE, "it is stalled");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        (partition, end)
    };
    (0..10).for_each(|number| broker.produce(event(number)));
    let process = Process::start(&broker, &warehouse, age).await;
    let (partition, from) = at_the_end().await;
    process.leaves().await;
    (10..20).for_each(|number| broker.produce(event(number)));
    let to = broker.ends()[&(TOPIC.to_owned(), 0)];
    let part = Part { partition, from, to, rows: 0, digest: 0, mark: None };
    stream.land(&[part], Vec::new()).await.unwrap();
    (20..30).for_each(|number| broker.produce(event(number)));
    let process = Process::start(&broker, &warehouse, age).await;
    at_the_end().await;
    process.leaves().await;
    let found = super::payloads(&super::rows(warehouse.store(), &stream).await);
    let expected: Vec<Vec<u8>> = (0..10).chain(20..30).map(|number| event(number).into_bytes()).collect();
    assert_eq!(found, expected);
}

/// Under a process that follows it, so fast that the client does not notice. The records up to the old position were lost
/// without a word.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_is_made_again_under_its_reader_stops() {
    let store = Arc::new(InMemory::new());
    let (warehouse, broker) = (plain(&store), Broker::new(1, TOPIC, 1));
    let stream = stream(&warehouse);
    (0..10).for_each(|number| broker.produce(event(number)));
    let process = Process::start(&broker, &warehouse, Duration::from_millis(2)).await;
    let position = broker.ends()[&(TOPIC.to_owned(), 0)];
    let begun = Instant::now();
    while positions(&stream).await != BTreeMap::from([(0, position)]) {
        assert!(begun.elapsed() < PATIENCE, "it is stalled");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // It finds nothing for a while, which is what it goes by: between two reads it waits half a millisecond.
    let silent = broker.empty_reads() + 20;
    while broker.empty_reads() < silent {
        assert!(begun.elapsed() < PATIENCE, "it reads no more");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    broker.make_again(position + 100);
    while stops(&stream).await.unwrap().is_empty() {
        assert!(begun.elapsed() < PATIENCE, "it is read on: {:?}", positions(&stream).await);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    process.leaves().await;
    let stopped = stops(&stream).await.unwrap();
    assert_eq!(stopped[0].why, Why::MadeAgain { position, end: None });
    assert_eq!(positions(&stream).await, BTreeMap::from([(0, position)]));
    // The rest of the new topic, and not its end alone, once that is wanted.
    assert!(go_on(&stream, &stopped[0]).await.unwrap());
    let process = Process::start(&broker, &warehouse, Duration::from_millis(2)).await;
    let rows = async || stream.open().await.unwrap().rows();
    while rows().await != Some(10 + position as u64 + 100) {
        assert!(begun.elapsed() < PATIENCE, "it is stalled: {:?}", rows().await);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    process.leaves().await;
}

#[test]
fn a_batch_whose_source_has_marks_is_not_ended_without_one() {
    let mut batch = crate::rows::Batch::default();
    let partition = SourcePartition { source: "k".into(), topic: "t".into(), incarnation: 0, partition: 3 };
    batch.begin_marked(partition, 0);
    let error = batch.finish().unwrap_err();
    assert_eq!(error.kind(), Kind::Internal);
    assert!(error.to_string().contains("no mark for partition 3 of `t` (source `k`)"), "{error}");
}
