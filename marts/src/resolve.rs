//! From products' definitions to ports that can be published.

use std::collections::{BTreeMap, BTreeSet};

use arrow::datatypes::SchemaRef;
use starmere_models::define::{FieldType, ModelName, Parsed, Place, Problem, suggestion};
use starmere_models::resolve::{Model, Models, check_name};

use crate::define::{PortFile, ProductFile, ports};
use crate::meaning::{Column, Described, ForeignKey, Meaning, Port};

/// Resolves all products, or tells everything that is wrong.
pub fn resolve(products: &[(String, Parsed<ProductFile>)], models: &Models) -> Result<Meaning, Vec<Problem>> {
    let mut resolving = Resolving { models, problems: Vec::new(), ports: BTreeMap::new() };
    resolving.names(products);
    for (domain, parsed) in products {
        for (name, port) in &parsed.definition.ports {
            resolving.port(domain, parsed, name, port, &port.place(&parsed.file));
        }
    }
    resolving.foreign_keys(products);
    let Resolving { mut problems, ports, .. } = resolving;
    if !problems.is_empty() {
        problems.sort();
        problems.dedup();
        return Err(problems);
    }
    let described = |name: String, kind: &str, description: Option<&str>| Described {
        name,
        kind: kind.to_owned(),
        description: description.map(str::to_owned),
    };
    Ok(Meaning {
        ports: ports.into_values().collect(),
        models: models.models.iter().map(|m| described(m.name().to_string(), m.kind(), m.description())).collect(),
        streams: models
            .streams
            .values()
            .map(|s| described(format!("lake.{}.{}", s.domain, s.name), "stream", s.description.as_deref()))
            .collect(),
    })
}

struct Resolving<'a> {
    models: &'a Models,
    problems: Vec<Problem>,
    ports: BTreeMap<String, Port>,
}

impl Resolving<'_> {
    fn names(&mut self, products: &[(String, Parsed<ProductFile>)]) {
        let mut seen: BTreeMap<String, Place> = BTreeMap::new();
        for (domain, parsed) in products {
            let file = &parsed.definition;
            let place = file.product.place(&parsed.file);
            self.problems.extend(check_name(&file.product, &place));
            if is_schema_of_its_own(&file.product) {
                let message = format!("`{}` cannot be the name of a product", *file.product);
                let hint =
                    "queries find the newest version by the product's name, and each version at `name_v1`, `name_v2` …";
                self.problems.push(Problem::new(place.clone(), message).hint(hint));
            }
            if file.ports.is_empty() {
                self.problems
                    .push(Problem::new(place.clone(), format!("the product `{}` has no ports", *file.product)));
            }
            if *file.version == 0 {
                self.problems.push(Problem::new(file.version.place(&parsed.file), "versions begin with 1"));
            }
            let name = format!("{domain}.{}_v{}", *file.product, *file.version);
            if let Some(first) = seen.insert(name.clone(), place.clone()) {
                let message = format!("the product `{name}` is defined twice");
                self.problems.push(Problem::new(place, message).hint(format!("it is also at {first}")));
            }
        }
    }

    fn port(&mut self, domain: &str, parsed: &Parsed<ProductFile>, name: &str, file: &PortFile, place: &Place) {
        self.problems.extend(check_name(name, place));
        let model_name = ModelName::new(domain, &file.model);
        let Some(model) = self.models.get(&model_name) else {
            let of_domain = self.models.models.iter().map(Model::name).filter(|model| model.domain == domain);
            let names: Vec<&str> = of_domain.map(|model| model.name.as_str()).collect();
            let (message, hint) = match file.model.contains('.') {
                true => (
                    format!("`{}` is not a model of `{domain}`", file.model),
                    "a port shows a model of its own domain, by its bare name".to_owned(),
                ),
                false => (format!("there is no model `{model_name}`"), suggestion(&file.model, names)),
            };
            self.problems.push(Problem::new(place.clone(), message).hint(hint));
            return;
        };
        if file.columns.is_empty() {
            let hint = "list under `columns` what readers may rely on";
            self.problems.push(Problem::new(place.clone(), "the port has no columns").hint(hint));
        }
        let schema = model.schema();
        let columns: Vec<Column> = file
            .columns
            .iter()
            .filter_map(|(column, definition)| {
                let place = definition.place(&parsed.file);
                self.problems.extend(check_name(column, &place));
                self.column(&schema, model, column, definition, &place)
            })
            .collect();
        let primary_key = file.primary_key.as_ref().map(|names| names.0.clone()).unwrap_or_default();
        for (index, column) in primary_key.iter().enumerate() {
            if primary_key[..index].contains(column) {
                self.problems.push(Problem::new(place.clone(), format!("the primary key names `{column}` twice")));
            }
            match file.columns.get(column) {
                None => {
                    let hint = suggestion(column, file.columns.keys().map(String::as_str));
                    let message = format!("the primary key's column `{column}` is not in the contract");
                    self.problems.push(Problem::new(place.clone(), message).hint(hint));
                }
                Some(definition) if definition.nullable && model.kind() == "fact" => {
                    let message = format!("`{column}` is in the primary key and may be null");
                    self.problems
                        .push(Problem::new(definition.place(&parsed.file), message).hint("add `nullable: false`"));
                }
                Some(_) => {}
            }
        }
        let product = &parsed.definition;
        let port = Port {
            domain: domain.to_owned(),
            product: product.product.to_string(),
            version: *product.version,
            name: name.to_owned(),
            table: model_name.to_string(),
            kind: model.kind().to_owned(),
            description: file.description.clone().or_else(|| model.description().map(str::to_owned)),
            owner: product.owner.clone(),
            columns,
            primary_key,
            foreign_keys: Vec::new(),
        };
        self.ports.insert(port.full_name(), port);
    }

    fn column(
        &mut self,
        schema: &SchemaRef,
        model: &Model,
        name: &str,
        definition: &crate::define::ColumnFile,
        place: &Place,
    ) -> Option<Column> {
        let from = definition.from.as_deref().unwrap_or(name);
        let (kind, model) = (model.kind(), model.name());
        let Ok(field) = schema.field_with_name(from) else {
            let hint = suggestion(from, schema.fields().iter().map(|field| field.name().as_str()));
            self.problems.push(Problem::new(place.clone(), format!("`{model}` has no column `{from}`")).hint(hint));
            return None;
        };
        let own = FieldType::of(field.data_type())?;
        let promised = definition.field_type.unwrap_or(own);
        // `json` is a text to whoever reads it.
        let same = promised == own || (promised == FieldType::Json && own == FieldType::String);
        if !same {
            let message = format!("the contract says {promised} of `{name}`, and `{model}` has {own}");
            self.problems.push(Problem::new(place.clone(), message).hint("change the model, or publish a new version"));
        }
        if !definition.nullable
            && field.is_nullable()
            && matches!(kind, "dimension" | "calendar" | "time_of_day" | "bands")
        {
            let message =
                format!("`{name}` may not be null by contract, and has no value in row 0, the unknown member");
            self.problems.push(Problem::new(place.clone(), message).hint("leave `nullable: false` out"));
        }
        let (means, own_words) = self.models.get(model).map(|model| model.column(from)).unwrap_or_default();
        Some(Column {
            name: name.to_owned(),
            from: from.to_owned(),
            data_type: own.to_string(),
            nullable: definition.nullable,
            means,
            description: definition.description.clone().or(own_words),
        })
    }

    fn foreign_keys(&mut self, products: &[(String, Parsed<ProductFile>)]) {
        let defined = ports(products);
        for (domain, parsed) in products {
            let product = &parsed.definition;
            for (name, file) in &product.ports {
                let own = format!("{domain}.{}_v{}.{name}", *product.product, *product.version);
                let place = file.place(&parsed.file);
                let mut keys = Vec::new();
                for (columns, target) in &file.foreign_keys {
                    let columns: Vec<String> = columns.split(',').map(|column| column.trim().to_owned()).collect();
                    let known: BTreeSet<&str> = file.columns.keys().map(String::as_str).collect();
                    for column in columns.iter().filter(|column| !known.contains(column.as_str())) {
                        let hint = suggestion(column, known.iter().copied());
                        let message = format!("the foreign key's column `{column}` is not in the contract");
                        self.problems.push(Problem::new(place.clone(), message).hint(hint));
                    }
                    let Some(to) = self.ports.get(target) else {
                        // A port that is wrong itself has been told of.
                        if !defined.contains_key(target) {
                            let hint = suggestion(target, self.ports.keys().map(String::as_str));
                            self.problems
                                .push(Problem::new(place.clone(), format!("there is no port `{target}`")).hint(hint));
                        }
                        continue;
                    };
                    if to.primary_key.len() != columns.len() {
                        let count = match to.primary_key.len() {
                            1 => "1 column".to_owned(),
                            count => format!("{count} columns"),
                        };
                        let message = format!("the primary key of `{target}` has {count}, not {}", columns.len());
                        self.problems.push(Problem::new(place.clone(), message));
                        continue;
                    }
                    if let Some(port) = self.ports.get(&own) {
                        let pairs = columns.iter().zip(&to.primary_key);
                        let misfits = pairs.filter_map(|(column, key)| misfit(port, column, to, key));
                        self.problems.extend(misfits.map(|message| Problem::new(place.clone(), message)));
                    }
                    keys.push(ForeignKey {
                        columns,
                        to: [to.domain.clone(), to.schema(), to.name.clone()],
                        to_columns: to.primary_key.clone(),
                    });
                }
                if let Some(port) = self.ports.get_mut(&own) {
                    port.foreign_keys = keys;
                }
            }
        }
    }
}

/// Why values of one port's column can never equal those of the other's.
fn misfit(port: &Port, column: &str, to: &Port, key: &str) -> Option<String> {
    let of = |port: &Port, name: &str| -> Option<FieldType> {
        port.columns.iter().find(|column| column.name == name)?.data_type.parse().ok()
    };
    let (own, other) = (of(port, column)?, of(to, key)?);
    let fits = own == other || (own.adds_exactly() && other.adds_exactly());
    (!fits).then(|| format!("`{column}` is {own}, and `{key}` of `{}` is {other}", to.full_name()))
}

/// Whether a product of this name could be taken for a version of another, or for the engine's own schema.
fn is_schema_of_its_own(name: &str) -> bool {
    let version = name.rsplit_once("_v").map(|(_, version)| version);
    let is_version =
        version.is_some_and(|version| !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_digit()));
    is_version || name == "information_schema"
}

#[cfg(test)]
mod tests;
