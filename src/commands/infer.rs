//! `starmere streams infer`: a definition for what has landed, proposed.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::{DataType, Int32Type};
use futures::StreamExt as _;
use starmere_ingest::envelope::TypeOf;
use starmere_lake::formats::{Convention, Encoding};
use starmere_lake::provider::PinnedTable;
use starmere_models::define::suggestion;
use starmere_models::events::Payloads;
use starmere_models::infer::{Proposed, ProposedEnvelope, ProposedKind, Shape, Shapes, snake_case, torn};

use super::inspect::{Cell, Holds, listing};
use crate::command_line::{Format, Infer};
use crate::failure::Mendable;
use crate::output::{Output, count, counted};
use crate::project::Opened;

/// So many events of each type and version are looked at, however many others there are.
const OF_EACH: u64 = 1000;
/// ... of so many types and versions: more are a mistake in the mapping.
const MOST_KINDS: usize = 1000;
/// So many fields of an event are proposed that nobody has asked for.
const UNASKED: usize = 25;
/// Asks for all fields.
const ALL: &str = "*";

pub(super) async fn run(opened: &Opened, arguments: &Infer, output: &Output) -> anyhow::Result<()> {
    let (stream, mapping) = opened.stream(&arguments.stream)?;
    let Some(snapshot) = stream.table().snapshot().await?.filter(|snapshot| snapshot.rows() > Some(0)) else {
        let hint = "land some: `starmere ingest`; a definition with any envelope will do";
        return Err(Mendable::error(format!("nothing has landed in `{}`", arguments.stream), hint));
    };
    let mut sample = Sample::new(snapshot.rows().unwrap_or_default(), arguments.events);
    let session = opened.engine.session();
    session.register_table("s", Arc::new(PinnedTable::new(opened.warehouse.store(), snapshot)))?;
    let columns = "event_id, event_type, event_version, rejection, payload, key, headers, op";
    let mut batches = session.sql(&format!("SELECT {columns} FROM s")).await?.execute_stream().await?;
    let convention = mapping.format.convention;
    let is_text = matches!(mapping.format.encoding, Encoding::Csv { .. });
    let event_type = match &mapping.event_type {
        TypeOf::Path(path) => Some(path.clone()),
        TypeOf::Constant(_) | TypeOf::Convention => None,
    };
    // An id may be a key of the business; one that is the event's own says so.
    let own = ["id", "event_id", "message_id", "uuid"];
    let id =
        mapping.id.clone().filter(|path| own.contains(&snake_case(path.rsplit('.').next().unwrap_or(path)).as_str()));
    let envelope = [id, event_type, mapping.version.clone(), mapping.time.clone()];
    let definition = starmere_models::events::Stream {
        domain: String::new(),
        name: arguments.stream.clone(),
        description: None,
        format: mapping.format.clone(),
        events: Vec::new(),
    };
    let payloads = Payloads::of(&definition, stream.table(), false).await?;
    let (mut shapes, mut rejects, mut unreadable) = (Shapes::new(), Shape::default(), 0);
    while let Some(batch) = batches.next().await {
        let batch = payloads.texts(&sample.of(&batch?)?, stream.table())?;
        unreadable += add(&batch, is_text, &mut shapes, &mut rejects);
    }
    let envelope = envelope.into_iter().flatten().collect();
    let wanted = arguments.fields.clone();
    let found = Found { sample, shapes, rejects, unreadable, convention, envelope, wanted };
    found.has_what_is_wanted()?;
    match output.format() {
        Format::Table => output.text(&found.definition(&arguments.stream)),
        _ => listing(output, &COLUMNS, &found.rows()),
    }
}

/// The events that are looked at: every so many, and some of each kind; of copies one.
struct Sample {
    /// One in so many.
    step: u64,
    seen: u64,
    taken: u64,
    /// Not taken, since one like it was.
    copies: u64,
    /// Digests of what tells those apart that were taken.
    known: HashSet<u64>,
    /// Taken of each type and version; rejects have none.
    kinds: HashMap<Kind, u64>,
}

/// Type and version.
type Kind = (Option<String>, Option<i32>);

impl Sample {
    fn new(rows: u64, most: u32) -> Self {
        let step = rows.div_ceil(u64::from(most)).max(1);
        Self { step, seen: 0, taken: 0, copies: 0, known: HashSet::new(), kinds: HashMap::new() }
    }

    fn of(&mut self, batch: &RecordBatch) -> anyhow::Result<RecordBatch> {
        let column = |name: &str| batch.column_by_name(name).expect("the query asks for it");
        let (types, ids) = (cast(column("event_type"), &DataType::Utf8)?, cast(column("event_id"), &DataType::Utf8)?);
        let (ids, rejections) = (ids.as_string::<i32>(), column("rejection"));
        let payloads = cast(column("payload"), &DataType::Binary)?;
        let payloads = payloads.as_binary::<i32>();
        let versions = column("event_version").as_primitive::<Int32Type>();
        let mut takes = Vec::with_capacity(batch.num_rows());
        for (row, (name, version)) in types.as_string::<i32>().iter().zip(versions).enumerate() {
            let kind = (name.map(str::to_owned), version);
            let taken = match self.kinds.len() < MOST_KINDS || self.kinds.contains_key(&kind) {
                true => Some(self.kinds.entry(kind).or_default()),
                false => None,
            };
            let is_due = self.seen.is_multiple_of(self.step) || taken.as_ref().is_some_and(|taken| **taken < OF_EACH);
            // The id of a reject is not read: what tells it from others are its bytes.
            let mut digest = DefaultHasher::new();
            match rejections.is_valid(row) {
                true => (true, payloads.value(row)).hash(&mut digest),
                false => (false, ids.value(row)).hash(&mut digest),
            }
            let takes_it = is_due && self.known.insert(digest.finish());
            self.seen += 1;
            self.taken += u64::from(takes_it);
            self.copies += u64::from(is_due && !takes_it);
            if let Some(taken) = taken {
                *taken += u64::from(takes_it);
            }
            takes.push(takes_it);
        }
        Ok(filter_record_batch(batch, &BooleanArray::from(takes))?)
    }

    fn words(&self) -> String {
        match (self.is_all(), self.copies) {
            (true, 0) => counted(self.taken, "event", "events"),
            (true, copies) => {
                format!(
                    "{} (and {} of them)",
                    counted(self.taken, "event", "events"),
                    counted(copies, "copy", "copies")
                )
            }
            (false, _) => format!("{} of {}", count(self.taken), counted(self.seen, "event", "events")),
        }
    }

    /// All events were looked at.
    fn is_all(&self) -> bool {
        self.seen == self.taken + self.copies
    }
}

/// Counts the rows of a batch; how many cannot be read.
fn add(batch: &RecordBatch, is_text: bool, shapes: &mut Shapes, rejects: &mut Shape) -> u64 {
    let column = |name: &str| batch.column_by_name(name).expect("the query asks for it");
    let (types, rejections) = (column("event_type").as_string::<i32>(), column("rejection").as_string::<i32>());
    let versions = column("event_version").as_primitive::<Int32Type>();
    let texts = column("payload").as_binary::<i32>();
    let mut unreadable = 0;
    for row in 0..batch.num_rows() {
        let Ok(text) = std::str::from_utf8(texts.value(row)) else { continue };
        match (rejections.is_valid(row), types.is_valid(row)) {
            (true, _) if text.trim_start().starts_with('{') => rejects.add(text),
            (true, _) => unreadable += 1,
            (false, true) => {
                let shape = shapes.entry((types.value(row).to_owned(), versions.value(row)));
                shape.or_insert_with(|| if is_text { Shape::of_text() } else { Shape::default() }).add(text);
            }
            (false, false) => {}
        }
    }
    unreadable
}

const COLUMNS: [(&str, Holds); 10] = [
    ("event", Holds::Text),
    ("version", Holds::Number),
    ("field", Holds::Text),
    ("path", Holds::Text),
    ("type", Holds::Text),
    ("events", Holds::Number),
    ("present", Holds::Number),
    ("nulls", Holds::Number),
    ("sure in percent", Holds::Number),
    ("conflict", Holds::Text),
];

struct Found {
    sample: Sample,
    shapes: Shapes,
    rejects: Shape,
    unreadable: u64,
    convention: Option<Convention>,
    /// Paths of the envelope: SQL has these columns anyway.
    envelope: Vec<String>,
    /// The fields that are asked for.
    wanted: Vec<String>,
}

impl Found {
    /// Where the fields of an event are, by convention.
    fn prefix(&self, event: &str) -> &'static str {
        match self.convention {
            Some(Convention::CloudEvents) => "data.",
            Some(Convention::Debezium) if event.ends_with(".deleted") => "before.",
            Some(Convention::Debezium) => "after.",
            Some(Convention::Outbox) | None => "",
        }
    }

    /// All fields of an event.
    fn fields(&self, event: &str, shape: &Shape) -> Vec<Proposed> {
        let mut fields = shape.fields(self.prefix(event));
        fields.retain(|field| !self.envelope.contains(&field.path));
        fields
    }

    /// Each field that is asked for is one of some event.
    fn has_what_is_wanted(&self) -> anyhow::Result<()> {
        let of = |((event, _), shape): (&(String, i32), &Shape)| {
            let prefix = self.prefix(event);
            self.fields(event, shape).into_iter().map(move |field| (prefix, field)).collect::<Vec<_>>()
        };
        let all: Vec<(&str, Proposed)> = match self.wanted.is_empty() {
            true => Vec::new(),
            false => self.shapes.iter().flat_map(of).collect(),
        };
        for wanted in &self.wanted {
            if !all.is_empty() && !all.iter().any(|(prefix, field)| is_meant(wanted, prefix, field)) {
                let hint = suggestion(wanted, all.iter().map(|(_, field)| field.name.as_str()));
                return Err(Mendable::error(format!("no event has a field `{wanted}`"), hint));
            }
        }
        Ok(())
    }

    /// The fields of an event that are proposed: those that are asked for, else some of those that are always there; and
    /// how many others there are.
    fn chosen(&self, event: &str, shape: &Shape) -> (Vec<Proposed>, usize) {
        let (prefix, mut fields) = (self.prefix(event), self.fields(event, shape));
        let all = fields.len();
        match self.wanted.is_empty() {
            true => fields = unasked(fields),
            false => fields.retain(|field| self.wanted.iter().any(|wanted| is_meant(wanted, prefix, field))),
        }
        let others = all - fields.len();
        (fields, others)
    }

    fn definition(&self, stream: &str) -> String {
        let sample = self.sample.words();
        let mut text =
            format!("# Proposed for streams/{stream}.yaml, from {sample} that landed; read it before you use it.\n");
        let events: u64 = self.shapes.values().map(|shape| shape.events).sum();
        if self.rejects.events > events {
            self.envelope(stream, &mut text);
        }
        if self.unreadable > 0 {
            let rows = counted(self.unreadable, "row", "rows");
            let _ = writeln!(text, "# {rows} could not be read at all; see `starmere rejects {stream} --sample`");
        }
        if self.shapes.is_empty() {
            return text;
        }
        let mut by_event: BTreeMap<&str, Vec<(i32, &Shape)>> = BTreeMap::new();
        for ((event, version), shape) in &self.shapes {
            by_event.entry(event).or_default().push((*version, shape));
        }
        let (mut of_events, mut others) = (String::new(), 0);
        for (event, versions) in by_event {
            others += self.event(event, &versions, &mut of_events);
        }
        if others > 0 && self.wanted.is_empty() {
            text +=
                "# Fields that are not always there, or deep within, are left out: --fields NAME,… proposes those\n";
            text += "# that you name, by name or path, and --fields '*' all of them.\n";
        }
        text + "events:\n" + &of_events
    }

    /// Writes an event with its versions, oldest first; how many fields are left out.
    fn event(&self, event: &str, versions: &[(i32, &Shape)], text: &mut String) -> usize {
        let _ = writeln!(text, "  {}:\n    versions:", quoted(event));
        // Each version becomes the next one, so none may be missing between two.
        let gap = versions.windows(2).rposition(|pair| pair[1].0 - pair[0].0 > 1);
        let (old, versions) = versions.split_at(gap.map_or(0, |gap| gap + 1));
        for (version, shape) in old {
            let events = counted(shape.events, "event", "events");
            let _ =
                writeln!(text, "      # {version} is left out ({events}): of a version after it, nothing has landed");
        }
        let (mut before, mut left_out): (Option<(i32, Vec<Proposed>)>, usize) = (None, 0);
        for (version, shape) in versions {
            let (fields, others) = self.chosen(event, shape);
            left_out += others;
            let _ = writeln!(text, "      {version}:  # {}", counted(shape.events, "event", "events"));
            *text += if fields.is_empty() { "        fields: {}\n" } else { "        fields:\n" };
            write_fields(text, &fields, 10);
            if others > 0 {
                let _ = writeln!(text, "          # {} left out", counted(others as u64, "field", "fields"));
            }
            if shape.unreachable() > 0 {
                let names = counted(shape.unreachable(), "name", "names");
                let _ = writeln!(
                    text,
                    "          # {names} left out: no path leads to names with dots or places in brackets, or that begin \
                     with $, and a few thousand are enough"
                );
            }
            if let Some((number, before)) = &before {
                write_steps(text, &torn(before, &fields), *number);
            }
            before = Some((*version, fields));
        }
        left_out
    }

    fn envelope(&self, stream: &str, text: &mut String) {
        let found = self.rejects.envelope();
        let rejects = counted(self.rejects.events, "reject", "rejects");
        let _ = writeln!(
            text,
            "# {rejects}: the envelope is elsewhere. Then: starmere rejects {stream} --repair\nenvelope:"
        );
        if self.convention.is_none() {
            self.id(&found, text);
            let mut line = |key: &str, path: &Option<String>, missing: &str| write_path(text, key, path, missing);
            line("type", &found.event_type, "type: none was found; write `constant_type: NAME` if all are of one type");
            line("version", &found.version, "version: none was found; all are version 1");
        }
        let (time, unit) = found.time.unzip();
        write_path(text, "time", &time, "time: none was found; `time: $timestamp` is when the source got the event");
        if let Some(unit) = unit.flatten() {
            let _ = writeln!(text, "  time_unit: {unit}");
        }
    }

    /// The id of the envelope: one that was seen to be unique in all events, or what may be one.
    fn id(&self, found: &ProposedEnvelope, text: &mut String) {
        let (rejects, events) = (count(self.rejects.events), counted(self.sample.seen, "event", "events"));
        let _ = match (&found.id, &found.recurring_id) {
            (Some(path), _) if self.sample.is_all() && self.shapes.is_empty() => {
                writeln!(text, "  id: {}", quoted(path))
            }
            (Some(path), _) => writeln!(
                text,
                "  # id: {}  # unique in {rejects} rejects of {events}; see that it is in all before you write it",
                quoted(path)
            ),
            (None, Some(path)) => writeln!(
                text,
                "  # id: {}  # not unique: write it if events with the same one are one event that was sent again",
                quoted(path)
            ),
            (None, None) => {
                writeln!(text, "  # id: none was found; without one, an event that is sent again counts again")
            }
        };
    }

    fn rows(&self) -> Vec<Vec<Cell>> {
        let mut rows = Vec::new();
        for ((event, version), shape) in &self.shapes {
            let fields = match self.wanted.is_empty() {
                true => self.fields(event, shape),
                false => self.chosen(event, shape).0,
            };
            add_rows(&mut rows, event, *version, "", &fields);
        }
        rows
    }
}

/// Whether `wanted` is the field, by name or path, or what it is below.
fn is_meant(wanted: &str, prefix: &str, field: &Proposed) -> bool {
    let calls = [field.name.as_str(), field.path.as_str(), field.path.strip_prefix(prefix).unwrap_or_default()];
    let is_below = |call: &str| call.strip_prefix(wanted).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    wanted == ALL || calls.into_iter().any(is_below)
}

/// Of fields, some that are always there, those that lie deep within last; of elements, too.
fn unasked(mut fields: Vec<Proposed>) -> Vec<Proposed> {
    fields.retain(|field| field.present == field.of);
    let depth = |field: &Proposed| field.path.matches('.').count();
    let mut depths: Vec<usize> = fields.iter().map(depth).collect();
    depths.sort_unstable();
    if let Some(&deepest) = depths.get(UNASKED) {
        let mut room = UNASKED - depths.iter().filter(|depth| **depth < deepest).count();
        fields.retain(|field| {
            let depth = depth(field);
            let stays = depth < deepest || (depth == deepest && room > 0);
            room -= usize::from(stays && depth == deepest);
            stays
        });
    }
    for field in &mut fields {
        if let ProposedKind::Each(elements) = &mut field.kind {
            *elements = unasked(std::mem::take(elements));
        }
    }
    fields
}

/// Writes a path of the envelope, or that there is none.
fn write_path(text: &mut String, key: &str, path: &Option<String>, missing: &str) {
    let _ = match path {
        Some(path) => writeln!(text, "  {key}: {}", quoted(path)),
        None => writeln!(text, "  # {missing}"),
    };
}

/// Writes how the version `before` becomes the next one: what has another type there is left out.
fn write_steps(text: &mut String, torn: &[String], before: i32) {
    if torn.is_empty() {
        return;
    }
    *text += "        from_previous:\n";
    for field in torn {
        let _ = writeln!(
            text,
            "          - drop: {{ field: {field} }}  # of another type in version {before}; its values there are left out"
        );
    }
}

fn add_rows(rows: &mut Vec<Vec<Cell>>, event: &str, version: i32, within: &str, fields: &[Proposed]) {
    for field in fields {
        let name = format!("{within}{}", field.name);
        rows.push(vec![
            Cell::Text(event.to_owned()),
            Cell::Number(version.unsigned_abs().into()),
            Cell::Text(name.clone()),
            Cell::Text(field.path.clone()),
            Cell::Text(match &field.kind {
                ProposedKind::Value(kind) => kind.to_string(),
                ProposedKind::Each(_) => "each".to_owned(),
            }),
            Cell::Number(field.of),
            Cell::Number(field.present),
            Cell::Number(field.nulls),
            Cell::Number((field.sure * 100.0) as u64),
            field.conflict.clone().map_or(Cell::Nothing, Cell::Text),
        ]);
        if let ProposedKind::Each(fields) = &field.kind {
            add_rows(rows, event, version, &format!("{name}."), fields);
        }
    }
}

fn write_fields(text: &mut String, fields: &[Proposed], indent: usize) {
    for field in fields {
        let (name, path, words) = (quoted(&field.name), quoted(&field.path), words(field));
        let path = if field.path == field.name { String::new() } else { format!("path: {path}, ") };
        let _ = match &field.kind {
            ProposedKind::Value(kind) => {
                let kind = kind.to_string();
                let kind = if kind.contains(',') { format!("\"{kind}\"") } else { kind };
                writeln!(text, "{:indent$}{name}: {{ {path}type: {kind} }}  # {words}", "")
            }
            ProposedKind::Each(elements) => {
                let mut written = format!("{:indent$}{name}:  # {words}\n", "");
                if !path.is_empty() {
                    let _ = writeln!(written, "{:indent$}  path: {}", "", quoted(&field.path));
                }
                written += &format!("{:indent$}  each:{}\n", "", if elements.is_empty() { " {}" } else { "" });
                text.push_str(&written);
                write_fields(text, elements, indent + 4);
                Ok(())
            }
        };
    }
}

/// How often a field is there, and how sure its type is.
fn words(field: &Proposed) -> String {
    let mut words = match (field.of - field.present, field.nulls) {
        (0, 0) => "always there".to_owned(),
        (0, nulls) => format!("always there, {nulls} null"),
        (_, _) => format!("in {} of {}", field.present, field.of),
    };
    let _ = write!(words, "; sure: {:.1} %", field.sure * 100.0);
    if let Some(conflict) = &field.conflict {
        let _ = write!(words, "; conflict: also {conflict}");
    }
    words
}

/// Text as YAML has it.
fn quoted(text: &str) -> String {
    let is_plain = text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && text.chars().all(|character| character.is_ascii_alphanumeric() || matches!(character, '_' | '.' | '-'))
        && !matches!(text, "true" | "false" | "null" | "yes" | "no" | "on" | "off" | "y" | "n");
    if is_plain { text.to_owned() } else { serde_json::to_string(text).unwrap_or_default() }
}
