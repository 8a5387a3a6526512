//! What lists tables reads no stream, writes nothing, and answers where one log is damaged.

use fastrand::Rng;

use crate::support::events::events;
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
