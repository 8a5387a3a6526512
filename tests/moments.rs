//! Promise 3: a query sees one moment. All tables of an answer fit together and are those of one catalog snapshot,
//! whatever lands, is built, is published or dies meanwhile.
//!
//! The truth about a snapshot is read from the pinned versions of its tables, without the query engine.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;
use serde_json::Value;
use starmere_lake::catalog::Catalog;
use starmere_lake::delta::Warehouse;
use starmere_models::define::parse_text;
use starmere_models::resolve::{Definitions, Models, resolve};
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinHandle, spawn_blocking};

use crate::support::events::{OrderLine, STREAMS, What, events};
use crate::support::http;
use crate::support::models::build_once;
use crate::support::process::{PATIENCE, Server};
use crate::support::project::{CUSTOMER, CUSTOMERS, ORDER_LINES, ORDERS, Project};
use crate::support::stores::{Interrupt, tampered_over};
use crate::support::tables;

const INGEST: &[&str] = &["ingest", "--once"];
const BUILD: &[&str] = &["build"];

const EVENTS: u64 = 300;
/// Of the first third of the events, those that tell where these customers live come later.
const INFERRED: u32 = 6;

const LEFT: &str = "  customer_left:
    versions:
      1:
        fields:
          customer_id: { path: customer, type: string, required: true }
";

/// A second fact over the same events, in a product of its own.
const PLACED: &str = "
fact: orders
from: { stream: orders, event: order_placed }
grain: [order_id]
dimensions:
  customer: { dimension: customer, key: customer_id }
degenerate:
  order_id: {}
measures:
  orders: { expression: '1', type: int }
";

const PRODUCTS: [(&str, &str); 2] = [
    (
        "orders_v1",
        "
product: orders
version: 1
ports:
  order_lines:
    model: order_lines
    primary_key: [order_id, line_number]
    foreign_keys: { customer_key: sales.orders_v1.customer }
    columns:
      order_id: { type: string, nullable: false }
      line_number: { type: int, nullable: false }
      customer_key: { type: bigint, nullable: false }
      customer_durable_key: { type: bigint, nullable: false }
      quantity: { type: int, nullable: false }
      placed_at: { from: occurred_at, type: timestamp, nullable: false }
  customer:
    model: customer
    primary_key: [customer_key]
    columns:
      customer_key: { type: bigint, nullable: false }
      customer_durable_key: { type: bigint, nullable: false }
      customer_id: { type: string }
      city: { type: string }
      valid_from: { type: timestamp, nullable: false }
      valid_to: { type: timestamp, nullable: false }
      is_deleted: { type: bool, nullable: false }
      is_inferred: { type: bool, nullable: false }
",
    ),
    (
        "placed_v1",
        "
product: placed
version: 1
ports:
  orders:
    model: orders
    primary_key: [order_id]
    foreign_keys: { customer_key: sales.orders_v1.customer }
    columns:
      order_id: { type: string, nullable: false }
      customer_key: { type: bigint, nullable: false }
      placed_at: { from: occurred_at, type: timestamp, nullable: false }
",
    ),
];

/// Each line with its customer, and beside it the counts of all tables.
const ALL: &str = "
SELECT l.order_id, l.line_number, l.quantity, c.city,
       c.customer_key IS NOT NULL AND l.customer_durable_key = c.customer_durable_key
           AND l.placed_at >= c.valid_from AND l.placed_at < c.valid_to AS holds,
       a.n, b.n AS again, o.n AS orders, v.n AS versions
FROM sales.orders_v1.order_lines l
LEFT JOIN sales.orders_v1.customer c ON l.customer_key = c.customer_key
CROSS JOIN (SELECT count(*) AS n FROM sales.orders_v1.order_lines) a
CROSS JOIN (SELECT count(*) AS n FROM sales.orders.order_lines WHERE quantity > 0) b
CROSS JOIN (SELECT count(*) AS n FROM sales.placed_v1.orders p JOIN sales.orders_v1.customer c
            ON p.customer_key = c.customer_key AND p.placed_at >= c.valid_from AND p.placed_at < c.valid_to) o
CROSS JOIN (SELECT count(*) AS n FROM sales.orders_v1.customer) v";

const VERSIONS: &str = "
SELECT customer_durable_key, customer_key, valid_from, valid_to FROM sales.orders_v1.customer
ORDER BY customer_durable_key, valid_from";

/// Raw events, twice, and what is derived from them.
const RAW: &str = "
SELECT a.n, b.n AS again, o.n AS orders
FROM (SELECT count(*) AS n FROM lake.sales.orders) a
CROSS JOIN (SELECT count(*) AS n FROM lake.sales.orders WHERE event_id <> '') b
CROSS JOIN (SELECT count(*) AS n FROM sales.placed_v1.orders) o";

const INFERRED_NOW: &str = "SELECT customer_id FROM sales.orders_v1.customer WHERE is_inferred";
const DELETED_NOW: &str = "SELECT customer_id FROM sales.orders_v1.customer WHERE is_deleted";

/// What a snapshot holds.
#[derive(Clone, PartialEq, Eq)]
struct Moment {
    lines: Vec<OrderLine>,
    orders: usize,
    versions: usize,
}

/// A stream and a line of it.
type Told = (&'static str, String);

fn definitions() -> [(&'static str, String); 4] {
    let left = "as: state }\n  - { event: customer_left, as: delete }";
    [
        ("streams/customers.yaml", format!("{CUSTOMERS}{LEFT}")),
        ("streams/orders.yaml", ORDERS.to_owned()),
        ("domains/sales/models/customer.yaml", CUSTOMER.replace("as: state }", left)),
        ("domains/sales/models/orders.yaml", PLACED.to_owned()),
    ]
}

/// The models, for a build in this process.
fn models() -> Models {
    let [customers, orders, customer, placed] = definitions().map(|(_, text)| text);
    let domain = || "sales".to_owned();
    let definitions = Definitions {
        streams: vec![parse_text(&customers, "customers").unwrap(), parse_text(&orders, "orders").unwrap()],
        dimensions: vec![(domain(), parse_text(&customer, "customer").unwrap())],
        facts: vec![
            (domain(), parse_text(ORDER_LINES, "order_lines").unwrap()),
            (domain(), parse_text(&placed, "orders").unwrap()),
        ],
        ..Definitions::default()
    };
    resolve(&definitions).expect("the definitions are right")
}

/// What happened, told in another order than it happened: first orders of customers of whom nothing else is known yet,
/// later where everybody lives and lived, and who left.
fn history(seed: u64) -> (Vec<Told>, Vec<Told>) {
    let mut random = Rng::with_seed(seed);
    let (mut first, mut later) = (Vec::new(), Vec::new());
    for event in events(&mut random, EVENTS) {
        let is_held_back = matches!(event.what, What::Moved { customer, .. } if customer >= INFERRED);
        let told = (event.stream(), event.line(0));
        if event.number < EVENTS / 3 && !is_held_back {
            first.push(told);
        } else {
            later.push(told);
        }
        if random.u32(0..8) == 0 {
            let (hour, minute, customer) = (random.u64(0..EVENTS / 60), random.u64(0..60), random.u32(0..2 * INFERRED));
            let at = format!("2024-01-01T{hour:02}:{minute:02}:30Z");
            let left =
                format!(r#"{{"id":"l{}","at":"{at}","type":"customer_left","customer":"c{customer}"}}"#, event.number);
            later.push((STREAMS[0], left));
        }
    }
    (first, later)
}

fn body(told: &[Told], stream: &str) -> String {
    told.iter().filter(|(of, _)| *of == stream).flat_map(|(_, line)| [line.as_str(), "\n"]).collect()
}

/// Posts events; they have landed when this returns.
async fn tell(address: &str, told: &[Told]) {
    for stream in STREAMS {
        let (address, path, body) = (address.to_owned(), format!("/v1/streams/{stream}/events"), body(told, stream));
        if body.is_empty() {
            continue;
        }
        let answer = spawn_blocking(move || http::post(&address, &path, &body)).await.unwrap().unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.json()["rejected"], 0, "{}", answer.text());
    }
}

/// What the tables hold that are pinned by a snapshot.
async fn pinned(warehouse: &Warehouse, number: u64) -> Moment {
    let snapshot = Catalog::new(warehouse).at(number).await.unwrap();
    Moment {
        lines: tables::published(warehouse, &snapshot).await,
        orders: tables::count(warehouse, &snapshot.tables["sales.orders"]).await,
        versions: tables::count(warehouse, &snapshot.tables["sales.customer"]).await,
    }
}

fn number(value: &Value) -> usize {
    value.as_u64().and_then(|number| number.try_into().ok()).unwrap_or_else(|| panic!("{value} is not a count"))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is not a text")).to_owned()
}

/// Asks for everything in one query; all of it must fit together.
fn ask(address: &str) -> (u64, Moment) {
    let (snapshot, rows) = http::query(address, ALL);
    let first = rows.first().unwrap_or_else(|| panic!("snapshot {snapshot} has no lines"));
    let [all, again, orders, versions] = [5_usize, 6, 7, 8].map(|column| number(&first[column]));
    assert_eq!((all, again), (rows.len(), rows.len()), "snapshot {snapshot}: lines, counted twice and listed");
    let mut lines = Vec::with_capacity(rows.len());
    for row in &rows {
        assert_eq!(row[4], true, "snapshot {snapshot}: the customer of {row:?} did not hold then");
        lines.push(OrderLine {
            order: text(&row[0]),
            number: number(&row[1]) as i32,
            quantity: number(&row[2]) as i32,
            city: row[3].as_str().map(str::to_owned),
        });
    }
    lines.sort();
    let distinct: HashSet<&String> = lines.iter().map(|line| &line.order).collect();
    assert_eq!(orders, distinct.len(), "snapshot {snapshot}: orders, and orders of lines");
    (snapshot, Moment { lines, orders, versions })
}

/// Asks for the versions of customers, which must tile all of time; how many there are.
fn ask_versions(address: &str) -> (u64, usize) {
    let (snapshot, rows) = http::query(address, VERSIONS);
    let keys: HashSet<Option<i64>> = rows.iter().map(|row| row[1].as_i64()).collect();
    assert_eq!(keys.len(), rows.len(), "snapshot {snapshot}: each version has a key of its own");
    for member in rows.chunk_by(|a, b| a[0] == b[0]) {
        let (first, last) = (&member[0], &member[member.len() - 1]);
        assert_eq!(first[0], first[1], "snapshot {snapshot}: the first version has the durable key");
        assert!(text(&first[2]).starts_with("0001-01-01"), "snapshot {snapshot}: {member:?}");
        assert!(text(&last[3]).starts_with("9999-12-31"), "snapshot {snapshot}: {member:?}");
        for (before, after) in member.iter().zip(&member[1..]) {
            assert_eq!(before[3], after[2], "snapshot {snapshot}: {member:?}");
        }
    }
    (snapshot, rows.len())
}

/// Asks for raw events: at one version, which holds at least what was published.
fn ask_raw(address: &str) -> u64 {
    let (snapshot, rows) = http::query(address, RAW);
    let [all, again, orders] = [0_usize, 1, 2].map(|column| number(&rows[0][column]));
    assert_eq!(all, again, "events, counted twice in one query");
    assert!(all >= orders, "snapshot {snapshot}: {orders} orders of {all} events");
    snapshot
}

fn customers(address: &str, sql: &str) -> BTreeSet<String> {
    http::query(address, sql).1.iter().map(|row| text(&row[0])).collect()
}

/// What was seen of each snapshot.
#[derive(Default)]
struct Seen {
    moments: BTreeMap<u64, Moment>,
    versions: BTreeMap<u64, usize>,
}

/// Asks again and again until it is told that all is done.
fn keep_asking(address: &str, seed: u64, done: &AtomicBool, newest: &watch::Sender<u64>) -> Seen {
    let mut random = Rng::with_seed(seed);
    let mut seen = Seen::default();
    let mut last = 0;
    while !done.load(Ordering::Relaxed) {
        let snapshot = match random.u32(0..5) {
            0 => {
                let (snapshot, versions) = ask_versions(address);
                let before = seen.versions.insert(snapshot, versions).unwrap_or(versions);
                assert_eq!(before, versions, "snapshot {snapshot} never changes");
                snapshot
            }
            1 => ask_raw(address),
            _ => {
                let (snapshot, moment) = ask(address);
                let before = seen.moments.insert(snapshot, moment.clone());
                assert!(before.is_none_or(|before| before == moment), "snapshot {snapshot} never changes");
                snapshot
            }
        };
        assert!(snapshot >= last, "a query saw snapshot {snapshot}, and the one before it {last}");
        last = snapshot;
        newest.send_modify(|newest| *newest = snapshot.max(*newest));
    }
    seen
}

/// Clients that ask side by side.
struct Readers {
    done: Arc<AtomicBool>,
    newest: watch::Receiver<u64>,
    tasks: Vec<JoinHandle<Seen>>,
}

impl Readers {
    fn start(address: &str, count: u64) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let (sender, newest) = watch::channel(0);
        let reader = |seed| {
            let (address, done, sender) = (address.to_owned(), done.clone(), sender.clone());
            spawn_blocking(move || keep_asking(&address, seed, &done, &sender))
        };
        let tasks = (0..count).map(reader).collect();
        Self { done, newest, tasks }
    }

    /// Waits until a client has seen this snapshot, or a newer one.
    async fn have_seen(&mut self, snapshot: u64) {
        let seen = self.newest.wait_for(|newest| *newest >= snapshot);
        let seen = tokio::time::timeout(PATIENCE, seen).await;
        assert!(seen.is_ok_and(|seen| seen.is_ok()), "nobody sees snapshot {snapshot}");
    }

    /// Ends; compares all that was seen with what the snapshots hold. Which snapshots were seen.
    async fn end(self, project: &Project) -> BTreeSet<u64> {
        self.done.store(true, Ordering::Relaxed);
        let warehouse = project.warehouse();
        let mut snapshots = BTreeSet::new();
        for task in self.tasks {
            let seen = task.await.unwrap();
            for (snapshot, moment) in seen.moments {
                same(snapshot, &moment, &pinned(&warehouse, snapshot).await);
                snapshots.insert(snapshot);
            }
            for (snapshot, versions) in seen.versions {
                assert_eq!(versions, pinned(&warehouse, snapshot).await.versions, "snapshot {snapshot}: versions");
            }
        }
        snapshots
    }
}

fn same(snapshot: u64, seen: &Moment, truth: &Moment) {
    let counts = |moment: &Moment| (moment.lines.len(), moment.orders, moment.versions);
    assert_eq!(counts(seen), counts(truth), "snapshot {snapshot}: lines, orders, versions");
    let different = seen.lines.iter().zip(&truth.lines).find(|(seen, truth)| seen != truth);
    assert!(different.is_none(), "snapshot {snapshot}: {different:?}");
}

/// A project in which the first events are published as snapshot 1.
async fn project(first: &[Told]) -> Project {
    let project = Project::new();
    for (name, text) in definitions() {
        project.write(name, &text);
    }
    for (name, text) in PRODUCTS {
        project.write(&format!("domains/sales/products/{name}.yaml"), text);
    }
    for stream in STREAMS {
        project.write(&format!("inbox/{stream}/first.jsonl"), &body(first, stream));
    }
    project.succeed(INGEST).await;
    project.succeed(BUILD).await;
    project
}

/// Tries to see half a build: asks before each single write of a build, the first time that the snapshot before it is
/// asked for at all; every other build dies there, and the next one goes on from what it left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_build_is_seen_whole_or_not_at_all() {
    let (first, later) = history(1);
    let project = project(&first).await;
    let server = Server::start(project.root()).await;
    let models = models();
    let mut rounds = 0;
    for (round, told) in later.chunks(8).enumerate() {
        tell(&server.address, told).await;
        let before = project.snapshot().await.number;
        let truth = pinned(&project.warehouse(), before).await;
        let lines = truth.lines.len();
        let (sender, died) = oneshot::channel();
        let look = {
            let address = server.address.clone();
            async move {
                let look = move || {
                    let (snapshot, seen) = ask(&address);
                    assert_eq!(snapshot, before, "what is published is seen, what is not is not");
                    same(snapshot, &seen, &truth);
                    assert_eq!(ask_versions(&address), (before, truth.versions));
                    ask_raw(&address);
                };
                spawn_blocking(look).await.unwrap();
                if round % 2 == 0 {
                    sender.send(()).unwrap();
                    std::future::pending::<()>().await;
                }
            }
        };
        let interrupt = Interrupt::before_write(round / 2, look);
        let warehouse = tampered_over(project.warehouse().store().objects().clone(), &interrupt);
        let built = tokio::select! {
            built = build_once(&warehouse, &models) => Some(built.unwrap()),
            Ok(()) = died => None,
        };
        match built {
            Some(snapshot) => assert_eq!(snapshot.number, before + 1),
            None => {
                let rows =
                    project.query("SELECT count(*) AS n FROM sales.orders_v1.order_lines WHERE quantity > 0").await;
                assert_eq!(
                    rows,
                    [serde_json::json!({ "n": lines })],
                    "another process sees nothing of a build that died"
                );
            }
        }
        if !interrupt.happened() {
            break;
        }
        rounds = round + 1;
    }
    assert!(rounds >= 16, "only {rounds} builds were held up");
    server.terminate();
    server.end().await;
    project.succeed(BUILD).await;
    project.succeed(&["verify"]).await;
}

/// Tries to see two moments at once: clients ask all the time while events land, builds publish, and other builds, of
/// the same events, are killed. Each snapshot is seen without a restart, and stays what it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_of_one_moment_while_builds_publish_and_die() {
    const ROUNDS: usize = 8;
    let (first, later) = history(2);
    let project = project(&first).await;
    let server = Server::start(project.root()).await;
    let inferred = customers(&server.address, INFERRED_NOW);
    let mut readers = Readers::start(&server.address, 2);
    let mut random = Rng::with_seed(2);
    let begun = Instant::now();
    project.succeed(BUILD).await;
    let usual = begun.elapsed();
    let publishing = async {
        for told in later.chunks(later.len().div_ceil(ROUNDS)) {
            let telling = async {
                for few in told.chunks(6) {
                    tell(&server.address, few).await;
                }
            };
            tokio::join!(telling, project.succeed(BUILD));
            project.succeed(BUILD).await;
            readers.have_seen(project.snapshot().await.number).await;
        }
    };
    let dying = async {
        for _ in 0..u32::MAX {
            let mut build = project.start(BUILD);
            build.outlives(Duration::from_millis(5) + usual.mul_f64(2.0 * random.f64())).await;
            let ended = build.kill().await;
            assert!(
                [None, Some(0)].contains(&ended.status.code()),
                "a build ended with {}\n{}",
                ended.status,
                ended.errors
            );
        }
    };
    tokio::select! {
        () = publishing => {}
        () = dying => {}
    }
    let snapshots = readers.end(&project).await;
    assert!(snapshots.len() > ROUNDS / 2, "only {snapshots:?} were seen");

    let newest = project.snapshot().await.number;
    let warehouse = project.warehouse();
    let before = project.run(&["sql", "SELECT * FROM sales.orders_v1.order_lines", "--as-of", "0"]).await;
    assert!(before.errors.contains("there is no table"), "before anything was published: {}", before.errors);
    let beyond = project.run(&["sql", "SELECT 1", "--as-of", &(newest + 999).to_string()]).await;
    let there = format!("hint: the oldest snapshot is 1, the newest {newest}");
    assert!(beyond.status.code() == Some(1) && beyond.errors.contains(&there), "{}", beyond.errors);
    for snapshot in [1, newest / 2, newest] {
        let sql = "SELECT count(*) AS n FROM sales.orders_v1.order_lines WHERE quantity > 0";
        let rows = project.succeed(&["--format", "json", "sql", sql, "--as-of", &snapshot.to_string()]).await;
        let rows: Value = serde_json::from_str(&rows).unwrap();
        assert_eq!(number(&rows[0]["n"]), pinned(&warehouse, snapshot).await.lines.len(), "as of snapshot {snapshot}");
    }
    // The history is one that could have been seen wrongly.
    let (old, new) = (pinned(&warehouse, 1).await, pinned(&warehouse, newest).await);
    let is_keyed_again = |line: &&OrderLine| {
        let now = new.lines.iter().find(|now| (&now.order, now.number) == (&line.order, line.number));
        now.is_some_and(|now| now.city != line.city)
    };
    assert!(old.lines.iter().filter(is_keyed_again).count() > 0, "no line was keyed again");
    assert!(!inferred.is_subset(&customers(&server.address, INFERRED_NOW)), "nobody has become known");
    assert!(!customers(&server.address, DELETED_NOW).is_empty(), "nobody has left");
    server.terminate();
    server.end().await;
    project.succeed(&["verify"]).await;
}

/// The same in one process, in which queries and builds share what they know of tables.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_of_one_moment_while_up_publishes() {
    let (first, later) = history(3);
    let project = project(&first).await;
    let server = Server::start_as(project.root(), "up").await;
    let mut readers = Readers::start(&server.address, 2);
    for told in later.chunks(later.len().div_ceil(3)) {
        let before = project.snapshot().await.number;
        for few in told.chunks(6) {
            tell(&server.address, few).await;
        }
        readers.have_seen(before + 1).await;
    }
    let snapshots = readers.end(&project).await;
    assert!(snapshots.len() > 2, "only {snapshots:?} were seen");
    server.terminate();
    server.end().await;
}
