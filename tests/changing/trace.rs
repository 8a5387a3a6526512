//! From rows to the events that made them, and back.

use super::{EVENTS, built, changed};
use crate::support::project::Project;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_that_a_parent_opened_are_traced_to_its_events() {
    const TOWNS: &str = "stream: towns\ndomain: sales\nenvelope: { id: id, type: type, time: at }\nevents:\n  mayor_elected:\n    \
                         versions: { 1: { fields: { city: { type: string }, mayor: { type: string } } } }\n";
    const TOWN: &str = "dimension: town\nkey: city\nfrom: [{ stream: towns, event: mayor_elected, as: patch }]\n\
                        attributes: { mayor: { type: string, history: version } }\ninferred_from: [sales.customer]\n";
    let project = Project::new();
    EVENTS.iter().for_each(|(name, text)| project.write(name, text));
    project.write("streams/towns.yaml", TOWNS);
    project.write("domains/sales/models/town.yaml", TOWN);
    let reference = "references: { town: { dimension: town, key: city, as_of: version } }\ninferred_from:";
    changed(&project, "domains/sales/models/customer.yaml", "inferred_from:", reference);
    let elected = r#"{"id":"t1","type":"mayor_elected","at":"2024-02-10T00:00:00Z","city":"Ulm","mayor":"Ute"}
{"id":"t2","type":"mayor_elected","at":"2024-02-20T00:00:00Z","city":"Ulm","mayor":"Udo"}
"#;
    project.write("towns.jsonl", elected);
    let file = project.root().join("towns.jsonl");
    project.succeed(&["ingest", "towns", "--file", &file.to_string_lossy()]).await;
    project.succeed(&["ingest", "--once"]).await;
    project.succeed(&["build"]).await;
    let traced = project.run(&["--format", "csv", "trace", "customer", "c1"]).await;
    for words in ["state,customers,m1,", "version of sales.town,towns,t2,"] {
        assert!(traced.output.contains(words), "{words}\n{}", traced.output);
    }
    assert!(!traced.output.contains(",towns,t1,"), "its first version opened none\n{}", traced.output);
    let back = project.run(&["--format", "csv", "trace", "--event", "t2"]).await;
    for words in
        ["sales.town,\"city: Ulm, valid_from: 2024-02-20", "sales.customer,\"customer_id: c1, valid_from: 2024-02-20"]
    {
        assert!(back.output.contains(words), "{words}\n{}", back.output);
    }
    // What lands in the parent alone moves the child, and what has landed can be traced before it is built.
    project.write("more.jsonl", &elected.replace("t2", "t3").replace("t1", "t4").replace("-02-", "-01-"));
    let more = project.root().join("more.jsonl");
    project.succeed(&["ingest", "towns", "--file", &more.to_string_lossy()]).await;
    let plan = project.succeed(&["--format", "csv", "plan"]).await;
    assert!(plan.contains("sales.customer,update,") && plan.contains("changes of sales.town"), "{plan}");
    assert!(project.run(&["--format", "csv", "trace", "--event", "t3"]).await.output.contains(",towns,t3,"));
    let traced = project.run(&["--format", "csv", "trace", "town", "Bern"]).await;
    assert!(traced.output.contains("mention by sales.customer,customers,m2,"), "{}", traced.output);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_traced_to_their_events_and_back() {
    let project = built().await;
    let of_port = project.run(&["--format", "csv", "trace", "sales.orders_v1.order_lines", "A", "1"]).await;
    let traced = project.run(&["--format", "csv", "trace", "sales.order_lines", "A", "1"]).await;
    assert_eq!(of_port.output, traced.output, "{}", of_port.errors);
    assert!(traced.errors.contains("order_id: A, line_number: 1, quantity: 2"), "{}", traced.errors);
    let lines: Vec<&str> = traced.output.lines().collect();
    // Both copies, and which of them counts.
    assert_eq!(lines.len(), 3, "{}", traced.output);
    assert!(lines[1].starts_with("row,orders,o1,order_placed,") && lines[1].contains(",true,"), "{}", lines[1]);
    assert!(lines[1].contains(r#"""quantity"":2"#) && lines[2].contains(",false,"), "{}", traced.output);
    let traced = project.run(&["--format", "csv", "trace", "customer", "city=Bern"]).await;
    for words in ["state,customers,m1,", "state,customers,m2,", "mention by sales.order_lines,orders,o1,"] {
        assert!(traced.output.contains(words), "{words}\n{}", traced.output);
    }
    // Of a roll-up, by way of the fact; and of a union, whose rows are of one branch each.
    let other = r#"{"id":"o9","type":"order_placed","at":"2024-02-05T00:00:00Z","order":"B","customer":"c9","lines":[{"quantity":4}]}"#;
    project.write("inbox/orders/b.jsonl", &format!("{other}\n"));
    project.succeed(&["ingest", "--once"]).await;
    let said = "sql: said\ngrain: [order_id]\nselect: SELECT order_id, sum(n) AS n FROM (SELECT order_id, quantity AS n FROM \
                order_lines UNION ALL SELECT order_id, 0 FROM order_lines) GROUP BY order_id\n";
    project.write("domains/sales/models/said.yaml", said);
    let by_city = "rollup: by_city\nof: order_lines\nby: { city: customer.city, order: order_id }\n";
    project.write("domains/sales/models/by_city.yaml", by_city);
    project.write(
        "domains/sales/models/cities.yaml",
        "sql: cities\ngrain: [city]\nselect: SELECT city, sum(quantity) AS pieces FROM by_city GROUP BY city\n",
    );
    project.succeed(&["build"]).await;
    for (model, city) in [("by_city", "Ulm"), ("cities", "Ulm")] {
        let traced = project.run(&["--format", "csv", "trace", model, city]).await;
        let words = "row of sales.order_lines,orders,o1,";
        assert!(
            traced.output.contains(words) && traced.output.lines().count() == 3,
            "{}{}",
            traced.output,
            traced.errors
        );
    }
    let back = project.run(&["--format", "csv", "trace", "--event", "o1"]).await;
    assert!(back.output.contains("fact,sales.order_lines,\"order_id: A, line_number: 1\""), "{}", back.output);
    for words in [
        "rollup,sales.by_city,\"city: Ulm, order: A\"\n",
        "sql,sales.cities,city: Ulm\n",
        "sql,sales.said,order_id: A\n",
    ] {
        assert!(back.output.contains(words), "{words}\n{}", back.output);
    }
    assert!(!back.output.contains("order_id: B"), "{}", back.output);
    let back = project.run(&["--format", "csv", "trace", "--event", "m2"]).await;
    assert!(
        back.output.contains("dimension,sales.customer,\"customer_id: c1, valid_from: 2024-03-01"),
        "{}",
        back.output
    );
    assert!(back.output.contains("dimension,sales.customer,customer_id: c1\n"), "{}", back.output);
    for (arguments, words) in [
        (&["trace", "sales.order_line", "A"][..], "there is no model `sales.order_line`"),
        (&["trace", "order_lines", "C", "1"], "has no row with C, 1"),
        (&["trace", "order_lines", "A", "1", "x"], "`x` is one value too many"),
        (&["trace", "order_lines"], "which row of `sales.order_lines`?"),
        (&["trace"], "nothing to trace"),
    ] {
        let run = project.run(arguments).await;
        assert!(run.status.code() == Some(1) && run.errors.contains(words), "{words}\n{}", run.errors);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_periods_are_traced_to_what_happened_until_then() {
    let project = built().await;
    let later = r#"{"id":"o3","type":"order_placed","at":"2024-04-05T00:00:00Z","order":"B","customer":"c1","lines":[{"quantity":4}]}"#;
    let of_old =
        r#"{"id":"o4","type":"order_placed","at":"0001-01-03T00:00:00Z","order":"C","lines":[{"quantity":2}]}"#;
    project.write("inbox/orders/b.jsonl", &format!("{later}\n{of_old}\n"));
    project.succeed(&["ingest", "--once"]).await;
    for (every, periods) in [
        ("month", ["2024-02-01", "2024-03-01", "2024-04-01"]),
        ("720 hours", ["2024-02-01T00:00:00Z", "2024-03-02T00:00:00Z", "2024-04-01T00:00:00Z"]),
    ] {
        let snapshot = format!(
            "periodic_snapshot: by_period\nof: order_lines\nevery: {every}\nfrom: 2024-02-01\nto: 2024-12-31\n\
             by: customer\nbalances: {{ quantity: fact.quantity }}\n"
        );
        project.write("domains/sales/models/by_period.yaml", &snapshot);
        project.succeed(&["build"]).await;
        for (period, events) in periods.iter().zip([&["o1"][..], &["o1"], &["o1", "o3"]]) {
            let key = format!("period_from={period}");
            let traced = project.run(&["--format", "csv", "trace", "by_period", &key]).await;
            for event in ["o1", "o3"] {
                let is_there = traced.output.contains(&format!("row of sales.order_lines,orders,{event},"));
                assert_eq!(is_there, events.contains(&event), "{period}, {event}\n{}{}", traced.output, traced.errors);
            }
        }
        for (event, expected) in [("o1", &periods[..]), ("o3", &periods[2..]), ("o4", &periods[..])] {
            let back = project.run(&["--format", "csv", "trace", "--event", event]).await;
            let found = |period: &&&str| back.output.contains(&format!("period_from: {period}"));
            assert_eq!(
                periods.iter().filter(found).collect::<Vec<_>>(),
                expected.iter().collect::<Vec<_>>(),
                "{}",
                back.output
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_several_facts_are_traced_to_all_of_them() {
    let project = built().await;
    let other = r#"{"id":"o3","type":"order_placed","at":"2024-04-05T00:00:00Z","order":"B","customer":"c1","lines":[{"quantity":4}]}"#;
    project.write("inbox/orders/b.jsonl", &format!("{other}\n"));
    project.succeed(&["ingest", "--once"]).await;
    let orders = "fact: orders\nfrom: { stream: orders, event: order_placed }\ngrain: event_id\ndegenerate: { order_id: {} }\n\
                  measures: { fee: { expression: \"7\", type: int } }\n";
    project.write("domains/sales/models/orders.yaml", orders);
    let progress = "accumulating_snapshot: progress\ngrain: order_id\nmilestones:\n  placed: { fact: orders }\n  \
                    many: { fact: order_lines, where: fact.quantity > 3 }\n";
    project.write("domains/sales/models/progress.yaml", progress);
    let shares =
        "allocation: shares\nof: order_lines\nheader: orders\non: order_id\namounts: { fee: fee }\nweight: quantity\n";
    project.write("domains/sales/models/shares.yaml", shares);
    project.succeed(&["build"]).await;
    for (model, key, own, others) in [
        ("progress", "A", &["orders,orders,o1,"][..], &["order_lines,", ",o3,"][..]),
        ("progress", "B", &["orders,orders,o3,", "order_lines,orders,o3,"], &[",o1,"]),
        ("shares", "B", &["orders,orders,o3,", "order_lines,orders,o3,"], &[",o1,"]),
    ] {
        let traced = project.run(&["--format", "csv", "trace", model, key]).await;
        for words in own {
            assert!(traced.output.contains(words), "{model} {key}: {words}\n{}{}", traced.output, traced.errors);
        }
        for words in others {
            assert!(!traced.output.contains(words), "{model} {key}: {words}\n{}", traced.output);
        }
    }
    let back = project.run(&["--format", "csv", "trace", "--event", "o3"]).await;
    for words in ["sales.progress,order_id: B", "sales.shares,\"order_id: B"] {
        assert!(back.output.contains(words), "{words}\n{}", back.output);
    }
    assert!(!back.output.contains("order_id: A"), "{}", back.output);
}
