//! Resolving facts: rows, grain, roles, measures.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field as ArrowField, Schema, SchemaRef};
use indexmap::IndexMap;

use super::dimension::{event_columns, is_narrow};
use super::{Model, Resolving, check_name, columns};
use crate::define::{
    Additivity, FactFile, FactSource, FieldType, History, ModelName, Names, Parsed, Place, Placed, Problem,
    Role as RoleFile, SpecialMembers, suggestion,
};
use crate::dimension::Target;
use crate::events::{Event, Field, Need};
use crate::expression::{Compiler, Expression, Rule, castable, is_key_of};
use crate::fact::{AUDIT, Column, ColumnKind, EVENT_STREAM, Fact, Role, RoleKey, Source};

/// Events of one type, as expressions of a fact see them.
struct Rows<'a> {
    file: &'a FactSource,
    place: Place,
    stream: String,
    event: Event,
    schema: SchemaRef,
    compiler: Compiler,
}

impl Rows<'_> {
    /// What a column, or the key of a role, is in these events.
    fn text<'a>(&'a self, name: &str, otherwise: &'a [String]) -> &'a [String] {
        self.file.set.get(name).map_or(otherwise, |set: &Names| &set.0)
    }
}

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
        let (file, file_name) = (&parsed.definition, parsed.file.as_str());
        let rows = self.rows_of(domain, file, file_name)?;
        let mut filters: Vec<Option<Expression>> = Vec::new();
        let mut rules: Vec<Vec<Rule>> = Vec::new();
        for of in &rows {
            let since = self.problems.len();
            rules.push(self.rules(&of.compiler, &of.file.rules, &of.place));
            let mut texts = Vec::new();
            for (text, place) in [
                file.filter.as_ref().map(|text| (text.as_str(), text.place(file_name))),
                of.file.filter.as_ref().map(|text| (text.as_str(), of.place.clone())),
            ]
            .into_iter()
            .flatten()
            {
                self.condition_of(&of.compiler, text, &place);
                texts.push(text);
            }
            self.name_events(&of.file.event, &of.event.name, since);
            let both = texts.iter().map(|text| format!("({text})")).collect::<Vec<_>>().join(" AND ");
            let text = if texts.len() > 1 { Some(both.as_str()) } else { texts.first().copied() };
            filters.push(text.and_then(|text| of.compiler.compile(text).ok()));
        }
        let mut columns: Vec<Column> = Vec::new();
        let mut expressions: Vec<Vec<Expression>> = vec![Vec::new(); rows.len()];
        let declared = file.degenerate.iter().map(|(name, column)| {
            let (text, description) = (column.expression.as_ref(), &column.description);
            (name, text, column.field_type, ColumnKind::Degenerate, description, column.place(file_name))
        });
        let measures = file.measures.iter().map(|(name, measure)| {
            let (text, description) = (measure.expression.as_ref(), &measure.description);
            let kind = ColumnKind::Measure(measure.additive);
            (name, text, measure.field_type, kind, description, measure.place(file_name))
        });
        for (name, text, field_type, kind, description, place) in declared.chain(measures) {
            let text = [text.unwrap_or(name).clone()];
            let texts: Vec<&str> =
                rows.iter().filter_map(|of| of.text(name, &text).first().map(String::as_str)).collect();
            let Some((field_type, of_rows)) = self.column(&rows, name, &texts, field_type, &place) else { continue };
            for (expressions, expression) in expressions.iter_mut().zip(of_rows) {
                expressions.push(expression);
            }
            let column = Column { name: name.clone(), field_type, kind, description: description.clone() };
            if let ColumnKind::Measure(additive) = kind
                && additive != Additivity::None
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
            columns.push(column);
        }
        let (roles, keys) = self.roles(domain, file, &rows, file_name);
        let mut sources = Vec::new();
        for ((((of, filter), rules), columns), keys) in
            rows.into_iter().zip(filters).zip(rules).zip(expressions).zip(keys)
        {
            sources.push(narrowed(of, filter, rules, columns, keys)?);
        }
        let fact = Fact {
            name: ModelName::new(domain, &file.fact),
            description: file.description.clone(),
            definition: serde_json::to_value(file).unwrap_or_default(),
            fingerprint: String::new(),
            sources,
            roles,
            columns,
            grain: file.grain.0.clone(),
            audit: file.audit,
        };
        self.fact_columns(&fact, file, file_name);
        // A dimension that is wrong itself is told of there: who reads the fact is not told of a role that it lacks.
        (fact.roles.len() == file.dimensions.len()).then_some(fact)
    }

    /// The events of a fact, and what expressions see of them.
    fn rows_of<'a>(&mut self, domain: &str, file: &'a FactFile, file_name: &str) -> Option<Vec<Rows<'a>>> {
        let from_place = file.from.place(file_name);
        if file.from.0.is_empty() {
            let hint = "name a stream and an event: `{ stream: orders, event: order_placed }`";
            self.problem(Problem::new(from_place, "the fact has no events").hint(hint));
            return None;
        }
        let set_names: Vec<String> =
            file.degenerate.keys().chain(file.measures.keys()).chain(file.dimensions.keys()).cloned().collect();
        let mut rows: Vec<Rows<'_>> = Vec::new();
        for source in &file.from.0 {
            let place = if file.from.0.len() == 1 { from_place.clone() } else { source.place(file_name) };
            let stream = self.stream_for(domain, &source.stream, &place)?;
            if !self.are_named(&source.event, &place) {
                return None;
            }
            self.known_names(source.set.keys(), &set_names, "a column or a dimension of the fact", &place);
            for name in &source.event.0 {
                let event = self.event_for(&stream, name, &place)?;
                if rows.iter().any(|other| other.stream == stream.name && other.event.name == event.name) {
                    let message = format!("`{}` of `{}` is there twice", event.name, stream.name);
                    let hint =
                        "an event makes rows of one kind; declare another fact, and put both together with `sql`";
                    self.problem(Problem::new(place, message).hint(hint));
                    return None;
                }
                let schema = self.row_schema(&event, source.each.as_deref(), &place)?;
                let compiler = Compiler::new(&schema).ok()?;
                let (place, stream) = (place.clone(), stream.name.clone());
                rows.push(Rows { file: source, place, stream, event, schema, compiler });
            }
        }
        Some(rows)
    }

    /// The rules of a source; those that cannot be are told.
    pub(super) fn rules(&mut self, compiler: &Compiler, rules: &IndexMap<String, String>, place: &Place) -> Vec<Rule> {
        let rule = |(name, text): (&String, &String)| {
            self.problems.extend(check_name(name, place));
            Some(Rule { name: name.clone(), holds: self.condition_of(compiler, text, place)? })
        };
        rules.iter().filter_map(rule).collect()
    }

    /// An expression that is true or false.
    pub(super) fn condition_of(&mut self, compiler: &Compiler, text: &str, place: &Place) -> Option<Expression> {
        let condition = self.compile(compiler, text, place)?;
        if *condition.data_type() != DataType::Boolean {
            let message = format!("`{text}` is {}, not true or false", FieldType::name_of(condition.data_type()));
            self.problem(Problem::new(place.clone(), message));
            return None;
        }
        Some(condition)
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

    /// A column's type, and its expression over each of `rows`.
    fn column(
        &mut self,
        rows: &[Rows<'_>],
        name: &str,
        texts: &[&str],
        declared: Option<FieldType>,
        place: &Place,
    ) -> Option<(FieldType, Vec<Expression>)> {
        let mut expressions = Vec::new();
        for (of, text) in rows.iter().zip(texts) {
            let place = if of.file.set.contains_key(name) { &of.place } else { place };
            let since = self.problems.len();
            let compiled = self.compile(&of.compiler, text, place);
            self.name_events(&of.file.event, &of.event.name, since);
            expressions.push(compiled?);
        }
        // Where one kind of events has nothing, another one says the type.
        let typed = expressions.iter().find(|expression| *expression.data_type() != DataType::Null);
        let first = typed.or(expressions.first())?;
        let Some(field_type) = declared.or(FieldType::of(first.data_type())) else {
            let own = FieldType::name_of(first.data_type());
            let message = format!("`{}` is {own}, which no column has", first.text());
            self.problem(Problem::new(place.clone(), message).hint("declare its `type`"));
            return None;
        };
        for (of, expression) in rows.iter().zip(&expressions) {
            let is_null = *expression.data_type() == DataType::Null && rows.len() > 1;
            if !is_null && !castable(expression.data_type(), &field_type.arrow()) {
                let own = FieldType::name_of(expression.data_type());
                let message = format!("`{}` is {own}, and `{name}` is {field_type}", expression.text());
                let place = if of.file.set.contains_key(name) { &of.place } else { place };
                let since = self.problems.len();
                self.problem(Problem::new(place.clone(), message));
                self.name_events(&of.file.event, &of.event.name, since);
                return None;
            }
        }
        Some((field_type, expressions))
    }

    /// The roles, and for each of `rows` how they say who is in them.
    fn roles(
        &mut self,
        domain: &str,
        file: &FactFile,
        rows: &[Rows<'_>],
        file_name: &str,
    ) -> (Vec<Role>, Vec<Vec<RoleKey>>) {
        let fact = ModelName::new(domain, &file.fact);
        let (mut roles, mut keys): (Vec<Role>, Vec<Vec<RoleKey>>) = (Vec::new(), vec![Vec::new(); rows.len()]);
        for (name, role) in &file.dimensions {
            let place = role.place(file_name);
            if let Some(problem) = check_name(name, &place) {
                self.problem(problem);
                continue;
            }
            let Some((target, members)) = self.target(&fact, role, &place) else { continue };
            for (condition, text, member) in [
                (&role.not_applicable, &members.not_applicable, "not_applicable"),
                (&role.error, &members.error, "error"),
            ] {
                if condition.is_some() && text.is_none() {
                    let message = format!("`{}` has no member for `{member}`", role.dimension);
                    let hint = format!("say in the dimension what its texts are: `members: {{ {member}: … }}`");
                    self.problem(Problem::new(place.clone(), message).hint(hint));
                }
            }
            let mut of_rows: Vec<Option<RoleKey>> = Vec::new();
            for of in rows {
                let since = self.problems.len();
                of_rows.push(self.role_key(of, name, role, &target, &place));
                self.name_events(&of.file.event, &of.event.name, since);
            }
            let Some(of_rows) = of_rows.into_iter().collect::<Option<Vec<_>>>() else { continue };
            keys.iter_mut().zip(of_rows).for_each(|(keys, key)| keys.push(key));
            roles.push(Role { name: name.clone(), target, description: role.description.clone() });
        }
        (roles, keys)
    }

    /// What a role points to.
    fn target(&mut self, fact: &ModelName, role: &RoleFile, place: &Place) -> Option<(Target, SpecialMembers)> {
        let shown = self.dimension_name(&fact.domain, &role.dimension, place)?;
        // A mini-dimension's key is found in its history.
        let (name, shown) = match self.minis.get(&shown) {
            Some((history, _)) => (history.clone(), Some(shown)),
            None => (shown, None),
        };
        match self.models.get(&name).cloned() {
            Some(Model::Generated(model)) => {
                Some((Target::Generated { name, generated: model.generated }, model.members))
            }
            Some(Model::Dimension(dimension)) => {
                let key_types: Vec<FieldType> = dimension.key.iter().map(|(_, field_type)| *field_type).collect();
                let versioned = !dimension.references.is_empty()
                    || dimension.attributes.iter().any(|attribute| attribute.history == History::Version)
                    || dimension.sources.iter().any(|source| source.meaning == crate::define::As::Delete);
                let accepts = dimension.inferred_from.contains(fact);
                let versioned = versioned || shown.is_some();
                let junk = dimension.junk;
                let target = Target::Dimension { name, key_types, shown, junk, versioned, accepts };
                Some((target, dimension.members.clone()))
            }
            Some(Model::Fact(_) | Model::Sql(_)) | None => {
                self.no_dimension(&name, place.clone());
                None
            }
        }
    }

    fn role_key(
        &mut self,
        of: &Rows<'_>,
        name: &str,
        role: &RoleFile,
        target: &Target,
        place: &Place,
    ) -> Option<RoleKey> {
        let place = if of.file.set.contains_key(name) { &of.place } else { place };
        let texts = of.text(name, &role.key.0);
        let key_types = match target {
            Target::Generated { generated, .. } => &[generated.key_type()][..],
            Target::Dimension { key_types, .. } => key_types,
        };
        if texts.len() != key_types.len() {
            let message =
                format!("the key of `{}` has {}, not {}", role.dimension, columns(key_types.len()), texts.len());
            self.problem(Problem::new(place.clone(), message));
            return None;
        }
        let key = self.compile_all(&of.compiler, texts, place)?;
        for (expression, key_type) in key.iter().zip(key_types) {
            let is_value = matches!(target, Target::Generated { generated, .. } if generated.kind() != "calendar");
            let fits = is_value && castable(expression.data_type(), &key_type.arrow());
            if !fits && !is_key_of(expression.data_type(), &key_type.arrow()) {
                let own = FieldType::name_of(expression.data_type());
                let message =
                    format!("`{}` is {own}, and the key of `{}` is {key_type}", expression.text(), role.dimension);
                let hint = "write a key of that type; CAST(… AS …) where it is another on purpose";
                self.problem(Problem::new(place.clone(), message).hint(hint));
            }
        }
        let mut condition = |text: &Option<String>| match text {
            None => Some(None),
            Some(text) => self.condition_of(&of.compiler, text, place).map(Some),
        };
        Some(RoleKey { key, not_applicable: condition(&role.not_applicable)?, error: condition(&role.error)? })
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
            let is_own = file.degenerate.contains_key(named) || file.measures.contains_key(named);
            if is_own && (named == EVENT_STREAM || AUDIT.iter().any(|(column, _)| *column == named)) {
                let message = format!("`{named}` is what a fact calls the place of its events");
                let hint = "rename it; `audit: true` makes columns that say where events are from";
                self.problem(Problem::new(place.clone(), message).hint(hint));
            }
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
        let has = |name: &str| file.grain.0.iter().any(|column| column == name);
        if fact.streams().len() > 1 && has("event_id") && !has(EVENT_STREAM) {
            let message = "`event_id` tells events of one stream apart, and the fact has several";
            let hint = format!("name `{}` in the grain, too", EVENT_STREAM);
            self.problem(Problem::new(place.clone(), message).hint(hint));
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

/// The source, with its expressions over only those columns that are read when the fact is built.
fn narrowed(
    of: Rows<'_>,
    mut filter: Option<Expression>,
    mut rules: Vec<Rule>,
    mut columns: Vec<Expression>,
    mut keys: Vec<RoleKey>,
) -> Option<Source> {
    let Rows { file, stream, event, schema, .. } = of;
    let mut need = Need { fields: BTreeSet::new(), each: file.each.clone().map(|each| (each, BTreeSet::new())) };
    let of_keys = |key: &RoleKey| -> Vec<Expression> {
        key.key.iter().chain(&key.not_applicable).chain(&key.error).cloned().collect()
    };
    let of_keys: Vec<Expression> = keys.iter().flat_map(of_keys).collect();
    let of_rules = rules.iter().map(|rule| &rule.holds);
    for name in filter.iter().chain(of_rules).chain(&columns).chain(&of_keys).flat_map(Expression::columns) {
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
    let compiler = Compiler::new(&Arc::new(Schema::new([built_in, own].concat()))).ok()?;
    let again = |expression: &mut Expression| {
        if let Ok(compiled) = compiler.compile(expression.text()) {
            *expression = compiled;
        }
    };
    filter.iter_mut().for_each(again);
    rules.iter_mut().map(|rule| &mut rule.holds).for_each(again);
    columns.iter_mut().for_each(again);
    for key in &mut keys {
        key.key.iter_mut().chain(&mut key.not_applicable).chain(&mut key.error).for_each(again);
    }
    let event_name = event.name.clone();
    Some(Source { stream, event: event_name, definition: event, need, filter, rules, keys, columns })
}

/// The role that the column `name` is of.
fn role_of<'a>(file: &'a FactFile, name: &str) -> Option<(&'a String, &'a Placed<RoleFile>)> {
    let role = name.strip_suffix("_durable_key").or_else(|| name.strip_suffix("_key"))?;
    file.dimensions.get_key_value(role)
}
