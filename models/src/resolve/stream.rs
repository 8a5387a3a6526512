//! Resolving streams: fields, versions, upcasters.

use std::collections::BTreeSet;
use std::sync::Arc;

use indexmap::IndexMap;

use super::{Resolving, beginning, check_name};
use starmere_lake::formats::Schema;

use crate::define::{
    EventFile, EventTypes, FieldFile, FormatFile, Place, Placed, Problem, Step, StreamFile, VersionFile, suggestion,
};
use crate::events::{self, Decoder, Event, Field, FieldKind, Need, Stream, Version, base};

/// Columns that every event has for SQL, besides its fields.
pub(crate) const BUILT_IN: [&str; 3] = ["occurred_at", "event_id", "ordinal"];

/// Where a path stands.
#[derive(Clone, Copy, PartialEq)]
enum Within {
    Envelope,
    Field,
    Element,
}

impl Resolving<'_> {
    pub(super) fn streams(&mut self) {
        let definitions = self.definitions;
        for parsed in &definitions.streams {
            let file = &parsed.definition;
            self.envelope(file, &parsed.file);
            let before = self.problems.len();
            let events = file.events.iter().filter_map(|(name, event)| self.event(name, event, &parsed.file)).collect();
            if self.problems.len() == before {
                let stream = Stream {
                    domain: file.domain.to_string(),
                    name: file.stream.to_string(),
                    description: file.description.clone(),
                    format: file.format(),
                    events,
                };
                self.models.streams.entry(stream.name.clone()).or_insert_with(|| Arc::new(stream));
            }
        }
    }

    fn envelope(&mut self, file: &StreamFile, name: &str) {
        let place = || file.envelope.place(name);
        match (&file.envelope.event_type, &file.envelope.constant_type) {
            (Some(_), Some(_)) => {
                self.problem(Problem::new(place(), "an envelope has `type` or `constant_type`, not both"));
            }
            (None, None) if file.convention.is_none() => {
                let hint = "say where the type is (`type: path`), or which it always is (`constant_type: name`)";
                self.problem(Problem::new(place(), "the envelope does not say the type of an event").hint(hint));
            }
            _ => {}
        }
        if file.envelope.time.is_none() && file.convention.is_none() {
            let hint = "say where it is: `time: path`; `time: $timestamp` is when the source got the event";
            self.problem(Problem::new(place(), "the envelope does not say the time of an event").hint(hint));
        }
        let envelope = &file.envelope;
        for path in [&envelope.id, &envelope.event_type, &envelope.version, &envelope.time, &envelope.subject]
            .into_iter()
            .flatten()
        {
            self.outside(path, Within::Envelope, place());
        }
        if file.strict && file.events.is_empty() {
            let hint = "describe its `events`, or leave `strict` out: it refuses all that are not described";
            self.problem(Problem::new(file.stream.place(name), "a strict stream describes no event").hint(hint));
        }
        self.format(file, name);
    }

    /// A path to what is not in the payload is one that there is.
    fn outside(&mut self, path: &str, within: Within, place: Place) {
        let is_known = match path.split('.').next().unwrap_or(path) {
            "$key" => within != Within::Element,
            "$headers" => within != Within::Element && path.len() > "$headers.".len(),
            "$timestamp" => within == Within::Envelope && path == "$timestamp",
            first => !first.starts_with('$'),
        };
        if !is_known {
            let hint = "outside the payload are `$key`, `$headers.NAME` and, in the envelope, `$timestamp`; elements have none";
            self.problem(Problem::new(place, format!("`{path}` is nowhere")).hint(hint));
        }
    }

    fn format(&mut self, file: &StreamFile, name: &str) {
        if let Some(delimiter) = &file.delimiter {
            let is_csv = file.format == FormatFile::Csv;
            if !is_csv {
                let problem = Problem::new(delimiter.place(name), "only `csv` has a `delimiter`");
                self.problem(problem.hint("write `format: csv`, or leave it out"));
            } else if !matches!(delimiter.as_bytes(), [byte] if byte.is_ascii() && !matches!(byte, b'"' | b'\n' | b'\r'))
            {
                let problem =
                    Problem::new(delimiter.place(name), "a delimiter is one character of ASCII, and no quote");
                self.problem(problem.hint("such as ; or a tab: `delimiter: \"\\t\"`"));
            }
        }
        if let Some(schema) = &file.schema
            && file.format != FormatFile::Avro
        {
            let problem = Problem::new(schema.place(name), "only `avro` has a `schema`");
            self.problem(problem.hint("write `format: avro`, or leave it out"));
        }
        if file.convention.is_some() && file.format == FormatFile::Csv {
            let problem = Problem::new(file.envelope.place(name), "records of `csv` follow no `convention`");
            self.problem(problem.hint("leave `convention` out, and say in the envelope where type and time are"));
        }
        let described: Vec<&str> = file.events.keys().map(String::as_str).collect();
        let envelope = &file.envelope;
        for (key, event) in [("constant_type", &envelope.constant_type), ("tombstone", &envelope.tombstone)] {
            let unknown = event.as_deref().filter(|event| !described.is_empty() && !described.contains(event));
            let Some(event) = unknown else { continue };
            let message = format!("`{key}` names the event `{event}`, which the stream does not describe");
            let problem = Problem::new(envelope.place(name), message);
            self.problem(problem.hint(suggestion(event, described.iter().copied())));
        }
        if let (Some(schema), Some(text)) = (&file.schema, &file.schema_text)
            && let Err(reason) = Schema::avro(text.clone()).fingerprint()
        {
            self.problem(Problem::new(schema.place(name), format!("`{}` is {reason}", &**schema)));
        }
    }

    fn event(&mut self, name: &str, file: &Placed<EventFile>, file_name: &str) -> Option<Event> {
        let mut numbers: Vec<u32> = file.versions.keys().copied().collect();
        numbers.sort_unstable();
        if numbers.is_empty() {
            let problem = Problem::new(file.place(file_name), format!("the event `{name}` has no version"));
            self.problem(problem.hint("describe version 1 under `versions`"));
            return None;
        }
        let problems = self.problems.len();
        let mut versions: Vec<Version> = Vec::new();
        let mut before: Option<&VersionFile> = None;
        for number in &numbers {
            let version = &file.versions[number];
            let place = version.place(file_name);
            let Ok(number) = i32::try_from(*number) else {
                self.problem(Problem::new(
                    place,
                    format!("`{name}` has a version {number}; they go up to {}", i32::MAX),
                ));
                continue;
            };
            if let Some(last) = versions.last().map(|version| version.number)
                && number - last > 1
            {
                let hint = format!("describe version {} too: its events would be rejected", last + 1);
                self.problem(Problem::new(place, format!("`{name}` goes from version {last} to {number}")).hint(hint));
            }
            let fields = self.fields(&version.fields, file_name, true);
            for step in &version.from_previous {
                if let Some((message, hint)) = step.mistake() {
                    self.problem(Problem::new(step.place(file_name), message).hint(hint));
                }
            }
            let steps = plain(version).into_iter().map(|step| step.value).collect();
            match before {
                Some(before) => self.steps(&format!("version {number} of `{name}`"), before, version, file_name),
                None => {
                    if let Some(step) = version.from_previous.first() {
                        let message = format!("version {number} of `{name}` is the first; there is none to come from");
                        self.problem(Problem::new(step.place(file_name), message));
                    }
                }
            }
            before = Some(&version.value);
            versions.push(Version { number, fields, steps });
        }
        let event = Event { name: name.to_owned(), versions };
        if self.problems.len() == problems {
            self.upcasters(&event, file, file_name);
        }
        if self.problems.len() == problems {
            for (number, version) in &file.versions {
                for sample in &version.samples {
                    for reason in events::misfits(&event, *number, sample) {
                        let message = format!("the sample of version {number} of `{name}`: {reason}");
                        self.problem(Problem::new(sample.place(file_name), message));
                    }
                }
            }
        }
        Some(event)
    }

    /// Each step writes a value that `version` has or a later step reads; a default fits where it ends up.
    fn steps(&mut self, what: &str, before: &VersionFile, version: &VersionFile, file_name: &str) {
        let steps: Vec<Placed<Step>> = plain(version);
        for (index, step) in steps.iter().enumerate() {
            let (earlier, later) = (&steps[..index], &steps[index + 1..]);
            let (place, target) = (step.place(file_name), written(step));
            let (each, name) = target.split_once('.').map_or((None, target), |(each, name)| (Some(each), name));
            let Some(fields) = level(version, each) else {
                let lists =
                    version.fields.iter().filter(|(_, field)| field.each.is_some()).map(|(name, _)| name.as_str());
                let each = each.unwrap_or_default();
                self.problem(Problem::new(place, format!("`{each}` has no elements")).hint(suggestion(each, lists)));
                continue;
            };
            match fields.get(name).map(|field| (field.field_type, &field.each)) {
                Some((_, Some(_))) => {
                    let hint =
                        "elements carry over under one name: give the list that name in both versions, with a `path`";
                    self.problem(
                        Problem::new(place, format!("`{name}` has elements; a step is about a value")).hint(hint),
                    );
                }
                Some((Some(field_type), None)) => {
                    let is_new = level(before, each).is_none_or(|fields| !fields.contains_key(name))
                        && !earlier.iter().chain(later).any(|other| written(other) == target);
                    if let Step::Default(default) = &step.value
                        && is_new
                        && let Some(value) = &default.value.0
                        && !events::fits(field_type, value)
                    {
                        self.problem(Problem::new(place, format!("`{value}` is not of type {field_type}")));
                    }
                }
                Some((None, None)) => {}
                None if later.iter().any(|later| reads(later, each, name)) => {}
                None => {
                    let values = fields.iter().filter(|(_, field)| field.each.is_none()).map(|(name, _)| name.as_str());
                    let problem =
                        Problem::new(place, format!("{what} has no field `{target}`, and no later step reads it"));
                    self.problem(problem.hint(suggestion(name, values)));
                }
            }
        }
    }

    fn fields(&mut self, files: &IndexMap<String, Placed<FieldFile>>, file_name: &str, outer: bool) -> Vec<Field> {
        let mut fields = Vec::new();
        for (name, file) in files {
            let place = file.place(file_name);
            if let Some(problem) = check_name(name, &place) {
                self.problem(problem);
            }
            if BUILT_IN.contains(&name.as_str()) {
                let hint = "every event has a column of this name; give the field another name and a `path`";
                self.problem(Problem::new(place.clone(), format!("`{name}` cannot be the name of a field")).hint(hint));
            }
            let kind = match (&file.field_type, &file.each) {
                (Some(field_type), None) => FieldKind::Value(*field_type),
                (None, Some(each)) if outer => FieldKind::Each(self.fields(each, file_name, false)),
                (None, Some(_)) => {
                    let hint = "read the inner list as `type: json`";
                    self.problem(Problem::new(place, format!("`{name}`: elements have one level")).hint(hint));
                    continue;
                }
                _ => {
                    self.problem(Problem::new(place, format!("the field `{name}` needs either a `type` or `each`")));
                    continue;
                }
            };
            let path = file.path.clone().unwrap_or_else(|| name.clone());
            self.places(file, name, &path, &place);
            self.outside(&path, if outer { Within::Field } else { Within::Element }, place);
            fields.push(Field {
                name: name.clone(),
                path,
                required: file.required,
                description: file.description.clone(),
                one: file.one,
                kind,
            });
        }
        fields
    }

    /// A path that leads into a list is a value's, and says which element.
    fn places(&mut self, file: &FieldFile, name: &str, path: &str, place: &Place) {
        let problem = |message: String, hint: &str| Problem::new(place.clone(), message).hint(hint);
        if file.each.is_none() && file.one {
            let hint = "`one: true` says that an object may be in the place of a list: it goes with `each`";
            self.problem(problem(format!("`{name}` is no list"), hint));
        }
        if base(path) == path && path.contains('[') && !path.split('[').skip(1).all(is_name) {
            let hint = "the first element's `sku` is `lines[0].sku`";
            self.problem(problem(format!("`{path}` does not say which element"), hint));
        } else if base(path) != path && file.each.is_some() {
            let hint = "read the inner list as `type: json`";
            self.problem(problem(format!("`{name}`: elements of one element are not followed"), hint));
        }
    }

    /// Runs the upcasters over types alone: every field of every version is asked for.
    fn upcasters(&mut self, event: &Event, file: &EventFile, file_name: &str) {
        for end in 1..=event.versions.len() {
            let event = Event { name: event.name.clone(), versions: event.versions[..end].to_vec() };
            let newest = event.newest();
            let values: BTreeSet<String> = newest
                .fields
                .iter()
                .filter(|field| field.field_type().is_some())
                .map(|field| field.name.clone())
                .collect();
            let mut needs = vec![Need { fields: values, each: None }];
            for field in &newest.fields {
                if let Some(elements) = field.elements() {
                    let names = elements.iter().map(|field| field.name.clone()).collect();
                    needs.push(Need { fields: BTreeSet::new(), each: Some((field.name.clone(), names)) });
                }
            }
            let wrong: Vec<_> = needs.iter().filter_map(|need| Decoder::check(&event, need).err()).collect();
            for error in &wrong {
                let version = file.versions.get(&error.version.unsigned_abs());
                let step = version.and_then(|version| plain(version).get(error.step).map(|step| step.place(file_name)));
                let place = step.or_else(|| version.map(|version| version.place(file_name))).unwrap_or_default();
                let reason = beginning(&error.reason, 500);
                self.problem(Problem::new(place, format!("`{}` version {}: {reason}", event.name, error.version)));
            }
            // Later versions would only tell it again.
            if !wrong.is_empty() {
                return;
            }
        }
    }

    /// The stream `name` for a model of `domain`.
    pub(super) fn stream_for(&mut self, domain: &str, name: &str, place: &crate::define::Place) -> Option<Arc<Stream>> {
        let defined = self.definitions.streams.iter().find(|parsed| *parsed.definition.stream == name);
        let Some(defined) = defined else {
            let known: Vec<&str> =
                self.definitions.streams.iter().map(|parsed| parsed.definition.stream.as_str()).collect();
            let hint = suggestion(name, known);
            self.problem(Problem::new(place.clone(), format!("there is no stream `{name}`")).hint(hint));
            return None;
        };
        let (owner, readers) = (defined.definition.domain.as_str(), &defined.definition.readers);
        if owner != domain && !readers.iter().any(|reader| reader.as_str() == domain) {
            let hint =
                format!("use a product of `{owner}`, or have it add `{domain}` to `readers` in {}", defined.file);
            self.problem(
                Problem::new(place.clone(), format!("the stream `{name}` belongs to the domain `{owner}`")).hint(hint),
            );
            return None;
        }
        self.models.streams.get(name).cloned()
    }

    /// The event `name` of a stream.
    pub(super) fn event_for(&mut self, stream: &Stream, name: &str, place: &crate::define::Place) -> Option<Event> {
        if let Some(event) = stream.event(name) {
            return Some(event.clone());
        }
        let hint = suggestion(name, stream.events.iter().map(|event| event.name.as_str()));
        self.problem(
            Problem::new(place.clone(), format!("the stream `{}` has no event `{name}`", stream.name)).hint(hint),
        );
        None
    }

    /// Whether a source names events, and each of them once.
    pub(super) fn are_named(&mut self, types: &EventTypes, place: &Place) -> bool {
        let twice = types.0.iter().enumerate().find(|(index, name)| types.0[..*index].contains(name));
        let problem = match (types.0.as_slice(), twice) {
            ([], _) => Problem::new(place.clone(), "the source names no event")
                .hint("write `event: name`, or a list of types that are read alike"),
            (_, Some((_, name))) => {
                Problem::new(place.clone(), format!("the source names `{name}` twice")).hint("leave out one of them")
            }
            _ => return true,
        };
        self.problem(problem);
        false
    }

    /// Says of the problems since then which events they are about, where a source has several.
    pub(super) fn name_events(&mut self, types: &EventTypes, name: &str, since: usize) {
        if types.0.len() > 1 {
            for problem in &mut self.problems[since..] {
                problem.message = format!("events `{name}`: {}", problem.message);
            }
        }
    }
}

/// The field that a step writes.
fn written(step: &Step) -> &str {
    match step {
        Step::Rename(step) => &step.to,
        Step::Default(step) => &step.field,
        Step::Cast(step) => &step.field,
        Step::Sql(step) => &step.field,
        Step::Drop(step) => &step.field,
        Step::Split(step) => &step.field,
        Step::Merge(step) => &step.into,
        Step::MapValues(step) => &step.field,
    }
}

/// The steps of a version, each writing one field, at the places of those that they are of.
fn plain(version: &VersionFile) -> Vec<Placed<Step>> {
    version
        .from_previous
        .iter()
        .filter(|step| step.mistake().is_none())
        .flat_map(|step| step.plain().into_iter().map(|plain| step.at(plain)))
        .collect()
}

/// Whether a step reads the field `name` of the event, or of the elements `each`.
fn reads(step: &Step, each: Option<&str>, name: &str) -> bool {
    let full = each.map_or_else(|| name.to_owned(), |each| format!("{each}.{name}"));
    match step {
        Step::Rename(step) => step.from == full,
        Step::Default(step) => step.field == full,
        Step::Cast(step) => step.field == full,
        Step::Drop(_) | Step::Split(_) | Step::Merge(_) | Step::MapValues(_) => false,
        Step::Sql(step) => {
            let is_on_level = step.field.split_once('.').map(|(each, _)| each) == each;
            is_on_level && events::words(&step.expression).contains(name)
        }
    }
}

/// The fields of the event, or of its elements `each`.
fn level<'a>(version: &'a VersionFile, each: Option<&str>) -> Option<&'a IndexMap<String, Placed<FieldFile>>> {
    match each {
        None => Some(&version.fields),
        Some(each) => version.fields.get(each)?.each.as_ref(),
    }
}

/// Whether what follows a bracket in a path is a part of a member's name, rather than a place that somebody has tried to name.
pub(crate) fn is_name(after: &str) -> bool {
    let inner = after.split(']').next().unwrap_or_default();
    !inner.chars().all(|c| c.is_ascii_digit() || "+-*:,$ ".contains(c))
}
