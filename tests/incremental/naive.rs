//! The answer, computed from the raw lines in the plainest way there is: everything from the start, every time.
//!
//! Shares no code with the product. A member's state at an instant is found by replaying all changes up to it,
//! which takes quadratic time and cannot forget anything.

use std::collections::{BTreeMap, BTreeSet};

use super::history::Landed;
use super::reading::{self, Change, Event, FactRow, Fit, Meaning, Place};
use super::world::{ERROR, NOBODY, NOT_APPLICABLE, NULL, Row, Tables, UNKNOWN, moment};
use super::{derived, queries};

const BEGINNING: i64 = -62_135_596_800_000_000;
const END: i64 = 253_402_214_400_000_000;

/// What becomes of former values.
#[derive(Clone, Copy, PartialEq, Eq)]
enum History {
    Keep,
    Overwrite,
    Version,
}
use History::{Keep, Overwrite, Version};

/// What is shown beside a value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Beside {
    Current,
    Previous,
    Original,
}
use Beside::{Current, Original, Previous};

/// A dimension: table, attributes; a reference is an attribute that names another dimension's member.
struct Dimension {
    table: &'static str,
    natural: &'static str,
    attributes: &'static [(&'static str, History)],
    /// What is shown beside attributes.
    beside: &'static [(&'static str, Beside)],
    reference: Option<(&'static str, &'static str)>,
    /// Members that stand for none, the unknown one among them, and what all their texts say.
    special: &'static [(&'static str, &'static str)],
}

/// Attributes that are no texts.
const NUMBERS: [&str; 2] = ["score", "price"];

const CUSTOMER: Dimension = Dimension {
    table: "sales.customer",
    natural: "customer_id",
    attributes: &[
        ("full_name", Overwrite),
        ("city", Version),
        ("score", Version),
        ("channel", Keep),
        ("tier", Version),
        ("region", Version),
    ],
    beside: &[("city", Current), ("city", Previous), ("city", Original)],
    reference: Some(("region", "sales.region")),
    special: &[(UNKNOWN, "plain")],
};
const REGION: Dimension = Dimension {
    table: "sales.region",
    natural: "region_id",
    attributes: &[("name", Overwrite), ("first_name", Keep), ("climate", Version), ("area", Version)],
    beside: &[("name", Previous)],
    reference: Some(("area", "sales.area")),
    special: &[],
};
const AREA: Dimension = Dimension {
    table: "sales.area",
    natural: "area",
    attributes: &[("climate", Version)],
    beside: &[],
    reference: None,
    special: &[],
};
const SHOP: Dimension = Dimension {
    table: "sales.shop",
    natural: "shop_id",
    attributes: &[("title", Overwrite), ("opened_as", Keep)],
    beside: &[("title", Previous)],
    reference: None,
    special: &[],
};
const ZONE: Dimension = Dimension {
    table: "sales.zone",
    natural: "region_id",
    attributes: &[("name", Overwrite), ("climate", Overwrite), ("first", Overwrite)],
    beside: &[],
    reference: None,
    special: &[],
};
const ZONE_WEATHER: Dimension = Dimension {
    table: "sales.zone_weather",
    natural: "region_id",
    attributes: &[("climate", Version), ("first", Version)],
    beside: &[],
    reference: None,
    special: &[],
};
const PRODUCT: Dimension = Dimension {
    table: "sales.product",
    natural: "product_id",
    attributes: &[("title", Overwrite), ("price", Overwrite)],
    beside: &[],
    reference: None,
    special: &[(UNKNOWN, "Somebody"), (NOT_APPLICABLE, "Nothing"), (ERROR, "Wrong")],
};

/// All tables, as [`super::world::labelled`] shows them.
pub(crate) fn tables(landed: &[Landed]) -> Tables {
    let events = counting(landed);
    let mut tables = Tables::new();
    let order_lines = accepted(&mut tables, "sales.order_lines", &events, reading::order_lines);
    let orders = accepted(&mut tables, "sales.orders", &events, reading::orders);
    let customers = accepted(&mut tables, CUSTOMER.table, &events, reading::customer);
    let regions = accepted(&mut tables, REGION.table, &events, reading::region);
    let areas = accepted(&mut tables, AREA.table, &events, reading::area);
    let shops = accepted(&mut tables, SHOP.table, &events, reading::shop);
    let movements = accepted(&mut tables, "sales.movements", &events, reading::movements);
    let storms = accepted(&mut tables, "sales.storms", &events, reading::storms);
    let zones = accepted(&mut tables, "sales.zone", &events, reading::zone);
    accepted(&mut tables, "sales.zone_weather", &events, reading::zone);
    tables.insert("sales.flags/rejects".to_owned(), Vec::new());
    let products = accepted(&mut tables, PRODUCT.table, &events, reading::product);

    let mut seen_in_regions = mentioned(&orders, REGION.table);
    seen_in_regions.extend(customers.iter().filter_map(|(_, change)| change.said.get("region")?.clone()));
    let mut members: BTreeMap<&str, Members> = BTreeMap::new();
    let seen_in_areas = regions.iter().filter_map(|(_, change)| change.said.get("area")?.clone()).collect();
    let of_area = Members::of(&AREA, &areas, &seen_in_areas);
    let of_region = Members::of(&REGION, &regions, &seen_in_regions).split("area", &of_area);
    let of_customer = Members::of(&CUSTOMER, &customers, &mentioned(&order_lines, CUSTOMER.table));
    members.insert(CUSTOMER.table, of_customer.split("region", &of_region));
    members.insert(REGION.table, of_region);
    members.insert(AREA.table, of_area);
    members.insert(SHOP.table, Members::of(&SHOP, &shops, &mentioned(&orders, SHOP.table)));
    members.insert(PRODUCT.table, Members::of(&PRODUCT, &products, &BTreeSet::new()));

    for dimension in [CUSTOMER, REGION, AREA, SHOP, PRODUCT] {
        tables.insert(dimension.table.to_owned(), members[dimension.table].rows(&dimension, &members));
    }
    tables.insert("sales.order_lines".to_owned(), fact_rows(&order_lines, &members));
    tables.insert("sales.orders".to_owned(), fact_rows(&orders, &members));
    tables.insert("sales.movements".to_owned(), fact_rows(&movements, &members));
    weather(&mut tables, &storms, &zones);
    queries::answer(&mut tables);
    derived::answer(&mut tables);
    tables.values_mut().for_each(|rows| rows.sort());
    tables
}

/// What holds of the weather: a mini-dimension, its history, and a fact with its key.
fn weather(tables: &mut Tables, storms: &[(&Event, Vec<FactRow>)], zones: &[(&Event, Change)]) {
    let of = |state: &State| {
        let shown = ["climate", "first"].map(|name| state.values.get(name).map_or(NULL, String::as_str));
        if shown == [NULL, NULL] { UNKNOWN.to_owned() } else { shown.join("/") }
    };
    let nobody = BTreeSet::new();
    let history = Members::of(&ZONE_WEATHER, zones, &nobody);
    let mut rows = history.rows(&ZONE_WEATHER, &BTreeMap::new());
    let mut combinations: BTreeSet<(String, String)> = BTreeSet::new();
    for row in &mut rows {
        let pair = (row["climate"].clone(), row["first"].clone());
        let name = format!("{}/{}", pair.0, pair.1);
        let key = if name == format!("{NULL}/{NULL}") { UNKNOWN.to_owned() } else { name };
        row.insert("zone_weather_key".to_owned(), key);
        row.remove("zone_weather_durable_key");
        combinations.insert(pair);
    }
    tables.insert(ZONE_WEATHER.table.to_owned(), rows);
    let combinations = combinations.into_iter().map(|(climate, first)| {
        let name = format!("{climate}/{first}");
        let key = if name == format!("{NULL}/{NULL}") { UNKNOWN.to_owned() } else { name };
        row([("weather_key", key), ("climate", climate), ("first", first)])
    });
    tables.insert("sales.weather".to_owned(), combinations.collect());

    let members = Members::of(&ZONE, zones, &nobody);
    let mut zone_rows = members.rows(&ZONE, &BTreeMap::new());
    for row in &mut zone_rows {
        let version = members
            .versions
            .get(&row["region_id"])
            .and_then(|versions| versions.iter().find(|version| moment(version.from) == row["valid_from"]));
        // What the lifetime has come to.
        let current = version.and_then(|version| {
            let same = |other: &&MemberVersion| other.state.lifetime == version.state.lifetime;
            history.versions[&row["region_id"]].iter().rfind(same)
        });
        row.insert("current_weather_key".to_owned(), current.map_or(UNKNOWN.to_owned(), |version| of(&version.state)));
        row.remove("climate");
        row.remove("first");
        row.remove("zone_key");
        row.remove("zone_durable_key");
    }
    tables.insert(ZONE.table.to_owned(), zone_rows);

    let (mut rows, mut flags) = (Vec::new(), BTreeSet::new());
    for (event, fact) in storms.iter().flat_map(|(event, rows)| rows.iter().map(move |row| (*event, row))) {
        let at = event.place.at;
        let mut cells = row([("occurred_at", moment(at)), ("event_id", event.id.clone()), ("ordinal", "1".to_owned())]);
        cells.extend(fact.columns.iter().map(|(column, value)| ((*column).to_owned(), value.clone())));
        flags.insert(cells["flags_key"].clone());
        let held = fact.roles[0].2.as_ref().and_then(|member| history.versions.get(member)).map(|versions| {
            let held = versions.iter().rfind(|version| version.from <= at).unwrap_or(&versions[0]);
            of(&held.state)
        });
        cells.insert("weather_key".to_owned(), held.unwrap_or_else(|| UNKNOWN.to_owned()));
        rows.push(cells);
    }
    tables.insert("sales.storms".to_owned(), rows);
    let flags = flags.into_iter().map(Some).chain([None]).map(|flags| {
        let (channel, is_first) = flags.as_deref().and_then(|flags| flags.split_once('/')).unwrap_or((NULL, NULL));
        let key = || flags.clone().unwrap_or_else(|| UNKNOWN.to_owned());
        row([
            ("flags_key", key()),
            ("flags_durable_key", key()),
            ("channel", channel.to_owned()),
            ("is_first", is_first.to_owned()),
            ("valid_from", moment(BEGINNING)),
            ("valid_to", moment(END)),
            ("is_current", "true".to_owned()),
            ("is_deleted", "false".to_owned()),
            ("is_inferred", flags.is_some().to_string()),
        ])
    });
    tables.insert("sales.flags".to_owned(), flags.collect());
}

/// Of the copies of an event in a stream, the least.
pub(crate) fn counting(landed: &[Landed]) -> Vec<Event> {
    let mut counting: BTreeMap<(String, String), Event> = BTreeMap::new();
    for event in landed.iter().filter_map(reading::event) {
        let name = (event.place.stream.clone(), event.id.clone());
        if counting.get(&name).is_none_or(|other| event.place < other.place) {
            counting.insert(name, event);
        }
    }
    counting.into_values().collect()
}

/// What fits of what a model reads, in the order of events; the rest are its rejects.
fn accepted<'a, T>(
    tables: &mut Tables,
    model: &str,
    events: &'a [Event],
    read: impl Fn(&Event) -> Option<Fit<T>>,
) -> Vec<(&'a Event, T)> {
    let (mut fits, mut rejects) = (Vec::new(), Vec::new());
    for event in events {
        match read(event) {
            None => {}
            Some(Ok(said)) => fits.push((event, said)),
            Some(Err(_)) => {
                let Place { stream, source, topic, partition, position, .. } = &event.place;
                rejects.push(row([
                    ("stream", stream.clone()),
                    ("source", source.clone()),
                    ("topic", topic.clone()),
                    ("partition", partition.to_string()),
                    ("position", position.to_string()),
                ]));
            }
        }
    }
    fits.sort_by(|(a, _), (b, _)| a.place.cmp(&b.place));
    tables.insert(format!("{model}/rejects"), rejects);
    fits
}

fn row<const N: usize>(cells: [(&str, String); N]) -> Row {
    cells.into_iter().map(|(column, value)| (column.to_owned(), value)).collect()
}

/// The members of a dimension that a fact's rows mention.
fn mentioned(rows: &[(&Event, Vec<FactRow>)], dimension: &str) -> BTreeSet<String> {
    let roles = rows.iter().flat_map(|(_, rows)| rows).flat_map(|row| &row.roles);
    roles.filter(|(_, of, _)| *of == dimension).filter_map(|(.., member)| member.clone()).collect()
}

/// What is known of a member after some of its changes.
#[derive(Clone, Default)]
struct State {
    values: BTreeMap<&'static str, String>,
    deleted: bool,
    lifetime: usize,
}

fn replayed(changes: &[(&Event, &Change)]) -> State {
    let mut state = State::default();
    for (_, change) in changes {
        if change.meaning == Meaning::Delete {
            state.deleted = true;
            continue;
        }
        if state.deleted {
            state = State { lifetime: state.lifetime + 1, ..State::default() };
        }
        if change.meaning == Meaning::State {
            state.values.clear();
        }
        for (attribute, value) in &change.said {
            match value {
                Some(value) => drop(state.values.insert(*attribute, value.clone())),
                None => drop(state.values.remove(attribute)),
            }
        }
    }
    state
}

#[derive(Clone)]
struct MemberVersion {
    from: i64,
    state: State,
    beside: BTreeMap<String, String>,
}

impl MemberVersion {
    /// Of somebody of whom nothing is known.
    fn nothing() -> Self {
        Self { from: BEGINNING, state: State::default(), beside: BTreeMap::new() }
    }
}

#[derive(Default)]
struct Members {
    versions: BTreeMap<String, Vec<MemberVersion>>,
    inferred: BTreeSet<String>,
}

impl Members {
    fn of(dimension: &Dimension, changes: &[(&Event, Change)], mentioned: &BTreeSet<String>) -> Self {
        let mut members = Self::default();
        for name in changes.iter().map(|(_, change)| &change.member) {
            let own: Vec<(&Event, &Change)> = changes
                .iter()
                .filter(|(_, change)| change.member == *name)
                .map(|(event, change)| (*event, change))
                .collect();
            members.versions.insert(name.clone(), versions(dimension, &own));
        }
        for name in mentioned.iter().filter(|name| !changes.iter().any(|(_, change)| change.member == **name)) {
            members.versions.insert(name.clone(), vec![MemberVersion::nothing()]);
            members.inferred.insert(name.clone());
        }
        members
    }

    /// The same, with a version from wherever one of the member's parent begins, which `reference` names.
    fn split(mut self, reference: &str, parents: &Members) -> Self {
        for versions in self.versions.values_mut() {
            let mut begins: BTreeMap<i64, MemberVersion> = BTreeMap::new();
            for (index, version) in versions.iter().enumerate() {
                let to = versions.get(index + 1).map_or(END, |next| next.from);
                let parent = version.state.values.get(reference).and_then(|parent| parents.versions.get(parent));
                let within = parent.into_iter().flatten().map(|parent| parent.from);
                for from in within.filter(|&from| version.from < from && from < to).chain([version.from]) {
                    begins.insert(from, MemberVersion { from, ..version.clone() });
                }
            }
            *versions = begins.into_values().collect();
        }
        self
    }

    /// What the key of a fact about `member` at an instant stands for.
    fn key(&self, member: Option<&String>, at: i64) -> String {
        if let Some(special) = special(member) {
            return special;
        }
        let versions = member.and_then(|member| Some((member, self.versions.get(member)?)));
        let Some((member, versions)) = versions else { return UNKNOWN.to_owned() };
        let held = versions.iter().rfind(|version| version.from <= at).map_or(BEGINNING, |version| version.from);
        label(member, held)
    }

    /// What the durable key of `member` stands for.
    fn durable(&self, member: Option<&String>) -> String {
        if let Some(special) = special(member) {
            return special;
        }
        match member {
            None => UNKNOWN.to_owned(),
            Some(member) if self.versions.contains_key(member) => label(member, BEGINNING),
            Some(_) => NOBODY.to_owned(),
        }
    }

    fn rows(&self, dimension: &Dimension, all: &BTreeMap<&str, Members>) -> Vec<Row> {
        let short = dimension.table.trim_start_matches("sales.");
        let mut rows = Vec::new();
        let unknown = [MemberVersion::nothing()];
        let known = self.versions.iter().map(|(name, versions)| (Some(name), versions.as_slice()));
        for (name, versions) in known.chain([(None, unknown.as_slice())]) {
            for (index, version) in versions.iter().enumerate() {
                let to = versions.get(index + 1).map_or(END, |next| next.from);
                let inferred = name.is_some_and(|name| self.inferred.contains(name));
                let mut cells = row([
                    ("valid_from", moment(version.from)),
                    ("valid_to", moment(to)),
                    ("is_current", (index + 1 == versions.len()).to_string()),
                    ("is_deleted", version.state.deleted.to_string()),
                    ("is_inferred", inferred.to_string()),
                ]);
                cells.insert(format!("{short}_key"), name.map_or(UNKNOWN.to_owned(), |name| label(name, version.from)));
                cells.insert(format!("{short}_durable_key"), self.durable(name));
                cells.insert(dimension.natural.to_owned(), name.map_or(NULL.to_owned(), Clone::clone));
                for (attribute, _) in dimension.attributes {
                    let value = version.state.values.get(attribute);
                    match dimension.reference.filter(|(reference, _)| reference == attribute) {
                        Some((reference, parent)) => {
                            cells.insert(format!("{reference}_key"), all[parent].key(value, version.from));
                            cells.insert(format!("{reference}_durable_key"), all[parent].durable(value))
                        }
                        None => cells.insert((*attribute).to_owned(), value.map_or(NULL.to_owned(), Clone::clone)),
                    };
                }
                for (attribute, beside) in dimension.beside {
                    let column = column_beside(attribute, *beside);
                    let value = version.beside.get(&column).map_or(NULL.to_owned(), Clone::clone);
                    cells.insert(column, value);
                }
                rows.push(cells);
            }
        }
        for (member, text) in dimension.special {
            let mut cells = rows.last().expect("the unknown member").clone();
            let own = dimension.attributes.iter().map(|(attribute, _)| *attribute);
            let own = own.filter(|own| !NUMBERS.contains(own) && dimension.reference.is_none_or(|(of, _)| of != *own));
            let beside = dimension.beside.iter().map(|(attribute, beside)| column_beside(attribute, *beside));
            for column in own.map(str::to_owned).chain(beside) {
                cells.insert(column, (*text).to_owned());
            }
            cells.insert(format!("{short}_key"), (*member).to_owned());
            cells.insert(format!("{short}_durable_key"), (*member).to_owned());
            rows.push(cells);
        }
        if !dimension.special.is_empty() {
            // The unknown member, which comes first now.
            rows.remove(rows.len() - 1 - dimension.special.len());
        }
        rows
    }
}

/// A member that stands for none.
fn special(member: Option<&String>) -> Option<String> {
    member.filter(|member| [NOT_APPLICABLE, ERROR].contains(&member.as_str())).cloned()
}

fn column_beside(attribute: &str, beside: Beside) -> String {
    let word = match beside {
        Current => "current",
        Previous => "previous",
        Original => "original",
    };
    format!("{word}_{attribute}")
}

fn label(member: &str, from: i64) -> String {
    format!("{member}@{}", moment(from))
}

fn is_versioned(dimension: &Dimension, attribute: &str) -> bool {
    dimension.attributes.contains(&(attribute, Version))
}

/// The versions of one member; `changes` are its own, in the order of events.
fn versions(dimension: &Dimension, changes: &[(&Event, &Change)]) -> Vec<MemberVersion> {
    let prefixes: Vec<State> = (1..=changes.len()).map(|count| replayed(&changes[..count])).collect();
    let instants: BTreeSet<i64> = changes.iter().map(|(event, _)| event.place.at).collect();
    let mut versions: Vec<MemberVersion> = Vec::new();
    for instant in instants {
        let until = changes.iter().filter(|(event, _)| event.place.at <= instant).count();
        let state = prefixes[until - 1].clone();
        let opens = versions.last().is_none_or(|MemberVersion { state: last, .. }| {
            let mut versioned = dimension.attributes.iter().filter(|(_, history)| *history == Version);
            last.deleted != state.deleted
                || last.lifetime != state.lifetime
                || versioned.any(|(attribute, _)| last.values.get(attribute) != state.values.get(attribute))
        });
        if opens {
            let from = if versions.is_empty() { BEGINNING } else { instant };
            versions.push(MemberVersion { from, state, beside: BTreeMap::new() });
        }
    }
    let ends: Vec<i64> = versions.iter().skip(1).map(|version| version.from).chain([i64::MAX]).collect();
    for (MemberVersion { state, beside, .. }, end) in versions.iter_mut().zip(ends) {
        let lifetime: Vec<&State> = prefixes.iter().filter(|prefix| prefix.lifetime == state.lifetime).collect();
        for (attribute, what) in dimension.beside {
            // What the lifetime's instants have left, one after another, up to the end of the version where it matters.
            let until = if is_versioned(dimension, attribute) { end } else { i64::MAX };
            let mut left: BTreeMap<i64, Option<&String>> = BTreeMap::new();
            for ((event, _), prefix) in changes.iter().zip(&prefixes) {
                if prefix.lifetime == state.lifetime && event.place.at < until {
                    left.insert(event.place.at, prefix.values.get(attribute));
                }
            }
            let left: Vec<Option<&String>> = left.into_values().collect();
            let value = match what {
                Current => lifetime.last().and_then(|state| state.values.get(attribute)),
                Original => lifetime.iter().find_map(|state| state.values.get(attribute)),
                Previous => left.windows(2).rev().find(|pair| pair[0] != pair[1]).and_then(|pair| pair[0]),
            };
            if let Some(value) = value {
                beside.insert(column_beside(attribute, *what), value.clone());
            }
        }
        for (attribute, history) in dimension.attributes {
            let value = match history {
                Version => continue,
                Keep => lifetime.iter().find_map(|state| state.values.get(attribute)),
                Overwrite => lifetime.last().and_then(|state| state.values.get(attribute)),
            };
            match value {
                Some(value) => drop(state.values.insert(*attribute, value.clone())),
                None => drop(state.values.remove(attribute)),
            }
        }
    }
    versions
}

fn fact_rows(facts: &[(&Event, Vec<FactRow>)], members: &BTreeMap<&str, Members>) -> Vec<Row> {
    let mut rows = Vec::new();
    for (event, fact) in facts.iter().flat_map(|(event, rows)| rows.iter().map(move |row| (*event, row))) {
        let at = event.place.at;
        let mut cells =
            row([("occurred_at", moment(at)), ("event_id", event.id.clone()), ("ordinal", fact.ordinal.to_string())]);
        cells.extend(fact.columns.iter().map(|(column, value)| ((*column).to_owned(), value.clone())));
        for (role, dimension, member) in &fact.roles {
            let of = &members[*dimension];
            cells.insert(format!("{role}_key"), of.key(member.as_ref(), at));
            // A shop has one version and is always there: its key is its durable key.
            if *dimension != SHOP.table {
                cells.insert(format!("{role}_durable_key"), of.durable(member.as_ref()));
            }
        }
        rows.push(cells);
    }
    rows
}
