//! Shrunken dimensions: some of a dimension's attributes, for facts at a coarser grain.

use arrow::datatypes::SchemaRef;
use indexmap::IndexMap;

use super::super::Resolving;
use super::Select;
use super::rollup::{is_special, member_key};
use super::star::{literal, quoted};
use crate::define::{ModelName, Names, Place, Placed, Problem, ShrunkenFile, suggestion};
use crate::resolve::Model;
use crate::sql_model::Text;

impl Resolving<'_> {
    pub(super) fn shrunken(&mut self, name: &ModelName, file: &ShrunkenFile, file_name: &str) -> Option<Select> {
        let place = file.shrunken_dimension.place(file_name);
        let of_place = file.of.place(file_name);
        let of = self.dimension_name(&name.domain, &file.of, &of_place)?;
        let schema = match self.models.get(&of) {
            Some(model @ (Model::Dimension(_) | Model::Generated(_))) => model.schema(),
            Some(other) => {
                let message = format!("`{of}` is a {}, where a dimension belongs", other.kind());
                self.problem(Problem::new(of_place, message));
                return None;
            }
            None => {
                self.no_dimension(&of, of_place);
                return None;
            }
        };
        let of_key = format!("{}_key", of.name);
        let own = [of_key.clone(), format!("{}_durable_key", of.name)];
        self.attributes_known(&of, &schema, &file.key, &own, file_name)?;
        if let Some(attributes) = &file.attributes {
            self.attributes_known(&of, &schema, attributes, &own, file_name)?;
            if let Some(both) = attributes.0.iter().find(|attribute| file.key.0.contains(attribute)) {
                let message = format!("`{both}` is of the key already");
                self.problem(Problem::new(attributes.place(file_name), message));
                return None;
            }
        }
        let keys: Vec<String> = file.key.0.iter().map(|key| quoted(key)).collect();
        // Members of no key are the unknown one, whose row is that of the other dimension's.
        let known: Vec<String> = keys.iter().map(|key| format!("{key} IS NOT NULL")).collect();
        let known = format!("{} OR {}", is_special(&quoted(&of_key)), known.join(" OR "));
        let current = match schema.field_with_name("is_current") {
            Ok(_) => "is_current AND NOT is_deleted",
            Err(_) => "TRUE",
        };
        let shown = |key: &String| {
            format!("{} || coalesce(CAST({} AS VARCHAR), 'null')", literal(&format!("{key} = ")), quoted(key))
        };
        let member: Vec<String> = file.key.0.iter().map(shown).collect();
        let member = member.join(" || ', ' || ");
        let attributes = file.attributes.iter().flat_map(|attributes| &attributes.0).map(|attribute| {
            let of = format!("CASE WHEN {current} THEN {} END", quoted(attribute));
            let name = literal(attribute);
            format!("agreed(min({of}), max({of}), {name}, {member}) AS {}", quoted(attribute))
        });
        let (key, key_column) = (member_key(name, &quoted(&of_key), &keys), format!("{}_key", name.name));
        let columns: Vec<String> = std::iter::once(format!("{key} AS {}", quoted(&key_column)))
            .chain(keys.iter().cloned())
            .chain(attributes)
            .collect();
        let source = super::star::source(&of, &schema);
        let select = format!(
            "SELECT {} FROM {} WHERE {known} GROUP BY 1, {}",
            columns.join(", "),
            super::star::table(&of),
            keys.join(", ")
        );
        Some(Select {
            name: name.clone(),
            kind: "shrunken_dimension",
            description: file.description.clone(),
            definition: serde_json::to_value(file).unwrap_or_default(),
            text: Text::Generated { select, watermark: None },
            place: place.clone(),
            sources: vec![source],
            // A member may be called what a special one is.
            grain: file.key.0.iter().cloned().chain([key_column]).collect(),
            grain_place: file.key.place(file_name),
            columns: IndexMap::new(),
            shape: None,
            look_ups: Vec::new(),
        })
    }

    /// The combinations of each mini-dimension.
    pub(in crate::resolve) fn mini_dimensions(&mut self) {
        for (name, (history, of)) in self.minis.clone() {
            let Some(Model::Dimension(dimension)) = self.models.get(&history) else { continue };
            let (dimension, schema) = (dimension.clone(), dimension.schema());
            let parsed = self
                .definitions
                .dimensions
                .iter()
                .find(|(domain, parsed)| of == ModelName::new(domain, &parsed.definition.dimension));
            let Some((_, parsed)) = parsed else { continue };
            let place = parsed.definition.dimension.place(&parsed.file);
            let attributes = dimension.attributes.iter().map(|attribute| quoted(&attribute.name));
            let attributes: Vec<String> = attributes.collect();
            let key = format!("{}_key", name.name);
            let select = format!(
                "SELECT DISTINCT {} AS {}, {} FROM {}",
                quoted(&format!("{}_key", history.name)),
                quoted(&key),
                attributes.join(", "),
                super::star::table(&history)
            );
            let described = dimension
                .attributes
                .iter()
                .map(|attribute| (attribute.name.clone(), (attribute.description.clone(), place.clone())));
            let select = Select {
                name: name.clone(),
                kind: "mini_dimension",
                description: Some(format!("Combinations that members of {} have", of.name)),
                definition: serde_json::json!(attributes),
                text: Text::Generated { select, watermark: None },
                place: place.clone(),
                sources: vec![super::star::source(&history, &schema)],
                grain: vec![key],
                grain_place: place.clone(),
                columns: described.collect(),
                shape: None,
                look_ups: Vec::new(),
            };
            if let Some(model) = self.select(select) {
                self.models.models.push(Model::Sql(std::sync::Arc::new(model)));
            }
        }
    }

    fn attributes_known(
        &mut self,
        of: &ModelName,
        schema: &SchemaRef,
        names: &Placed<Names>,
        keys: &[String],
        file_name: &str,
    ) -> Option<()> {
        let place: Place = names.place(file_name);
        let known = || {
            schema.fields().iter().map(|field| field.name().as_str()).filter(|name| !keys.iter().any(|key| key == name))
        };
        if names.0.is_empty() {
            self.problem(Problem::new(place, "no attribute is named"));
            return None;
        }
        for name in &names.0 {
            if !known().any(|known| known == name) {
                let hint = suggestion(name, known());
                self.problem(Problem::new(place, format!("`{of}` has no attribute `{name}`")).hint(hint));
                return None;
            }
        }
        Some(())
    }
}
