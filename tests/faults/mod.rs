//! Promise 1 and 2 on a store that misbehaves, and over objects that are not what they were.
//!
//! First, operations go wrong: each one, once, for landing, building and publishing; and a disk is full. Whoever
//! repeats the command, the process that met the trouble or another one, ends with everything counted once. Then,
//! objects go wrong: what cannot be read is named, and there is no panic and no wrong answer.

mod damaged;
mod sources;

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use arrow::array::AsArray;
use bytes::Bytes;
use fastrand::Rng;
use futures::StreamExt;
use object_store::memory::InMemory;
use object_store::path::Path as ObjectPath;
use serde_json::json;
use starmere_ingest::envelope::Mapping;
use starmere_ingest::files::{self, Progress, Source};
use starmere_ingest::http::{Limits, Listener, Target};
use starmere_ingest::memory::Memory;
use starmere_ingest::reread::{Rereading, TakingBack};
use starmere_lake::Kind;
use starmere_lake::catalog::Catalog;
use starmere_lake::delta::Warehouse;
use starmere_lake::events::file_schema;
use starmere_lake::landing::Stream;
use starmere_lake::paths::{self, TablePath};
use starmere_models::resolve::Models;
use tempfile::TempDir;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use crate::support::damage::{self, Damage};
use crate::support::events::{Event, OrderLine, STREAMS, events, expected};
use crate::support::http;
use crate::support::models::{build_once, mapping, models};
use crate::support::process::{Ended, Server};
use crate::support::producer::Producer;
use crate::support::project::Project;
use crate::support::seeds;
use crate::support::stores::{Failing, Faulty, Trouble, plain, tampered};
use crate::support::tables;
use crate::support::upkeep::compact_all;

/// What happens to an operation, and how many after it fail as well.
const TROUBLES: [(Trouble, usize); 4] =
    [(Trouble::Refused, 0), (Trouble::Lost, 0), (Trouble::Lost, 3), (Trouble::Twice, 0)];

/// What tells orders apart as well as their ids do.
const OTHER_ID: &str = "order";

/// A case takes a part of a second; whatever takes this long goes round in circles.
const PATIENCE: Duration = Duration::from_secs(30);

/// At which operations, or writes, trouble can be met.
fn places(trouble: Trouble, (operations, writes): (usize, usize)) -> Range<usize> {
    if trouble == Trouble::Refused { 0..operations } else { 0..writes }
}

/// What is left to do in a [`Scene`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Land,
    Build,
    Compact,
    Reread,
    TakeBack,
}

/// A warehouse in which much has landed and been built, and something is left to do.
struct Scene {
    work: Work,
    store: InMemory,
    inbox: TempDir,
    /// All lines of the inbox, by stream.
    lines: [Vec<String>; 2],
    models: Models,
    /// The newest catalog snapshot.
    number: u64,
    /// What it says.
    published: Vec<OrderLine>,
    /// What the next one must say.
    expected: Vec<OrderLine>,
}

/// Lands what is new in an inbox, once. A file that is refused is an error.
async fn land(warehouse: &Warehouse, inbox: &Path) -> Result<()> {
    for name in STREAMS {
        let stream = Stream::new(name, tables::stream(warehouse, name));
        land_folder(&stream, &inbox.join(name)).await?;
    }
    Ok(())
}

async fn land_folder(stream: &Stream, folder: &Path) -> Result<()> {
    let source = Source { name: "files".into(), pattern: folder.to_path_buf(), topic: None, end_of_input: false };
    let report = files::land(
        stream,
        &mapping(),
        &source,
        &Arc::new(Progress::default()),
        &Memory::default(),
        &CancellationToken::new(),
    )
    .await?;
    match report.refused.first() {
        Some(refused) => anyhow::bail!("`{}` was refused: {}", refused.path, refused.reason),
        None => Ok(()),
    }
}

/// The same, by somebody who loses patience.
async fn land_in_time(stream: &Stream, folder: &Path) -> Result<()> {
    tokio::time::timeout(PATIENCE, land_folder(stream, folder)).await.expect("landing ends")
}

/// Reads what has landed in orders anew, by the id that is there.
async fn reread(warehouse: &Warehouse, id: &str) -> Result<()> {
    let stream = Stream::new("orders", tables::stream(warehouse, "orders"));
    let mapping = Mapping { id: Some(id.to_owned()), ..mapping() };
    Rereading::new(&stream, &mapping, 32 << 20).await?.carry_out(true).await?;
    Ok(())
}

/// Takes the last reread of orders back, where there is one.
async fn take_back(warehouse: &Warehouse) -> Result<()> {
    let taken_back = match TakingBack::of(&Stream::new("orders", tables::stream(warehouse, "orders"))).await {
        Ok(taking_back) => taking_back.carry_out().await.map(|_| ()),
        Err(error) => Err(error),
    };
    match taken_back {
        Err(starmere_ingest::Error::Refused { .. }) => Ok(()),
        other => Ok(other?),
    }
}

/// The first letters of the ids of all orders: `e` of events, `o` of orders.
async fn letters(warehouse: &Warehouse) -> BTreeSet<char> {
    let table = tables::stream(warehouse, "orders");
    let snapshot = table.snapshot().await.unwrap().unwrap();
    let mut letters = BTreeSet::new();
    for add in snapshot.files() {
        let rows = table.read(add, file_schema()).await.unwrap();
        let ids = rows.column_by_name("event_id").unwrap().as_string::<i32>();
        letters.extend(ids.iter().flatten().filter_map(|id| id.chars().next()));
    }
    letters
}

fn kind(error: &anyhow::Error) -> Option<Kind> {
    let ingest = error.downcast_ref::<starmere_ingest::Error>().map(starmere_ingest::Error::kind);
    let lake = error.downcast_ref::<starmere_lake::Error>().map(starmere_lake::Error::kind);
    ingest.or(lake).or(error.downcast_ref::<starmere_models::Error>().map(starmere_models::Error::kind))
}

impl Scene {
    /// The log of orders has at least so many commits.
    async fn new(work: Work, commits: u64) -> Self {
        let mut random = Rng::with_seed(8);
        let all = events(&mut random, 160);
        let inbox = tempfile::tempdir().unwrap();
        for stream in STREAMS {
            std::fs::create_dir_all(inbox.path().join(stream)).unwrap();
        }
        let (store, models) = (Arc::new(InMemory::new()), models());
        let warehouse = plain(&store);
        let mut producer = Producer::new(inbox.path());
        let mut told = 0;
        let mut tell = async |count: usize, random: &mut Rng| {
            producer.take(&all[told..told + count], random);
            producer.finish(random);
            land(&warehouse, inbox.path()).await.unwrap();
            told += count;
        };
        tell(20, &mut random).await;
        build_once(&warehouse, &models).await.unwrap();
        tell(15, &mut random).await;
        while tables::stream(&warehouse, "orders").snapshot().await.unwrap().unwrap().version() < commits {
            tell(1, &mut random).await;
        }
        let number = build_once(&warehouse, &models).await.unwrap().number;
        let so_far = &all[..told + 20];
        producer.take(&so_far[told..], &mut random);
        (0..8).for_each(|_| producer.act(&mut random));
        producer.finish(&mut random);
        if work != Work::Land {
            land(&warehouse, inbox.path()).await.unwrap();
        }
        if work == Work::TakeBack {
            reread(&warehouse, OTHER_ID).await.unwrap();
        }
        let (published, expected) = (expected(&so_far[..told]), expected(so_far));
        Self { work, store: store.fork(), lines: producer.all(), inbox, models, number, published, expected }
    }

    fn fork(&self) -> Arc<InMemory> {
        Arc::new(self.store.fork())
    }

    /// Does what is left, once.
    async fn attempt(&self, warehouse: &Warehouse) -> Result<()> {
        match self.work {
            Work::Land => land(warehouse, self.inbox.path()).await,
            Work::Build => {
                build_once(warehouse, &self.models).await?;
                Ok(())
            }
            Work::Compact => {
                for name in STREAMS {
                    compact_all(warehouse, name).await?;
                }
                Ok(())
            }
            Work::Reread => reread(warehouse, OTHER_ID).await,
            Work::TakeBack => take_back(warehouse).await,
        }
    }

    /// How many operations and writes that takes.
    async fn count(&self) -> (usize, usize) {
        let faulty = Faulty::never();
        self.attempt(&tampered(&self.fork(), &faulty)).await.unwrap();
        (faulty.operations(), faulty.writes())
    }

    /// Fails unless all of it is done, and once.
    async fn is_done(&self, store: &Arc<InMemory>) {
        let warehouse = plain(store);
        for (name, lines) in STREAMS.iter().zip(&self.lines) {
            assert_eq!(tables::landed(&warehouse, name).await, *lines, "the lake holds each line once");
            assert_eq!(tables::holes(&tables::stream(&warehouse, name)).await, [""; 0]);
        }
        let snapshot = Catalog::new(&warehouse).newest().await.unwrap();
        let (number, lines) = match self.work {
            Work::Land | Work::Compact | Work::Reread | Work::TakeBack => (self.number, &self.published),
            Work::Build => (self.number + 1, &self.expected),
        };
        let letter = match self.work {
            Work::Reread => Some('o'),
            Work::TakeBack => Some('e'),
            Work::Land | Work::Build | Work::Compact => None,
        };
        if let Some(letter) = letter {
            assert_eq!(letters(&warehouse).await, BTreeSet::from([letter]));
        }
        assert_eq!(snapshot.number, number, "what is built is published once");
        assert_eq!(tables::published(&warehouse, &snapshot).await, *lines, "each event counts once");
    }

    /// Meets trouble, then repeats the command: in the same process, and in another one instead.
    async fn survives(&self, (trouble, away, at): (Trouble, usize, usize)) {
        let store = self.fork();
        let faulty = Faulty::new(trouble, at, away);
        let warehouse = tampered(&store, &faulty);
        let first = self.attempt(&warehouse).await;
        faulty.heal();
        if matches!(self.work, Work::Reread | Work::TakeBack) {
            assert_eq!(letters(&plain(&store)).await.len(), 1, "all rows are read anew, or none");
        }
        let failed = faulty.failed();
        let is_settled = failed.first().is_none_or(|path| {
            trouble == Trouble::Lost && away == 0 && paths::commit_version(path).is_some_and(|version| version > 0)
        });
        match &first {
            Ok(()) => {}
            Err(error) if is_settled => panic!("reading settles whether `{failed:?}` was written: {error:#}"),
            Err(error) => {
                assert_eq!(kind(error), Some(Kind::Unavailable), "{error:#}");
                let names = |path: &ObjectPath| error.to_string().contains(&path.to_string());
                assert!(failed.iter().any(names), "`{error:#}` names none of {failed:?}");
            }
        }
        let other = Arc::new(store.fork());
        for (warehouse, store) in [(warehouse, store), (plain(&other), other)] {
            self.attempt(&warehouse).await.unwrap();
            self.is_done(&store).await;
        }
    }

    /// Meets all of these troubles at every operation.
    async fn survives_all(self, troubles: &[(Trouble, usize)]) {
        let count = self.count().await;
        // What was there before is put back by a commit alone.
        let least = if self.work == Work::TakeBack { (5, 0) } else { (15, 2) };
        assert!(count.0 > least.0 && count.1 > least.1, "operations and writes: {count:?}");
        let all =
            troubles.iter().flat_map(|&(trouble, away)| places(trouble, count).map(move |at| (trouble, away, at)));
        let cases: Vec<(Trouble, usize, usize)> = all.collect();
        let scene = Arc::new(self);
        let all = futures::stream::iter(cases).for_each_concurrent(2, |case| {
            let scene = scene.clone();
            async move {
                if let Err(error) = tokio::spawn(async move { scene.survives(case).await }).await {
                    panic!("{case:?}: {error}");
                }
            }
        });
        all.await;
    }

    /// Lands and builds what is left; what is published then.
    async fn everything(&self, store: &Arc<InMemory>) -> Result<Vec<OrderLine>> {
        let warehouse = plain(store);
        land(&warehouse, self.inbox.path()).await?;
        let snapshot = build_once(&warehouse, &self.models).await?;
        tables::read(&warehouse, &snapshot).await
    }

    /// What is wrong with how a damaged store is met: neither the right answer, nor an error that names the object.
    async fn complaint(self: Arc<Self>, case: String, store: Arc<InMemory>, name: String) -> Option<String> {
        let scene = self.clone();
        let met = tokio::spawn(async move { tokio::time::timeout(PATIENCE, scene.everything(&store)).await });
        match met.await {
            Ok(Ok(Ok(lines))) if lines == self.expected => None,
            Ok(Ok(Ok(_))) => Some(format!("{case}: a wrong answer")),
            Ok(Ok(Err(error))) if format!("{error:#}").contains(&name) => None,
            Ok(Ok(Err(error))) => Some(format!("{case}: `{error:#}` does not name `{name}`")),
            Ok(Err(_)) => Some(format!("{case}: it does not end")),
            Err(error) => Some(format!("{case}: {error}")),
        }
    }

    /// Fails with all complaints about these cases: in words, the store, and what an error must name.
    async fn has_no_complaints(self: Arc<Self>, cases: Vec<(String, Arc<InMemory>, String)>) {
        assert!(cases.len() > 2, "only {} cases", cases.len());
        let met = futures::stream::iter(cases).map(|(case, store, name)| self.clone().complaint(case, store, name));
        let complaints: Vec<String> = met.buffer_unordered(2).filter_map(std::future::ready).collect().await;
        assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    }
}

/// Tries to lose lines, or to land them twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn landing_survives_trouble_at_any_operation() {
    Scene::new(Work::Land, 0).await.survives_all(&TROUBLES).await;
}

/// The same where landing reads a cache of what has landed, and writes a checkpoint.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn landing_survives_trouble_with_a_checkpoint() {
    let scene = Scene::new(Work::Land, 49).await;
    scene.survives_all(&[(Trouble::Refused, 2), (Trouble::Lost, 0), (Trouble::Twice, 0)]).await;
}

/// Tries to lose events, to count them twice, or to publish them twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn building_and_publishing_survive_trouble_at_any_operation() {
    Scene::new(Work::Build, 0).await.survives_all(&TROUBLES).await;
}

/// Tries to lose rows, or to have them twice, while files are put together.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compaction_survives_trouble_at_any_operation() {
    Scene::new(Work::Compact, 0).await.survives_all(&TROUBLES).await;
}

/// Tries to have some rows read anew, and others not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reread_survives_trouble_at_any_operation() {
    for work in [Work::Reread, Work::TakeBack] {
        Scene::new(work, 0).await.survives_all(&TROUBLES).await;
    }
}

/// From any write on there is no room: it is said, as often as it is tried, and readers keep what they had.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_told_and_harms_nothing() {
    for work in [Work::Land, Work::Build] {
        let scene = Scene::new(work, 0).await;
        let (_, writes) = scene.count().await;
        for at in 0..writes {
            let store = scene.fork();
            let faulty = Faulty::new(Trouble::Full, at, 0);
            let warehouse = tampered(&store, &faulty);
            for _ in 0..2 {
                let error = scene.attempt(&warehouse).await.expect_err("there is no room");
                assert_eq!(kind(&error), Some(Kind::Unavailable), "{work:?}, write {at}: {error:#}");
                assert!(format!("{error:#}").contains("no space left"), "{work:?}, write {at}: {error:#}");
            }
            let reader = plain(&store);
            let snapshot = Catalog::new(&reader).newest().await.unwrap();
            assert_eq!(snapshot.number, scene.number, "{work:?}, write {at}");
            assert_eq!(tables::published(&reader, &snapshot).await, scene.published, "{work:?}, write {at}");
            faulty.heal();
            scene.attempt(&warehouse).await.unwrap();
            scene.is_done(&store).await;
        }
    }
}

/// Fails, loses answers, writes late and twice, at random and for long, while processes come and go.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_fails_at_random_loses_nothing() {
    let runs = futures::stream::iter(seeds(30)).for_each_concurrent(2, |seed| async move {
        if let Err(error) = tokio::spawn(at_random(seed)).await {
            panic!("seed {seed} (STARMERE_SEEDS={seed}..{} runs it alone): {error}", seed + 1);
        }
    });
    runs.await;
}

async fn at_random(seed: u64) {
    let mut random = Rng::with_seed(seed);
    let inbox = tempfile::tempdir().unwrap();
    for stream in STREAMS {
        std::fs::create_dir_all(inbox.path().join(stream)).unwrap();
    }
    let (store, models) = (Arc::new(InMemory::new()), models());
    let failing = Failing::new(seed, 4);
    let mut warehouse = tampered(&store, &failing);
    let mut producer = Producer::new(inbox.path());
    let events: Vec<Event> = events(&mut random, 80);
    for told in events.chunks(20) {
        producer.take(told, &mut random);
        producer.finish(&mut random);
        for _ in 0..random.u32(1..12) {
            let attempt = match random.u32(0..6) {
                0 | 1 => land(&warehouse, inbox.path()).await,
                2 => match random.u32(0..3) {
                    0 => take_back(&warehouse).await,
                    1 => reread(&warehouse, "id").await,
                    _ => reread(&warehouse, OTHER_ID).await,
                },
                _ => build_once(&warehouse, &models).await.map(|_| ()).map_err(Into::into),
            };
            if let Err(error) = attempt {
                let fine = [Some(Kind::Unavailable), Some(Kind::Conflict)].contains(&kind(&error));
                assert!(fine, "{:?}: {error:#}", kind(&error));
            }
            if random.u32(0..3) == 0 {
                warehouse = tampered(&store, &failing);
            }
        }
    }
    failing.heal();
    land(&warehouse, inbox.path()).await.unwrap();
    // Some rows may have one id, and their copies another one.
    reread(&warehouse, "id").await.unwrap();
    let snapshot = build_once(&warehouse, &models).await.unwrap();
    let reader = plain(&store);
    for (name, lines) in STREAMS.iter().zip(producer.all()) {
        assert_eq!(tables::landed(&reader, name).await, lines, "the lake holds each line once");
    }
    assert_eq!(tables::published(&reader, &snapshot).await, expected(&events), "each event counts once");
}

/// Requests are not gathered.
fn quick() -> Limits {
    Limits { gather: Duration::ZERO, ..Limits::default() }
}

/// Posts events while one operation goes wrong; how many operations and writes there were.
async fn posted(trouble: Trouble, at: usize, away: usize) -> (usize, usize) {
    let store = Arc::new(InMemory::new());
    let faulty = Faulty::new(trouble, at, away);
    let stream = Stream::new("orders", tables::stream(&tampered(&store, &faulty), "orders"));
    let stop = CancellationToken::new();
    let listener = Listener::new(
        vec![Target { stream, mapping: mapping(), signatures: None, judge: None }],
        quick(),
        &Memory::default(),
        &stop,
    );
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap().to_string();
    let (router, stopped) = (listener.router(), stop.clone().cancelled_owned());
    let web = tokio::spawn(async move { axum::serve(socket, router).with_graceful_shutdown(stopped).await });
    let mut sent = Vec::new();
    for request in events(&mut Rng::with_seed(9), 12).chunks(4) {
        let lines: Vec<String> = request.iter().map(|event| event.line(0)).collect();
        let (address, body) = (address.clone(), lines.join("\n"));
        let answer =
            spawn_blocking(move || http::post(&address, "/v1/streams/orders/events", &body)).await.unwrap().unwrap();
        assert_eq!(answer.status, 200, "{trouble:?} at {at}: {}", answer.text());
        sent.extend(lines);
    }
    stop.cancel();
    listener.finished().await;
    web.await.unwrap().unwrap();
    sent.sort();
    let table = tables::stream(&plain(&store), "orders");
    assert_eq!(tables::payloads(&table).await, sent, "{trouble:?} at {at}: each event landed once");
    assert_eq!(tables::holes(&table).await, [""; 0], "{trouble:?} at {at}");
    (faulty.operations(), faulty.writes())
}

/// Tries to make the listener answer for events that did not land, or land them twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_listener_survives_trouble_at_any_operation() {
    let count = posted(Trouble::Refused, usize::MAX, 0).await;
    assert!(count.0 > 5 && count.1 > 2, "operations and writes: {count:?}");
    for (trouble, away) in TROUBLES {
        for at in places(trouble, count) {
            posted(trouble, at, away).await;
        }
    }
}

/// The lines of a stream; one that is kept beside the table is read from there.
async fn whole_lines(store: &Arc<InMemory>) -> Vec<String> {
    let mut lines = Vec::new();
    for line in tables::landed(&plain(store), "orders").await {
        let reference = serde_json::from_str::<serde_json::Value>(&line).unwrap_or_default();
        lines.push(match reference["oversized"].as_str() {
            Some(path) => String::from_utf8_lossy(&damage::read(store, &ObjectPath::from(path)).await).into_owned(),
            None => line,
        });
    }
    lines.sort();
    lines
}

/// Lines that are kept beside the table: tries to lose the lines before and after them, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_too_long_for_a_row_survive_trouble_at_any_operation() {
    let folder = tempfile::tempdir().unwrap();
    let usual = events(&mut Rng::with_seed(10), 4).into_iter().map(|event| event.line(0));
    let mut lines: Vec<String> = usual.collect();
    lines.insert(1, "x".repeat(20_000));
    lines.insert(3, "y".repeat(1_500));
    std::fs::write(folder.path().join("long.jsonl"), lines.join("\n") + "\n").unwrap();
    lines.sort();
    let new = |faulty: &Arc<Faulty>| {
        let store = Arc::new(InMemory::new());
        let stream = Stream::new("orders", tables::stream(&tampered(&store, faulty), "orders"));
        (store, stream)
    };
    let never = Faulty::never();
    land_in_time(&new(&never).1, folder.path()).await.unwrap();
    assert!(never.writes() > 4, "only {} writes", never.writes());
    for (trouble, away) in TROUBLES {
        for at in places(trouble, (never.operations(), never.writes())) {
            let faulty = Faulty::new(trouble, at, away);
            let (store, stream) = new(&faulty);
            // A file that met the trouble is refused, for now.
            let _ = land_in_time(&stream, folder.path()).await;
            faulty.heal();
            land_in_time(&stream, folder.path()).await.unwrap_or_else(|error| panic!("{trouble:?} at {at}: {error:#}"));
            assert_eq!(whole_lines(&store).await, lines, "{trouble:?} at {at}");
        }
    }
}

/// Content as gzip has it, in one block that is not compressed.
fn packed(content: &[u8]) -> Vec<u8> {
    let mut remainder = u32::MAX;
    for byte in content {
        remainder ^= u32::from(*byte);
        for _ in 0..8 {
            remainder = (remainder >> 1) ^ (0xedb8_8320 * (remainder & 1));
        }
    }
    let length = content.len() as u16;
    let mut packed = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255, 1];
    packed.extend([length.to_le_bytes(), (!length).to_le_bytes()].concat());
    packed.extend(content);
    packed.extend([(!remainder).to_le_bytes(), u32::from(length).to_le_bytes()].concat());
    packed
}

/// A file that somebody is still packing, or that a disk has cut off: it is refused until it is whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_packed_file_that_is_cut_off_lands_once_when_it_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let events = events(&mut Rng::with_seed(11), 6);
    let mut lines: Vec<String> = events.iter().map(|event| event.line(0)).collect();
    let whole = packed((lines.join("\n") + "\n").as_bytes());
    lines.sort();
    let store = Arc::new(InMemory::new());
    let stream = Stream::new("orders", tables::stream(&plain(&store), "orders"));
    let path = folder.path().join("day.jsonl.gz");
    for cut in [whole.len() / 2, whole.len() - 4] {
        std::fs::write(&path, &whole[..cut]).unwrap();
        let refused = land_in_time(&stream, folder.path()).await.expect_err("the file is not whole");
        assert!(refused.to_string().contains("day.jsonl.gz"), "{refused:#}");
    }
    std::fs::write(&path, &whole).unwrap();
    land_in_time(&stream, folder.path()).await.unwrap();
    assert_eq!(whole_lines(&store).await, lines);
}
