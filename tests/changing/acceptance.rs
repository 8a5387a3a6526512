//! What is accepted of a change, and what waits.

use super::{EVENTS, LINES, PRODUCT, changed, quantity};
use crate::support::process::{Server, until};
use crate::support::project::Project;

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
