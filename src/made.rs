//! What values of tables follow from, by the definitions that their models were made by: pure.
//!
//! A definition falls into what single columns follow from (an expression, the keys of a role) and what all rows follow from
//! (events, conditions, the grain). Descriptions and rules are neither, nor is the history of an attribute: what a port says
//! of its columns has that. Where it is not known by what a table was made, nothing is judged.

use std::collections::{BTreeMap, BTreeSet};

use datafusion::sql::sqlparser::ast::{SelectItem, SetExpr, Statement};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::Token;
use serde_json::{Map, Value, json};
use starmere_models::resolve::{KINDS, RULES};

use crate::changes::edits;

/// Keys of a definition below which columns, roles and references stand by their names.
const COLUMNS: [&str; 10] = [
    "amounts",
    "attributes",
    "balances",
    "degenerate",
    "dimensions",
    "flows",
    "lags",
    "levels",
    "measures",
    "references",
];
/// Keys of a definition, and beside it, that change nothing of what rows of before mean.
const ASIDE: [&str; 11] =
    ["audit", "columns", "count", "description", "events", "inferred_from", "inputs", "keep", "mini", RULES, "to"];
/// Tables whose keys are made of their names.
const KEYED_BY_NAME: [&str; 3] = ["dimension", "hierarchy", "shrunken_dimension"];
/// Columns beside an attribute begin with these.
const BESIDE: [&str; 3] = ["current_", "original_", "previous_"];

/// A model, and the columns that are read of it; none where they are not known.
pub(crate) type Read = (String, Option<BTreeSet<String>>);

/// By what tables were made, and by what they are made from now on; by the names of their models.
#[derive(Debug, Default)]
pub(crate) struct Made {
    /// Of published tables that are made otherwise, or may be; none where it is not known by what.
    pub(crate) before: BTreeMap<String, Option<Value>>,
    pub(crate) now: BTreeMap<String, Value>,
    /// The events as they are now, with the fields that were read before.
    pub(crate) events: BTreeMap<String, Value>,
    /// What models over other models read.
    pub(crate) reads: BTreeMap<String, Vec<Read>>,
}

impl Made {
    fn before(&self, table: &str) -> Option<&Value> {
        match self.before.get(table) {
            Some(before) => before.as_ref(),
            None => self.now.get(table),
        }
    }

    /// What a table's column followed from, and what the one that takes its place does, where both are known.
    pub(crate) fn columns(&self, was: (&str, &str), now: (&str, &str)) -> Option<(Value, Value)> {
        Some((column(self.before(was.0)?, was.1), column(self.now.get(now.0)?, now.1)))
    }

    /// How what the rows of a table followed from differs from what those of the one do that takes its place.
    pub(crate) fn rows(&self, was: &str, now: &str) -> Option<Vec<String>> {
        let (before, after) = (self.before(was)?, self.now.get(now)?);
        let is_keyed_by_name = |made_by: &Value| {
            made_by.get("generated").is_some()
                || KEYED_BY_NAME.iter().any(|kind| declared(made_by).get(*kind).is_some())
        };
        if was != now && is_keyed_by_name(before) {
            return None;
        }
        let mut found = edits(&rows(before), &rows(after));
        // More of a calendar: other names, more days.
        found.retain(|edit| !edit.starts_with("+ generated."));
        found.extend(shorter(before, after));
        found.extend(shown_otherwise(before, after));
        if was == now {
            found.extend(self.events.get(now).map(|events| read_otherwise(before, events)).unwrap_or_default());
        }
        Some(found)
    }

    /// The model that a table is made of and that has columns, among those read, which mean something else from now on.
    pub(crate) fn changed_input(&self, table: &str) -> Option<&str> {
        let read = self.reads.get(table)?;
        let changed = read.iter().find(|(input, columns)| self.is_changed(input, columns.as_ref()));
        changed.map(|(input, _)| input.as_str())
    }

    fn is_changed(&self, table: &str, columns: Option<&BTreeSet<String>>) -> bool {
        let (Some(before), Some(now)) = (self.before(table), self.now.get(table)) else { return false };
        let differs =
            |name: &String| column(before, name) != column(now, name) || history(before, name) != history(now, name);
        columns.map_or(before != now, |columns| columns.iter().any(differs))
            || self.rows(table, table).is_some_and(|edits| !edits.is_empty())
            || self.changed_input(table).is_some()
    }
}

/// A definition as it is declared: what is made of other models has it beside what it reads.
fn declared(made_by: &Value) -> &Value {
    made_by.get("query").unwrap_or(made_by)
}

/// What all rows follow from.
fn rows(made_by: &Value) -> Value {
    let declared = declared(made_by);
    let is_rollup = declared.get("rollup").is_some();
    let is_of_rows = |key: &str| {
        // Shrunken dimensions of a roll-up are a part of its grain.
        let is_column = COLUMNS.contains(&key) && !(is_rollup && key == "dimensions");
        !(is_column || ASIDE.contains(&key) || KINDS.contains(&key))
    };
    let all = declared.as_object().into_iter().flatten().filter(|(key, _)| is_of_rows(key.as_str()));
    let mut rows: Map<String, Value> = all.map(|(key, value)| (key.clone(), value.clone())).collect();
    for source in rows.get_mut("from").and_then(Value::as_array_mut).into_iter().flatten() {
        let Some(source) = source.as_object_mut() else { continue };
        source.remove("set");
        source.remove(RULES);
        written_alike(source);
    }
    written_alike(&mut rows);
    if let Some((rest, _)) = rows.get("select").and_then(Value::as_str).map(split) {
        rows.insert("select".to_owned(), rest.into());
    }
    for generated in rows.get_mut("generated").and_then(Value::as_object_mut).into_iter().flat_map(Map::values_mut) {
        let Some(generated) = generated.as_object_mut() else { continue };
        ["first", "last", "holidays", "locales"].iter().for_each(|key| drop(generated.remove(*key)));
    }
    rows.into()
}

/// A condition, as everybody would write it.
fn written_alike(of: &mut Map<String, Value>) {
    if let Some(filter) = of.get_mut("where") {
        *filter = normal_value(filter);
    }
}

/// What one column follows from, as far as it is its own: of a column that has no part of the definition, its name.
fn column(made_by: &Value, name: &str) -> Value {
    let declared = declared(made_by);
    if let Some(select) = declared["select"].as_str() {
        return split(select).1.remove(name).unwrap_or_else(|| name.to_owned()).into();
    }
    let key = ["_durable_key", "_key"].into_iter().find_map(|end| Some((name.strip_suffix(end)?, end)));
    let beside = BESIDE.into_iter().find_map(|word| Some((name.strip_prefix(word)?, word)));
    for (of, way) in [Some((name, "")), key, beside].into_iter().flatten() {
        if let Some(found) = COLUMNS.iter().find_map(|key| declared.get(*key)?.get(of)) {
            let own = own(declared, of, found);
            return if way.is_empty() { own } else { json!([way.trim_matches('_'), own]) };
        }
    }
    name.into()
}

/// What `found`, which the definition has under `name`, follows from: an expression, or the keys of a role; of sources that
/// say different things, all of them.
fn own(declared: &Value, name: &str, found: &Value) -> Value {
    let base: Value = match found.as_object() {
        Some(role) if role.contains_key("key") => {
            let parts = ["key", "not_applicable", "error", "as_of"].iter();
            let said = parts.filter_map(|part| Some(((*part).to_owned(), normal_value(role.get(*part)?))));
            said.filter(|(_, value)| !value.is_null()).collect::<Map<_, _>>().into()
        }
        Some(of) => of.get("expression").and_then(Value::as_str).map_or_else(|| name.to_owned(), normal).into(),
        None => normal_value(found),
    };
    let sources = declared["from"].as_array().into_iter().flatten().filter(|source| source["as"] != "delete");
    let mut all: Vec<Value> =
        sources.map(|source| source["set"].get(name).map_or_else(|| base.clone(), normal_value)).collect();
    all.dedup();
    match all.len() {
        0 => base,
        1 => all.remove(0),
        _ => all.into(),
    }
}

/// What becomes of an attribute's former values, without what is shown beside it.
fn history<'a>(made_by: &'a Value, name: &str) -> &'a Value {
    let history = &declared(made_by)["attributes"][name]["history"];
    history.get(0).unwrap_or(history)
}

/// A calendar that lacks days which it had.
fn shorter(before: &Value, now: &Value) -> Option<String> {
    let days = |made_by: &Value| {
        let days = &made_by["generated"]["Days"];
        Some((days["first"].as_i64()?, days["last"].as_i64()?))
    };
    let ((first, last), (first_now, last_now)) = (days(before)?, days(now)?);
    (first_now > first || last_now < last).then(|| "- calendar: some of its days".to_owned())
}

/// Columns of ports that a model reads and that show something else.
fn shown_otherwise(before: &Value, now: &Value) -> Vec<String> {
    let tables = |made_by: &Value| made_by["tables"].as_array().cloned().unwrap_or_default();
    let (before, now) = (tables(before), tables(now));
    let mut found = Vec::new();
    // What is read no more, or anew, the query says.
    for (was, is) in before.iter().filter_map(|was| Some((was, now.iter().find(|is| is[0] == was[0])?))) {
        let reference = was[0].as_str().unwrap_or_default();
        if was[1] != is[1] {
            found.push(format!("~ {reference}: another model"));
        }
        for column in was[2].as_array().into_iter().flatten() {
            let same = is[2].as_array().into_iter().flatten().find(|other| other[0] == column[0]);
            if let Some(other) = same.filter(|other| *other != column) {
                found.push(format!("~ {reference}.{}: {} → {}", text(&column[0]), text(&column[1]), text(&other[1])));
            }
        }
    }
    found
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// How fields that were read are said otherwise now, in the versions that were there. A type is not judged: that of the
/// column is. Nor is a value that need not be there any more.
fn read_otherwise(before: &Value, events: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for (event, was) in before["events"].as_object().into_iter().flatten() {
        let Some(is) = events.get(event) else { continue };
        for (version, was) in was["versions"].as_object().into_iter().flatten() {
            for edit in edits(was, &is["versions"][version]) {
                let (sign, edit) = edit.split_at(2);
                let path = edit.split_once(": ").map_or(edit, |(path, _)| path);
                if !(path.ends_with(".type") || (sign == "- " && path.ends_with(".required"))) {
                    found.push(format!("{sign}{event}.{version}.{edit}"));
                }
            }
        }
    }
    found
}

fn normal_value(value: &Value) -> Value {
    match value {
        Value::String(text) => normal(text).into(),
        Value::Array(values) => values.iter().map(normal_value).collect(),
        other => other.clone(),
    }
}

/// An expression as everybody would write it: blanks mean nothing. As it is, where it is none.
fn normal(text: &str) -> String {
    let parsed = || -> Result<Option<String>, ParserError> {
        let mut parser = Parser::new(&GenericDialect).try_with_sql(text)?;
        let expression = parser.parse_expr()?;
        Ok((parser.peek_token().token == Token::EOF).then(|| expression.to_string()))
    };
    parsed().ok().flatten().unwrap_or_else(|| text.to_owned())
}

/// A SELECT without its columns, and these by name. Where rows follow from the columns, too, or they have no names, all stays
/// together.
fn split(select: &str) -> (String, BTreeMap<String, String>) {
    let mut columns = BTreeMap::new();
    let mut parsed = Parser::parse_sql(&GenericDialect, select).unwrap_or_default();
    let [Statement::Query(query)] = parsed.as_mut_slice() else { return (select.to_owned(), columns) };
    if let SetExpr::Select(select) = query.body.as_mut()
        && select.distinct.is_none()
    {
        let named = select.projection.iter().map(|item| match item {
            SelectItem::UnnamedExpr(expression) => {
                let text = expression.to_string();
                Some((text.rsplit('.').next().unwrap_or_default().to_lowercase(), text))
            }
            SelectItem::ExprWithAlias { expr, alias } => Some((alias.value.to_lowercase(), expr.to_string())),
            _ => None,
        });
        if let Some(named) = named.collect::<Option<Vec<_>>>() {
            select.projection.clear();
            columns.extend(named);
        }
    }
    (query.to_string(), columns)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made<const N: usize>(tables: [(&str, Value, Value); N]) -> Made {
        let mut made = Made::default();
        for (name, before, now) in tables {
            made.events.insert(name.to_owned(), now["events"].clone());
            made.before.insert(name.to_owned(), Some(before));
            made.now.insert(name.to_owned(), now);
        }
        made
    }

    fn fact() -> Value {
        json!({
            "fact": "lines", "description": "x", "grain": ["id"], "where": "quantity > 0", "rules": 10,
            "from": [{ "stream": "orders", "event": "placed", "each": null }],
            "degenerate": { "id": { "expression": null, "type": null, "description": null } },
            "dimensions": { "buyer": { "dimension": "customer", "key": ["customer_id"], "description": null } },
            "measures": {
                "quantity": { "expression": null, "type": "int", "additive": "full" },
                "amount": { "expression": "quantity * price", "type": null, "additive": "full" },
            },
            "events": { "orders.placed": { "versions": { "1": { "fields": {
                "quantity": { "type": "int", "required": true }, "price": { "path": "cost", "type": "int" },
            } } } } },
        })
    }

    /// The fact with one value changed, by its path.
    fn with(pointer: &str, value: Value) -> Value {
        let mut fact = fact();
        *fact.pointer_mut(pointer).unwrap() = value;
        fact
    }

    #[test]
    fn an_expression_that_changes_is_told_of_its_column_alone() {
        let made = made([("d.lines", fact(), with("/measures/amount/expression", json!("quantity * 2")))]);
        let of = |name: &str| made.columns(("d.lines", name), ("d.lines", name)).unwrap();
        assert_eq!(of("amount"), (json!("quantity * price"), json!("quantity * 2")));
        for name in ["quantity", "id", "buyer_key", "occurred_at"] {
            let (was, now) = of(name);
            assert_eq!(was, now, "{name}");
        }
        assert_eq!(made.rows("d.lines", "d.lines"), Some(Vec::new()));
    }

    #[test]
    fn what_is_only_written_otherwise_is_the_same() {
        let mut now = with("/measures/amount/expression", json!("quantity*price"));
        now["where"] = json!("quantity>0");
        now["description"] = json!("y");
        now["measures"]["tax"] = json!({ "expression": "price / 5", "type": null, "additive": "full" });
        let made = made([("d.lines", fact(), now)]);
        let (was, is) = made.columns(("d.lines", "amount"), ("d.lines", "amount")).unwrap();
        assert_eq!((was, made.rows("d.lines", "d.lines")), (is, Some(Vec::new())));
        // What is only the beginning of an expression is none.
        assert_eq!(normal("720 hours"), "720 hours");
        assert_eq!(normal("'a  b'"), "'a  b'");
    }

    #[test]
    fn a_column_may_get_another_name() {
        let mut now = fact();
        let amount = now["measures"].as_object_mut().unwrap().remove("amount").unwrap();
        now["measures"]["revenue"] = amount;
        // A field as it is, and the same field under a name of the model's.
        now["measures"]["pieces"] = json!({ "expression": "quantity", "type": null, "additive": "full" });
        let made = made([("d.lines", fact(), now)]);
        for (was, now) in [("amount", "revenue"), ("quantity", "pieces")] {
            let (was, now) = made.columns(("d.lines", was), ("d.lines", now)).unwrap();
            assert_eq!(was, now);
        }
        let (was, now) = made.columns(("d.lines", "amount"), ("d.lines", "quantity")).unwrap();
        assert_ne!(was, now);
    }

    #[test]
    fn what_all_rows_follow_from_is_told() {
        let rows = |now| made([("d.lines", fact(), now)]).rows("d.lines", "d.lines").unwrap();
        assert_eq!(rows(with("/where", json!("quantity > 1"))), ["~ where: quantity > 0 → quantity > 1"]);
        assert_eq!(rows(with("/from/0/event", json!("sent"))), ["~ from.1.event: placed → sent"]);
        let fields = "/events/orders.placed/versions/1/fields";
        let path = |key: &str| format!("{fields}/{key}");
        let other_path = rows(with(&path("price/path"), json!("fee")));
        assert_eq!(other_path, ["~ orders.placed.1.fields.price.path: cost → fee"]);
        assert!(rows(with(&path("price/type"), json!("bigint"))).is_empty());
        assert!(rows(with(&path("quantity"), json!({ "type": "int" }))).is_empty(), "need not be there any more");
        let required = rows(with(&path("price"), json!({ "path": "cost", "type": "int", "required": true })));
        assert_eq!(required, ["+ orders.placed.1.fields.price.required: true"]);
        // A rule makes rejects, and another version is read besides.
        let mut more = with("/from/0", json!({ "stream": "orders", "event": "placed", "rules": { "few": "true" } }));
        more["events"]["orders.placed"]["versions"]["2"] = json!({ "fields": { "quantity": { "type": "int" } } });
        assert!(rows(more).is_empty());
    }

    #[test]
    fn a_fact_may_get_another_name_and_a_dimension_may_not() {
        let renamed = |made_by: &Value, kind: &str| {
            let mut now = made_by.clone();
            now[kind] = json!("other");
            Made {
                before: [("d.one".to_owned(), Some(made_by.clone()))].into(),
                now: [("d.other".to_owned(), now)].into(),
                ..Made::default()
            }
        };
        assert_eq!(renamed(&fact(), "fact").rows("d.one", "d.other"), Some(Vec::new()));
        let dimension = json!({ "dimension": "one", "key": ["id"], "from": [] });
        assert_eq!(renamed(&dimension, "dimension").rows("d.one", "d.other"), None);
    }

    #[test]
    fn attributes_follow_from_what_each_source_says() {
        let dimension = |set: Value| {
            let source = |meaning: &str, set: &Value| json!({ "event": meaning, "as": meaning, "key": {}, "set": set });
            let attributes = json!({ "city": { "type": "string", "history": ["version", ["current"]] } });
            let from = [source("state", &set), source("patch", &json!({})), source("delete", &json!({}))];
            json!({ "dimension": "customer", "key": ["id"], "from": from, "attributes": attributes })
        };
        let made = made([("d.customer", dimension(json!({})), dimension(json!({ "city": "upper(town)" })))]);
        let of = |name: &str| made.columns(("d.customer", name), ("d.customer", name)).unwrap();
        assert_eq!(of("city"), (json!("city"), json!(["upper(town)", "city"])));
        assert_eq!(of("current_city").0, json!(["current", "city"]));
        assert_ne!(of("current_city").0, of("current_city").1);
        assert_eq!(of("valid_from").0, of("valid_from").1);
        assert_eq!(made.rows("d.customer", "d.customer"), Some(Vec::new()));
    }

    fn select(text: &str) -> Value {
        let query = json!({ "sql": "said", "select": text, "grain": ["day"], "columns": {} });
        json!({ "query": query, "tables": [["lines", { "domain": "d", "name": "lines" }, null]], "rules": 10 })
    }

    #[test]
    fn a_select_may_have_more_columns() {
        let before = select("SELECT day, sum(amount) AS revenue FROM lines GROUP BY day");
        let more = "SELECT day, count(*) AS lines,\n  SUM( amount ) revenue\nFROM lines GROUP BY day";
        for (text, rows_change, revenue_changes) in [
            (more, false, true),
            ("SELECT day, sum(amount)  AS revenue, count(*) AS n FROM lines GROUP BY day", false, false),
            ("SELECT day, sum(amount / 2) AS revenue FROM lines GROUP BY day", false, true),
            ("SELECT day, sum(amount) AS revenue FROM lines WHERE amount > 0 GROUP BY day", true, false),
            ("SELECT DISTINCT day, sum(amount) AS revenue FROM lines GROUP BY day", true, true),
        ] {
            let made = made([("d.said", before.clone(), select(text))]);
            assert_eq!(made.rows("d.said", "d.said") != Some(Vec::new()), rows_change, "{text}");
            let (was, now) = made.columns(("d.said", "revenue"), ("d.said", "revenue")).unwrap();
            assert_eq!(was != now, revenue_changes, "{text}");
        }
    }

    #[test]
    fn what_a_model_is_made_of_changes_it_as_far_as_it_is_read() {
        let said = select("SELECT day, sum(amount) AS revenue FROM lines GROUP BY day");
        let with_reads = |lines: Value, columns: Option<&[&str]>| {
            let mut made = made([("d.lines", fact(), lines)]);
            made.now.insert("d.said".to_owned(), said.clone());
            made.now.insert("d.again".to_owned(), said.clone());
            let columns = columns.map(|names| names.iter().map(|name| (*name).to_owned()).collect());
            made.reads.insert("d.said".to_owned(), vec![("d.lines".to_owned(), columns)]);
            made.reads.insert("d.again".to_owned(), vec![("d.said".to_owned(), Some(BTreeSet::new()))]);
            made
        };
        let doubled = || with("/measures/amount/expression", json!("2 * quantity"));
        let made = with_reads(doubled(), Some(&["amount"][..]));
        assert_eq!((made.changed_input("d.said"), made.changed_input("d.again")), (Some("d.lines"), Some("d.said")));
        assert_eq!(with_reads(doubled(), Some(&["quantity"][..])).changed_input("d.said"), None);
        assert_eq!(with_reads(doubled(), None).changed_input("d.said"), Some("d.lines"));
        assert_eq!(with_reads(fact(), None).changed_input("d.said"), None);
        let fewer = with("/where", json!("quantity > 7"));
        assert_eq!(with_reads(fewer, Some(&["quantity"][..])).changed_input("d.said"), Some("d.lines"));
    }

    #[test]
    fn days_may_be_added_and_not_taken_away() {
        let days = |first: i64, last: i64| json!({ "generated": { "Days": { "first": first, "last": last } } });
        let rows = |now| made([("d.day", days(10, 20), now)]).rows("d.day", "d.day").unwrap();
        assert!(rows(days(5, 30)).is_empty());
        assert_eq!(rows(days(11, 30)).len(), 1);
    }

    #[test]
    fn a_port_that_shows_another_column_changes_who_reads_it() {
        let said = |columns: Value| {
            let mut said = select("SELECT day FROM lines");
            said["tables"][0][2] = columns;
            said
        };
        let before = said(json!([["city", "city"]]));
        let rows = |now| made([("d.said", before.clone(), now)]).rows("d.said", "d.said").unwrap();
        assert!(rows(said(json!([["name", "name"], ["city", "city"]]))).is_empty());
        assert_eq!(rows(said(json!([["city", "town"]]))), ["~ lines.city: city → town"]);
    }
}
