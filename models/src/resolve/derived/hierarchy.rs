//! Hierarchies: who is above whom among a dimension's members.

use indexmap::IndexMap;

use super::super::{Model, Resolving};
use super::Select;
use super::star::{quoted, source, table};
use crate::define::{HierarchyFile, ModelName, Problem, suggestion};
use crate::sql_model::Text;

impl Resolving<'_> {
    pub(super) fn hierarchy(&mut self, name: &ModelName, file: &HierarchyFile, file_name: &str) -> Option<Select> {
        let place = file.hierarchy.place(file_name);
        let of_place = file.of.place(file_name);
        let of = self.dimension_name(&name.domain, &file.of, &of_place)?;
        let dimension = match self.models.get(&of) {
            Some(Model::Dimension(dimension)) => dimension.clone(),
            Some(other) => {
                let message = format!("`{of}` is a {}, where a dimension of events belongs", other.kind());
                self.problem(Problem::new(of_place, message));
                return None;
            }
            None => {
                self.no_dimension(&of, of_place);
                return None;
            }
        };
        let [(key, key_type)] = dimension.key.as_slice() else {
            let message =
                format!("the key of `{of}` has {} columns, and one names the member above", dimension.key.len());
            self.problem(Problem::new(of_place, message));
            return None;
        };
        let parent = file.parent.place(file_name);
        let Some(attribute) = dimension.attributes.iter().find(|attribute| attribute.name == **file.parent) else {
            let hint = suggestion(&file.parent, dimension.attributes.iter().map(|attribute| attribute.name.as_str()));
            let message = format!("`{of}` has no attribute `{}`", file.parent.value);
            self.problem(Problem::new(parent, message).hint(hint));
            return None;
        };
        if attribute.field_type != *key_type || attribute.apart {
            let message =
                format!("`{}` is {}, and the key of `{of}` is {key_type}", attribute.name, attribute.field_type);
            self.problem(Problem::new(parent, message));
            return None;
        }
        let durable = quoted(&format!("{}_durable_key", of.name));
        // The rows are members; those of the model are made of them.
        let select = format!(
            "SELECT {durable} AS ancestor_durable_key, {durable} AS descendant_durable_key, {} AS ancestor, \
             {} AS descendant, CAST(0 AS INT) AS distance, true AS is_top, true AS is_bottom FROM {} \
             WHERE is_current AND NOT is_deleted AND {durable} > 0",
            quoted(&attribute.name),
            quoted(key),
            table(&of),
        );
        let described = [
            ("ancestor", "The natural key of who is above, or of the member itself"),
            ("descendant", "The natural key of the member"),
            ("distance", "How far above; 0 for the member itself"),
            ("is_top", "Nobody is above the ancestor"),
            ("is_bottom", "Nobody is below the member"),
        ];
        let described = described.map(|(column, words)| (column.to_owned(), (Some(words.to_owned()), place.clone())));
        Some(Select {
            name: name.clone(),
            kind: "hierarchy",
            description: file.description.clone(),
            definition: serde_json::to_value(file).unwrap_or_default(),
            text: Text::Generated { select, watermark: None },
            place: place.clone(),
            sources: vec![source(&of, &dimension.schema())],
            grain: ["ancestor_durable_key", "descendant_durable_key"].map(str::to_owned).to_vec(),
            grain_place: place,
            columns: IndexMap::from(described),
            shape: None,
            look_ups: Vec::new(),
        })
    }
}
