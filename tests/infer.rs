//! A definition that is proposed can be used as it is.

use fastrand::Rng;

use crate::support::events::events;
use crate::support::producer::Producer;
use crate::support::project::Project;

/// A stream of which nobody knows anything.
const UNKNOWN: &str = "stream: orders\ndomain: sales\nenvelope: { type: nowhere, time: nowhere }\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proposed_definition_is_right() {
    let project = Project::new();
    let mut random = Rng::with_seed(12);
    let mut producer = Producer::new(&project.inbox());
    producer.take(&events(&mut random, 60), &mut random);
    producer.finish(&mut random);
    std::fs::remove_dir_all(project.root().join("domains")).unwrap();
    project.write("streams/orders.yaml", UNKNOWN);
    project.succeed(&["ingest", "--once"]).await;
    let proposed = project.succeed(&["streams", "infer", "orders"]).await;
    for line in ["envelope:", "  id: id", "  type: type", "  time: at"] {
        assert!(proposed.lines().any(|found| found == line), "{line}\n{proposed}");
    }
    project.write("streams/orders.yaml", &format!("stream: orders\ndomain: sales\n{proposed}"));
    project.succeed(&["rejects", "orders", "--repair"]).await;
    let proposed = project.succeed(&["streams", "infer", "orders"]).await;
    let expected = "
          order: { type: string }  # always there; sure: ";
    assert!(proposed.contains(expected), "{proposed}");
    assert!(proposed.contains("each:\n              quantity: { type: bigint }  # always there; sure: "), "{proposed}");
    let envelope = "envelope: { id: id, type: type, time: at }\n";
    project.write("streams/orders.yaml", &format!("stream: orders\ndomain: sales\n{envelope}{proposed}"));
    project.succeed(&["check"]).await;
    let rows = project.succeed(&["--format", "csv", "streams", "infer", "orders"]).await;
    assert!(
        rows.starts_with("event,version,field,path,type,events,present,nulls,sure_in_percent,conflict\n"),
        "{rows}"
    );
    let nothing = project.run(&["streams", "infer", "customers", "--events", "0"]).await;
    assert_eq!(nothing.status.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_rare_is_in_the_sample() {
    let project = Project::new();
    std::fs::remove_dir_all(project.root().join("domains")).unwrap();
    project.write("streams/orders.yaml", "stream: orders\ndomain: sales\nenvelope: { type: type, time: at }\n");
    let line = |name: &str, rest: &str| format!(r#"{{"type":"{name}","at":"2024-01-01T00:00:00Z",{rest}}}"#) + "\n";
    let mut lines: String = (0..20_000).map(|number| line("many", &format!(r#""n":{number}"#))).collect();
    lines += &line("rare", r#""only":true"#);
    project.write("inbox/orders/a.jsonl", &lines);
    project.succeed(&["ingest", "--once"]).await;
    let proposed = project.succeed(&["streams", "infer", "orders", "--events", "100"]).await;
    assert!(proposed.contains("from 1,096 of 20,001 events"), "1,000 of one type, and one in 201 after it\n{proposed}");
    assert!(proposed.contains("only: { type: bool }"), "{proposed}");
    let proposed = project.succeed(&["streams", "infer", "orders"]).await;
    assert!(proposed.contains("from 20,001 events that landed"), "{proposed}");
}
