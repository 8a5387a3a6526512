mod formats;
mod hostile;

use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::envelope::{Mapping, TypeOf};
use crate::memory::Memory;
use arrow::array::RecordBatch;
use starmere_lake::delta::Warehouse;
use starmere_lake::formats::{Encoding, Format};
use starmere_lake::landing::Stream;
use starmere_lake::paths::TablePath;
use starmere_lake::provider::PinnedTable;
use starmere_lake::session::Engine;
use starmere_lake::store::Store;
use tokio_util::sync::CancellationToken;

struct World {
    folder: tempfile::TempDir,
    stream: Stream,
    end_of_input: bool,
    format: Format,
    memory: Memory,
    stop: CancellationToken,
}

/// Columns of a stream's rows as text, by their order in the source.
pub(crate) async fn texts(stream: &Stream, columns: &[&str]) -> Vec<Vec<String>> {
    let store = stream.table().store();
    let session = Engine::new(store, 1 << 28).unwrap().session();
    session.register_table("s", Arc::new(PinnedTable::new(store, stream.open().await.unwrap()))).unwrap();
    let query = format!("SELECT {} FROM s ORDER BY topic, partition, position", columns.join(", "));
    let batches = session.sql(&query).await.unwrap().collect().await.unwrap();
    let of_row = |batch: &RecordBatch, row: usize| {
        let columns = batch.columns().iter();
        columns.map(|column| arrow::util::display::array_value_to_string(column, row).unwrap()).collect()
    };
    batches.iter().flat_map(|batch| (0..batch.num_rows()).map(|row| of_row(batch, row)).collect::<Vec<_>>()).collect()
}

fn event(number: u32) -> String {
    format!("{{\"type\":\"t\",\"at\":\"2024-01-01T00:00:00Z\",\"n\":{number}}}\n")
}

fn events(numbers: std::ops::Range<u32>) -> String {
    numbers.map(event).collect()
}

impl World {
    fn new() -> Self {
        let warehouse = Warehouse::new(Store::memory());
        let stream = Stream::new("s", warehouse.table(TablePath::stream("d", "s")));
        Self {
            folder: tempfile::tempdir().unwrap(),
            stream,
            end_of_input: false,
            format: Format::default(),
            memory: Memory::default(),
            stop: CancellationToken::new(),
        }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn of(encoding: Encoding) -> Self {
        Self { format: Format { encoding, convention: None }, ..Self::new() }
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        std::fs::write(self.path(name), content).unwrap();
    }

    fn rename(&self, from: &str, to: &str) {
        std::fs::rename(self.path(from), self.path(to)).unwrap();
    }

    async fn land(&self) -> Report {
        self.land_at(self.folder.path()).await
    }

    async fn land_at(&self, pattern: &Path) -> Report {
        let mapping = Mapping {
            max_event_bytes: 2000,
            format: self.format.clone(),
            ..Mapping::new(TypeOf::Path("type".into()), Some("at".into()))
        };
        let source =
            Source { name: "inbox".into(), pattern: pattern.into(), topic: None, end_of_input: self.end_of_input };
        land(&self.stream, &mapping, &source, &Arc::new(Progress::default()), &self.memory, &self.stop).await.unwrap()
    }

    async fn rows(&self) -> u64 {
        self.stream.open().await.unwrap().rows().unwrap()
    }
}

#[tokio::test]
async fn a_file_lands_once_and_grows() {
    let world = World::new();
    world.write("a.jsonl", events(0..10));
    assert_eq!(world.land().await.counts.events, 10);
    assert_eq!(world.land().await.counts.events, 0);
    world.write("a.jsonl", events(0..15) + "{\"half");
    let report = world.land().await;
    assert_eq!((report.counts.events, report.files_continued, report.files_waiting.len()), (5, 1, 1));
    world.write("a.jsonl", events(0..15) + "{\"half\"}\n");
    assert_eq!((world.land().await.counts.rejects, world.rows().await), (1, 16));
}

#[tokio::test]
async fn a_last_line_counts_when_the_end_is_declared_and_its_newline_is_no_event() {
    let mut world = World::new();
    world.end_of_input = true;
    world.write("a", events(0..2).trim_end());
    assert_eq!(world.land().await.counts.events, 2);
    world.write("a", events(0..3));
    let report = world.land().await;
    assert_eq!((report.counts.events, report.counts.rejects, world.rows().await), (1, 0, 3));
}

#[tokio::test]
async fn renamed_rotated_and_packed_files_are_known_again() {
    let world = World::new();
    world.write("log", events(0..100));
    world.write("other", events(500..510));
    assert_eq!(world.land().await.counts.events, 110);
    // log.1 is what log was; log is new and shorter.
    world.rename("log", "log.1");
    world.write("log", events(100..105));
    let report = world.land().await;
    assert_eq!((report.counts.events, report.files_new, report.refused), (5, 1, vec![]));
    // Rotated once more, the oldest packed; and it had grown before.
    let packed = {
        use std::io::Write as _;
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all((events(0..100) + &events(1000..1003)).as_bytes()).unwrap();
        gzip.finish().unwrap()
    };
    std::fs::remove_file(world.path("log.1")).unwrap();
    world.write("log.2.gz", packed);
    world.rename("log", "log.1");
    world.write("log", events(105..106));
    let report = world.land().await;
    assert_eq!((report.counts.events, report.refused), (4, vec![]));
    assert_eq!((world.land().await.counts.events, world.rows().await), (0, 119));
}

#[tokio::test]
async fn a_copy_adds_nothing_and_a_replaced_file_is_refused() {
    let world = World::new();
    world.write("a", events(0..10));
    world.write("b", events(20..30));
    world.land().await;
    world.write("copy/of/a", events(0..10));
    let report = world.land().await;
    assert_eq!((report.counts.events, report.files_copied), (0, 1));
    world.write("b", events(40..60));
    world.write("c", events(60..61));
    let report = world.land().await;
    assert_eq!(report.counts.events, 1, "the rest goes on");
    assert_eq!(report.refused.len(), 1);
    assert_eq!(report.refused[0].path, "b");
    assert!(report.refused[0].reason.contains("no longer the 480 bytes"), "{}", report.refused[0].reason);
    world.write("b", events(20..31));
    let report = world.land().await;
    assert_eq!((report.counts.events, report.refused, world.rows().await), (1, vec![], 22));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_that_is_short_makes_batches_smaller_and_loses_nothing() {
    let content = events(0..200_000);
    for (memory, is_one) in [(Memory::default(), true), (Memory::new(8 << 20), false)] {
        let world = World { memory, ..World::new() };
        world.write("a", &content);
        let report = world.land().await;
        assert_eq!((report.counts.events, report.commits == 1), (200_000, is_one), "{} commits", report.commits);
        assert_eq!((world.rows().await, world.memory.used()), (200_000, 0));
    }
}

#[tokio::test]
async fn what_is_told_to_stop_lands_what_it_has_read() {
    let mut world = World::new();
    world.write("a", events(0..10));
    world.write("b", events(10..20));
    world.stop.cancel();
    assert_eq!(world.land().await.counts.events, 1, "it looks up after each event");
    world.stop = CancellationToken::new();
    assert_eq!((world.land().await.counts.events, world.rows().await), (19, 20));
}

#[tokio::test]
async fn packed_copies_that_come_with_their_original_are_copies() {
    use std::io::Write as _;
    let world = World::new();
    let content = events(0..300);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(content.as_bytes()).unwrap();
    world.write("a.gz", gzip.finish().unwrap());
    world.write("a", &content);
    world.write("b.zst", zstd::stream::encode_all(content.as_bytes(), 1).unwrap());
    world.write("other", events(300..310));
    let report = world.land().await;
    assert_eq!((report.counts.events, report.files_copied), (310, 2));
    assert_eq!((world.land().await.counts.events, world.rows().await), (0, 310));
}

#[tokio::test]
async fn copies_that_come_at_once_are_copies_too() {
    let world = World::new();
    for name in ["a", "b", "c"] {
        world.write(name, events(0..300));
    }
    world.write("other", events(300..600));
    world.write("waits", "{\"half");
    world.write("waits too", "{\"half");
    let report = world.land().await;
    assert_eq!((report.counts.events, report.files_copied, world.rows().await), (600, 2, 600));
    assert_eq!(report.counts.types.iter().collect::<Vec<_>>(), [("t", 600)]);
    let report = world.land().await;
    assert_eq!((report.counts.events, report.files_copied, report.files_unchanged), (0, 2, 2));
    let report = world.land().await;
    assert_eq!((report.commits, report.files_copied, report.files_unchanged), (0, 0, 4), "from now on they are known");
    // One goes on, and a file with all of it comes at once.
    world.write("other", events(300..601));
    world.write("another", events(300..601));
    assert_eq!((world.land().await.counts.events, world.rows().await), (1, 601));
}

#[tokio::test]
async fn a_copy_stays_one_when_its_original_grows_and_grows_itself() {
    let world = World::new();
    world.write("a", events(0..100));
    world.land().await;
    world.write("copy", events(0..100));
    world.write("empty", "");
    assert_eq!(world.land().await.files_copied, 1);
    world.write("a", events(0..103));
    assert_eq!((world.land().await.counts.events, world.rows().await), (3, 103));
    world.write("copy", events(0..100) + &events(500..505));
    let report = world.land().await;
    assert_eq!((report.counts.events, report.files_continued, world.rows().await), (5, 1, 108));
    let report = world.land().await;
    assert_eq!((report.commits, report.files_new, report.files_unchanged), (0, 0, 3));
}

#[tokio::test]
async fn a_log_that_is_copied_and_cut_off_lands_once() {
    let world = World::new();
    let mut landed = 0;
    for round in 0..4 {
        // As logrotate does with `copytruncate`, with a run between each two steps.
        let lines = events(round * 100..round * 100 + 50);
        world.write("log", &lines);
        landed += 50;
        let report = world.land().await;
        assert_eq!((report.counts.events, report.refused), (50, vec![]));
        for place in (1..3).rev().filter(|place| world.path(&format!("log.{place}")).exists()) {
            world.rename(&format!("log.{place}"), &format!("log.{}", place + 1));
            assert_eq!((world.land().await.refused, world.rows().await), (vec![], landed));
        }
        world.write("log.1", &lines);
        let report = world.land().await;
        assert_eq!((report.counts.events, report.files_copied, report.refused), (0, 1, vec![]));
        world.write("log", "");
        assert_eq!((world.land().await.refused, world.rows().await), (vec![], landed));
    }
}

#[tokio::test]
async fn two_files_with_the_same_beginning_are_two_files() {
    let world = World::new();
    world.write("a", event(1));
    world.land().await;
    world.write("b", event(1) + &event(2));
    assert_eq!((world.land().await.counts.events, world.rows().await), (2, 3));
}

#[tokio::test]
async fn a_line_too_long_for_a_row_is_kept_beside_the_table() {
    let world = World::new();
    let long = "x".repeat(5_000_000);
    world.write("a", event(1) + &long + "\n" + &event(2) + &"y".repeat(2001) + "\n" + &event(3));
    let report = world.land().await;
    assert_eq!((report.counts.events, report.counts.rejects), (5, 2));
    let object = world.stream.table().path().oversized("inbox", "a", 0, 0, event(1).len() as i64);
    assert_eq!(world.stream.table().store().read(&object).await.unwrap().unwrap(), long);
    assert_eq!(world.land().await.counts.events, 0);
}

#[tokio::test]
async fn many_small_files_take_few_commits_and_are_not_read_again() {
    let world = World::new();
    for number in 0..6000 {
        world.write(&format!("{:02}/{number}.json", number % 100), event(number));
    }
    let report = world.land().await;
    assert_eq!((report.counts.events, report.files_new, report.commits), (6000, 6000, 2));
    let report = world.land().await;
    assert_eq!((report.files_unchanged, report.commits), (6000, 0));
}

#[tokio::test]
async fn writers_that_race_land_everything_once() {
    let world = Arc::new(World::new());
    for number in 0..50 {
        world.write(&format!("{number}"), events(number * 1000..number * 1000 + 20));
    }
    let racers = (0..4).map(|_| {
        let world = world.clone();
        tokio::spawn(async move { world.land().await.counts.events })
    });
    let mut events = 0;
    for racer in racers.collect::<Vec<_>>() {
        events += racer.await.unwrap();
    }
    assert_eq!((events, world.rows().await), (1000, 1000));
}

#[tokio::test]
async fn a_glob_takes_what_it_names_and_an_empty_pattern_is_no_error() {
    let world = World::new();
    world.write("in/a.jsonl", event(1));
    world.write("in/b.txt", event(2));
    world.write("in/.hidden.jsonl", event(3));
    assert_eq!(world.land_at(&world.path("in/*.jsonl")).await.counts.events, 1);
    assert_eq!(world.land_at(&world.path("in/*.csv")).await, Report { version: 1, ..Report::default() });
}

#[tokio::test]
async fn a_file_that_waits_and_is_renamed_leaves_its_name_to_others() {
    let world = World::new();
    world.write("a.jsonl", format!("{}{{", event(1)));
    assert_eq!(world.land().await.counts.events, 1);
    let version = world.land().await.version;
    assert_eq!(world.land().await.version, version, "waiting makes no commits");
    world.rename("a.jsonl", "b.jsonl");
    world.land().await;
    std::fs::remove_file(world.path("b.jsonl")).unwrap();
    world.write("a.jsonl", event(2));
    let report = world.land().await;
    assert_eq!((report.counts.events, report.refused), (1, vec![]));
}
