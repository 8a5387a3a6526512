//! What events look like by convention: CloudEvents, Debezium's change events, and its outbox.

use super::Header;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::json::{string, text_or_base64};
use crate::json::{self, Kind, Paths, Span};

/// Finds members of the document itself.
#[derive(Debug)]
pub(super) struct Members {
    paths: Paths,
    found: Vec<Span>,
}

impl Members {
    pub(super) fn new(names: &[&str]) -> Self {
        Self { paths: Paths::new(names), found: vec![Span::MISSING; names.len()] }
    }

    fn find(&mut self, text: &[u8]) -> Option<&[Span]> {
        json::scan(&self.paths, text, &mut self.found).ok()?;
        Some(&self.found)
    }
}

/// Members of what Kafka Connect's JSON converter writes with its schema.
pub(super) fn of_connect() -> Members {
    Members::new(&["schema", "payload"])
}

/// What Connect's converter has wrapped, or the text itself.
pub(super) fn unwrapped<'a>(members: &mut Members, text: &'a [u8]) -> (&'a [u8], Kind) {
    match members.find(text) {
        Some(&[schema, payload])
            if matches!(schema.kind, Kind::Object | Kind::Null) && payload.kind != Kind::Missing =>
        {
            (payload.raw(text), payload.kind)
        }
        _ => (text, Kind::Missing),
    }
}

/// What an outbox has sent: often it is JSON within a string.
pub(super) fn of_outbox<'a>(members: &mut Members, text: &'a [u8], out: &'a mut Vec<u8>) -> &'a [u8] {
    let (inner, kind) = unwrapped(members, text);
    let as_string = match (kind, inner.first()) {
        (Kind::String, _) => Some(inner),
        (Kind::Missing, Some(b'"')) if inner.len() >= 2 => Some(&inner[1..inner.len() - 1]),
        _ => None,
    };
    let Some(raw) = as_string else { return inner };
    let quoted = [b"\"", raw, b"\""].concat();
    match serde_json::from_slice::<String>(&quoted) {
        Ok(unescaped) => {
            out.clear();
            out.extend_from_slice(unescaped.as_bytes());
            out
        }
        Err(_) => inner,
    }
}

/// What the headers of a CloudEvent in binary mode begin with: over Kafka, and over HTTP.
const PREFIXES: [&str; 2] = ["ce_", "ce-"];

/// A CloudEvent in binary mode, as it would be in structured mode; whether it is one.
pub(super) fn of_binary_cloud_event(headers: &[Header<'_>], data: &[u8], out: &mut Vec<u8>) -> bool {
    let attribute = |name: &str| {
        let prefix =
            PREFIXES.iter().find(|prefix| name.get(..3).is_some_and(|start| start.eq_ignore_ascii_case(prefix)))?;
        Some((*prefix, name[3..].to_ascii_lowercase()))
    };
    let is_one = headers.iter().any(|(name, _)| attribute(name).is_some_and(|(_, name)| name == "specversion"));
    if !is_one {
        return false;
    }
    out.clear();
    out.push(b'{');
    for (name, value) in headers {
        let Some((prefix, name)) = attribute(name) else { continue };
        string(out, &name);
        out.push(b':');
        match value {
            Some(value) if prefix == "ce-" => text_or_base64(out, &percent_decoded(value)),
            Some(value) => text_or_base64(out, value),
            None => out.extend_from_slice(b"null"),
        }
        out.push(b',');
    }
    let media =
        headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-type")).and_then(|(_, value)| *value);
    let media = media.map(|media| String::from_utf8_lossy(media).to_ascii_lowercase());
    let media = media.as_deref().and_then(|media| media.split(';').next()).map(str::trim);
    if let Some(media) = media {
        out.extend_from_slice(b"\"datacontenttype\":");
        string(out, media);
        out.push(b',');
    }
    let is_json = match media {
        Some(media) => is_json_media(media),
        None => json::scan(&Paths::new::<&str>(&[]), data, &mut []).is_ok(),
    };
    out.extend_from_slice(b"\"data\":");
    match is_json {
        _ if data.is_empty() => out.extend_from_slice(b"null"),
        true => out.extend_from_slice(data),
        false => text_or_base64(out, data),
    }
    out.push(b'}');
    true
}

fn is_json_media(media: &str) -> bool {
    media.ends_with("/json") || media.ends_with("+json")
}

/// Members of a CloudEvent in structured mode whose data are bytes.
pub(super) fn of_bytes() -> Members {
    Members::new(&["data_base64", "datacontenttype", "data"])
}

/// A CloudEvent in structured mode whose data are bytes of JSON, with the data as JSON; or the text itself.
pub(super) fn with_data<'a>(members: &mut Members, text: &'a [u8], out: &'a mut Vec<u8>) -> &'a [u8] {
    let Some(&[bytes, media, data]) = members.find(text) else { return text };
    if bytes.kind != Kind::String || data.kind != Kind::Missing {
        return text;
    }
    let media = media.str(text).to_ascii_lowercase();
    let media = media.split(';').next().unwrap_or_default().trim();
    if !media.is_empty() && !is_json_media(media) {
        return text;
    }
    let (Ok(decoded), Some(rest)) =
        (STANDARD.decode(bytes.str(text).as_ref()), text.trim_ascii_start().strip_prefix(b"{"))
    else {
        return text;
    };
    let nothing = Paths::new::<&str>(&[]);
    if simdutf8::basic::from_utf8(&decoded).is_err() || json::scan(&nothing, &decoded, &mut []).is_err() {
        return text;
    }
    out.clear();
    out.extend_from_slice(b"{\"data\":");
    out.extend_from_slice(&decoded);
    out.push(b',');
    out.extend_from_slice(rest);
    out
}

fn percent_decoded(value: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((&byte, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()).filter(|_| byte == b'%') {
            Some(meant) => {
                decoded.push(meant);
                rest = &after[2..];
            }
            None => {
                decoded.push(byte);
                rest = after;
            }
        }
    }
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binary_cloud_event_is_written_as_a_structured_one() {
        let json = |headers: &[Header<'_>], data: &[u8]| {
            let mut out = Vec::new();
            of_binary_cloud_event(headers, data, &mut out).then(|| String::from_utf8(out).unwrap())
        };
        let kafka: [Header<'_>; 3] = [
            ("ce_specversion", Some(b"1.0")),
            ("ce_id", Some(b"7%20")),
            ("content-type", Some(b"application/json; x")),
        ];
        let expected = r#"{"specversion":"1.0","id":"7%20","datacontenttype":"application/json","data":{"a":1}}"#;
        assert_eq!(json(&kafka, b"{\"a\":1}").unwrap(), expected);
        let http: [Header<'_>; 2] = [("Ce-Specversion", Some(b"1.0")), ("ce-id", Some(b"7%20"))];
        assert_eq!(json(&http, b"text").unwrap(), r#"{"specversion":"1.0","id":"7 ","data":"text"}"#);
        assert_eq!(json(&http, b"\xff").unwrap(), r#"{"specversion":"1.0","id":"7 ","data":"/w=="}"#);
        assert_eq!(json(&http, b"[1]").unwrap(), r#"{"specversion":"1.0","id":"7 ","data":[1]}"#);
        assert_eq!(json(&[("trace", Some(b"1"))], b"{}"), None);
    }

    #[test]
    fn data_that_are_bytes_of_json_are_read() {
        let mut members = of_bytes();
        let mut json = |text: &'static str| {
            let mut out = Vec::new();
            String::from_utf8(with_data(&mut members, text.as_bytes(), &mut out).to_vec()).unwrap()
        };
        assert_eq!(json(r#"{"data_base64":"eyJhIjoxfQ=="}"#), r#"{"data":{"a":1},"data_base64":"eyJhIjoxfQ=="}"#);
        for same in
            [r#"{"data_base64":"/w=="}"#, r#"{"data_base64":"MQ==","datacontenttype":"text/plain"}"#, r#"{"data":1}"#]
        {
            assert_eq!(json(same), same);
        }
    }

    #[test]
    fn what_connect_has_wrapped_is_found() {
        let mut members = of_connect();
        let mut text =
            |text: &'static str| String::from_utf8(unwrapped(&mut members, text.as_bytes()).0.to_vec()).unwrap();
        assert_eq!(text(r#"{"schema":{"type":"struct"},"payload":{"op":"c"}}"#), r#"{"op":"c"}"#);
        assert_eq!(text(r#"{"op":"c"}"#), r#"{"op":"c"}"#);
        assert_eq!(text(r#"{"schema":"mine","payload":{}}"#), r#"{"schema":"mine","payload":{}}"#);
        assert_eq!(text("{"), "{");
    }

    #[test]
    fn an_outbox_may_send_json_within_a_string() {
        let mut members = of_connect();
        let mut text = |text: &'static str| {
            let mut out = Vec::new();
            String::from_utf8(of_outbox(&mut members, text.as_bytes(), &mut out).to_vec()).unwrap()
        };
        assert_eq!(text(r#"{"schema":{"type":"string"},"payload":"{\"a\":1}"}"#), r#"{"a":1}"#);
        assert_eq!(text(r#""{\"a\":1}""#), r#"{"a":1}"#);
        assert_eq!(text(r#"{"a":1}"#), r#"{"a":1}"#);
    }
}
