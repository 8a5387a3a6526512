//! What a stream's payloads are written in, and how each of them is read: as JSON.
//!
//! The lake keeps the bytes that came. Whoever wants to know what they say (the envelope at landing, models, those
//! who infer a definition) asks a [`View`] for the same JSON text, and finds fields by paths:
//!
//! ```text
//! payload ─► encoding: json · csv · avro · confluent ─► convention: cloudevents · debezium · outbox ─► JSON
//!            as it is, or written as JSON               unwrapped, or with attributes from headers
//!                                                       `$key`, `$headers`, `$timestamp`: where a path asks for them
//! ```
//!
//! A JSON payload without a convention is not copied. What a view says depends on the payload, its key and headers,
//! the stream's [`Format`] and the schemas that it names, none of which ever change: a rebuild reads what landing read.

mod avro;
mod conventions;
pub mod csv;
mod json;
mod protobuf;
mod schemas;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::sync::Arc;

use serde::Serialize;

pub use schemas::{Reference, Schema, SchemaId, SchemaKind, Schemas};

use crate::json::{Kind, Paths, scan};
use conventions::Members;
use json::{number, string, text_or_base64};
use schemas::Compiled;

/// A header's name, and its value if it has one.
pub type Header<'a> = (&'a str, Option<&'a [u8]>);

/// What a stream's payloads are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Format {
    pub encoding: Encoding,
    pub convention: Option<Convention>,
}

impl Format {
    /// Payloads name schemas, which are kept beside the table.
    pub fn names_schemas(&self) -> bool {
        matches!(self.encoding, Encoding::Avro { .. } | Encoding::Confluent)
    }
}

/// What bytes mean.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub enum Encoding {
    #[default]
    Json,
    /// Records; the header that says what they are comes with each of them.
    Csv { delimiter: u8 },
    /// Data of a schema that they name by its fingerprint (Avro's single-object encoding), or of this one.
    Avro { schema: Option<String> },
    /// A zero, the number of a schema in a registry, and data of that schema.
    Confluent,
}

/// How events are built by convention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Convention {
    CloudEvents,
    Debezium,
    /// What Debezium's outbox router sends.
    Outbox,
}

/// An event as its source gave it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Incoming<'a> {
    /// None where the source says that there is none: a tombstone of its key.
    pub payload: Option<&'a [u8]>,
    pub key: Option<&'a [u8]>,
    /// Names may recur.
    pub headers: Option<&'a [Header<'a>]>,
    /// When the source got it, in milliseconds since 1970. Only known while it lands.
    pub timestamp: Option<i64>,
}

impl<'a> Incoming<'a> {
    /// A payload and nothing else.
    pub fn of(payload: &'a [u8]) -> Self {
        Self { payload: Some(payload), ..Self::default() }
    }

    /// The value of the last header of this name.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.headers?.iter().rev().find(|(found, _)| found.eq_ignore_ascii_case(name)).and_then(|(_, value)| *value)
    }
}

/// What begins a path to what is not in the payload.
pub const OUTSIDE: char = '$';

/// Why a payload cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// It never can.
    Wrong(Cow<'static, str>),
    /// Its schema is not known yet.
    Unknown(SchemaId),
}

fn wrong(reason: impl Into<Cow<'static, str>>) -> Unreadable {
    Unreadable::Wrong(reason.into())
}

/// Reads payloads of one format.
#[derive(Debug)]
pub struct View {
    encoding: Reading,
    convention: Option<Convention>,
    schemas: Arc<Schemas>,
    /// Some path asks for what is not in the payload.
    outside: bool,
    connect: Members,
    bytes: Members,
    decoded: Vec<u8>,
    rebuilt: Vec<u8>,
    whole: Vec<u8>,
}

#[derive(Debug)]
enum Reading {
    Json,
    Csv(csv::Records),
    Avro { declared: Option<Result<Arc<Compiled>, String>>, last: Option<(SchemaId, Arc<Compiled>)> },
    Confluent { last: Option<(SchemaId, Arc<Compiled>)> },
}

/// What begins a datum in Avro's single-object encoding; its schema's fingerprint follows.
pub const SINGLE_OBJECT: [u8; 2] = [0xc3, 0x01];

impl View {
    /// A view of payloads of `format`, for `paths`.
    pub fn new<'p>(format: &Format, schemas: &Arc<Schemas>, paths: impl IntoIterator<Item = &'p str>) -> Self {
        let encoding = match &format.encoding {
            Encoding::Json => Reading::Json,
            Encoding::Csv { delimiter } => Reading::Csv(csv::Records::new(*delimiter)),
            Encoding::Avro { schema } => {
                let declared = schema.as_ref().map(|schema| Schema::avro(schema.clone()).compile().map(Arc::new));
                Reading::Avro { declared, last: None }
            }
            Encoding::Confluent => Reading::Confluent { last: None },
        };
        Self {
            encoding,
            convention: format.convention,
            schemas: schemas.clone(),
            outside: paths.into_iter().any(|path| path.starts_with(OUTSIDE)),
            connect: conventions::of_connect(),
            bytes: conventions::of_bytes(),
            decoded: Vec::new(),
            rebuilt: Vec::new(),
            whole: Vec::new(),
        }
    }

    /// The view needs no more than payloads: neither keys nor headers.
    pub fn is_of_payloads(&self) -> bool {
        !self.outside && !matches!(self.encoding, Reading::Csv(_)) && self.convention != Some(Convention::CloudEvents)
    }

    /// The payload is the view.
    pub fn is_verbatim(&self) -> bool {
        matches!(self.encoding, Reading::Json) && self.convention.is_none() && !self.outside
    }

    /// The schema that has to be known before `event` can be read, and is not.
    pub fn missing(&self, event: &Incoming<'_>) -> Option<SchemaId> {
        let named = |bytes: &[u8]| match self.encoding {
            Reading::Confluent { .. } => registered(bytes).map(|(id, _)| id),
            _ => None,
        };
        let (payload, key) = (event.payload.and_then(named), event.key.filter(|_| self.outside).and_then(named));
        payload.into_iter().chain(key).find(|&id| !self.schemas.knows(id))
    }

    /// The schemas that payloads name.
    pub fn schemas(&self) -> &Arc<Schemas> {
        &self.schemas
    }

    /// What `event` says, as JSON. Whether that is well-formed is seen by whoever scans it.
    ///
    /// # Errors
    ///
    /// Why it cannot be read; never because of the moment, and never by a panic.
    pub fn json<'a>(&'a mut self, event: &Incoming<'a>) -> Result<&'a [u8], Unreadable> {
        let Self { encoding, convention, schemas, outside, connect, bytes, decoded, rebuilt, whole } = self;
        decoded.clear();
        let text = match event.payload {
            None => b"null",
            Some(payload) => encoding.text(payload, event, schemas, decoded)?,
        };
        let text = match convention {
            None => text,
            Some(Convention::Debezium) => conventions::unwrapped(connect, text).0,
            Some(Convention::Outbox) => conventions::of_outbox(connect, text, rebuilt),
            Some(Convention::CloudEvents) => {
                let headers = event.headers.unwrap_or_default();
                match conventions::of_binary_cloud_event(headers, text, rebuilt) {
                    true => rebuilt.as_slice(),
                    false => conventions::with_data(bytes, text, rebuilt),
                }
            }
        };
        if !*outside {
            return Ok(text);
        }
        whole.clear();
        whole.extend_from_slice(b"{\"$key\":");
        match event.key {
            None => whole.extend_from_slice(b"null"),
            Some(key) => encoding.key(key, schemas, connect, whole)?,
        }
        whole.extend_from_slice(b",\"$timestamp\":");
        match event.timestamp {
            None => whole.extend_from_slice(b"null"),
            Some(timestamp) => number(whole, timestamp),
        }
        whole.extend_from_slice(b",\"$headers\":{");
        for (place, (name, value)) in event.headers.unwrap_or_default().iter().enumerate() {
            if place > 0 {
                whole.push(b',');
            }
            string(whole, name);
            whole.push(b':');
            match value {
                None => whole.extend_from_slice(b"null"),
                Some(value) => text_or_base64(whole, value),
            }
        }
        whole.push(b'}');
        match text.trim_ascii_start().strip_prefix(b"{") {
            Some(members) => {
                if members.trim_ascii_start().first() != Some(&b'}') {
                    whole.push(b',');
                }
                whole.extend_from_slice(members);
            }
            None => {
                whole.extend_from_slice(b",\"$value\":");
                whole.extend_from_slice(text);
                whole.push(b'}');
            }
        }
        Ok(whole)
    }
}

impl Reading {
    fn text<'a>(
        &mut self,
        payload: &'a [u8],
        event: &Incoming<'_>,
        schemas: &Schemas,
        out: &'a mut Vec<u8>,
    ) -> Result<&'a [u8], Unreadable> {
        match self {
            // The mark of UTF-8 that some write at the beginning of a file.
            Self::Json => return Ok(payload.strip_prefix(b"\xef\xbb\xbf").unwrap_or(payload)),
            Self::Csv(records) => {
                let header =
                    event.header(csv::HEADER).ok_or(wrong("the record comes without the header of its file"))?;
                records.write(header, payload, out).map_err(wrong)?;
            }
            Self::Avro { declared, last } => {
                let named = payload.strip_prefix(&SINGLE_OBJECT).and_then(|rest| rest.split_first_chunk());
                let named =
                    named.map(|(fingerprint, datum)| (SchemaId::Fingerprint(u64::from_le_bytes(*fingerprint)), datum));
                match (named, declared) {
                    (Some((id, datum)), _) if schemas.knows(id) => {
                        write(known(id, schemas, last)?.as_ref(), datum, out)?
                    }
                    (_, Some(Ok(declared))) => write(declared, payload, out)?,
                    (_, Some(Err(reason))) => return Err(wrong(reason.clone())),
                    (Some((id, _)), None) => return Err(wrong(format!("the schema {id} is not known"))),
                    (None, None) => return Err(wrong("it does not name its schema, and the stream declares none")),
                }
            }
            Self::Confluent { last } => {
                let (id, datum) = registered(payload).ok_or(wrong("it does not begin with the number of a schema"))?;
                write(known(id, schemas, last)?.as_ref(), datum, out)?;
                if matches!(last, Some((_, schema)) if matches!(**schema, Compiled::Json)) {
                    return Ok(datum);
                }
            }
        }
        Ok(out)
    }

    /// Writes a key as JSON: as it is where it is an object, an array or a string of JSON, as text, or as base64.
    fn key(
        &mut self,
        key: &[u8],
        schemas: &Schemas,
        connect: &mut Members,
        out: &mut Vec<u8>,
    ) -> Result<(), Unreadable> {
        if let (Self::Confluent { .. }, Some((id, datum))) = (&self, registered(key)) {
            // A key of another schema than the payloads'; its own is looked up each time.
            let start = out.len();
            match known(id, schemas, &mut None)
                .map(|schema| (write(&schema, datum, out), matches!(*schema, Compiled::Json)))
            {
                Ok((Ok(()), false)) => return Ok(()),
                Ok((Ok(()), true)) => {
                    out.extend_from_slice(datum);
                    return Ok(());
                }
                Err(Unreadable::Unknown(id)) => return Err(Unreadable::Unknown(id)),
                Ok((Err(_), _)) | Err(Unreadable::Wrong(_)) => out.truncate(start),
            }
        }
        let is_json = matches!(key.trim_ascii_start().first(), Some(b'{' | b'[' | b'"'))
            && simdutf8::basic::from_utf8(key).is_ok()
            && scan(&Paths::new::<&str>(&[]), key, &mut []).is_ok();
        if !is_json {
            text_or_base64(out, key);
            return Ok(());
        }
        match conventions::unwrapped(connect, key) {
            (inner, Kind::String) => {
                out.push(b'"');
                out.extend_from_slice(inner);
                out.push(b'"');
            }
            (inner, _) => out.extend_from_slice(inner),
        }
        Ok(())
    }
}

/// The number of a schema in a registry, and what was written with it.
fn registered(bytes: &[u8]) -> Option<(SchemaId, &[u8])> {
    let (number, datum) = bytes.strip_prefix(b"\0")?.split_first_chunk()?;
    Some((SchemaId::Registered(u32::from_be_bytes(*number)), datum))
}

fn known(
    id: SchemaId,
    schemas: &Schemas,
    last: &mut Option<(SchemaId, Arc<Compiled>)>,
) -> Result<Arc<Compiled>, Unreadable> {
    if let Some((known, schema)) = last
        && *known == id
    {
        return Ok(schema.clone());
    }
    let schema = schemas.find(id).ok_or(Unreadable::Unknown(id))?.map_err(wrong)?;
    *last = Some((id, schema.clone()));
    Ok(schema)
}

fn write(schema: &Compiled, datum: &[u8], out: &mut Vec<u8>) -> Result<(), Unreadable> {
    match schema {
        Compiled::Json => Ok(()),
        Compiled::Avro(decoder) => match decoder.write(datum, out).map_err(wrong)? {
            [] => Ok(()),
            rest => Err(wrong(format!("not Avro of its schema: {} bytes follow", rest.len()))),
        },
        Compiled::Protobuf(decoder) => decoder.write(datum, out).map_err(wrong),
    }
}

/// Lengths of data that follow each other, as in the files of Avro.
#[derive(Debug)]
pub struct AvroLengths {
    decoder: avro::Decoder,
    scratch: Vec<u8>,
}

impl AvroLengths {
    /// Of data of this schema.
    pub fn new(schema: &str) -> Result<Self, String> {
        Ok(Self { decoder: avro::parse(schema, &[])?.1, scratch: Vec::new() })
    }

    /// How long the datum at the beginning of `input` is.
    pub fn first(&mut self, input: &[u8]) -> Result<usize, String> {
        self.decoder.length(input, &mut self.scratch)
    }
}
