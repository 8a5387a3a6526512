//! Facts as models see them that are made of facts: columns, dimensions by role, measures; and SQL over them.

use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::TableReference;
use indexmap::IndexMap;

use super::super::{Resolving, beginning};
use crate::define::{Additivity, FieldType, ModelName, Names, Place, Placed, Problem, suggestion};
use crate::fact::{AUDIT, EVENT_STREAM};
use crate::sql_model::{Query, Shape, Source, Text, check_fragment};

/// A fact.
pub(super) struct Star {
    pub(super) name: ModelName,
    pub(super) kind: &'static str,
    pub(super) schema: SchemaRef,
    pub(super) grain: Vec<String>,
    pub(super) shape: Shape,
}

/// A query that begins at a fact, and the dimensions that it joins.
pub(super) struct From<'a> {
    pub(super) star: &'a Star,
    joined: IndexMap<String, Source>,
}

/// Columns that every fact of events has.
pub(super) const OWN: [&str; 3] = ["occurred_at", "event_id", "ordinal"];

impl Star {
    /// The fact as a table of a query.
    pub(super) fn source(&self) -> Source {
        source(&self.name, &self.schema)
    }

    pub(super) fn has(&self, column: &str) -> bool {
        self.schema.field_with_name(column).is_ok()
    }

    pub(super) fn type_of(&self, column: &str) -> Option<&DataType> {
        self.schema.field_with_name(column).ok().map(|field| field.data_type())
    }

    pub(super) fn columns(&self) -> impl Iterator<Item = &str> {
        self.schema.fields().iter().map(|field| field.name().as_str())
    }

    /// The dimension in `role`.
    pub(super) fn role(&self, role: &str) -> Option<&ModelName> {
        self.shape.roles.iter().find(|(name, _)| name == role).map(|(_, dimension)| dimension)
    }

    /// The columns of `role`: the key, and the durable key where there is one.
    pub(super) fn role_columns(&self, role: &str) -> Vec<String> {
        let names = [format!("{role}_key"), format!("{role}_durable_key")];
        names.into_iter().filter(|name| self.has(name)).collect()
    }

    /// Whether `column` is a key of a role.
    pub(super) fn is_key(&self, column: &str) -> bool {
        self.shape.roles.iter().any(|(role, _)| self.role_columns(role).iter().any(|of| of == column))
    }

    pub(super) fn additivity(&self, column: &str) -> Option<Additivity> {
        self.shape.measures.iter().find(|(name, _)| name == column).map(|(_, additive)| *additive)
    }
}

impl Star {
    /// The columns that put rows about one thing in order. Where rows say which place their event has in its source, this is the
    /// order of events; else, of those at one time, events are told apart by their ids.
    /// What is made of a fact may have several rows of one event and element, which its grain tells apart.
    pub(super) fn order(&self) -> Vec<&str> {
        let [time, rest @ ..] = OWN;
        let stream = Some(EVENT_STREAM).filter(|stream| self.has(stream));
        let place = self.audit().take(4);
        let mut order: Vec<&str> = [time].into_iter().chain(stream).chain(place).chain(rest).collect();
        for column in self.grain.iter().filter(|_| self.kind != "fact") {
            if !order.contains(&column.as_str()) {
                order.push(column);
            }
        }
        order
    }

    /// The columns that say where events are from, where it has all of them.
    fn audit(&self) -> impl Iterator<Item = &'static str> {
        let has_all = AUDIT.iter().all(|(column, _)| self.has(column));
        AUDIT.iter().map(|(column, _)| *column).filter(move |_| has_all)
    }

    /// The columns that say which event a row is of, and when and where that was.
    pub(super) fn of_event(&self) -> Vec<&'static str> {
        let stream = Some(EVENT_STREAM).filter(|stream| self.has(stream));
        OWN.into_iter().chain(stream).chain(self.audit()).collect()
    }
}

impl<'a> From<'a> {
    pub(super) fn new(star: &'a Star) -> Self {
        Self { star, joined: IndexMap::new() }
    }

    /// `FROM …`.
    pub(super) fn text(&self) -> String {
        let mut text = format!("FROM {} AS fact", table(&self.star.name));
        for (role, source) in &self.joined {
            let (alias, key) = (alias(role), quoted(&format!("{}_key", source.model.name)));
            let own = quoted(&format!("{role}_key"));
            text += &format!(" JOIN {} AS {alias} ON {alias}.{key} = fact.{own}", table(&source.model));
        }
        text
    }

    /// The tables of the query.
    pub(super) fn sources(&self) -> Vec<Source> {
        let mut sources = vec![self.star.source()];
        for source in self.joined.values() {
            if !sources.iter().any(|other| other.model == source.model) {
                sources.push(source.clone());
            }
        }
        sources
    }
}

impl Resolving<'_> {
    /// The fact `of`, in a definition of `domain`; a mistake is told at its place.
    pub(super) fn star(&mut self, domain: &str, of: &str, place: &Place) -> Option<Star> {
        let full = self.named(domain, of);
        if full.domain != domain {
            let message = format!("`{of}` is not a fact of this domain");
            let hint = "name one of this domain; a SQL model reads the ports of others";
            self.problem(Problem::new(place.clone(), message).hint(hint));
            return None;
        }
        match self.models.get(&full) {
            Some(model) => match model.shape() {
                Some(shape) => Some(Star {
                    name: full,
                    kind: model.kind(),
                    schema: model.schema(),
                    grain: model.grain().to_vec(),
                    shape,
                }),
                None => {
                    let message = format!("`{full}` is a {}, where a fact belongs", model.kind());
                    self.problem(Problem::new(place.clone(), message));
                    None
                }
            },
            None => {
                // One that is defined and is not there is wrong itself, and was told of.
                if !self.is_defined(&full) {
                    let facts = self.models.models.iter().filter(|model| model.shape().is_some());
                    let facts = facts.filter(|model| model.name().domain == domain);
                    let names: Vec<String> = facts.map(|model| model.name().name.clone()).collect();
                    let hint = suggestion(&full.name, names.iter().map(String::as_str));
                    self.problem(Problem::new(place.clone(), format!("there is no fact `{full}`")).hint(hint));
                }
                None
            }
        }
    }

    /// Joins the dimension in `role`.
    pub(super) fn join(&mut self, from: &mut From<'_>, role: &str, place: &Place) -> Option<SchemaRef> {
        let Some(model) = from.star.role(role).cloned() else {
            let hint = suggestion(role, from.star.shape.roles.iter().map(|(role, _)| role.as_str()));
            let message = format!("`{}` has no dimension `{role}`", from.star.name);
            self.problem(Problem::new(place.clone(), message).hint(hint));
            return None;
        };
        let schema = self.models.get(&model)?.schema();
        from.joined.entry(role.to_owned()).or_insert_with(|| source(&model, &schema));
        Some(schema)
    }

    /// SQL for a column of the fact, or for an attribute of the dimension in a role: `role.attribute`.
    pub(super) fn column_of(&mut self, from: &mut From<'_>, text: &str, place: &Place) -> Option<String> {
        let (schema, of, name) = match text.split_once('.') {
            None => (from.star.schema.clone(), "fact".to_owned(), text),
            Some((role, attribute)) => (self.join(from, role, place)?, alias(role), attribute),
        };
        if schema.field_with_name(name).is_err() {
            let hint = suggestion(name, schema.fields().iter().map(|field| field.name().as_str()));
            let of = text.split_once('.').map_or(from.star.name.to_string(), |(role, _)| role.to_owned());
            self.problem(Problem::new(place.clone(), format!("`{of}` has no column `{name}`")).hint(hint));
            return None;
        }
        Some(format!("{of}.{}", quoted(name)))
    }

    /// A user's expression over the fact's columns and those of its dimensions (`role.attribute`), which are joined; its
    /// type.
    pub(super) fn fragment(&mut self, from: &mut From<'_>, text: &str, place: &Place) -> Option<DataType> {
        let wrong = |reason: &str| {
            Problem::new(place.clone(), format!("`{}`: {}", beginning(text, 80), beginning(reason, 500)))
        };
        if let Err(reason) = check_fragment(text) {
            self.problem(wrong(&reason));
            return None;
        }
        let roles: Vec<String> = from.star.shape.roles.iter().map(|(role, _)| role.clone()).collect();
        for role in roles.iter().filter(|role| mentions(text, role)) {
            self.join(from, role, place)?;
        }
        let select = format!("SELECT ({text}) AS fragment {}", from.text());
        match Query::new(&Text::Users(select), &from.sources(), &[]) {
            Ok(query) if query.aggregates() => {
                self.problem(wrong("an aggregate within an expression"));
                None
            }
            Ok(query) => query.columns().into_iter().next().map(|(_, data_type)| data_type),
            Err(reason) => {
                self.problem(wrong(&reason));
                None
            }
        }
    }

    /// `WHERE …` of a user's condition, where there is one.
    pub(super) fn condition(&mut self, from: &mut From<'_>, text: Option<(&str, Place)>) -> Option<String> {
        let Some((text, place)) = text else { return Some(String::new()) };
        let data_type = self.fragment(from, text, &place)?;
        if data_type != DataType::Boolean {
            let message = format!("`{text}` is {}, not true or false", FieldType::name_of(&data_type));
            self.problem(Problem::new(place, message));
            return None;
        }
        Some(format!(" WHERE ({text})"))
    }

    /// Tells of names that are no columns of the fact, of none at all, and of those that are there twice.
    pub(super) fn columns_known(&mut self, star: &Star, names: &Placed<Names>, what: &str, file_name: &str) -> bool {
        let place = names.place(file_name);
        let before = self.problems.len();
        if names.0.is_empty() {
            self.problem(Problem::new(place.clone(), format!("{what} names no column")));
        }
        for (index, name) in names.0.iter().enumerate() {
            if !star.has(name) {
                let hint = suggestion(name, star.columns());
                let message = format!("`{}` has no column `{name}`", star.name);
                self.problem(Problem::new(place.clone(), message).hint(hint));
            } else if names.0[..index].contains(name) {
                self.problem(Problem::new(place.clone(), format!("{what} names `{name}` twice")));
            }
        }
        self.problems.len() == before
    }

    /// Tells of a measure that is none of the fact's, or that is not added exactly.
    pub(super) fn measure_of(&mut self, star: &Star, name: &str, place: &Place) -> Option<DataType> {
        let measures = star.shape.measures.iter().map(|(measure, _)| measure.as_str());
        let (Some(additive), Some(data_type)) = (star.additivity(name), star.type_of(name)) else {
            let hint = suggestion(name, measures);
            self.problem(Problem::new(place.clone(), format!("`{}` has no measure `{name}`", star.name)).hint(hint));
            return None;
        };
        if additive != Additivity::Full {
            let why = if additive == Additivity::Semi { "semi" } else { "none" };
            let message = format!("`{name}` is `additive: {why}`, so sums of it mean nothing");
            self.problem(Problem::new(place.clone(), message).hint("leave it out, or write a SQL model"));
            return None;
        }
        Some(data_type.clone())
    }
}

/// Whether `text` has `role.`.
fn mentions(text: &str, role: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == '.';
    let before = |at: usize| text[..at].chars().next_back().is_none_or(|c| !is_word(c));
    let dotted = format!("{role}.");
    text.match_indices(&dotted).any(|(at, _)| before(at))
}

pub(super) fn source(model: &ModelName, schema: &SchemaRef) -> Source {
    let reference = TableReference::partial(model.domain.clone(), model.name.clone());
    Source { reference, model: model.clone(), schema: schema.clone(), columns: None }
}

pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text of SQL.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// What a dimension in a role is called within a query.
pub(super) fn alias(role: &str) -> String {
    quoted(if role == "fact" { "of fact" } else { role })
}

pub(super) fn table(name: &ModelName) -> String {
    format!("{}.{}", quoted(&name.domain), quoted(&name.name))
}

/// `expression` as a column of a type.
pub(super) fn typed(expression: &str, field_type: Option<FieldType>) -> String {
    let name = match field_type {
        None => return format!("({expression})"),
        Some(FieldType::Timestamp) => {
            return format!("arrow_cast(({expression}), 'Timestamp(Microsecond, Some(\"UTC\"))')");
        }
        Some(FieldType::String | FieldType::Json) => "VARCHAR".to_owned(),
        Some(FieldType::Bool) => "BOOLEAN".to_owned(),
        Some(other) => other.to_string().to_uppercase(),
    };
    format!("CAST(({expression}) AS {name})")
}

/// SQL for a sum that is exact or fails: those of whole numbers and of long decimals would begin anew beyond their type.
/// `how` follows the aggregate: `FILTER …`, or `OVER …`.
pub(super) fn sum(expression: &str, data_type: &DataType, how: &str) -> String {
    match data_type {
        DataType::Int64 | DataType::UInt64 | DataType::UInt32 => {
            format!("CAST(sum(CAST({expression} AS DECIMAL(38,0))){how} AS BIGINT)")
        }
        DataType::Decimal128(precision, scale) if *precision > 28 => format!(
            "arrow_cast(sum(arrow_cast({expression}, 'Decimal256(76, {scale})')){how}, 'Decimal128(38, {scale})')"
        ),
        _ => format!("sum({expression}){how}"),
    }
}

/// The type of such a sum.
pub(super) fn sum_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Decimal128(precision, scale) => DataType::Decimal128((precision + 10).min(38), *scale),
        _ => DataType::Int64,
    }
}
