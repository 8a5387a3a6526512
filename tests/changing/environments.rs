//! Environments: virtual copies that publish for themselves alone.

use super::{EVENTS, LINES, built, changed, quantity};

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
