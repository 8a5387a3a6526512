//! What is split by weights: amounts of a header among its lines, and a group among its members.
//!
//! ```text
//! lines ∪ headers ─► of one order: its lines in order, with running weights; its amounts ─► shares
//! ```
//!
//! A share is the difference of two rounded running sums, so shares add up to the amount, to the last digit.

use arrow::datatypes::DataType;
use indexmap::IndexMap;

use super::super::{Model, Resolving, check_name};
use super::Select;
use super::star::{From, OWN, Star, quoted, sum, sum_type, table};
use crate::define::{Additivity, AllocationFile, BridgeFile, FieldType, ModelName, Place, Problem};
use crate::sql_model::{Shape, Text};

/// The type of a bridge's weights.
const WEIGHT: FieldType = FieldType::Decimal(13, 12);

impl Resolving<'_> {
    pub(super) fn allocation(&mut self, name: &ModelName, file: &AllocationFile, file_name: &str) -> Option<Select> {
        let place = file.allocation.place(file_name);
        let lines = self.star(&name.domain, &file.of, &file.of.place(file_name))?;
        let header = self.star(&name.domain, &file.header, &file.header.place(file_name))?;
        for star in [&lines, &header] {
            if !self.columns_known(star, &file.on, "`on`", file_name) {
                return None;
            }
        }
        for column in &file.on.0 {
            let (of_lines, of_header) = (lines.type_of(column)?, header.type_of(column)?);
            if of_lines != of_header {
                let names = [of_lines, of_header].map(FieldType::name_of);
                let message = format!("`{column}` is {} in one fact and {} in the other", names[0], names[1]);
                self.problem(Problem::new(file.on.place(file_name), message));
                return None;
            }
        }
        if file.amounts.is_empty() {
            let hint = "name measures of the header: `freight: freight`";
            self.problem(Problem::new(place, "the allocation splits no amounts").hint(hint));
            return None;
        }
        let mut described: IndexMap<String, (Option<String>, Place)> = IndexMap::new();
        let mut shape = lines.shape.clone();
        let mut amounts: Vec<(&String, &str, DataType)> = Vec::new();
        for (column, amount) in &file.amounts {
            let place = amount.place(file_name);
            if let Some(problem) = check_name(column, &place) {
                self.problem(problem);
                return None;
            }
            if lines.has(column) {
                let message = format!("`{}` has a column `{column}` already", lines.name);
                self.problem(Problem::new(place, message).hint("give the share another name"));
                return None;
            }
            let data_type = self.measure_of(&header, amount, &place)?;
            let words = format!("The line's share of `{}`", amount.value);
            described.insert(column.clone(), (Some(words), place));
            shape.measures.push((column.clone(), Additivity::Full));
            amounts.push((column, amount, data_type));
        }
        let weight = self.weight(&lines, file.weight.as_ref().map(|w| (w.as_str(), w.place(file_name))))?;

        let on: Vec<String> = file.on.0.iter().map(|column| quoted(column)).collect();
        let cast_null = |data_type: &DataType| format!("arrow_cast(NULL, '{data_type}')");
        let of_lines = lines.columns().map(|column| format!("fact.{}", quoted(column)));
        let of_lines = of_lines.chain(amounts.iter().map(|(_, _, of)| cast_null(of)));
        let of_lines: Vec<String> = of_lines.collect();
        let of_header = lines.schema.fields().iter().map(|field| {
            let name = field.name();
            match file.on.0.contains(name) {
                true => format!("header.{}", quoted(name)),
                false if lines.is_key(name) => format!("CAST(0 AS BIGINT) AS {}", quoted(name)),
                false => format!("{} AS {}", cast_null(field.data_type()), quoted(name)),
            }
        });
        let of_header = of_header.chain(
            amounts.iter().map(|(column, amount, _)| format!("header.{} AS {}", quoted(amount), quoted(column))),
        );
        let of_header: Vec<String> = of_header.collect();
        let names: Vec<String> = lines.columns().map(quoted).chain(amounts.iter().map(|(c, ..)| quoted(c))).collect();
        let by = format!("PARTITION BY {}", on.join(", "));
        let order: Vec<String> = lines.grain.iter().map(|column| quoted(column)).chain(own_order(&lines)).collect();
        let order = format!("{by} ORDER BY \"is line\" DESC, {}", order.join(", "));
        // What an allocation leaves to nobody is a row of nobody here, too, and takes what this one does.
        let own = lines.grain.iter().filter(|column| !file.on.0.contains(column));
        let own: Vec<String> = own.map(|column| format!("fact.{} IS NULL", quoted(column))).collect();
        let is_rest = match self.is_allocated(&lines.name) && !own.is_empty() {
            true => format!("CASE WHEN {} THEN 1 ELSE 0 END", own.join(" AND ")),
            false => "0".to_owned(),
        };
        let rows = "ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW";
        let totals: Vec<String> = amounts
            .iter()
            .map(|(column, _, of)| {
                let total = sum(&quoted(column), of, &format!(" OVER ({by})"));
                format!("{total} AS \"total {column}\"")
            })
            .collect();
        // Lines and headers of no order have nothing to do with each other.
        let known: Vec<String> = on.iter().map(|column| format!("{column} IS NOT NULL")).collect();
        let known = known.join(" AND ");
        let shares = amounts.iter().map(|(column, _, data_type)| {
            let total = format!("arrow_cast(\"total {column}\", '{}')", sum_type(data_type));
            format!(
                "CASE WHEN NOT ({known}) AND \"is line\" = 1 AND \"is rest\" = 0 THEN NULL \
                 WHEN \"is line\" = 0 OR NOT ({known}) THEN {total} \
                 WHEN \"its weight\" = 0 THEN allocated({total}, \"its number\" - 1, \"its number\", \"its lines\") \
                 ELSE allocated({total}, \"through it\" - \"own weight\", \"through it\", \"its weight\") END AS {}",
                quoted(column)
            )
        });
        let columns: Vec<String> = lines.columns().map(quoted).chain(shares).collect();
        let select = format!(
            "SELECT {columns} FROM (SELECT *, {totals}, sum(\"is line\") OVER ({by}) AS \"its lines\", \
             sum(\"is rest\") OVER ({by}) AS \"its rest\", sum(\"own weight\") OVER ({by}) AS \"its weight\", \
             sum(\"own weight\") OVER ({order} {rows}) AS \"through it\", \
             row_number() OVER ({order}) AS \"its number\" FROM (\
             SELECT 1 AS \"is line\", {is_rest} AS \"is rest\", {weight} AS \"own weight\", {named_lines} FROM {lines_table} AS fact UNION ALL \
             SELECT 0, 0, {no_weight}, {of_header} FROM {header_table} AS header)) \
             WHERE \"is line\" = 1 OR (\"its number\" = \"its lines\" + 1 AND (\"its lines\" = 0 OR (NOT ({known}) AND \"its rest\" = 0)))",
            columns = columns.join(", "),
            totals = totals.join(", "),
            weight = weight.0,
            no_weight = weight.1,
            named_lines =
                of_lines.iter().zip(&names).map(|(of, name)| format!("{of} AS {name}")).collect::<Vec<_>>().join(", "),
            of_header = of_header.join(", "),
            lines_table = table(&lines.name),
            header_table = table(&header.name),
        );
        let mut grain = file.on.0.clone();
        grain.extend(lines.grain.iter().filter(|column| !file.on.0.contains(column)).cloned());
        let mut sources = vec![lines.source()];
        if header.name != lines.name {
            sources.push(header.source());
        }
        Some(Select {
            name: name.clone(),
            kind: "allocation",
            description: file.description.clone(),
            definition: serde_json::to_value(file).unwrap_or_default(),
            text: Text::Generated { select, watermark: None },
            place: place.clone(),
            sources,
            grain,
            grain_place: place,
            columns: described,
            shape: Some(shape),
            look_ups: Vec::new(),
        })
    }

    /// Whether a fact's rows are those of an allocation, or some of them.
    fn is_allocated(&self, name: &ModelName) -> bool {
        match self.models.get(name) {
            Some(Model::Sql(model)) if model.kind == "allocation" => true,
            Some(Model::Sql(model)) => model.query.scans.first().is_some_and(|below| self.is_allocated(below)),
            _ => false,
        }
    }

    /// SQL for a row's weight, and for none.
    fn weight(&mut self, star: &Star, weight: Option<(&str, Place)>) -> Option<(String, String)> {
        let Some((weight, place)) = weight else {
            return Some(("CAST(1 AS BIGINT)".into(), "CAST(0 AS BIGINT)".into()));
        };
        let data_type = self.measure_of(star, weight, &place)?;
        let none = format!("arrow_cast(0, '{data_type}')");
        let wide = |of: &str| match data_type {
            DataType::Int64 => format!("CAST({of} AS DECIMAL(38,0))"),
            _ => of.to_owned(),
        };
        Some((wide(&format!("coalesce(fact.{}, {none})", quoted(weight))), wide(&none)))
    }

    pub(super) fn bridge(&mut self, name: &ModelName, file: &BridgeFile, file_name: &str) -> Option<Select> {
        let place = file.bridge.place(file_name);
        let star = self.star(&name.domain, &file.of, &file.of.place(file_name))?;
        if !self.columns_known(&star, &file.group, "`group`", file_name) {
            return None;
        }
        let member = file.member.as_str();
        let mut from = From::new(&star);
        self.join(&mut from, member, &file.member.place(file_name))?;
        let dimension = star.role(member).cloned()?;
        let weight = self.weight(&star, file.weight.as_ref().map(|w| (w.as_str(), w.place(file_name))))?.0;
        // Without weights a member counts once, however often it is named.
        let weight = if file.weight.is_some() { format!("sum({weight})") } else { weight };
        let members = star.role_columns(member);
        if let Some(both) = members.iter().find(|column| file.group.0.contains(column) || *column == "weight") {
            let message = format!("`{both}` is a column of the group and of the member");
            self.problem(Problem::new(file.group.place(file_name), message));
            return None;
        }
        let group: Vec<String> = file.group.0.iter().map(|column| quoted(column)).collect();
        // A member is known by its last column: the durable key, where there is one; the key is that of its last row.
        let member_column = members.last().cloned().unwrap_or_default();
        let columns: Vec<String> = file.group.0.iter().chain([&member_column]).map(|column| quoted(column)).collect();
        let listed = columns.join(", ");
        let latest = match (members.as_slice(), OWN.iter().all(|own| star.has(own))) {
            ([key, _], true) => {
                let order: Vec<String> =
                    star.order().iter().map(|column| format!("fact.{} DESC", quoted(column))).collect();
                format!(", first_value(fact.{0} ORDER BY {1}) AS {0}", quoted(key), order.join(", "))
            }
            ([key, _], false) => format!(", max(fact.{0}) AS {0}", quoted(key)),
            _ => String::new(),
        };
        let known: Vec<String> = group.iter().map(|column| format!("{column} IS NOT NULL")).collect();
        let shown: Vec<String> = file.group.0.iter().chain(&members).map(|column| quoted(column)).collect();
        let by = format!("PARTITION BY {}", group.join(", "));
        let order = format!("{by} ORDER BY {}", quoted(&member_column));
        let one = "arrow_cast(1, 'Decimal128(13, 12)')";
        let select = format!(
            "SELECT {shown}, CASE WHEN \"its weight\" = 0 \
             THEN allocated({one}, \"its number\" - 1, \"its number\", \"its members\") \
             ELSE allocated({one}, \"through it\" - \"own weight\", \"through it\", \"its weight\") END AS weight FROM (\
             SELECT *, count(*) OVER ({by}) AS \"its members\", sum(\"own weight\") OVER ({by}) AS \"its weight\", \
             sum(\"own weight\") OVER ({order} ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS \"through it\", \
             row_number() OVER ({order}) AS \"its number\" FROM (\
             SELECT {listed}, {weight} AS \"own weight\"{latest} FROM {} AS fact WHERE {} GROUP BY {listed}))",
            table(&star.name),
            known.join(" AND "),
            shown = shown.join(", "),
        );
        let words = format!("How much the member counts of its group, {WEIGHT}: they add up to 1");
        Some(Select {
            name: name.clone(),
            kind: "bridge",
            description: file.description.clone(),
            definition: serde_json::to_value(file).unwrap_or_default(),
            text: Text::Generated { select, watermark: None },
            place: place.clone(),
            sources: vec![star.source()],
            grain: file.group.0.iter().cloned().chain([member_column]).collect(),
            grain_place: place.clone(),
            columns: IndexMap::from([("weight".to_owned(), (Some(words), place))]),
            shape: Some(Shape {
                roles: vec![(member.to_owned(), dimension)],
                measures: vec![("weight".to_owned(), Additivity::None)],
            }),
            look_ups: Vec::new(),
        })
    }
}

/// What puts rows of a fact in order beyond doubt, as far as it has that.
fn own_order(star: &Star) -> impl Iterator<Item = String> {
    OWN.into_iter().filter(|own| star.has(own) && !star.grain.iter().any(|column| column == own)).map(quoted)
}
