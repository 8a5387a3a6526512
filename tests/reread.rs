//! A mapping that is mended, and the rows that had landed by the one before.

use std::collections::BTreeMap;
use std::sync::Arc;

use fastrand::Rng;
use object_store::memory::InMemory;
use serde_json::Value;
use starmere_ingest::envelope::Mapping;
use starmere_ingest::reread::{Rereading, TakingBack};
use starmere_lake::catalog::CatalogSnapshot;
use starmere_lake::delta::Warehouse;
use starmere_lake::landing::Stream;
use starmere_models::build::Builder;
use starmere_models::resolve::Models;
use tempfile::TempDir;

use crate::support::events::{Event, OrderLine, STREAMS, events, expected};
use crate::support::models::{Quiet, build_once, land_inbox, mapping, models};
use crate::support::process::{Server, until};
use crate::support::producer::Producer;
use crate::support::project::{ORDERS, Project};
use crate::support::stores::plain;
use crate::support::upkeep::{clean_up_after, compact_all};
use crate::support::{seeds, tables};

const ORDERS_FILE: &str = "streams/orders.yaml";

/// A definition by which all orders of a customer are one event.
fn swallowing() -> String {
    ORDERS.replace("id: id", "id: customer")
}

/// What a reread would do, by what it says.
async fn preview(project: &Project, arguments: &[&str]) -> BTreeMap<String, u64> {
    let arguments = [&["--format", "json", "streams", "reread", "orders"][..], arguments].concat();
    let rows: Vec<Value> = serde_json::from_str(&project.succeed(&arguments).await).unwrap();
    rows.iter().map(|row| (row["change"].as_str().unwrap().to_owned(), row["rows"].as_u64().unwrap())).collect()
}

async fn version(project: &Project) -> u64 {
    tables::stream(&project.warehouse(), "orders").snapshot().await.unwrap().unwrap().version()
}

fn orders(events: &[Event]) -> usize {
    events.iter().filter(|event| event.stream() == "orders").count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_that_a_wrong_id_has_swallowed_come_back_and_go_again() {
    for compacts in [false, true] {
        let project = Project::new();
        let mut random = Rng::with_seed(21);
        let all = events(&mut random, 90);
        let mut producer = Producer::new(&project.inbox());
        project.write(ORDERS_FILE, &swallowing());
        producer.take(&all[..60], &mut random);
        producer.finish(&mut random);
        project.succeed(&["ingest", "--once"]).await;
        project.succeed(&["build"]).await;
        let swallowed = project.published().await;
        assert!(swallowed.len() < expected(&all[..60]).len() / 2, "one order for each customer");
        if compacts {
            compact_all(&project.warehouse(), "orders").await.unwrap();
        }

        project.write(ORDERS_FILE, ORDERS);
        let before = version(&project).await;
        let told = preview(&project, &[]).await;
        assert_eq!(told["events that count then"], orders(&all[..60]) as u64);
        assert!(told["events with another id"] >= told["events that count then"], "copies have one, too");
        assert_eq!((told["events with another type"], told["copies that say something else"]), (0, 0));
        assert_eq!(version(&project).await, before, "to look changes nothing");
        preview(&project, &["--yes"]).await;
        let plan = project.succeed(&["plan"]).await;
        assert!(plan.contains("fact sales.order_lines") && plan.contains("rebuild: orders was reread"), "{plan}");
        project.succeed(&["verify"]).await;
        project.succeed(&["build"]).await;
        assert_eq!(project.published().await, expected(&all[..60]), "each event counts once");
        let plan = project.succeed(&["plan"]).await;
        assert!(!plan.contains("reread") && plan.contains("nothing is new"), "{plan}");
        project.succeed(&["verify"]).await;

        // What lands later is added, and nothing is filled again.
        let path = project.snapshot().await.tables["sales.order_lines"].path.clone();
        producer.take(&all[60..], &mut random);
        producer.finish(&mut random);
        project.succeed(&["ingest", "--once"]).await;
        project.succeed(&["build"]).await;
        assert_eq!(project.snapshot().await.tables["sales.order_lines"].path, path);
        assert_eq!(project.published().await, expected(&all));
        compact_all(&project.warehouse(), "orders").await.unwrap();
        clean_up_after(&project.warehouse(), 0).await.unwrap();

        // The way back: what landed by the wrong id is as it was.
        project.succeed(&["streams", "reread", "orders", "--take-back", "--yes"]).await;
        project.succeed(&["build"]).await;
        let back = project.published().await;
        assert!(swallowed.iter().all(|line| back.iter().any(|other| other.order == line.order)), "{back:?}");
        assert!(back.len() < expected(&all).len(), "events are swallowed again");
        let again = project.run(&["streams", "reread", "orders", "--take-back", "--yes"]).await;
        assert_eq!(again.status.code(), Some(1), "{}", again.errors);
        assert!(again.errors.contains("the last one is taken back already"), "{}", again.errors);
        project.succeed(&["verify"]).await;

        // And forth.
        preview(&project, &["--yes"]).await;
        project.succeed(&["build"]).await;
        assert_eq!(project.published().await, expected(&all));
        assert_eq!(project.landed().await, producer.all(), "the lake holds each line once");
        assert_eq!(tables::holes(&tables::stream(&project.warehouse(), "orders")).await, [""; 0]);
        project.succeed(&["verify"]).await;
    }
}

/// Tries to have events swallowed by a definition that was never right.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reread_that_would_swallow_events_is_refused() {
    let project = Project::new();
    let mut random = Rng::with_seed(22);
    let all = events(&mut random, 40);
    let mut producer = Producer::new(&project.inbox());
    producer.take(&all, &mut random);
    producer.finish(&mut random);
    project.succeed(&["ingest", "--once"]).await;
    project.write(ORDERS_FILE, &swallowing());
    let before = version(&project).await;
    let asked = ["streams", "reread", "orders", "--yes"];
    for arguments in [&asked[..3], &asked[..]] {
        let refused = project.run(arguments).await;
        assert_eq!(refused.status.code(), Some(1), "{}", refused.errors);
        let words = "events of `orders` would become copies of others that say something else";
        assert!(refused.errors.contains(words) && refused.errors.contains("--allow-copies"), "{}", refused.errors);
        assert!(refused.output.contains("copies that say something else"), "{}", refused.output);
    }
    assert_eq!(version(&project).await, before);
    preview(&project, &["--yes", "--allow-copies"]).await;
    project.succeed(&["build"]).await;
    assert!(project.published().await.len() < expected(&all).len());
    project.succeed(&["verify"]).await;
    let usage = project.run(&["rejects", "orders", "--yes"]).await;
    assert_eq!(usage.status.code(), Some(1), "`--yes` is for `--repair`\n{}", usage.errors);
}

/// Beside an `up` that lands, puts files together and builds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reread_beside_a_server_that_lands_loses_nothing() {
    let project = Project::new();
    let mut random = Rng::with_seed(23);
    let all = events(&mut random, 120);
    let mut producer = Producer::new(&project.inbox());
    project.write(ORDERS_FILE, &swallowing());
    producer.take(&all[..60], &mut random);
    producer.finish(&mut random);
    let server = Server::start_as(project.root(), "up").await;
    until("the first events are there", async || !project.published().await.is_empty()).await;
    project.write(ORDERS_FILE, ORDERS);
    for part in all[60..].chunks(10) {
        producer.take(part, &mut random);
        producer.finish(&mut random);
        // Copies differ in when they were sent.
        project.succeed(&["streams", "reread", "orders", "--yes", "--allow-copies"]).await;
    }
    let of_all = expected(&all);
    until("each event counts once", async || {
        project.succeed(&["streams", "reread", "orders", "--yes", "--allow-copies"]).await;
        project.published().await == of_all
    })
    .await;
    server.terminate();
    server.end().await;
    assert_eq!(project.landed().await, producer.all());
    assert_eq!(tables::holes(&tables::stream(&project.warehouse(), "orders")).await, [""; 0]);
    project.succeed(&["verify"]).await;
}

/// A warehouse in memory, and the inbox of its streams.
struct World {
    warehouse: Warehouse,
    orders: Stream,
    models: Models,
    inbox: TempDir,
}

impl World {
    fn new() -> Self {
        let inbox = tempfile::tempdir().unwrap();
        for stream in STREAMS {
            std::fs::create_dir_all(inbox.path().join(stream)).unwrap();
        }
        let warehouse = plain(&Arc::new(InMemory::new()));
        let orders = Stream::new("orders", tables::stream(&warehouse, "orders"));
        Self { warehouse, orders, models: models(), inbox }
    }

    async fn land(&self) {
        land_inbox(&self.warehouse, "files", self.inbox.path()).await.unwrap();
    }

    /// Reads the orders anew by this id, although events become copies.
    async fn reread(&self, id: &str) {
        let mapping = Mapping { id: Some(id.to_owned()), ..mapping() };
        Rereading::new(&self.orders, &mapping, 32 << 20).await.unwrap().carry_out(true).await.unwrap();
    }

    /// What a build from the lake would publish, begun or gone on with.
    async fn filled(&self, builder: &Builder) -> Vec<OrderLine> {
        let tables = builder.build(&self.models, &Quiet).await.unwrap();
        tables::published(&self.warehouse, &CatalogSnapshot { tables, ..CatalogSnapshot::default() }).await
    }

    async fn aside(&self) -> Builder {
        Builder::new(&self.warehouse, &self.models, true).await.unwrap()
    }
}

/// Lands, reads anew, takes back, compacts and builds; how often something was taken back.
async fn in_any_order(seed: u64) -> usize {
    let (world, mut random) = (World::new(), Rng::with_seed(seed));
    let all = events(&mut random, 64);
    let mut producer = Producer::new(world.inbox.path());
    let (mut landed, mut taken_back) = (0, 0);
    while landed < all.len() || random.u32(0..8) > 0 {
        match random.u32(0..7) {
            0 if landed < all.len() => {
                producer.take(&all[landed..landed + 16], &mut random);
                producer.finish(&mut random);
                landed += 16;
                world.land().await;
            }
            1 => world.reread(["id", "order", "customer"][random.usize(0..3)]).await,
            2 => match TakingBack::of(&world.orders).await {
                Ok(taking_back) => {
                    taking_back.carry_out().await.unwrap();
                    taken_back += 1;
                }
                Err(error) => {
                    let words = error.to_string();
                    let is_none = words.ends_with("there was none") || words.ends_with("is taken back already");
                    assert!(is_none, "seed {seed}: {words}");
                }
            },
            3 => _ = compact_all(&world.warehouse, "orders").await.unwrap(),
            _ => {
                let snapshot = build_once(&world.warehouse, &world.models).await.unwrap();
                let published = tables::published(&world.warehouse, &snapshot).await;
                assert_eq!(published, world.filled(&world.aside().await).await, "seed {seed}");
            }
        }
    }
    world.reread("id").await;
    let snapshot = build_once(&world.warehouse, &world.models).await.unwrap();
    assert_eq!(tables::published(&world.warehouse, &snapshot).await, expected(&all), "seed {seed}");
    for (name, lines) in STREAMS.iter().zip(producer.all()) {
        assert_eq!(tables::landed(&world.warehouse, name).await, lines, "seed {seed}");
        assert_eq!(tables::holes(&tables::stream(&world.warehouse, name)).await, [""; 0], "seed {seed}");
    }
    taken_back
}

/// Tries to have increments on top of rows of before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_equal_a_rebuild_however_often_rows_are_read_anew_and_put_back() {
    let mut taken_back = 0;
    for seed in seeds(6) {
        taken_back += in_any_order(seed).await;
    }
    assert!(taken_back > 0, "nothing was taken back");
}

/// A full build that others were ahead of goes on with what it has filled, which may have rows of before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_build_that_goes_on_after_a_reread_has_no_rows_of_before() {
    let (world, mut random) = (World::new(), Rng::with_seed(24));
    let all = events(&mut random, 40);
    let mut producer = Producer::new(world.inbox.path());
    producer.take(&all, &mut random);
    producer.finish(&mut random);
    world.land().await;
    let first = world.aside().await;
    assert_eq!(world.filled(&first).await, expected(&all));
    let again = async || world.aside().await.going_on_aside(first.aside().unwrap());
    world.reread("customer").await;
    let swallowed = world.filled(&again().await).await;
    assert!(swallowed.len() < expected(&all).len(), "one order for each customer");
    assert_eq!(swallowed, world.filled(&world.aside().await).await);
    TakingBack::of(&world.orders).await.unwrap().carry_out().await.unwrap();
    assert_eq!(world.filled(&again().await).await, expected(&all));
}
