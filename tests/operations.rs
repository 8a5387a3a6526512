//! What an operator wakes for is a metric, a log line and a line of `status`; probes; references in `starmere.yaml`.

use std::time::Duration;

use crate::support::http;
use crate::support::process::{PATIENCE, Server};
use crate::support::project::Project;

const ORDER: &str =
    r#"{"id":1,"type":"order_placed","at":"2024-01-01T00:00:00Z","order":"a","lines":[{"quantity":1}]}"#;
const MOVED: &str = r#"{"id":1,"type":"customer_moved","at":"2024-01-01T00:00:00Z","customer":"c","city":"x"}"#;

/// Asks again until it is so, and tells the last answer.
async fn until(mut ask: impl AsyncFnMut() -> String, is_so: impl Fn(&str) -> bool) -> String {
    let mut last = String::new();
    let asking = async {
        loop {
            last = ask().await;
            if is_so(&last) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let became_so = tokio::time::timeout(PATIENCE, asking).await.is_ok();
    assert!(became_so, "it never was so; the last answer:\n{last}");
    last
}

fn metrics(address: &str) -> String {
    let answer = http::get(address, "/metrics").expect("a server answers");
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.text()
}

/// Tried as an operator, 7: a full disk gave 503 to producers, while `failing` was 0 and no log had the cause.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_refuses_shows_while_it_does() {
    let project = Project::new();
    let server = Server::start(project.root()).await;
    // A file where the tables of streams belong: the store takes nothing.
    let in_the_way = project.root().join("warehouse/lake");
    std::fs::write(&in_the_way, "").unwrap();
    let address = server.address.clone();
    let posting =
        tokio::task::spawn_blocking(move || http::post(&address, "/v1/streams/orders/events", ORDER).unwrap());
    let failing = r#"starmere_source_failing{stream="orders",source="http"} 1"#;
    let refuses = |text: &str| {
        let failures = |line: &str| line.starts_with("starmere_store_failures_total{") && !line.ends_with(" 0");
        text.contains(failing) && text.lines().any(failures)
    };
    let text = until(async || metrics(&server.address), refuses).await;
    assert!(text.contains(r#"starmere_trouble{about="landing",object="orders/http"} 1"#), "{text}");
    let ready = || {
        let answer = http::get(&server.address, "/readyz").expect("a server answers");
        format!("{} {}", answer.status, answer.text())
    };
    let unready = "503 the warehouse takes no events; queries are answered\n";
    until(async || ready(), |answer| answer == unready).await;
    let status = async || project.run(&["status"]).await.errors;
    until(status, |errors| errors.contains("trouble of `serve`: landing orders/http has failed")).await;

    std::fs::remove_file(&in_the_way).unwrap();
    assert_eq!(posting.await.unwrap().status, 200);
    until(async || ready(), |answer| answer == "200 ok\n").await;
    let text = metrics(&server.address);
    for line in [
        r#"starmere_source_failing{stream="orders",source="http"} 0"#,
        r#"starmere_landed_events_total{stream="orders",source="http"} 1"#,
        r#"starmere_landed_rejects_total{stream="orders",source="http"} 0"#,
        r#"starmere_http_requests_total{route="/v1/streams/{stream}/events",status="2xx"} 1"#,
    ] {
        assert!(text.lines().any(|found| found == line), "no {line} in\n{text}");
    }
    for begin in ["process_resident_memory_bytes ", "process_open_fds ", "process_cpu_seconds_total "] {
        assert!(text.lines().any(|found| found.starts_with(begin)), "no {begin} in\n{text}");
    }
    server.terminate();
    server.end().await;
}

/// A process on a full disk cannot write its report, so `status` tries to write by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_says_that_the_store_takes_no_writes() {
    let project = Project::new();
    project.succeed(&["ingest", "--once"]).await;
    let probe = project.root().join("warehouse/_starmere/probe");
    std::fs::remove_dir_all(&probe).unwrap();
    std::fs::write(&probe, "").unwrap();
    let refused = "trouble: the warehouse takes no writes, so nothing lands and nothing is published: could not write";
    let status = project.run(&["status"]).await;
    assert!(status.errors.contains(refused), "{}", status.errors);
    std::fs::remove_file(&probe).unwrap();
    let status = project.run(&["status"]).await;
    assert!(!status.errors.contains("takes no writes"), "{}", status.errors);
}

/// Tried as an operator, 7: a build that fails in `up` was told once on standard error, and nowhere else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_build_that_fails_is_a_metric_and_a_line_of_status() {
    let project = Project::new();
    let again = ORDER.replace("\"id\":1", "\"id\":2");
    project.write("inbox/customers/a.jsonl", &format!("{MOVED}\n"));
    project.write("inbox/orders/a.jsonl", &format!("{ORDER}\n{again}\n"));
    let server = Server::start_as(project.root(), "up").await;
    let text = until(async || metrics(&server.address), |text| text.contains("starmere_build_failing 1\n")).await;
    let product = r#"starmere_trouble{about="product",object="sales.orders_v1.order_lines"} 1"#;
    for line in ["starmere_products_held_back 2", product] {
        assert!(text.lines().any(|found| found == line), "no {line} in\n{text}");
    }
    assert!(!text.contains("starmere_builds_failed_total 0"), "{text}");
    let status = async || project.run(&["status"]).await.errors;
    let errors = until(status, |errors| errors.contains("trouble of `up`: build models has failed")).await;
    assert!(errors.contains("sales.orders_v1.order_lines"), "{errors}");
    server.terminate();
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_told_to_end_is_alive_and_not_ready() {
    let project = Project::new();
    let server = Server::start_with(project.root(), &["serve", "--drain", "60"]).await;
    let probe = |path: &str| {
        let answer = http::get(&server.address, path).expect("a server answers");
        (answer.status, answer.text())
    };
    for path in ["/livez", "/readyz", "/healthz"] {
        assert_eq!(probe(path), (200, "ok\n".to_owned()), "{path}");
    }
    server.terminate();
    until(async || format!("{:?}", probe("/readyz")), |answer| answer == r#"(503, "ending\n")"#).await;
    assert_eq!(probe("/livez"), (200, "ok\n".to_owned()));
    let posted = http::post(&server.address, "/v1/streams/orders/events", ORDER).unwrap();
    assert_eq!(posted.status, 200, "{}", posted.text());
    server.terminate();
    server.end().await;
}

/// A server that was told to end waited for a store that is away without end. A pipe to which nobody writes, in the
/// place of the next commit, is a disk that never answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_ends_although_the_store_never_answers_and_says_what_it_leaves() {
    let project = Project::new();
    let server = Server::start(project.root()).await;
    let posted = http::post(&server.address, "/v1/streams/orders/events", ORDER).unwrap();
    assert_eq!(posted.status, 200, "{}", posted.text());
    let version = posted.json()["version"].as_u64().unwrap();
    let log = project.root().join("warehouse/lake/sales/orders/_delta_log");
    let next = log.join(format!("{:020}.json", version + 1));
    let made = std::process::Command::new("mkfifo").arg(&next).status().expect("`mkfifo` can be run");
    assert!(made.success(), "`mkfifo` ended with {made}");
    let address = server.address.clone();
    let posting = tokio::task::spawn_blocking(move || http::post(&address, "/v1/streams/orders/events", ORDER));
    let is_taken = |text: &str| {
        let used = text.lines().find_map(|line| line.strip_prefix("starmere_ingest_memory_used_bytes "));
        used.is_some_and(|used| used != "0")
    };
    until(async || metrics(&server.address), is_taken).await;
    server.terminate();
    let said = server.end().await;
    assert!(said.contains("ending: the store has not taken 1 event over HTTP within 10 s"), "{said}");
    let answer = posting.await.unwrap();
    assert!(answer.as_ref().is_ok_and(|answer| answer.status == 503) || answer.is_err(), "{answer:?}");
    std::fs::remove_file(&next).unwrap();
    assert_eq!(project.landed().await[1].len(), 1, "what was acknowledged is there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_line_of_a_log_has_its_time_and_level() {
    let project = Project::new();
    let json = project.run(&["--log-format", "json", "ingest", "--once"]).await;
    assert!(json.status.success() && json.errors.lines().count() >= 2, "{}", json.errors);
    for line in json.errors.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let has = |field: &str| line[field].as_str().is_some_and(|text| !text.is_empty());
        assert!(has("timestamp") && has("level") && has("message"), "{line}");
    }
    let text = project.run(&["--log-format", "text", "build", "nobody"]).await;
    assert_eq!(text.status.code(), Some(1));
    let line = text.errors.lines().next().unwrap_or_default();
    assert!(line.starts_with("20") && line.contains("ERROR") && line.contains("no model `nobody`"), "{}", text.errors);
}

/// Tried as an operator, 9: `${env:}` failed for listeners, paths and numbers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_variable_that_is_not_set_is_named_with_its_place() {
    let project = Project::new();
    let text = std::fs::read_to_string(project.root().join("starmere.yaml")).unwrap();
    project.write("days", "7\n");
    project.write("starmere.yaml", &format!("{text}snapshot_days: ${{file:days}}\n"));
    project.succeed(&["check"]).await;
    project.write("starmere.yaml", &format!("{text}snapshot_days: ${{env:STARMERE_NOBODY}}\n"));
    let check = project.run(&["check"]).await;
    let told = "starmere.yaml:8:16: the variable `STARMERE_NOBODY` is not set";
    assert!(check.status.code() == Some(1) && check.errors.contains(told), "{}", check.errors);
}
