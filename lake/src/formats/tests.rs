use super::*;

fn view(encoding: Encoding, convention: Option<Convention>, paths: &[&str]) -> View {
    View::new(&Format { encoding, convention }, &Arc::default(), paths.iter().copied())
}

fn json(view: &mut View, event: &Incoming<'_>) -> Result<String, Unreadable> {
    view.json(event).map(|text| String::from_utf8(text.to_vec()).unwrap())
}

#[test]
fn json_is_its_own_view() {
    let mut view = view(Encoding::Json, None, &["a"]);
    assert_eq!(json(&mut view, &Incoming::of(b"\xef\xbb\xbf{}")).unwrap(), "{}");
    assert!(view.is_verbatim() && view.is_of_payloads());
}

#[test]
fn keys_headers_and_times_are_had_by_their_paths() {
    let headers: [Header<'_>; 2] = [("trace", Some(b"7")), ("none", None)];
    let event = Incoming { payload: Some(b" {\"a\":1}"), key: Some(b"k"), headers: Some(&headers), timestamp: Some(5) };
    let mut view = view(Encoding::Json, None, &["$key"]);
    let outside = r#"{"$key":"k","$timestamp":5,"$headers":{"trace":"7","none":null}"#;
    assert_eq!(json(&mut view, &event).unwrap(), format!("{outside},\"a\":1}}"));
    let empty = Incoming { payload: Some(b"{ }"), ..event };
    assert_eq!(json(&mut view, &empty).unwrap(), format!("{outside} }}"));
    let tombstone = Incoming { payload: None, ..event };
    assert_eq!(json(&mut view, &tombstone).unwrap(), format!("{outside},\"$value\":null}}"));
    for (key, expected) in [
        (&b"{\"id\":1}"[..], r#"{"id":1}"#),
        (b"{\"schema\":{},\"payload\":{\"id\":1}}", r#"{"id":1}"#),
        (b"{\"schema\":{},\"payload\":\"x\"}", r#""x""#),
        (b"17", r#""17""#),
        (b"{", r#""{""#),
        (b"\xff", r#""/w==""#),
    ] {
        let text = json(&mut view, &Incoming { payload: Some(b"{}"), key: Some(key), ..Incoming::default() }).unwrap();
        assert_eq!(text, format!("{{\"$key\":{expected},\"$timestamp\":null,\"$headers\":{{}}}}"));
    }
}

#[test]
fn a_payload_names_its_schema() {
    let mut view = view(Encoding::Confluent, None, &["a"]);
    let payload = [0, 0, 0, 0, 7, 6, b'a', b'b', b'c'];
    assert_eq!(view.missing(&Incoming::of(&payload)), Some(SchemaId::Registered(7)));
    assert_eq!(json(&mut view, &Incoming::of(&payload)), Err(Unreadable::Unknown(SchemaId::Registered(7))));
    view.schemas().insert(SchemaId::Registered(7), Schema::avro("\"string\"").compile().map(Arc::new));
    assert_eq!(view.missing(&Incoming::of(&payload)), None);
    assert_eq!(json(&mut view, &Incoming::of(&payload)).unwrap(), "\"abc\"");
    let more = [&payload[..], b"x"].concat();
    assert_eq!(json(&mut view, &Incoming::of(&more)), Err(wrong("not Avro of its schema: 1 bytes follow")));
    view.schemas().insert(SchemaId::Registered(8), Ok(Arc::new(Compiled::Json)));
    assert_eq!(json(&mut view, &Incoming::of(b"\0\0\0\0\x08{}")).unwrap(), "{}");
    view.schemas().refuse(SchemaId::Registered(9), "the registry has no schema 9".into());
    assert_eq!(json(&mut view, &Incoming::of(b"\0\0\0\0\x09")), Err(wrong("the registry has no schema 9")));
    assert!(matches!(json(&mut view, &Incoming::of(b"{}")), Err(Unreadable::Wrong(_))));
}

#[test]
fn plain_avro_is_of_the_schema_that_is_named_or_declared() {
    let schema = Schema::avro("\"long\"");
    let SchemaId::Fingerprint(fingerprint) = schema.fingerprint().unwrap() else { unreachable!() };
    let single = [&SINGLE_OBJECT[..], &fingerprint.to_le_bytes(), &[2]].concat();
    let mut undeclared = view(Encoding::Avro { schema: None }, None, &[]);
    assert!(matches!(json(&mut undeclared, &Incoming::of(&single)), Err(Unreadable::Wrong(_))));
    undeclared.schemas().insert(schema.fingerprint().unwrap(), schema.compile().map(Arc::new));
    assert_eq!(json(&mut undeclared, &Incoming::of(&single)).unwrap(), "1");
    let mut declared = view(Encoding::Avro { schema: Some(schema.schema) }, None, &[]);
    assert_eq!(json(&mut declared, &Incoming::of(&[4])).unwrap(), "2");
}

#[test]
fn a_record_of_csv_brings_its_header() {
    let mut view = view(Encoding::Csv { delimiter: b';' }, None, &["a"]);
    let headers: [Header<'_>; 1] = [(csv::HEADER, Some(b"a;b"))];
    let record = Incoming { payload: Some(b"1;2"), headers: Some(&headers), ..Incoming::default() };
    assert_eq!(json(&mut view, &record).unwrap(), r#"{"a":"1","b":"2"}"#);
    assert!(!view.is_of_payloads());
    assert!(matches!(json(&mut view, &Incoming::of(b"1;2")), Err(Unreadable::Wrong(_))));
}

/// Changes a few bytes, cuts some out, repeats some.
fn changed(bytes: &[u8], random: &mut fastrand::Rng) -> Vec<u8> {
    let mut changed = bytes.to_vec();
    for _ in 0..random.usize(1..6) {
        let place = random.usize(0..=changed.len());
        match random.u8(0..4) {
            0 => changed.insert(place, random.u8(..)),
            1 if place < changed.len() => {
                changed[place] = *random.choice(&[0, 1, 0x7f, 0x80, 0xff, b'"', b'{']).unwrap()
            }
            2 => changed.truncate(place),
            _ => {
                let from = random.usize(0..=place);
                let piece = changed[from..place].to_vec();
                changed.splice(place..place, piece);
            }
        }
    }
    changed
}

const RECURSIVE: &str = r#"{"type":"record","name":"n","fields":[{"name":"v","type":"int"},{"name":"m","type":{"type":"map","values":"n"}},
    {"name":"a","type":{"type":"array","items":["null","n"]}},{"name":"d","type":{"type":"bytes","logicalType":"decimal","precision":9,"scale":2}}]}"#;
const PROTO: &str =
    "syntax = \"proto3\"; message N { int32 v = 1; repeated N n = 2; map<string, N> m = 3; repeated bool b = 4; }";

/// How many changed inputs are tried of each kind: STARMERE_FUZZ, or a few in every run.
fn tries() -> usize {
    std::env::var("STARMERE_FUZZ").ok().and_then(|tries| tries.parse().ok()).unwrap_or(3_000)
}

#[test]
fn hostile_payloads_are_refused_or_read_and_nobody_panics() {
    let mut random = fastrand::Rng::with_seed(1);
    let registered = |number: u8, datum: &[u8]| [&[0, 0, 0, 0, number][..], datum].concat();
    let nested: Vec<u8> = vec![2, 2, 2, b'k', 4, 0, 0, 2, 5, 0, 2, 2, 6, 0, 0, 2, 7, 0, 2, 9];
    let message = [0, 0x08, 1, 0x12, 2, 0x08, 2, 0x1a, 7, 0x0a, 1, b'k', 0x12, 2, 0x08, 3, 0x22, 2, 0, 1];
    let envelope = br#"{"schema":{},"payload":{"op":"c","after":{"a":[1,{"b":"\u00e9"}]}}}"#;
    let cases: Vec<(Encoding, Option<Convention>, Vec<u8>)> = vec![
        (Encoding::Confluent, None, registered(1, &nested)),
        (Encoding::Confluent, None, registered(2, &message)),
        (Encoding::Confluent, Some(Convention::Debezium), registered(3, envelope)),
        (Encoding::Avro { schema: Some(RECURSIVE.into()) }, None, nested.clone()),
        (Encoding::Csv { delimiter: b',' }, None, b"1,\"a\"\"b\",\"c\nd\"".to_vec()),
        (Encoding::Json, Some(Convention::Debezium), envelope.to_vec()),
        (Encoding::Json, Some(Convention::Outbox), br#"{"schema":{},"payload":"{\"a\":1}"}"#.to_vec()),
        (
            Encoding::Json,
            Some(Convention::CloudEvents),
            br#"{"specversion":"1.0","data_base64":"eyJhIjoxfQ=="}"#.to_vec(),
        ),
    ];
    let paths = ["$key.id", "$headers.trace", "a.b"];
    let found = Paths::new(&paths);
    for (encoding, convention, payload) in cases {
        let mut view = view(encoding.clone(), convention, &paths);
        view.schemas().insert(SchemaId::Registered(1), Schema::avro(RECURSIVE).compile().map(Arc::new));
        let proto = Schema { kind: SchemaKind::Protobuf, schema: PROTO.into(), references: Vec::new() };
        view.schemas().insert(SchemaId::Registered(2), proto.compile().map(Arc::new));
        view.schemas().insert(SchemaId::Registered(3), Ok(Arc::new(Compiled::Json)));
        let headers: [Header<'_>; 1] = [(csv::HEADER, Some(b"a,b,c"))];
        let good = Incoming { headers: Some(&headers), ..Incoming::of(&payload) };
        assert!(view.json(&good).is_ok(), "{encoding:?}");
        for _ in 0..tries() {
            let (hostile, key) = (changed(&payload, &mut random), changed(&payload, &mut random));
            let header = changed(b"a,b,c", &mut random);
            let headers: [Header<'_>; 3] =
                [(csv::HEADER, Some(&header)), ("ce_specversion", Some(&key)), ("ce-x", Some(&header))];
            let headers = &headers[..if random.bool() { 1 } else { 3 }];
            let event =
                Incoming { payload: Some(&hostile), key: Some(&key), headers: Some(headers), timestamp: Some(-1) };
            if let Ok(text) = view.json(&event) {
                let most = (hostile.len() + 2 * key.len() + 2 * header.len()) * 300 + (1 << 17);
                assert!(text.len() <= most, "{} bytes of {}", text.len(), hostile.len());
                let text = text.to_vec();
                let _ = scan(&found, &text, &mut [crate::json::Span::MISSING; 3]);
            }
        }
    }
}

#[test]
fn hostile_schemas_are_refused_or_read_and_nobody_panics() {
    let mut random = fastrand::Rng::with_seed(2);
    for (kind, schema) in [(SchemaKind::Avro, RECURSIVE), (SchemaKind::Protobuf, PROTO)] {
        for _ in 0..tries() {
            let schema = String::from_utf8_lossy(&changed(schema.as_bytes(), &mut random)).into_owned();
            let _ = Schema { kind, schema, references: Vec::new() }.compile();
        }
    }
    let deep = format!("{}\"int\"{}", r#"{"type":"array","items":"#.repeat(5_000), "}".repeat(5_000));
    assert!(Schema::avro(deep).compile().is_err());
    let deep = format!("syntax = \"proto3\"; {} {}", "message M { ".repeat(5_000), "}".repeat(5_000));
    assert!(Schema { kind: SchemaKind::Protobuf, schema: deep, references: Vec::new() }.compile().is_err());
}
