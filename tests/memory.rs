//! Builds keep within the memory that they may take, and become slower rather than stop.

use std::fmt::Write;
use std::sync::Arc;

use starmere_lake::meter::{self, Meter};

use crate::support::project::Project;

const MEMBERS: usize = 800_000;

/// Tries to stop a build by a join of which neither side has room in memory: that is slower, and done.
#[tokio::test]
async fn a_join_beyond_the_memory_of_a_build_is_sorted_on_the_disk() {
    let project = Project::new();
    let settings = std::fs::read_to_string(project.root().join("starmere.yaml")).unwrap();
    project.write("starmere.yaml", &format!("{settings}build_memory_mib: 176\n"));
    let select = "SELECT a.customer_key AS here, b.customer_key AS there \
                  FROM customer a JOIN customer b ON a.customer_durable_key = b.customer_durable_key";
    project.write("domains/sales/models/pairs.yaml", &format!("sql: pairs\nselect: {select}\ngrain: here\n"));
    let columns = "{ here: { type: bigint }, there: { type: bigint } }";
    let port = format!("{{ model: pairs, primary_key: [here], columns: {columns} }}");
    let product = format!("product: pairs\nversion: 1\nports: {{ pairs: {port} }}\n");
    project.write("domains/sales/products/pairs_v1.yaml", &product);
    let mut lines = String::new();
    for number in 0..MEMBERS {
        let head = format!(r#"{{"id":"{number}","type":"customer_moved","at":"2024-01-01T00:00:00Z""#);
        writeln!(lines, r#"{head},"customer":"c{number}","city":"x"}}"#).unwrap();
    }
    project.write("inbox/customers/all.jsonl", &lines);
    project.succeed(&["ingest", "--once"]).await;
    project.succeed(&["build"]).await;
    let sql = "SELECT count(*) AS n, count(*) FILTER (WHERE here = there) AS same FROM sales.pairs_v1.pairs";
    let rows = project.query(sql).await;
    // The member that nobody knows is there as well.
    assert_eq!(rows, [serde_json::json!({ "n": MEMBERS + 1, "same": MEMBERS + 1 })]);
}

/// The allocator of this process counts what each thread takes.
#[test]
fn memory_that_a_thread_of_a_query_takes_is_counted() {
    const MUCH: usize = 64 << 20;
    let meter = Arc::new(Meter::default());
    meter.begin(&Arc::default());
    let counted = Arc::clone(&meter);
    let held = std::thread::spawn(move || {
        let before: Vec<u8> = vec![1; MUCH];
        counted.count_this_thread();
        let after: Vec<u8> = vec![1; 2 * MUCH];
        meter::note();
        let both = counted.held();
        drop(before);
        meter::note();
        let less = counted.held();
        (both, less, after)
    });
    let (both, less, after) = held.join().unwrap();
    assert!(both.abs_diff(2 * MUCH as u64) < 1 << 20, "{both}");
    assert!(less.abs_diff(MUCH as u64) < 1 << 20, "{less}");
    // Another thread gives it back: that has to be told.
    drop(after);
    assert_eq!(meter.held(), less);
    meter.begin(&Arc::default());
    assert_eq!(meter.held(), 0);
}
