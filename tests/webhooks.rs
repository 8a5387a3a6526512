//! Webhooks as GitHub sends them: their headers, their signature, and what models make of them.

use std::process::Command;

use crate::support::http;
use crate::support::process::{Server, until};
use crate::support::project::{ORDERS, Project};

const STREAM: &str = "
stream: github
domain: sales
envelope: { id: $headers.X-GitHub-Delivery, type: $headers.X-GitHub-Event, time: $timestamp }
events:
  star:
    versions:
      1:
        fields:
          action: { type: string }
          repository: { path: repository.full_name, type: string }
          hook: { path: $headers.X-GitHub-Hook-ID, type: bigint }
";

const STARS: &str = "
fact: stars
from: { stream: github, event: star }
grain: [delivery]
degenerate:
  delivery: { expression: event_id, type: string }
  action: {}
  repository: {}
  hook: { type: bigint }
";

const PRODUCT: &str = "
product: stars
version: 1
ports:
  stars:
    model: stars
    primary_key: [delivery]
    columns:
      delivery: { type: string, nullable: false }
      action: { type: string }
      repository: { type: string }
      hook: { type: bigint }
";

const WEBHOOK: &str = "webhooks:\n  github: { verify: github, secrets: ['${file:new}', '${file:old}'] }\n";

/// What GitHub would send as its signature of this body.
fn signature(secret: &str, body: &str) -> String {
    let made = Command::new("python3")
        .args([
            "-c",
            "import hmac,sys; print(hmac.new(sys.argv[1].encode(), sys.argv[2].encode(), 'sha256').hexdigest())",
        ])
        .args([secret, body])
        .output()
        .expect("`python3` can be run");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    format!("sha256={}", String::from_utf8_lossy(&made.stdout).trim())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_github_sends_becomes_rows_and_what_others_send_lands_nothing() {
    let project = Project::new();
    project.write("streams/github.yaml", STREAM);
    project.write("domains/sales/models/stars.yaml", STARS);
    project.write("domains/sales/products/stars_v1.yaml", PRODUCT);
    let main = std::fs::read_to_string(project.root().join("starmere.yaml")).unwrap();
    project.write("starmere.yaml", &(main + WEBHOOK));
    project.write("new", "s3cret\n");
    project.write("old", "before\n");
    let server = Server::start(project.root()).await;
    let path = "/v1/streams/github/events";
    let json = r#"{"action":"created","repository":{"full_name":"a/b"}}"#;
    let form = "payload=%7B%22action%22%3A%22deleted%22%2C%22repository%22%3A%7B%22full_name%22%3A%22a%2Fb%22%7D%7D";
    let send = |delivery: &str, content: &str, secret: &str, body: &str| {
        let signature = signature(secret, body);
        let headers = [
            ("Content-Type", content),
            ("X-GitHub-Delivery", delivery),
            ("X-GitHub-Event", "star"),
            ("X-GitHub-Hook-ID", "17"),
            ("X-Hub-Signature-256", signature.as_str()),
        ];
        http::post_with(&server.address, path, &headers, body.as_bytes()).unwrap()
    };
    let (as_json, as_form) = ("application/json", "application/x-www-form-urlencoded");
    for (delivery, content, secret, body) in
        [("d1", as_json, "s3cret", json), ("d1", as_json, "before", json), ("d2", as_form, "s3cret", form)]
    {
        let answer = send(delivery, content, secret, body);
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.json()["delivery"], "exactly once");
    }
    let refused = send("d3", as_json, "guessed", json);
    assert_eq!((refused.status, refused.json()["error"]["kind"].as_str()), (401, Some("unauthenticated")));
    assert_eq!(http::post(&server.address, path, json).unwrap().status, 401);
    // A secret that is replaced no longer counts: the files are read again.
    project.write("old", "s3cret\n");
    server.signal("-HUP");
    server.says("read again", 1).await;
    let refused_now = async || send("d4", as_json, "before", json).status == 401;
    until("the old secret is refused", refused_now).await;
    server.terminate();
    server.end().await;

    project.succeed(&["build"]).await;
    // `d4` may have landed before the files were read again.
    let query = "SELECT delivery, action, repository, hook FROM sales.stars_v1.stars WHERE delivery <> 'd4' ORDER BY 1";
    let row = |delivery: &str, action: &str| serde_json::json!({ "delivery": delivery, "action": action, "repository": "a/b", "hook": 17 });
    assert_eq!(project.query(query).await, [row("d1", "created"), row("d2", "deleted")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_does_not_start_without_the_secret_of_a_webhook() {
    let project = Project::new();
    project.write("streams/github.yaml", STREAM);
    let main = std::fs::read_to_string(project.root().join("starmere.yaml")).unwrap();
    project.write("starmere.yaml", &(main + WEBHOOK));
    project.succeed(&["check"]).await;
    let ended = project.run(&["serve"]).await;
    assert!(!ended.status.success() && ended.errors.contains("could not read `new`"), "{}", ended.errors);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_strict_stream_refuses_what_no_model_can_read() {
    let project = Project::new();
    project.write("streams/orders.yaml", &format!("{ORDERS}strict: true\n"));
    let server = Server::start(project.root()).await;
    let post = |body: &str| http::post(&server.address, "/v1/streams/orders/events", body).unwrap();
    let order = |rest: &str| format!(r#"{{"id":1,"type":"order_placed","at":"2024-01-01T00:00:00Z"{rest}}}"#);
    let right = order(r#","order":"a","customer":"c","lines":[{"quantity":1}],"more":[1]"#);
    let refused = [
        (r#"{"id":1}"#.to_owned(), "no type at `type`"),
        (right.replace("order_placed", "order_place"), "the stream describes no event `order_place`"),
        (order(""), "`order_id`"),
        (order(r#","order":"a","lines":[{"quantity":"many"}]"#), "`quantity` of element 1"),
        (order(r#","order":"a","lines":7"#), "`lines` is not an array"),
    ];
    for (wrong, reason) in refused {
        let answer = post(&format!("{right}\n{wrong}\n"));
        assert_eq!(answer.status, 422, "{}", answer.text());
        let told = answer.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(told.starts_with("event 2: ") && told.contains(reason), "{told}");
    }
    let answer = post(&right);
    assert_eq!((answer.status, answer.json()["rejected"].as_u64()), (200, Some(0)));
    assert_eq!(project.landed().await[1], std::slice::from_ref(&right));
    // The definition may change while the server runs.
    project.write("streams/orders.yaml", ORDERS);
    server.signal("-HUP");
    server.says("taken up", 1).await;
    until("all events land", async || post(&order("")).status == 200).await;
    server.terminate();
    server.end().await;
}
