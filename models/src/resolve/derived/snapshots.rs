//! Snapshots: the state at each period's end, and what has become of each thing that goes through milestones.

use arrow::datatypes::DataType;
use chrono::NaiveDate;
use indexmap::IndexMap;

use super::super::{Model, Resolving, check_name};
use super::Select;
use super::ledger::ENTRY;
use super::star::{From, OWN, Star, literal, quoted, sum, sum_type, table};
use crate::define::{
    AccumulatingFile, Additivity, FieldType, Milestone, ModelName, Period, PeriodicFile, Place, Placed, Problem,
    suggestion,
};
use crate::events::words;
use crate::sql_model::{LookUp, PERIODIC, Shape, Source, Text, WATERMARK, only_column, period_of};

impl Period {
    fn word(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
            Self::Quarter => "quarter",
            Self::Year => "year",
        }
    }
}

/// What a measure of a periodic snapshot tells.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    Balance,
    Flow,
    Level,
}

impl Told {
    fn words(self) -> &'static str {
        match self {
            Self::Balance => "At the end of the period",
            Self::Flow => "In the period",
            Self::Level => "What was said last, at the end of the period",
        }
    }
}

/// The day of a row of a fact.
const DAY: &str = "CAST(fact.occurred_at AS DATE)";

impl Resolving<'_> {
    pub(super) fn periodic(&mut self, name: &ModelName, file: &PeriodicFile, file_name: &str) -> Option<Select> {
        let place = file.periodic_snapshot.place(file_name);
        let star = self.star(&name.domain, &file.of, &file.of.place(file_name))?;
        if !star.has("occurred_at") {
            let message = format!("`{}` has no column `occurred_at`", star.name);
            self.problem(Problem::new(file.of.place(file_name), message).hint("name a fact of events"));
            return None;
        }
        let from = self.day(&file.from, file_name)?;
        let Some(end) = &file.to else {
            let message = "the snapshot has no `to`, so its periods would go on for ever";
            self.problem(Problem::new(place, message).hint("name the last day that it is about: `to: 2030-12-31`"));
            return None;
        };
        let to = self.day(end, file_name)?;
        // The first and the last period count as a whole.
        let from = period_of(from, file.every.word()).map_or(from, |(first, _)| first);
        let to = period_of(to, file.every.word()).map_or(to, |(_, last)| last);
        if from > to || (to - from).num_days() > 40_000 {
            let message = "`from` is a day before `to`, at most a hundred years before";
            self.problem(Problem::new(end.place(file_name), message).hint("periods have bounds, whatever events say"));
            return None;
        }
        if file.balances.is_empty() && file.flows.is_empty() && file.levels.is_empty() {
            let hint =
                "name what comes together (`balances`), comes in a period (`flows`), or was said last (`levels`)";
            self.problem(Problem::new(place, "the snapshot has no measures").hint(hint));
            return None;
        }
        let (mut keys, mut shape, mut look_ups) = (Vec::new(), Shape::default(), Vec::new());
        let by_place = file.by.place(file_name);
        for by in &file.by.0 {
            let Some(dimension) = star.role(by).cloned() else {
                if !star.has(by) || star.is_key(by) {
                    let roles = star.shape.roles.iter().map(|(role, _)| role.as_str());
                    let hint = suggestion(by, roles.chain(star.columns().filter(|column| !star.is_key(column))));
                    let message = format!("`{}` has neither a dimension nor a column `{by}`", star.name);
                    self.problem(Problem::new(by_place, message).hint(hint));
                    return None;
                }
                keys.push((by.clone(), None));
                continue;
            };
            let (key, durable) = (format!("{by}_key"), format!("{by}_durable_key"));
            match star.has(&durable) {
                true => {
                    if matches!(self.models.get(&dimension), Some(Model::Dimension(_))) {
                        let at = "period_to".to_owned();
                        let (dimension, durable, key) = (dimension.clone(), durable.clone(), key.clone());
                        look_ups.push(LookUp { dimension, key, durable, at });
                    }
                    keys.push((durable, Some(key)));
                }
                false => keys.push((key, None)),
            }
            shape.roles.push((by.clone(), dimension));
        }
        if !file.levels.is_empty() {
            self.has_own_columns(&star, &file.of.place(file_name))?;
            let names_entries = file.filter.as_ref().is_some_and(|filter| words(filter).contains(ENTRY));
            if star.kind == "ledger" && !names_entries {
                let message = format!("`{}` is a ledger, whose reversals say nothing of their own", star.name);
                let hint = "add `where: fact.entry = 'entry'`, or name the fact that the ledger is of";
                self.problem(Problem::new(file.of.place(file_name), message).hint(hint));
                return None;
            }
        }
        let mut own = From::new(&star);
        let (mut computed, mut described) = (Vec::new(), IndexMap::new());
        let mut measures: Vec<(String, Told, DataType)> = Vec::new();
        let balances = file.balances.iter().map(|measure| (measure, Told::Balance));
        let flows = file.flows.iter().map(|measure| (measure, Told::Flow));
        let levels = file.levels.iter().map(|measure| (measure, Told::Level));
        for ((measure, expression), told) in balances.chain(flows).chain(levels) {
            let place = expression.place(file_name);
            if let Some(problem) = check_name(measure, &place) {
                self.problem(problem);
                return None;
            }
            let is_twice = measures.iter().any(|(other, ..)| other == measure)
                || ["period_from", "period_to"].contains(&measure.as_str())
                || keys.iter().any(|(key, version)| key == measure || version.as_ref() == Some(measure));
            if is_twice {
                let message = format!("the snapshot has two columns `{measure}`");
                self.problem(Problem::new(place, message).hint("rename one of them"));
                return None;
            }
            let data_type = self.fragment(&mut own, expression, &place)?;
            let adds_exactly = FieldType::of(&data_type).is_some_and(FieldType::adds_exactly);
            let (value, of, additive) = match told {
                Told::Level => {
                    let order = star.order().into_iter().map(|column| format!("fact.{} DESC", quoted(column)));
                    let order: Vec<String> = order.collect();
                    let value = format!(
                        "first_value({0} ORDER BY {1}) FILTER (WHERE {0} IS NOT NULL)",
                        format_args!("({})", expression.value),
                        order.join(", ")
                    );
                    let additive = if adds_exactly { Additivity::Semi } else { Additivity::None };
                    (value, data_type.clone(), Some(additive).filter(|_| data_type.is_numeric()))
                }
                Told::Balance | Told::Flow => {
                    if !adds_exactly {
                        let own = FieldType::name_of(&data_type);
                        let message = format!("`{}` is {own}, which is not added exactly", expression.value);
                        self.problem(Problem::new(place, message).hint("cast it to a decimal or an integer"));
                        return None;
                    }
                    self.sum_means_something(&star, expression, &place)?;
                    let in_time = match told {
                        Told::Flow => format!(" FILTER (WHERE {DAY} >= DATE '{from}')"),
                        _ => String::new(),
                    };
                    let summed = sum(&expression.value, &data_type, &in_time);
                    let additive = if told == Told::Flow { Additivity::Full } else { Additivity::Semi };
                    (format!("coalesce({summed}, 0)"), sum_type(&data_type), Some(additive))
                }
            };
            computed.push(format!("{value} AS {}", quoted(measure)));
            measures.push((measure.clone(), told, of));
            shape.measures.extend(additive.map(|additive| (measure.clone(), additive)));
            described.insert(measure.clone(), (Some(told.words().to_owned()), place));
        }
        let condition = file.filter.as_ref().map(|filter| (filter.as_str(), filter.place(file_name)));
        let condition = self.condition(&mut own, condition)?;
        if own.sources().len() > 1 {
            let hint = "compute what it needs in a `derived_fact` first";
            self.problem(Problem::new(place, "a snapshot is made of columns of its fact").hint(hint));
            return None;
        }
        let word = literal(file.every.word());
        let listed: Vec<String> = keys.iter().map(|(key, _)| quoted(key)).collect();
        let by = format!("PARTITION BY {}", listed.join(", "));
        let listed = listed.join(", ");
        let bounds = format!("{DAY} <= DATE '{to}'");
        let condition =
            if condition.is_empty() { format!(" WHERE {bounds}") } else { format!("{condition} AND {bounds}") };
        let period = |day: &str| format!("period_of(greatest({day}, DATE '{from}'), {word})");
        let running = measures.iter().map(|(measure, told, of)| {
            let (measure, over) = (quoted(measure), format!(" OVER ({by} ORDER BY \"its period\")"));
            match told {
                Told::Balance => format!("{} AS {measure}", sum(&measure, of, &over)),
                Told::Flow => measure,
                Told::Level => format!("last_value({measure}) IGNORE NULLS{over} AS {measure}"),
            }
        });
        let running: Vec<String> = running.collect();
        let shown = measures.iter().map(|(measure, told, _)| match told {
            Told::Balance | Told::Level => quoted(measure),
            Told::Flow => {
                format!("CASE WHEN period_from = \"its period\" THEN {0} ELSE {0} - {0} END AS {0}", quoted(measure))
            }
        });
        let shown: Vec<String> = shown.collect();
        let keyed = keys.iter().map(|(key, version)| match version {
            Some(version) => format!("{} AS {}, {}", quoted(key), quoted(version), quoted(key)),
            None => quoted(key),
        });
        let keyed: Vec<String> = keyed.collect();
        let select = format!(
            "SELECT {keyed}, period_from, period_end(period_from, {word}) AS period_to, {shown} FROM (\
             SELECT *, unnest(periods(\"its period\", \"the next\", CAST(${WATERMARK} AS DATE), {word})) AS period_from FROM (\
             SELECT {listed}, \"its period\", lead(\"its period\") OVER ({by} ORDER BY \"its period\") AS \"the next\", {running} FROM (\
             SELECT {listed}, {period} AS \"its period\", {computed} {own}{condition} GROUP BY {listed}, {period})))",
            keyed = keyed.join(", "),
            shown = shown.join(", "),
            running = running.join(", "),
            computed = computed.join(", "),
            period = period(DAY),
            own = own.text(),
        );
        let last = format!("least(CAST(max(fact.occurred_at) AS DATE), DATE '{to}')");
        let watermark = format!("SELECT {} FROM {} AS fact", period(&last), table(&star.name));
        let mut grain: Vec<String> = keys.into_iter().map(|(key, _)| key).collect();
        grain.push("period_from".to_owned());
        Some(Select {
            name: name.clone(),
            kind: PERIODIC,
            description: file.description.clone(),
            definition: serde_json::to_value(file).unwrap_or_default(),
            text: Text::Generated { select, watermark: Some(watermark) },
            place: place.clone(),
            sources: vec![star.source()],
            grain,
            grain_place: by_place,
            columns: described,
            shape: Some(shape),
            look_ups,
        })
    }

    /// Refuses the sum of a measure of which sums mean nothing; something else may be computed of it.
    fn sum_means_something(&mut self, star: &Star, expression: &str, place: &Place) -> Option<()> {
        let Some(column) = only_column(expression) else { return Some(()) };
        match star.additivity(&column) {
            Some(Additivity::Semi | Additivity::None) => self.measure_of(star, &column, place).map(drop),
            Some(Additivity::Full) | None => Some(()),
        }
    }

    fn day(&mut self, text: &Placed<String>, file_name: &str) -> Option<NaiveDate> {
        let day = text.parse::<NaiveDate>().ok().filter(|day| (1..=9998).contains(&chrono::Datelike::year(day)));
        if day.is_none() {
            let message = format!("`{}` is not a day such as 2024-01-31", text.value);
            self.problem(Problem::new(text.place(file_name), message));
        }
        day
    }

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
