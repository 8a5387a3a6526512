//! What a build makes anew when definitions or events change, and what it leaves as it is.

use super::{LINES, PRODUCT, built, changed, quantity};
use crate::support::project::Project;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_says_what_differs_and_what_follows() {
    let project = built().await;
    let kept = project.succeed(&["plan"]).await;
    assert!(kept.contains("= dimension sales.customer") && kept.contains("└─ = fact sales.order_lines"), "{kept}");
    changed(&project, "domains/sales/models/customer.yaml", "history: version", "history: [version, current]");
    project.write("domains/sales/models/by_order.yaml", "rollup: by_order\nof: order_lines\nby: { order: order_id }\n");
    let plan = project.succeed(&["plan"]).await;
    let expected = [
        "rebuild: its definition has changed; reads 4 events\n",
        "~ attributes.city.history: version → [version, current]\n",
        "└─ ~ fact sales.order_lines",
        "rebuild: what it is made of has changed; reads 2 events",
        "   └─ + rollup sales.by_order",
        "create: it was never published; reads 1 row\n",
        "1 to create, 2 to rebuild",
    ];
    for words in expected {
        assert!(plan.contains(words), "{words}\n{plan}");
    }
    let rows = project.succeed(&["--format", "json", "plan"]).await;
    assert!(rows.contains(r#""edits":["~ attributes.city.history: version → [version, current]"]"#), "{rows}");
    project.succeed(&["build"]).await;
    let kept = project.succeed(&["plan"]).await;
    assert!(!kept.contains('~') && kept.contains("to keep"), "{kept}");
    changed(&project, LINES, "quantity: { type: int }", "quantity: { type: int, expression: 10 * quantity }");
    let plan = project.succeed(&["plan"]).await;
    assert!(plan.contains("rebuild: sales.order_lines, which mentions its members, or the format of its"), "{plan}");
}

/// A dimension that a fact mentions is made anew only where other events of the fact may be rejects.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuild_reaches_only_what_the_change_reaches() {
    let project = built().await;
    let order = |id: &str, customer: &str, quantity: u32| {
        let lines = serde_json::json!([{ "quantity": quantity }]);
        let at = "2024-02-05T00:00:00Z";
        let order = serde_json::json!({
            "id": id, "type": "order_placed", "at": at, "order": id, "customer": customer, "lines": lines,
        });
        project.write(&format!("inbox/orders/{id}.jsonl"), &format!("{order}\n"));
    };
    let is_there = async |customer: &str| -> bool {
        let query = format!("SELECT city FROM sales.orders_v1.customer WHERE customer_id = '{customer}'");
        !project.query(&query).await.is_empty()
    };
    let path = async |table: &str| project.snapshot().await.tables[table].path.clone();
    let (customer, lines) = (path("sales.customer").await, path("sales.order_lines").await);
    let large = "measures:\n  large: { expression: CASE WHEN quantity > 9 THEN 1 ELSE 0 END, type: bigint }\n";
    changed(&project, LINES, "measures:\n", large);
    order("o7", "c7", 2_000_000_000);
    project.succeed(&["ingest", "--once"]).await;
    project.succeed(&["build"]).await;
    assert_eq!(path("sales.customer").await, customer);
    assert_ne!(path("sales.order_lines").await, lines);
    assert!(is_there("c7").await);
    project.succeed(&["verify"]).await;
    // Ten times as much is too much for the type: the order is a reject, and mentions nobody any more.
    changed(&project, LINES, "quantity: { type: int }", "quantity: { type: int, expression: 10 * quantity }");
    project.succeed(&["build", "--accept-breaking"]).await;
    assert_ne!(path("sales.customer").await, customer);
    assert!(!is_there("c7").await);
    order("o8", "c8", 3);
    project.succeed(&["ingest", "--once"]).await;
    project.succeed(&["build"]).await;
    assert!(is_there("c8").await);
    project.succeed(&["verify"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rejects_are_tried_again_when_a_definition_changes() {
    let project = built().await;
    let many = r#"{"id":"o2","type":"order_placed","at":"2024-02-01T00:00:00Z","order":"B","customer":"c1","lines":[{"quantity":3000000000},{"quantity":1}]}"#;
    project.write("inbox/orders/b.jsonl", &format!("{many}\n"));
    project.succeed(&["ingest", "--once"]).await;
    project.succeed(&["build"]).await;
    let reasons = async || -> Vec<String> {
        let rows = project.succeed(&["--format", "json", "rejects"]).await;
        let rows: Vec<serde_json::Value> = serde_json::from_str(&rows).unwrap();
        rows.iter().map(|row| row["reason"].as_str().unwrap_or_default().to_owned()).collect()
    };
    let before = reasons().await;
    assert!(before.len() == 1 && before[0].starts_with("`quantity` of element 1: "), "{before:?}");
    assert_eq!(quantity(&project, &[]).await, "2");
    // The whole event waits, until the field may be as long.
    changed(&project, "streams/orders.yaml", "quantity: { type: int }", "quantity: { type: bigint }");
    changed(&project, LINES, "quantity: { type: int }", "quantity: { type: bigint }");
    changed(
        &project,
        PRODUCT,
        "quantity: { type: int, nullable: false }",
        "quantity: { type: bigint, nullable: false }",
    );
    project.succeed(&["build", "--accept-breaking"]).await;
    assert_eq!((reasons().await, quantity(&project, &[]).await), (Vec::new(), "3000000003".to_owned()));
    // A rule takes rows away again, and says which it is.
    changed(&project, LINES, "each: lines }", "each: lines, rules: { few: quantity < 100 } }");
    project.succeed(&["build"]).await;
    assert_eq!(reasons().await, ["element 1: rule `few`: `quantity < 100` is false"]);
    assert_eq!(quantity(&project, &[]).await, "2");
    changed(&project, LINES, ", rules: { few: quantity < 100 }", "");
    project.succeed(&["build"]).await;
    assert_eq!((reasons().await, quantity(&project, &[]).await), (Vec::new(), "3000000003".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_field_that_old_events_have_fills_the_past() {
    let project = Project::new();
    let moved = r#"{"id":"m1","type":"customer_moved","at":"2024-01-01T00:00:00Z","customer":"c1","city":"Ulm","street":"Gasse"}
{"id":"m2","type":"customer_moved","at":"2024-03-01T00:00:00Z","customer":"c1","city":"Bern"}
"#;
    project.write("inbox/customers/a.jsonl", moved);
    project.succeed(&["ingest", "--once"]).await;
    project.succeed(&["build"]).await;
    changed(
        &project,
        "streams/customers.yaml",
        "city: { type: string }",
        "city: { type: string }\n          street: { type: string }",
    );
    changed(
        &project,
        "domains/sales/models/customer.yaml",
        "attributes:\n",
        "attributes:\n  street: { type: string, history: version }\n",
    );
    changed(
        &project,
        PRODUCT,
        "      city: { type: string }\n",
        "      city: { type: string }\n      street: { type: string }\n",
    );
    project.succeed(&["build"]).await;
    let query = "SELECT city, street FROM sales.orders_v1.customer WHERE customer_id = 'c1' ORDER BY valid_from";
    let rows: Vec<String> = project.query(query).await.iter().map(ToString::to_string).collect();
    assert_eq!(rows, [r#"{"city":"Ulm","street":"Gasse"}"#, r#"{"city":"Bern","street":null}"#]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_that_changes_makes_history_from_the_log() {
    let project = built().await;
    let history = async |history: &str| -> Vec<String> {
        let file = "domains/sales/models/customer.yaml";
        let text = std::fs::read_to_string(project.root().join(file)).unwrap();
        let (before, rest) = text.split_once("history: ").unwrap();
        let rest = rest.split_once(" }").unwrap().1;
        project.write(file, &format!("{before}history: {history} }}{rest}"));
        project.succeed(&["build", "--accept-breaking"]).await;
        let query = "SELECT c.city, count(l.order_id) AS lines FROM sales.orders_v1.customer c LEFT JOIN sales.orders_v1.order_lines l \
                     ON l.customer_key = c.customer_key WHERE c.customer_id = 'c1' GROUP BY c.city, c.valid_from ORDER BY c.valid_from";
        let rows = project.query(query).await;
        rows.iter().map(|row| format!("{}: {}", row["city"].as_str().unwrap_or_default(), row["lines"])).collect()
    };
    // A line between two moves.
    assert_eq!(history("version").await, ["Ulm: 1", "Bern: 0"]);
    assert_eq!(history("overwrite").await, ["Bern: 1"]);
    assert_eq!(history("keep").await, ["Ulm: 1"]);
    assert_eq!(history("[version, original]").await, ["Ulm: 1", "Bern: 0"]);
    project.succeed(&["verify"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_build_says_what_it_mended_and_why() {
    let project = built().await;
    let said = async |stream: &str, event: &str| -> String {
        project.write(&format!("inbox/{stream}/{}.jsonl", event.len()), &format!("{event}\n"));
        project.succeed(&["ingest", "--once"]).await;
        let built = project.run(&["build"]).await;
        built
            .errors
            .lines()
            .filter(|line| line.contains("order_lines") || line.contains("by_city"))
            .collect::<Vec<_>>()
            .join("\n")
    };
    let by_city = "rollup: by_city\nof: order_lines\nby: { city: customer.city }\n";
    project.write("domains/sales/models/by_city.yaml", by_city);
    project.succeed(&["build"]).await;
    // A move that comes late splits a version, under a line and a group of the roll-up.
    let late = r#"{"id":"m3","type":"customer_moved","at":"2024-01-15T00:00:00Z","customer":"c1","city":"Rome"}"#;
    let told = said("customers", late).await;
    assert!(told.contains("1 row, 1 keyed again by customer"), "{told}");
    assert!(told.contains("rollup sales.by_city") && told.contains("1 replaced"), "{told}");
    // An earlier copy of an event takes the place of the one that counted.
    let earlier = r#"{"id":"o1","type":"order_placed","at":"2024-01-20T00:00:00Z","order":"A","customer":"c1","lines":[{"quantity":5}]}"#;
    let told = said("orders", earlier).await;
    assert!(told.contains("1 row, 1 written from 1 event, 1 taken back"), "{told}");
    assert_eq!(quantity(&project, &[]).await, "5");
    // Nothing new, nothing done.
    let built = project.run(&["build"]).await;
    assert!(!built.errors.contains("written") && !built.errors.contains("keyed again"), "{}", built.errors);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_build_that_stopped_skips_what_is_finished() {
    let project = built().await;
    let again = r#"{"id":"o2","type":"order_placed","at":"2024-02-03T00:00:00Z","order":"A","customer":"c9","lines":[{"quantity":2}]}"#;
    project.write("inbox/orders/b.jsonl", &format!("{again}\n"));
    project.succeed(&["ingest", "--once"]).await;
    let written = |errors: &str| errors.matches(" written from ").count();
    // A contract is broken once everything is built.
    let stopped = project.run(&["build"]).await;
    assert!(stopped.status.code() == Some(1) && written(&stopped.errors) == 2, "{}", stopped.errors);
    let stopped = project.run(&["build"]).await;
    assert!(stopped.status.code() == Some(1) && written(&stopped.errors) == 0, "{}", stopped.errors);
    changed(
        &project,
        PRODUCT,
        "primary_key: [order_id, line_number]",
        "primary_key: [order_id, line_number, placed_at]",
    );
    let finished = project.run(&["build", "--accept-breaking"]).await;
    assert!(finished.status.success() && written(&finished.errors) == 0, "{}", finished.errors);
    assert_eq!(quantity(&project, &[]).await, "4");
}
