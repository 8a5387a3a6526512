//! Periodic snapshots: the state at each period's end.

use arrow::datatypes::DataType;
use chrono::{DateTime, Datelike, NaiveDate};
use indexmap::IndexMap;
use starmere_lake::events::timestamp;

use super::super::{Model, Resolving, check_name};
use super::Select;
use super::ledger::ENTRY;
use super::star::{From, Star, literal, quoted, sum, sum_type, table};
use crate::define::period::{self, DAY, Period};
use crate::define::{Additivity, FieldType, ModelName, PeriodicFile, Place, Placed, Problem, suggestion};
use crate::events::words;
use crate::generated::calendar::number;
use crate::sql_model::{LookUp, PERIODIC, Shape, Text, WATERMARK, only_column, period_text};

/// When a row of the fact happened.
const OCCURRED: &str = "fact.occurred_at";
/// From the first period to the end of the last one there are at most so many days, and so many periods.
const MOST_DAYS: i64 = 40_000;
const MOST_PERIODS: i64 = 1_000_000;
/// The last period is over by then.
const LAST_YEAR: i32 = 9999;

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

impl Resolving<'_> {
    pub(super) fn periodic(&mut self, name: &ModelName, file: &PeriodicFile, file_name: &str) -> Option<Select> {
        let place = file.periodic_snapshot.place(file_name);
        let star = self.star(&name.domain, &file.of, &file.of.place(file_name))?;
        if !star.has("occurred_at") {
            let message = format!("`{}` has no column `occurred_at`", star.name);
            self.problem(Problem::new(file.of.place(file_name), message).hint("name a fact of events"));
            return None;
        }
        let periods = self.periods(file, file_name)?;
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
        let (begins, ends) = periods.described();
        let describe = |column: &str, words: &str| (column.to_owned(), (Some(words.to_owned()), place.clone()));
        let mut described = IndexMap::from([describe("period_from", begins), describe("period_to", ends)]);
        let mut computed = Vec::new();
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
                        Told::Flow => format!(" FILTER (WHERE {})", periods.is_after_the_begin(OCCURRED)),
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
        let word = periods.text();
        let listed: Vec<String> = keys.iter().map(|(key, _)| quoted(key)).collect();
        let by = format!("PARTITION BY {}", listed.join(", "));
        let listed = listed.join(", ");
        let bounds = periods.is_before_the_end(OCCURRED);
        let condition =
            if condition.is_empty() { format!(" WHERE {bounds}") } else { format!("{condition} AND {bounds}") };
        let period = periods.of(&periods.at(OCCURRED));
        let said = |measure: &str| measure.replacen('"', "\"times said ", 1);
        let running = measures.iter().map(|(measure, told, of)| {
            let (measure, over) = (quoted(measure), format!(" OVER ({by} ORDER BY \"its period\")"));
            match told {
                Told::Balance => format!("{} AS {measure}", sum(&measure, of, &over)),
                Told::Flow => measure,
                Told::Level => format!(
                    "first_value({measure}) OVER (PARTITION BY {listed}, {} ORDER BY \"its period\") AS {measure}",
                    said(&measure)
                ),
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
        let mut by_period = format!(
            "SELECT {listed}, {period} AS \"its period\", {computed} {own}{condition} GROUP BY {listed}, {period}",
            computed = computed.join(", "),
            own = own.text(),
        );
        // What was said last is the first of all that follow, up to the next that is said.
        let times_said = file.levels.keys().map(|measure| {
            let measure = quoted(measure);
            format!("count({measure}) OVER ({by} ORDER BY \"its period\") AS {}", said(&measure))
        });
        let times_said: Vec<String> = times_said.collect();
        if !times_said.is_empty() {
            by_period = format!("SELECT *, {} FROM ({by_period})", times_said.join(", "));
        }
        let type_of_times = if periods.every.is_of_days() { "DATE" } else { "TIMESTAMP" };
        let select = format!(
            "SELECT {keyed}, period_from, period_end(period_from, {word}) AS period_to, {shown} FROM (\
             SELECT *, unnest(periods(\"its period\", \"the next\", CAST(${WATERMARK} AS {type_of_times}), {word})) AS period_from FROM (\
             SELECT {listed}, \"its period\", lead(\"its period\") OVER ({by} ORDER BY \"its period\") AS \"the next\", {running} FROM ({by_period})))",
            keyed = keyed.join(", "),
            shown = shown.join(", "),
            running = running.join(", "),
        );
        let newest = periods.at(&format!("max({OCCURRED})"));
        let newest = format!("least({newest}, {})", periods.literal(periods.over - 1));
        let watermark = format!("SELECT {} FROM {} AS fact", periods.of(&newest), table(&star.name));
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

    /// The first and the last period count as a whole.
    fn periods(&mut self, file: &PeriodicFile, file_name: &str) -> Option<Periods> {
        let every = file.every;
        let (first, _) = self.moments(&file.from, every, file_name)?;
        let Some(to) = &file.to else {
            let message = "the snapshot has no `to`, so its periods would go on for ever";
            let place = file.periodic_snapshot.place(file_name);
            self.problem(Problem::new(place, message).hint("name the last day that it is about: `to: 2030-12-31`"));
            return None;
        };
        let (_, last) = self.moments(to, every, file_name)?;
        let bounds = every.around(first, first).zip(every.around(last, first));
        let bounds = bounds.filter(|(_, (_, over))| period::day(*over).is_some_and(|day| day.year() <= LAST_YEAR));
        let message = match bounds {
            _ if first > last => "`to` is before `from`".to_owned(),
            None => format!("the last period is not over by the year {LAST_YEAR}"),
            Some(((from, second), (_, over))) => match ((over - from) / DAY, (over - from) / (second - from)) {
                (days, _) if days > MOST_DAYS => {
                    format!("the periods have {days} days together, of at most {MOST_DAYS}")
                }
                (_, count) if count > MOST_PERIODS => format!("there are {count} periods, of at most {MOST_PERIODS}"),
                _ => return Some(Periods { every, first, from, over }),
            },
        };
        self.problem(Problem::new(to.place(file_name), message).hint("periods have bounds, whatever events say"));
        None
    }

    /// The first and the last microsecond of a day, or a time twice.
    fn moments(&mut self, text: &Placed<String>, every: Period, file_name: &str) -> Option<(i64, i64)> {
        let day = text.parse::<NaiveDate>().ok().map(|day| i64::from(number(day)) * DAY);
        let time = || DateTime::parse_from_rfc3339(text).ok().filter(|_| !every.is_of_days());
        let moments = match day {
            Some(day) => Some((day, day + DAY - 1)),
            None => time().map(|time| (time.timestamp_micros(), time.timestamp_micros())),
        };
        let is_known = |moment: i64| period::day(moment).is_some_and(|day| (1..LAST_YEAR).contains(&day.year()));
        let message = match moments {
            Some((first, _)) if is_known(first) => return moments,
            Some(_) => format!("`{}` is not in one of the years 1 to {}, in UTC", text.value, LAST_YEAR - 1),
            None if every.is_of_days() => format!("`{}` is not a day such as 2024-01-31", text.value),
            None => {
                let of = "not a day such as 2024-01-31, nor a time with its zone, such as 2024-01-31T06:00:00Z";
                format!("`{}` is {of}", text.value)
            }
        };
        self.problem(Problem::new(text.place(file_name), message));
        None
    }
}

/// The periods of a snapshot.
struct Periods {
    every: Period,
    /// Where those begin that are counted.
    first: i64,
    /// When the first one begins, and when the last one is over, in microseconds.
    from: i64,
    over: i64,
}

impl Periods {
    /// What a time is in SQL where periods are of days, or are not.
    fn at(&self, time: &str) -> String {
        if self.every.is_of_days() { format!("CAST({time} AS DATE)") } else { time.to_owned() }
    }

    /// What their bounds are.
    fn described(&self) -> (&'static str, &'static str) {
        match self.every.is_of_days() {
            true => ("The period's first day", "The period's last day"),
            false => ("When the period begins", "When the period is over, and the next one begins"),
        }
    }

    fn literal(&self, moment: i64) -> String {
        match DateTime::from_timestamp_micros(moment) {
            Some(time) if self.every.is_of_days() => format!("DATE '{}'", time.date_naive()),
            Some(time) => format!("arrow_cast('{}', '{}')", time.naive_utc(), timestamp()),
            None => "NULL".to_owned(),
        }
    }

    /// Whether a time is in none after the last one, as SQL.
    fn is_before_the_end(&self, time: &str) -> String {
        format!("{} <= {}", self.at(time), self.literal(self.over - 1))
    }

    /// Whether a time is in none before the first one, as SQL.
    fn is_after_the_begin(&self, time: &str) -> String {
        format!("{} >= {}", self.at(time), self.literal(self.from))
    }

    /// As functions of SQL are told of them.
    fn text(&self) -> String {
        literal(&period_text(self.every, self.first))
    }

    /// When the period begins that has a time, as SQL; what came before is in the first one.
    fn of(&self, time: &str) -> String {
        format!("period_of(greatest({}, {}), {})", time, self.literal(self.from), self.text())
    }
}
