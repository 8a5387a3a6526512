//! Accumulating snapshots: what has become of each thing that goes through milestones.

use arrow::datatypes::DataType;
use indexmap::IndexMap;

use super::super::{Resolving, check_name};
use super::Select;
use super::star::{From, OWN, Star, literal, quoted, sum};
use crate::define::{AccumulatingFile, Additivity, Milestone, ModelName, Place, Placed, Problem, suggestion};
use crate::sql_model::{Shape, Source, Text};

impl Resolving<'_> {
    pub(super) fn accumulating(
        &mut self,
        name: &ModelName,
        file: &AccumulatingFile,
        file_name: &str,
    ) -> Option<Select> {
        let place = file.accumulating_snapshot.place(file_name);
        if file.milestones.is_empty() {
            let hint = "name them in the order in which they are expected";
            self.problem(Problem::new(place, "the snapshot has no milestones").hint(hint));
            return None;
        }
        let mut reached = Vec::new();
        for (milestone, of) in &file.milestones {
            reached.push(self.milestone(name, file, milestone, of, file_name)?);
        }
        let mut shape = Shape::default();
        // What the rows of the facts have: name, type, and for each milestone the column of its fact.
        let mut carried: Vec<(String, DataType, usize, String)> = Vec::new();
        let (mut columns, mut described) = (Vec::new(), IndexMap::new());
        let first = |name: &str, number: usize| {
            let order = reached[number].star.order().into_iter().map(its).collect::<Vec<_>>().join(", ");
            format!("first_value({} ORDER BY {order}) FILTER (WHERE \"its milestone\" = {number})", quoted(name))
        };
        for (role, from) in &file.dimensions {
            let place = from.place(file_name);
            let (milestone, of) = from.split_once('.').unwrap_or((from, role));
            let number = self.known_milestone(file, milestone, &place)?;
            let star = &reached[number].star;
            let Some(dimension) = star.role(of).cloned() else {
                let hint = suggestion(of, star.shape.roles.iter().map(|(role, _)| role.as_str()));
                self.problem(Problem::new(place, format!("`{}` has no dimension `{of}`", star.name)).hint(hint));
                return None;
            };
            for column in star.role_columns(of) {
                let own = format!("{role}{}", &column[of.len()..]);
                columns.push(format!("coalesce({}, 0) AS {}", first(&own, number), quoted(&own)));
                carried.push((own, DataType::Int64, number, column));
            }
            shape.roles.push((role.clone(), dimension));
        }
        let time = its(OWN[0]);
        for (number, (milestone, of)) in file.milestones.iter().enumerate() {
            let at = format!("CASE WHEN \"its milestone\" = {number} THEN {time} END");
            columns.push(format!("min({at}) AS {}", quoted(&format!("{milestone}_at"))));
            columns.push(format!("max({at}) AS {}", quoted(&format!("{milestone}_last_at"))));
            let count = quoted(&format!("{milestone}_count"));
            columns
                .push(format!("CAST(sum(CASE WHEN \"its milestone\" = {number} THEN 1 ELSE 0 END) AS INT) AS {count}"));
            let words = of.description.clone().unwrap_or_else(|| format!("When it was first {milestone}"));
            described.insert(format!("{milestone}_at"), (Some(words), of.place(file_name)));
        }
        for (measure, from) in &file.measures {
            let place = from.place(file_name);
            let Some((milestone, of)) = from.split_once('.') else {
                let message = format!("`{}` names no measure of a milestone", from.value);
                self.problem(Problem::new(place, message).hint("write `milestone.measure`"));
                return None;
            };
            let number = self.known_milestone(file, milestone, &place)?;
            let data_type = self.measure_of(&reached[number].star, of, &place)?;
            columns.push(format!("{} AS {}", sum(&quoted(measure), &data_type, ""), quoted(measure)));
            carried.push((measure.clone(), data_type, number, of.to_owned()));
            shape.measures.push((measure.clone(), Additivity::Full));
        }
        let mut shown: Vec<String> = vec!["*".to_owned()];
        for (index, (milestone, _)) in file.milestones.iter().enumerate() {
            let later: Vec<String> = file
                .milestones
                .keys()
                .skip(index + 1)
                .map(|later| format!("{} > 0", quoted(&format!("{later}_count"))))
                .collect();
            if !later.is_empty() {
                let count = quoted(&format!("{milestone}_count"));
                shown.push(format!(
                    "{count} = 0 AND ({}) AS {}",
                    later.join(" OR "),
                    quoted(&format!("{milestone}_skipped"))
                ));
            }
        }
        let furthest: Vec<String> = file
            .milestones
            .keys()
            .rev()
            .map(|milestone| format!("WHEN {} > 0 THEN {}", quoted(&format!("{milestone}_count")), literal(milestone)))
            .collect();
        shown.push(format!("CASE {} END AS milestone", furthest.join(" ")));
        described.insert("milestone".to_owned(), (Some("The furthest that was reached".to_owned()), place.clone()));
        for (lag, of) in &file.lags {
            let lag_place = of.place(file_name);
            for milestone in &of.value {
                self.known_milestone(file, milestone, &lag_place)?;
            }
            let [a, b] = of.value.each_ref().map(|milestone| quoted(&format!("{milestone}_at")));
            shown.push(format!("seconds_between({a}, {b}) AS {}", quoted(lag)));
            let words = format!("Seconds from {} to {}", of.value[0], of.value[1]);
            described.insert(lag.clone(), (Some(words), lag_place));
            shape.measures.push((lag.clone(), Additivity::Full));
        }
        for (column, _) in &described {
            if let Some(problem) = check_name(column, &place) {
                self.problem(problem);
            }
        }
        // Whatever puts rows of any milestone in order.
        let mut order: IndexMap<&str, DataType> = IndexMap::new();
        for Reached { star, .. } in &reached {
            let columns = star.order().into_iter();
            order.extend(columns.filter_map(|column| Some((column, star.type_of(column)?.clone()))));
        }
        let branches = reached.iter().enumerate().map(|(number, reached)| {
            let keys = file
                .grain
                .0
                .iter()
                .zip(&reached.keys)
                .map(|(own, key)| format!("fact.{} AS {}", quoted(key), quoted(own)));
            let carried = carried.iter().map(|(own, data_type, of, column)| match *of == number {
                true => format!("fact.{} AS {}", quoted(column), quoted(own)),
                false => format!("arrow_cast(NULL, '{data_type}') AS {}", quoted(own)),
            });
            let columns: Vec<String> = keys.chain(carried).collect();
            // Rows about nothing go through no milestones.
            let known = reached.keys.iter().map(|key| format!("fact.{} IS NOT NULL", quoted(key)));
            let known = known.collect::<Vec<_>>().join(" AND ");
            let condition = match reached.condition.as_str() {
                "" => format!(" WHERE {known}"),
                condition => format!("{condition} AND {known}"),
            };
            let ordered = order.iter().map(|(column, data_type)| match reached.star.has(column) {
                true => format!("fact.{} AS {}", quoted(column), its(column)),
                false => format!("arrow_cast(NULL, '{data_type}') AS {}", its(column)),
            });
            format!(
                "SELECT {number} AS \"its milestone\", {}, {} {}{}",
                ordered.collect::<Vec<_>>().join(", "),
                columns.join(", "),
                reached.from,
                condition
            )
        });
        let branches: Vec<String> = branches.collect();
        let grain: Vec<String> = file.grain.0.iter().map(|column| quoted(column)).collect();
        let grain = grain.join(", ");
        let select = format!(
            "SELECT {} FROM (SELECT {grain}, {} FROM ({}) GROUP BY {grain})",
            shown.join(", "),
            columns.join(", "),
            branches.join(" UNION ALL "),
        );
        let mut sources: Vec<Source> = Vec::new();
        for source in reached.iter().flat_map(|reached| &reached.sources) {
            if !sources.iter().any(|other| other.model == source.model) {
                sources.push(source.clone());
            }
        }
        Some(Select {
            name: name.clone(),
            kind: "accumulating_snapshot",
            description: file.description.clone(),
            definition: serde_json::to_value(file).unwrap_or_default(),
            text: Text::Generated { select, watermark: None },
            place,
            sources,
            grain: file.grain.0.clone(),
            grain_place: file.grain.place(file_name),
            columns: described,
            shape: Some(shape),
            look_ups: Vec::new(),
        })
    }

    fn known_milestone(&mut self, file: &AccumulatingFile, milestone: &str, place: &Place) -> Option<usize> {
        let number = file.milestones.get_index_of(milestone);
        if number.is_none() {
            let hint = suggestion(milestone, file.milestones.keys().map(String::as_str));
            self.problem(Problem::new(place.clone(), format!("there is no milestone `{milestone}`")).hint(hint));
        }
        number
    }

    /// What reaches a milestone, checked.
    fn milestone(
        &mut self,
        model: &ModelName,
        file: &AccumulatingFile,
        name: &str,
        milestone: &Placed<Milestone>,
        file_name: &str,
    ) -> Option<Reached> {
        let place = milestone.place(file_name);
        if let Some(problem) = check_name(name, &place) {
            self.problem(problem);
            return None;
        }
        let star = self.star(&model.domain, &milestone.fact, &place)?;
        self.has_own_columns(&star, &place)?;
        self.known_names(milestone.key.keys(), &file.grain.0, "a column of the grain", &place);
        let mut keys = Vec::new();
        for column in &file.grain.0 {
            let own = milestone.key.get(column).unwrap_or(column);
            if !star.has(own) {
                let hint = suggestion(own, star.columns());
                let message = format!("`{}` has no column `{own}`, of the grain", star.name);
                self.problem(Problem::new(place.clone(), message).hint(hint));
                return None;
            }
            keys.push(own.clone());
        }
        let mut from = From::new(&star);
        let condition = self.condition(&mut from, milestone.filter.as_deref().map(|filter| (filter, place)))?;
        let (text, sources) = (from.text(), from.sources());
        Some(Reached { star, keys, condition, from: text, sources })
    }
}

/// A column that puts rows of milestones in order.
fn its(column: &str) -> String {
    quoted(&format!("its {column}"))
}

/// A milestone's fact.
struct Reached {
    star: Star,
    /// Its columns of the grain.
    keys: Vec<String>,
    from: String,
    condition: String,
    sources: Vec<Source>,
}
