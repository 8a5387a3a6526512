//! A stream that forgets: what is published stays, what cannot be made again is said, and `verify` still reconciles.

use std::sync::Arc;

use chrono::{Days, Utc};
use object_store::memory::InMemory;
use starmere_ingest::envelope::Reader;
use starmere_ingest::rows::Batch;
use starmere_lake::catalog::Catalog;
use starmere_lake::delta::{Commit, Warehouse};
use starmere_lake::formats::Incoming;
use starmere_lake::landing::{Outcome, SourcePartition, Stream};
use starmere_lake::upkeep::retain;

use crate::support::events::STREAMS;
use crate::support::models::mapping;
use crate::support::project::{ORDERS, Project};
use crate::support::stores::{Interrupt, plain, tampered};
use crate::support::tables;

/// Lands orders as if it were so many days ago.
async fn land(warehouse: &Warehouse, days_ago: u64, orders: std::ops::Range<i64>) {
    let stream = Stream::new(STREAMS[1], tables::stream(warehouse, STREAMS[1]));
    let mut reader = Reader::new(mapping(), &Default::default());
    let landed_at = Utc::now().checked_sub_days(Days::new(days_ago)).unwrap().timestamp_micros();
    let mut batch = Batch::landed_at(landed_at);
    let partition = SourcePartition { source: "old".into(), topic: "t".into(), incarnation: 0, partition: 0 };
    batch.begin(partition, orders.start);
    for number in orders {
        let payload = format!(
            r#"{{"id":"{number}","type":"order_placed","at":"2024-01-01T00:00:00Z","order":"o{number}","lines":[{{"quantity":1}}]}}"#
        );
        let payload = if number == 1 { "no order".to_owned() } else { payload };
        batch.push(&mut reader, &Incoming::of(payload.as_bytes()), number, number + 1, None).unwrap();
    }
    assert!(matches!(batch.finish().unwrap().land(&stream).await.unwrap(), Outcome::Landed(_)));
}

async fn orders(project: &Project) -> String {
    let rows = project.query("SELECT count(*) AS n FROM sales.orders_v1.order_lines").await;
    rows[0]["n"].to_string()
}

/// How `make soak` lets days pass: a clock that is moved changes nothing, since clean-up asks the store for the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clean_up_of_days_later_deletes_what_nobody_needs_then() {
    let project = Project::new();
    let build = async |orders: std::ops::Range<i64>| {
        land(&project.warehouse(), 0, orders).await;
        project.succeed(&["build"]).await;
    };
    for first in [2, 4, 6] {
        build(first..first + 2).await;
    }
    let snapshots = async || Catalog::new(&project.warehouse()).numbers().await.unwrap();
    project.succeed(&["upkeep"]).await;
    assert_eq!(snapshots().await, [1, 2, 3], "they are retained for days");
    project.succeed(&["upkeep", "--days-later", "40"]).await;
    assert_eq!(snapshots().await, [3]);
    project.succeed(&["verify"]).await;
    build(8..10).await;
    project.succeed(&["verify"]).await;
    assert_eq!(orders(&project).await, "8");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_forgotten_stays_published_and_cannot_be_built_again() {
    let project = Project::new();
    land(&project.warehouse(), 100, 0..5).await;
    land(&project.warehouse(), 40, 5..8).await;
    project.succeed(&["build"]).await;
    assert_eq!(orders(&project).await, "7", "one was no order");
    project.write("streams/orders.yaml", &ORDERS.replace("domain: sales", "domain: sales\nretention_days: 30"));
    project.succeed(&["upkeep"]).await;
    project.succeed(&["upkeep"]).await;
    land(&project.warehouse(), 0, 8..10).await;
    project.succeed(&["build"]).await;
    assert_eq!(orders(&project).await, "9", "what was built stays");
    assert_eq!(project.landed().await[1].len(), 2, "and is gone from the lake");
    let verified = project.run(&["verify"]).await;
    assert_eq!(verified.status.code(), Some(0), "{}", verified.errors);
    assert!(verified.errors.contains("has forgotten what landed before"), "{}", verified.errors);
    let refused = project.run(&["build", "--full"]).await;
    assert_eq!(refused.status.code(), Some(1), "{}", refused.errors);
    assert!(refused.errors.contains("--accept-loss orders"), "{}", refused.errors);
    assert_eq!(orders(&project).await, "9", "nothing was swapped");
    project.succeed(&["build", "--full", "--accept-loss", "orders"]).await;
    assert_eq!(orders(&project).await, "2", "what is left");
    // A row that is lost is still found.
    let table = tables::stream(&project.warehouse(), STREAMS[1]);
    let add = table.snapshot().await.unwrap().unwrap().files().next().unwrap().path.clone();
    std::fs::remove_file(project.root().join("warehouse").join(table.path().file(&add).as_ref())).unwrap();
    let verified = project.run(&["verify", "--lake-only"]).await;
    assert!(verified.status.code() == Some(2) && verified.output.contains("is gone"), "{}", verified.output);
}

/// Tries to keep a stream from ever forgetting: to count what is forgotten takes longer than others take to commit.
#[tokio::test]
async fn what_is_forgotten_is_read_once_however_often_others_commit() {
    let store = Arc::new(InMemory::new());
    land(&plain(&store), 100, 0..5).await;
    let others = tables::stream(&plain(&store), STREAMS[1]);
    let interrupt = Interrupt::before_write(0, async move {
        let snapshot = others.snapshot().await.unwrap().unwrap();
        let files: Vec<_> = snapshot.files().map(|add| others.path().file(&add.path)).collect();
        others.store().delete(files).await.unwrap();
        others.commit(&snapshot, Commit { operation: "WRITE", ..Commit::default() }).await.unwrap();
    });
    let table = tables::stream(&tampered(&store, &interrupt), STREAMS[1]);
    assert_eq!(retain(&table, Utc::now().date_naive()).await.unwrap(), 5);
    assert!(interrupt.happened());
}
