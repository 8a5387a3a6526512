//! Requests as the webhooks of others send them.

use std::io::Write;

use super::*;
use crate::files::tests::texts;

const JSON: (&str, &str) = ("content-type", "application/json");
const NDJSON: (&str, &str) = ("content-type", "application/x-ndjson");
const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");
const GZIP: (&str, &str) = ("content-encoding", "gzip");
const ZSTD: (&str, &str) = ("content-encoding", "zstd");

fn listening(mapping: Mapping, limits: Limits) -> (Listener, Stream, Memory) {
    let stream = Stream::new("orders", Warehouse::new(Store::memory()).table(TablePath::stream("sales", "orders")));
    let memory = Memory::new(64 << 20);
    let limits = Limits { gather: Duration::ZERO, ..limits };
    let listener = Listener::new(vec![target(&stream, mapping)], limits, &memory, &CancellationToken::new());
    (listener, stream, memory)
}

fn event(id: &str) -> String {
    EVENT.replace("\"1\"", &format!("\"{id}\""))
}

/// Ids and payloads of what has landed; of a reject the reason.
async fn landed(stream: &Stream) -> Vec<[String; 2]> {
    let rows = texts(stream, &["coalesce(rejection, event_id)", "payload"]).await;
    let text = |hexadecimal: &str| String::from_utf8(hex::decode(hexadecimal).unwrap()).unwrap();
    rows.into_iter().map(|row| [row[0].clone(), text(&row[1])]).collect()
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

/// Several members, or frames, one after the other are one body.
fn packed(pack: impl Fn(&[u8]) -> Vec<u8>, pieces: &[&[u8]]) -> Body {
    Body::from(pieces.iter().flat_map(|piece| pack(piece)).collect::<Vec<_>>())
}

fn zstd(text: &[u8]) -> Vec<u8> {
    zstd::encode_all(text, 3).unwrap()
}

#[tokio::test]
async fn each_element_of_an_array_is_an_event() {
    let (listener, stream, memory) = listening(mapping("type"), Limits::default());
    let (first, second) = (event("a"), event("b"));
    let body = format!(" [ {first},\n{second} , 7,\"x, \\\" y\", null,[1]]\n");
    // Said to be JSON, or not said to be anything.
    for (headers, number) in [(vec![JSON], 1), (vec![], 2)] {
        let (status, answer) = send(&listener, "orders", &headers, body.clone().into()).await;
        assert_eq!((status, answer["accepted"].as_u64(), answer["rejected"].as_u64()), (200, Some(6), Some(4)));
        assert_eq!((answer["version"].as_u64(), memory.used()), (Some(number), 0));
    }
    let found = landed(&stream).await;
    assert_eq!(found.len(), 12);
    assert_eq!(found[..2], [["a".to_owned(), first], ["b".to_owned(), second]]);
    let payloads: Vec<&str> = found[2..6].iter().map(|row| row[1].as_str()).collect();
    assert_eq!(payloads, ["7", "\"x, \\\" y\"", "null", "[1]"], "the bytes that came");
}

#[tokio::test]
async fn an_array_that_is_cut_lands_nothing() {
    let (listener, stream, _) = listening(mapping("type"), Limits::default());
    let (status, answer) = send(&listener, "orders", &[JSON], format!("[{EVENT},").into()).await;
    assert_eq!((status, answer["error"]["kind"].as_str()), (400, Some("invalid")), "{answer}");
    assert!(stream.newest().await.unwrap().is_none());
}

#[tokio::test]
async fn a_document_over_several_lines_is_one_event() {
    let (listener, stream, _) = listening(mapping("type"), Limits::default());
    let pretty = EVENT.replace(',', ",\n  ").replace('{', "{\n  ").replace('}', "\n}\n");
    for headers in [vec![], vec![FORM], vec![JSON]] {
        let (status, answer) = send(&listener, "orders", &headers, pretty.clone().into()).await;
        assert_eq!((status, answer["accepted"].as_u64(), answer["rejected"].as_u64()), (200, Some(1), Some(0)));
    }
    // Who says that there is one a line is believed, and so is a body with several documents.
    let lines = pretty.trim_end().matches('\n').count() as u64 + 1;
    let (_, answer) = send(&listener, "orders", &[NDJSON], pretty.clone().into()).await;
    assert_eq!((answer["accepted"].as_u64(), answer["rejected"].as_u64()), (Some(lines), Some(lines)));
    let (_, answer) = send(&listener, "orders", &[], format!("nonsense\n{EVENT}\n").into()).await;
    assert_eq!((answer["accepted"].as_u64(), answer["rejected"].as_u64()), (Some(2), Some(1)));
    let found = landed(&stream).await;
    assert_eq!(found[0], ["1".to_owned(), pretty]);
}

#[tokio::test]
async fn a_form_is_one_event() {
    let (listener, stream, memory) = listening(mapping("type"), Limits::default());
    let encoded: String = EVENT.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let fields = "id=2&type=paid&at=2024-01-01T00%3A00%3A00Z&tag=x+y&tag=z";
    for form in [format!("payload={encoded}"), fields.to_owned()] {
        let (status, answer) = send(&listener, "orders", &[FORM], form.into()).await;
        assert_eq!((status, answer["accepted"].as_u64(), answer["rejected"].as_u64()), (200, Some(1), Some(0)));
        assert_eq!((answer["delivery"].as_str(), memory.used()), (Some("exactly once"), 0));
    }
    let found = landed(&stream).await;
    assert_eq!(found[0], ["1", EVENT]);
    assert_eq!(found[1], ["2", r#"{"id":"2","type":"paid","at":"2024-01-01T00:00:00Z","tag":["x y","z"]}"#]);
    // `curl --data-binary` says of lines that they are a form.
    let (_, answer) = send(&listener, "orders", &[FORM], format!("{}\n{}\n", event("3"), event("4")).into()).await;
    assert_eq!((answer["accepted"].as_u64(), answer["rejected"].as_u64()), (Some(2), Some(0)));
    let long = format!("payload=%7B%22x%22%3A%22{}%22%7D", "y".repeat(201));
    assert_eq!(send(&listener, "orders", &[FORM], long.into()).await.0, 413);
    assert_eq!(send(&listener, "orders", &[FORM], "a=%ff".into()).await.0, 400);
    assert_eq!(memory.used(), 0);
}

#[tokio::test]
async fn a_packed_body_is_what_it_unpacks_to() {
    let (listener, stream, memory) = listening(mapping("type"), Limits::default());
    let (first, second) = (format!("{}\n{}\n", event("a"), event("b")), event("c"));
    let pieces = [first.as_bytes(), second.as_bytes()];
    for (coding, body) in [(GZIP, packed(gzip, &pieces)), (ZSTD, packed(zstd, &pieces))] {
        let (status, answer) = send(&listener, "orders", &[coding, NDJSON], body).await;
        assert_eq!((status, answer["accepted"].as_u64(), answer["rejected"].as_u64()), (200, Some(3), Some(0)));
        assert_eq!(memory.used(), 0);
    }
    assert_eq!(landed(&stream).await[3..5], [["a".to_owned(), event("a")], ["b".to_owned(), event("b")]]);
}

#[tokio::test]
async fn a_packed_body_that_is_damaged_or_too_large_lands_nothing() {
    let limits = Limits { body_bytes: 1 << 20, ..Limits::default() };
    let (listener, stream, memory) = listening(mapping("type"), limits);
    // Some kilobytes, which would be two mebibytes.
    let bomb = "\n".repeat(2 << 20);
    let text = format!("{EVENT}\n");
    let (whole, window) = (zstd(text.as_bytes()), {
        let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
        encoder.window_log(24).unwrap();
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    });
    let cut = |bytes: &[u8]| bytes[..bytes.len() - 3].to_vec();
    let cases: [(u16, &str, Vec<u8>); 10] = [
        (413, "gzip", gzip(bomb.as_bytes())),
        (413, "zstd", zstd(bomb.as_bytes())),
        (400, "gzip", cut(&gzip(text.as_bytes()))),
        (400, "zstd", cut(&whole)),
        (400, "zstd", window),
        (400, "gzip", text.clone().into_bytes()),
        (400, "zstd", text.clone().into_bytes()),
        (400, "gzip", Vec::new()),
        (415, "gzip, gzip", gzip(&gzip(text.as_bytes()))),
        (415, "deflate", text.into_bytes()),
    ];
    for (expected, coding, body) in cases {
        assert!(body.len() < 100 << 10);
        let (status, answer) = send(&listener, "orders", &[("content-encoding", coding)], body.into()).await;
        assert_eq!(status, expected, "{coding}: {answer}");
        assert!(answer["error"]["hint"].as_str().is_some_and(|hint| !hint.is_empty()), "{answer}");
        assert_eq!(memory.used(), 0);
    }
    assert!(stream.newest().await.unwrap().is_none());
}

/// What it unpacks to counts, before it is there: half of what the process gives to events is not enough here.
#[tokio::test]
async fn what_a_body_unpacks_to_takes_memory() {
    let (listener, stream, _) = listening(mapping("type"), Limits::default());
    let listener = Listener { memory: Memory::new(16 << 20), ..listener };
    let most = listener.memory.at_most(usize::MAX);
    for (coding, body) in [(GZIP, gzip(&vec![b'\n'; most])), (ZSTD, zstd(&vec![b'\n'; most]))] {
        let (status, answer) = send(&listener, "orders", &[coding], body.into()).await;
        assert_eq!(status, 413, "{answer}");
        assert!(answer["error"]["message"].as_str().unwrap().contains("more memory than there is"), "{answer}");
        assert_eq!(listener.memory.used(), 0);
    }
    let taken = listener.memory.share_of(most).await;
    let other = listener.memory.share_of(most).await;
    let (status, answer) = send(&listener, "orders", &[GZIP], gzip(EVENT.as_bytes()).into()).await;
    assert_eq!(status, 429, "{answer}");
    drop((taken, other));
    assert_eq!(send(&listener, "orders", &[GZIP], gzip(EVENT.as_bytes()).into()).await.0, 200);
    assert_eq!(stream.open().await.unwrap().rows(), Some(1));
}

fn by_headers() -> Mapping {
    let headers = ["Authorization", "X-Event", "X-Delivery"].map(str::to_owned).to_vec();
    let mapping = Mapping::new(TypeOf::Path("$headers.X-Event".into()), Some("at".into()));
    Mapping { id: Some("$headers.X-Delivery".into()), headers, ..mapping }
}

#[tokio::test]
async fn headers_that_the_stream_names_are_kept_and_no_others() {
    let (listener, stream, _) = listening(by_headers(), Limits::default());
    let headers = [
        JSON,
        ("x-delivery", "d1"),
        ("x-event", "push"),
        ("authorization", "Basic c2VjcmV0"),
        ("cookie", "session=1"),
        ("user-agent", "somebody"),
    ];
    for _ in 0..2 {
        let (status, answer) = send(&listener, "orders", &headers, EVENT.into()).await;
        assert_eq!((status, answer["rejected"].as_u64()), (200, Some(0)));
        assert_eq!(answer["delivery"], "exactly once");
    }
    let rows = texts(&stream, &["event_id", "event_type", "headers"]).await;
    let header = |name: &str, value: &str| format!("{{name: {name}, value: {}}}", hex::encode(value));
    let kept = format!("[{}, {}]", header("X-Event", "push"), header("X-Delivery", "d1"));
    assert_eq!(rows, vec![["d1".to_owned(), "push".to_owned(), kept]; 2]);
}

/// They would be copies of one event, and one of them would count.
#[tokio::test]
async fn several_events_with_one_id_are_refused() {
    let (listener, stream, _) = listening(by_headers(), Limits::default());
    let headers = [("x-delivery", "d1"), ("x-event", "push")];
    for body in [format!("[{EVENT},{EVENT}]"), format!("{EVENT}\n{EVENT}\n")] {
        let (status, answer) = send(&listener, "orders", &headers, body.into()).await;
        assert_eq!(status, 400, "{answer}");
        assert!(answer["error"]["message"].as_str().unwrap().contains("the header `X-Delivery`"), "{answer}");
    }
    assert!(stream.newest().await.unwrap().is_none());
    let (status, answer) = send(&listener, "orders", &headers, format!("[{EVENT}]").into()).await;
    assert_eq!((status, answer["delivery"].as_str()), (200, Some("exactly once")));
}

/// Each event of a request has the headers of the request: a long one, many times, is more than the body says.
#[tokio::test]
async fn headers_take_memory_for_each_event() {
    let headers = vec!["X-Long".to_owned()];
    let (listener, stream, memory) = listening(Mapping { headers, ..mapping("type") }, Limits::default());
    let long = "x".repeat(60_000);
    let (status, answer) = send(&listener, "orders", &[("x-long", &long)], "{}\n".repeat(1_000).into()).await;
    assert_eq!((status, memory.used()), (413, 0), "{answer}");
    assert!(stream.newest().await.unwrap().is_none());
}

fn signature(secret: &str, body: &[u8]) -> String {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
    format!("sha256={}", hex::encode(ring::hmac::sign(&key, body)))
}

#[tokio::test]
async fn a_request_that_is_not_signed_lands_nothing() {
    let (listener, stream, memory) = listening(mapping("type"), Limits::default());
    let signed_by = |secrets: &[&str]| {
        let secrets: Vec<String> = secrets.iter().map(|secret| (*secret).to_owned()).collect();
        let signatures = Signatures::new(Scheme::GitHub, &secrets, Duration::ZERO).unwrap();
        Target { signatures: Some(signatures), ..target(&stream, mapping("type")) }
    };
    listener.renew(vec![signed_by(&["new", "old"])]);
    let packed = gzip(EVENT.as_bytes());
    // Of the bytes as they came: packed, where they are.
    let unpacked: &[(&str, &str)] = &[JSON];
    let cases = [
        (unpacked, None, EVENT.as_bytes(), 401),
        (unpacked, Some(signature("other", EVENT.as_bytes())), EVENT.as_bytes(), 401),
        (unpacked, Some(signature("new", b"{}")), EVENT.as_bytes(), 401),
        (&[JSON, GZIP], Some(signature("new", EVENT.as_bytes())), &packed, 401),
        (&[JSON, GZIP], Some(signature("new", &packed)), &packed, 200),
        (unpacked, Some(signature("new", EVENT.as_bytes())), EVENT.as_bytes(), 200),
        (unpacked, Some(signature("old", EVENT.as_bytes())), EVENT.as_bytes(), 200),
    ];
    let mut rows = 0;
    for (headers, signature, body, expected) in cases {
        let mut headers = headers.to_vec();
        headers.extend(signature.as_deref().map(|signature| ("x-hub-signature-256", signature)));
        let (status, answer) = send(&listener, "orders", &headers, body.to_vec().into()).await;
        assert_eq!(status, expected, "{answer}");
        if status == 401 {
            assert_eq!(answer["error"]["kind"], "unauthenticated");
            assert!(
                answer["error"]["hint"].as_str().is_some_and(|hint| hint.contains("nothing has landed")),
                "{answer}"
            );
        }
        rows += u64::from(status == 200);
        let landed = stream.newest().await.unwrap().map_or(Some(0), |snapshot| snapshot.rows());
        assert_eq!((landed, memory.used()), (Some(rows), 0));
    }
    // A secret that is taken away no longer counts; the one that is left does.
    listener.renew(vec![signed_by(&["new"])]);
    for (secret, expected) in [("old", 401), ("new", 200)] {
        let signature = signature(secret, EVENT.as_bytes());
        let headers = [JSON, ("x-hub-signature-256", signature.as_str())];
        assert_eq!(send(&listener, "orders", &headers, EVENT.into()).await.0, expected);
    }
}
