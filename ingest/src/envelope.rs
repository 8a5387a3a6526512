//! The envelope: what every event has, found by a mapping in what its payload says, in one pass.

use std::borrow::Cow;
use std::sync::Arc;

use starmere_lake::echo::cut;
use starmere_lake::formats::{
    Convention, Encoding, Format, Incoming, OUTSIDE, SchemaId, Schemas, Unreadable, View, csv,
};
use starmere_lake::json::{self, Kind, Paths, Span};
use starmere_lake::landing::Stream;
use starmere_lake::time;

use crate::Result;

/// Where the type of an event is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TypeOf {
    Path(String),
    Constant(String),
    /// Where the convention of the stream has it.
    Convention,
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

/// A stream's mapping: dotted paths into what a payload says. Where a path is missing, the stream's convention has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    pub format: Format,
    pub id: Option<String>,
    pub event_type: TypeOf,
    pub version: Option<String>,
    pub time: Option<String>,
    pub time_unit: TimeUnit,
    pub subject: Option<String>,
    /// The type of tombstones: keys without a payload.
    pub tombstone: Option<String>,
    /// Names of the headers that are kept of a request over HTTP, as the stream writes them.
    pub headers: Vec<String>,
    /// A longer event is kept beside the table.
    pub max_event_bytes: usize,
}

/// Events may be as long as this unless their stream says otherwise.
const MAX_EVENT_BYTES: usize = 16 << 20;

impl Mapping {
    /// JSON whose type and time are there, and nothing else.
    pub fn new(event_type: TypeOf, time: Option<String>) -> Self {
        Self {
            format: Format::default(),
            id: None,
            event_type,
            version: None,
            time,
            time_unit: TimeUnit::Text,
            subject: None,
            tombstone: None,
            headers: Vec::new(),
            max_event_bytes: MAX_EVENT_BYTES,
        }
    }

    /// The header that is the id of an event, where one is.
    pub fn header_of_id(&self) -> Option<&str> {
        let by_convention = (self.format.convention == Some(Convention::Outbox)).then_some(OF_OUTBOX[0]);
        self.id.as_deref().or(by_convention)?.strip_prefix(HEADERS)
    }
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
    /// For change capture: create, update, delete, read, truncate.
    pub op: Option<&'static str>,
    /// Why the rest may be missing.
    pub rejection: Option<String>,
}

/// A [`Mapping`], ready to read.
#[derive(Debug)]
pub struct Reader {
    mapping: Mapping,
    view: View,
    /// Where the type, the time and the subject are.
    at: At,
    time_unit: TimeUnit,
    paths: Paths,
    found: Vec<Span>,
}

#[derive(Debug)]
struct At {
    event_type: String,
    version: String,
    time: String,
}

/// Slots of [`Reader::paths`].
const ID: usize = 0;
const TYPE: usize = 1;
const VERSION: usize = 2;
const TIME: usize = 3;
const SUBJECT: usize = 4;
/// From here on, what the convention needs.
const OF_CONVENTION: usize = 5;
/// A path that no document has; stands where there is none.
const NOWHERE: &str = "\0";
/// When the source got the event, in milliseconds.
pub const TIMESTAMP: &str = "$timestamp";
/// What begins a path to a header.
const HEADERS: &str = "$headers.";
/// What an event of an outbox is known by, and its type.
const OF_OUTBOX: [&str; 2] = ["$headers.id", "$headers.eventType"];

/// What a CloudEvent is known by, besides its id.
const CLOUD_EVENT: [&str; 2] = ["specversion", "source"];
/// What a change event of Debezium's says, besides the place of the change.
const CHANGE: [&str; 4] = ["op", "before", "after", "source.collection"];
/// Where the change is: whose it is, and its position in the log of its database, however that counts.
const POSITION: [&str; 20] = [
    "source.connector",
    "source.name",
    "source.db",
    "source.schema",
    "source.table",
    "source.collection",
    "source.ts_ms",
    "source.lsn",
    "source.txId",
    "source.file",
    "source.pos",
    "source.row",
    "source.commit_lsn",
    "source.change_lsn",
    "source.event_serial_no",
    "source.scn",
    "source.commit_scn",
    "source.rs_id",
    "source.ssn",
    "source.ord",
];
/// From here on, paths of [`POSITION`] count the changes.
const COUNTS: usize = 7;

/// The `op` of an event that says that its key is no more.
const DELETE: &str = "delete";

impl Reader {
    /// Prepares `mapping` for payloads of `stream`, with the schemas that are kept beside its table.
    pub async fn of(mapping: Mapping, stream: &Stream) -> Result<Self> {
        let schemas = match mapping.format.names_schemas() {
            true => Schemas::load(stream.table()).await?,
            false => Schemas::default(),
        };
        Ok(Self::new(mapping, &Arc::new(schemas)))
    }

    /// Prepares `mapping`; payloads may name `schemas`.
    pub fn new(mapping: Mapping, schemas: &Arc<Schemas>) -> Self {
        let convention = mapping.format.convention;
        let (default_type, default_time, default_id, default_subject) = match convention {
            None => (NOWHERE, TIMESTAMP, NOWHERE, NOWHERE),
            Some(Convention::CloudEvents) => ("type", "time", "id", "subject"),
            Some(Convention::Debezium) => ("source.table", "source.ts_ms", NOWHERE, NOWHERE),
            Some(Convention::Outbox) => (OF_OUTBOX[1], TIMESTAMP, OF_OUTBOX[0], "$key"),
        };
        let or = |path: &Option<String>, default: &str| path.clone().unwrap_or_else(|| default.to_owned());
        let at = At {
            event_type: match &mapping.event_type {
                TypeOf::Path(path) => path.clone(),
                TypeOf::Constant(_) => NOWHERE.to_owned(),
                TypeOf::Convention => default_type.to_owned(),
            },
            version: or(&mapping.version, NOWHERE),
            time: or(&mapping.time, default_time),
        };
        let time_unit = match (&mapping.time, convention) {
            _ if at.time == TIMESTAMP => TimeUnit::Milliseconds,
            (None, Some(Convention::Debezium)) => TimeUnit::Milliseconds,
            _ => mapping.time_unit,
        };
        let (id, subject) = (or(&mapping.id, default_id), or(&mapping.subject, default_subject));
        let mut paths: Vec<&str> = vec![&id, &at.event_type, &at.version, &at.time, &subject];
        match convention {
            Some(Convention::CloudEvents) => paths.extend(CLOUD_EVENT),
            Some(Convention::Debezium) => paths.extend(CHANGE.iter().chain(&POSITION)),
            Some(Convention::Outbox) | None => {}
        }
        let view = View::new(&mapping.format, schemas, paths.iter().copied());
        let (compiled, found) = (Paths::new(&paths), vec![Span::MISSING; paths.len()]);
        Self { view, time_unit, paths: compiled, found, at, mapping }
    }

    /// The mapping.
    pub fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    /// Whether the time of an event is when its source got it. The lake keeps that of such events alone.
    pub(crate) fn takes_time_of_source(&self) -> bool {
        self.at.time == TIMESTAMP
    }

    /// The schemas that payloads name.
    pub fn schemas(&self) -> &Arc<Schemas> {
        self.view.schemas()
    }

    /// The schema that has to be known before `event` can be read, and is not.
    pub fn missing(&self, event: &Incoming<'_>) -> Option<SchemaId> {
        self.view.missing(event)
    }

    /// What is wrong with a header of CSV: without the columns of the envelope, it is none.
    pub fn wrong_header(&self, delimiter: u8, header: &[u8]) -> Option<String> {
        let shown = || String::from_utf8_lossy(header).trim().chars().take(80).collect::<String>();
        let names = match csv::names(delimiter, header) {
            Ok(names) => names,
            Err(reason) => return Some(format!("its header cannot be read: {reason}")),
        };
        let twice = names.iter().enumerate().find(|(place, name)| names[..*place].contains(name));
        if let Some((_, name)) = twice {
            return Some(format!("its header has `{}` twice: `{}`", cut(name), shown()));
        }
        let wanted = [&self.at.event_type, &self.at.time].into_iter();
        let mut wanted = wanted.filter(|path| *path != NOWHERE && !path.starts_with(OUTSIDE));
        let missing = wanted.find(|path| !names.contains(path))?;
        Some(format!("its header has no `{missing}`, which the envelope asks for: `{}`", shown()))
    }

    /// Reads one event. Whatever is wrong with it is said in `rejection`, never by an error.
    pub fn read<'a>(&'a mut self, event: &Incoming<'a>) -> Envelope<'a> {
        let Self { mapping, view, at, time_unit, paths, found } = self;
        // A CloudEvent in binary mode is whole without data.
        let is_without_data = event.payload.is_none()
            && mapping.format.convention == Some(Convention::CloudEvents)
            && event.header("ce_specversion").is_some();
        let event = &Incoming { payload: event.payload.or(is_without_data.then_some(b"")), ..*event };
        let is_text = matches!(mapping.format.encoding, Encoding::Json);
        match event.payload {
            None if mapping.tombstone.is_none() => return tombstone(mapping, event),
            // A CloudEvent may be all in its headers.
            Some(payload)
                if is_text
                    && mapping.format.convention != Some(Convention::CloudEvents)
                    && payload.iter().all(u8::is_ascii_whitespace) =>
            {
                return rejected("it is empty");
            }
            _ => {}
        }
        let text = match view.json(event) {
            Ok(text) => text,
            Err(Unreadable::Wrong(reason)) => return rejected(reason),
            Err(Unreadable::Unknown(id)) => return rejected(format!("the schema {id} is not known")),
        };
        // What we have written ourselves is UTF-8.
        if (is_text || matches!(mapping.format.encoding, Encoding::Confluent))
            && let Err(error) = simdutf8::compat::from_utf8(text)
        {
            let of_payload = event.payload.filter(|_| is_text).and_then(|text| simdutf8::compat::from_utf8(text).err());
            return rejected(format!("not UTF-8: invalid at byte {}", of_payload.unwrap_or(error).valid_up_to()));
        }
        if let Err(error) = json::scan(paths, text, found) {
            // Of the payload itself, where there is something in front of it.
            let of_payload = event
                .payload
                .filter(|_| is_text)
                .and_then(|text| json::scan(&Paths::new::<&str>(&[]), text, &mut []).err());
            return rejected(format!("not JSON: {}", of_payload.unwrap_or(error)));
        }
        let mut envelope = Envelope {
            id: as_text(text, found[ID]),
            subject: as_text(text, found[SUBJECT]),
            occurred_at: occurred_at(text, found[TIME], *time_unit),
            ..Envelope::default()
        };
        envelope.event_type = match (&mapping.event_type, event.payload, &mapping.tombstone) {
            (_, None, Some(name)) | (TypeOf::Constant(name), ..) => Some(Cow::Owned(name.clone())),
            _ => as_text(text, found[TYPE]),
        };
        envelope.version = match found[VERSION].kind {
            Kind::Missing | Kind::Null => Some(1),
            _ => as_text(text, found[VERSION]).and_then(|version| version.parse().ok()).filter(|&v: &i32| v > 0),
        };
        if event.payload.is_none() {
            envelope.op = Some(DELETE);
            envelope.occurred_at = envelope.occurred_at.or_else(|| millis(event.timestamp?));
        }
        let of_convention = &found[OF_CONVENTION..];
        match mapping.format.convention {
            Some(Convention::CloudEvents) => {
                cloud_event(mapping, event, text, found[TIME], of_convention, &mut envelope)
            }
            Some(Convention::Debezium) => change(mapping, text, of_convention, &mut envelope),
            Some(Convention::Outbox) | None => {}
        }
        if envelope.rejection.is_none() {
            envelope.rejection = missing(at, *time_unit, found, &envelope);
        }
        envelope
    }
}

/// An event without a payload, of a stream that does not say what that means.
fn tombstone<'a>(mapping: &Mapping, event: &Incoming<'_>) -> Envelope<'a> {
    if mapping.format.convention == Some(Convention::Debezium) {
        // It only repeats the change before it, for brokers that compact their topics.
        let occurred_at = event.timestamp.and_then(millis);
        return Envelope { op: Some(DELETE), occurred_at, ..Envelope::default() };
    }
    let reason = "a tombstone: it has a key, and no payload; `tombstone: TYPE` in the envelope makes it an event";
    Envelope { op: Some(DELETE), ..rejected(reason) }
}

fn missing(at: &At, unit: TimeUnit, found: &[Span], envelope: &Envelope<'_>) -> Option<String> {
    let say = |what: &str, path: &str, slot: usize| match found[slot].kind {
        _ if path == NOWHERE => format!("it has no {what}"),
        Kind::Missing => format!("no {what} at `{path}`"),
        _ => format!("the {what} at `{path}` cannot be read"),
    };
    if envelope.event_type.is_none() {
        return Some(say("type", &at.event_type, TYPE));
    }
    if envelope.occurred_at.is_none() {
        let expected = match unit {
            TimeUnit::Text => "a text as RFC 3339 has it",
            TimeUnit::Seconds => "a whole number of seconds since 1970",
            TimeUnit::Milliseconds => "a whole number of milliseconds since 1970",
            TimeUnit::Microseconds => "a whole number of microseconds since 1970",
        };
        let said = say("time", &at.time, TIME);
        let is_there = found[TIME].kind != Kind::Missing && at.time != NOWHERE;
        return Some(if is_there { format!("{said}: it is not {expected}, of the years 1 to 9999") } else { said });
    }
    if envelope.version.is_none() {
        return Some(say("version", &at.version, VERSION));
    }
    None
}

fn millis(timestamp: i64) -> Option<i64> {
    timestamp.checked_mul(1_000).filter(|&at| time::is_possible(at))
}

fn occurred_at(text: &[u8], span: Span, unit: TimeUnit) -> Option<i64> {
    let factor = match unit {
        TimeUnit::Text if span.kind == Kind::String => {
            return time::micros(&span.str(text)).filter(|&at| time::is_possible(at));
        }
        TimeUnit::Text => return None,
        TimeUnit::Seconds => 1_000_000,
        TimeUnit::Milliseconds => 1_000,
        TimeUnit::Microseconds => 1,
    };
    as_text(text, span)?.parse::<i64>().ok()?.checked_mul(factor).filter(|&at| time::is_possible(at))
}

/// A CloudEvent is known by its source and its id. Its time may be missing; then it is when its source got it.
fn cloud_event(
    mapping: &Mapping,
    event: &Incoming<'_>,
    text: &[u8],
    time: Span,
    found: &[Span],
    envelope: &mut Envelope<'_>,
) {
    let &[version, source] = found else { return };
    if version.kind != Kind::String {
        envelope.rejection = Some("not a CloudEvent: it has no `specversion`".to_owned());
        return;
    }
    if !version.str(text).starts_with("1.") {
        envelope.rejection =
            Some(format!("a CloudEvent of `specversion` {}, and 1 is what is read", cut(&version.str(text))));
        return;
    }
    if mapping.id.is_none() {
        let known_by = as_text(text, source).zip(envelope.id.as_deref());
        envelope.id = known_by.map(|(source, id)| Cow::Owned(format!("{source} {id}")));
        if envelope.id.is_none() {
            envelope.rejection = Some("not a CloudEvent: it has no `id`, or no `source`".to_owned());
            return;
        }
    }
    if mapping.time.is_none() && matches!(time.kind, Kind::Missing | Kind::Null) {
        envelope.occurred_at = event.timestamp.and_then(millis);
    }
}

/// A change event of Debezium's: its type is the table, followed by `.deleted` or `.truncated` where that is what
/// happened; it is known by its position in the database's log and a digest of the row, before and after.
fn change(mapping: &Mapping, text: &[u8], found: &[Span], envelope: &mut Envelope<'_>) {
    let (&[op, before, after, collection], position) = found.split_at(CHANGE.len()) else { return };
    let (op, suffix) = match op.str(text).as_ref() {
        "c" => ("create", ""),
        "u" => ("update", ""),
        "r" => ("read", ""),
        "d" => (DELETE, ".deleted"),
        "t" => ("truncate", ".truncated"),
        _ => {
            envelope.rejection = Some("not a change event: its `op` is none of c, u, d, r, t".to_owned());
            return;
        }
    };
    envelope.op = Some(op);
    if mapping.event_type == TypeOf::Convention {
        let table =
            envelope.event_type.take().or_else(|| as_text(text, collection).map(|name| Cow::Owned(name.into_owned())));
        envelope.event_type =
            table.map(|table| if suffix.is_empty() { table } else { Cow::Owned(format!("{table}{suffix}")) });
    }
    if mapping.id.is_none() && position[COUNTS..].iter().any(|span| !matches!(span.kind, Kind::Missing | Kind::Null)) {
        let mut digest = xxhash_rust::xxh3::Xxh3::new();
        for span in position.iter().chain([&before, &after]) {
            digest.update(&(span.raw(text).len() as u64).to_le_bytes());
            digest.update(span.raw(text));
        }
        digest.update(op.as_bytes());
        envelope.id = Some(Cow::Owned(format!("{:032x}", digest.digest128())));
    }
}

fn rejected<'a>(reason: impl Into<Cow<'static, str>>) -> Envelope<'a> {
    Envelope { rejection: Some(reason.into().into_owned()), ..Envelope::default() }
}

/// Text and numbers as text; anything else is not what an envelope holds.
fn as_text(payload: &[u8], span: Span) -> Option<Cow<'_, str>> {
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
        let mapping = Mapping {
            id: Some("meta.id".into()),
            version: Some("version".into()),
            subject: Some("who".into()),
            ..Mapping::new(TypeOf::Path("type".into()), Some("at".into()))
        };
        Reader::new(mapping, &Arc::default())
    }

    fn by(convention: Convention) -> Reader {
        let format = Format { encoding: Encoding::Json, convention: Some(convention) };
        Reader::new(Mapping { format, ..Mapping::new(TypeOf::Convention, None) }, &Arc::default())
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
            op: None,
            rejection: None,
        };
        assert_eq!(reader().read(&Incoming::of(payload)), envelope);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let cases: [(&[u8], &str); 10] = [
            (b"", "it is empty"),
            (b"  \r", "it is empty"),
            (b"{\"type\":", "not JSON: expected a value at byte 8"),
            (b"\xff{}", "not UTF-8: invalid at byte 0"),
            (br#"{"at":"1970-01-01T00:00:01Z"}"#, "no type at `type`"),
            (br#"{"type":null,"at":"1970-01-01T00:00:01Z"}"#, "the type at `type` cannot be read"),
            (br#"{"type":"paid"}"#, "no time at `at`"),
            (
                br#"{"type":"paid","at":"soon"}"#,
                "the time at `at` cannot be read: it is not a text as RFC 3339 has it, of the years 1 to 9999",
            ),
            (
                br#"{"type":"paid","at":"9999-12-31T00:00:00Z"}"#,
                "the time at `at` cannot be read: it is not a text as RFC 3339 has it, of the years 1 to 9999",
            ),
            (br#"{"type":"paid","at":"1970-01-01T00:00:01Z","version":0}"#, "the version at `version` cannot be read"),
        ];
        for (payload, reason) in cases {
            assert_eq!(reader().read(&Incoming::of(payload)).rejection.as_deref(), Some(reason));
        }
    }

    #[test]
    fn places_are_those_of_the_payload() {
        let mapping = Mapping::new(TypeOf::Constant("t".into()), Some(TIMESTAMP.into()));
        let mut reader = Reader::new(mapping, &Arc::default());
        for (payload, reason) in [
            (&b"{\"a\":\xff}"[..], "not UTF-8: invalid at byte 5"),
            (b"zz", "not JSON: expected a value at byte 0"),
            (b"{\"a\":}", "not JSON: expected a value at byte 5"),
        ] {
            let event = Incoming { timestamp: Some(1), ..Incoming::of(payload) };
            assert_eq!(reader.read(&event).rejection.as_deref(), Some(reason));
        }
    }

    #[test]
    fn a_cloud_event_is_known_by_its_source_and_id() {
        let mut reader = by(Convention::CloudEvents);
        let payload = br#"{"specversion":"1.0","id":"7","source":"/shop","type":"paid","time":"1970-01-01T00:00:01Z","subject":"c1"}"#;
        let envelope = reader.read(&Incoming::of(payload));
        assert_eq!(envelope.id.as_deref(), Some("/shop 7"));
        assert_eq!((envelope.event_type.as_deref(), envelope.occurred_at), (Some("paid"), Some(1_000_000)));
        assert_eq!((envelope.subject.as_deref(), envelope.rejection), (Some("c1"), None));
        let timeless = br#"{"specversion":"1.0","id":"7","source":"/shop","type":"paid"}"#;
        let event = Incoming { timestamp: Some(5), ..Incoming::of(timeless) };
        assert_eq!(reader.read(&event).occurred_at, Some(5_000));
        let cases: [(&[u8], &str); 4] = [
            (timeless, "no time at `time`"),
            (br#"{"id":"7"}"#, "not a CloudEvent: it has no `specversion`"),
            (
                br#"{"specversion":"0.3","id":"7","source":"/shop","type":"paid"}"#,
                "a CloudEvent of `specversion` 0.3, and 1 is what is read",
            ),
            (br#"{"specversion":"1.0","id":"7","type":"paid"}"#, "not a CloudEvent: it has no `id`, or no `source`"),
        ];
        for (payload, reason) in cases {
            assert_eq!(reader.read(&Incoming::of(payload)).rejection.as_deref(), Some(reason));
        }
    }

    #[test]
    fn a_cloud_event_needs_no_data() {
        let headers: [starmere_lake::formats::Header<'_>; 4] = [
            ("ce_specversion", Some(b"1.0")),
            ("ce_id", Some(b"7")),
            ("ce_source", Some(b"/shop")),
            ("ce_type", Some(b"opened")),
        ];
        let event = Incoming { headers: Some(&headers), timestamp: Some(5), ..Incoming::default() };
        let mut reader = by(Convention::CloudEvents);
        let envelope = reader.read(&event);
        assert_eq!((envelope.id.as_deref(), envelope.op, envelope.rejection), (Some("/shop 7"), None, None));
        let tombstone = Incoming { key: Some(b"k"), timestamp: Some(5), ..Incoming::default() };
        assert!(reader.read(&tombstone).rejection.unwrap().starts_with("a tombstone"));
    }

    #[test]
    fn a_change_is_known_by_its_position_and_its_row() {
        let mut reader = by(Convention::Debezium);
        let mut read = |text: String| {
            let envelope = reader.read(&Incoming::of(text.as_bytes()));
            assert_eq!(envelope.rejection, None, "{text}");
            let event_type = envelope.event_type.unwrap().into_owned();
            (event_type, envelope.op.unwrap(), envelope.occurred_at.unwrap(), envelope.id.unwrap().into_owned())
        };
        let text = |op: &str, lsn: u32, row: &str, told: u32| {
            let source = format!(
                r#"{{"connector":"postgresql","name":"a","table":"orders","lsn":{lsn},"ts_ms":7,"snapshot":"{told}"}}"#
            );
            format!(r#"{{"op":"{op}","before":null,"after":{row},"source":{source},"ts_ms":{told}}}"#)
        };
        let created = read(text("c", 1, "{}", 1));
        assert_eq!((created.0.as_str(), created.1, created.2), ("orders", "create", 7_000));
        assert_eq!(read(text("c", 1, "{}", 2)), created, "told again");
        let wrapped = format!(r#"{{"schema":{{}},"payload":{}}}"#, text("c", 1, "{}", 3));
        assert_eq!(read(wrapped), created);
        assert_ne!(read(text("c", 2, "{}", 1)).3, created.3);
        assert_ne!(read(text("c", 1, "{\"a\":1}", 1)).3, created.3);
        let deleted = read(text("d", 3, "null", 1));
        assert_eq!((deleted.0.as_str(), deleted.1), ("orders.deleted", "delete"));
        let tombstone = reader.read(&Incoming { key: Some(b"{}"), timestamp: Some(9), ..Incoming::default() });
        assert_eq!((tombstone.event_type, tombstone.op, tombstone.rejection), (None, Some("delete"), None));
        let reason = reader.read(&Incoming::of(b"{}")).rejection.unwrap();
        assert!(reason.starts_with("not a change event"), "{reason}");
    }

    #[test]
    fn an_event_of_an_outbox_is_described_by_its_headers() {
        let mut reader = by(Convention::Outbox);
        let headers: [starmere_lake::formats::Header<'_>; 2] = [("id", Some(b"u1")), ("eventType", Some(b"paid"))];
        let payload = br#"{"schema":{"type":"string"},"payload":"{\"a\":1}"}"#;
        let event = Incoming { key: Some(b"o1"), headers: Some(&headers), timestamp: Some(5), ..Incoming::of(payload) };
        let envelope = reader.read(&event);
        assert_eq!((envelope.id.as_deref(), envelope.event_type.as_deref()), (Some("u1"), Some("paid")));
        assert_eq!((envelope.subject.as_deref(), envelope.occurred_at), (Some("o1"), Some(5_000)));
        assert_eq!(envelope.rejection, None);
    }

    #[test]
    fn a_tombstone_is_what_the_mapping_says() {
        let tombstone = Incoming { key: Some(b"o1"), timestamp: Some(5), ..Incoming::default() };
        assert!(reader().read(&tombstone).rejection.unwrap().starts_with("a tombstone"));
        let mapping = Mapping {
            subject: Some("$key".into()),
            tombstone: Some("customer.deleted".into()),
            ..Mapping::new(TypeOf::Constant("customer".into()), Some("at".into()))
        };
        let mut reader = Reader::new(mapping, &Arc::default());
        let envelope = reader.read(&tombstone);
        assert_eq!(envelope.event_type.as_deref(), Some("customer.deleted"));
        assert_eq!((envelope.occurred_at, envelope.subject.as_deref()), (Some(5_000), Some("o1")));
        assert_eq!((envelope.op, envelope.rejection), (Some("delete"), None));
    }
}
