//! Resolving facts: rows, grain, roles, measures.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field as ArrowField, Schema, SchemaRef};

use super::dimension::{event_columns, is_narrow};
use super::{Model, Resolving, check_name, columns};
use crate::define::{
    Additivity, FactFile, FieldType, History, ModelName, Parsed, Place, Placed, Problem, Role as RoleFile, suggestion,
};
use crate::dimension::Target;
use crate::events::{Event, Field, Need};
use crate::expression::{Compiler, Expression, castable, is_key_of};
use crate::fact::{Column, ColumnKind, Fact, Role};

impl Resolving<'_> {
    pub(super) fn facts(&mut self) {
        let definitions = self.definitions;
        for (domain, parsed) in &definitions.facts {
            let before = self.problems.len();
            let fact = self.fact(domain, parsed);
            if let (Some(fact), true) = (fact, self.problems.len() == before) {
                self.models.models.push(Model::Fact(Arc::new(fact)));
            }
        }
    }

    fn fact(&mut self, domain: &str, parsed: &Parsed<FactFile>) -> Option<Fact> {
        let (file, file_name) = (&parsed.definition, &parsed.file);
        let from_place = file.from.place(file_name);
        let stream = self.stream_for(domain, &file.from.stream, &from_place)?;
        let event = self.event_for(&stream, &file.from.event, &from_place)?;
        let schema = self.row_schema(&event, file.from.each.as_deref(), &from_place)?;
        let compiler = Compiler::new(&schema).ok()?;
        let filter = match &file.filter {
            None => None,
            Some(text) => {
                let place = text.place(file_name);
                let filter = self.compile(&compiler, text, &place);
                if let Some(filter) = &filter
                    && *filter.data_type() != DataType::Boolean
                {
                    self.problem(Problem::new(
                        place,
                        format!("`{}` is {}, not true or false", text.value, FieldType::name_of(filter.data_type())),
                    ));
                }
                filter
            }
        };
        let mut columns = Vec::new();
        for (name, column) in &file.degenerate {
            let place = column.place(file_name);
            let text = column.expression.as_deref().unwrap_or(name);
            let kind = ColumnKind::Degenerate;
            columns.extend(self.column(
                &compiler,
                name,
                text,
                column.field_type,
                kind,
                column.description.as_ref(),
                &place,
            ));
        }
        for (name, measure) in &file.measures {
            let place = measure.place(file_name);
            let text = measure.expression.as_deref().unwrap_or(name);
            let kind = ColumnKind::Measure(measure.additive);
            let column =
                self.column(&compiler, name, text, measure.field_type, kind, measure.description.as_ref(), &place);
            if let Some(column) = &column
                && measure.additive != Additivity::None
                && !column.field_type.adds_exactly()
            {
                let (message, hint) = match column.field_type {
                    FieldType::Double => (
                        format!("sums of `{name}` (double) would depend on their order"),
                        "declare a decimal or an integer `type`, or `additive: none`",
                    ),
                    other => (
                        format!("`{name}` is {other}, which has no sum"),
                        "declare it `additive: none`, or under `degenerate`",
                    ),
                };
                self.problem(Problem::new(place, message).hint(hint));
            }
            columns.extend(column);
        }
        let roles = self.roles(domain, file, &compiler, file_name);
        let mut need =
            Need { fields: BTreeSet::new(), each: file.from.each.clone().map(|each| (each, BTreeSet::new())) };
        let read =
            filter.iter().chain(columns.iter().map(|c| &c.expression)).chain(roles.iter().flat_map(|role| &role.key));
        for name in read.flat_map(Expression::columns) {
            if event.newest().field(name).is_some_and(|field| field.field_type().is_some()) {
                need.fields.insert(name.clone());
            } else if let Some((_, fields)) = &mut need.each
                && !super::stream::BUILT_IN.contains(&name.as_str())
            {
                fields.insert(name.clone());
            }
        }
        // What the rows will have at building: built-in columns, then only those needed.
        let mut all = need.fields.clone();
        all.extend(need.each.iter().flat_map(|(_, fields)| fields.iter().cloned()));
        let (built_in, own): (Vec<ArrowField>, Vec<ArrowField>) = schema
            .fields()
            .iter()
            .map(|field| field.as_ref().clone())
            .filter(|column| is_narrow(column.name(), &all))
            .partition(|column| super::stream::BUILT_IN.contains(&column.name().as_str()));
        let schema: SchemaRef = Arc::new(Schema::new([built_in, own].concat()));
        let compiler = Compiler::new(&schema).ok()?;
        let again = |expression: &mut Expression| {
            if let Ok(compiled) = compiler.compile(expression.text()) {
                *expression = compiled;
            }
        };
        let (mut filter, mut columns, mut roles) = (filter, columns, roles);
        filter.iter_mut().for_each(again);
        columns.iter_mut().for_each(|column| again(&mut column.expression));
        roles.iter_mut().flat_map(|role| &mut role.key).for_each(again);
        let fact = Fact {
            name: ModelName::new(domain, &file.fact),
            description: file.description.clone(),
            definition: serde_json::to_value(file).unwrap_or_default(),
            fingerprint: String::new(),
            stream: stream.name.clone(),
            event: file.from.event.clone(),
            event_definition: event,
            need,
            row_schema: schema,
            filter,
            roles,
            columns,
            grain: file.grain.0.clone(),
        };
        self.fact_columns(&fact, file, file_name);
        Some(fact)
    }

    /// The columns that SQL sees of a row: the event's, the element's, and those that every row has.
    fn row_schema(&mut self, event: &Event, each: Option<&str>, place: &Place) -> Option<SchemaRef> {
        let mut columns = event_columns(event);
        columns.push(ArrowField::new("ordinal", DataType::Int32, true));
        if let Some(each) = each {
            let elements = event.newest().field(each).and_then(Field::elements);
            let Some(elements) = elements else {
                let lists = event.newest().fields.iter().filter(|field| field.elements().is_some());
                let hint = suggestion(each, lists.map(|field| field.name.as_str()));
                self.problem(
                    Problem::new(place.clone(), format!("`{}` has no elements `{each}`", event.name)).hint(hint),
                );
                return None;
            };
            for element in elements {
                if columns.iter().any(|column| column.name() == &element.name) {
                    let message = format!("`{}` is a field of the event and of its elements `{each}`", element.name);
                    self.problem(
                        Problem::new(place.clone(), message).hint("give one of them another name and a `path`"),
                    );
                    return None;
                }
                columns.extend(element.field_type().map(|t| ArrowField::new(&element.name, t.arrow(), true)));
            }
        }
        Some(Arc::new(Schema::new(columns)))
    }

    #[expect(clippy::too_many_arguments, reason = "one call for each part of a column's definition")]
    fn column(
        &mut self,
        compiler: &Compiler,
        name: &str,
        text: &str,
        field_type: Option<FieldType>,
        kind: ColumnKind,
        description: Option<&String>,
        place: &Place,
    ) -> Option<Column> {
        let expression = self.compile(compiler, text, place)?;
        let own = FieldType::of(expression.data_type());
        let Some(field_type) = field_type.or(own) else {
            let message = format!("`{text}` is {}, which no column has", expression.data_type());
            self.problem(Problem::new(place.clone(), message).hint("declare its `type`"));
            return None;
        };
        if !castable(expression.data_type(), &field_type.arrow()) {
            let message =
                format!("`{text}` is {}, and `{name}` is {field_type}", FieldType::name_of(expression.data_type()));
            self.problem(Problem::new(place.clone(), message));
            return None;
        }
        Some(Column { name: name.to_owned(), expression, field_type, kind, description: description.cloned() })
    }

    fn roles(&mut self, domain: &str, file: &FactFile, compiler: &Compiler, file_name: &str) -> Vec<Role> {
        let fact = ModelName::new(domain, &file.fact);
        let mut roles = Vec::new();
        for (name, role) in &file.dimensions {
            let place = role.place(file_name);
            if let Some(problem) = check_name(name, &place) {
                self.problem(problem);
                continue;
            }
            let Some(target_name) = self.dimension_name(domain, &role.dimension, &place) else { continue };
            let target = self.models.get(&target_name).cloned();
            let (target, key_types) = match target {
                Some(Model::Calendar(calendar)) => {
                    (Target::Calendar { name: target_name, days: calendar.days }, vec![FieldType::Date])
                }
                Some(Model::Dimension(dimension)) => {
                    let key_types: Vec<FieldType> = dimension.key.iter().map(|(_, field_type)| *field_type).collect();
                    let versioned = !dimension.references.is_empty()
                        || dimension.attributes.iter().any(|attribute| attribute.history == History::Version)
                        || dimension.sources.iter().any(|source| source.meaning == crate::define::As::Delete);
                    let accepts = dimension.inferred_from.contains(&fact);
                    let key_types_of = key_types.clone();
                    (Target::Dimension { name: target_name, key_types: key_types_of, versioned, accepts }, key_types)
                }
                Some(Model::Fact(_) | Model::Sql(_)) | None => {
                    self.no_dimension(&target_name, place);
                    continue;
                }
            };
            if role.key.0.len() != key_types.len() {
                let message = format!(
                    "the key of `{}` has {}, not {}",
                    role.dimension,
                    columns(key_types.len()),
                    role.key.0.len()
                );
                self.problem(Problem::new(place, message));
                continue;
            }
            let Some(key) = self.compile_all(compiler, &role.key.0, &place) else { continue };
            for (expression, key_type) in key.iter().zip(&key_types) {
                if !is_key_of(expression.data_type(), &key_type.arrow()) {
                    let own = FieldType::name_of(expression.data_type());
                    let message =
                        format!("`{}` is {own}, and the key of `{}` is {key_type}", expression.text(), role.dimension);
                    let hint = "write a key of that type; CAST(… AS …) where it is another on purpose";
                    self.problem(Problem::new(place.clone(), message).hint(hint));
                }
            }
            roles.push(Role { name: name.clone(), target, key, description: role.description.clone() });
        }
        roles
    }

    fn fact_columns(&mut self, fact: &Fact, file: &FactFile, file_name: &str) {
        let schema = fact.schema();
        let mut names = BTreeSet::new();
        for field in schema.fields() {
            let named = field.name().as_str();
            let place = file.degenerate.get(named).map(|c| c.place(file_name));
            let place = place.or_else(|| file.measures.get(named).map(|c| c.place(file_name)));
            let place = place.or_else(|| role_of(file, named).map(|(_, role)| role.place(file_name)));
            let place = place.unwrap_or_else(|| file.fact.place(file_name));
            self.problems.extend(check_name(named, &place));
            if !names.insert(named) {
                self.problem(
                    Problem::new(place, format!("the fact has two columns `{named}`")).hint("rename one of them"),
                );
            }
        }
        let place = file.grain.place(file_name);
        if file.grain.0.is_empty() {
            self.problem(
                Problem::new(place, "the fact has no grain").hint("name the columns that tell its rows apart"),
            );
            return;
        }
        for (index, column) in file.grain.0.iter().enumerate() {
            let is_wrong_itself = file.degenerate.contains_key(column)
                || file.measures.contains_key(column)
                || role_of(file, column).is_some_and(|(name, _)| !fact.roles.iter().any(|role| role.name == *name));
            if !names.contains(column.as_str()) && !is_wrong_itself {
                let hint = suggestion(column, names.iter().copied());
                self.problem(Problem::new(place.clone(), format!("the fact has no column `{column}`")).hint(hint));
            } else if file.grain.0[..index].contains(column) {
                self.problem(Problem::new(place.clone(), format!("the grain names `{column}` twice")));
            }
        }
    }
}

/// The role that the column `name` is of.
fn role_of<'a>(file: &'a FactFile, name: &str) -> Option<(&'a String, &'a Placed<RoleFile>)> {
    let role = name.strip_suffix("_durable_key").or_else(|| name.strip_suffix("_key"))?;
    file.dimensions.get_key_value(role)
}
