//! The formats of an answer: what each writes before, for and after the rows, and whether it can tell of an
//! error in between.

use std::sync::Arc;

use arrow::{
    array::RecordBatch,
    csv,
    datatypes::{DataType, Field, FieldRef, Schema, SchemaRef},
    ipc::writer::StreamWriter,
    json::writer::EncoderOptions,
};
use axum::http::{HeaderMap, header};
use serde_json::json;
use starmere_lake::echo::cut;
use uuid::Uuid;

use super::{
    guard::error_json,
    json::{self, quoted},
};
use crate::{error::QueryError, types::type_word};

/// What clients can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Json,
    JsonLines,
    Csv,
    Arrow,
}

impl Format {
    const ALL: [Self; 4] = [Self::Json, Self::JsonLines, Self::Csv, Self::Arrow];

    fn word(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::JsonLines => "jsonl",
            Self::Csv => "csv",
            Self::Arrow => "arrow",
        }
    }

    pub(super) fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::JsonLines => "application/x-ndjson",
            Self::Csv => "text/csv; charset=utf-8; header=present",
            Self::Arrow => "application/vnd.apache.arrow.stream",
        }
    }

    /// The format of that name.
    ///
    /// # Errors
    /// `Invalid`, with the names there are.
    pub(super) fn named(name: &str) -> Result<Self, QueryError> {
        Self::ALL.into_iter().find(|format| format.word() == name).ok_or_else(|| {
            QueryError::invalid(format!("there is no format `{}`", cut(name)))
                .with_hint("there are `json`, `jsonl`, `csv` and `arrow`")
        })
    }

    /// The first format among those a client accepts that we have; JSON where there is none.
    pub(super) fn accepted(headers: &HeaderMap) -> Self {
        let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
        let media = accept
            .unwrap_or_default()
            .split(',')
            .map(|part| part.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
        let mut known = media.filter_map(|media| match media.as_str() {
            "application/json" => Some(Self::Json),
            "application/x-ndjson" | "application/jsonl" | "application/x-jsonlines" => Some(Self::JsonLines),
            "text/csv" => Some(Self::Csv),
            "application/vnd.apache.arrow.stream" => Some(Self::Arrow),
            _ => None,
        });
        known.next().unwrap_or(Self::Json)
    }

    /// A writer of this format.
    ///
    /// # Errors
    /// `Internal` when the schema cannot be written.
    pub(super) fn writer(self, about: About) -> Result<Box<dyn Write>, QueryError> {
        let writer: Box<dyn Write> = match self {
            Self::Json => Box::new(Json { about, options: json::options(), rows: 0 }),
            Self::JsonLines => Box::new(JsonLines { names: member_names(&about.schema), options: json::options() }),
            Self::Csv => Box::new(Csv { schema: about.schema, begun: false }),
            Self::Arrow => Box::new(Arrow(StreamWriter::try_new(Vec::new(), &about.schema)?)),
        };
        Ok(writer)
    }
}

/// What an answer is about.
#[derive(Clone, Debug)]
pub(super) struct About {
    pub(super) schema: SchemaRef,
    pub(super) snapshot: u64,
    pub(super) query: Uuid,
}

/// Writes an answer piece by piece; the pieces joined are the answer.
pub(super) trait Write: Send {
    /// What comes first.
    fn begin(&mut self) -> Result<Vec<u8>, QueryError>;

    /// Some rows.
    fn rows(&mut self, batch: &RecordBatch) -> Result<Vec<u8>, QueryError>;

    /// What comes last; `truncated` when there were more rows than asked for.
    fn end(&mut self, truncated: bool) -> Result<Vec<u8>, QueryError>;

    /// What comes last after an error; nothing where the format cannot say it.
    fn failed(&mut self, error: &QueryError) -> Option<Vec<u8>>;
}

struct Json {
    about: About,
    options: EncoderOptions,
    rows: u64,
}

impl Json {
    fn closing(&self, more: &str) -> Vec<u8> {
        let About { snapshot, query, .. } = self.about;
        format!("],\"row_count\":{},\"snapshot\":{snapshot},\"query_id\":\"{query}\"{more}}}\n", self.rows).into_bytes()
    }
}

impl Write for Json {
    fn begin(&mut self) -> Result<Vec<u8>, QueryError> {
        let columns: Vec<_> = self.about.schema.fields().iter().map(column).collect();
        Ok(format!("{{\"columns\":{},\"rows\":[", json!(columns)).into_bytes())
    }

    fn rows(&mut self, batch: &RecordBatch) -> Result<Vec<u8>, QueryError> {
        let mut out = Vec::with_capacity(batch.get_array_memory_size());
        let mut encoders = json::encoders(batch, &self.options)?;
        for row in 0..batch.num_rows() {
            out.extend_from_slice(if self.rows == 0 { &b"\n["[..] } else { &b",\n["[..] });
            for (number, encoder) in encoders.iter_mut().enumerate() {
                if number > 0 {
                    out.push(b',');
                }
                json::write(encoder, row, &mut out);
            }
            out.push(b']');
            self.rows += 1;
        }
        Ok(out)
    }

    fn end(&mut self, truncated: bool) -> Result<Vec<u8>, QueryError> {
        Ok(self.closing(if truncated { ",\"truncated\":true" } else { "" }))
    }

    fn failed(&mut self, error: &QueryError) -> Option<Vec<u8>> {
        let error = error_json(error);
        Some(self.closing(&format!(",\"error\":{}", error["error"])))
    }
}

/// A column as JSON clients see it.
pub(super) fn column(field: &FieldRef) -> serde_json::Value {
    json!({
        "name": field.name(),
        "type": type_word(field.data_type()),
        "nullable": field.is_nullable(),
    })
}

struct JsonLines {
    /// Each with its colon, ready to be written.
    names: Vec<String>,
    options: EncoderOptions,
}

/// Names of columns as members of an object. A name that was there already gets a number.
fn member_names(schema: &Schema) -> Vec<String> {
    let mut taken: Vec<String> = Vec::with_capacity(schema.fields().len());
    for field in schema.fields() {
        let mut name = field.name().clone();
        let mut number = 2;
        while taken.contains(&name) {
            name = format!("{}_{number}", field.name());
            number += 1;
        }
        taken.push(name);
    }
    taken.iter().map(|name| format!("{}:", quoted(name))).collect()
}

impl Write for JsonLines {
    fn begin(&mut self) -> Result<Vec<u8>, QueryError> {
        Ok(Vec::new())
    }

    fn rows(&mut self, batch: &RecordBatch) -> Result<Vec<u8>, QueryError> {
        let mut out = Vec::with_capacity(2 * batch.get_array_memory_size());
        let mut encoders = json::encoders(batch, &self.options)?;
        for row in 0..batch.num_rows() {
            out.push(b'{');
            for (number, (name, encoder)) in self.names.iter().zip(&mut encoders).enumerate() {
                if number > 0 {
                    out.push(b',');
                }
                out.extend_from_slice(name.as_bytes());
                json::write(encoder, row, &mut out);
            }
            out.extend_from_slice(b"}\n");
        }
        Ok(out)
    }

    fn end(&mut self, _truncated: bool) -> Result<Vec<u8>, QueryError> {
        Ok(Vec::new())
    }

    fn failed(&mut self, error: &QueryError) -> Option<Vec<u8>> {
        Some(format!("{}\n", error_json(error)).into_bytes())
    }
}

struct Csv {
    schema: SchemaRef,
    /// Whether the header is written.
    begun: bool,
}

impl Csv {
    fn write(&mut self, batch: &RecordBatch) -> Result<Vec<u8>, QueryError> {
        let mut out = Vec::with_capacity(batch.get_array_memory_size());
        let builder = csv::WriterBuilder::new().with_header(!self.begun);
        self.begun = true;
        builder.build(&mut out).write(batch)?;
        Ok(out)
    }
}

impl Write for Csv {
    fn begin(&mut self) -> Result<Vec<u8>, QueryError> {
        let header: Vec<Field> =
            self.schema.fields().iter().map(|field| Field::new(field.name(), DataType::Utf8, true)).collect();
        if header.is_empty() {
            return Ok(Vec::new());
        }
        self.write(&RecordBatch::new_empty(Arc::new(Schema::new(header))))
    }

    fn rows(&mut self, batch: &RecordBatch) -> Result<Vec<u8>, QueryError> {
        if batch.num_columns() == 0 {
            return Ok(Vec::new());
        }
        self.write(&json::nested_as_text(batch)?)
    }

    fn end(&mut self, _truncated: bool) -> Result<Vec<u8>, QueryError> {
        Ok(Vec::new())
    }

    fn failed(&mut self, _error: &QueryError) -> Option<Vec<u8>> {
        None
    }
}

/// The writer's buffer is emptied after each piece.
struct Arrow(StreamWriter<Vec<u8>>);

impl Arrow {
    fn take(&mut self) -> Vec<u8> {
        std::mem::take(self.0.get_mut())
    }
}

impl Write for Arrow {
    fn begin(&mut self) -> Result<Vec<u8>, QueryError> {
        // The writer wrote the schema when it was made.
        Ok(self.take())
    }

    fn rows(&mut self, batch: &RecordBatch) -> Result<Vec<u8>, QueryError> {
        self.0.write(batch)?;
        Ok(self.take())
    }

    fn end(&mut self, _truncated: bool) -> Result<Vec<u8>, QueryError> {
        self.0.finish()?;
        Ok(self.take())
    }

    fn failed(&mut self, _error: &QueryError) -> Option<Vec<u8>> {
        None
    }
}
