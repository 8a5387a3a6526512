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
