//! What a project says of itself: columns, holidays, the bus matrix.

use super::{LINES, changed};
use crate::support::project::Project;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn columns_say_what_they_are_for() {
    let project = Project::new();
    changed(&project, LINES, "quantity: { type: int }", "quantity: { type: int, description: Pieces }");
    project.succeed(&["ingest", "--once"]).await;
    project.succeed(&["build"]).await;
    let rows = project.query("SELECT * FROM system.catalog.columns").await;
    let row = |port: &str, name: &str| {
        rows.iter().find(|row| row["port"] == port && row["name"] == name).expect("the column is there").clone()
    };
    let said = |port: &str, name: &str| {
        let row = row(port, name);
        (row["means"].as_str().map(str::to_owned), row["description"].as_str().map(str::to_owned))
    };
    let lines = "sales.orders_v1.order_lines";
    assert_eq!(said(lines, "customer_key"), (Some("key of sales.customer".into()), None));
    assert_eq!(said(lines, "order_id"), (Some("degenerate dimension".into()), None));
    assert_eq!(said(lines, "quantity"), (Some("measure, additive".into()), Some("Pieces".into())));
    assert_eq!(said("sales.orders_v1.customer", "city").0.as_deref(), Some("attribute, with history"));
    assert_eq!(said("sales.orders_v1.customer", "customer_key").0.as_deref(), Some("key"));
    // Keys: what they refer to, nobody checks.
    let key = |name: &str| row(lines, name)["key"].as_str().map(str::to_owned);
    assert_eq!(key("order_id").as_deref(), Some("primary"));
    assert_eq!(key("customer_key").as_deref(), Some("sales.orders_v1.customer (informational)"));
    assert_eq!(key("quantity"), None);
    let listed = project.succeed(&["--format", "csv", "products"]).await;
    assert!(listed.contains(",customer_key,bigint,false,sales.orders_v1.customer (informational),"), "{listed}");
    // What may be null by contract, whatever the model's table says, with and without the version.
    for (schema, kind) in [("orders_v1", "BASE TABLE"), ("orders", "VIEW")] {
        let of = format!("WHERE table_schema = '{schema}' AND table_name = 'order_lines'");
        let query = format!(
            "SELECT column_name AS name FROM sales.information_schema.columns {of} AND is_nullable = 'NO' ORDER BY name"
        );
        let names: Vec<serde_json::Value> =
            project.query(&query).await.into_iter().map(|mut row| row["name"].take()).collect();
        assert_eq!(names, ["customer_key", "line_number", "order_id", "placed_at", "quantity"], "{schema}");
        let query = format!("SELECT table_type AS kind FROM sales.information_schema.tables {of}");
        assert_eq!(project.query(&query).await, [serde_json::json!({ "kind": kind })]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holidays_are_read_from_a_file_of_the_project() {
    let project = Project::new();
    let calendar = "dimension: day\ncalendar: { from: 2024-12-24, to: 2024-12-26, holidays: days.csv }\n";
    project.write("domains/sales/models/day.yaml", calendar);
    let missing = project.run(&["check"]).await;
    assert!(
        missing.errors.contains("domains/sales/models/day.yaml:2:11: `days.csv` could not be read"),
        "{}",
        missing.errors
    );
    project.write("days.csv", "day,name\n2024-12-25,Christmas\n");
    project.succeed(&["check"]).await;
    project.succeed(&["build"]).await;
    // As a table of the lake's files, since no product shows it.
    project.write("days.csv", "2024-12-25,a\n2024-12-25,b\n");
    let twice = project.run(&["check"]).await;
    assert!(twice.errors.contains("line 2: 2024-12-25 is there twice"), "{}", twice.errors);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bus_matrix_says_which_facts_have_which_dimensions() {
    let project = Project::new();
    changed(&project, LINES, "dimensions:\n", "dimensions:\n  payer: { dimension: customer, key: customer_id }\n");
    let day = "dimension: day\ncalendar: { from: 2024-01-01, to: 2024-12-31 }\n";
    project.write("domains/sales/models/day.yaml", day);
    let orders = "fact: orders\nfrom: { stream: orders, event: order_placed }\ngrain: event_id\ndimensions:\n  \
                  placed: { dimension: day, key: CAST(occurred_at AS DATE) }\n";
    project.write("domains/sales/models/orders.yaml", orders);
    let table = project.succeed(&["products", "matrix"]).await;
    let cells = |line: &str| line.split('|').map(str::trim).map(str::to_owned).collect::<Vec<_>>();
    let rows: Vec<Vec<String>> = table.lines().filter(|line| line.starts_with('|')).map(cells).collect();
    assert_eq!(rows[0], ["", "fact", "sales.customer", "sales.day", ""], "{table}");
    assert_eq!(rows[1], ["", "sales.order_lines", "payer, customer", "", ""], "{table}");
    assert_eq!(rows[2], ["", "sales.orders", "", "placed", ""], "{table}");
    let json: serde_json::Value =
        serde_json::from_str(&project.succeed(&["--format", "json", "products", "matrix"]).await).unwrap();
    assert_eq!(
        json,
        serde_json::json!([
            { "fact": "sales.order_lines", "sales.customer": ["payer", "customer"], "sales.day": [] },
            { "fact": "sales.orders", "sales.customer": [], "sales.day": ["placed"] },
        ])
    );
}
