//! The envelope: what every event has, found in the payload by a mapping, in one pass over its bytes.

use std::borrow::Cow;

use starmere_lake::json::{self, Kind, Paths, Span};
use starmere_lake::time;

/// Where the type of an event is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TypeOf {
    Path(String),
    Constant(String),
}

/// How the time of an event is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeUnit {
    /// RFC 3339 text.
    Text,
    Seconds,
    Milliseconds,
    Microseconds,
}

/// A stream's mapping: dotted paths into the payload.
#[derive(Clone, Debug)]
pub struct Mapping {
    pub id: Option<String>,
    pub event_type: TypeOf,
    pub version: Option<String>,
    pub time: String,
    pub time_unit: TimeUnit,
    pub subject: Option<String>,
    /// A longer event is kept beside the table.
    pub max_event_bytes: usize,
}

/// What the envelope of one event says.
#[derive(Debug, Default, PartialEq)]
pub struct Envelope<'a> {
    pub id: Option<Cow<'a, str>>,
    pub event_type: Option<Cow<'a, str>>,
    pub version: Option<i32>,
    /// Microseconds since 1970.
    pub occurred_at: Option<i64>,
    pub subject: Option<Cow<'a, str>>,
    /// Why the rest may be missing.
    pub rejection: Option<String>,
}

/// A [`Mapping`], ready to read.
#[derive(Debug)]
pub struct Reader {
    mapping: Mapping,
    paths: Paths,
    found: Vec<Span>,
}

/// Slots of [`Reader::paths`].
const ID: usize = 0;
const TYPE: usize = 1;
const VERSION: usize = 2;
const TIME: usize = 3;
const SUBJECT: usize = 4;
/// A path that no document has; stands where the mapping names none.
const NOWHERE: &str = "\0";

impl Reader {
    /// Prepares `mapping`.
    pub fn new(mapping: Mapping) -> Self {
        let or_nowhere = |path: &Option<String>| path.clone().unwrap_or_else(|| NOWHERE.to_owned());
        let event_type = match &mapping.event_type {
            TypeOf::Path(path) => path.clone(),
            TypeOf::Constant(_) => NOWHERE.to_owned(),
        };
        let paths = [
            or_nowhere(&mapping.id),
            event_type,
            or_nowhere(&mapping.version),
            mapping.time.clone(),
            or_nowhere(&mapping.subject),
        ];
        Self { mapping, paths: Paths::new(&paths), found: vec![Span::MISSING; paths.len()] }
    }

    /// The mapping.
    pub fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    /// Reads one payload. Whatever is wrong with it is said in `rejection`, never by an error.
    pub fn read<'a>(&mut self, payload: &'a [u8]) -> Envelope<'a> {
        if payload.iter().all(u8::is_ascii_whitespace) {
            return rejected("the line is empty");
        }
        if let Err(error) = simdutf8::compat::from_utf8(payload) {
            return rejected(format!("not UTF-8: invalid at byte {}", error.valid_up_to()));
        }
        if let Err(error) = json::scan(&self.paths, payload, &mut self.found) {
            return rejected(format!("not JSON: {error}"));
        }
        let mut envelope = Envelope {
            id: text(payload, self.found[ID]),
            subject: text(payload, self.found[SUBJECT]),
            ..Envelope::default()
        };
        envelope.event_type = match &self.mapping.event_type {
            TypeOf::Constant(name) => Some(Cow::Owned(name.clone())),
            TypeOf::Path(_) => text(payload, self.found[TYPE]),
        };
        envelope.version = match self.found[VERSION].kind {
            Kind::Missing | Kind::Null => Some(1),
            _ => text(payload, self.found[VERSION]).and_then(|version| version.parse().ok()).filter(|&v: &i32| v > 0),
        };
        envelope.occurred_at = self.time(payload);
        envelope.rejection = self.rejection(&envelope);
        envelope
    }

    fn time(&self, payload: &[u8]) -> Option<i64> {
        let span = self.found[TIME];
        let factor = match self.mapping.time_unit {
            TimeUnit::Text if span.kind == Kind::String => return time::micros(&span.str(payload)),
            TimeUnit::Text => return None,
            TimeUnit::Seconds => 1_000_000,
            TimeUnit::Milliseconds => 1_000,
            TimeUnit::Microseconds => 1,
        };
        text(payload, span)?.parse::<i64>().ok()?.checked_mul(factor)
    }

    fn rejection(&self, envelope: &Envelope<'_>) -> Option<String> {
        let say = |what: &str, path: &str, slot: usize| match self.found[slot].kind {
            Kind::Missing => format!("no {what} at `{path}`"),
            _ => format!("the {what} at `{path}` cannot be read"),
        };
        if envelope.event_type.is_none()
            && let TypeOf::Path(path) = &self.mapping.event_type
        {
            return Some(say("type", path, TYPE));
        }
        if envelope.occurred_at.is_none() {
            return Some(say("time", &self.mapping.time, TIME));
        }
        if envelope.version.is_none() {
            return Some(say("version", self.mapping.version.as_deref().unwrap_or_default(), VERSION));
        }
        None
    }
}

fn rejected<'a>(reason: impl Into<String>) -> Envelope<'a> {
    Envelope { rejection: Some(reason.into()), ..Envelope::default() }
}

/// Text and numbers as text; anything else is not what an envelope holds.
fn text<'a>(payload: &'a [u8], span: Span) -> Option<Cow<'a, str>> {
    match span.kind {
        Kind::String => Some(span.str(payload)).filter(|text| !text.is_empty()),
        Kind::Number => std::str::from_utf8(span.raw(payload)).ok().map(Cow::Borrowed),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader() -> Reader {
        Reader::new(Mapping {
            id: Some("meta.id".into()),
            event_type: TypeOf::Path("type".into()),
            version: Some("version".into()),
            time: "at".into(),
            time_unit: TimeUnit::Text,
            subject: Some("who".into()),
            max_event_bytes: 1 << 20,
        })
    }

    #[test]
    fn an_envelope_is_read_wherever_it_is() {
        let payload = br#"{"type":"paid","at":"1970-01-01T00:00:01Z","meta":{"id":17},"version":"2","who":"c\u0031"}"#;
        let envelope = Envelope {
            id: Some("17".into()),
            event_type: Some("paid".into()),
            version: Some(2),
            occurred_at: Some(1_000_000),
            subject: Some("c1".into()),
            rejection: None,
        };
        assert_eq!(reader().read(payload), envelope);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let cases: [(&[u8], &str); 9] = [
            (b"", "the line is empty"),
            (b"  \r", "the line is empty"),
            (b"{\"type\":", "not JSON: expected a value at byte 8"),
            (b"\xff{}", "not UTF-8: invalid at byte 0"),
            (br#"{"at":"1970-01-01T00:00:01Z"}"#, "no type at `type`"),
            (br#"{"type":null,"at":"1970-01-01T00:00:01Z"}"#, "the type at `type` cannot be read"),
            (br#"{"type":"paid"}"#, "no time at `at`"),
            (br#"{"type":"paid","at":"soon"}"#, "the time at `at` cannot be read"),
            (br#"{"type":"paid","at":"1970-01-01T00:00:01Z","version":0}"#, "the version at `version` cannot be read"),
        ];
        for (payload, reason) in cases {
            assert_eq!(reader().read(payload).rejection.as_deref(), Some(reason));
        }
    }
}
