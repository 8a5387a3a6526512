//! Roll-ups: a fact at a coarser grain.

use indexmap::IndexMap;

use super::super::{Model, Resolving};
use super::Select;
use super::star::{From, Star, alias, literal, quoted, sum};
use crate::define::{Additivity, ModelName, Names, Placed, Problem, RollupFile};
use crate::keys::{ERROR, NOT_APPLICABLE, UNKNOWN};
use crate::sql_model::{Shape, Text};

impl Resolving<'_> {
    /// The SELECT that the roll-up is.
    pub(super) fn rollup(&mut self, name: &ModelName, file: &RollupFile, file_name: &str) -> Option<Select> {
        let star = self.star(&name.domain, &file.of, &file.of.place(file_name))?;
        let place = file.rollup.place(file_name);
        if file.by.is_empty() && file.dimensions.is_empty() {
            let hint = "name columns of the fact, or attributes of its dimensions: `month: order_date.year_month`";
            self.problem(Problem::new(place, "the roll-up is `by` nothing").hint(hint));
            return None;
        }
        let mut from = From::new(&star);
        let (mut columns, mut grain) = (Vec::new(), Vec::new());
        let mut shape = Shape::default();
        for (role, shrunken) in &file.dimensions {
            let place = shrunken.place(file_name);
            let dimension = self.named(&name.domain, &shrunken.dimension);
            let model = match self.models.get(&dimension) {
                Some(Model::Sql(model)) if model.kind == "shrunken_dimension" => model.clone(),
                // One that is defined and is not there is wrong itself, and was told of.
                None if self.is_defined(&dimension) => return None,
                _ => {
                    let hint = "an attribute goes under `by`, as `role.attribute`";
                    let message = format!("`{dimension}` is no shrunken dimension");
                    self.problem(Problem::new(place, message).hint(hint));
                    return None;
                }
            };
            self.join(&mut from, &shrunken.role, &place)?;
            let Some(of) = star.role(&shrunken.role).filter(|of| Some(*of) == model.query.scans.first()) else {
                let message = format!("`{dimension}` is not made of the dimension in the role `{}`", shrunken.role);
                self.problem(Problem::new(place, message));
                return None;
            };
            let of_role = |column: &str| format!("{}.{}", alias(&shrunken.role), quoted(column));
            // Its grain ends with its own key.
            let keys: Vec<String> = model.grain.iter().take(model.grain.len() - 1).map(|key| of_role(key)).collect();
            let (own, column) = (of_role(&format!("{}_key", of.name)), format!("{role}_key"));
            columns.push(format!("{} AS {}", member_key(&dimension, &own, &keys), quoted(&column)));
            grain.push(column);
            shape.roles.push((role.clone(), dimension));
        }
        for (name, of) in &file.by {
            let column = self.column_of(&mut from, of, &of.place(file_name))?;
            columns.push(format!("{column} AS {}", quoted(name)));
            grain.push(name.clone());
            if let Some(role) = name.strip_suffix("_key").filter(|_| *name == **of)
                && let Some(dimension) = star.role(role)
            {
                shape.roles.push((role.to_owned(), dimension.clone()));
            }
        }
        let grouped: Vec<String> = (1..=columns.len()).map(|number| number.to_string()).collect();
        for name in self.summed(&star, file.measures.as_ref(), file_name)? {
            let of = star.type_of(&name)?;
            columns.push(format!("{} AS {}", sum(&format!("fact.{}", quoted(&name)), of, ""), quoted(&name)));
            shape.measures.push((name, Additivity::Full));
        }
        if let Some(name) = &file.count {
            columns.push(format!("count(*) AS {}", quoted(name)));
            shape.measures.push((name.to_string(), Additivity::Full));
        }
        let names: Vec<&String> = grain.iter().chain(shape.measures.iter().map(|(name, _)| name)).collect();
        if let Some((_, twice)) = names.iter().enumerate().find(|(index, name)| names[..*index].contains(name)) {
            self.problem(Problem::new(place, format!("two columns have the name `{twice}`")));
            return None;
        }
        let condition = file.filter.as_ref().map(|filter| (filter.as_str(), filter.place(file_name)));
        let condition = self.condition(&mut from, condition)?;
        let text = format!("SELECT {} {}{condition} GROUP BY {}", columns.join(", "), from.text(), grouped.join(", "));
        Some(Select {
            name: name.clone(),
            kind: "rollup",
            description: file.description.clone(),
            definition: serde_json::to_value(file).unwrap_or_default(),
            text: Text::Generated { select: text, watermark: None },
            place,
            sources: from.sources(),
            grain,
            grain_place: file.rollup.place(file_name),
            columns: IndexMap::new(),
            shape: Some(shape),
            look_ups: Vec::new(),
        })
    }

    /// The measures that are summed: those named, or all that may be.
    fn summed(&mut self, star: &Star, named: Option<&Placed<Names>>, file_name: &str) -> Option<Vec<String>> {
        let Some(named) = named else {
            let additive = star.shape.measures.iter().filter(|(_, additive)| *additive == Additivity::Full);
            return Some(additive.map(|(name, _)| name.clone()).collect());
        };
        for name in &named.0 {
            self.measure_of(star, name, &named.place(file_name))?;
        }
        Some(named.0.clone())
    }
}

/// SQL for whether a key is that of a member that a dimension has of its own.
pub(super) fn is_special(key: &str) -> String {
    format!("{key} IN ({UNKNOWN}, {NOT_APPLICABLE}, {ERROR})")
}

/// SQL for the key of a shrunken dimension's member: that of the special member whose key `own` is, and that of nobody
/// where all that it is known by is missing.
pub(super) fn member_key(dimension: &ModelName, own: &str, keys: &[String]) -> String {
    let missing: Vec<String> = keys.iter().map(|key| format!("{key} IS NULL")).collect();
    let name = literal(&dimension.to_string());
    format!(
        "CASE WHEN {special} THEN {own} WHEN {missing} THEN CAST({UNKNOWN} AS BIGINT) ELSE surrogate_key({name}, {keys}) END",
        special = is_special(own),
        missing = missing.join(" AND "),
        keys = keys.join(", ")
    )
}
