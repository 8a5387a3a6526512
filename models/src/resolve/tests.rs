//! One small right project, changed in one place at a time, and what is then said of it. A case is what a file has,
//! what it has instead, and the problems: `line:column: message (hint)`, those of other files with the file before.

mod derived;
mod dimensions;
mod facts;
mod fingerprints;
mod hostile;
mod keys;
mod names;
mod origins;
mod rollups;
mod sql_models;
mod streams;

use serde::de::DeserializeOwned;

use super::*;
use crate::define::{parse_model_text, parse_text};

const ORDERS: &str = "orders.yaml";
const PEOPLE: &str = "people.yaml";
const PERSON: &str = "people/person.yaml";
const REGION: &str = "people/region.yaml";
const DATE: &str = "sales/date.yaml";
const LINES: &str = "sales/order_lines.yaml";
const SQL: &str = "sales/sql.yaml";
const ROLLUP: &str = "sales/rollup.yaml";

/// Streams, and models in the folders of their domains.
const RIGHT: [(&str, &str); 6] = [
    (ORDERS, include_str!("tests/right/orders.yaml")),
    (PEOPLE, include_str!("tests/right/people.yaml")),
    (PERSON, include_str!("tests/right/people/person.yaml")),
    (REGION, include_str!("tests/right/people/region.yaml")),
    (DATE, include_str!("tests/right/sales/date.yaml")),
    (LINES, include_str!("tests/right/sales/order_lines.yaml")),
];

/// The right project, with `right` replaced in a file; with all of the file replaced where `right` is empty.
fn changed(file: &str, right: &str, wrong: &str) -> BTreeMap<String, String> {
    let mut files: BTreeMap<String, String> =
        RIGHT.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
    let text = files.entry(file.to_owned()).or_default();
    assert!(text.contains(right), "{file} has no {right:?}");
    *text = if right.is_empty() { wrong.to_owned() } else { text.replacen(right, wrong, 1) };
    files
}

/// Reads and resolves, as `starmere check` does.
fn check(files: &BTreeMap<String, String>) -> Result<Models, Vec<Problem>> {
    resolve(&definitions(files)?)
}

fn definitions(files: &BTreeMap<String, String>) -> Result<Definitions, Vec<Problem>> {
    fn read<T: DeserializeOwned>(name: &str, text: &str, problems: &mut Vec<Problem>) -> Option<Parsed<T>> {
        parse_text(text, name).map_err(|problem| problems.push(problem)).ok()
    }
    let mut definitions = Definitions::default();
    definitions.ports.insert(
        "people.people_v1.person".to_owned(),
        Port {
            model: ModelName::new("people", "person"),
            columns: vec![("key".to_owned(), "person_key".to_owned()), ("city".to_owned(), "city".to_owned())],
        },
    );
    let mut problems = Vec::new();
    for (name, text) in files {
        match name.split_once('/') {
            None => definitions.streams.extend(read::<StreamFile>(name, text, &mut problems)),
            Some((domain, _)) => match parse_model_text(text, name) {
                Ok(model) => definitions.add(domain, model),
                Err(problem) => problems.push(problem),
            },
        }
    }
    if problems.is_empty() { Ok(definitions) } else { Err(problems) }
}

fn told(problem: &Problem, file: &str) -> String {
    let Problem { place, message, hint } = problem;
    let hint = hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default();
    let elsewhere = if place.file == file { String::new() } else { format!("{}:", place.file) };
    format!("{elsewhere}{}:{}: {message}{hint}", place.line, place.column)
}

fn problems(file: &str, right: &str, wrong: &str) -> String {
    let problems = check(&changed(file, right, wrong)).err().unwrap_or_default();
    problems.iter().map(|problem| told(problem, file)).collect::<Vec<_>>().join("\n")
}

/// Tells all cases that miss, not only the first.
fn each_is_told(file: &str, cases: &[(&str, &str, &str)]) {
    let missed: Vec<String> = cases
        .iter()
        .filter_map(|(right, wrong, expected)| {
            let found = problems(file, right, wrong);
            (found != *expected).then(|| format!("{file}, {wrong:?}\n  expected: {expected}\n  found:    {found}"))
        })
        .collect();
    assert!(missed.is_empty(), "{} of {} cases:\n{}", missed.len(), cases.len(), missed.join("\n"));
}

#[test]
fn the_right_project_is_right_however_it_is_written() {
    let texts = |change: fn(&str) -> String| -> BTreeMap<String, String> {
        RIGHT.iter().map(|(name, text)| ((*name).to_owned(), change(text))).collect()
    };
    for files in [
        texts(str::to_owned),
        texts(|text| text.replace('\n', "\r\n")),
        texts(|text| format!("\u{feff}{text}")),
        texts(|text| format!("# A comment.\n---\n{text}...\n")),
        texts(|text| text.trim_end().to_owned()),
        changed(
            PEOPLE,
            "name: { type: string }\n          city: { type: string }",
            "name: &text { type: string }\n          city: *text",
        ),
        changed(
            PEOPLE,
            "name: { type: string }\n          city: { type: string }",
            "name: &text { type: string }\n          city: { <<: *text }",
        ),
        changed(LINES, "'quantity > 0'", ">-\n  quantity > 0\n  AND price > 0"),
        changed(LINES, "'quantity > 0'", "\"coalesce(upper(sku) LIKE 'A%', due_on > '2024-01-01', true)\""),
    ] {
        let models = check(&files).unwrap_or_else(|problems| panic!("{files:?}: {problems:?}"));
        let names: Vec<String> = models.models.iter().map(|model| model.name().to_string()).collect();
        assert_eq!(names, ["sales.date", "people.person", "people.region", "sales.order_lines"]);
        assert!(models.notes.is_empty(), "{:?}", models.notes);
    }
}

#[test]
fn a_stream_that_nothing_reads_is_noted() {
    let files =
        changed("refunds.yaml", "", "stream: refunds\ndomain: sales\nenvelope: { constant_type: paid, time: at }\n");
    let notes = check(&files).expect("a stream may be read by nobody").notes;
    assert_eq!(
        notes.iter().map(|note| told(note, "refunds.yaml")).collect::<Vec<_>>(),
        ["1:9: no model reads the stream `refunds`"]
    );
}

#[test]
fn a_stream_is_read_by_those_whom_its_owner_names() {
    let seen = "fact: seen\nfrom: { stream: people, event: person_seen }\ngrain: event_id\n";
    let with = |readers: &str| {
        let mut files = changed(PEOPLE, "domain: people", &format!("domain: people\n{readers}"));
        files.insert("sales/seen.yaml".to_owned(), seen.to_owned());
        files
    };
    let refused = |readers: &str| check(&with(readers)).expect_err("nobody else may read it");
    let hint = "use a product of `people`, or have it add `sales` to `readers` in people.yaml";
    for readers in ["", "readers: []", "readers: [support]", "readers: [sale]"] {
        let problems = refused(readers);
        let told: Vec<String> = problems.iter().map(|problem| told(problem, "sales/seen.yaml")).collect();
        assert_eq!(told, [format!("2:7: the stream `people` belongs to the domain `people` ({hint})")], "{readers}");
    }
    let models = check(&with("readers: [support, sales]")).expect("its owner has named the domain");
    let fact = models.get(&ModelName::new("sales", "seen")).expect("it is defined");
    assert_eq!(fact.streams().into_iter().collect::<Vec<_>>(), ["people"]);
    // The grant is no part of what is made of the stream.
    let person = ModelName::new("people", "person");
    let before = check(&changed(PEOPLE, "", &with("")[PEOPLE])).expect("it is right without");
    assert_eq!(
        models.get(&person).map(|model| model.fingerprint().to_owned()),
        before.get(&person).map(|model| model.fingerprint().to_owned())
    );
    let notes = |readers: &str| {
        let models = check(&with(readers)).expect("a reader need not read");
        models.notes.iter().map(|note| told(note, PEOPLE)).collect::<Vec<_>>()
    };
    assert_eq!(notes("readers: [sales]"), [] as [&str; 0]);
    let unused = "the domain `supprt` may read the stream `people`, and no model of it does";
    assert_eq!(notes("readers: [sales, supprt]"), [format!("3:18: {unused} (there are: `people`, `sales`)")]);
    let problems = refused("readers: [Sales, lake]");
    assert_eq!(problems.len(), 3, "{problems:?}");
}

#[test]
fn one_mistake_is_told_once() {
    for (file, right, wrong) in
        [(PERSON, "city: {", "cty: {"), (DATE, "2020-01-01", "2020-13-01"), (LINES, "price'", "prize'")]
    {
        let mut files = changed(file, right, wrong);
        let rollup = "rollup: by_city\nof: order_lines\nby: { city: buyer.city, due: due.year_month }\n";
        files.insert(ROLLUP.to_owned(), rollup.to_owned());
        let select = "SELECT buyer_key, due_key, count(*) AS n FROM order_lines GROUP BY buyer_key, due_key";
        files.insert(SQL.to_owned(), format!("sql: keys\ngrain: [buyer_key, due_key]\nselect: {select}\n"));
        let problems = check(&files).expect_err("a file is wrong");
        let places: Vec<&str> = problems.iter().map(|problem| problem.place.file.as_str()).collect();
        assert_eq!(places, [file], "{problems:?}");
    }
}

#[test]
fn mistakes_are_told_all_at_once() {
    let mut files = changed(PERSON, "city: {", "City: {");
    files.extend(changed(DATE, "2020-01-01", "2020-13-01").remove_entry(DATE));
    files.extend(changed(LINES, "quantity > 0", "qantity > 0").remove_entry(LINES));
    let problems = check(&files).expect_err("three files are wrong");
    let places: Vec<String> = problems.iter().map(|problem| problem.place.to_string()).collect();
    assert_eq!(places, ["people/person.yaml:8:9", "sales/date.yaml:2:11", "sales/order_lines.yaml:3:8"]);
}
