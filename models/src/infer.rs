//! What payloads that nobody described seem to be: event types, fields, types, and how sure that is.
//!
//! Pure: it is fed JSON texts and counts what it sees at every path. A type is the narrowest that all values of a
//! path have; where values disagree, it is one that holds them all, and the others are told as a conflict. Whatever is
//! proposed is right for `check`; an id is proposed only where no two events have the same.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};

use indexmap::IndexMap;
use serde_json::value::RawValue;
use xxhash_rust::xxh3::xxh3_64;

use crate::define::FieldType;
use crate::events::{base, carries_over};
use crate::resolve::{BUILT_IN, is_name};

/// Paths that are looked at, of an event type.
const MOST_PATHS: usize = 2000;
/// Objects within objects that are looked into.
const MOST_DEPTH: usize = 12;
/// Distinct values that are remembered of a path.
const MOST_DISTINCT: usize = 1000;
/// An object with more names than this, of which few recur, is a map and not a record.
const MOST_NAMES: usize = 50;
/// The most characters of a name.
const MOST_CHARACTERS: usize = 63;
/// What an id of events is called, the likeliest first.
const IDS: [&str; 5] = ["event_id", "id", "message_id", "uuid", "event_uuid"];
/// So many values tell that what is called an id is one, though some are there several times.
const FEW: usize = 10;

/// What was seen of one kind of event, or of elements.
#[derive(Debug, Default)]
pub struct Shape {
    pub events: u64,
    /// By dotted path, in the order in which they were seen first.
    paths: IndexMap<String, Seen>,
    /// Names that no path can say, since they have dots, and those beyond the most.
    unreachable: HashSet<u64>,
    /// Everything is text, as in CSV: what looks like a number is one.
    is_text: bool,
}

/// What was seen at a path.
#[derive(Debug, Default)]
struct Seen {
    present: u64,
    nulls: u64,
    bools: u64,
    integers: u64,
    /// Of more than 64 bits.
    long_integers: u64,
    /// Numbers with a fraction, and their most digits before and after the point.
    fractions: u64,
    whole: usize,
    scale: usize,
    /// Numbers with an exponent.
    floats: u64,
    times: u64,
    dates: u64,
    texts: u64,
    /// Texts that are numbers, as a number is written.
    number_texts: u64,
    objects: u64,
    arrays: u64,
    /// Arrays that hold something else than objects.
    mixed: u64,
    /// Of arrays that hold nothing but objects.
    elements: Option<Box<Shape>>,
    distinct: HashSet<u64>,
    /// Of what is called an id: its values, until one comes again.
    ids: Option<Ids>,
    least: i64,
}

/// Values as the envelope reads them.
#[derive(Debug)]
enum Ids {
    Once(HashSet<u64>),
    Recur,
}

impl Ids {
    fn add(&mut self, value: &str) {
        // A number and the text of it are one id.
        let text = match value.starts_with('"') {
            true => serde_json::from_str::<Cow<'_, str>>(value).unwrap_or_default(),
            false => Cow::Borrowed(value),
        };
        if let Self::Once(values) = self
            && (text.is_empty() || !values.insert(xxh3_64(text.as_bytes())))
        {
            *self = Self::Recur;
        }
    }
}

/// A proposed field.
#[derive(Debug, PartialEq)]
pub struct Proposed {
    pub name: String,
    pub path: String,
    pub kind: ProposedKind,
    /// Events, or elements, that have it; and how many of these have null.
    pub present: u64,
    pub nulls: u64,
    /// Events, or elements, in all.
    pub of: u64,
    /// At least this share of what comes will fit, if it is like what came: by the rule of three.
    pub sure: f64,
    /// What else was there.
    pub conflict: Option<String>,
}

/// A value of this type, or elements.
#[derive(Debug, PartialEq)]
pub enum ProposedKind {
    Value(FieldType),
    Each(Vec<Proposed>),
}

/// Where the envelope may be.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ProposedEnvelope {
    /// All events have it, and no two the same.
    pub id: Option<String>,
    /// The same, but that some have the same: events that were sent several times, or no id.
    pub recurring_id: Option<String>,
    pub event_type: Option<String>,
    pub version: Option<String>,
    /// Path, and unit where it is a number.
    pub time: Option<(String, Option<&'static str>)>,
}

impl Shape {
    /// Of events in which everything is text.
    pub fn of_text() -> Self {
        Self { is_text: true, ..Self::default() }
    }

    /// Counts an event, by what it says. Whatever is no object is counted and has no paths.
    pub fn add(&mut self, text: &str) {
        self.events += 1;
        self.object(text, "", 0);
    }

    fn object(&mut self, text: &str, prefix: &str, depth: usize) {
        let Ok(members) = serde_json::from_str::<IndexMap<Cow<'_, str>, &RawValue>>(text) else { return };
        for (name, value) in members {
            let path = if prefix.is_empty() { name.to_string() } else { format!("{prefix}.{name}") };
            if !has_path(&name, prefix) || (self.paths.len() >= MOST_PATHS && !self.paths.contains_key(&path)) {
                if self.unreachable.len() < MOST_DISTINCT {
                    self.unreachable.insert(xxh3_64(path.as_bytes()));
                }
                continue;
            }
            let value = value.get();
            let seen = self.paths.entry(path.clone()).or_insert_with(|| Seen::at(&path));
            seen.present += 1;
            seen.count(value, depth);
            if value.starts_with('{') && depth < MOST_DEPTH {
                self.object(value, &path, depth + 1);
            }
        }
    }

    /// How many names no path can say.
    pub fn unreachable(&self) -> u64 {
        self.unreachable.len() as u64
    }

    /// The fields below `prefix` (all of them where it is empty), named without it.
    pub fn fields(&self, prefix: &str) -> Vec<Proposed> {
        self.proposed(prefix, false)
    }

    /// The same, of an event or of its elements: these have no elements of their own.
    fn proposed(&self, prefix: &str, of_elements: bool) -> Vec<Proposed> {
        let mut names = HashSet::new();
        let mut proposed = Vec::new();
        let maps: Vec<String> =
            self.paths.keys().filter(|path| self.is_map(path)).map(|path| format!("{path}.")).collect();
        for (path, seen) in &self.paths {
            let Some(rest) = path.strip_prefix(prefix).filter(|rest| !rest.is_empty()) else { continue };
            if maps.iter().any(|map| path.starts_with(map)) {
                continue;
            }
            // Where there are only objects, their members are the fields.
            if seen.objects > 0 && seen.objects + seen.nulls == seen.present && !maps.contains(&format!("{path}.")) {
                continue;
            }
            let Some((kind, agree, conflict)) = seen.propose(self.is_text, of_elements) else { continue };
            let values = seen.present - seen.nulls;
            let name = free_name(rest, &mut names);
            let sure = match agree == values {
                true => (1.0 - 3.0 / values as f64).max(0.0),
                false => agree as f64 / values as f64,
            };
            let (present, nulls, of) = (seen.present, seen.nulls, self.events);
            proposed.push(Proposed { name, path: path.clone(), kind, present, nulls, of, sure, conflict });
        }
        proposed
    }

    /// An object whose names are data: many, and each of them seldom.
    fn is_map(&self, path: &str) -> bool {
        let Some(seen) = self.paths.get(path).filter(|seen| seen.objects > 0) else { return false };
        let below = format!("{path}.");
        let children =
            self.paths.iter().filter(|(child, _)| child.strip_prefix(&below).is_some_and(|rest| !rest.contains('.')));
        let (mut names, mut present) = (0, 0);
        for (_, child) in children {
            names += 1;
            present += child.present;
        }
        names > MOST_NAMES && present < seen.objects * names as u64 / 10
    }

    /// Where the envelope may be: among what every event has.
    pub fn envelope(&self) -> ProposedEnvelope {
        let always =
            || self.paths.iter().filter(|(_, seen)| seen.present == self.events && seen.nulls == 0 && self.events > 0);
        let named = |path: &str, names: &[&str]| {
            let name = snake_case(path.rsplit('.').next().unwrap_or(path));
            names.iter().position(|known| *known == name)
        };
        let best = |names: &[&str], fits: &dyn Fn(&Seen) -> bool| {
            let found = always().filter(|(_, seen)| fits(seen));
            let ranked = found.filter_map(|(path, _)| Some((named(path, names)?, path.matches('.').count(), path)));
            ranked.min().map(|(.., path)| path.clone())
        };
        let is_plain = |seen: &Seen| (seen.texts + seen.integers) == seen.present;
        // Of one event, everything is unique.
        let tells_apart = |seen: &Seen| is_plain(seen) && matches!(seen.ids, Some(Ids::Once(_))) && self.events > 1;
        let nearly = |seen: &Seen| {
            let many = (self.events / 4).min(MOST_DISTINCT as u64).max(FEW as u64);
            is_plain(seen) && matches!(seen.ids, Some(Ids::Recur)) && seen.distinct.len() as u64 >= many
        };
        let is_time = |seen: &Seen| {
            seen.times + seen.dates == seen.present || (seen.integers == seen.present && unit(seen.least).is_some())
        };
        const TIMES: [&str; 10] =
            ["occurred_at", "event_time", "timestamp", "time", "at", "ts", "created_at", "ts_ms", "datetime", "date"];
        let time = best(&TIMES, &is_time)
            .or_else(|| always().find(|(_, seen)| seen.times == seen.present).map(|(path, _)| path.clone()));
        ProposedEnvelope {
            id: best(&IDS, &tells_apart),
            recurring_id: best(&IDS, &nearly),
            event_type: best(&["event_type", "type", "event", "event_name", "kind", "action", "name"], &|seen| {
                seen.texts == seen.present && seen.distinct.len() <= MOST_NAMES
            }),
            version: best(&["event_version", "schema_version", "version", "v"], &|seen| {
                seen.integers == seen.present && seen.least > 0 && seen.distinct.len() <= MOST_NAMES
            }),
            time: time.map(|path| {
                let seen = &self.paths[&path];
                let unit = if seen.integers > 0 { unit(seen.least) } else { None };
                (path, unit)
            }),
        }
    }
}

/// The unit in which a number is a time of this century.
fn unit(least: i64) -> Option<&'static str> {
    match least {
        946_684_800..=4_102_444_800 => Some("s"),
        946_684_800_000..=4_102_444_800_000 => Some("ms"),
        946_684_800_000_000..=4_102_444_800_000_000 => Some("us"),
        _ => None,
    }
}

impl Seen {
    fn at(path: &str) -> Self {
        let name = snake_case(path.rsplit('.').next().unwrap_or(path));
        let ids = IDS.contains(&name.as_str()).then(|| Ids::Once(HashSet::new()));
        Self { ids, ..Self::default() }
    }

    fn count(&mut self, value: &str, depth: usize) {
        if let Some(ids) = &mut self.ids {
            ids.add(value);
        }
        if self.distinct.len() < MOST_DISTINCT {
            self.distinct.insert(xxh3_64(value.as_bytes()));
        }
        match value.as_bytes().first() {
            Some(b'n') => self.nulls += 1,
            Some(b't' | b'f') => self.bools += 1,
            Some(b'{') => self.objects += 1,
            Some(b'[') => self.array(value, depth),
            Some(b'"') => self.text(value),
            _ => self.number(value),
        }
    }

    fn number(&mut self, value: &str) {
        let digits = value.trim_start_matches('-');
        if value.parse::<i64>().is_err() && digits.len() <= 38 && digits.bytes().all(|digit| digit.is_ascii_digit()) {
            self.long_integers += 1;
            self.whole = self.whole.max(digits.len());
            return;
        }
        if let Ok(integer) = value.parse::<i64>() {
            self.least = if self.integers == 0 { integer } else { self.least.min(integer) };
            self.integers += 1;
            self.whole = self.whole.max(value.trim_start_matches('-').len());
            return;
        }
        match value.split_once('.') {
            Some((whole, fraction)) if !fraction.contains(['e', 'E']) => {
                self.fractions += 1;
                self.whole = self.whole.max(whole.trim_start_matches('-').len());
                self.scale = self.scale.max(fraction.trim_end_matches('0').len());
            }
            // No type has numbers as large as that.
            _ if value.parse::<f64>().is_ok_and(f64::is_infinite) => self.texts += 1,
            _ => self.floats += 1,
        }
    }

    fn numbers(&self) -> u64 {
        self.integers + self.long_integers + self.fractions + self.floats
    }

    fn text(&mut self, value: &str) {
        let Ok(text) = serde_json::from_str::<Cow<'_, str>>(value) else { return };
        if text.parse::<chrono::NaiveDate>().is_ok() && text.len() == 10 {
            self.dates += 1;
        } else if text.len() >= 16 && starmere_lake::time::micros(&text).is_some() {
            self.times += 1;
        } else {
            self.texts += 1;
            let digits = text.strip_prefix('-').unwrap_or(&text);
            let begins = digits.bytes().next().is_some_and(|first| first.is_ascii_digit());
            let is_code = digits.len() > 1 && digits.starts_with('0') && !digits.starts_with("0.");
            let is_number = begins && !is_code && digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
            if is_number && text.parse::<f64>().is_ok() && digits.len() <= 18 {
                self.number_texts += 1;
                let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
                self.whole = self.whole.max(whole.len());
                self.scale = self.scale.max(fraction.len());
            }
        }
    }

    fn array(&mut self, value: &str, depth: usize) {
        self.arrays += 1;
        let Ok(elements) = serde_json::from_str::<Vec<&RawValue>>(value) else { return };
        if depth >= MOST_DEPTH || !elements.iter().all(|element| element.get().starts_with('{')) {
            self.mixed += 1;
            return;
        }
        let shape = self.elements.get_or_insert_default();
        elements.iter().for_each(|element| shape.add(element.get()));
    }

    /// What it is, how many values are that, and what the others are.
    fn propose(&self, is_text: bool, of_elements: bool) -> Option<(ProposedKind, u64, Option<String>)> {
        let values = self.present - self.nulls;
        if values == 0 {
            return None;
        }
        let value = |kind: FieldType, agree: u64| Some((ProposedKind::Value(kind), agree, self.others(kind)));
        let (numbers, strings) = (self.numbers(), self.times + self.dates + self.texts);
        let scalars = numbers + strings + self.bools;
        if self.arrays == values
            && self.mixed == 0
            && let Some(elements) = &self.elements
        {
            return match of_elements {
                false => Some((ProposedKind::Each(elements.proposed("", true)), values, None)),
                true => value(FieldType::Json, values),
            };
        }
        if scalars < values {
            return value(FieldType::Json, values - scalars);
        }
        // Definitions take numbers that are written as text; some producers cannot decide.
        let written = if is_text || numbers > 0 { self.number_texts } else { 0 };
        if written > 0 && numbers + written == values && self.floats == 0 {
            let kind = match self.scale {
                0 if self.fractions == 0 => FieldType::Bigint,
                scale if self.whole + scale <= 18 && scale <= 6 => FieldType::Decimal(18, scale.max(2) as i8),
                _ => FieldType::Double,
            };
            let words = (!is_text).then(|| format!("{written} written as text"));
            return Some((ProposedKind::Value(kind), values, words));
        }
        match () {
            () if self.bools == values => value(FieldType::Bool, values),
            () if self.integers == values => value(FieldType::Bigint, values),
            () if numbers == values && self.floats == 0 && self.whole + self.scale <= 18 && self.scale <= 6 => {
                value(FieldType::Decimal(18, self.scale.max(2) as i8), values)
            }
            () if numbers == values && self.long_integers > 0 && self.floats == 0 && self.whole + self.scale <= 38 => {
                let (precision, scale) = ((self.whole + self.scale).max(20), self.scale);
                value(FieldType::Decimal(precision as u8, scale as i8), values)
            }
            () if numbers == values && self.long_integers == 0 => value(FieldType::Double, values),
            () if self.dates == values => value(FieldType::Date, values),
            () if self.times + self.dates == values => value(FieldType::Timestamp, values),
            () => value(FieldType::String, strings.max(1)),
        }
    }

    fn others(&self, kind: FieldType) -> Option<String> {
        let numbers = self.numbers();
        let strings = self.times + self.dates + self.texts;
        let others: Vec<String> = match kind {
            FieldType::String => vec![(numbers, "numbers"), (self.bools, "true or false")],
            FieldType::Json => vec![(numbers, "numbers"), (strings, "texts"), (self.bools, "true or false")],
            _ => Vec::new(),
        }
        .into_iter()
        .filter(|&(count, _)| count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
        (!others.is_empty()).then(|| others.join(", "))
    }
}

/// `orderId.lineNo` as a name of ours: `order_id_line_no`.
pub fn snake_case(path: &str) -> String {
    let mut name = String::new();
    let mut before_is_lower = false;
    for character in path.chars() {
        if character.is_ascii_uppercase() && before_is_lower {
            name.push('_');
        }
        before_is_lower = character.is_ascii_lowercase() || character.is_ascii_digit();
        match character {
            _ if character.is_ascii_alphanumeric() => name.push(character.to_ascii_lowercase()),
            _ if name.is_empty() || name.ends_with('_') => {}
            _ => name.push('_'),
        }
    }
    let name = name.trim_end_matches('_');
    let name =
        if name.starts_with(|first: char| first.is_ascii_lowercase()) { name.to_owned() } else { format!("f_{name}") };
    name.chars().take(MOST_CHARACTERS).collect()
}

/// A path can say this name, below `prefix`: a dot or a place in brackets would lead elsewhere, and what begins with `$`
/// is outside the payload.
fn has_path(name: &str, prefix: &str) -> bool {
    let is_plain = !(name.is_empty() || name.contains('.') || prefix.is_empty() && name.starts_with('$'));
    is_plain && base(name) == name && name.split('[').skip(1).all(is_name)
}

/// A name for the field at a path, which none of `names` is; it is one of them from now on.
fn free_name(path: &str, names: &mut HashSet<String>) -> String {
    let mut name = snake_case(path);
    if BUILT_IN.contains(&name.as_str()) {
        name = format!("payload_{name}");
    }
    let whole = name.clone();
    let mut number = 1;
    while !names.insert(name.clone()) {
        number += 1;
        let end = format!("_{number}");
        let begin = whole.len().min(MOST_CHARACTERS - end.len());
        name = format!("{}{end}", &whole[..begin]);
    }
    name
}

/// Which values of `before` are not carried over into `after`, the fields of the next version, since their types have
/// nothing to do with one another. Those of elements are called `lines.sku`.
pub fn torn(before: &[Proposed], after: &[Proposed]) -> Vec<String> {
    let mut torn = Vec::new();
    for new in after {
        let Some(old) = before.iter().find(|old| old.name == new.name) else { continue };
        match (&old.kind, &new.kind) {
            (ProposedKind::Value(from), ProposedKind::Value(to)) => {
                let (from, to) = (from.arrow(), to.arrow());
                if from != to && !carries_over(&from, &to) {
                    torn.push(new.name.clone());
                }
            }
            (ProposedKind::Each(old), ProposedKind::Each(elements)) => {
                torn.extend(self::torn(old, elements).into_iter().map(|name| format!("{}.{name}", new.name)));
            }
            _ => {}
        }
    }
    torn
}

/// Shapes of events, by type and version.
pub type Shapes = BTreeMap<(String, i32), Shape>;

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(texts: &[&str]) -> Shape {
        let mut shape = Shape::default();
        texts.iter().for_each(|text| shape.add(text));
        shape
    }

    fn types(texts: &[&str]) -> Vec<String> {
        let of = |field: &Proposed| match &field.kind {
            ProposedKind::Value(kind) => format!("{} {kind}", field.name),
            ProposedKind::Each(fields) => format!("{} each {}", field.name, fields.len()),
        };
        shape(texts).fields("").iter().map(of).collect()
    }

    #[test]
    fn a_type_is_the_narrowest_that_all_values_have() {
        assert_eq!(types(&[r#"{"a":1}"#, r#"{"a":9007199254740993}"#]), ["a bigint"]);
        assert_eq!(types(&[r#"{"a":1}"#, r#"{"a":-1.25}"#]), ["a decimal(18,2)"]);
        assert_eq!(types(&[r#"{"a":1.12345678}"#]), ["a double"]);
        assert_eq!(types(&[r#"{"a":1e3}"#]), ["a double"]);
        assert_eq!(types(&[r#"{"a":1}"#, r#"{"a":9223372036854775808}"#]), ["a decimal(20,0)"]);
        assert_eq!(types(&[r#"{"a":-12345678901234567890123}"#, r#"{"a":0.5}"#]), ["a decimal(24,1)"]);
        assert_eq!(types(&[r#"{"a":9223372036854775808}"#, r#"{"a":1e3}"#]), ["a string"]);
        assert_eq!(types(&[r#"{"a":1e400}"#, r#"{"a":1e3}"#]), ["a string"]);
        assert_eq!(types(&[r#"{"a":true}"#, r#"{"a":null}"#, "{}"]), ["a bool"]);
        assert_eq!(types(&[r#"{"a":"2024-01-31"}"#]), ["a date"]);
        assert_eq!(types(&[r#"{"a":"2024-01-31T00:00:00Z"}"#, r#"{"a":"2024-01-31"}"#]), ["a timestamp"]);
        assert_eq!(types(&[r#"{"a":"2024-01-31"}"#, r#"{"a":"soon"}"#]), ["a string"]);
        assert_eq!(types(&[r#"{"a":"x"}"#, r#"{"a":1}"#]), ["a string"]);
        assert_eq!(types(&[r#"{"a":"1.5"}"#, r#"{"a":1}"#]), ["a decimal(18,2)"], "a producer that cannot decide");
        assert_eq!(types(&[r#"{"a":"15"}"#, r#"{"a":"16"}"#]), ["a string"], "it may be a code");
        assert_eq!(types(&[r#"{"a":"015"}"#, r#"{"a":16}"#]), ["a string"]);
        assert_eq!(types(&[r#"{"a":{"b":1}}"#, r#"{"a":2}"#]), ["a json", "a_b bigint"]);
        assert_eq!(types(&[r#"{"a":[1,2]}"#, r#"{"a":[]}"#]), ["a json"]);
        assert_eq!(types(&[r#"{"a":[1,{"b":2}]}"#]), ["a json"]);
        assert_eq!(types(&[r#"{"a":[{"b":1},{"c":2}]}"#, r#"{"a":[]}"#]), ["a each 2"]);
        assert_eq!(types(&[r#"{"a":null}"#]), [""; 0], "nothing is known of it");
        assert_eq!(types(&[r#"{"orderId":{"lineNo":1},"9":2,"a.b":3}"#]), ["order_id_line_no bigint", "f_9 bigint"]);
        assert_eq!(types(&["[1]", "7"]), [""; 0]);
    }

    #[test]
    fn an_object_whose_names_are_data_is_one_value() {
        let texts: Vec<String> = (0..200).map(|number| format!(r#"{{"m":{{"k{number}":1}}}}"#)).collect();
        assert_eq!(types(&texts.iter().map(String::as_str).collect::<Vec<_>>()), ["m json"]);
    }

    #[test]
    fn it_says_how_sure_it_is() {
        let texts: Vec<String> = (0..300).map(|number| format!(r#"{{"a":{number}}}"#)).collect();
        let mut texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        assert_eq!(shape(&texts).fields("")[0].sure, 0.99);
        texts.extend([r#"{"a":"x"}"#; 100]);
        let field = &shape(&texts).fields("")[0];
        assert_eq!((field.sure, field.conflict.as_deref()), (0.25, Some("300 numbers")));
    }

    #[test]
    fn an_envelope_is_found_by_names_and_values() {
        let texts: Vec<String> = (0..20)
            .map(|number| {
                format!(
                    r#"{{"meta":{{"eventId":"{number}","at":17040672{number:02}}},"type":"t{}","v":1,"x":"y"}}"#,
                    number % 3
                )
            })
            .collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let expected = ProposedEnvelope {
            id: Some("meta.eventId".into()),
            recurring_id: None,
            event_type: Some("type".into()),
            version: Some("v".into()),
            time: Some(("meta.at".into(), Some("s"))),
        };
        assert_eq!(shape(&texts).envelope(), expected);
        assert_eq!(shape(&[]).envelope(), ProposedEnvelope::default());
    }

    /// Tried as a domain team, 1: the id of the repository made three events one.
    #[test]
    fn an_id_is_what_no_two_events_share() {
        let events = |count: usize, text: &dyn Fn(usize) -> String| {
            let texts: Vec<String> = (0..count).map(text).collect();
            shape(&texts.iter().map(String::as_str).collect::<Vec<_>>()).envelope()
        };
        let of_repository = events(3, &|n| format!(r#"{{"repository":{{"id":7}},"n":{n},"kind":"a"}}"#));
        assert_eq!((of_repository.id, of_repository.recurring_id), (None, None));
        // One in ten thousand is the same as another one.
        let nearly = events(10_000, &|n| format!(r#"{{"id":"{}","n":{n}}}"#, n.max(1)));
        assert_eq!((nearly.id, nearly.recurring_id), (None, Some("id".to_owned())));
        let next_best = events(20, &|n| format!(r#"{{"event_id":{},"meta":{{"uuid":"u{n}"}}}}"#, n / 2));
        let (unique, recurring) = (Some("meta.uuid".to_owned()), Some("event_id".to_owned()));
        assert_eq!((next_best.id, next_best.recurring_id), (unique, recurring));
        // As the envelope reads them, these are the same.
        let written_otherwise = events(2, &|n| [r#"{"id":1}"#, r#"{"id":"\u0031"}"#][n].to_owned());
        assert_eq!(written_otherwise.id, None);
        assert_eq!(events(2, &|n| [r#"{"id":"a"}"#, r#"{"id":""}"#][n].to_owned()).id, None);
        assert_eq!(events(1, &|_| r#"{"id":"a"}"#.to_owned()).id, None, "one event tells nothing");
        assert_eq!(events(2, &|n| format!(r#"{{"id":"{n}"}}"#)).id.as_deref(), Some("id"));
    }

    #[test]
    fn names_are_apart_and_none_is_too_long() {
        let long = "x".repeat(70);
        let text = format!(r#"{{"{long}a":1,"{long}b":2,"{long}c":3,"aB":4,"a_b":5,"a_b_2":6,"a-b":7,"ordinal":8}}"#);
        let fields = shape(&[&text]).fields("");
        let names: Vec<&str> = fields.iter().map(|field| field.name.as_str()).collect();
        let cut = "x".repeat(61);
        let expected = [
            "x".repeat(63),
            format!("{cut}_2"),
            format!("{cut}_3"),
            "a_b".to_owned(),
            "a_b_2".to_owned(),
            "a_b_2_2".to_owned(),
            "a_b_3".to_owned(),
            "payload_ordinal".to_owned(),
        ];
        assert_eq!(names, expected);
    }

    #[test]
    fn names_that_no_path_can_say_are_left_out() {
        let texts = [r#"{"$schema":1,"a":{"$b":2,"c[0]":3,"d[x]":4,"e[]":5,"f.g":6},"lines":[{"$h":7,"i":8}]}"#];
        assert_eq!(types(&texts), ["a_b bigint", "a_d_x bigint", "lines each 1"]);
        assert_eq!(shape(&texts).unreachable(), 4);
    }

    #[test]
    fn a_list_within_elements_is_a_value() {
        let fields = shape(&[r#"{"lines":[{"sku":"a","boxes":[{"number":1}]}]}"#]).fields("");
        let [Proposed { kind: ProposedKind::Each(elements), .. }] = fields.as_slice() else { panic!("{fields:?}") };
        let boxes = elements.iter().find(|field| field.name == "boxes").unwrap();
        assert_eq!((&boxes.kind, boxes.conflict.as_deref()), (&ProposedKind::Value(FieldType::Json), None));
    }

    #[test]
    fn what_has_another_type_in_the_next_version_is_torn() {
        let fields = |text: &str| shape(&[text]).fields("");
        let before = fields(r#"{"a":1,"b":1,"c":"x","d":1.5,"e":true,"lines":[{"f":true,"g":1}],"list":[{"h":1}]}"#);
        let after = fields(r#"{"a":"x","b":1.5,"c":1,"d":1,"e":1,"lines":[{"f":1,"g":2}],"list":"x","new":1}"#);
        assert_eq!(torn(&before, &after), ["d", "e", "lines.f"]);
    }
}
