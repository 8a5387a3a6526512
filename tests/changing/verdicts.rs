//! Changes of ports: which of them break readers, or change what answers mean, and the way back.

use super::{EVENTS, LINES, PRODUCT, built, changed};
use crate::support::project::Project;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_breaks_readers_is_published_only_when_somebody_says_so() {
    let project = built().await;
    changed(&project, PRODUCT, "      line_number: { type: int, nullable: false }\n", "");
    changed(&project, PRODUCT, "primary_key: [order_id, line_number]", "primary_key: [order_id]");
    let refused = project.run(&["build"]).await;
    assert_eq!(refused.status.code(), Some(1), "{}", refused.errors);
    let words = "sales.orders_v1.order_lines: column line_number goes";
    assert!(refused.errors.contains(words) && refused.errors.contains("--accept-breaking"), "{}", refused.errors);
    let first = project.snapshot().await;
    project.succeed(&["build", "--accept-breaking"]).await;
    let second = project.snapshot().await;
    assert_ne!(first.meaning, second.meaning);
    // And back, in one command, whatever has become of the definitions.
    project.write("domains/sales/models/wrong.yaml", "fact: wrong\nmeasurs: {}\n");
    project.succeed(&["build", "--back-to", &first.number.to_string()]).await;
    let third = project.snapshot().await;
    assert_eq!((third.number, &third.tables, &third.meaning), (second.number + 1, &first.tables, &first.meaning));
    let unknown = project.run(&["build", "--back-to", "99"]).await;
    assert!(unknown.errors.contains("there is no catalog snapshot 99"), "{}", unknown.errors);
    // Who does not know the number is told which there are, and what each of them has.
    let asked = project.run(&["--format", "csv", "build", "--back-to"]).await;
    assert_eq!(asked.status.code(), Some(1), "{}", asked.errors);
    assert!(asked.errors.contains("`--back-to` wants the number of a catalog snapshot"), "{}", asked.errors);
    let wrong = project.run(&["--format", "csv", "build", "--back-to", "99"]).await;
    assert_eq!(asked.output, wrong.output);
    let lines: Vec<&str> = asked.output.lines().collect();
    assert_eq!(lines.len() as u64, 1 + third.number, "{}", asked.output);
    assert_eq!(lines[0], "snapshot,published_utc,definitions,products,changed");
    assert!(lines[1].starts_with("1,20") && lines[1].contains("sales.orders_v1"), "{}", lines[1]);
    assert!(lines[1].contains("sales.order_lines"), "{}", lines[1]);
    assert_eq!(project.snapshot().await.number, third.number, "nothing is published");
}

/// Changes files, looks whether a plan names these ports, each with a verdict and words, and whether a build refuses; puts the
/// files back.
async fn is_judged(project: &Project, edits: &[(&str, &str, &str)], ports: &[(&str, &str, &str)], is_refused: bool) {
    let before: Vec<String> =
        edits.iter().map(|(file, ..)| std::fs::read_to_string(project.root().join(file)).unwrap()).collect();
    edits.iter().for_each(|(file, right, wrong)| changed(project, file, right, wrong));
    let plan = project.succeed(&["--format", "json", "plan"]).await;
    let plan: Vec<serde_json::Value> = serde_json::from_str(&plan).unwrap();
    let judged: Vec<&serde_json::Value> =
        plan.iter().filter(|row| row["kind"] == "port" && row["verdict"] != "compatible").collect();
    let expected: Vec<&str> = ports.iter().map(|(port, ..)| *port).collect();
    assert_eq!(judged.iter().map(|row| row["model"].as_str().unwrap()).collect::<Vec<_>>(), expected, "{edits:?}");
    for (row, (port, verdict, words)) in judged.iter().zip(ports) {
        let why = row["why"].as_str().unwrap();
        assert!(row["verdict"] == *verdict && why.contains(words), "{port}: {words}\n{row}");
    }
    let first = project.snapshot().await;
    let build = project.run(&["build"]).await;
    assert_eq!(build.status.code(), Some(i32::from(is_refused)), "{edits:?}\n{}", build.errors);
    for (port, _, words) in ports {
        let line = build.errors.lines().find(|line| line.contains(&format!("{port}: ")) && line.contains(words));
        assert!(!is_refused || line.is_some(), "{port}: {words}\n{}", build.errors);
    }
    assert_eq!(build.errors.contains("--accept-breaking"), is_refused, "{}", build.errors);
    assert_eq!(project.snapshot().await == first, is_refused);
    edits.iter().zip(before).for_each(|((file, ..), text)| project.write(file, &text));
    project.succeed(&["build", "--accept-breaking"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_answers_mean_changes_only_when_somebody_says_so() {
    const ORDERS: &str = "streams/orders.yaml";
    const CUSTOMER: &str = "domains/sales/models/customer.yaml";
    const LINES_PORT: &str = "sales.orders_v1.order_lines";
    const TOTALS_PORT: &str = "sales.orders_v1.totals";
    let project = Project::new();
    EVENTS.iter().for_each(|(name, text)| project.write(name, text));
    changed(&project, LINES, "measures:\n", "measures:\n  pieces: { expression: quantity, type: int }\n");
    project.write(
        "domains/sales/models/totals.yaml",
        "rollup: totals\nof: order_lines\nby: { order: order_id }\nmeasures: [quantity]\n",
    );
    project.write(
        "domains/sales/models/few.yaml",
        "fact: few\nfrom: { stream: orders, event: order_placed, each: lines }\nwhere: quantity < 3\n\
         grain: [order_id, line_number]\ndimensions: { customer: { dimension: customer, key: customer_id } }\n\
         degenerate: { order_id: {}, line_number: { expression: ordinal, type: int } }\n\
         measures: { quantity: { type: int } }\n",
    );
    changed(&project, "domains/sales/models/customer.yaml", "[sales.order_lines]", "[sales.order_lines, sales.few]");
    let totals =
        "ports:\n  totals: { model: totals, columns: { order: { type: string }, quantity: { type: bigint } } }\n";
    changed(&project, PRODUCT, "ports:\n", totals);
    project.succeed(&["ingest", "--once"]).await;
    project.succeed(&["build"]).await;
    let (meaning, breaking) = ("meaning", "breaking");
    let quantity = "quantity: { type: int, nullable: false }";
    // Another column under the same name; one that is the same is none.
    let twice = (LINES, "pieces: { expression: quantity,", "pieces: { expression: 2 * quantity,");
    let shown = "quantity: { from: pieces, type: int, nullable: false }";
    is_judged(&project, &[(PRODUCT, quantity, shown)], &[], false).await;
    let of_lines = (LINES_PORT, meaning, "quantity shows pieces instead of quantity");
    is_judged(&project, &[twice, (PRODUCT, quantity, shown)], &[of_lines], true).await;
    // A measure that no port shows concerns nobody.
    is_judged(&project, &[twice], &[], false).await;
    // An expression, in the port that shows it and in the one of the roll-up.
    let tenfold = (LINES, "  quantity: { type: int }", "  quantity: { type: int, expression: 10 * quantity }");
    let reached = [
        (LINES_PORT, meaning, "quantity is made of 10 * quantity instead of quantity"),
        (TOTALS_PORT, meaning, "is made of sales.order_lines, which means something else from now on"),
    ];
    is_judged(&project, &[tenfold], &reached, true).await;
    let blanks = (LINES, "{ expression: ordinal, type: int }", "{ expression: \"  ordinal \", type: int }");
    is_judged(&project, &[blanks], &[], false).await;
    // Which events, and which fields of them.
    let filter = (LINES, "grain: [order_id", "where: quantity > 1\ngrain: [order_id");
    let reached =
        [(LINES_PORT, meaning, "other rows are made: + where: quantity > 1"), (TOTALS_PORT, meaning, "is made of")];
    is_judged(&project, &[filter], &reached, true).await;
    let field = (ORDERS, "customer_id: { path: customer, type: string }", "customer_id: { path: order, type: string }");
    let reached = [
        (LINES_PORT, meaning, "~ orders.order_placed.1.fields.customer_id.path: customer → order"),
        (TOTALS_PORT, meaning, "is made of"),
    ];
    is_judged(&project, &[field], &reached, true).await;
    let besides = (ORDERS, "order_id: { path: order,", "note: { type: string }\n          order_id: { path: order,");
    let note = (LINES, "degenerate:\n", "degenerate:\n  note: {}\n");
    is_judged(&project, &[besides, note], &[], false).await;
    // History that turns into the latest value.
    let latest = (CUSTOMER, "history: version", "history: overwrite");
    let words = "city is attribute, latest value instead of attribute, with history";
    is_judged(&project, &[latest], &[("sales.orders_v1.customer", meaning, words)], true).await;
    let beside = (CUSTOMER, "history: version", "history: [version, current]");
    is_judged(&project, &[beside], &[], false).await;
    // Another model.
    let model = (PRODUCT, "model: order_lines", "model: few");
    let words = "shows sales.few instead of sales.order_lines";
    is_judged(&project, &[model], &[(LINES_PORT, meaning, words)], true).await;
    let key = (PRODUCT, "primary_key: [order_id, line_number]", "primary_key: [order_id, line_number, quantity]");
    is_judged(&project, &[key], &[(LINES_PORT, breaking, "primary key changes")], true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_major_version_takes_nothing_from_who_names_none_unasked() {
    let project = built().await;
    let second = std::fs::read_to_string(project.root().join(PRODUCT)).unwrap().replace("version: 1", "version: 2");
    let second = second.replace("orders_v1.customer", "orders_v2.customer");
    let file = "domains/sales/products/orders_v2.yaml";
    project.write(file, &second);
    project.succeed(&["build"]).await;
    // The same again, as the first version is all that is published: without a column and a port.
    std::fs::remove_file(project.root().join(file)).unwrap();
    project.succeed(&["build", "--accept-breaking"]).await;
    let (head, _) = second.split_once("  customer:\n").unwrap();
    let fewer = head.replace("    foreign_keys: { customer_key: sales.orders_v2.customer }\n", "");
    project
        .write(file, &fewer.replace("      placed_at: { from: occurred_at, type: timestamp, nullable: false }\n", ""));
    let told = [
        "sales.orders.order_lines: the highest version is 2 from now on, and column placed_at goes: breaks whoever reads it",
        "sales.orders.customer: the highest version is 2 from now on, and port goes: breaks whoever reads it",
    ];
    let plan = project.succeed(&["plan"]).await;
    let refused = project.run(&["build"]).await;
    assert_eq!(refused.status.code(), Some(1), "{}", refused.errors);
    for words in told {
        assert!(plan.contains(&format!("~ port {words}\n")), "{words}\n{plan}");
        assert!(refused.errors.contains(words), "{words}\n{}", refused.errors);
    }
    assert!(refused.errors.contains("hint: accept it with `starmere build --accept-breaking`"), "{}", refused.errors);
    project.succeed(&["build", "--accept-breaking"]).await;
    // Who is taken from is told where it is.
    for (query, words) in [
        ("SELECT * FROM sales.orders.customer", "has `customer`: `sales.orders_v1.customer`"),
        ("SELECT l.placed_at FROM sales.orders.order_lines l", "has `placed_at`: `sales.orders_v1.order_lines`"),
    ] {
        let missing = project.run(&["sql", query]).await;
        let hint = format!("hint: another version of the product {words}");
        assert!(missing.status.code() == Some(1) && missing.errors.contains(&hint), "{hint}\n{}", missing.errors);
    }
}
