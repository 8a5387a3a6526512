//! Events that are rejected, that break a contract, or of which copies differ: which they are.

use super::{built, changed, quantity};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_that_differ_are_listed() {
    let project = built().await;
    let copies = project.succeed(&["--format", "csv", "streams", "copies"]).await;
    let lines: Vec<&str> = copies.lines().collect();
    assert_eq!(lines.len(), 3, "{copies}");
    assert!(lines[1].starts_with("orders,o1,true,2024-02-01") && lines[2].starts_with("orders,o1,false,2024-02-02"));
    let none = project.run(&["streams", "copies", "customers"]).await;
    assert!(none.errors.contains("all copies of an event say the same"), "{}", none.errors);
    assert!(!project.run(&["streams", "copies", "nothing"]).await.status.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rejects_of_models_show_their_events() {
    let project = built().await;
    let wrong = r#"{"id":"o2","type":"order_placed","at":"2024-02-01T00:00:00Z","order":"B","customer":"c1","lines":[{"quantity":"two"}]}"#;
    project.write("inbox/orders/b.jsonl", &format!("{wrong}\nnonsense\n"));
    project.succeed(&["ingest", "--once"]).await;
    project.succeed(&["build"]).await;
    let whole = format!("{}\"", wrong.replace('"', "\"\""));
    for arguments in [&["rejects"][..], &["rejects", "--sample"]] {
        let listed = project.succeed(&[&["--format", "csv"][..], arguments].concat()).await;
        let lines: Vec<&str> = listed.lines().collect();
        assert_eq!(lines.len(), 3, "{listed}");
        assert!(lines[1].starts_with("orders,") && lines[1].ends_with(",nonsense"), "{listed}");
        assert!(lines[2].starts_with("sales.order_lines,") && lines[2].ends_with(&whole), "{listed}");
        // People get the beginning.
        let listed = project.succeed(arguments).await;
        assert!(listed.contains(&wrong[..80]) && !listed.contains(&wrong[..81]), "{listed}");
        // And are told of what is left out.
        let some = project.run(&[arguments, &["--limit", "1"]].concat()).await;
        let words = "1 reject is shown, and 1 more is not: list all with `--limit 2`";
        assert!(some.errors.contains(words), "{}", some.errors);
        let all = project.run(&[arguments, &["--limit", "2"]].concat()).await;
        assert!(!all.errors.contains("shown"), "{}", all.errors);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_breach_of_contract_names_the_events() {
    let project = built().await;
    let again = r#"{"id":"o2","type":"order_placed","at":"2024-02-03T00:00:00Z","order":"A","customer":"c1","lines":[{"quantity":2}]}"#;
    project.write("inbox/orders/b.jsonl", &format!("{again}\n"));
    project.succeed(&["ingest", "--once"]).await;
    let stopped = project.run(&["build"]).await;
    let words = "and 2 rows have (A, 1), of event `o1`, event `o2`";
    assert!(stopped.status.code() == Some(1) && stopped.errors.contains(words), "{}", stopped.errors);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_breach_of_a_sql_model_names_rows_and_events() {
    const SAID: &str = "sql: said\ngrain: [order_id, line_number]\n\
                        select: SELECT order_id, line_number, quantity FROM order_lines\n";
    const SAID_V1: &str = "product: said\nversion: 1\nports:\n  said:\n    model: said\n    primary_key: [order_id]\n    \
                           columns:\n      order_id: { type: string }\n      quantity: { type: int }\n";
    let project = built().await;
    project.write("domains/sales/models/said.yaml", SAID);
    project.write("domains/sales/products/said_v1.yaml", SAID_V1);
    project.succeed(&["build"]).await;
    let two = r#"{"id":"o2","type":"order_placed","at":"2024-02-03T00:00:00Z","order":"B","customer":"c1","lines":[{"quantity":2},{"quantity":3}]}"#;
    project.write("inbox/orders/b.jsonl", &format!("{two}\n"));
    project.succeed(&["ingest", "--once"]).await;
    let before = project.snapshot().await;
    let stopped = project.run(&["build"]).await;
    assert_eq!(stopped.status.code(), Some(1), "{}", stopped.errors);
    for words in [
        "`sales.said_v1.said` breaks its contract: (order_id) tells rows apart by contract, and 2 rows have (B), in the rows \
         (order_id: B, line_number: 1), (order_id: B, line_number: 2), of event `o2`",
        "held back: `sales.orders_v1`, `sales.said_v1`",
        "leave such rows out in the model's SELECT",
    ] {
        assert!(stopped.errors.contains(words), "{words}\n{}", stopped.errors);
    }
    assert!(!stopped.errors.contains("where:"), "a SQL model has none\n{}", stopped.errors);
    assert_eq!(project.snapshot().await.tables, before.tables, "what the product was made of stays with it");
    changed(&project, "domains/sales/models/said.yaml", "FROM order_lines", "FROM order_lines WHERE line_number = 1");
    project.succeed(&["build", "--accept-breaking"]).await;
    assert_eq!(quantity(&project, &[]).await, "7");
}

/// A value that a contract promises is missing: the rows are named by what tells them apart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_breach_names_the_rows_without_a_value() {
    let project = built().await;
    let none =
        r#"{"id":"o2","type":"order_placed","at":"2024-02-03T00:00:00Z","order":"B","customer":"c1","lines":[{}]}"#;
    project.write("inbox/orders/b.jsonl", &format!("{none}\n"));
    project.succeed(&["ingest", "--once"]).await;
    let stopped = project.run(&["build"]).await;
    let words = "has no value in 1 row, in the row (order_id: B, line_number: 1), of event `o2`";
    assert!(stopped.status.code() == Some(1) && stopped.errors.contains(words), "{}", stopped.errors);
    assert!(stopped.errors.contains("leave such rows out with `where:`"), "{}", stopped.errors);
}
