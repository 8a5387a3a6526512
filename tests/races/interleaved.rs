//! One writer works to its end before each single operation of another's on the store.
//!
//! ```text
//! operations of A:   1   2   3 … n │ n+1 …        for every n, until A has no more operations
//!                                  └► B, from its beginning to its end
//! ```

use std::path::Path;
use std::sync::Arc;

use fastrand::Rng;
use object_store::memory::InMemory;
use starmere_lake::catalog::Catalog;
use starmere_lake::landing::Stream;
use starmere_models::resolve::Models;
use tempfile::TempDir;

use crate::support::events::{Event, STREAMS, events, expected};
use crate::support::models::{build, land_folder, land_inbox, models};
use crate::support::producer::Producer;
use crate::support::stores::{Interrupt, plain, tampered};
use crate::support::tables;
use crate::support::upkeep::{clean_up_after, compact_all};

/// A warehouse with something built and something new, and more that has not landed.
struct Scene {
    store: InMemory,
    /// What is not in the lake yet.
    more: TempDir,
    models: Models,
    events: Vec<Event>,
}

fn write(inbox: &Path, events: &[Event], random: &mut Rng) {
    for stream in STREAMS {
        std::fs::create_dir_all(inbox.join(stream)).unwrap();
    }
    let mut producer = Producer::new(inbox);
    producer.take(events, random);
    producer.finish(random);
}

async fn scene() -> Scene {
    let mut random = Rng::with_seed(5);
    let events = events(&mut random, 60);
    let (landed, more) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let models = models();
    let store = Arc::new(InMemory::new());
    let warehouse = plain(&store);
    write(landed.path(), &events[..20], &mut random);
    land_inbox(&warehouse, "first", landed.path()).await.unwrap();
    build(&warehouse, &models).await;
    let second = tempfile::tempdir().unwrap();
    write(second.path(), &events[20..40], &mut random);
    land_inbox(&warehouse, "second", second.path()).await.unwrap();
    write(more.path(), &events[40..], &mut random);
    Scene { store: store.fork(), more, models, events }
}

/// Runs a build, and another one before its operation `number`; whether it had so many operations.
async fn overtaken(scene: &Scene, number: usize, with_more: bool) -> bool {
    let store = Arc::new(scene.store.fork());
    let other = {
        let (store, models, more) = (store.clone(), scene.models.clone(), scene.more.path().to_path_buf());
        async move {
            let warehouse = plain(&store);
            if with_more {
                land_inbox(&warehouse, "more", &more).await.unwrap();
            }
            build(&warehouse, &models).await;
        }
    };
    let interrupt = Interrupt::new(move |operation, _| operation == number, other);
    let warehouse = tampered(&store, &interrupt);
    build(&warehouse, &scene.models).await;
    if !interrupt.happened() {
        return false;
    }
    let events = if with_more { &scene.events[..] } else { &scene.events[..40] };
    for last in [false, true] {
        let warehouse = plain(&store);
        if last {
            build(&warehouse, &scene.models).await;
        }
        let snapshot = Catalog::new(&warehouse).newest().await.unwrap();
        let published = tables::published(&warehouse, &snapshot).await;
        assert_eq!(published, expected(events), "another build before operation {number}; {snapshot:?}");
    }
    true
}

/// Tries to count events twice, or to lose some, by letting another build of the same events end before each
/// single operation of a build: also between reading a table's version and committing to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_build_that_is_overtaken_at_any_operation_counts_each_event_once() {
    let scene = scene().await;
    let mut operations = 0;
    while overtaken(&scene, operations, false).await {
        operations += 1;
    }
    assert!(operations > 30, "a build has more than {operations} operations");
}

/// The same, where the other build knows of more events.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_build_that_is_overtaken_by_a_later_one_counts_each_event_once() {
    let scene = scene().await;
    let mut operations = 0;
    while overtaken(&scene, operations, true).await {
        operations += 1;
    }
    assert!(operations > 30, "a build has more than {operations} operations");
}

/// Lands a folder, and lets another process land it before operation `number`; whether there were so many.
async fn outrun(folder: &Path, lines: &[String], number: usize) -> bool {
    let store = Arc::new(InMemory::new());
    let other = {
        let (store, folder) = (store.clone(), folder.to_path_buf());
        async move {
            let warehouse = plain(&store);
            let stream = Stream::new("orders", tables::stream(&warehouse, "orders"));
            land_folder(&stream, "files", &folder).await.unwrap();
        }
    };
    let interrupt = Interrupt::new(move |operation, _| operation == number, other);
    let warehouse = tampered(&store, &interrupt);
    land_folder(&Stream::new("orders", tables::stream(&warehouse, "orders")), "files", folder).await.unwrap();
    if !interrupt.happened() {
        return false;
    }
    let table = tables::stream(&plain(&store), "orders");
    assert_eq!(tables::payloads(&table).await, lines, "another landing before operation {number}");
    assert_eq!(tables::holes(&table).await, [""; 0], "another landing before operation {number}");
    true
}

/// Tries to land lines twice by letting another process land the same files before each single operation.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_landing_that_is_outrun_at_any_operation_lands_each_line_once() {
    let inbox = tempfile::tempdir().unwrap();
    let mut random = Rng::with_seed(6);
    for stream in STREAMS {
        std::fs::create_dir_all(inbox.path().join(stream)).unwrap();
    }
    let mut producer = Producer::new(inbox.path());
    producer.take(&events(&mut random, 40), &mut random);
    (0..10).for_each(|_| producer.act(&mut random));
    producer.finish(&mut random);
    let [_, lines] = producer.all();
    let mut operations = 0;
    while outrun(&inbox.path().join("orders"), &lines, operations).await {
        operations += 1;
    }
    assert!(operations > 5, "a landing has more than {operations} operations");
}

/// Tries to count events twice, or to lose some, by putting the streams' files together before each single operation
/// of a build, and by deleting afterwards what nobody needs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_build_during_which_files_are_put_together_counts_each_event_once() {
    let scene = scene().await;
    for number in 0.. {
        let store = Arc::new(scene.store.fork());
        let other = {
            let store = store.clone();
            async move {
                for name in STREAMS {
                    compact_all(&plain(&store), name).await.unwrap();
                }
            }
        };
        let interrupt = Interrupt::new(move |operation, _| operation == number, other);
        build(&tampered(&store, &interrupt), &scene.models).await;
        if !interrupt.happened() {
            assert!(number > 30, "a build has more than {number} operations");
            break;
        }
        land_inbox(&plain(&store), "more", scene.more.path()).await.unwrap();
        for (days, events) in [(8, &scene.events[..40]), (16, &scene.events[..])] {
            let warehouse = plain(&store);
            if days > 8 {
                build(&warehouse, &scene.models).await;
            }
            clean_up_after(&warehouse, days).await.unwrap();
            let snapshot = Catalog::new(&warehouse).newest().await.unwrap();
            let published = tables::published(&warehouse, &snapshot).await;
            assert_eq!(published, expected(events), "files put together before operation {number}");
        }
    }
}

/// Tries to lose rows, or to have them twice, by another compaction, and more that lands, before each single operation
/// of a compaction.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compaction_that_is_overtaken_by_another_changes_no_row() {
    let scene = scene().await;
    let landed = async |store: &Arc<InMemory>| {
        let warehouse = plain(store);
        let mut payloads = Vec::new();
        for name in STREAMS {
            let table = tables::stream(&warehouse, name);
            assert_eq!(tables::holes(&table).await, [""; 0]);
            payloads.push(tables::payloads(&table).await);
        }
        payloads
    };
    let untouched = Arc::new(scene.store.fork());
    land_inbox(&plain(&untouched), "more", scene.more.path()).await.unwrap();
    let expected = landed(&untouched).await;
    for number in 0.. {
        let store = Arc::new(scene.store.fork());
        let other = {
            let (store, more) = (store.clone(), scene.more.path().to_path_buf());
            async move {
                land_inbox(&plain(&store), "more", &more).await.unwrap();
                for name in STREAMS {
                    compact_all(&plain(&store), name).await.unwrap();
                }
            }
        };
        let interrupt = Interrupt::new(move |operation, _| operation == number, other);
        for name in STREAMS {
            compact_all(&tampered(&store, &interrupt), name).await.unwrap();
        }
        if !interrupt.happened() {
            assert!(number > 10, "a compaction has more than {number} operations");
            break;
        }
        assert_eq!(landed(&store).await, expected, "another compaction before operation {number}");
    }
}
