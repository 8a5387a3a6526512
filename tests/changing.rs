//! Changing definitions without fear: environments, changes that break, the way back; and from rows to events.

use crate::support::process::{Server, until};
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_environment_is_a_copy_of_its_own() {
    let project = built().await;
    for command in
        [&["sql", "SELECT 1"][..], &["status"], &["verify"], &["serve"], &["rejects"], &["build", "--back-to", "1"]]
    {
        let unknown = project.run(&[&["--env", "ann"][..], command].concat()).await;
        assert_eq!(unknown.status.code(), Some(1), "{command:?}\n{}", unknown.errors);
        assert!(unknown.errors.contains("there is no environment `ann`"), "{}", unknown.errors);
        assert!(unknown.errors.contains("`starmere --env ann build` begins it"), "{}", unknown.errors);
    }
    // It begins with a build, though nothing differs.
    project.succeed(&["--env", "ann", "plan"]).await;
    project.succeed(&["--env", "ann", "build"]).await;
    assert_eq!(quantity(&project, &["--env", "ann"]).await, "2");
    let mistyped = project.run(&["--env", "anne", "status"]).await;
    assert!(mistyped.errors.contains("did you mean `ann`?"), "{}", mistyped.errors);
    project.write("domains/sales/models/by_order.yaml", "rollup: by_order\nof: order_lines\nby: { order: order_id }\n");
    project.succeed(&["--env", "ann", "build"]).await;
    // What does not differ is one table for both.
    let folders =
        |model: &str| std::fs::read_dir(project.root().join("warehouse/models/sales").join(model)).unwrap().count();
    assert_eq!((folders("customer"), folders("order_lines"), folders("by_order")), (1, 1, 1));
    assert!(!project.snapshot().await.tables.contains_key("sales.by_order"));
    changed(&project, LINES, "quantity: { type: int }", "quantity: { type: int, expression: 10 * quantity }");
    project.succeed(&["--env", "ann", "build", "--accept-breaking"]).await;
    assert_eq!((quantity(&project, &["--env", "ann"]).await, quantity(&project, &[]).await), ("20".into(), "2".into()));
    assert_eq!(folders("order_lines"), 2);
    project.succeed(&["--env", "ann", "verify"]).await;
    // What an environment has built is not built again, but for what came since.
    let plan = project.succeed(&["plan"]).await;
    for words in [
        "publish: its definition has changed, and its table is built already\n",
        "read as sales.orders_v1.order_lines\n",
        "publish: it was never published, and its table is built already\n",
        "\n3 to publish\n",
    ] {
        assert!(plan.contains(words), "{words}\n{plan}");
    }
    assert!(project.succeed(&["--env", "ann", "plan"]).await.contains("\n3 to keep\n"));
    let later = EVENTS[1].1.lines().next().unwrap().replace("\"o1\"", "\"o2\"").replace("\"A\"", "\"B\"");
    project.write("inbox/orders/later.jsonl", &format!("{later}\n"));
    project.succeed(&["ingest", "--once"]).await;
    let plan = project.succeed(&["plan"]).await;
    let words = "publish: its definition has changed, and its table is built already; reads 1 event\n";
    assert!(plan.contains(words), "{words}\n{plan}");
    let refused = project.run(&["--env", "ann", "ingest", "--once"]).await;
    assert!(refused.errors.contains("environments share the streams"), "{}", refused.errors);
    assert!(!project.run(&["--env", "A!", "plan"]).await.status.success());
    let unknown = project.run(&["upkeep", "--forget-env", "nowhere"]).await;
    assert!(unknown.errors.contains("hint: there are: `ann`"), "{}", unknown.errors);
    project.succeed(&["upkeep", "--forget-env", "ann"]).await;
    assert!(!project.run(&["--env", "ann", "sql", "SELECT 1"]).await.status.success());
    let unknown = project.run(&["upkeep", "--forget-env", "ann"]).await;
    assert!(unknown.errors.contains("there is no environment `ann`"), "{}", unknown.errors);
    assert!(unknown.errors.contains("hint: no environment has published anything"), "{}", unknown.errors);
}

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

/// A domain that has nothing in common with the orders: its stream, its fact and its product.
fn with_visits(project: &Project) {
    let main = std::fs::read_to_string(project.root().join("starmere.yaml")).unwrap();
    let sources = "sources:\n  page_files: { stream: pages, files: inbox/pages }\n";
    project.write("starmere.yaml", &main.replace("sources:\n", sources));
    let stream = "stream: pages\ndomain: web\nenvelope: { id: id, type: type, time: at }\nevents:\n  page_seen:\n    \
                  versions: { 1: { fields: { page: { type: string, required: true }, seconds: { type: int } } } }\n";
    project.write("streams/pages.yaml", stream);
    let fact = "fact: visits\nfrom: { stream: pages, event: page_seen }\ngrain: [page]\ndegenerate: { page: {} }\n\
                measures:\n  seconds: { type: int }\n";
    project.write("domains/web/models/visits.yaml", fact);
    let product = "product: visits\nversion: 1\nports:\n  visits:\n    model: visits\n    primary_key: [page]\n    \
                   columns:\n      page: { type: string, nullable: false }\n      seconds: { type: int }\n";
    project.write("domains/web/products/visits_v1.yaml", product);
}

fn seen(project: &Project, page: &str, seconds: u32) {
    let at = "2024-02-01T00:00:00Z";
    let event = serde_json::json!({ "id": page, "type": "page_seen", "at": at, "page": page, "seconds": seconds });
    project.write(&format!("inbox/pages/{page}.jsonl"), &format!("{event}\n"));
}

async fn seconds(project: &Project) -> Option<i64> {
    project.query("SELECT sum(seconds) AS s FROM web.visits_v1.visits").await[0]["s"].as_i64()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_accepted_for_a_model_is_accepted_for_it_alone() {
    const OF_LINES: &str = "sales.orders_v1.order_lines: quantity shows pieces instead of quantity";
    const OF_VISITS: &str = "web.visits_v1.visits: seconds is made of 2 * seconds instead of seconds";
    let project = Project::new();
    EVENTS.iter().for_each(|(name, text)| project.write(name, text));
    with_visits(&project);
    seen(&project, "a", 3);
    project.succeed(&["ingest", "--once"]).await;
    project.succeed(&["build"]).await;
    let before = project.snapshot().await;
    let is_refused = async |arguments: &[&str], of_lines: bool, of_visits: bool, command: &str| {
        let refused = project.run(arguments).await;
        assert_eq!(refused.status.code(), Some(1), "{arguments:?}\n{}", refused.errors);
        let found = [OF_LINES, OF_VISITS].map(|words| refused.errors.contains(words));
        assert_eq!(found, [of_lines, of_visits], "{arguments:?}\n{}", refused.errors);
        let command = format!("accept it with `{command} --accept-breaking`");
        assert!(refused.errors.contains(&command), "{command}\n{}", refused.errors);
    };
    changed(&project, LINES, "measures:\n", "measures:\n  pieces: { expression: 2 * quantity, type: int }\n");
    let quantity_shown = "quantity: { type: int, nullable: false }";
    changed(&project, PRODUCT, quantity_shown, "quantity: { from: pieces, type: int, nullable: false }");
    let visits = "domains/web/models/visits.yaml";
    changed(&project, visits, "seconds: { type: int }", "seconds: { type: int, expression: 2 * seconds }");
    is_refused(&["build"][..], true, true, "starmere build").await;
    is_refused(&["build", "web.visits"][..], false, true, "starmere build web.visits").await;
    is_refused(&["build", "customer"][..], true, false, "starmere build customer").await;
    assert_eq!(project.snapshot().await, before);
    // What is not named is as it was, and can be asked: its port shows a column that its table does not have.
    project.succeed(&["build", "web.visits", "--accept-breaking"]).await;
    let after = project.snapshot().await;
    assert_eq!((seconds(&project).await, quantity(&project, &[]).await), (Some(6), "2".to_owned()));
    let tables = |snapshot: &starmere_lake::catalog::CatalogSnapshot| {
        let mut tables = snapshot.tables.clone();
        tables.retain(|name, _| name.contains("sales."));
        tables
    };
    assert_eq!(tables(&after), tables(&before));
    // It goes on without being accepted again.
    seen(&project, "b", 4);
    project.succeed(&["ingest", "--once"]).await;
    project.succeed(&["build", "web.visits"]).await;
    assert_eq!(seconds(&project).await, Some(14));
    is_refused(&["build"][..], true, false, "starmere build").await;
    project.succeed(&["build", "order_lines", "--accept-breaking"]).await;
    assert_eq!((seconds(&project).await, quantity(&project, &[]).await), (Some(14), "4".to_owned()));
    project.succeed(&["build"]).await;
    project.succeed(&["verify"]).await;
}

/// `up` refuses files that mean something else, takes them up once a part of them is accepted, and builds that part.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_up_goes_on_with_what_is_accepted() {
    let project = Project::new();
    EVENTS.iter().for_each(|(name, text)| project.write(name, text));
    with_visits(&project);
    seen(&project, "a", 3);
    let server = Server::start_as(project.root(), "up").await;
    until("`up` has published all", async || {
        let tables = project.snapshot().await.tables;
        tables.contains_key("web.visits") && seconds(&project).await == Some(3) && quantity(&project, &[]).await == "2"
    })
    .await;
    changed(&project, LINES, "quantity: { type: int }", "quantity: { type: int, expression: 10 * quantity }");
    let visits = "domains/web/models/visits.yaml";
    changed(&project, visits, "seconds: { type: int }", "seconds: { type: int, expression: 2 * seconds }");
    server.says("seconds is made of 2 * seconds instead of seconds", 1).await;
    project.succeed(&["build", "web.visits", "--accept-breaking"]).await;
    seen(&project, "b", 4);
    until("`up` builds what is accepted", async || seconds(&project).await == Some(14)).await;
    // The rest waits, which is a trouble with its way out.
    let status = async || project.run(&["status"]).await.errors;
    until("`status` says what waits", async || {
        let errors = status().await;
        let words = ["quantity is made of 10 * quantity instead of quantity", "`starmere build --accept-breaking`"];
        words.iter().all(|words| errors.contains(words)) && !errors.contains("seconds is made of")
    })
    .await;
    assert_eq!(quantity(&project, &[]).await, "2");
    project.succeed(&["build", "--accept-breaking"]).await;
    let later = EVENTS[1].1.lines().next().unwrap().replace("\"o1\"", "\"o2\"").replace("\"A\"", "\"B\"");
    project.write("inbox/orders/later.jsonl", &format!("{later}\n"));
    until("`up` builds all", async || quantity(&project, &[]).await == "40").await;
    server.terminate();
    server.end().await;
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
