//! What the events mean, written out by hand: the definitions once more, as code that knows nothing of definitions.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use chrono::{DateTime, Datelike, NaiveDate};
use serde_json::Value;

use super::history::Landed;
use super::world::{ERROR, NOT_APPLICABLE, NULL};

/// The order of events; fields in the order in which they are compared.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) at: i64,
    pub(crate) stream: String,
    pub(crate) source: String,
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) position: i64,
}

/// An event whose envelope could be read.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) place: Place,
    pub(crate) id: String,
    pub(crate) kind: String,
    pub(crate) version: i32,
    pub(crate) body: Value,
}

/// An event does not fit what a model reads of it.
pub(crate) struct Misfit;

pub(crate) type Fit<T> = Result<T, Misfit>;

/// Nothing was said, null was said, or a value.
type Said<T> = Option<Option<T>>;

const INT: RangeInclusive<i64> = i32::MIN as i64..=i32::MAX as i64;
const BIGINT: RangeInclusive<i64> = i64::MIN..=i64::MAX;

/// The event of a line; none where the landing rejects it.
pub(crate) fn event(row: &Landed) -> Option<Event> {
    let body: Value = serde_json::from_slice(&row.payload).ok()?;
    let word = |value: Option<&Value>| match value? {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    let kind = word(body.get("type"))?;
    let at = DateTime::parse_from_rfc3339(body.get("at")?.as_str()?).ok()?.timestamp_micros();
    let version = match body.get("v") {
        None | Some(Value::Null) => 1,
        said => word(said)?.parse::<i32>().ok().filter(|version| *version > 0)?,
    };
    let Landed { stream, source, topic, partition, position, .. } = row;
    let id = word(body.get("id")).unwrap_or_else(|| format!("{source}/{topic}/0/{partition}/{position}"));
    let place = Place {
        at,
        stream: (*stream).to_owned(),
        source: (*source).to_owned(),
        topic: (*topic).to_owned(),
        partition: *partition,
        position: *position,
    };
    Some(Event { place, id, kind, version, body })
}

/// What a change is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    State,
    Patch,
    Delete,
}

/// What an event says about a member: the attributes and references that it speaks of.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) member: String,
    pub(crate) meaning: Meaning,
    pub(crate) said: BTreeMap<&'static str, Option<String>>,
}

/// A row of a fact, before it is keyed.
#[derive(Clone, Debug)]
pub(crate) struct FactRow {
    /// Role, dimension, member.
    pub(crate) roles: Vec<(&'static str, &'static str, Option<String>)>,
    pub(crate) columns: Vec<(&'static str, String)>,
    pub(crate) ordinal: usize,
}

fn at<'a>(body: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(body, |value, step| value.get(step))
}

fn text(body: &Value, path: &str) -> Fit<Said<String>> {
    Ok(match at(body, path) {
        None => None,
        Some(Value::Null) => Some(None),
        Some(Value::String(text)) => Some(Some(text.clone())),
        Some(Value::Number(number)) => Some(Some(number.to_string())),
        Some(Value::Bool(truth)) => Some(Some(truth.to_string())),
        Some(Value::Array(_) | Value::Object(_)) => return Err(Misfit),
    })
}

fn parsed(said: Said<String>, within: &RangeInclusive<i64>) -> Fit<Said<i64>> {
    match said {
        None => Ok(None),
        Some(None) => Ok(Some(None)),
        Some(Some(text)) => match text.parse::<i64>() {
            Ok(number) if within.contains(&number) => Ok(Some(Some(number))),
            _ => Err(Misfit),
        },
    }
}

fn whole(body: &Value, path: &str, within: &RangeInclusive<i64>) -> Fit<Said<i64>> {
    match at(body, path) {
        Some(Value::Bool(_)) => Err(Misfit),
        _ => parsed(text(body, path)?, within),
    }
}

/// A decimal with two digits, in hundredths.
fn hundredths(body: &Value, path: &str) -> Fit<Said<i64>> {
    if let Some(Value::Bool(_)) = at(body, path) {
        return Err(Misfit);
    }
    match text(body, path)? {
        None => Ok(None),
        Some(None) => Ok(Some(None)),
        Some(Some(text)) => {
            let (units, fraction) = text.split_once('.').unwrap_or((text.as_str(), ""));
            let number = format!("{units}{fraction:0<2}").parse::<i64>();
            number.ok().filter(|_| fraction.len() <= 2).map(|number| Some(Some(number))).ok_or(Misfit)
        }
    }
}

fn decimal(hundredths: i64) -> String {
    let sign = if hundredths < 0 { "-" } else { "" };
    format!("{sign}{}.{:02}", hundredths.abs() / 100, hundredths.abs() % 100)
}

fn day(body: &Value, path: &str) -> Fit<Option<NaiveDate>> {
    match at(body, path) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => NaiveDate::parse_from_str(text, "%Y-%m-%d").map(Some).map_err(|_| Misfit),
        Some(_) => Err(Misfit),
    }
}

fn shown<T: ToString>(said: Said<T>) -> Said<String> {
    said.map(|value| value.map(|value| value.to_string()))
}

fn or_null<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| NULL.to_owned(), |value| value.to_string())
}

/// The key of a day in a calendar of five days.
fn day_key(day: Option<NaiveDate>) -> String {
    let days = NaiveDate::from_ymd_opt(2024, 1, 1)..=NaiveDate::from_ymd_opt(2024, 1, 5);
    match day {
        Some(date) if days.contains(&day) => {
            (date.year() * 10_000 + date.month() as i32 * 100 + date.day() as i32).to_string()
        }
        _ => "0".to_owned(),
    }
}

fn change<const N: usize>(
    meaning: Meaning,
    member: Said<String>,
    said: [(&'static str, Said<String>); N],
) -> Fit<Change> {
    let member = member.flatten().ok_or(Misfit)?;
    Ok(Change { member, meaning, said: said.into_iter().filter_map(|(name, said)| Some((name, said?))).collect() })
}

/// Only version 1 is described.
fn first_version(event: &Event) -> Fit<&Value> {
    if event.version == 1 { Ok(&event.body) } else { Err(Misfit) }
}

/// What an event says about a customer; none where it is not about customers.
pub(crate) fn customer(event: &Event) -> Option<Fit<Change>> {
    match (event.place.stream.as_str(), event.kind.as_str()) {
        ("people", "person_seen") => Some(person_seen(event)),
        ("people", "person_changed") => Some(person_changed(event)),
        ("people", "person_left") => {
            Some(first_version(event).and_then(|body| change(Meaning::Delete, text(body, "who.nr")?, [])))
        }
        ("orders", "buyer_moved") => Some(
            first_version(event)
                .and_then(|body| change(Meaning::Patch, text(body, "order.buyer")?, [("city", text(body, "city")?)])),
        ),
        _ => None,
    }
}

fn person_seen(event: &Event) -> Fit<Change> {
    let body = &event.body;
    let (name, city, channel, score, tier) = match event.version {
        1 => {
            let town = text(body, "town")?.flatten().unwrap_or_default();
            let (city, rest) = town.split_once('/').unwrap_or((&town, ""));
            let city = if city.is_empty() { "Nowhere" } else { city };
            let channel = Some(rest.trim()).filter(|rest| !rest.is_empty()).map(str::to_owned);
            let name = [text(body, "name")?.flatten(), text(body, "score")?.flatten()];
            let name = name.into_iter().flatten().reduce(|name, score| format!("{name}-{score}"));
            let score = parsed(text(body, "score")?, &BIGINT)?;
            let tier = score.map(|score| score.map(|score| if score > 5 { "gold" } else { "plain" }));
            (Some(name), Some(Some(city.to_owned())), Some(channel), score, shown(tier))
        }
        2 => (
            text(body, "name")?,
            text(body, "city")?,
            text(body, "channel")?,
            whole(body, "score", &BIGINT)?,
            text(body, "tier")?,
        ),
        _ => return Err(Misfit),
    };
    if let Some(Some(score)) = score
        && !INT.contains(&score)
    {
        return Err(Misfit);
    }
    let name = name.map(|name| name.map(|name| name.to_uppercase()));
    let attributes = [
        ("full_name", name),
        ("city", city),
        ("score", shown(score)),
        ("channel", channel),
        ("tier", tier),
        ("region", text(body, "region")?),
    ];
    change(Meaning::State, text(body, "who.nr")?, attributes)
}

fn person_changed(event: &Event) -> Fit<Change> {
    let body = &event.body;
    let (name, score, region, channel) = match event.version {
        1 => (text(body, "name")?, parsed(text(body, "points")?, &INT)?, None, Some(Some("web".to_owned()))),
        2 => (text(body, "full_name")?, whole(body, "score", &INT)?, text(body, "region")?, text(body, "channel")?),
        _ => return Err(Misfit),
    };
    if score.flatten() >= Some(9) {
        return Err(Misfit);
    }
    let attributes = [
        ("full_name", name),
        ("city", text(body, "city")?),
        ("score", shown(score)),
        ("region", region),
        ("channel", channel),
    ];
    change(Meaning::Patch, text(body, "who.nr")?, attributes)
}

/// What an event says about a region.
pub(crate) fn region(event: &Event) -> Option<Fit<Change>> {
    let meaning = match (event.place.stream.as_str(), event.kind.as_str()) {
        ("places", "region_named") => Meaning::State,
        ("places", "region_changed") => Meaning::Patch,
        ("places", "region_gone") => Meaning::Delete,
        _ => return None,
    };
    Some(first_version(event).and_then(|body| {
        let member = text(body, "region_id")?;
        if meaning == Meaning::Delete {
            return change(meaning, member, []);
        }
        let name = text(body, "name")?;
        let climate = text(body, "climate")?;
        change(
            meaning,
            member,
            [("name", name.clone()), ("area", name.clone()), ("first_name", name), ("climate", climate)],
        )
    }))
}

/// What an event says about an area.
pub(crate) fn area(event: &Event) -> Option<Fit<Change>> {
    let meaning = match (event.place.stream.as_str(), event.kind.as_str()) {
        ("places", "region_changed") => Meaning::Patch,
        ("places", "region_gone") => Meaning::Delete,
        _ => return None,
    };
    Some(first_version(event).and_then(|body| {
        let member = text(body, "region_id")?;
        match meaning {
            Meaning::Delete => change(meaning, member, []),
            _ => change(meaning, member, [("climate", text(body, "climate")?)]),
        }
    }))
}

/// What an event says about a zone.
pub(crate) fn zone(event: &Event) -> Option<Fit<Change>> {
    Some(region(event)?.map(|mut change| {
        change.said.remove("area");
        if let Some(name) = change.said.remove("first_name") {
            change.said.insert("first", name);
        }
        change
    }))
}

/// What an event says about a shop.
pub(crate) fn shop(event: &Event) -> Option<Fit<Change>> {
    let meaning = match (event.place.stream.as_str(), event.kind.as_str()) {
        ("places", "shop_opened") => Meaning::State,
        ("places", "shop_renamed") => Meaning::Patch,
        _ => return None,
    };
    Some(first_version(event).and_then(|body| {
        let title = text(body, "title")?;
        change(meaning, text(body, "shop_id")?, [("title", title.clone()), ("opened_as", title)])
    }))
}

/// What an event says about a product.
pub(crate) fn product(event: &Event) -> Option<Fit<Change>> {
    let meaning = match (event.place.stream.as_str(), event.kind.as_str()) {
        ("goods", "product_listed") => Meaning::State,
        ("goods", "product_priced") => Meaning::Patch,
        _ => return None,
    };
    Some(first_version(event).and_then(|body| {
        let price = hundredths(body, "price")?.map(|price| price.map(decimal));
        let member = shown(whole(body, "product_id", &BIGINT)?);
        change(meaning, member, [("title", text(body, "title")?), ("price", price)])
    }))
}

/// The rows that an event adds to `order_lines`.
pub(crate) fn order_lines(event: &Event) -> Option<Fit<Vec<FactRow>>> {
    let is_order = event.place.stream == "orders" && event.kind == "order_placed";
    is_order.then(|| lines_of_order(event))
}

/// Product, quantity and price of a line, as far as they are said.
type Line = (Option<String>, Option<i64>, Option<i64>);

/// The lines of an order, in the newest version.
fn elements(event: &Event) -> Fit<Vec<Line>> {
    let body = &event.body;
    let elements: &[Value] = match at(body, "order.lines") {
        None | Some(Value::Null) => &[],
        Some(Value::Array(elements)) => elements,
        Some(_) => return Err(Misfit),
    };
    let mut read = Vec::new();
    for element in elements {
        if !element.is_object() {
            return Err(Misfit);
        }
        read.push(match event.version {
            1 => {
                let price = hundredths(element, "price")?.flatten().unwrap_or(150);
                (text(element, "sku")?.flatten(), parsed(text(element, "qty")?, &INT)?.flatten(), Some(price))
            }
            _ => {
                let quantity = whole(element, "quantity", &INT)?.flatten();
                (text(element, "product")?.flatten(), quantity, hundredths(element, "price")?.flatten())
            }
        });
    }
    Ok(read)
}

fn lines_of_order(event: &Event) -> Fit<Vec<FactRow>> {
    let body = &event.body;
    let number = text(body, "order.no")?.flatten().ok_or(Misfit)?;
    let (buyer, payer, due) = match event.version {
        1 => {
            let buyer = text(body, "order.client")?.flatten();
            let payer = text(body, "order.guarantor")?.flatten().or_else(|| buyer.clone());
            (buyer, payer, NaiveDate::from_ymd_opt(2024, 1, 3))
        }
        2 => (text(body, "order.buyer")?.flatten(), text(body, "order.payer")?.flatten(), day(body, "due")?),
        _ => return Err(Misfit),
    };
    let read = elements(event)?;
    // Division by zero: the event does not fit, whatever its other lines say.
    if read.iter().any(|(_, quantity, _)| *quantity == Some(7)) {
        return Err(Misfit);
    }
    let mut rows = Vec::new();
    for (index, (product, quantity, price)) in read.into_iter().enumerate() {
        let Some(quantity) = quantity.filter(|&quantity| 100 / (quantity - 7) != 0 && quantity > 0) else { continue };
        let share = 100_i64.checked_div(quantity - 13).ok_or(Misfit)?;
        let product = product.map(|product| product.parse::<i64>().map_err(|_| Misfit)).transpose()?;
        rows.push(FactRow {
            roles: vec![
                ("buyer", "sales.customer", buyer.clone()),
                ("payer", "sales.customer", payer.clone()),
                ("product", "sales.product", product.map(|product| product.to_string())),
            ],
            columns: vec![
                ("order_date_key", day_key(date_of(event))),
                ("due_date_key", day_key(due)),
                ("order_no", number.clone()),
                ("line", (index + 1).to_string()),
                ("quantity", quantity.to_string()),
                ("amount", or_null(price.map(|price| decimal(quantity * price)))),
                ("share", share.to_string()),
            ],
            ordinal: index + 1,
        });
    }
    Ok(rows)
}

/// The row that an event adds to `storms`.
pub(crate) fn storms(event: &Event) -> Option<Fit<Vec<FactRow>>> {
    let is_order = event.place.stream == "orders" && event.kind == "order_placed";
    is_order.then(|| {
        let body = &event.body;
        let channel = match event.version {
            1 => via(body)?,
            2 => text(body, "channel")?.flatten(),
            _ => return Err(Misfit),
        };
        let number = text(body, "order.no")?.flatten().ok_or(Misfit)?;
        let hour = event.place.at.div_euclid(3_600_000_000).rem_euclid(24);
        Ok(vec![FactRow {
            roles: vec![("weather", "sales.zone_weather", destination(event)?)],
            columns: vec![
                ("flags_key", format!("{}/{}", or_null(channel), number == "o1")),
                ("hour_key", (100 + hour).to_string()),
            ],
            ordinal: 1,
        }])
    })
}

/// The rows that an event adds to `movements`.
pub(crate) fn movements(event: &Event) -> Option<Fit<Vec<FactRow>>> {
    match (event.place.stream.as_str(), event.kind.as_str()) {
        ("orders", "order_placed") => Some(moved_by_order(event)),
        ("goods", "product_priced") => Some(first_version(event).and_then(|body| {
            let product = whole(body, "product_id", &BIGINT)?.flatten().map(|id| id.to_string());
            let price = hundredths(body, "price")?.flatten();
            if price.is_some_and(|price| price <= 0) {
                return Err(Misfit);
            }
            Ok(vec![movement(event, 1, product, NULL.to_owned(), "priced", None, price)])
        })),
        _ => None,
    }
}

fn moved_by_order(event: &Event) -> Fit<Vec<FactRow>> {
    let body = &event.body;
    if ![1, 2].contains(&event.version) {
        return Err(Misfit);
    }
    let number = text(body, "order.no")?.flatten().ok_or(Misfit)?;
    let read = elements(event)?;
    let mut rows = Vec::new();
    for (index, (product, quantity, price)) in read.into_iter().enumerate().take(4) {
        if quantity.is_none_or(|quantity| quantity <= 2) {
            continue;
        }
        if quantity >= Some(200) {
            return Err(Misfit);
        }
        let product = product.map(|product| product.parse::<i64>().map_err(|_| Misfit)).transpose()?;
        let product = product.map(|product| product.to_string());
        rows.push(movement(event, index + 1, product, number.clone(), "ordered", quantity, price));
    }
    Ok(rows)
}

fn movement(
    event: &Event,
    ordinal: usize,
    product: Option<String>,
    number: String,
    what: &str,
    quantity: Option<i64>,
    price: Option<i64>,
) -> FactRow {
    let Place { stream, source, topic, partition, position, .. } = &event.place;
    let product = match (ordinal, product) {
        (3, _) => ERROR.to_owned(),
        (_, None) => NOT_APPLICABLE.to_owned(),
        (_, Some(product)) => product,
    };
    FactRow {
        roles: vec![("product", "sales.product", Some(product))],
        columns: vec![
            ("order_no", number),
            ("line", ordinal.to_string()),
            ("what", what.to_owned()),
            ("quantity", or_null(quantity.map(|quantity| quantity.to_string()))),
            ("price", or_null(price.map(decimal))),
            ("size_key", quantity.map_or(0, |of| 1 + i64::from(of >= 4) + i64::from(of >= 12)).to_string()),
            ("event_stream", stream.clone()),
            ("audit_source", source.clone()),
            ("audit_topic", topic.clone()),
            ("audit_partition", partition.to_string()),
            ("audit_position", position.to_string()),
            ("audit_event_version", event.version.to_string()),
        ],
        ordinal,
    }
}

fn date_of(event: &Event) -> Option<NaiveDate> {
    DateTime::from_timestamp_micros(event.place.at).map(|at| at.date_naive())
}

/// The channel of an order of version 1.
fn via(body: &Value) -> Fit<Option<String>> {
    Ok(text(body, "via")?.flatten().map(|via| match via.as_str() {
        "Web" => "web".to_owned(),
        "SHOP" => "shop".to_owned(),
        _ => via,
    }))
}

/// The region that an order goes to, of which version 1 said something else.
fn destination(event: &Event) -> Fit<Option<String>> {
    match event.version {
        1 => Ok(Some("r3".to_owned())),
        _ => Ok(text(&event.body, "ship_to")?.flatten()),
    }
}

/// The row that an event adds to `orders`.
pub(crate) fn orders(event: &Event) -> Option<Fit<Vec<FactRow>>> {
    let is_order = event.place.stream == "orders" && event.kind == "order_placed";
    is_order.then(|| order(event).map(|row| vec![row]))
}

fn order(event: &Event) -> Fit<FactRow> {
    let body = &event.body;
    let (buyer, channel) = match event.version {
        1 => (text(body, "order.client")?, via(body)?),
        2 => (text(body, "order.buyer")?, text(body, "channel")?.flatten()),
        _ => return Err(Misfit),
    };
    let number = text(body, "order.no")?.flatten().ok_or(Misfit)?;
    Ok(FactRow {
        roles: vec![
            ("customer", "sales.customer", buyer.flatten()),
            ("region", "sales.region", destination(event)?),
            ("shop", "sales.shop", text(body, "shop")?.flatten()),
        ],
        columns: vec![
            ("placed_key", day_key(date_of(event))),
            ("order_no", number),
            ("fee", if channel.as_deref() == Some("web") { "1.01" } else { "-0.05" }.to_owned()),
            ("channel", or_null(channel)),
            ("orders", "1".to_owned()),
        ],
        ordinal: 1,
    })
}
