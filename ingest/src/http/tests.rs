mod webhooks;

use super::*;
use crate::envelope::TypeOf;
use crate::stores;
use axum::body::Body;
use object_store::memory::InMemory;
use starmere_lake::delta::Warehouse;
use starmere_lake::store::Store;

fn listener(stop: &CancellationToken) -> (Listener, Stream) {
    listener_within(&Memory::default(), stop)
}

fn listener_within(memory: &Memory, stop: &CancellationToken) -> (Listener, Stream) {
    listener_of(Limits { body_bytes: 1000, gather: Duration::from_millis(1), ..Limits::default() }, memory, stop)
}

fn listener_of(limits: Limits, memory: &Memory, stop: &CancellationToken) -> (Listener, Stream) {
    let warehouse = Warehouse::new(Store::memory());
    let stream = Stream::new("orders", warehouse.table(TablePath::stream("sales", "orders")));
    (Listener::new(vec![target(&stream, mapping("type"))], limits, memory, stop), stream)
}

fn target(stream: &Stream, mapping: Mapping) -> Target {
    Target { stream: stream.clone(), mapping, signatures: None, judge: None }
}

fn mapping(event_type: &str) -> Mapping {
    let mapping = Mapping::new(TypeOf::Path(event_type.into()), Some("at".into()));
    Mapping { id: Some("id".into()), max_event_bytes: 200, ..mapping }
}

async fn send(
    listener: &Listener,
    stream: &str,
    headers: &[(&'static str, &str)],
    body: Body,
) -> (u16, serde_json::Value) {
    send_as("", listener, stream, headers, body).await
}

async fn send_as(
    sender: &str,
    listener: &Listener,
    stream: &str,
    headers: &[(&'static str, &str)],
    body: Body,
) -> (u16, serde_json::Value) {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.insert(*name, value.parse().unwrap());
    }
    let sender = Some(Extension(Sender::new(sender)));
    let response = match post(State(listener.clone()), Path(stream.to_owned()), sender, map, body).await {
        Ok(response) => response,
        Err(refusal) => refusal.into_response(),
    };
    let status = response.status().as_u16();
    let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
    (status, serde_json::from_slice(&body).unwrap())
}

const EVENT: &str = r#"{"id":"1","type":"paid","at":"2024-01-01T00:00:00Z"}"#;

#[tokio::test]
async fn an_event_is_answered_with_the_version_that_holds_it() {
    let stop = CancellationToken::new();
    let (listener, stream) = listener(&stop);
    let (status, body) = send(&listener, "orders", &[("content-type", "application/json")], EVENT.into()).await;
    assert_eq!((status, body["accepted"].as_u64(), body["delivery"].as_str()), (200, Some(1), Some("exactly once")));
    let snapshot = stream.open().await.unwrap();
    assert_eq!((snapshot.version(), snapshot.rows()), (body["version"].as_u64().unwrap(), Some(1)));
}

/// A process that is told to end waited for such a store for ever.
#[tokio::test]
async fn what_a_store_that_never_answers_does_not_take_is_not_acknowledged_and_is_counted() {
    let hangs = stores::Interrupt::before_write(0, std::future::pending());
    let warehouse = stores::tampered(&Arc::new(InMemory::new()), &hangs);
    let stream = Stream::new("orders", warehouse.table(TablePath::stream("sales", "orders")));
    let limits = Limits { gather: Duration::ZERO, wait: Duration::from_millis(50), ..Limits::default() };
    let stop = CancellationToken::new();
    let listener = Listener::new(vec![target(&stream, mapping("type"))], limits, &Memory::default(), &stop);
    let (status, body) = send(&listener, "orders", &[], format!("{EVENT}\n{EVENT}\n").into()).await;
    assert_eq!(status, 503, "{body}");
    while !hangs.happened() {
        tokio::task::yield_now().await;
    }
    stop.cancel();
    let finished = tokio::time::timeout(Duration::from_millis(50), listener.finished()).await;
    assert!(finished.is_err(), "it waits");
    assert_eq!(listener.unlanded(), 2);
}

#[tokio::test]
async fn a_bad_event_in_a_batch_is_counted_and_stops_nothing() {
    let stop = CancellationToken::new();
    let (listener, stream) = listener(&stop);
    let body = format!("{EVENT}\nnonsense\n{{\"type\":\"paid\",\"at\":\"2024-01-01T00:00:00Z\"}}\n");
    let (status, body) = send(&listener, "orders", &[], body.into()).await;
    assert_eq!((status, body["accepted"].as_u64(), body["rejected"].as_u64()), (200, Some(3), Some(1)));
    assert_eq!(body["first_rejection"], "event 2: not JSON: expected a value at byte 0");
    assert_eq!(body["delivery"], "at least once");
    assert_eq!(stream.open().await.unwrap().rows(), Some(3));
}

#[tokio::test]
async fn what_cannot_be_read_as_a_whole_lands_nothing_and_says_what_to_do() {
    let stop = CancellationToken::new();
    let (listener, stream) = listener(&stop);
    let cut = futures::stream::iter([Ok(EVENT.to_owned()), Err(std::io::Error::other("connection reset"))]);
    let long = format!("{EVENT}\n{}\n", "x".repeat(201));
    type Case<'a> = (u16, &'a str, Vec<(&'static str, &'a str)>, Body);
    let cases: Vec<Case<'_>> = vec![
        (404, "order", vec![], EVENT.into()),
        (400, "orders", vec![], Body::empty()),
        (400, "orders", vec![], Body::from_stream(cut)),
        (400, "orders", vec![("content-length", "99")], EVENT.into()),
        (400, "orders", vec![("content-type", "application/json")], "[]".into()),
        (413, "orders", vec![], long.into()),
        (413, "orders", vec![], "x\n".repeat(501).into()),
        (415, "orders", vec![("content-type", "image/png")], EVENT.into()),
        (415, "orders", vec![("content-type", "text/plain")], EVENT.into()),
        (415, "orders", vec![("content-encoding", "br")], EVENT.into()),
    ];
    for (expected, name, headers, body) in cases {
        let (status, body) = send(&listener, name, &headers, body).await;
        assert_eq!(status, expected, "{body}");
        assert!(body["error"]["hint"].as_str().is_some_and(|hint| !hint.is_empty()), "{body}");
    }
    assert_eq!(stream.open().await.unwrap().version(), 0);
    let long = "x".repeat(60_000);
    for (name, headers) in [
        (long.as_str(), vec![]),
        ("orders", vec![("content-type", long.as_str())]),
        ("orders", vec![("content-encoding", long.as_str())]),
    ] {
        let (status, body) = send(&listener, name, &headers, EVENT.into()).await;
        assert!(status >= 400 && body.to_string().len() < 500, "{status}: {} bytes", body.to_string().len());
    }
}

/// Raises the warehouse's format, or puts it back, and looks.
async fn formatted(stream: &Stream, text: &'static str) -> bool {
    let store = stream.table().store();
    store.write(&starmere_lake::paths::format_number(), text.into()).await.unwrap();
    format_number::may_write(store).await.is_ok()
}

#[tokio::test]
async fn a_warehouse_of_a_newer_format_is_answered_503_at_once() {
    let stop = CancellationToken::new();
    let (listener, stream) = listener(&stop);
    assert_eq!(send(&listener, "orders", &[], EVENT.into()).await.0, 200);
    assert!(!formatted(&stream, r#"{"format":9,"reader":1}"#).await);
    let (status, body) = send(&listener, "orders", &[], EVENT.into()).await;
    assert_eq!((status, body["error"]["kind"].as_str()), (503, Some("unavailable")), "{body}");
    assert!(body["error"]["message"].as_str().unwrap().contains("has format 9"), "{body}");
    assert!(body["error"]["hint"].as_str().unwrap().contains("a newer one"), "{body}");
    assert!(formatted(&stream, r#"{"format":1}"#).await);
    assert_eq!(send(&listener, "orders", &[], EVENT.into()).await.0, 200);
    assert_eq!(stream.open().await.unwrap().rows(), Some(2));
}

/// What waits for its commit when the format is raised is answered as well, and does not keep the process from its end.
#[tokio::test]
async fn what_is_queued_when_the_format_is_raised_is_answered_503() {
    let stop = CancellationToken::new();
    let limits =
        Limits { gather: Duration::from_secs(60 * 60), wait: Duration::from_secs(60 * 60), ..Limits::default() };
    let (listener, stream) = listener_of(limits, &Memory::default(), &stop);
    let early = {
        let listener = listener.clone();
        tokio::spawn(async move { send(&listener, "orders", &[], EVENT.into()).await })
    };
    // One thread, and nobody has anything else to wait for: by then, it is queued.
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
    assert!(!formatted(&stream, r#"{"format":9,"reader":1}"#).await);
    stop.cancel();
    let (status, body) = early.await.unwrap();
    assert!(status == 503 && body["error"]["message"].as_str().unwrap().contains("has format 9"), "{body}");
    listener.finished().await;
    assert!(stream.newest().await.unwrap().is_none(), "nothing has landed");
}

#[tokio::test]
async fn requests_are_grouped_and_none_is_lost_at_the_end() {
    let stop = CancellationToken::new();
    let (listener, stream) = listener(&stop);
    let requests = (0..100).map(|number| {
        let listener = listener.clone();
        tokio::spawn(async move {
            let key = format!("request-{number}");
            send(&listener, "orders", &[("idempotency-key", &key)], EVENT.replace("\"id\":\"1\",", "").into()).await
        })
    });
    for request in requests.collect::<Vec<_>>() {
        assert_eq!(request.await.unwrap().0, 200);
    }
    stop.cancel();
    listener.finished().await;
    assert_eq!(listener.unlanded(), 0);
    let snapshot = stream.open().await.unwrap();
    assert_eq!(snapshot.rows(), Some(100));
    assert!(snapshot.version() < 100, "{} commits", snapshot.version());
}

#[tokio::test]
async fn definitions_that_change_are_taken_up_and_nothing_accepted_is_lost() {
    let stop = CancellationToken::new();
    let (listener, stream) = listener(&stop);
    let sent = |number: u32| {
        let listener = listener.clone();
        let event = EVENT.replace("\"1\"", &format!("\"{number}\""));
        tokio::spawn(async move { send(&listener, "orders", &[], event.into()).await })
    };
    let requests: Vec<_> = (0..50).map(sent).collect();
    // Some of them are queued with the old mapping, some come later.
    tokio::task::yield_now().await;
    let other = Stream::new("returns", stream.table().clone());
    listener.renew(vec![target(&stream, mapping("kind")), target(&other, mapping("type"))]);
    for request in requests {
        assert_eq!(request.await.unwrap().0, 200);
    }
    let (status, body) = send(&listener, "orders", &[], EVENT.into()).await;
    assert_eq!((status, body["rejected"].as_u64()), (200, Some(1)), "{body}");
    assert_eq!(send(&listener, "returns", &[], EVENT.into()).await.0, 200);
    // Of what is the same, the committer goes on; what is gone is refused.
    listener.renew(vec![target(&stream, mapping("kind"))]);
    assert_eq!(send(&listener, "returns", &[], EVENT.into()).await.0, 404);
    stop.cancel();
    listener.finished().await;
    assert_eq!(stream.open().await.unwrap().rows(), Some(52));
}

#[tokio::test]
async fn requests_share_a_commit_for_as_long_as_is_declared() {
    let stop = CancellationToken::new();
    let limits =
        Limits { gather: Duration::from_secs(60 * 60), wait: Duration::from_secs(2 * 60 * 60), ..Limits::default() };
    let (listener, stream) = listener_of(limits, &Memory::default(), &stop);
    let requests = (0..16).map(|number| {
        let listener = listener.clone();
        let event = EVENT.replace("\"1\"", &format!("\"{number}\""));
        tokio::spawn(async move { send(&listener, "orders", &[], event.into()).await })
    });
    let requests: Vec<_> = requests.collect();
    // One thread, and nobody has anything else to wait for: by then, all have been gathered.
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
    assert!(requests.iter().all(|request| !request.is_finished()));
    // An orderly end does not wait for more.
    stop.cancel();
    for request in requests {
        let (status, body) = request.await.unwrap();
        assert_eq!((status, body["version"].as_u64()), (200, Some(1)));
    }
    listener.finished().await;
    assert_eq!(stream.open().await.unwrap().rows(), Some(16));
}

#[tokio::test]
async fn without_memory_a_request_is_told_to_come_again() {
    let stop = CancellationToken::new();
    let memory = Memory::new(16 << 20);
    let (listener, stream) = listener_within(&memory, &stop);
    let taken = [memory.share_of(6 << 20).await, memory.share_of(6 << 20).await];
    let (status, body) = send(&listener, "orders", &[], EVENT.into()).await;
    assert_eq!((status, body["error"]["kind"].as_str()), (429, Some("unavailable")));
    assert_eq!(stream.open().await.unwrap().version(), 0);
    drop(taken);
    assert_eq!(send(&listener, "orders", &[], EVENT.into()).await.0, 200);
    assert_eq!(memory.used(), 0);
}

/// A body that never comes.
fn stalled() -> Body {
    Body::from_stream(futures::stream::pending::<std::io::Result<String>>())
}

#[tokio::test]
async fn stalled_bodies_take_no_memory_from_others() {
    let stop = CancellationToken::new();
    let memory = Memory::new(16 << 20);
    let (listener, stream) = listener_within(&memory, &stop);
    let listener = Listener { limits: Limits { body_bytes: 4 << 20, ..Limits::default() }, ..listener };
    let announced = [("content-length", "4000000")];
    let stalled = futures::future::join_all((0..10).map(|_| send(&listener, "orders", &announced, stalled())));
    // The stalled ones are polled first, so all of them have begun.
    let (status, body) = tokio::select! {
        biased;
        _ = stalled => panic!("a body that never comes was answered"),
        answer = send(&listener, "orders", &[], EVENT.into()) => answer,
    };
    assert_eq!(status, 200, "{body}");
    assert!(memory.try_share_of(6 << 20).is_some(), "files have room");
    assert_eq!(stream.open().await.unwrap().rows(), Some(1));
}

#[tokio::test]
async fn a_body_that_comes_too_slowly_is_refused() {
    use futures::StreamExt;
    let stop = CancellationToken::new();
    let memory = Memory::new(16 << 20);
    let (listener, stream) = listener_within(&memory, &stop);
    let limits = Limits { span: Duration::from_millis(20), span_bytes: 100, ..listener.limits };
    let listener = Listener { limits, ..listener };
    let begun = futures::stream::iter([Ok::<_, std::io::Error>(EVENT.to_owned())]).chain(futures::stream::pending());
    for body in [stalled(), Body::from_stream(begun)] {
        let (status, body) = send(&listener, "orders", &[], body).await;
        assert_eq!((status, body["error"]["kind"].as_str()), (408, Some("invalid")), "{body}");
        assert!(body["error"]["message"].as_str().is_some_and(|message| message.contains("too slowly")), "{body}");
    }
    assert_eq!((stream.open().await.unwrap().version(), memory.used()), (0, 0));
}

/// A body that takes a MiB of memory by what comes at once, and then comes above the least rate for long.
fn dripping() -> Body {
    use futures::{StreamExt, stream};
    let at_once = stream::iter(vec![" ".repeat(8 << 10); 65]);
    let drips = stream::unfold((), |()| async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        Some((" ".repeat(1 << 10), ()))
    });
    Body::from_stream(at_once.chain(drips).map(Ok::<_, std::io::Error>))
}

/// Tries to keep posts of others waiting, by bodies that come slowly and hold all of the memory.
#[tokio::test]
async fn bodies_that_drip_give_their_memory_up_for_others() {
    for other in ["other", "dripping"] {
        let stop = CancellationToken::new();
        let memory = Memory::new(16 << 20);
        let limits = Limits { gather: Duration::ZERO, ..Limits::default() };
        let (listener, stream) = listener_of(limits, &memory, &stop);
        let drips = (0..6).map(|_| {
            let listener = listener.clone();
            tokio::spawn(async move { send_as("dripping", &listener, "orders", &[], dripping()).await })
        });
        let drips: Vec<_> = drips.collect();
        while memory.used() < 6 << 20 {
            tokio::task::yield_now().await;
        }
        let (status, body) = send_as(other, &listener, "orders", &[], EVENT.into()).await;
        assert_eq!(status, 200, "{body}");
        let (ended, _, others) = futures::future::select_all(drips).await;
        let (status, body) = ended.unwrap();
        assert_eq!(status, 408, "{body}");
        assert!(body["error"]["message"].as_str().is_some_and(|message| message.contains("no memory")), "{body}");
        assert!(body["error"]["hint"].as_str().is_some_and(|hint| hint.contains("nothing has landed")), "{body}");
        assert!(others.iter().all(|drip| !drip.is_finished()), "one was enough");
        others.iter().for_each(tokio::task::JoinHandle::abort);
        assert_eq!(stream.open().await.unwrap().rows(), Some(1));
    }
}

#[tokio::test]
async fn a_small_body_of_very_many_events_is_too_large() {
    let stop = CancellationToken::new();
    let (listener, _) = listener_within(&Memory::new(4 << 20), &stop);
    let listener = Listener { limits: Limits { body_bytes: 1 << 20, ..Limits::default() }, ..listener };
    let (status, body) = send(&listener, "orders", &[], "{}\n".repeat(100_000).into()).await;
    assert_eq!(status, 413, "{body}");
}

#[test]
fn made_ids_are_the_same_for_the_same_event_at_the_same_place_under_the_same_key() {
    let first = commit::made_id("key", 0, b"{}");
    assert_eq!(first, commit::made_id("key", 0, b"{}"));
    let others =
        [commit::made_id("key", 0, b"[]"), commit::made_id("key", 1, b"{}"), commit::made_id("other", 0, b"{}")];
    assert!(!others.contains(&first), "{first} {others:?}");
}

#[tokio::test]
async fn a_strict_stream_takes_a_request_whole_or_not_at_all() {
    use arrow::array::AsArray;
    let stop = CancellationToken::new();
    let (listener, stream) =
        listener_of(Limits { gather: Duration::ZERO, ..Limits::default() }, &Memory::default(), &stop);
    let judge = Judge::new(|rows| {
        let mut payloads = rows.column_by_name("payload").unwrap().as_binary::<i32>().iter();
        let is_bad =
            |payload: Option<&[u8]>| payload.is_some_and(|payload| payload.windows(3).any(|part| part == b"bad"));
        Ok(payloads.position(is_bad).map(|row| (row as u32, "it is bad".to_owned())))
    });
    listener.renew(vec![Target { judge: Some(judge), ..target(&stream, mapping("type")) }]);
    let bad = EVENT.replace("paid", "bad");
    assert_eq!(send(&listener, "orders", &[], EVENT.into()).await.0, 200);
    let many = format!("{EVENT}\n").repeat(1501);
    for (body, reason) in [
        (bad.clone(), "event 1: it is bad"),
        (format!("{EVENT}\n{{}}\n"), "event 2: no type at `type`"),
        (format!("{many}{bad}\n{EVENT}\n"), "event 1502: it is bad"),
        (format!("{many}nonsense\n"), "event 1502: not JSON: expected a value at byte 0"),
    ] {
        let (status, answer) = send(&listener, "orders", &[], body.into()).await;
        assert_eq!((status, answer["error"]["kind"].as_str()), (422, Some("invalid")), "{answer}");
        assert_eq!(answer["error"]["message"], reason);
        assert!(answer["error"]["hint"].as_str().is_some_and(|hint| hint.contains("nothing has landed")), "{answer}");
    }
    assert_eq!(stream.open().await.unwrap().rows(), Some(1));
    // What is asked of requests may change, and what was accepted goes on landing in order.
    listener.renew(vec![target(&stream, mapping("type"))]);
    let (status, answer) = send(&listener, "orders", &[], format!("{many}{bad}\nnonsense\n").into()).await;
    assert_eq!((status, answer["accepted"].as_u64(), answer["rejected"].as_u64()), (200, Some(1503), Some(1)));
    let topics = crate::files::tests::texts(&stream, &["topic"]).await;
    assert!(topics.iter().all(|topic| *topic == topics[0]), "one run of the committer");
}

/// A judge that cannot tell lands nothing either.
#[tokio::test]
async fn what_cannot_be_judged_lands_nothing() {
    let stop = CancellationToken::new();
    let (listener, stream) = listener(&stop);
    let judge = Judge::new(|_| Err("out of order".to_owned()));
    listener.renew(vec![Target { judge: Some(judge), ..target(&stream, mapping("type")) }]);
    let (status, answer) = send(&listener, "orders", &[], EVENT.into()).await;
    assert_eq!((status, answer["error"]["kind"].as_str()), (500, Some("internal")), "{answer}");
    assert!(stream.newest().await.unwrap().is_none());
}
