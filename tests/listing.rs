//! What lists tables reads no stream, writes nothing, and answers where one log is damaged.

use std::ops::Range;

use fastrand::Rng;

use crate::support::events::events;
use crate::support::http;
use crate::support::process::Server;
use crate::support::producer::Producer;
use crate::support::project::Project;

const TABLES: &str = "SELECT table_catalog, table_schema, table_name, count(*) AS n \
                      FROM lake.information_schema.columns GROUP BY 1, 2, 3 ORDER BY 1, 2, 3";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listing_and_reading_make_no_tables() {
    let project = Project::new();
    let listed = project.query(TABLES).await;
    let raw: Vec<_> = listed.iter().filter(|row| row["table_catalog"] == "lake").collect();
    assert_eq!(raw.len(), 2, "{listed:?}");
    assert!(!project.succeed(&["sql", "SHOW TABLES"]).await.is_empty());
    let rows = project.query("SELECT count(*) AS n FROM lake.sales.orders WHERE event_id <> ''").await;
    assert_eq!(rows[0]["n"], 0);
    assert!(!project.root().join("warehouse/lake").exists(), "a reader has made a table");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_damaged_log_stops_nobody_who_does_not_read_it() {
    let project = Project::new();
    let mut random = Rng::with_seed(21);
    let mut producer = Producer::new(&project.inbox());
    producer.take(&events(&mut random, 30), &mut random);
    producer.finish(&mut random);
    project.succeed(&["ingest", "--once"]).await;
    project.succeed(&["build"]).await;
    let listed = project.query(TABLES).await;
    let snapshot = project.snapshot().await;
    let (fact, stream) = (&snapshot.tables["sales.order_lines"], &snapshot.tables["lake.sales.customers"]);
    for log in [fact.path.commit(fact.version), stream.path.commit(1)] {
        std::fs::write(project.root().join("warehouse").join(log.to_string()), "nonsense").unwrap();
    }
    assert_eq!(project.query(TABLES).await, listed);
    for whole in ["sales.orders_v1.customer", "lake.sales.orders"] {
        project.query(&format!("SELECT count(*) AS n FROM {whole}")).await;
    }
    for (damaged, log) in [
        ("sales.orders_v1.order_lines", fact.path.commit(fact.version)),
        ("lake.sales.customers", stream.path.commit(1)),
    ] {
        let refused = project.run(&["sql", &format!("SELECT count(*) AS n FROM {damaged}")]).await;
        assert!(!refused.status.success() && refused.errors.contains(&log.to_string()), "{}", refused.errors);
    }
}

/// Models are there for those who work on the project, at the snapshot that they ask, and for nobody else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn models_that_are_no_ports_are_asked_where_somebody_wants_it() {
    const LINES: &str = "SELECT count(event_id) AS n FROM work.sales.order_lines";
    let project = Project::new();
    let rollup = "rollup: by_order\nof: order_lines\nby: { order_id: order_id }\ncount: lines\n";
    project.write("domains/sales/models/by_order.yaml", rollup);
    assert!(!project.run(&["sql", LINES]).await.status.success(), "nothing was built yet");
    let mut random = Rng::with_seed(22);
    let mut producer = Producer::new(&project.inbox());
    let all = events(&mut random, 60);
    let mut build = async |told: Range<usize>| {
        producer.take(&all[told], &mut random);
        producer.finish(&mut random);
        project.succeed(&["ingest", "--once"]).await;
        project.succeed(&["build"]).await;
        let port = project.query("SELECT count(*) AS n FROM sales.orders_v1.order_lines").await;
        assert_eq!(project.query(LINES).await, port);
        // The roll-up is no port.
        assert_eq!(project.query("SELECT sum(lines) AS n FROM work.sales.by_order").await, port);
        (project.snapshot().await.number, port)
    };
    let (first, lines) = build(0..30).await;
    let (second, more) = build(30..60).await;
    assert!(first < second && lines != more);
    let earlier = project.succeed(&["--json", "sql", LINES, "--as-of", &first.to_string()]).await;
    assert_eq!(serde_json::from_str::<Vec<serde_json::Value>>(&earlier).unwrap(), lines);
    let parts = project.run(&["sql", "SELECT * FROM work.sales.\"customer/changes\""]).await;
    assert!(!parts.status.success(), "{}", parts.output);

    let server = Server::start(project.root()).await;
    let refused = http::post(&server.address, "/v1/sql", LINES).unwrap();
    assert_eq!(refused.status, 404, "{}", refused.text());
    assert!(refused.text().contains("--work"), "{}", refused.text());
    assert!(!http::get(&server.address, "/v1/tables").unwrap().text().contains("by_order"));
    server.kill().await;
    let server = Server::start_with(project.root(), &["serve", "--work"]).await;
    let (snapshot, rows) = http::query(&server.address, LINES);
    assert_eq!(snapshot, second);
    assert_eq!(rows[0][0].to_string().trim_matches('"'), more[0]["n"].to_string());
    let listed = http::get(&server.address, "/v1/tables").unwrap().json();
    let models = listed["tables"].as_array().unwrap().iter().filter(|table| table["catalog"] == "work");
    let names: Vec<&str> = models.map(|table| table["full_name"].as_str().unwrap()).collect();
    assert_eq!(names, ["work.sales.by_order", "work.sales.customer", "work.sales.order_lines"]);
    server.kill().await;
}
