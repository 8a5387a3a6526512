//! A definition that is proposed can be used as it is.

use fastrand::Rng;

use crate::support::events::{STREAMS, events};
use crate::support::producer::Producer;
use crate::support::project::Project;

/// A stream of which nobody knows anything.
const UNKNOWN: &str = "stream: orders\ndomain: sales\nenvelope: { type: nowhere, time: nowhere }\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proposed_definition_is_right() {
    let project = Project::new();
    let mut random = Rng::with_seed(12);
    let events = events(&mut random, 60);
    let orders = events.iter().filter(|event| event.stream() == STREAMS[1]);
    project.write("inbox/orders/a.jsonl", &orders.map(|event| event.line(0) + "\n").collect::<String>());
    std::fs::remove_dir_all(project.root().join("domains")).unwrap();
    project.write("streams/orders.yaml", UNKNOWN);
    project.succeed(&["ingest", "--once"]).await;
    let proposed = project.succeed(&["streams", "infer", "orders"]).await;
    for line in ["envelope:", "  id: id", "  type: type", "  time: at"] {
        assert!(proposed.lines().any(|found| found == line), "{line}\n{proposed}");
    }
    project.write("streams/orders.yaml", &format!("stream: orders\ndomain: sales\n{proposed}"));
    project.succeed(&["rejects", "orders", "--repair", "--yes", "--allow-copies"]).await;
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

/// Tried as a domain team, 1 and 5: three events with one repository's id became one, and copies counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_that_would_make_events_one_is_not_proposed() {
    let project = Project::new();
    std::fs::remove_dir_all(project.root().join("domains")).unwrap();
    project.write(
        "streams/orders.yaml",
        "stream: orders\ndomain: sales\nenvelope: { id: nope, type: nope, time: nope }\n",
    );
    let line = |number: u32| {
        format!(r#"{{"repository":{{"id":7,"created_at":"2024-01-01T00:00:00Z"}},"n":{number},"kind":"a"}}"#) + "\n"
    };
    project.write("inbox/orders/a.jsonl", &(line(1) + &line(2) + &line(3) + &line(3)));
    project.succeed(&["ingest", "--once"]).await;
    let proposed = project.succeed(&["streams", "infer", "orders"]).await;
    assert!(!proposed.contains("repository.id"), "{proposed}");
    assert!(proposed.contains("# id: none was found"), "{proposed}");
    assert!(proposed.contains("from 3 events (and 1 copy of them) that landed"), "{proposed}");

    // Every event is sent three times, with something else in it each time.
    let project = Project::new();
    std::fs::remove_dir_all(project.root().join("domains")).unwrap();
    project.write("streams/orders.yaml", UNKNOWN);
    let mut random = Rng::with_seed(12);
    let mut producer = Producer::new(&project.inbox());
    producer.take(&events(&mut random, 60), &mut random);
    producer.finish(&mut random);
    project.succeed(&["ingest", "--once"]).await;
    let proposed = project.succeed(&["streams", "infer", "orders"]).await;
    assert!(!proposed.lines().any(|line| line.starts_with("  id:")), "{proposed}");
    assert!(proposed.contains("\n  # id: id  # not unique: "), "{proposed}");
    // Where the envelope knows it, copies are told.
    let project = Project::new();
    std::fs::remove_dir_all(project.root().join("domains")).unwrap();
    let envelope = "envelope: { id: id, type: type, time: at }\n";
    project.write("streams/orders.yaml", &format!("stream: orders\ndomain: sales\n{envelope}"));
    let mut producer = Producer::new(&project.inbox());
    producer.take(&events(&mut random, 60), &mut random);
    producer.finish(&mut random);
    project.succeed(&["ingest", "--once"]).await;
    let proposed = project.succeed(&["streams", "infer", "orders"]).await;
    let count = |after: &str| {
        let rest = proposed.split_once(after).unwrap_or_else(|| panic!("{proposed}")).1;
        rest.split(' ').next().unwrap().parse::<usize>().unwrap()
    };
    assert_eq!(2 * count(", from "), count(" events (and "), "{proposed}");
}

/// Tried as a domain team, 5: what was proposed for GitHub's events had 42 problems and 11,569 lines.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_landed_what_is_proposed_is_right_and_small() {
    let project = Project::new();
    std::fs::remove_dir_all(project.root().join("domains")).unwrap();
    let stream = "stream: orders\ndomain: sales\nenvelope: { type: type, time: at, version: v }\n";
    project.write("streams/orders.yaml", stream);
    let long = "a_name_that_goes_on_and_on_for_much_longer_than_any_name_may_be_in_sql";
    let many: String = (0..200).map(|number| format!(r#","f{number}":{number}"#)).collect();
    let odd = format!(
        r#""{long}_1":1,"{long}_2":2,"$schema":"x","a[0]":1,"b.c":2,"ordinal":3,"event_id":"e","":4,"yes":true,
        "lines":[{{"sku":"a","boxes":[{{"n":1}}],"$x":1,"{long}_1":1,"{long}_2":2}}],"é":1,"A":1,"a":2"#
    );
    let event = |version: u32, rest: &str| {
        let rest = rest.replace('\n', " ");
        format!(r#"{{"type":"odd: #1","at":"2024-01-01T00:00:00Z","v":{version}{rest}}}"#) + "\n"
    };
    let lines = [
        event(1, r#","long_ago":1"#),
        event(3, &format!(r#",{odd},"x":true,"y":1,"z":"text","each":[{{"q":true}}]{many}"#)),
        event(4, &format!(r#",{odd},"x":1,"y":1.5,"z":1,"each":[{{"q":1}}]{many}"#)),
        event(5, r#","x":"2024-01-31","y":{"a":1},"each":7,"lines":{"sku":"a"}"#),
    ];
    project.write("inbox/orders/a.jsonl", &lines.concat());
    project.succeed(&["ingest", "--once"]).await;
    let cases: [(&[&str], usize, usize); 3] = [
        (&["streams", "infer", "orders"], 60, 120),
        (&["streams", "infer", "orders", "--fields", "*"], 400, 1000),
        (&["streams", "infer", "orders", "--fields", "f7,lines"], 10, 40),
    ];
    for (arguments, least, most) in cases {
        let proposed = project.succeed(arguments).await;
        let count = proposed.lines().count();
        assert!((least..most).contains(&count), "{count} lines\n{proposed}");
        project.write("streams/orders.yaml", &format!("{stream}{proposed}"));
        project.succeed(&["check"]).await;
        project.write("streams/orders.yaml", stream);
    }
    let unknown = project.run(&["streams", "infer", "orders", "--fields", "f77,line"]).await;
    assert_eq!(unknown.status.code(), Some(1));
    assert!(unknown.errors.contains("no event has a field `line`"), "{}", unknown.errors);
    assert!(unknown.errors.contains("did you mean `lines`?"), "{}", unknown.errors);
}
