//! Sources that are drained at their times, not followed.

use std::time::Duration;

use crate::support::process::{PATIENCE, Server};
use crate::support::project::Project;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_with_a_schedule_is_drained_at_its_times() {
    let project = Project::new();
    let text = std::fs::read_to_string(project.root().join("starmere.yaml")).unwrap();
    let text = text
        .replace("files: inbox/orders }", "files: inbox/orders, schedule: '* * * * * *' }")
        .replace("files: inbox/customers }", "files: inbox/customers, schedule: '0 0 29 2 *' }");
    project.write("starmere.yaml", &text);
    let server = Server::start_as(project.root(), "up").await;
    for stream in ["customers", "orders"] {
        let event = format!("{{\"id\":1,\"type\":\"{stream}\",\"at\":\"2024-01-01T00:00:00Z\"}}\n");
        project.write(&format!("inbox/{stream}/a.jsonl"), &event);
    }
    let landed = async {
        while project.landed().await[1].is_empty() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, landed).await.expect("the second has come");
    assert_eq!(project.landed().await.map(|lines| lines.len()), [0, 1], "the other's day has not come");
    server.terminate();
    server.end().await;
}
