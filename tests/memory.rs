//! Builds keep within the memory that they may take, and become slower rather than stop.

use std::fmt::Write;

use crate::support::project::Project;

const MEMBERS: usize = 150_000;

/// Tries to stop a build by a join of which neither side has room in memory: that is slower, and done.
#[tokio::test]
async fn a_join_beyond_the_memory_of_a_build_is_sorted_on_the_disk() {
    let project = Project::new();
    let settings = std::fs::read_to_string(project.root().join("starmere.yaml")).unwrap();
    project.write("starmere.yaml", &format!("{settings}build_memory_mib: 160\n"));
    let select = "SELECT a.customer_id, a.city AS here, b.city AS there \
                  FROM customer a JOIN customer b ON a.customer_id = b.customer_id WHERE a.customer_key > 0";
    let model = format!("sql: neighbours\nselect: {select}\ngrain: customer_id\n");
    project.write("domains/sales/models/neighbours.yaml", &model);
    let columns = "{ customer_id: { type: string }, here: { type: string }, there: { type: string } }";
    let port = format!("{{ model: neighbours, primary_key: [customer_id], columns: {columns} }}");
    let product = format!("product: neighbours\nversion: 1\nports: {{ pairs: {port} }}\n");
    project.write("domains/sales/products/neighbours_v1.yaml", &product);
    let mut lines = String::new();
    for number in 0..MEMBERS {
        let city = format!("{number:0>300}");
        let head = format!(r#"{{"id":"{number}","type":"customer_moved","at":"2024-01-01T00:00:00Z""#);
        writeln!(lines, r#"{head},"customer":"c{number}","city":"{city}"}}"#).unwrap();
    }
    project.write("inbox/customers/all.jsonl", &lines);
    project.succeed(&["ingest", "--once"]).await;
    project.succeed(&["build"]).await;
    let sql = "SELECT count(*) AS n, count(DISTINCT here) AS cities, count(*) FILTER (WHERE here = there) AS same \
               FROM sales.neighbours_v1.pairs";
    let rows = project.query(sql).await;
    assert_eq!(rows, [serde_json::json!({ "n": MEMBERS, "cities": MEMBERS, "same": MEMBERS })]);
}
