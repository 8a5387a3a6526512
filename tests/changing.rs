//! Changing definitions without fear: environments, changes that break, the way back; and from rows to events.

mod acceptance;
mod described;
mod environments;
mod rebuilds;
mod rejects;
mod trace;
mod verdicts;

use crate::support::project::Project;

const EVENTS: [(&str, &str); 2] = [
    (
        "inbox/customers/a.jsonl",
        concat!(
            r#"{"id":"m1","type":"customer_moved","at":"2024-01-01T00:00:00Z","customer":"c1","city":"Ulm"}"#,
            "\n",
            r#"{"id":"m2","type":"customer_moved","at":"2024-03-01T00:00:00Z","customer":"c1","city":"Bern"}"#,
            "\n",
        ),
    ),
    (
        "inbox/orders/a.jsonl",
        concat!(
            r#"{"id":"o1","type":"order_placed","at":"2024-02-01T00:00:00Z","order":"A","customer":"c1","lines":[{"quantity":2}]}"#,
            "\n",
            r#"{"id":"o1","type":"order_placed","at":"2024-02-02T00:00:00Z","order":"A","customer":"c1","lines":[{"quantity":9}]}"#,
            "\n",
        ),
    ),
];

const LINES: &str = "domains/sales/models/order_lines.yaml";
const PRODUCT: &str = "domains/sales/products/orders_v1.yaml";

async fn built() -> Project {
    let project = Project::new();
    EVENTS.iter().for_each(|(name, text)| project.write(name, text));
    project.succeed(&["ingest", "--once"]).await;
    project.succeed(&["build"]).await;
    project
}

fn changed(project: &Project, file: &str, right: &str, wrong: &str) {
    let text = std::fs::read_to_string(project.root().join(file)).unwrap();
    assert!(text.contains(right), "{right}\n{text}");
    project.write(file, &text.replacen(right, wrong, 1));
}

async fn quantity(project: &Project, environment: &[&str]) -> String {
    let query = ["--format", "csv", "sql", "SELECT sum(quantity) AS q FROM sales.orders_v1.order_lines"];
    project.succeed(&[environment, &query].concat()).await.lines().last().unwrap_or_default().to_owned()
}
