//! Definitions that differ: processes do not revert each other, files that change are taken up, wrong ones stop nothing.

use fastrand::Rng;
use serde_json::json;
use starmere_lake::catalog::{Catalog, CatalogSnapshot};
use starmere_lake::paths::TablePath;
use tokio::task::spawn_blocking;

use crate::support::events::events;
use crate::support::http;
use crate::support::process::{Ended, Server, until};
use crate::support::producer::Producer;
use crate::support::project::{ORDER_LINES, ORDERS, Project};

const LINES: &str = "domains/sales/models/order_lines.yaml";
const STREAM: &str = "streams/orders.yaml";

/// Another folder with the same definitions over the warehouse of `project`, and without its sources.
fn beside(project: &Project) -> Project {
    let other = Project::new();
    let warehouse = project.root().join("warehouse");
    other.write("starmere.yaml", &format!("project: small\nwarehouse: {}\n", warehouse.display()));
    other
}

/// Definitions by which each line counts ten times as much: the same contract, another table.
fn tenfold() -> String {
    ORDER_LINES.replace("quantity: { type: int }", "quantity: { type: int, expression: 10 * quantity }")
}

fn order(id: &str, quantity: u32) -> String {
    let lines = json!([{ "quantity": quantity }]);
    let at = "2024-02-01T00:00:00Z";
    let order = json!({ "id": id, "type": "order_placed", "at": at, "order": id, "customer": "c1", "lines": lines });
    format!("{order}\n")
}

async fn quantity(project: &Project) -> i64 {
    let rows = project.query("SELECT sum(quantity) AS q FROM sales.orders_v1.order_lines").await;
    rows[0]["q"].as_i64().unwrap_or_default()
}

/// The value of a metric of the server's process.
async fn metric(server: &Server, name: &'static str) -> Option<f64> {
    let address = server.address.clone();
    let answer = spawn_blocking(move || http::get(&address, "/metrics")).await.unwrap().unwrap();
    let text = answer.text();
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

async fn post(server: &Server, event: String) -> http::Answer {
    let address = server.address.clone();
    spawn_blocking(move || http::post(&address, "/v1/streams/orders/events", &event)).await.unwrap().unwrap()
}

/// What `check` finds, as programs read it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_check_finds_can_be_read_by_programs() {
    let project = Project::new();
    let check = async || {
        let ended = project.run(&["check", "--json"]).await;
        let found: serde_json::Value = serde_json::from_str(&ended.output).unwrap_or_default();
        (ended.status.code(), found)
    };
    assert_eq!(check().await, (Some(0), json!([])));
    project.write(LINES, &ORDER_LINES.replace("measures:", "measurs:"));
    let (status, found) = check().await;
    assert_eq!((status, found.as_array().map(Vec::len)), (Some(1), Some(1)), "{found}");
    let found = &found[0];
    assert_eq!((&found["severity"], &found["file"]), (&json!("error"), &json!(LINES)), "{found}");
    assert!(found["line"].is_u64() && found["column"].is_u64(), "{found}");
    assert!(found["message"].as_str().is_some_and(|message| message.contains("`measurs`")), "{found}");
    // Where there is no project, nobody knows whether all is right.
    std::fs::remove_file(project.root().join("starmere.yaml")).unwrap();
    assert_eq!(check().await, (Some(1), serde_json::Value::Null));
}

/// The snapshot that a build says it has published.
fn named(build: Ended) -> u64 {
    let said = build.errors.clone();
    build.good();
    let number = said.rsplit_once("catalog snapshot ").expect("a build names its snapshot").1;
    number.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
}

/// A project, its `up`, and the snapshot of newer definitions that a build with other files has published beside it.
async fn superseded() -> (Project, Server, CatalogSnapshot) {
    let project = Project::new();
    project.write("inbox/orders/a.jsonl", &order("A", 2));
    let server = Server::start_as(project.root(), "up").await;
    until("`up` has published its definitions", async || {
        !project.snapshot().await.tables.is_empty() && quantity(&project).await == 2
    })
    .await;
    let newer = beside(&project);
    newer.write(LINES, &tenfold());
    newer.succeed(&["build", "--accept-breaking"]).await;
    let published = project.snapshot().await;
    (project, server, published)
}

/// `up` with older files neither reverts what `build` has published nor stops landing; with the same files it goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_up_with_older_files_stops_building_until_they_are_the_newer_ones() {
    let (project, server, published) = superseded().await;
    let definitions = published.definitions.clone().unwrap();
    assert_eq!((quantity(&project).await, definitions.number), (20, 2));
    until("`up` says that it is superseded", async || {
        metric(&server, "starmere_definitions_superseded").await == Some(1.0)
    })
    .await;
    project.write("inbox/orders/b.jsonl", &order("B", 3));
    until("events land all the same", async || project.landed().await[1].len() == 2).await;
    let words =
        ["definitions number 2 are published (since ", "and the files here are those of number 1: nothing is built"];
    until("`status` says so", async || {
        let status = project.run(&["status"]).await.errors;
        words.iter().all(|words| status.contains(words))
    })
    .await;
    assert_eq!(project.snapshot().await.number, published.number, "nobody has published since");
    // The files become the newer ones: it is no act of its own, so the number stays.
    project.write(LINES, &tenfold());
    until("`up` builds again", async || quantity(&project).await == 50).await;
    assert_eq!(project.snapshot().await.definitions.unwrap(), definitions);
    until("`up` says that it builds", async || metric(&server, "starmere_definitions_superseded").await == Some(0.0))
        .await;
    // And a change of its own files is one; but for what they mean, which a `build` has to say.
    project.write(LINES, ORDER_LINES);
    server.says("quantity is made of quantity instead of 10 * quantity", 1).await;
    project.write(LINES, &format!("{}  pieces: {{ expression: quantity, type: int }}\n", tenfold()));
    until("`up` publishes its own change", async || {
        project.snapshot().await.definitions.is_some_and(|definitions| definitions.number == 3)
    })
    .await;
    assert_eq!(quantity(&project).await, 50);
    server.terminate();
    server.end().await;
}

/// An `up` that is killed and started again with its old files reverts nothing; a build with them does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_with_old_files_reverts_nothing() {
    let (project, server, published) = superseded().await;
    server.kill().await;
    let server = Server::start_as(project.root(), "up").await;
    project.write("inbox/orders/b.jsonl", &order("B", 3));
    until("events land", async || project.landed().await[1].len() == 2).await;
    until("`up` says which definitions it has", async || {
        let status = project.run(&["status"]).await;
        let words = ["definitions number 2 are published", "those of number 1", "`starmere build`"];
        words.iter().all(|words| status.errors.contains(words))
    })
    .await;
    assert_eq!(metric(&server, "starmere_definitions_superseded").await, Some(1.0));
    assert_eq!(project.snapshot().await, published, "nobody has published since");
    // Files that are rolled back on purpose are built, and the build says what it does.
    let build = project.run(&["build", "--accept-breaking"]).await;
    assert!(build.errors.contains("goes back to them, and they become number 3"), "{}", build.errors);
    build.good();
    assert_eq!((quantity(&project).await, project.snapshot().await.definitions.unwrap().number), (5, 3));
    until("`up` builds again", async || metric(&server, "starmere_definitions_superseded").await == Some(0.0)).await;
    server.terminate();
    server.end().await;
    // So is the way back by a snapshot's number, and the next start reverts neither.
    project.succeed(&["build", "--back-to", &published.number.to_string()]).await;
    let back = project.snapshot().await;
    assert_eq!((quantity(&project).await, back.definitions.clone().unwrap().number), (20, 4));
    let server = Server::start_as(project.root(), "up").await;
    until("the start is superseded", async || metric(&server, "starmere_definitions_superseded").await == Some(1.0))
        .await;
    assert_eq!(project.snapshot().await, back);
    server.terminate();
    server.end().await;
}

/// Two builds of definitions that differ, at once and while events land: each is in the snapshot that it names.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_build_is_in_the_snapshot_that_it_names() {
    const TABLE: &str = "sales.order_lines";
    const BUILD: &[&str] = &["build", "--accept-breaking"];
    let project = Project::new();
    let other = beside(&project);
    other.write(LINES, &tenfold());
    let mut random = Rng::with_seed(21);
    let mut producer = Producer::new(&project.inbox());
    let catalog = Catalog::new(&project.warehouse());
    let path = |number| {
        let catalog = catalog.clone();
        async move { catalog.at(number).await.unwrap().tables[TABLE].path.clone() }
    };
    let mut paths: Option<(TablePath, TablePath)> = None;
    for told in events(&mut random, 160).chunks(20) {
        producer.take(told, &mut random);
        producer.finish(&mut random);
        project.succeed(&["ingest", "--once"]).await;
        let Some((ours, theirs)) = paths.clone() else {
            let ours = named(project.run(BUILD).await);
            let theirs = named(other.run(BUILD).await);
            paths = Some((path(ours).await, path(theirs).await));
            continue;
        };
        let (ingested, one, two) =
            tokio::join!(project.run(&["ingest", "--once"]), project.run(BUILD), other.run(BUILD));
        ingested.good();
        for (build, expected) in [(one, ours), (two, theirs)] {
            let number = named(build);
            assert_eq!(path(number).await, expected, "snapshot {number} holds what was built");
        }
    }
    let (ours, theirs) = paths.unwrap();
    assert_ne!(ours, theirs);
    project.succeed(BUILD).await;
    assert_eq!(project.snapshot().await.tables[TABLE].path, ours);
    project.succeed(&["verify"]).await;
}

/// Wrong files stop neither landing nor building by the old ones; right ones are taken up: mappings, sources, streams.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_files_stop_nothing_and_right_ones_are_taken_up() {
    let project = Project::new();
    project.write("inbox/orders/a.jsonl", &order("A", 2));
    let server = Server::start_as(project.root(), "up").await;
    until("the first order is published", async || {
        !project.snapshot().await.tables.is_empty() && quantity(&project).await == 2
    })
    .await;
    // Wrong in one place, so that nothing of it is taken up.
    project.write("domains/sales/models/wrong.yaml", "fact: wrong\nmeasurs: {}\n");
    project.write(STREAM, &ORDERS.replace("type: type", "type: kind"));
    server.signal("-HUP");
    until("the files are refused", async || metric(&server, "starmere_definitions_refused").await == Some(1.0)).await;
    let answer = post(&server, order("B", 3)).await;
    assert_eq!((answer.status, answer.json()["rejected"].as_u64()), (200, Some(0)), "{}", answer.text());
    project.write("inbox/orders/b.jsonl", &order("C", 4));
    let landed = || async { project.landed().await[1].len() };
    until("landing goes on", async || landed().await == 3).await;
    std::fs::remove_file(project.root().join("domains/sales/models/wrong.yaml")).unwrap();
    server.signal("-HUP");
    until("the files are taken up", async || metric(&server, "starmere_definitions_refused").await == Some(0.0)).await;
    until("events are read by the new mapping", async || {
        post(&server, order("D", 5)).await.json()["rejected"].as_u64() == Some(1)
    })
    .await;
    // All that came by the old mapping was built by the old definitions, and still is.
    until("building goes on", async || quantity(&project).await >= 9).await;
    let main = std::fs::read_to_string(project.root().join("starmere.yaml")).unwrap();
    let more = main.replace("sources:\n", "sources:\n  more: { stream: customers, files: more }\n");
    project.write("more/a.jsonl", "{}\n");
    project.write("starmere.yaml", &more);
    until("a new source is read", async || project.landed().await[0].len() == 1).await;
    server.terminate();
    server.end().await;
}

/// What a process says of its files is so; who sends SIGHUP is always told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_said_of_files_is_so() {
    const PRODUCT: &str = "domains/sales/products/orders_v1.yaml";
    let project = Project::new();
    project.write("inbox/orders/a.jsonl", &order("A", 2));
    project.succeed(&["ingest", "--once"]).await;
    project.succeed(&["build"]).await;
    let server = Server::start_as(project.root(), "up").await;
    until("`up` has built", async || {
        metric(&server, "starmere_build_last_success_timestamp_seconds").await.is_some_and(|at| at > 0.0)
    })
    .await;
    server.signal("-HUP");
    server.says("the files are read again, and say the same", 1).await;
    let main = std::fs::read_to_string(project.root().join("starmere.yaml")).unwrap();
    project.write("starmere.yaml", &main.replace("gather_ms: 1", "gather_ms: 2"));
    server.says("`listeners` has changed, and takes effect at the next start", 1).await;
    project.write("starmere.yaml", &main);
    server.says("`listeners` is again what it was when this process began", 1).await;
    assert_eq!(server.said().matches("takes effect at the next start").count(), 1);
    project.write("domains/sales/models/wrong.yaml", "fact: wrong\nmeasurs: {}\n");
    let refused = "the files are not taken up as they are now";
    server.says(refused, 1).await;
    server.signal("-HUP");
    server.says(refused, 2).await;
    std::fs::remove_file(project.root().join("domains/sales/models/wrong.yaml")).unwrap();
    until("the files are right", async || metric(&server, "starmere_definitions_refused").await == Some(0.0)).await;
    // Somebody else publishes another column: these files, which lack it, have not changed.
    let newer = beside(&project);
    let product = std::fs::read_to_string(newer.root().join(PRODUCT)).unwrap();
    let quantity = "      quantity: { type: int, nullable: false }\n";
    let more = format!("{quantity}      pieces: {{ from: quantity, type: int, nullable: false }}\n");
    newer.write(PRODUCT, &product.replace(quantity, &more));
    newer.succeed(&["build"]).await;
    server.says("and the files here are those of number 1", 1).await;
    assert_eq!(metric(&server, "starmere_definitions_refused").await, Some(0.0));
    let said = server.said();
    assert!(!said.contains("--accept-breaking") && !said.lines().any(|line| line.trim() == "hint:"), "{said}");
    // It has published nothing: all was there.
    assert!(!said.contains("published catalog snapshot"), "{said}");
    server.terminate();
    server.end().await;
}

/// A process that begins with wrong models lands and serves, and builds once they are right.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_models_do_not_keep_a_process_from_landing() {
    let project = Project::new();
    project.write(LINES, "fact: [\n");
    project.write("inbox/orders/a.jsonl", &order("A", 2));
    let server = Server::start_as(project.root(), "up").await;
    until("landing begins", async || project.landed().await[1].len() == 1).await;
    assert_eq!(project.snapshot().await.number, 0);
    let status = project.run(&["status"]).await;
    assert!(status.status.success() && status.errors.contains("order_lines.yaml"), "{}", status.errors);
    project.write(LINES, ORDER_LINES);
    until("the models are right, and built", async || {
        !project.snapshot().await.tables.is_empty() && quantity(&project).await == 2
    })
    .await;
    server.terminate();
    server.end().await;
}
