use std::sync::Arc;

use arrow::{array::RecordBatch, ipc::reader::StreamReader};
use axum::{
    Router,
    body::{Body, to_bytes},
    http::{Method, Request, StatusCode, header},
    response::Response,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use futures::StreamExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::{Hosts, answer, answering_all, for_hosts, router};
use crate::{
    access::{Access, Right, Rights, Users},
    query::{Limits, Queries},
    testing::queries,
};

fn open() -> Router {
    router(queries(Limits::default()), Arc::new(Access::default()))
}

async fn send(router: &Router, request: Request<Body>) -> Response {
    router.clone().oneshot(request).await.unwrap()
}

async fn sql(router: &Router, address: &str, sql: &str) -> Response {
    let request = Request::post(address).body(Body::from(sql.to_owned())).unwrap();
    send(router, request).await
}

async fn text(response: Response) -> String {
    let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    String::from_utf8(bytes.to_vec()).unwrap()
}

async fn value(response: Response) -> Value {
    serde_json::from_str(&text(response).await).unwrap()
}

const LINES: &str = "SELECT order_id, customer_key, currency, amount, weight, ordered_at
    FROM sales.orders_v1.order_lines ORDER BY order_id, line_number";

#[tokio::test]
async fn json_keeps_every_digit() {
    let response = sql(&open(), "/v1/sql", LINES).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()[answer::SNAPSHOT], "7");
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/json");
    let id = response.headers()[answer::QUERY_ID].to_str().unwrap().to_owned();
    let answer = value(response).await;
    assert_eq!(answer["columns"][3], json!({"name": "amount", "type": "decimal(18,2)", "nullable": true}));
    assert_eq!(
        answer["rows"],
        json!([
            ["a", i64::MAX, "EUR", "10.50", 1.5, "1970-01-01T00:00:00Z"],
            ["a", 10, "EUR", null, null, "2023-11-14T22:13:20Z"],
            ["b", 11, null, "-0.01", 3.0, "1970-01-01T00:00:00.000001Z"],
        ])
    );
    assert_eq!(answer["row_count"], 3);
    assert_eq!(answer["snapshot"], 7);
    assert_eq!(answer["query_id"], id);
    assert_eq!(answer["truncated"], Value::Null);
}

#[tokio::test]
async fn rows_are_limited_and_parameters_bound() {
    let body = json!({
        "sql": "SELECT line_number FROM sales.orders_v1.order_lines WHERE order_id = $1",
        "params": ["a"],
        "limit_rows": 1,
    });
    let request = Request::post("/v1/sql")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(body.to_string()))
        .unwrap();
    let answer = value(send(&open(), request).await).await;
    assert_eq!(answer["row_count"], 1, "{answer}");
    assert_eq!(answer["truncated"], true);
    let none = value(sql(&open(), "/v1/sql?limit_rows=0", "SELECT 1").await).await;
    assert_eq!(none["rows"], json!([]));
}

#[tokio::test]
async fn empty_answers_are_whole() {
    let nothing = "SELECT name FROM sales.customers_v1.customer WHERE 1 = 0";
    let router = open();
    assert_eq!(value(sql(&router, "/v1/sql", nothing).await).await["rows"], json!([]));
    assert_eq!(text(sql(&router, "/v1/sql?format=csv", nothing).await).await, "name\n");
    assert_eq!(text(sql(&router, "/v1/sql?format=jsonl", nothing).await).await, "");
}

#[tokio::test]
async fn lines_have_an_object_each_and_names_once() {
    let statement = "SELECT a.name, b.name, named_struct('x', 1, 'z', 'y') AS s
        FROM sales.customers_v1.customer a
        JOIN sales.customers_v1.customer b ON a.customer_key = b.customer_key
        WHERE a.customer_key = 10";
    let answer = text(sql(&open(), "/v1/sql?format=jsonl", statement).await).await;
    let line: Value = serde_json::from_str(answer.trim_end()).unwrap();
    assert_eq!(line["name"], "Ada");
    assert_eq!(line["name_2"], "Ada");
    assert_eq!(line["s"], json!({"x": 1, "z": "y"}));
}

#[tokio::test]
async fn csv_quotes_and_writes_nested_values_as_json() {
    let statement = "SELECT customer_key, name, make_array(1, NULL) AS list
        FROM sales.customers_v1.customer ORDER BY customer_key";
    let request = Request::post("/v1/sql").header(header::ACCEPT, "text/csv").body(Body::from(statement)).unwrap();
    let answer = text(send(&open(), request).await).await;
    assert_eq!(answer, "customer_key,name,list\n10,Ada,\"[1,null]\"\n11,\"Bob, \"\"the\"\" second\",\"[1,null]\"\n");
}

#[tokio::test]
async fn arrow_is_a_stream_of_plain_types() {
    let response = sql(&open(), "/v1/sql?format=arrow", LINES).await;
    let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    let reader = StreamReader::try_new(bytes.as_ref(), None).unwrap();
    assert_eq!(reader.schema().field(0).data_type().to_string(), "Utf8");
    assert_eq!(reader.schema().field(2).data_type().to_string(), "Utf8");
    let batches: Vec<RecordBatch> = reader.collect::<Result<_, _>>().unwrap();
    assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 3);
}

#[tokio::test]
async fn errors_have_their_status_and_place() {
    let router = open();
    let missing = sql(&router, "/v1/sql", "SELECT 1\nFROM sales.x.y").await;
    assert_eq!(missing.status(), StatusCode::NOT_FOUND);
    let error = value(missing).await;
    assert_eq!(error["error"]["kind"], "not_found");
    assert_eq!(error["error"]["line"], 2);
    assert!(error["error"]["hint"].is_string());

    let written = sql(&router, "/v1/sql", "DELETE FROM sales.x.y").await;
    assert_eq!(written.status(), StatusCode::BAD_REQUEST);
    let running = sql(&router, "/v1/sql", "SELECT 1 / (line_number - 1) FROM sales.orders_v1.order_lines");
    assert_eq!(running.await.status(), StatusCode::BAD_REQUEST);
    let format = sql(&router, "/v1/sql?format=xml", "SELECT 1").await;
    assert_eq!(format.status(), StatusCode::BAD_REQUEST);
    let address = value(sql(&router, "/v1/sql?limit_rows=many", "SELECT 1").await).await;
    assert_eq!(address["error"]["kind"], "invalid");
    let long = sql(&router, "/v1/sql", &" ".repeat(super::MAX_BODY_BYTES + 1)).await;
    assert_eq!(long.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let error = value(long).await;
    assert_eq!(error["error"]["kind"], "invalid");
    assert_eq!(error["error"]["message"], "the body is larger than 4194304 bytes");
}

#[tokio::test]
async fn unknown_paths_and_methods_are_told_what_there_is() {
    let router = answering_all(open(), &["POST /v1/streams/{stream}/events"]);
    let cases = [
        (Method::GET, "/v1/table", StatusCode::NOT_FOUND, "not_found"),
        (Method::GET, "/v1/sql", StatusCode::METHOD_NOT_ALLOWED, "invalid"),
        (Method::POST, "/healthz", StatusCode::METHOD_NOT_ALLOWED, "invalid"),
    ];
    for (method, path, status, kind) in cases {
        let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        let response = send(&router, request).await;
        assert_eq!(response.status(), status, "{path}");
        let error = value(response).await;
        assert_eq!(error["error"]["kind"], kind, "{path}");
        assert!(error["error"]["message"].as_str().unwrap().contains(path), "{error}");
        let hint = error["error"]["hint"].as_str().unwrap();
        assert!(hint.contains("POST /v1/sql") && hint.contains("/v1/streams/"), "{hint}");
    }
    assert_eq!(sql(&router, "/v1/sql", "SELECT 1").await.status(), StatusCode::OK);
}

fn endless(queries: &Queries, format: &str) -> impl Future<Output = Response> + use<> {
    let router = router(queries.clone(), Arc::new(Access::default()));
    let address = format!("/v1/sql?format={format}");
    async move { sql(&router, &address, "SELECT n FROM lake.test.endless").await }
}

#[tokio::test]
async fn error_after_the_first_rows_is_said_or_cuts_off() {
    let queries = queries(Limits::default());
    let response = endless(&queries, "json").await;
    assert_eq!(response.status(), StatusCode::OK);
    queries.cancel_all();
    let answer = value(response).await;
    assert_eq!(answer["rows"], json!([[1]]));
    assert_eq!(answer["error"]["kind"], "cancelled");

    let response = endless(&queries, "jsonl").await;
    queries.cancel_all();
    let answer = text(response).await;
    let last: Value = serde_json::from_str(answer.lines().last().unwrap()).unwrap();
    assert_eq!(last["error"]["kind"], "cancelled");

    let response = endless(&queries, "csv").await;
    queries.cancel_all();
    assert!(to_bytes(response.into_body(), usize::MAX).await.is_err());
}

#[tokio::test]
async fn running_queries_are_listed_and_cancelled() {
    let queries = queries(Limits::default());
    let router = router(queries.clone(), Arc::new(Access::default()));
    let response = endless(&queries, "json").await;
    let id = response.headers()[answer::QUERY_ID].to_str().unwrap().to_owned();
    let list = |router: Router| async move {
        let request = Request::get("/v1/queries").body(Body::empty()).unwrap();
        value(send(&router, request).await).await
    };
    let listed = list(router.clone()).await;
    assert_eq!(listed["queries"][0]["id"], id);
    assert_eq!(listed["queries"][0]["user"], "anonymous");

    let cancel = |id: &str| {
        let address = format!("/v1/queries/{id}");
        Request::builder().method(Method::DELETE).uri(address).body(Body::empty()).unwrap()
    };
    assert_eq!(send(&router, cancel(&id)).await.status(), StatusCode::OK);
    assert_eq!(value(response).await["error"]["kind"], "cancelled");
    // It is listed until its threads are free.
    let until_ended = async || {
        while let listed = list(router.clone()).await
            && listed["queries"] != json!([])
        {
            assert_eq!(listed["queries"][0]["stopping"], true);
            tokio::task::yield_now().await;
        }
    };
    until_ended().await;
    assert_eq!(send(&router, cancel(&id)).await.status(), StatusCode::NOT_FOUND);
    assert_eq!(send(&router, cancel("nonsense")).await.status(), StatusCode::NOT_FOUND);

    let hung_up = endless(&queries, "json").await;
    drop(hung_up);
    until_ended().await;
}

#[tokio::test]
async fn who_is_refused_is_told_when_to_ask_again() {
    let limits = Limits { running: 1, small: 0, per_user: 1, waiting: 0, ..Limits::default() };
    let queries = queries(limits);
    let runs = endless(&queries, "json").await;
    let router = router(queries, Arc::new(Access::default()));
    let refused = sql(&router, "/v1/sql", "SELECT 1").await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(refused.headers().contains_key(header::RETRY_AFTER));
    assert_eq!(value(refused).await["error"]["kind"], "busy");
    drop(runs);
}

#[tokio::test]
async fn pieces_arrive_before_the_end() {
    let queries = queries(Limits::default());
    let mut pieces = endless(&queries, "jsonl").await.into_body().into_data_stream();
    let mut seen = Vec::new();
    while !seen.ends_with(b"}\n") {
        seen.extend_from_slice(&pieces.next().await.unwrap().unwrap());
    }
    assert_eq!(seen, b"{\"n\":1}\n");
}

#[tokio::test]
async fn tables_are_described() {
    let request = Request::get("/v1/tables").body(Body::empty()).unwrap();
    let answer = value(send(&open(), request).await).await;
    assert_eq!(answer["snapshot"], 7);
    let lines = &answer["tables"][0];
    assert_eq!(lines["full_name"], "sales.orders_v1.order_lines");
    assert_eq!(lines["columns"][0]["type"], "string");
    assert_eq!(lines["primary_key"], json!(["order_id", "line_number"]));
    assert_eq!(lines["foreign_keys"][0]["to"], json!(["sales", "customers_v1", "customer"]));
    assert_eq!(lines["foreign_keys"][0]["informational"], true);
    assert_eq!(answer["tables"][2]["kind"], "system table");
}

#[tokio::test]
async fn strangers_only_see_that_the_server_is_well() {
    let users = Users::new(vec![("ana".to_owned(), "secret".to_owned())]);
    let router = router(queries(Limits::default()), Arc::new(Access::new(users)));
    let get = |address: &str| Request::get(address).body(Body::empty()).unwrap();
    assert_eq!(send(&router, get("/healthz")).await.status(), StatusCode::OK);
    for address in ["/v1/tables", "/v1/queries"] {
        assert_eq!(send(&router, get(address)).await.status(), StatusCode::UNAUTHORIZED);
    }
    let refused = sql(&router, "/v1/sql", "SELECT 1").await;
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    assert!(refused.headers().contains_key(header::WWW_AUTHENTICATE));
    let known = Request::post("/v1/sql")
        .header(header::AUTHORIZATION, "Basic YW5hOnNlY3JldA==")
        .body(Body::from("SELECT 1"))
        .unwrap();
    assert_eq!(send(&router, known).await.status(), StatusCode::OK);
}

/// Users with one right each, whose passwords are their names.
fn users(rights: &[(&str, Right)]) -> Users {
    let user = |(name, right): &(&str, Right)| ((*name).to_owned(), (*name).to_owned(), Rights::of(&[*right]));
    Users::with_rights(rights.iter().map(user).collect())
}

fn asking(method: Method, address: &str, user: &str, body: &str) -> Request<Body> {
    let credentials = BASE64_STANDARD.encode(format!("{user}:{user}"));
    let request = Request::builder().method(method).uri(address);
    request.header(header::AUTHORIZATION, format!("Basic {credentials}")).body(Body::from(body.to_owned())).unwrap()
}

#[tokio::test]
async fn users_query_what_they_may() {
    let users = users(&[("ana", Right::Query), ("ben", Right::Raw), ("pia", Right::Post)]);
    let router = router(queries(Limits::default()), Arc::new(Access::new(users)));
    let port = "SELECT count(*) FROM sales.customers_v1.customer";
    let raw = "SELECT n FROM lake.test.endless LIMIT 0";
    for (user, statement, status) in
        [("ana", port, 200), ("ana", raw, 403), ("ben", raw, 200), ("ben", port, 403), ("pia", "SELECT 1", 403)]
    {
        let answer = send(&router, asking(Method::POST, "/v1/sql", user, statement)).await;
        assert_eq!(answer.status().as_u16(), status, "{user}: {statement}: {}", text(answer).await);
    }
    for (user, catalog) in [("ana", "sales"), ("ben", "lake")] {
        let listed = value(send(&router, asking(Method::GET, "/v1/tables", user, "")).await).await;
        let tables = listed["tables"].as_array().unwrap();
        assert!(!tables.is_empty() && tables.iter().all(|table| table["catalog"] == catalog), "{listed}");
        let named = "SELECT DISTINCT table_catalog FROM information_schema.tables
            WHERE table_schema <> 'information_schema'";
        let named = value(send(&router, asking(Method::POST, "/v1/sql", user, named)).await).await;
        assert_eq!(named["rows"], json!([[catalog]]), "{user}");
    }
}

#[tokio::test]
async fn queries_of_others_are_seen_and_stopped_by_operators_alone() {
    let queries = queries(Limits::default());
    let users = users(&[("ana", Right::Raw), ("ben", Right::Raw), ("olga", Right::Operate)]);
    let router = router(queries.clone(), Arc::new(Access::new(users)));
    let endless = asking(Method::POST, "/v1/sql", "ana", "SELECT n FROM lake.test.endless");
    let response = send(&router, endless).await;
    let id = response.headers()[answer::QUERY_ID].to_str().unwrap().to_owned();
    for (user, seen) in [("ana", 1), ("ben", 0), ("olga", 1)] {
        let listed = value(send(&router, asking(Method::GET, "/v1/queries", user, "")).await).await;
        assert_eq!(listed["queries"].as_array().unwrap().len(), seen, "{user}");
    }
    let address = format!("/v1/queries/{id}");
    for (user, status) in [("ben", 404), ("olga", 200)] {
        let cancelled = send(&router, asking(Method::DELETE, &address, user, "")).await;
        assert_eq!(cancelled.status().as_u16(), status, "{user}");
    }
    assert_eq!(value(response).await["error"]["kind"], "cancelled");
}

/// Tries to have long texts sent back.
#[tokio::test]
async fn what_clients_wrote_is_cut_in_messages() {
    let long = "x".repeat(60_000);
    let users = users(&[("ana", Right::Operate), ("ben", Right::Query)]);
    let router = for_hosts(
        answering_all(router(queries(Limits::default()), Arc::new(Access::new(users))), &[]),
        Hosts::default(),
    );
    let json = |member: &str, value: Value| json!({"sql": "SELECT 1", member: value}).to_string();
    let cases = [
        ("POST", format!("/{long}"), "ben", String::new()),
        ("PUT", format!("/v1/queries/{long}"), "ben", String::new()),
        (long.as_str(), "/v1/sql".to_owned(), "ben", String::new()),
        ("DELETE", format!("/v1/queries/{long}"), "ana", String::new()),
        ("POST", format!("/v1/sql?format={long}"), "ben", "SELECT 1".to_owned()),
        ("POST", "/v1/sql".to_owned(), long.as_str(), "SELECT 1".to_owned()),
        ("POST", "/v1/sql".to_owned(), "ben", json("params", json!(long))),
        ("POST", "/v1/sql".to_owned(), "ben", json("params", json!([[long]]))),
        ("POST", "/v1/sql".to_owned(), "ben", json("params", json!({ (long.as_str()): 1 }))),
        ("POST", "/v1/sql".to_owned(), "ben", json(&long, json!(1))),
        ("POST", "/v1/sql".to_owned(), "ben", format!("{long} 1")),
        ("POST", "/v1/sql".to_owned(), "ben", format!("SELECT * FROM {long}")),
        ("POST", "/v1/sql".to_owned(), "ben", format!("SELECT {long}")),
        ("POST", "/v1/sql".to_owned(), "ben", format!("SELECT {long}(1)")),
        ("POST", "/v1/sql".to_owned(), "ben", format!("SELECT 1 {long} {long}")),
        ("POST", "/v1/sql".to_owned(), "ben", format!("SELECT 1_{long}")),
        ("POST", "/v1/sql".to_owned(), "ben", format!("SELECT $1, ${long}")),
        ("POST", "/v1/sql".to_owned(), "ben", format!("SELECT CAST('{long}' AS INT)")),
    ];
    for (method, path, user, body) in cases {
        let mut request = asking(Method::from_bytes(method.as_bytes()).unwrap(), &path, user, &body);
        request.headers_mut().insert(header::HOST, "localhost".parse().unwrap());
        if body.starts_with('{') {
            request.headers_mut().insert(header::CONTENT_TYPE, "application/json".parse().unwrap());
        }
        let answer = send(&router, request).await;
        let (status, text) = (answer.status(), text(answer).await);
        let start = |text: &str| text.chars().take(100).collect::<String>();
        let what = format!("{} {} {}: {status} {}", start(method), start(&path), start(&body), start(&text));
        assert!(status.is_client_error(), "{what}");
        assert!(text.len() < 5000, "{what}: {} bytes", text.len());
    }
    for (name, status) in [(header::HOST, 421), (header::ORIGIN, 403), (header::CONTENT_TYPE, 400)] {
        let mut request = asking(Method::POST, "/v1/sql", "ben", "SELECT 1");
        request.headers_mut().insert(header::HOST, "localhost".parse().unwrap());
        request.headers_mut().insert(&name, long.parse().unwrap());
        let answer = send(&router, request).await;
        assert_eq!(answer.status().as_u16(), status, "{name}");
        assert!(text(answer).await.len() < 500, "{name}");
    }
}

#[tokio::test]
async fn pages_and_names_of_others_are_refused_on_every_path() {
    let router = for_hosts(answering_all(open(), &[]), Hosts::default());
    let nameless = Request::get("/healthz").body(Body::empty()).unwrap();
    let answer = send(&router, nameless).await;
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    assert!(value(answer).await["error"]["hint"].as_str().is_some_and(|hint| hint.contains("address")));
    for (path, host, origin, status) in [
        ("/v1/sql", "localhost:7070", None, 200),
        ("/v1/sql", "evil.example", None, 421),
        ("/v1/sql", "localhost:7070", Some("http://evil.example"), 403),
        ("/healthz", "evil.example", None, 421),
        ("/nowhere", "evil.example", None, 421),
    ] {
        let mut request = Request::post(path).header(header::HOST, host);
        if let Some(origin) = origin {
            request = request.header(header::ORIGIN, origin);
        }
        let response = send(&router, request.body(Body::from("SELECT 1")).unwrap()).await;
        assert_eq!(response.status().as_u16(), status, "{path} {host} {origin:?}");
    }
}
