//! Derived facts: a fact with columns that are computed of its own and of its dimensions'.

use indexmap::IndexMap;

use super::super::{Resolving, beginning, check_name};
use super::Select;
use super::star::{From, quoted, typed};
use crate::define::{Additivity, DerivedFactFile, FieldType, ModelName, Place, Problem};
use crate::expression::loses_digits;
use crate::sql_model::{Shape, Text};

impl Resolving<'_> {
    pub(super) fn derived_fact(&mut self, name: &ModelName, file: &DerivedFactFile, file_name: &str) -> Option<Select> {
        let star = self.star(&name.domain, &file.of, &file.of.place(file_name))?;
        let mut from = From::new(&star);
        let kept: Vec<String> = match &file.keep {
            None => star.columns().map(str::to_owned).collect(),
            Some(keep) => {
                if !self.columns_known(&star, keep, "`keep`", file_name) {
                    return None;
                }
                if let Some(missing) = star.grain.iter().find(|column| !keep.0.contains(column)) {
                    let message = format!("`keep` leaves out `{missing}`, which is of the grain of `{}`", star.name);
                    self.problem(Problem::new(keep.place(file_name), message));
                    return None;
                }
                keep.0.clone()
            }
        };
        let mut columns: Vec<String> = kept.iter().map(|name| format!("fact.{}", quoted(name))).collect();
        let mut described: IndexMap<String, (Option<String>, Place)> = IndexMap::new();
        let is_kept = |column: &str| kept.iter().any(|kept| kept == column);
        let roles = star.shape.roles.iter().filter(|(role, _)| is_kept(&format!("{role}_key")));
        let measures = star.shape.measures.iter().filter(|(measure, _)| is_kept(measure));
        let mut shape = Shape { roles: roles.cloned().collect(), measures: measures.cloned().collect() };
        let degenerate = file.degenerate.iter().map(|(name, column)| {
            (name, &column.expression, column.field_type, None, &column.description, column.place(file_name))
        });
        let measures = file.measures.iter().map(|(name, column)| {
            let additive = Some(column.additive);
            (name, &column.expression, column.field_type, additive, &column.description, column.place(file_name))
        });
        for (name, expression, field_type, additive, description, place) in degenerate.chain(measures) {
            if let Some(problem) = check_name(name, &place) {
                self.problem(problem);
                return None;
            }
            let own = self.fragment(&mut from, expression, &place)?;
            if let Some(declared) = field_type.filter(|declared| loses_digits(&own, &declared.arrow())) {
                let message =
                    format!("`{name}` is {}, which {declared} holds only if it is rounded", FieldType::name_of(&own));
                let expression = beginning(expression, 80);
                let hint = match declared {
                    FieldType::Decimal(_, scale) => format!("write `round({expression}, {scale})`, or another type"),
                    _ => format!("write `CAST(round({expression}) AS {declared})`, or another type"),
                };
                self.problem(Problem::new(place, message).hint(hint));
                return None;
            }
            if let Some(additive) = additive {
                let adds = field_type.or(FieldType::of(&own)).is_some_and(FieldType::adds_exactly);
                if additive != Additivity::None && !adds {
                    let own = field_type.map_or_else(|| FieldType::name_of(&own), |known| known.to_string());
                    let message = format!("`{name}` is {own}, which is not added exactly");
                    let hint = "declare a decimal or an integer `type`, or `additive: none`";
                    self.problem(Problem::new(place, message).hint(hint));
                    return None;
                }
                shape.measures.push((name.clone(), additive));
            }
            columns.push(format!("{} AS {}", typed(expression, field_type), quoted(name)));
            described.insert(name.clone(), (description.clone(), place));
        }
        let condition = file.filter.as_ref().map(|filter| (filter.as_str(), filter.place(file_name)));
        let condition = self.condition(&mut from, condition)?;
        Some(Select {
            name: name.clone(),
            kind: "derived_fact",
            description: file.description.clone(),
            definition: serde_json::to_value(file).unwrap_or_default(),
            text: Text::Generated {
                select: format!("SELECT {} {}{condition}", columns.join(", "), from.text()),
                watermark: None,
            },
            place: file.derived_fact.place(file_name),
            sources: from.sources(),
            grain: star.grain.clone(),
            grain_place: file.derived_fact.place(file_name),
            columns: described,
            shape: Some(shape),
            look_ups: Vec::new(),
        })
    }
}
