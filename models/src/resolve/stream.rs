//! Resolving streams: fields, versions, upcasters.

use std::collections::BTreeSet;
use std::sync::Arc;

use indexmap::IndexMap;

use super::{Resolving, check_name};
use crate::define::{EventFile, FieldFile, Placed, Problem, StreamFile, suggestion};
use crate::events::{Decoder, Event, Field, FieldKind, Need, Stream, Version};

/// Columns that every event has for SQL, besides its fields.
pub(super) const BUILT_IN: [&str; 3] = ["occurred_at", "event_id", "ordinal"];

impl Resolving<'_> {
    pub(super) fn streams(&mut self) {
        let definitions = self.definitions;
        for parsed in &definitions.streams {
            let file = &parsed.definition;
            self.envelope(file, &parsed.file);
            let before = self.problems.len();
            let events = file.events.iter().filter_map(|(name, event)| self.event(file, name, event, &parsed.file)).collect();
            if self.problems.len() == before {
                let stream = Stream {
                    domain: file.domain.to_string(),
                    name: file.stream.to_string(),
                    description: file.description.clone(),
                    events,
                };
                self.models.streams.insert(stream.name.clone(), Arc::new(stream));
            }
        }
    }

    fn envelope(&mut self, file: &StreamFile, name: &str) {
        let place = file.envelope.time.place(name);
        match (&file.envelope.event_type, &file.envelope.constant_type) {
            (Some(_), Some(_)) => {
                self.problem(Problem::new(place, "an envelope has `type` or `constant_type`, not both"));
            }
            (None, None) => {
                let hint = "say where the type is (`type: path`), or which it always is (`constant_type: name`)";
                self.problem(Problem::new(place, "the envelope does not say the type of an event").hint(hint));
            }
            _ => {}
        }
    }

    fn event(&mut self, stream: &StreamFile, name: &str, file: &EventFile, file_name: &str) -> Option<Event> {
        let place = stream.stream.place(file_name);
        let mut numbers: Vec<u32> = file.versions.keys().copied().collect();
        numbers.sort_unstable();
        if numbers.is_empty() {
            self.problem(Problem::new(place, format!("the event `{name}` has no version")).hint("describe version 1 under `versions`"));
            return None;
        }
        let mut versions = Vec::new();
        for number in &numbers {
            let version = &file.versions[number];
            let fields = self.fields(&version.fields, file_name, true);
            let steps = version.from_previous.iter().map(|step| step.value.clone()).collect();
            if versions.is_empty() && !version.from_previous.is_empty() {
                let place = version.from_previous[0].place(file_name);
                self.problem(Problem::new(place, format!("version {number} of `{name}` is the first; there is none to come from")));
            }
            versions.push(Version { number: i32::try_from(*number).unwrap_or(i32::MAX), fields, steps });
        }
        let event = Event { name: name.to_owned(), versions };
        self.upcasters(&event, file, file_name);
        Some(event)
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
                    self.problem(Problem::new(place, format!("the field `{name}` has either a `type` or `each`")));
                    continue;
                }
            };
            let path = file.path.clone().unwrap_or_else(|| name.clone());
            fields.push(Field { name: name.clone(), path, required: file.required, description: file.description.clone(), kind });
        }
        fields
    }

    /// Runs the upcasters over types alone: every field of the newest version is asked for.
    fn upcasters(&mut self, event: &Event, file: &EventFile, file_name: &str) {
        let newest = event.newest();
        let values: BTreeSet<String> =
            newest.fields.iter().filter(|field| field.field_type().is_some()).map(|field| field.name.clone()).collect();
        let mut needs = vec![Need { fields: values, each: None }];
        for field in &newest.fields {
            if let Some(elements) = field.elements() {
                let names = elements.iter().map(|field| field.name.clone()).collect();
                needs.push(Need { fields: BTreeSet::new(), each: Some((field.name.clone(), names)) });
            }
        }
        for need in needs {
            if let Err(error) = Decoder::new(event, &need) {
                let steps = file.versions.get(&(error.version as u32)).map(|version| &version.from_previous);
                let place = steps.and_then(|steps| steps.get(error.step)).map(|step| step.place(file_name));
                let place = place.unwrap_or_default();
                self.problem(Problem::new(place, format!("`{}` version {}: {}", event.name, error.version, error.reason)));
            }
        }
        for pair in file.versions.values() {
            for step in &pair.from_previous {
                let named = match &step.value {
                    crate::define::Step::Rename(step) => &step.to,
                    crate::define::Step::Default(step) => &step.field,
                    crate::define::Step::Cast(step) => &step.field,
                    crate::define::Step::Sql(step) => &step.field,
                };
                if let Some((each, _)) = named.split_once('.')
                    && !pair.fields.get(each).is_some_and(|field| field.each.is_some())
                {
                    let lists = pair.fields.iter().filter(|(_, field)| field.each.is_some()).map(|(name, _)| name.as_str());
                    let hint = suggestion(each, lists);
                    self.problem(Problem::new(step.place(file_name), format!("`{each}` has no elements")).hint(hint));
                }
            }
        }
    }

    /// The stream `name` for a model of `domain`.
    pub(super) fn stream_for(&mut self, domain: &str, name: &str, place: &crate::define::Place) -> Option<Arc<Stream>> {
        let defined = self.definitions.streams.iter().find(|parsed| *parsed.definition.stream == name);
        let Some(defined) = defined else {
            let known: Vec<&str> = self.definitions.streams.iter().map(|parsed| parsed.definition.stream.as_str()).collect();
            let hint = suggestion(name, known);
            self.problem(Problem::new(place.clone(), format!("there is no stream `{name}`")).hint(hint));
            return None;
        };
        let owner = defined.definition.domain.as_str();
        if owner != domain {
            let hint = format!("use a product of `{owner}` instead");
            self.problem(Problem::new(place.clone(), format!("the stream `{name}` belongs to the domain `{owner}`")).hint(hint));
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
        self.problem(Problem::new(place.clone(), format!("the stream `{}` has no event `{name}`", stream.name)).hint(hint));
        None
    }
}
