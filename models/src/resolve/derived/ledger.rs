//! Ledgers: corrections as reversals.
//!
//! ```text
//! rows of a fact about one thing, in order ─► each with the row after it ─► itself, and, where one follows,
//!                                                                          itself with the opposite sign, at that time
//! ```

use indexmap::IndexMap;

use super::super::Resolving;
use super::Select;
use super::star::{From, OWN, quoted, table};
use crate::define::{Additivity, LedgerFile, ModelName, Place, Problem};
use crate::fact::EVENT_STREAM;
use crate::sql_model::{Shape, Text};

/// The column that says what an entry is.
pub(super) const ENTRY: &str = "entry";

impl Resolving<'_> {
    pub(super) fn ledger(&mut self, name: &ModelName, file: &LedgerFile, file_name: &str) -> Option<Select> {
        let place = file.ledger.place(file_name);
        let star = self.star(&name.domain, &file.of, &file.of.place(file_name))?;
        self.has_own_columns(&star, &file.of.place(file_name))?;
        if !self.columns_known(&star, &file.by, "`by`", file_name) {
            return None;
        }
        if star.has(ENTRY) {
            let message = format!("`{}` has a column `{ENTRY}`, which a ledger adds", star.name);
            self.problem(Problem::new(file.of.place(file_name), message).hint("rename it in the fact"));
            return None;
        }
        let voids = match &file.voids {
            None => "false".to_owned(),
            Some(voids) => {
                let mut from = From::new(&star);
                self.condition(&mut from, Some((voids.as_str(), voids.place(file_name))))?;
                if from.sources().len() > 1 {
                    let message = "`voids` is about columns of the fact";
                    self.problem(Problem::new(voids.place(file_name), message));
                    return None;
                }
                format!("coalesce(({}), false)", voids.value)
            }
        };
        let by: Vec<String> = file.by.0.iter().map(|column| quoted(column)).collect();
        let order: Vec<String> = star.order().into_iter().map(quoted).collect();
        let window = format!("(PARTITION BY {} ORDER BY {})", by.join(", "), order.join(", "));
        let of_event = star.of_event();
        let next = of_event.iter().map(|column| format!("lead({column}) OVER {window} AS \"next {column}\""));
        let next: Vec<String> = next.collect();
        let columns = star.columns().map(|column| match star.additivity(column) {
            _ if of_event.contains(&column) => {
                format!("CASE WHEN \"its sign\" = 1 THEN {column} ELSE \"next {column}\" END AS {column}")
            }
            Some(Additivity::Full | Additivity::Semi) => format!("\"its sign\" * {0} AS {0}", quoted(column)),
            _ => quoted(column),
        });
        let columns: Vec<String> = columns.collect();
        let select = format!(
            "SELECT {}, CASE WHEN \"its sign\" = 1 THEN 'entry' ELSE 'reversal' END AS {ENTRY} FROM (\
             SELECT *, unnest(make_array(1, -1)) AS \"its sign\" FROM (\
             SELECT fact.*, {voids} AS \"is void\", {} FROM {} AS fact)) \
             WHERE NOT \"is void\" AND (\"its sign\" = 1 OR (\"next event_id\" IS NOT NULL AND {}))",
            columns.join(", "),
            next.join(", "),
            table(&star.name),
            // What is about nothing is never reversed.
            by.iter().map(|column| format!("{column} IS NOT NULL")).collect::<Vec<_>>().join(" AND "),
        );
        let mut grain = file.by.0.clone();
        let own = star.of_event().into_iter().filter(|own| ["event_id", "ordinal", EVENT_STREAM].contains(own));
        grain.extend(own.chain([ENTRY]).filter(|own| !file.by.0.iter().any(|by| by == own)).map(str::to_owned));
        let described = "`entry`, or `reversal` of the one before".to_owned();
        Some(Select {
            name: name.clone(),
            kind: "ledger",
            description: file.description.clone(),
            definition: serde_json::to_value(file).unwrap_or_default(),
            text: Text::Generated { select, watermark: None },
            place: place.clone(),
            sources: vec![star.source()],
            grain,
            grain_place: place.clone(),
            columns: IndexMap::from([(ENTRY.to_owned(), (Some(described), place))]),
            shape: Some(Shape::clone(&star.shape)),
            look_ups: Vec::new(),
        })
    }

    /// Facts of events say when, and by which event; what is made of them may not.
    pub(super) fn has_own_columns(&mut self, star: &super::star::Star, place: &Place) -> Option<()> {
        let Some(missing) = OWN.into_iter().find(|own| !star.has(own)) else { return Some(()) };
        let message = format!("`{}` has no column `{missing}`, so its rows have no order in time", star.name);
        self.problem(Problem::new(place.clone(), message).hint("name a fact of events"));
        None
    }
}
