//! What `up` does again and again costs what is new, however long it has been up.

use std::sync::Arc;

use fastrand::Rng;
use object_store::memory::InMemory;
use starmere_lake::catalog::Catalog;

use crate::support::events::{STREAMS, What, events, expected};
use crate::support::models::{build, land_inbox, models};
use crate::support::producer::Producer;
use crate::support::stores::{Faulty, plain, tampered};
use crate::support::tables;
use crate::support::upkeep::compact_all;

/// Builds whose operations are added up: so that each sum has as many checkpoints and compactions.
const WINDOW: usize = 50;

/// Tries to make builds dear by many of them: one process builds and publishes 200 times, while others land a little and
/// put files together.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_two_hundredth_build_asks_the_store_as_often_as_the_fiftieth() {
    let mut random = Rng::with_seed(21);
    let orders: Vec<_> =
        events(&mut random, 1_200).into_iter().filter(|event| matches!(event.what, What::Placed { .. })).collect();
    let (store, models, inbox) = (Arc::new(InMemory::new()), models(), tempfile::tempdir().unwrap());
    for stream in STREAMS {
        std::fs::create_dir_all(inbox.path().join(stream)).unwrap();
    }
    let mut producer = Producer::new(inbox.path());
    let counting = Faulty::never();
    let builder = tampered(&store, &counting);
    let mut windows = Vec::new();
    for (number, told) in orders.chunks(4).take(4 * WINDOW).enumerate() {
        producer.take(told, &mut random);
        producer.finish(&mut random);
        land_inbox(&plain(&store), "files", inbox.path()).await.unwrap();
        if number % 10 == 9 {
            for stream in STREAMS {
                compact_all(&plain(&store), stream).await.unwrap();
            }
        }
        let before = counting.operations();
        build(&builder, &models).await;
        if number % WINDOW == 0 {
            windows.push(0);
        }
        *windows.last_mut().unwrap() += counting.operations() - before;
    }
    assert_eq!(windows.len(), 4);
    assert!(windows[3] <= windows[1] + windows[1] / 4, "operations of {WINDOW} builds each: {windows:?}");
    let warehouse = plain(&store);
    let snapshot = Catalog::new(&warehouse).newest().await.unwrap();
    let told = &orders[..4 * 4 * WINDOW];
    assert_eq!(tables::published(&warehouse, &snapshot).await, expected(told), "each event counts once");
}
