//! What a model reads of an event, and so what its rows depend on: fields of the newest version, and whatever of older ones leads
//! there.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Event, Field, FieldKind, Version, upcast};

/// The fields that a model needs of an event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Need {
    pub fields: BTreeSet<String>,
    /// One row per element of this field, with these fields of the elements.
    pub each: Option<(String, BTreeSet<String>)>,
}

impl Need {
    /// All fields that the newest version of an event has, as it is written.
    pub(crate) fn written(event: &Value) -> Self {
        let mut need = Self::default();
        let versions = event["versions"].as_object().into_iter().flatten();
        let numbered = versions.filter_map(|(number, version)| Some((number.parse::<i32>().ok()?, version)));
        let Some((_, newest)) = numbered.max_by_key(|(number, _)| *number) else { return need };
        for (name, field) in newest["fields"].as_object().into_iter().flatten() {
            match field["each"].as_object() {
                Some(inner) => need.each = Some((name.clone(), inner.keys().cloned().collect())),
                None => {
                    need.fields.insert(name.clone());
                }
            }
        }
        need
    }

    /// What of `event` it depends on.
    pub(crate) fn of(&self, event: &Event) -> Event {
        let own = needed_of(&event.versions, None, &self.fields, false);
        let elements = self.each.as_ref();
        let elements = elements.map(|(each, fields)| (each, needed_of(&event.versions, Some(each), fields, false)));
        let version = |(place, version): (usize, &Version)| {
            let (fields, used) = &own[place];
            let of_elements = elements.as_ref().map(|(each, of)| (*each, &of[place]));
            let field = |field: &Field| match (&field.kind, of_elements) {
                (FieldKind::Value(_), _) => fields.contains(&field.name).then(|| field.clone()),
                (FieldKind::Each(inner), Some((each, (needed, _)))) if field.name == *each => {
                    let inner = inner.iter().filter(|field| needed.contains(&field.name)).cloned().collect();
                    Some(Field { kind: FieldKind::Each(inner), ..field.clone() })
                }
                (FieldKind::Each(_), _) => None,
            };
            let is_used = |step: usize| used[step] || of_elements.is_some_and(|(_, (_, used))| used[step]);
            let steps = version.steps.iter().enumerate().filter(|(step, _)| is_used(*step));
            Version {
                number: version.number,
                fields: version.fields.iter().filter_map(field).collect(),
                steps: steps.map(|(_, step)| step.clone()).collect(),
            }
        };
        Event { name: event.name.clone(), versions: event.versions.iter().enumerate().map(version).collect() }
    }
}

/// The fields of the event, or of its elements `level`, in a version.
pub(super) fn fields_of<'a>(version: &'a Version, level: Option<&str>) -> &'a [Field] {
    match level {
        None => &version.fields,
        Some(each) => version.field(each).and_then(Field::elements).unwrap_or_default(),
    }
}

/// Of each of `versions`, the fields on `level` that are needed for those of the last one, and which of the steps to it lead there.
pub(super) fn needed_of(
    versions: &[Version],
    level: Option<&str>,
    needed: &BTreeSet<String>,
    everything: bool,
) -> Vec<(BTreeSet<String>, Vec<bool>)> {
    let mut needed = needed.clone();
    let mut of: Vec<(BTreeSet<String>, Vec<bool>)> = Vec::with_capacity(versions.len());
    for (place, version) in versions.iter().enumerate().rev() {
        let own = names(version, level);
        needed.retain(|name| own.contains(name));
        let before = place.checked_sub(1).map(|before| names(&versions[before], level)).unwrap_or_default();
        let (mut before_it, mut used) = upcast::needed_before(&version.steps, level, &needed, &before);
        if everything {
            before_it = before;
            used.fill(true);
        }
        of.push((std::mem::replace(&mut needed, before_it), used));
    }
    of.reverse();
    of
}

/// The names of the fields on `level` that have values.
pub(super) fn names(version: &Version, level: Option<&str>) -> BTreeSet<String> {
    let fields = fields_of(version, level).iter().filter(|field| field.field_type().is_some());
    fields.map(|field| field.name.clone()).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Array, AsArray, BinaryArray, BooleanArray, Int32Array, RecordBatch, StringArray};

    use super::*;
    use crate::define::{FieldType, parse_text};
    use crate::events::Decoder;

    fn field(name: &str) -> Field {
        let kind = FieldKind::Value(crate::define::FieldType::String);
        Field { name: name.to_owned(), path: name.to_owned(), required: false, description: None, one: false, kind }
    }

    /// Versions with these fields, and the steps to the second one.
    fn event(versions: [&[&str]; 2], steps: &str) -> Event {
        let version = |number: usize| Version {
            number: number as i32 + 1,
            fields: versions[number].iter().map(|name| field(name)).collect(),
            steps: if number == 1 { parse_text(steps, "steps.yaml").unwrap().definition } else { Vec::new() },
        };
        Event { name: "moved".to_owned(), versions: vec![version(0), version(1)] }
    }

    /// The event with another version.
    fn then(mut event: Event, fields: &[&str]) -> Event {
        let number = event.versions.len() as i32 + 1;
        event.versions.push(Version {
            number,
            fields: fields.iter().map(|name| field(name)).collect(),
            steps: Vec::new(),
        });
        event
    }

    /// What a field is of an event of version 1, for a model that reads `fields`.
    fn read(event: &Event, fields: &[&str], payload: &str) -> Vec<Option<String>> {
        let need = Need { fields: fields.iter().map(|name| (*name).to_owned()).collect(), each: None };
        let batch = RecordBatch::try_from_iter([
            ("event_type", Arc::new(StringArray::from(vec!["moved"])) as arrow::array::ArrayRef),
            ("event_version", Arc::new(Int32Array::from(vec![1]))),
            ("payload", Arc::new(BinaryArray::from(vec![payload.as_bytes()]))),
        ]);
        let [whole, narrow] = [event.clone(), need.of(event)].map(|event| {
            let decoded = Decoder::new(&event, &need).unwrap();
            let decoded = decoded.decode(batch.as_ref().unwrap(), &BooleanArray::from(vec![true])).unwrap();
            let value = |name: &&str| {
                let column = decoded.fields.column_by_name(name).unwrap().as_string::<i32>();
                column.is_valid(0).then(|| column.value(0).to_owned())
            };
            fields.iter().map(value).collect::<Vec<_>>()
        });
        assert_eq!(whole, narrow, "what is not needed changes nothing");
        whole
    }

    #[test]
    fn a_field_is_the_same_whatever_else_is_read() {
        let some = |text: &str| Some(text.to_owned());
        // The name of what was renamed has another meaning since.
        let renamed = event([&["place", "note"], &["place", "town"]], "- rename: { from: place, to: town }");
        let payload = r#"{"place":"Bern","note":"x"}"#;
        assert_eq!(read(&renamed, &["place", "town"], payload), [None, some("Bern")]);
        assert_eq!(read(&renamed, &["town"], payload), [some("Bern")]);
        assert_eq!(read(&renamed, &["place"], payload), [None]);

        let made = "- sql: { field: long, expression: \"place || '!'\" }\n- rename: { from: place, to: town }";
        let made = event([&["place"], &["place", "town", "long"]], made);
        assert_eq!(read(&made, &["long", "place", "town"], payload), [some("Bern!"), None, some("Bern")]);
        assert_eq!(read(&made, &["long", "place"], payload), [some("Bern!"), None]);
        assert_eq!(read(&made, &["long"], payload), [some("Bern!")]);

        // Names are written as one likes.
        let long = event([&["place"], &["long"]], "- sql: { field: long, expression: \"Place || '!'\" }");
        assert_eq!(read(&long, &["long"], payload), [some("Bern!")]);
        // A version that had no such field, between two that have.
        let long = then(long, &["long", "place"]);
        assert_eq!(read(&long, &["place"], payload), [None]);
        assert_eq!(read(&long, &["place", "long"], payload), [None, some("Bern!")]);

        let dropped = event([&["place"], &["place"]], "- drop: { field: place }");
        assert_eq!(read(&dropped, &["place"], payload), [None]);
    }

    #[test]
    fn what_was_read_is_found_in_what_is_written() {
        let whole = event([&["place", "note"], &["town", "memo"]], "- rename: { from: place, to: town }");
        let elements = Field { kind: FieldKind::Each(vec![field("sku"), field("price")]), ..field("lines") };
        let whole = Event {
            versions: whole
                .versions
                .into_iter()
                .map(|version| Version { fields: [version.fields, vec![elements.clone()]].concat(), ..version })
                .collect(),
            ..whole
        };
        let need = |each: Option<&str>| Need {
            fields: BTreeSet::from(["town".to_owned()]),
            each: each.map(|sku| ("lines".to_owned(), BTreeSet::from([sku.to_owned()]))),
        };
        for need in [need(None), need(Some("sku"))] {
            let written = need.of(&whole).as_written();
            assert_eq!(Need::written(&written), need);
            assert_eq!(Need::written(&written).of(&whole).as_written(), written);
        }
        assert_eq!(Need::written(&Value::Null), Need::default());
    }

    #[test]
    fn what_nobody_reads_is_not_needed() {
        let whole = event([&["place", "note"], &["town", "memo"]], "- rename: { from: place, to: town }");
        let need = |name: &str| Need { fields: BTreeSet::from([name.to_owned()]), each: None };
        let shown = |event: &Event| {
            let version = |version: &Version| {
                let names: Vec<&str> = version.fields.iter().map(|field| field.name.as_str()).collect();
                format!("{}: {} ({} steps)", version.number, names.join(", "), version.steps.len())
            };
            event.versions.iter().map(version).collect::<Vec<_>>()
        };
        assert_eq!(shown(&need("town").of(&whole)), ["1: place (0 steps)", "2: town (1 steps)"]);
        assert_eq!(shown(&need("memo").of(&whole)), ["1:  (0 steps)", "2: memo (0 steps)"]);
    }

    #[test]
    fn what_a_version_says_has_its_types_before_the_next_one_goes_on() {
        // Of the second version `place` is a number, and others map what they do not know to nothing.
        let typed = |name: &str, of: FieldType| Field { kind: FieldKind::Value(of), ..field(name) };
        let mapped = "- map_values: { field: note, values: { a: b }, otherwise: null }";
        let mapped: Vec<crate::define::Step> = parse_text(mapped, "steps.yaml").unwrap().definition;
        let versions = vec![
            Version { number: 1, fields: vec![field("place"), field("note")], steps: Vec::new() },
            Version {
                number: 2,
                fields: vec![typed("place", FieldType::Int), field("note")],
                steps: mapped.iter().flat_map(crate::define::Step::plain).collect(),
            },
            Version { number: 3, fields: vec![field("place"), field("note")], steps: Vec::new() },
        ];
        let event = Event { name: "moved".to_owned(), versions };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(read(&event, &["place", "note"], r#"{"place":"007","note":"a"}"#), [some("7"), some("b")]);
        assert_eq!(read(&event, &["note"], r#"{"place":"007","note":"x"}"#), [None]);
        let need = Need { fields: BTreeSet::from(["place".to_owned()]), each: None };
        let batch = RecordBatch::try_from_iter([
            ("event_type", Arc::new(StringArray::from(vec!["moved"])) as arrow::array::ArrayRef),
            ("event_version", Arc::new(Int32Array::from(vec![1]))),
            ("payload", Arc::new(BinaryArray::from(vec![br#"{"place":"Bern"}"#.as_slice()]))),
        ]);
        let decoded = Decoder::new(&event, &need).unwrap();
        let decoded = decoded.decode(&batch.unwrap(), &BooleanArray::from(vec![true])).unwrap();
        assert_eq!(decoded.rejects, [(0, "`place`: `Bern` is not of type int".to_owned())]);
    }
}
