//! Resolving dimensions that need no events.

use std::sync::Arc;

use chrono::{Datelike, NaiveDate};

use super::{GeneratedModel, Model, Resolving};
use crate::define::{BandsFile, Calendar, DimensionFile, FieldType, ModelName, Place, Placed, Problem, TimeOfDay};
use crate::generated::calendar::{holidays, known_locale, number};
use crate::generated::{Bands, Days, Generated, Times};

impl Resolving<'_> {
    pub(super) fn generated(&mut self) {
        for (domain, parsed) in &self.definitions.dimensions {
            let (file, file_name) = (&parsed.definition, parsed.file.as_str());
            let (kind, place, generated) = match file {
                DimensionFile { calendar: Some(calendar), .. } => {
                    let place = calendar.place(file_name);
                    ("a calendar", place.clone(), self.days(calendar, &place).map(Generated::Days))
                }
                DimensionFile { time_of_day: Some(of), .. } => {
                    let TimeOfDay { every } = of.value;
                    ("a time of day", of.place(file_name), Some(Generated::Times(Times { every })))
                }
                DimensionFile { bands: Some(bands), .. } => {
                    let place = bands.place(file_name);
                    ("a dimension of bands", place.clone(), self.bands(bands, &place).map(Generated::Bands))
                }
                _ => continue,
            };
            let Some(generated) = generated else { continue };
            let kinds =
                [file.calendar.is_some(), file.time_of_day.is_some(), file.bands.is_some(), file.junk.is_some()];
            let is_plain = file.key.is_none()
                && file.from.is_empty()
                && file.attributes.is_empty()
                && file.references.is_empty()
                && file.inferred_from.is_empty()
                && file.mini.is_empty()
                && kinds.iter().filter(|is_there| **is_there).count() == 1;
            if !is_plain {
                let message = format!("{kind} has no key, sources, attributes, references or inferred members");
                self.problem(Problem::new(place, message));
                continue;
            }
            self.models.models.push(Model::Generated(GeneratedModel {
                name: ModelName::new(domain, &file.dimension),
                description: file.description.clone(),
                generated: Arc::new(generated),
                members: file.members.clone(),
                fingerprint: String::new(),
            }));
        }
    }

    fn days(&mut self, calendar: &Placed<Calendar>, place: &Place) -> Option<Days> {
        let day =
            |text: &str| text.parse::<NaiveDate>().ok().filter(|day| (1..=9999).contains(&day.year())).map(number);
        let (Some(first), Some(last)) = (day(&calendar.from), day(&calendar.to)) else {
            let message = "a calendar has `from` and `to`, days such as 2024-01-31";
            self.problem(Problem::new(place.clone(), message));
            return None;
        };
        if first > last || last - first > 200_000 {
            let message = "`from` is a day before `to`, at most 500 years before";
            self.problem(Problem::new(place.clone(), message));
            return None;
        }
        if calendar.fiscal_year_begins.is_some_and(|month| !(1..=12).contains(&month)) {
            let message = "`fiscal_year_begins` is a month: 1 to 12";
            self.problem(Problem::new(place.clone(), message));
            return None;
        }
        let holidays = match (&calendar.holidays, &calendar.holidays_text) {
            (Some(file), Some(text)) => match holidays(text) {
                Ok(holidays) => Some(holidays),
                Err(reason) => {
                    let hint = "write a day, a comma and a name a line";
                    self.problem(Problem::new(place.clone(), format!("`{file}`, {reason}")).hint(hint));
                    return None;
                }
            },
            _ => None,
        };
        for (index, locale) in calendar.locales.iter().enumerate() {
            let message = match known_locale(locale) {
                None => format!("`{locale}` is no language that is known"),
                Some(_) if calendar.locales[..index].contains(locale) => format!("`{locale}` is there twice"),
                Some(_) if locale.contains('@') => format!("`{locale}` has an `@`, which no column's name has"),
                Some(_) => continue,
            };
            let hint = "write it as `de_CH`: a language, and where it is spoken";
            self.problem(Problem::new(place.clone(), message).hint(hint));
            return None;
        }
        let (fiscal_year_begins, locales) = (calendar.fiscal_year_begins, calendar.locales.clone());
        Some(Days { first, last, fiscal_year_begins, holidays, locales })
    }

    fn bands(&mut self, bands: &Placed<BandsFile>, place: &Place) -> Option<Bands> {
        let scale = match bands.of {
            FieldType::Decimal(_, scale) => scale,
            FieldType::Int | FieldType::Bigint => 0,
            other => {
                let message = format!("values of type {other} have no bands");
                self.problem(Problem::new(place.clone(), message).hint("`of` is a decimal or an integer"));
                return None;
            }
        };
        let wrong = |message: String| Problem::new(place.clone(), message);
        let names = &bands.names;
        let Some((last, rest)) =
            names.iter().collect::<Vec<_>>().split_last().map(|(last, rest)| (*last, rest.to_vec()))
        else {
            let hint = "name each and where it ends: `{ small: 10, large: }`";
            self.problem(wrong("there are no bands".to_owned()).hint(hint));
            return None;
        };
        if last.1.0.is_some() {
            self.problem(
                wrong(format!("the last band, `{}`, has an end", last.0))
                    .hint("leave it out: what is above belongs to it"),
            );
            return None;
        }
        let mut bounds: Vec<i128> = Vec::new();
        for (name, end) in rest {
            let Some(text) = &end.0 else {
                self.problem(
                    wrong(format!("`{name}` does not say where it ends")).hint("only the last band has no end"),
                );
                return None;
            };
            match digits(text, scale) {
                Some(end) if bounds.last().is_none_or(|before| *before < end) => bounds.push(end),
                Some(_) => {
                    self.problem(wrong(format!("`{name}` ends before it begins: at {text}")));
                    return None;
                }
                None => {
                    self.problem(wrong(format!("`{text}`, where `{name}` ends, is not of type {}", bands.of)));
                    return None;
                }
            }
        }
        Some(Bands { of: bands.of, names: names.keys().cloned().collect(), bounds })
    }
}

/// A number, in units of its last digit; none where it has more digits than `scale`.
fn digits(text: &str, scale: i8) -> Option<i128> {
    let (whole, rest) = text.split_once('.').unwrap_or((text, ""));
    let rest = rest.trim_end_matches('0');
    let scale = usize::try_from(scale).ok()?;
    let is_plain = rest.chars().all(|c| c.is_ascii_digit()) && rest.len() <= scale;
    let padded = format!("{whole}{rest:0<scale$}");
    is_plain.then(|| padded.parse().ok()).flatten()
}
