//! What becomes of published ports when definitions change: pure.

use serde_json::Value;
use starmere_marts::meaning::{Column, Meaning, Port};
use starmere_models::resolve::is_words;

use crate::made::Made;

/// How a change of a port is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Queries go on, and their answers mean the same.
    Compatible,
    /// Queries go on, and their answers mean something else.
    Meaning,
    /// Queries fail, or get other types.
    Breaking,
}

impl Verdict {
    /// In a word, for programs.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Compatible => "compatible",
            Self::Meaning => "meaning",
            Self::Breaking => "breaking",
        }
    }

    /// What it does to whoever reads the port.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Compatible => "compatible",
            Self::Meaning => "answers mean something else to whoever reads it",
            Self::Breaking => "breaks whoever reads it",
        }
    }

    /// Whether somebody has to accept it.
    pub(crate) fn is_refused(self) -> bool {
        self != Self::Compatible
    }
}

/// What becomes of a published port, or of the one that is found without a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PortChange {
    pub(crate) port: String,
    /// What it shows from now on, or did where it goes, by its name in the catalog.
    pub(crate) table: String,
    pub(crate) action: &'static str,
    pub(crate) why: String,
    pub(crate) verdict: Verdict,
    /// A new major version of the product, beside the published one, would spare its readers.
    pub(crate) is_avoidable: bool,
}

impl PortChange {
    /// What it is, and what it does to whoever reads the port.
    pub(crate) fn words(&self) -> String {
        let instead = if self.is_avoidable { "; publish a new major version instead" } else { "" };
        format!("{}: {}{instead}", self.why, self.verdict.words())
    }
}

/// How the ports that are defined differ from those published. Pure.
pub(crate) fn changes(published: &Meaning, defined: &Meaning, made: &Made) -> Vec<PortChange> {
    let mut changes = Vec::new();
    let product = |port: &Port| format!("{}.{}", port.domain, port.schema());
    for old in &published.ports {
        let port = old.full_name();
        match defined.ports.iter().find(|new| new.full_name() == port) {
            Some(new) => changes.extend(differences(old, new, made).into_iter().map(|(why, verdict)| {
                let is_avoidable = verdict.is_refused();
                let (port, table) = (port.clone(), new.table.clone());
                PortChange { port, table, action: "change", why, verdict, is_avoidable }
            })),
            None => {
                let stays = defined.ports.iter().any(|port| product(port) == product(old));
                let why = if stays { "port goes".to_owned() } else { format!("product {} goes", product(old)) };
                changes.push(PortChange {
                    port,
                    table: old.table.clone(),
                    action: "unpublish",
                    why,
                    verdict: Verdict::Breaking,
                    is_avoidable: false,
                });
            }
        }
    }
    changes.extend(without_version(published, defined, made));
    for new in &defined.ports {
        let port = new.full_name();
        if !published.ports.iter().any(|port| port.full_name() == new.full_name()) {
            let (why, verdict) = ("port is new".to_owned(), Verdict::Compatible);
            let table = new.table.clone();
            changes.push(PortChange { port, table, action: "create", why, verdict, is_avoidable: false });
        }
    }
    changes
}

/// What becomes of what is found by a product's name alone, which is its highest version, where another one is that
/// now.
fn without_version(published: &Meaning, defined: &Meaning, made: &Made) -> Vec<PortChange> {
    let newest = |meaning: &Meaning, of: &Port| {
        let versions = meaning.ports.iter().filter(|port| port.domain == of.domain && port.product == of.product);
        versions.map(|port| port.version).max()
    };
    let mut changes = Vec::new();
    for old in published.ports.iter().filter(|old| newest(published, old) == Some(old.version)) {
        // Of a product that goes, each port has been told of.
        let Some(version) = newest(defined, old).filter(|version| *version != old.version) else { continue };
        let is_it = |new: &&Port| {
            (&new.domain, &new.product, new.version, &new.name) == (&old.domain, &old.product, version, &old.name)
        };
        let found = match defined.ports.iter().find(is_it) {
            Some(new) => differences(old, new, made),
            None => vec![("port goes".to_owned(), Verdict::Breaking)],
        };
        for (why, verdict) in found.into_iter().filter(|(_, verdict)| verdict.is_refused()) {
            let port = format!("{}.{}.{}", old.domain, old.product, old.name);
            let why = format!("the highest version is {version} from now on, and {why}");
            let table = old.table.clone();
            changes.push(PortChange { port, table, action: "change", why, verdict, is_avoidable: false });
        }
    }
    changes
}

/// How a definition differs from another one, as lines: `+ path: value`, `- path: value`, `~ path: old → new`. Pure.
pub(crate) fn edits(old: &Value, new: &Value) -> Vec<String> {
    let mut found = Vec::new();
    compare("", old, new, &mut found);
    found
}

fn compare(path: &str, old: &Value, new: &Value, found: &mut Vec<String>) {
    let mut steps = path.rsplit('.');
    let (key, of) = (steps.next().unwrap_or_default(), steps.next().unwrap_or_default());
    // Words about a thing change none of its rows.
    if old == new || is_words(of, key, if new.is_null() { old } else { new }) {
        return;
    }
    let inner = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match (old, new) {
        (Value::Object(a), Value::Object(b)) => {
            let names = a.keys().chain(b.keys().filter(|name| !a.contains_key(*name)));
            for name in names {
                compare(&inner(name), a.get(name).unwrap_or(&Value::Null), b.get(name).unwrap_or(&Value::Null), found);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (number, (a, b)) in a.iter().zip(b).enumerate() {
                compare(&inner(&(number + 1).to_string()), a, b, found);
            }
        }
        (Value::Array(a), Value::Array(b)) => {
            let gone = a.iter().filter(|value| !b.contains(value)).map(|value| format!("- {path}: {}", shown(value)));
            let came = b.iter().filter(|value| !a.contains(value)).map(|value| format!("+ {path}: {}", shown(value)));
            found.extend(gone.chain(came));
        }
        (Value::Null, new) => found.push(format!("+ {path}: {}", shown(new))),
        (old, Value::Null) => found.push(format!("- {path}: {}", shown(old))),
        (old, new) => found.push(format!("~ {path}: {} → {}", shown(old), shown(new))),
    }
}

/// A value as definitions write it, without what is left out.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) => {
            // `[version, current]` has what is beside history in a list of its own.
            let flat = values
                .iter()
                .flat_map(|value| value.as_array().map_or_else(|| vec![value], |all| all.iter().collect()));
            format!("[{}]", flat.map(shown).collect::<Vec<_>>().join(", "))
        }
        Value::Object(fields) => {
            let fields = fields.iter().filter(|(_, value)| !value.is_null());
            let fields: Vec<String> = fields.map(|(name, value)| format!("{name}: {}", shown(value))).collect();
            format!("{{ {} }}", fields.join(", "))
        }
        other => other.to_string(),
    }
}

fn differences(old: &Port, new: &Port, made: &Made) -> Vec<(String, Verdict)> {
    let mut found: Vec<(String, Verdict)> = Vec::new();
    for column in &old.columns {
        let name = &column.name;
        let Some(now) = new.columns.iter().find(|now| now.name == *name) else {
            found.push((format!("column {name} goes"), Verdict::Breaking));
            continue;
        };
        if now.data_type != column.data_type {
            let words = format!("type of {name} changes from {} to {}", column.data_type, now.data_type);
            found.push((words, Verdict::Breaking));
        }
        match (column.nullable, now.nullable) {
            (false, true) => found.push((format!("{name} may be null from now on"), Verdict::Breaking)),
            (true, false) => found.push((format!("{name} is never null from now on"), Verdict::Compatible)),
            _ => {}
        }
        found.extend(meant(column, now, made.columns((&old.table, &column.from), (&new.table, &now.from))));
    }
    for column in &new.columns {
        if !old.columns.iter().any(|before| before.name == column.name) {
            found.push((format!("column {} is new", column.name), Verdict::Compatible));
        }
    }
    if old.primary_key != new.primary_key {
        let key = |port: &Port| format!("({})", port.primary_key.join(", "));
        let words = format!("primary key changes from {} to {}", key(old), key(new));
        found.push((words, Verdict::Breaking));
    }
    if old.foreign_keys != new.foreign_keys {
        found.push(("foreign keys change".to_owned(), Verdict::Compatible));
    }
    let rows = made.rows(&old.table, &new.table);
    match (old.table == new.table, rows) {
        (false, Some(edits)) if edits.is_empty() => {
            let words = format!("shows {} instead of {}, which has the same rows", new.table, old.table);
            found.push((words, Verdict::Compatible));
        }
        (false, _) => {
            found.push((format!("shows {} instead of {}", new.table, old.table), Verdict::Meaning));
        }
        (true, Some(edits)) if !edits.is_empty() => {
            let more = match edits.len() {
                0..=ROW_EDITS => String::new(),
                count => format!(" and {} more", count - ROW_EDITS),
            };
            let first: Vec<&str> = edits.iter().take(ROW_EDITS).map(String::as_str).collect();
            found.push((format!("other rows are made: {}{more}", first.join("; ")), Verdict::Meaning));
        }
        (true, _) => {}
    }
    if let Some(input) = made.changed_input(&new.table) {
        found.push((format!("is made of {input}, which means something else from now on"), Verdict::Meaning));
    }
    if found.is_empty() && old != new {
        found.push(("its descriptions, owner or order of columns change".to_owned(), Verdict::Compatible));
    }
    found
}

/// Edits of what all rows of a port follow from that are told; the rest are counted.
const ROW_EDITS: usize = 2;

/// What a column means from now on, if that differs; `made_of`: what it followed from, and does now, where that is
/// known.
fn meant(was: &Column, now: &Column, made_of: Option<(Value, Value)>) -> Option<(String, Verdict)> {
    let name = &now.name;
    let is_same = made_of.as_ref().map(|(was, now)| was == now);
    if was.from != now.from {
        let words = format!("{name} shows {} instead of {}", now.from, was.from);
        return Some(match is_same {
            Some(true) => (format!("{words}, which was the same"), Verdict::Compatible),
            _ => (words, Verdict::Meaning),
        });
    }
    if let (Some(now), Some(was)) = (&now.means, &was.means)
        && now != was
    {
        return Some((format!("{name} is {now} instead of {was}"), Verdict::Meaning));
    }
    let (was, now) = made_of.filter(|_| is_same == Some(false))?;
    Some((format!("{name} is made of {} instead of {}", shown(&now), shown(&was)), Verdict::Meaning))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn column(name: &str, data_type: &str, nullable: bool) -> Column {
        Column {
            name: name.to_owned(),
            from: name.to_owned(),
            data_type: data_type.to_owned(),
            nullable,
            means: None,
            description: None,
        }
    }

    fn port(version: u32, name: &str, columns: &[Column]) -> Port {
        Port {
            domain: "sales".into(),
            product: "orders".into(),
            version,
            name: name.into(),
            table: "sales.orders".into(),
            kind: "fact".into(),
            description: None,
            owner: None,
            columns: columns.to_vec(),
            primary_key: Vec::new(),
            foreign_keys: Vec::new(),
        }
    }

    fn said_of(published: Vec<Port>, defined: Vec<Port>, made: &Made) -> Vec<(String, Verdict)> {
        let meaning = |ports| Meaning { ports, ..Meaning::default() };
        let changes = changes(&meaning(published), &meaning(defined), made);
        changes.into_iter().map(|change| (format!("{} {}", change.action, change.why), change.verdict)).collect()
    }

    fn said(published: Vec<Port>, defined: Vec<Port>) -> Vec<(String, Verdict)> {
        said_of(published, defined, &Made::default())
    }

    fn told(words: &str, verdict: Verdict) -> (String, Verdict) {
        (words.to_owned(), verdict)
    }

    #[test]
    fn a_plan_tells_what_becomes_of_columns() {
        let old = port(1, "lines", &[column("id", "int", false), column("revenue", "double", true)]);
        let mut new = port(1, "lines", &[column("id", "bigint", true), column("qty", "int", true)]);
        new.primary_key = vec!["id".into()];
        assert!(said(vec![old.clone()], vec![old.clone()]).is_empty());
        assert_eq!(
            said(vec![old], vec![new]),
            [
                told("change type of id changes from int to bigint", Verdict::Breaking),
                told("change id may be null from now on", Verdict::Breaking),
                told("change column revenue goes", Verdict::Breaking),
                told("change column qty is new", Verdict::Compatible),
                told("change primary key changes from () to (id)", Verdict::Breaking),
            ]
        );
    }

    #[test]
    fn a_plan_tells_what_columns_mean_from_now_on() {
        let meaning = |words: &str| {
            let mut port = port(1, "people", &[column("city", "string", true)]);
            port.columns[0].means = Some(words.to_owned());
            port
        };
        let words = "change city is attribute, latest value instead of attribute, with history";
        let changed = said(vec![meaning("attribute, with history")], vec![meaning("attribute, latest value")]);
        assert_eq!(changed, [told(words, Verdict::Meaning)]);
    }

    /// A fact with a measure by this expression and condition.
    fn fact(measure: &str, expression: &str, filter: &str) -> Value {
        let measures = json!({ measure: { "expression": expression, "type": null, "additive": "full" } });
        json!({ "fact": "orders", "from": [], "where": filter, "measures": measures, "events": {}, "rules": 1 })
    }

    /// `sales.orders`, which was made by the one and is made by the other.
    fn orders(before: Option<Value>, now: Value) -> Made {
        let name = || "sales.orders".to_owned();
        Made { before: [(name(), before)].into(), now: [(name(), now)].into(), ..Made::default() }
    }

    #[test]
    fn another_column_of_the_model_is_another_meaning_unless_it_is_the_same() {
        let shows = |from: &str| {
            let mut port = port(1, "lines", &[column("revenue", "int", true)]);
            port.columns[0].from = from.to_owned();
            vec![port]
        };
        let (before, now) = (fact("amount", "a * b", "a > 0"), fact("revenue", "a*b", "a > 0"));
        let words = "change revenue shows revenue instead of amount";
        let is_known = orders(Some(before), now.clone());
        let same = told(&format!("{words}, which was the same"), Verdict::Compatible);
        assert_eq!(said_of(shows("amount"), shows("revenue"), &is_known), [same]);
        for made in [orders(None, now.clone()), orders(Some(fact("amount", "a", "a > 0")), now), Made::default()] {
            assert_eq!(said_of(shows("amount"), shows("revenue"), &made), [told(words, Verdict::Meaning)]);
        }
    }

    #[test]
    fn an_expression_reaches_the_ports_that_show_it() {
        let made = orders(Some(fact("amount", "a * b", "a > 0")), fact("amount", "a", "a > 0"));
        let ports = || {
            let other = port(1, "ids", &[column("id", "int", false)]);
            vec![port(1, "lines", &[column("id", "int", false), column("amount", "int", true)]), other]
        };
        let words = "change amount is made of a instead of a * b";
        assert_eq!(said_of(ports(), ports(), &made), [told(words, Verdict::Meaning)]);
        // A condition reaches all of them.
        let made = orders(Some(fact("amount", "a", "a > 0")), fact("amount", "a", "a > 1"));
        let words = told("change other rows are made: ~ where: a > 0 → a > 1", Verdict::Meaning);
        assert_eq!(said_of(ports(), ports(), &made), [words.clone(), words]);
        // And what is made of it.
        let mut made = orders(Some(fact("amount", "a", "a > 0")), fact("amount", "a + 1", "a > 0"));
        let read = ("sales.orders".to_owned(), Some(["amount".to_owned()].into()));
        made.reads.insert("sales.by_month".to_owned(), vec![read]);
        let mut by_month = port(1, "by_month", &[column("amount", "int", true)]);
        by_month.table = "sales.by_month".into();
        let words = "change is made of sales.orders, which means something else from now on";
        assert_eq!(said_of(vec![by_month.clone()], vec![by_month], &made), [told(words, Verdict::Meaning)]);
    }

    #[test]
    fn another_model_is_another_meaning_unless_it_makes_the_same_rows() {
        let shows = |table: &str| {
            let mut port = port(1, "lines", &[column("amount", "int", true)]);
            port.table = table.to_owned();
            vec![port]
        };
        let made = |filter: &str| Made {
            before: [("sales.orders".to_owned(), Some(fact("amount", "a", "a > 0")))].into(),
            now: [("sales.sold".to_owned(), fact("amount", "a", filter))].into(),
            ..Made::default()
        };
        let words = "change shows sales.sold instead of sales.orders";
        let other = told(words, Verdict::Meaning);
        assert_eq!(said_of(shows("sales.orders"), shows("sales.sold"), &made("a > 1")), [other]);
        let same = told(&format!("{words}, which has the same rows"), Verdict::Compatible);
        assert_eq!(said_of(shows("sales.orders"), shows("sales.sold"), &made("a > 0")), [same]);
    }

    #[test]
    fn a_plan_tells_which_ports_come_and_go() {
        let [lines, heads] = ["lines", "heads"].map(|name| port(1, name, &[]));
        assert_eq!(
            said(vec![lines.clone(), heads.clone()], vec![heads.clone()]),
            [told("unpublish port goes", Verdict::Breaking)]
        );
        let next = port(2, "lines", &[]);
        assert_eq!(
            said(vec![lines], vec![next]),
            [
                told("unpublish product sales.orders_v1 goes", Verdict::Breaking),
                told("create port is new", Verdict::Compatible)
            ]
        );
    }

    #[test]
    fn a_new_major_version_may_take_from_who_names_none() {
        let columns = [column("id", "int", false), column("revenue", "int", true)];
        let old = vec![port(1, "lines", &columns), port(1, "heads", &[])];
        let create = || told("create port is new", Verdict::Compatible);
        let mut both = old.clone();
        both.extend([
            port(2, "lines", &[columns.as_slice(), &[column("tax", "int", true)]].concat()),
            port(2, "heads", &[]),
        ]);
        assert_eq!(said(old.clone(), both.clone()), [create(), create()], "all of it is still there");
        let taken = [&old[..], &[port(2, "lines", &columns[..1])]].concat();
        let meaning = |ports: &[Port]| Meaning { ports: ports.to_vec(), ..Meaning::default() };
        let changes = changes(&meaning(&old), &meaning(&taken), &Made::default());
        let refused: Vec<(&str, &str)> = changes
            .iter()
            .filter(|change| change.verdict == Verdict::Breaking && !change.is_avoidable)
            .map(|change| (change.port.as_str(), change.why.as_str()))
            .collect();
        let begins = "the highest version is 2 from now on, and";
        assert_eq!(
            refused,
            [
                ("sales.orders.lines", format!("{begins} column revenue goes").as_str()),
                ("sales.orders.heads", format!("{begins} port goes").as_str()),
            ]
        );
        // Who reads the second version without naming it gets the first one again.
        let back = said(both, old);
        let words = format!("change {begins} column tax goes").replace("is 2", "is 1");
        assert!(back.contains(&(words, Verdict::Breaking)), "{back:?}");
    }
}
