//! Whether events are what their stream's definition says: their types, their versions and all of their fields, whether
//! a model reads these or not.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::{AsArray, BooleanArray, RecordBatch};
use starmere_lake::delta::Table;

use super::sample::of_one_value;
use super::{Decoder, Event, Need, Payloads, Stream};
use crate::{Error, Result};

/// A stream's definition, ready to judge events.
#[derive(Debug)]
pub struct Described {
    /// By event type.
    events: BTreeMap<String, Vec<Decoder>>,
    payloads: Payloads,
    table: Table,
}

impl Described {
    /// The definition of `stream`, which is stored in `table`.
    pub async fn of(stream: &Stream, table: &Table) -> Result<Self> {
        let payloads = Payloads::of(stream, table, false).await?;
        let mut events = BTreeMap::new();
        for event in &stream.events {
            events.insert(event.name.clone(), decoders(event)?);
        }
        Ok(Self { events, payloads, table: table.clone() })
    }

    /// The first row of the stream's table that is not what the definition says, and why. Rejects are not judged.
    pub fn misfit(&self, rows: &RecordBatch) -> Result<Option<(u32, String)>> {
        let rows = self.payloads.texts(rows, &self.table)?;
        let types = rows.column_by_name("event_type").and_then(|types| types.as_string_opt::<i32>());
        let types = types.ok_or_else(|| Error::Task("a batch of events has no `event_type`".to_owned()))?;
        let all = BooleanArray::from(vec![true; rows.num_rows()]);
        let unknown = (0u32..).zip(types).filter_map(|(row, name)| Some((row, name?)));
        let unknown = unknown.filter(|(_, name)| !self.events.contains_key(*name)).map(|(row, name)| {
            let hint = crate::define::suggestion(name, self.events.keys().map(String::as_str));
            (row, format!("the stream describes no event `{name}` ({hint})"))
        });
        let mut found: Vec<(u32, String)> = unknown.take(1).collect();
        let names: BTreeSet<&str> = types.iter().flatten().collect();
        for decoder in names.iter().filter_map(|name| self.events.get(*name)).flatten() {
            found.extend(decoder.decode(&rows, &all)?.rejects);
        }
        Ok(found.into_iter().min())
    }
}

/// One for the fields of the event, and one for each of its lists.
fn decoders(event: &Event) -> Result<Vec<Decoder>> {
    let newest = event.newest();
    let lists = newest.fields.iter().filter_map(|field| {
        let each = Some((field.name.clone(), of_one_value(field.elements()?)));
        Some(Need { each, ..Need::default() })
    });
    let values = Need { fields: of_one_value(&newest.fields), each: None };
    let needs = std::iter::once(values).chain(lists);
    let failed = |reason: String| Error::Task(format!("events `{}` cannot be judged: {reason}", event.name));
    let decoder = |need: Need| Decoder::new(event, &need).map(Decoder::keeping).map_err(|error| failed(error.reason));
    needs.map(decoder).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, BinaryArray, Int32Array, StringArray};
    use starmere_lake::delta::Warehouse;
    use starmere_lake::formats::Format;
    use starmere_lake::paths::TablePath;
    use starmere_lake::store::Store;

    use super::*;
    use crate::define::FieldType;
    use crate::events::{Field, FieldKind, Version};

    fn field(name: &str, required: bool, kind: FieldKind) -> Field {
        Field { name: name.to_owned(), path: name.to_owned(), required, description: None, one: false, kind }
    }

    #[tokio::test]
    async fn what_no_definition_has_is_a_misfit() {
        let value = FieldKind::Value;
        let lines = FieldKind::Each(vec![field("quantity", false, value(FieldType::Int))]);
        let fields = vec![
            field("order_id", true, value(FieldType::String)),
            field("net", false, value(FieldType::Bigint)),
            field("lines", false, lines),
        ];
        let versions = vec![Version { number: 2, fields, steps: Vec::new() }];
        let stream = Stream {
            domain: "d".to_owned(),
            name: "s".to_owned(),
            description: None,
            format: Format::default(),
            events: vec![Event { name: "placed".to_owned(), versions }],
        };
        let table = Warehouse::new(Store::memory()).table(TablePath::stream("d", "s"));
        let described = Described::of(&stream, &table).await.unwrap();
        let misfit = |events: &[(&str, i32, &str)]| {
            let types: StringArray = events.iter().map(|event| Some(event.0)).collect();
            let versions: Int32Array = events.iter().map(|event| Some(event.1)).collect();
            let payloads = BinaryArray::from_iter_values(events.iter().map(|event| event.2));
            let columns: [(&str, ArrayRef); 3] = [
                ("event_type", Arc::new(types)),
                ("event_version", Arc::new(versions)),
                ("payload", Arc::new(payloads)),
            ];
            described.misfit(&RecordBatch::try_from_iter(columns).unwrap()).unwrap()
        };
        let right = ("placed", 2, r#"{"order_id":"a","net":7,"lines":[{"quantity":1},{}],"more":true}"#);
        assert_eq!(misfit(&[right, right, ("placed", 2, r#"{"order_id":"a"}"#)]), None);
        for (wrong, reason) in [
            (("place", 2, "{}"), "the stream describes no event `place` (did you mean `placed`?)"),
            (("placed", 1, r#"{"order_id":"a"}"#), "version 1 of `placed` is not described"),
            (("placed", 2, r#"{"net":7}"#), "`order_id`"),
            (("placed", 2, r#"{"order_id":"a","net":"x"}"#), "`net`"),
            (("placed", 2, r#"{"order_id":"a","lines":{}}"#), "`lines` is not an array"),
            (("placed", 2, r#"{"order_id":"a","lines":[{"quantity":1.5}]}"#), "`quantity` of element 1"),
        ] {
            let (row, told) = misfit(&[right, wrong, wrong]).unwrap();
            assert!(row == 1 && told.contains(reason), "{row}: {told}");
        }
    }
}
