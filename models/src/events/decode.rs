//! Payloads in, typed columns of an event's newest version out.
//!
//! All fields that a model needs come out of one pass over a payload's bytes. Each version has its own paths and
//! steps; rows of one version are decoded together, upcast together, and put together at the end.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int32Array, RecordBatch, RecordBatchOptions, UInt32Array, new_null_array,
};
use arrow::compute::{concat, concat_batches, filter, filter_record_batch, prep_null_mask_filter};
use arrow::datatypes::{Field as ArrowField, Int32Type, Schema, SchemaRef};
use starmere_lake::json::{self, Kind, Paths, Span};

use super::columns::Column;
use super::hops::{Hop, base, follow, hops};
use super::need::{fields_of, names, needed_of};
use super::upcast::{self, Frame, Ready, Types};
use super::view::UNREADABLE;
use super::{Event, Field, Need, Version};
use crate::define::FieldType;
use crate::expression::RowError;
use crate::{Error, Result};

/// How the reason begins where a payload is not JSON.
const NOT_JSON: &str = "not JSON";

/// Decodes one event type for one model.
#[derive(Debug)]
pub struct Decoder {
    event: String,
    versions: Vec<VersionDecoder>,
    schema: SchemaRef,
    element_schema: Option<SchemaRef>,
    required: Vec<String>,
    element_required: Vec<String>,
    /// A required field has a value where it is said to be as it was.
    keeps: bool,
}

#[derive(Debug)]
struct VersionDecoder {
    number: i32,
    event: Level,
    elements: Option<List>,
}

/// Where elements are.
#[derive(Debug)]
struct List {
    /// The slot of the array.
    slot: usize,
    /// An object in its place is the only element.
    one: bool,
    level: Level,
}

/// The fields of an event, or of its elements.
#[derive(Debug)]
struct Level {
    /// The field of the elements; empty for the event itself.
    of: String,
    paths: Paths,
    /// Of each field, what follows its path.
    hops: Vec<Vec<Hop>>,
    fields: Vec<(String, FieldType)>,
    steps: Vec<Ready>,
}

/// What came out of a batch of payloads.
#[derive(Debug)]
pub struct Decoded {
    /// For each row of `fields`, the row of the batch.
    pub rows: UInt32Array,
    pub fields: RecordBatch,
    /// For each column of `fields`, whether the event said anything about it; null where it said that it is as it was.
    pub present: Vec<BooleanArray>,
    pub elements: Option<Elements>,
    /// Rows of the batch that do not fit, and why.
    pub rejects: Vec<(u32, String)>,
}

/// Elements of all events of a batch.
#[derive(Debug)]
pub struct Elements {
    /// For each element, the row of [`Decoded::fields`].
    pub parent: UInt32Array,
    /// From 1, within the event.
    pub ordinal: Int32Array,
    pub fields: RecordBatch,
}

/// Why a decoder could not be made: version, step (from 0), reason.
#[derive(Debug)]
pub struct StepError {
    pub version: i32,
    pub step: usize,
    pub reason: String,
}

impl Decoder {
    /// A decoder of `need`, whose names must be fields of the newest version.
    pub fn new(event: &Event, need: &Need) -> Result<Self, StepError> {
        Self::with(event, need, false)
    }

    /// Tries every step over types alone, whether `need` depends on it or not.
    pub fn check(event: &Event, need: &Need) -> Result<(), StepError> {
        Self::with(event, need, true).map(drop)
    }

    fn with(event: &Event, need: &Need, everything: bool) -> Result<Self, StepError> {
        let newest = event.newest();
        let schema_of = |fields: &[Field], wanted: &BTreeSet<String>| -> SchemaRef {
            let wanted = fields.iter().filter(|field| wanted.contains(&field.name));
            let fields =
                wanted.filter_map(|field| Some(ArrowField::new(&field.name, field.field_type()?.arrow(), true)));
            Arc::new(Schema::new(fields.collect::<Vec<_>>()))
        };
        let required_of = |fields: &[Field], wanted: &BTreeSet<String>| -> Vec<String> {
            fields.iter().filter(|f| f.required && wanted.contains(&f.name)).map(|f| f.name.clone()).collect()
        };
        let schema = schema_of(&newest.fields, &need.fields);
        let mut decoder = Self {
            event: event.name.clone(),
            versions: Vec::new(),
            required: required_of(&newest.fields, &need.fields),
            element_schema: None,
            element_required: Vec::new(),
            keeps: false,
            schema: schema.clone(),
        };
        if let Some((each, wanted)) = &need.each {
            let fields = newest.field(each).and_then(Field::elements).unwrap_or_default();
            decoder.element_schema = Some(schema_of(fields, wanted));
            decoder.element_required = required_of(fields, wanted);
        }
        for index in 0..event.versions.len() {
            decoder.versions.push(VersionDecoder::new(&event.versions[index..], need, everything)?);
        }
        Ok(decoder)
    }

    /// The same, for whoever keeps former values: an event that says that a required field is as it was is no reject.
    #[must_use]
    pub fn keeping(self) -> Self {
        Self { keeps: true, ..self }
    }

    /// Columns of the event's fields.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Columns of the elements' fields.
    pub fn element_schema(&self) -> Option<&SchemaRef> {
        self.element_schema.as_ref()
    }

    /// Decodes the rows of a batch of the lake that are of this event type and that `counts` says count. The
    /// batch has the columns `event_type`, `event_version` and `payload` (what it says, as JSON), and `unreadable`
    /// where some payloads are.
    pub fn decode(&self, batch: &RecordBatch, counts: &BooleanArray) -> Result<Decoded> {
        let text = |name: &str| batch.column_by_name(name).and_then(|column| column.as_string_opt::<i32>().cloned());
        let event_types = text("event_type").ok_or_else(|| internal("event_type"))?;
        let unreadable = text(UNREADABLE);
        let versions = batch.column_by_name("event_version").ok_or_else(|| internal("event_version"))?;
        let versions = versions.as_primitive::<Int32Type>();
        let payloads = batch.column_by_name("payload").ok_or_else(|| internal("payload"))?.as_binary::<i32>();
        let mut rows_of: Vec<Vec<u32>> = vec![Vec::new(); self.versions.len()];
        let mut rejects = Vec::new();
        for row in 0..batch.num_rows() {
            if !counts.value(row) || !event_types.is_valid(row) || event_types.value(row) != self.event {
                continue;
            }
            if let Some(reason) = unreadable.as_ref().filter(|reasons| reasons.is_valid(row)) {
                rejects.push((row as u32, reason.value(row).to_owned()));
                continue;
            }
            let number = versions.value(row);
            match self.versions.iter().position(|version| version.number == number) {
                Some(index) => rows_of[index].push(row as u32),
                None => rejects.push((row as u32, format!("version {number} of `{}` is not described", self.event))),
            }
        }
        let mut parts = Vec::new();
        for (version, rows) in self.versions.iter().zip(rows_of) {
            if !rows.is_empty() {
                parts.push(version.decode(payloads, rows, self, &mut rejects)?);
            }
        }
        self.together(parts, rejects)
    }

    fn together(&self, mut parts: Vec<Decoded>, rejects: Vec<(u32, String)>) -> Result<Decoded> {
        if parts.len() == 1 {
            let mut only = parts.remove(0);
            only.rejects = rejects;
            return Ok(only);
        }
        let object = || format!("events `{}`", self.event);
        let failed = |source| Error::Columns { object: object(), source };
        let rows: Vec<u32> = parts.iter().flat_map(|part| part.rows.values().iter().copied()).collect();
        let fields = concat_batches(&self.schema, parts.iter().map(|part| &part.fields)).map_err(failed)?;
        let present = (0..self.schema.fields().len()).map(|index| {
            let columns: Vec<&dyn Array> = parts.iter().map(|part| &part.present[index] as &dyn Array).collect();
            match columns.is_empty() {
                true => Ok(BooleanArray::from(Vec::<bool>::new())),
                false => concat(&columns).map(|whole| whole.as_boolean().clone()),
            }
        });
        let present = present.collect::<Result<_, _>>().map_err(failed)?;
        let elements = match &self.element_schema {
            None => None,
            Some(schema) => {
                let mut before = 0;
                let (mut parent, mut ordinal, mut batches) = (Vec::new(), Vec::new(), Vec::new());
                for part in &parts {
                    if let Some(elements) = &part.elements {
                        parent.extend(elements.parent.values().iter().map(|row| row + before));
                        ordinal.extend_from_slice(elements.ordinal.values());
                        batches.push(&elements.fields);
                    }
                    before += part.rows.len() as u32;
                }
                let fields = concat_batches(schema, batches).map_err(failed)?;
                Some(Elements { parent: parent.into(), ordinal: ordinal.into(), fields })
            }
        };
        Ok(Decoded { rows: rows.into(), fields, present, elements, rejects })
    }
}

fn internal(column: &str) -> Error {
    Error::Task(format!("a batch of events has no column `{column}`"))
}

impl VersionDecoder {
    /// Decodes `versions[0]` and takes it to the last of `versions`.
    fn new(versions: &[Version], need: &Need, everything: bool) -> Result<Self, StepError> {
        let mut level = Level::new(versions, None, &need.fields, everything)?;
        let mut elements = None;
        if let Some((each, wanted)) = &need.each {
            let array = versions[0].field(each).filter(|field| field.elements().is_some());
            if let Some(array) = array {
                let inner = Level::new(versions, Some(each), wanted, everything)?;
                let slot = level.fields.len();
                let names: Vec<&str> = level.fields.iter().map(|(name, _)| name.as_str()).collect();
                let mut paths: Vec<String> = names
                    .iter()
                    .map(|name| versions[0].field(name).map_or_else(String::new, |field| base(&field.path).to_owned()))
                    .collect();
                paths.push(array.path.clone());
                level.paths = Paths::new(&paths);
                elements = Some(List { slot, one: array.one, level: inner });
            }
        }
        Ok(Self { number: versions[0].number, event: level, elements })
    }

    fn decode(
        &self,
        payloads: &arrow::array::BinaryArray,
        rows: Vec<u32>,
        decoder: &Decoder,
        rejects: &mut Vec<(u32, String)>,
    ) -> Result<Decoded> {
        let mut columns: Vec<Column> =
            self.event.fields.iter().map(|(_, field_type)| Column::new(*field_type)).collect();
        let mut element_columns: Vec<Column> = match &self.elements {
            Some(List { level, .. }) => level.fields.iter().map(|(_, field_type)| Column::new(*field_type)).collect(),
            None => Vec::new(),
        };
        let mut found = vec![Span::MISSING; self.event.paths.len()];
        let mut element_found = vec![Span::MISSING; self.elements.as_ref().map_or(0, |list| list.level.paths.len())];
        let (mut parent, mut ordinal) = (Vec::new(), Vec::new());
        // By place in `rows`.
        let mut errors: Vec<RowError> = Vec::new();
        for (place, &row) in rows.iter().enumerate() {
            let payload = payloads.value(row as usize);
            // A mark of the order of bytes is no JSON, and lands.
            let payload = payload.strip_prefix(b"\xef\xbb\xbf").unwrap_or(payload);
            if let Err(error) = json::scan(&self.event.paths, payload, &mut found) {
                errors.push((place, format!("{NOT_JSON}: {error}")));
            }
            let read = self.event.fill(&mut columns, &found, payload);
            errors.extend(read.into_iter().map(|(name, reason)| (place, format!("`{name}`: {reason}"))));
            let Some(List { slot, one, level }) = &self.elements else { continue };
            let array = found[*slot];
            match array.kind {
                Kind::Missing | Kind::Null => continue,
                Kind::Array => {}
                Kind::Object if *one => {}
                _ => {
                    errors.push((place, format!("`{}` is not an array", level.of)));
                    continue;
                }
            }
            let text = array.raw(payload);
            let listed = (array.kind == Kind::Array).then(|| json::elements(text).map(|e| (e.kind, e.raw(text))));
            let only = (array.kind != Kind::Array).then_some((array.kind, text));
            for (number, (kind, raw)) in listed.into_iter().flatten().chain(only).enumerate() {
                let scanned = kind == Kind::Object && json::scan(&level.paths, raw, &mut element_found).is_ok();
                parent.push(place as u32);
                ordinal.push(number as i32 + 1);
                if !scanned {
                    errors.push((place, format!("element {} of `{}` is not an object", number + 1, level.of)));
                    element_columns.iter_mut().for_each(Column::push_missing);
                    continue;
                }
                let read = level.fill(&mut element_columns, &element_found, raw);
                let worded = |(name, reason)| (place, format!("`{name}` of element {}: {reason}", number + 1));
                errors.extend(read.into_iter().map(worded));
            }
        }
        let mut whole = frame(&self.event.fields, columns, rows.len());
        upcast::run(&self.event.steps, &mut whole, &mut errors);
        let required = Required { names: &decoder.required, keeps: decoder.keeps };
        let (fields, present) = project(&whole, &decoder.schema, &required, &mut errors);
        let mut decoded = Decoded { rows: rows.into(), fields, present, elements: None, rejects: Vec::new() };
        if let Some(schema) = &decoder.element_schema {
            let mut element_errors: Vec<RowError> = Vec::new();
            let (names, steps) = match &self.elements {
                Some(List { level, .. }) => (level.fields.as_slice(), level.steps.as_slice()),
                None => (&[][..], &[][..]),
            };
            let mut of_elements = frame(names, element_columns, parent.len());
            upcast::run(steps, &mut of_elements, &mut element_errors);
            let required = Required { names: &decoder.element_required, keeps: false };
            let (fields, _) = project(&of_elements, schema, &required, &mut element_errors);
            errors.extend(element_errors.into_iter().map(|(element, reason)| {
                (parent[element] as usize, format!("element {}: {reason}", ordinal[element]))
            }));
            decoded.elements = Some(Elements { parent: parent.into(), ordinal: ordinal.into(), fields });
        }
        without(decoded, errors, rejects)
    }
}

fn frame(fields: &[(String, FieldType)], columns: Vec<Column>, rows: usize) -> Frame {
    let columns = fields.iter().zip(columns).map(|((name, _), column)| (name.clone(), column.finish())).collect();
    Frame { columns, rows }
}

/// Fields that need a value, and whether what is as it was has one.
struct Required<'a> {
    names: &'a [String],
    keeps: bool,
}

/// The frame's columns as `schema` wants them; what is missing is null.
fn project(
    frame: &Frame,
    schema: &SchemaRef,
    required: &Required<'_>,
    errors: &mut Vec<RowError>,
) -> (RecordBatch, Vec<BooleanArray>) {
    let mut columns: Vec<ArrayRef> = Vec::new();
    let mut present = Vec::new();
    for field in schema.fields() {
        match frame.columns.get(field.name()) {
            Some((values, there)) => {
                columns.push(crate::expression::cast_rows(values, field.data_type(), field.name(), errors));
                present.push(there.clone());
            }
            None => {
                columns.push(new_null_array(field.data_type(), frame.rows));
                present.push(BooleanArray::from(vec![false; frame.rows]));
            }
        }
        if required.names.contains(field.name())
            && let (Some(values), Some(there)) = (columns.last(), present.last())
        {
            upcast::require(values, field.name(), |row| required.keeps && there.is_null(row), errors);
        }
    }
    let options = RecordBatchOptions::new().with_row_count(Some(frame.rows));
    let batch = RecordBatch::try_new_with_options(schema.clone(), columns, &options)
        .expect("columns were made of the schema's types and one length");
    (batch, present)
}

/// Takes the rows with errors out, and tells of them.
fn without(decoded: Decoded, errors: Vec<RowError>, rejects: &mut Vec<(u32, String)>) -> Result<Decoded> {
    if errors.is_empty() {
        return Ok(decoded);
    }
    let mut good = vec![true; decoded.rows.len()];
    let mut sorted = errors;
    // A payload that is not JSON needs no other reason. That a required field has no value comes last: where its value
    // does not fit, that is the reason.
    sorted.sort_by(|(a, first), (b, second)| {
        let rank = |reason: &String| (!reason.starts_with(NOT_JSON), reason.ends_with(upcast::NO_VALUE));
        (a, rank(first), first).cmp(&(b, rank(second), second))
    });
    for (place, reason) in sorted {
        // One reason is enough for a reject.
        if std::mem::replace(&mut good[place], false) {
            rejects.push((decoded.rows.value(place), reason));
        }
    }
    let failed = Error::columns("rejected events");
    let keep = |decoded: Decoded| -> Result<Decoded, arrow::error::ArrowError> {
        let mask = BooleanArray::from(good.clone());
        let mut renumbered = vec![u32::MAX; good.len()];
        for (next, (place, _)) in good.iter().enumerate().filter(|(_, good)| **good).enumerate() {
            renumbered[place] = next as u32;
        }
        let present = decoded.present.iter().map(|column| Ok(filter(column, &mask)?.as_boolean().clone()));
        let elements = match decoded.elements {
            None => None,
            Some(elements) => {
                let kept: BooleanArray = elements.parent.values().iter().map(|&row| Some(good[row as usize])).collect();
                let kept = if kept.null_count() > 0 { prep_null_mask_filter(&kept) } else { kept };
                let parent = filter(&elements.parent, &kept)?;
                let parent = parent.as_primitive::<arrow::datatypes::UInt32Type>();
                Some(Elements {
                    parent: parent.values().iter().map(|&row| renumbered[row as usize]).collect::<Vec<_>>().into(),
                    ordinal: filter(&elements.ordinal, &kept)?.as_primitive::<Int32Type>().clone(),
                    fields: filter_record_batch(&elements.fields, &kept)?,
                })
            }
        };
        Ok(Decoded {
            rows: filter(&decoded.rows, &mask)?.as_primitive::<arrow::datatypes::UInt32Type>().clone(),
            fields: filter_record_batch(&decoded.fields, &mask)?,
            present: present.collect::<Result<_, arrow::error::ArrowError>>()?,
            elements,
            rejects: Vec::new(),
        })
    };
    keep(decoded).map_err(failed)
}

impl Level {
    /// Adds what was found in `text` to the columns; which fields do not fit, and why.
    fn fill(&self, columns: &mut [Column], found: &[Span], text: &[u8]) -> Vec<(&str, String)> {
        let mut wrong = Vec::new();
        let fields = self.fields.iter().zip(&self.hops);
        for ((column, span), ((name, _), hops)) in columns.iter_mut().zip(found).zip(fields) {
            let pushed = match hops.as_slice() {
                [] => column.push(*span, text),
                hops => match follow(hops, *span, text) {
                    Ok((span, text)) => column.push(span, text),
                    Err(reason) => {
                        column.push_missing();
                        Err(reason)
                    }
                },
            };
            if let Err(reason) = pushed {
                wrong.push((name.as_str(), reason));
            }
        }
        wrong
    }

    fn new(
        versions: &[Version],
        level: Option<&str>,
        needed: &BTreeSet<String>,
        everything: bool,
    ) -> Result<Self, StepError> {
        let by_version = needed_of(versions, level, needed, everything);
        let (needed, _) = &by_version[0];
        let fields: Vec<&Field> =
            fields_of(&versions[0], level).iter().filter(|field| needed.contains(&field.name)).collect();
        let paths: Vec<&str> = fields.iter().map(|field| base(&field.path)).collect();
        let hops = fields.iter().map(|field| hops(&field.path)).collect();
        let typed: Vec<(String, FieldType)> =
            fields.iter().filter_map(|field| Some((field.name.clone(), field.field_type()?))).collect();
        // Forwards: the steps, over the types as they are by then.
        let mut types: Types = typed.iter().map(|(name, field_type)| (name.clone(), field_type.arrow())).collect();
        let mut steps = Vec::new();
        let mut all: BTreeSet<String> = names(&versions[0], level);
        let newest = versions[versions.len() - 1].number;
        for (pair, (_, used)) in versions.windows(2).zip(&by_version[1..]) {
            let next = &pair[1];
            for step in &next.steps {
                if let crate::define::Step::Rename(step) = step {
                    all.insert(upcast::split(&step.to).1.to_owned());
                }
            }
            let ready = upcast::prepare(&next.steps, used, level, &mut types, &all)
                .map_err(|(step, reason)| StepError { version: next.number, step, reason })?;
            steps.extend(ready);
            // Fields of the new version that carry over need its type.
            for field in fields_of(next, level) {
                let (Some(have), Some(want)) = (types.get(&field.name), field.field_type().map(FieldType::arrow))
                else {
                    continue;
                };
                if *have != want && !upcast::carries_over(have, &want) {
                    let (have, want) = (FieldType::name_of(have), FieldType::name_of(&want));
                    let reason = format!(
                        "`{}` is {have} after these steps, and {want} in version {}; add a step that makes it {want}",
                        field.name, next.number
                    );
                    return Err(StepError { version: next.number, step: next.steps.len().saturating_sub(1), reason });
                }
                // A later version goes on from what this one says; those of the newest are cast in any case.
                if *have != want && next.number != newest {
                    steps.push(Ready::Cast { field: field.name.clone(), to: want.clone() });
                    types.insert(field.name.clone(), want);
                }
            }
            let own = names(next, level);
            // What this version has not, a later one has not from before it.
            types.retain(|field, _| {
                let stays = own.contains(field);
                if !stays {
                    steps.push(Ready::Drop { field: field.clone() });
                }
                stays
            });
            all.extend(own);
        }
        Ok(Self { of: level.unwrap_or_default().to_owned(), paths: Paths::new(&paths), hops, fields: typed, steps })
    }
}
