//! Resolving dimensions: sources, attributes, references, who may infer members.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field as ArrowField, Schema, SchemaRef};
use indexmap::IndexMap;
use starmere_lake::events::timestamp;

use super::{Model, Resolving, beginning, check_name, columns};
use crate::define::{
    As, DimensionFile, DimensionSource, FieldType, Histories, History, ModelName, Names, Parsed, Place, Placed,
    Problem, SpecialMembers, suggestion,
};
use crate::dimension::{AttributeColumn, Dimension, Mini, Reference, Source, Target};
use crate::events::{Event, Need, Stream};
use crate::expression::{Compiler, Expression, castable, is_key_of};

/// The columns that SQL sees of an event's own fields.
pub(super) fn event_columns(event: &Event) -> Vec<ArrowField> {
    let mut columns =
        vec![ArrowField::new("occurred_at", timestamp(), true), ArrowField::new("event_id", DataType::Utf8, true)];
    let values = event
        .newest()
        .fields
        .iter()
        .filter_map(|field| Some(ArrowField::new(&field.name, field.field_type()?.arrow(), true)));
    columns.extend(values);
    columns
}

/// Whether the column is among those that rows have when a model is built.
pub(super) fn is_narrow(name: &str, needed: &BTreeSet<String>) -> bool {
    super::stream::BUILT_IN.contains(&name) || needed.contains(name)
}

impl Resolving<'_> {
    pub(super) fn dimensions(&mut self) {
        let definitions = self.definitions;
        for (domain, parsed) in &definitions.dimensions {
            let file = &parsed.definition;
            if file.calendar.is_some() || file.time_of_day.is_some() || file.bands.is_some() {
                continue;
            }
            let before = self.problems.len();
            let dimension = match &file.junk {
                Some(junk) => self.junk(domain, parsed, junk),
                None => self.dimension(domain, parsed),
            };
            if let (Some(dimension), true) = (dimension, self.problems.len() == before) {
                let histories = self.minis(&dimension, &parsed.file);
                self.models.models.push(Model::Dimension(Arc::new(dimension)));
                self.models.models.extend(histories.into_iter().map(|of| Model::Dimension(Arc::new(of))));
            }
        }
    }

    fn dimension(&mut self, domain: &str, parsed: &Parsed<DimensionFile>) -> Option<Dimension> {
        let (file, name) = (&parsed.definition, &parsed.file);
        let own_place = file.dimension.place(name);
        let before = self.problems.len();
        let Some(key) = file.key.as_ref().filter(|key| !key.0.is_empty()) else {
            let hint = "name the natural key (`key: customer_id`), or generate a `calendar`";
            self.problem(Problem::new(own_place, "the dimension has no key").hint(hint));
            return None;
        };
        if file.from.is_empty() {
            self.problem(
                Problem::new(own_place, "the dimension has no events")
                    .hint("say under `from` what its members come from"),
            );
            return None;
        }
        self.columns_are_distinct(file, key, name);
        let (mut sources, mut places): (Vec<Source>, Vec<Place>) = (Vec::new(), Vec::new());
        let mut key_types: Vec<Option<FieldType>> = vec![None; key.0.len()];
        let mut stream_name: Option<String> = None;
        for source in &file.from {
            let place = source.place(name);
            stream_name = source.stream.clone().or(stream_name);
            let Some(stream_name) = &stream_name else {
                self.problem(Problem::new(place, "the source does not say its stream").hint("add `stream: name`"));
                continue;
            };
            let Some(stream) = self.stream_for(domain, stream_name, &place) else { continue };
            if !self.are_named(&source.event, &place) {
                continue;
            }
            self.known_names(source.key.keys(), &key.0, "a part of the key", &place);
            let attribute_names: Vec<String> = file.attributes.keys().cloned().collect();
            self.known_names(source.set.keys(), &attribute_names, "an attribute", &place);
            for event in &source.event.0 {
                let Some(event) = self.event_for(&stream, event, &place) else { continue };
                let since = self.problems.len();
                if let Some(resolved) = self.source(parsed, source, &stream, &event, &mut key_types) {
                    sources.push(resolved);
                    places.push(place.clone());
                }
                self.name_events(&source.event, &event.name, since);
            }
        }
        let named: usize = file.from.iter().map(|source| source.event.0.len()).sum();
        if self.problems.len() == before && sources.len() == named {
            self.nothing_is_unset(file, &sources, name);
            self.is_of_one_kind(file, &sources, &places);
        }
        let key_columns = key.0.iter().zip(key_types).map(|(column, field_type)| Some((column.clone(), field_type?)));
        let key_columns = key_columns.collect::<Option<Vec<_>>>()?;
        let references = self.references(domain, file, name);
        let minis = self.mini_attributes(domain, file, name);
        let apart: Vec<usize> = minis.iter().flat_map(|mini| mini.attributes.iter().copied()).collect();
        let inferred_from = file.inferred_from.iter().filter_map(|from| self.model_name(from, name)).collect();
        Some(Dimension {
            name: ModelName::new(domain, &file.dimension),
            description: file.description.clone(),
            definition: serde_json::to_value(file).unwrap_or_default(),
            fingerprint: String::new(),
            key: key_columns,
            attributes: file
                .attributes
                .iter()
                .enumerate()
                .map(|(index, (name, attribute))| AttributeColumn {
                    name: name.clone(),
                    apart: apart.contains(&index),
                    field_type: attribute.field_type,
                    history: attribute.history.history,
                    beside: attribute.history.beside.clone(),
                    description: attribute.description.clone(),
                })
                .collect(),
            references,
            sources,
            inferred_from,
            mentions: Vec::new(),
            members: file.members.clone(),
            junk: false,
            minis,
            keys_of: None,
        })
    }

    /// What events of one type say about members.
    fn source(
        &mut self,
        parsed: &Parsed<DimensionFile>,
        source: &Placed<DimensionSource>,
        stream: &Stream,
        event: &Event,
        key_types: &mut [Option<FieldType>],
    ) -> Option<Source> {
        let (file, name) = (&parsed.definition, &parsed.file);
        let place = source.place(name);
        let key = file.key.as_ref()?;
        let schema: SchemaRef = Arc::new(Schema::new(event_columns(event)));
        let compiler = Compiler::new(&schema).ok()?;
        let keys = key.0.iter().map(|column| source.key.get(column).unwrap_or(column).clone()).collect::<Vec<_>>();
        let mut key_expressions = self.compile_all(&compiler, &keys, &place)?;
        for ((known, expression), column) in key_types.iter_mut().zip(&key_expressions).zip(&key.0) {
            let own = FieldType::of(expression.data_type());
            let message = match (*known, own) {
                (Some(first), _) if !castable(expression.data_type(), &first.arrow()) => {
                    let own = FieldType::name_of(expression.data_type());
                    format!("`{}` is {own}, and `{column}` is {first} in the source before", expression.text())
                }
                (None, None) => {
                    let own = FieldType::name_of(expression.data_type());
                    format!("`{}` is {own}, which no key has", expression.text())
                }
                (known_before, _) => {
                    *known = known_before.or(own);
                    continue;
                }
            };
            self.problem(Problem::new(place.clone(), message));
        }
        let mut set = Vec::new();
        let mut references = Vec::new();
        if source.meaning != As::Delete {
            for (index, (attribute, definition)) in file.attributes.iter().enumerate() {
                let text = match source.set.get(attribute) {
                    Some(text) => text,
                    // An event need not speak of every attribute.
                    None if schema.field_with_name(attribute).is_err() => continue,
                    None => attribute,
                };
                let Some(expression) = self.compile(&compiler, text, &place) else { continue };
                if !castable(expression.data_type(), &definition.field_type.arrow()) {
                    let own = FieldType::name_of(expression.data_type());
                    let message = format!("`{text}` is {own}, and `{attribute}` is {}", definition.field_type);
                    self.problem(Problem::new(place.clone(), message));
                }
                set.push((index, expression));
            }
            for (index, reference) in file.references.values().enumerate() {
                let place = reference.place(name);
                let parts: Vec<_> = reference.key.0.iter().map(|text| (text, compiler.compile(text).ok())).collect();
                let is_said = |part: &Option<Expression>| part.as_ref().is_some_and(|p| !p.columns().is_empty());
                if let (Some((missing, _)), As::Patch) = (parts.iter().find(|(_, part)| part.is_none()), source.meaning)
                {
                    if let Some((said, _)) = parts.iter().find(|(_, part)| is_said(part)) {
                        let event = &event.name;
                        let message =
                            format!("`{event}` says `{said}`, and not `{missing}`: whom it refers to only in part");
                        let hint = "give the event all fields of the reference's key, or none";
                        self.problem(Problem::new(place, message).hint(hint));
                    }
                    continue;
                }
                if let Some(expressions) = self.compile_all(&compiler, &reference.key.0, &place) {
                    references.push((index, expressions));
                }
            }
        }
        let mut filter = source.filter.as_ref().and_then(|text| self.condition_of(&compiler, text, &place));
        let mut rules = self.rules(&compiler, &source.rules, &place);
        let mut need = Need::default();
        let expressions =
            key_expressions.iter().chain(set.iter().map(|(_, e)| e)).chain(references.iter().flat_map(|(_, e)| e));
        need.fields.extend(
            expressions
                .chain(&filter)
                .chain(rules.iter().map(|rule| &rule.holds))
                .flat_map(Expression::columns)
                .filter(|name| !super::stream::BUILT_IN.contains(&name.as_str()))
                .cloned(),
        );
        // What the rows will have at building: only the columns needed.
        let narrow: Vec<ArrowField> =
            event_columns(event).into_iter().filter(|c| is_narrow(c.name(), &need.fields)).collect();
        let compiler = Compiler::new(&Arc::new(Schema::new(narrow))).ok()?;
        let again = |expression: &mut Expression| {
            if let Ok(compiled) = compiler.compile(expression.text()) {
                *expression = compiled;
            }
        };
        key_expressions.iter_mut().for_each(again);
        set.iter_mut().for_each(|(_, expression)| again(expression));
        references.iter_mut().flat_map(|(_, expressions)| expressions).for_each(again);
        filter.iter_mut().for_each(again);
        rules.iter_mut().map(|rule| &mut rule.holds).for_each(again);
        Some(Source {
            stream: stream.name.clone(),
            event: event.name.clone(),
            meaning: source.meaning,
            need,
            definition: event.clone(),
            key: key_expressions,
            set,
            references,
            filter,
            rules,
        })
    }

    /// A dimension of combinations of values that facts mention.
    fn junk(
        &mut self,
        domain: &str,
        parsed: &Parsed<DimensionFile>,
        junk: &Placed<IndexMap<String, FieldType>>,
    ) -> Option<Dimension> {
        let (file, name) = (&parsed.definition, &parsed.file);
        let place = junk.place(name);
        let is_plain = file.key.is_none() && file.from.is_empty() && file.attributes.is_empty();
        if !is_plain || !file.references.is_empty() || !file.mini.is_empty() {
            let message = "a junk dimension has no key, sources, attributes or references";
            self.problem(Problem::new(place, message).hint("its columns go under `junk`, with their types"));
            return None;
        }
        if junk.is_empty() || file.inferred_from.is_empty() {
            let message = "a junk dimension has columns, and facts that mention them";
            let hint = "name columns with types under `junk`, and facts under `inferred_from`";
            self.problem(Problem::new(place, message).hint(hint));
            return None;
        }
        let key = Names(junk.keys().cloned().collect());
        self.columns_are_distinct(file, &junk.at(key), name);
        let inferred_from = file.inferred_from.iter().filter_map(|from| self.model_name(from, name)).collect();
        Some(Dimension {
            name: ModelName::new(domain, &file.dimension),
            description: file.description.clone(),
            definition: serde_json::to_value(file).unwrap_or_default(),
            fingerprint: String::new(),
            key: junk.iter().map(|(name, field_type)| (name.clone(), *field_type)).collect(),
            attributes: Vec::new(),
            references: Vec::new(),
            sources: Vec::new(),
            inferred_from,
            mentions: Vec::new(),
            members: file.members.clone(),
            junk: true,
            minis: Vec::new(),
            keys_of: None,
        })
    }

    /// The mini-dimensions of a dimension, checked.
    fn mini_attributes(&mut self, domain: &str, file: &DimensionFile, file_name: &str) -> Vec<Mini> {
        let mut minis: Vec<Mini> = Vec::new();
        for (name, attributes) in &file.mini {
            let place = attributes.place(file_name);
            self.problems.extend(check_name(name, &place));
            if attributes.0.is_empty() {
                self.problem(Problem::new(place.clone(), format!("`{name}` has no attributes")));
            }
            let known: Vec<String> = file.attributes.keys().cloned().collect();
            self.known_names(attributes.0.iter(), &known, "an attribute", &place);
            let mut indexes = Vec::new();
            for attribute in &attributes.0 {
                let Some((index, _, definition)) = file.attributes.get_full(attribute) else { continue };
                if indexes.contains(&index) || minis.iter().any(|mini| mini.attributes.contains(&index)) {
                    let message = format!("`{attribute}` is in a mini-dimension twice");
                    self.problem(Problem::new(place.clone(), message));
                }
                if definition.history != Histories::default() {
                    let message = format!("`{attribute}` is in `{name}`, whose combinations have the history");
                    let hint = "leave out its `history`";
                    self.problem(Problem::new(definition.place(file_name), message).hint(hint));
                }
                indexes.push(index);
            }
            minis.push(Mini { name: ModelName::new(domain, name), attributes: indexes });
        }
        minis
    }

    /// For each mini-dimension, who had which combination when: a dimension of the same members, whose versions have
    /// the keys of combinations.
    fn minis(&mut self, of: &Dimension, file_name: &str) -> Vec<Dimension> {
        let mut histories = Vec::new();
        for mini in &of.minis {
            let name = ModelName::new(&of.name.domain, &format!("{}_{}", of.name.name, mini.name.name));
            let place = Place { file: file_name.to_owned(), line: 1, column: 1 };
            for taken in [&name, &mini.name] {
                if self.is_defined(taken) || self.minis.contains_key(taken) {
                    let message = format!("`{taken}` is a model, and a mini-dimension of `{}` makes it", of.name);
                    self.problem(Problem::new(place.clone(), message).hint("rename one of them"));
                }
            }
            let kept = |index: usize| mini.attributes.iter().position(|of| *of == index);
            let attributes = mini.attributes.iter().map(|&index| AttributeColumn {
                history: History::Version,
                apart: false,
                ..of.attributes[index].clone()
            });
            let sources = of.sources.iter().cloned().map(|mut source| {
                source.set = source.set.into_iter().filter_map(|(index, text)| Some((kept(index)?, text))).collect();
                source.references.clear();
                source
            });
            self.minis.insert(mini.name.clone(), (name.clone(), of.name.clone()));
            histories.push(Dimension {
                name,
                description: Some(format!("Who of {} had which {}, and when", of.name.name, mini.name.name)),
                attributes: attributes.collect(),
                sources: sources.collect(),
                references: Vec::new(),
                inferred_from: Vec::new(),
                minis: Vec::new(),
                keys_of: Some(mini.name.clone()),
                members: SpecialMembers::default(),
                ..of.clone()
            });
        }
        histories
    }

    /// An attribute or a reference that no event speaks of would never have a value.
    fn nothing_is_unset(&mut self, file: &DimensionFile, sources: &[Source], file_name: &str) {
        let fields = sources.iter().flat_map(|source| &source.definition.newest().fields);
        let fields: BTreeSet<&str> = fields.map(|field| field.name.as_str()).collect();
        for (index, (name, attribute)) in file.attributes.iter().enumerate() {
            if !sources.iter().any(|source| source.set.iter().any(|(of, _)| *of == index)) {
                let hint = suggestion(name, fields.iter().copied());
                let message = format!("no event has a field `{name}`, and no `set` says what it is");
                self.problem(Problem::new(attribute.place(file_name), message).hint(hint));
            }
        }
        for (index, (name, reference)) in file.references.iter().enumerate() {
            if !sources.iter().any(|source| source.references.iter().any(|(of, _)| *of == index)) {
                let message = format!("no event has what the key of `{name}` is made of");
                self.problem(Problem::new(reference.place(file_name), message));
            }
        }
    }

    /// Members of several kinds under one roof share no attribute, unless one says of which kind they are: an abstract generic
    /// dimension.
    fn is_of_one_kind(&mut self, file: &DimensionFile, sources: &[Source], places: &[Place]) {
        let constant = |source: &Source, attribute: usize| {
            let of = source.set.iter().find(|(index, value)| *index == attribute && value.columns().is_empty());
            of.map(|(_, value)| value.text().to_owned())
        };
        let said = |source: &Source| -> BTreeSet<usize> {
            let set = source.set.iter().filter(|(_, value)| !value.columns().is_empty());
            set.map(|(attribute, _)| *attribute).collect()
        };
        let all = |source: &Source| -> BTreeSet<usize> { source.set.iter().map(|(attribute, _)| *attribute).collect() };
        let key = |source: &Source| source.key.iter().map(|part| part.text().to_owned()).collect::<Vec<_>>();
        let are_apart = |a: &Source, b: &Source| {
            let are_whole = [a, b].iter().all(|source| source.meaning == As::State && !source.set.is_empty());
            let is_kind = |attribute: usize| match (constant(a, attribute), constant(b, attribute)) {
                (Some(a), Some(b)) => a != b,
                _ => false,
            };
            // Of one member, several events may each say a part, or each another word.
            let is_told = !said(a).is_empty() && !said(b).is_empty() && key(a) != key(b);
            (are_whole && all(a).is_disjoint(&all(b)))
                || (is_told && said(a).is_disjoint(&said(b)) && (0..file.attributes.len()).any(is_kind))
        };
        for (index, source) in sources.iter().enumerate() {
            if let Some(other) = sources[..index].iter().find(|other| are_apart(other, source)) {
                let message = format!(
                    "`{}` and `{}` tell of members of different kinds: they have no attribute in common",
                    other.event, source.event
                );
                let hint = "declare a dimension for each kind; facts then have a role for each";
                self.problem(Problem::new(places[index].clone(), message).hint(hint));
            }
        }
    }

    fn columns_are_distinct(&mut self, file: &DimensionFile, key: &Placed<crate::define::Names>, file_name: &str) {
        let own = file.dimension.as_str();
        let mut names: BTreeSet<String> =
            ["valid_from", "valid_to", "is_current", "is_deleted", "is_inferred"].map(str::to_owned).into();
        names.extend([format!("{own}_key"), format!("{own}_durable_key")]);
        let places: Vec<(String, Place)> = key
            .0
            .iter()
            .map(|name| (name.clone(), key.place(file_name)))
            .chain(file.attributes.iter().map(|(name, attribute)| (name.clone(), attribute.place(file_name))))
            .chain(file.attributes.iter().flat_map(|(name, attribute)| {
                let beside = attribute.history.beside.iter().map(|beside| beside.column(name));
                beside.map(|column| (column, attribute.place(file_name)))
            }))
            .chain(
                file.references
                    .iter()
                    .map(|(name, reference)| (format!("{name}_durable_key"), reference.place(file_name))),
            )
            .chain(
                (file.references.iter().filter(|(_, reference)| reference.as_of.is_some()))
                    .map(|(name, reference)| (format!("{name}_key"), reference.place(file_name))),
            )
            .collect();
        for (name, place) in places {
            if let Some(problem) = check_name(&name, &place) {
                self.problem(problem);
            }
            if !names.insert(name.clone()) {
                self.problem(
                    Problem::new(place, format!("the dimension has two columns `{name}`")).hint("rename one of them"),
                );
            }
        }
    }

    fn references(&mut self, domain: &str, file: &DimensionFile, file_name: &str) -> Vec<Reference> {
        let mut references = Vec::new();
        for (name, reference) in &file.references {
            let place = reference.place(file_name);
            if let Some(target) = self.dimension_name(domain, &reference.dimension, &place) {
                let as_of_version = reference.as_of.is_some();
                references.push(Reference { name: name.clone(), target, key_types: Vec::new(), as_of_version, place });
            }
        }
        references
    }

    fn model_name(&mut self, text: &Placed<String>, file_name: &str) -> Option<ModelName> {
        match text.split_once('.') {
            Some((domain, name)) if !name.contains('.') => Some(ModelName::new(domain, name)),
            _ => {
                let message = format!("`{}` is not a model", text.value);
                self.problem(Problem::new(text.place(file_name), message).hint("write domain.fact"));
                None
            }
        }
    }

    pub(super) fn known_names<'a>(
        &mut self,
        used: impl Iterator<Item = &'a String>,
        known: &[String],
        what: &str,
        place: &Place,
    ) {
        for name in used.filter(|name| !known.contains(name)) {
            let hint = suggestion(name, known.iter().map(String::as_str));
            self.problem(Problem::new(place.clone(), format!("`{name}` is not {what}")).hint(hint));
        }
    }

    pub(super) fn compile(&mut self, compiler: &Compiler, text: &str, place: &Place) -> Option<Expression> {
        match compiler.compile(text) {
            Ok(expression) => Some(expression),
            Err(reason) => {
                let message = format!("`{}`: {}", beginning(text, 80), beginning(&reason, 500));
                self.problem(Problem::new(place.clone(), message));
                None
            }
        }
    }

    pub(super) fn compile_all(
        &mut self,
        compiler: &Compiler,
        texts: &[String],
        place: &Place,
    ) -> Option<Vec<Expression>> {
        let compiled: Vec<Option<Expression>> = texts.iter().map(|text| self.compile(compiler, text, place)).collect();
        compiled.into_iter().collect()
    }

    /// Who mentions whom: references between dimensions and from facts, and whether they make members.
    pub(super) fn inferences(&mut self) {
        let mut by_name: BTreeMap<ModelName, Vec<FieldType>> = BTreeMap::new();
        let mut accepts: BTreeSet<(ModelName, ModelName)> = BTreeSet::new();
        let mut generated: BTreeMap<ModelName, &'static str> = BTreeMap::new();
        for model in &self.models.models {
            match model {
                Model::Dimension(dimension) => {
                    by_name.insert(
                        dimension.name.clone(),
                        dimension.key.iter().map(|(_, field_type)| *field_type).collect(),
                    );
                    accepts.extend(dimension.inferred_from.iter().map(|from| (dimension.name.clone(), from.clone())));
                }
                Model::Generated(model) => _ = generated.insert(model.name.clone(), model.generated.kind()),
                Model::Fact(_) | Model::Sql(_) => {}
            }
        }
        let mut problems = Vec::new();
        let mut missing: Vec<(ModelName, Place)> = Vec::new();
        let mut right: BTreeSet<String> = self.models.models.iter().map(|model| model.name().to_string()).collect();
        let mut mentions: BTreeMap<ModelName, Vec<ModelName>> = BTreeMap::new();
        for model in &mut self.models.models {
            let Model::Dimension(dimension) = model else { continue };
            let Dimension { name: child, references, sources, .. } = Arc::make_mut(dimension);
            for (index, reference) in references.iter_mut().enumerate() {
                let (place, target) = (reference.place.clone(), &reference.target);
                let Some(key_types) = by_name.get(target) else {
                    right.remove(&child.to_string());
                    missing.push((target.clone(), place));
                    continue;
                };
                let keys = sources.iter().flat_map(|source| &source.references).filter(|(of, _)| *of == index);
                problems.extend(
                    keys.filter_map(|(_, key)| key_misfit(target, key_types, key))
                        .map(|m| Problem::new(place.clone(), m)),
                );
                reference.key_types.clone_from(key_types);
                if !accepts.contains(&(target.clone(), child.clone())) {
                    let hint = format!("add `{child}` to `inferred_from` of `{target}`");
                    problems.push(
                        Problem::new(place, format!("`{target}` does not accept members that `{child}` mentions"))
                            .hint(hint),
                    );
                }
                mentions.entry(target.clone()).or_default().push(child.clone());
            }
        }
        for model in &self.models.models {
            if let Model::Fact(fact) = model {
                for role in &fact.roles {
                    if let Target::Dimension { name, .. } = &role.target {
                        mentions.entry(name.clone()).or_default().push(fact.name.clone());
                    }
                }
            }
        }
        let dimensions = self.definitions.dimensions.iter().map(|(domain, file)| (domain, &*file.definition.dimension));
        let facts = self.definitions.facts.iter().map(|(domain, file)| (domain, &*file.definition.fact));
        let defined: BTreeSet<String> =
            dimensions.chain(facts).map(|(domain, name)| ModelName::new(domain, name).to_string()).collect();
        for (domain, parsed) in &self.definitions.dimensions {
            let name = ModelName::new(domain, &parsed.definition.dimension);
            for from in &parsed.definition.inferred_from {
                let mentioned = mentions.get(&name).is_some_and(|by| by.iter().any(|by| by.to_string() == **from));
                let is_wrong_itself = defined.contains(&**from) && !right.contains(&**from);
                if by_name.contains_key(&name) && !mentioned && !is_wrong_itself {
                    let names: Vec<String> =
                        mentions.get(&name).into_iter().flatten().map(ToString::to_string).collect();
                    let hint = suggestion(from, names.iter().map(String::as_str));
                    problems.push(
                        Problem::new(from.place(&parsed.file), format!("`{}` does not mention `{name}`", from.value))
                            .hint(hint),
                    );
                }
            }
        }
        self.problems.extend(problems);
        for (target, place) in missing {
            if let Some(kind) = generated.get(&target) {
                let hint = "keep the value as an attribute";
                let message = format!("`{target}` is a {kind}, which only facts refer to");
                self.problem(Problem::new(place, message).hint(hint));
            } else {
                self.no_dimension(&target, place);
            }
        }
    }

    /// A dimension that refers to itself in a circle could never be put in order. Each circle is told once, from the
    /// least of its names.
    pub(super) fn cycles(&mut self) {
        let mut to: BTreeMap<ModelName, Vec<(ModelName, Place)>> = BTreeMap::new();
        for model in &self.models.models {
            if let Model::Dimension(dimension) = model {
                let targets = dimension.references.iter().map(|r| (r.target.clone(), r.place.clone())).collect();
                to.insert(dimension.name.clone(), targets);
            }
        }
        for start in to.keys() {
            let mut path = vec![start.clone()];
            let next = |name: &ModelName, depth: usize| {
                let targets = to.get(name).into_iter().flatten().filter(|(target, _)| target >= start);
                targets.map(|(target, place)| (target.clone(), depth, place.clone())).collect::<Vec<_>>()
            };
            let mut stack: Vec<(ModelName, usize, Place)> = next(start, 1);
            let mut seen = BTreeSet::new();
            while let Some((name, depth, place)) = stack.pop() {
                path.truncate(depth);
                path.push(name.clone());
                if name == *start {
                    let circle: Vec<String> = path.iter().map(ToString::to_string).collect();
                    let hint = "a hierarchy within one dimension is a plain attribute";
                    self.problems.push(
                        Problem::new(place, format!("references in a circle: {}", circle.join(" → "))).hint(hint),
                    );
                    break;
                }
                if seen.insert(name.clone()) {
                    stack.extend(next(&name, depth + 1));
                }
            }
        }
    }
}

/// What does not fit where `key` refers to a member of `target`.
fn key_misfit(target: &ModelName, key_types: &[FieldType], key: &[Expression]) -> Option<String> {
    if key.len() != key_types.len() {
        return Some(format!("the key of `{target}` has {}, not {}", columns(key_types.len()), key.len()));
    }
    let (expression, key_type) =
        key.iter().zip(key_types).find(|(key, of)| !is_key_of(key.data_type(), &of.arrow()))?;
    let own = FieldType::name_of(expression.data_type());
    Some(format!("`{}` is {own}, and the key of `{target}` is {key_type}", expression.text()))
}
