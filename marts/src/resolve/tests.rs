//! Two small right products, changed in one place at a time, and what is then said of them. A case is what a file
//! has, what it has instead, and the problems: `line:column: message (hint)`.

use std::path::Path;

use serde::de::DeserializeOwned;
use starmere_models::define::{DimensionFile, FactFile, StreamFile, parse, parse_text};
use starmere_models::resolve::Definitions;

use super::*;

const PEOPLE: &str = "people/people_v1.yaml";
const ORDERS: &str = "sales/orders_v1.yaml";

/// Products, in the folders of their domains.
const RIGHT: [(&str, &str); 2] = [
    (PEOPLE, include_str!("tests/right/people/people_v1.yaml")),
    (ORDERS, include_str!("tests/right/sales/orders_v1.yaml")),
];

const STREAMS: [&str; 2] = [
    "
stream: people
domain: people
envelope: { id: id, type: type, time: at }
events:
  person_seen: { versions: { 1: { fields: { person_id: { type: string }, city: { type: string } } } } }
",
    "
stream: orders
domain: sales
envelope: { id: id, type: type, time: at }
events:
  order_placed:
    versions:
      1:
        fields:
          order_id: { type: string }
          person_id: { type: string }
          due_on: { type: date }
          lines: { each: { quantity: { type: int }, price: { type: 'decimal(9,2)' } } }
",
];

const DIMENSIONS: [(&str, &str); 2] = [
    (
        "people",
        "
dimension: person
key: person_id
from: [{ stream: people, event: person_seen, as: state }]
attributes: { city: { type: string, history: version } }
inferred_from: [sales.order_lines]
",
    ),
    ("sales", "{ dimension: date, calendar: { from: 2020-01-01, to: 2030-12-31 } }"),
];

const FACT: &str = "
fact: order_lines
from: { stream: orders, event: order_placed, each: lines }
grain: [order_id, line_number]
dimensions:
  buyer: { dimension: people.people_v1.person, key: person_id }
  due: { dimension: date, key: due_on }
degenerate:
  order_id: {}
  line_number: { expression: ordinal, type: int }
measures:
  quantity: { type: int }
  amount: { expression: 'quantity * price', type: 'decimal(18,2)' }
";

/// The models behind the right products.
fn models() -> Models {
    fn read<T: DeserializeOwned>(text: &str) -> Parsed<T> {
        parse_text(text, "model.yaml").unwrap()
    }
    let products: Vec<(String, Parsed<ProductFile>)> =
        RIGHT.iter().map(|(name, text)| (domain(name), parse_text(text, name).unwrap())).collect();
    let definitions = Definitions {
        streams: STREAMS.iter().map(|text| read(text)).collect(),
        dimensions: DIMENSIONS.iter().map(|(domain, text)| ((*domain).to_owned(), read(text))).collect(),
        facts: vec![("sales".to_owned(), read(FACT))],
        derived: Vec::new(),
        ports: ports(&products),
    };
    starmere_models::resolve::resolve(&definitions).unwrap()
}

fn domain(name: &str) -> String {
    name.split('/').next().unwrap_or_default().to_owned()
}

/// The products, with `right` replaced in a file; with a file of `wrong` alone where `right` is empty.
fn changed(file: &str, right: &str, wrong: &str) -> BTreeMap<String, String> {
    let mut files: BTreeMap<String, String> =
        RIGHT.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
    let text = files.entry(file.to_owned()).or_default();
    assert!(text.contains(right), "{file} has no {right:?}");
    *text = if right.is_empty() { wrong.to_owned() } else { text.replacen(right, wrong, 1) };
    files
}

fn check(files: &BTreeMap<String, String>, models: &Models) -> Result<Meaning, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut products: Vec<(String, Parsed<ProductFile>)> = Vec::new();
    for (name, text) in files {
        match parse_text(text, name) {
            Ok(parsed) => products.push((domain(name), parsed)),
            Err(problem) => problems.push(problem),
        }
    }
    if problems.is_empty() { resolve(&products, models) } else { Err(problems) }
}

fn told(problem: &Problem, file: &str) -> String {
    let Problem { place, message, hint } = problem;
    let hint = hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default();
    let elsewhere = if place.file == file { String::new() } else { format!("{}:", place.file) };
    format!("{elsewhere}{}:{}: {message}{hint}", place.line, place.column)
}

/// Tells all cases that miss, not only the first.
fn each_is_told(file: &str, cases: &[(&str, &str, &str)]) {
    let models = models();
    let missed: Vec<String> = cases
        .iter()
        .filter_map(|(right, wrong, expected)| {
            let problems = check(&changed(file, right, wrong), &models).err().unwrap_or_default();
            let found = problems.iter().map(|problem| told(problem, file)).collect::<Vec<_>>().join("\n");
            (found != *expected).then(|| format!("{file}, {wrong:?}\n  expected: {expected}\n  found:    {found}"))
        })
        .collect();
    assert!(missed.is_empty(), "{} of {} cases:\n{}", missed.len(), cases.len(), missed.join("\n"));
}

#[test]
fn right_products_mean_what_they_say() {
    let meaning = check(&changed(ORDERS, "version: 1", "version: 1"), &models()).unwrap();
    let ports: Vec<String> = meaning.ports.iter().map(Port::full_name).collect();
    assert_eq!(ports, ["people.people_v1.person", "sales.orders_v1.date", "sales.orders_v1.order_lines"]);
    let lines = &meaning.ports[2];
    let columns: Vec<_> = lines.columns.iter().map(|c| (c.name.as_str(), c.from.as_str(), c.nullable)).collect();
    assert_eq!(columns[0], ("order_id", "order_id", false));
    assert_eq!(columns[4], ("revenue", "amount", true));
    let keys: Vec<String> = lines.foreign_keys.iter().map(|key| key.to.join(".")).collect();
    assert_eq!(keys, ["people.people_v1.person", "sales.orders_v1.date"]);
}

/// The same as `starmere check`, for a project on disk.
fn check_folder(root: &Path) -> Result<Meaning, Vec<Problem>> {
    fn entries(folder: &Path) -> Vec<std::path::PathBuf> {
        let entries = std::fs::read_dir(folder).into_iter().flatten();
        let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths
    }
    fn read<T: DeserializeOwned>(path: &Path) -> Parsed<T> {
        parse(path, &path.display().to_string()).unwrap_or_else(|problem| panic!("{problem}"))
    }
    let mut definitions = Definitions::default();
    definitions.streams.extend(entries(&root.join("streams")).iter().map(|path| read::<StreamFile>(path)));
    let mut products = Vec::new();
    for folder in entries(&root.join("domains")) {
        let domain = folder.file_name().unwrap().to_string_lossy().into_owned();
        for path in entries(&folder.join("models")) {
            let text = std::fs::read_to_string(&path).unwrap();
            match text.lines().any(|line| line.starts_with("fact:")) {
                true => definitions.facts.push((domain.clone(), read::<FactFile>(&path))),
                false => definitions.dimensions.push((domain.clone(), read::<DimensionFile>(&path))),
            }
        }
        products
            .extend(entries(&folder.join("products")).iter().map(|path| (domain.clone(), read::<ProductFile>(path))));
    }
    definitions.ports = ports(&products);
    resolve(&products, &starmere_models::resolve::resolve(&definitions)?)
}

#[test]
fn the_examples_are_right() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    for name in ["flights", "shop", "ssb"] {
        let problems = check_folder(&examples.join(name)).map(|meaning| assert!(meaning.ports.len() > 4, "{name}"));
        let problems = problems.err().unwrap_or_default().iter().map(ToString::to_string).collect::<Vec<_>>();
        assert!(problems.is_empty(), "{name}:\n{}", problems.join("\n"));
    }
}

#[test]
fn the_parser_says_what_it_cannot_read() {
    each_is_told(
        ORDERS,
        &[
            ("primary_key:", "primary_keys:", "6:5: unknown key `primary_keys` (did you mean `primary_key`?)"),
            ("{ from: amount", "{ form: amount", "15:18: unknown key `form` (did you mean `from`?)"),
            ("ports:", "port:", "3:1: unknown key `port` (did you mean `ports`?)"),
            ("version: 1\n", "", "2:1: the key `version` is missing"),
            ("    model: order_lines\n", "", "9:5: the key `model` is missing"),
            ("      due_key: {", "      buyer_key: {", "14:7: the key `buyer_key` is there twice"),
            ("version: 1", "version: one", "2:10: not a whole number, or out of range"),
            ("version: 1", "version: -1", "2:10: not a whole number, or out of range"),
            ("version: 1", "version: 1.5", "2:10: not a whole number, or out of range"),
            ("version: 1", "version: 4294967296", "2:10: not a whole number, or out of range"),
            ("nullable: false", "nullable: never", "11:43: neither `true` nor `false`"),
            (
                "line_number: { type: int",
                "line_number: { type: integer",
                "12:28: `integer` is not a type: did you mean `int`?",
            ),
            ("      year: { type: int }", "      year: []", "21:13: not a map: keys and values, as in `key: value`"),
        ],
    );
}

#[test]
fn products_have_names_versions_and_ports_of_their_own() {
    each_is_told(
        "sales/zero.yaml",
        &[
            (
                "",
                "product: Extra\nversion: 1\nports: { days: { model: date, columns: { year: {} } } }\n",
                "1:10: `Extra` is not a name (write lower-case letters, digits and `_`, beginning with a letter, up to 63)",
            ),
            (
                "",
                "product: orders_v2\nversion: 1\nports: { days: { model: date, columns: { year: {} } } }\n",
                "1:10: `orders_v2` cannot be the name of a product (queries find the newest version by the product's name, and each version at `name_v1`, `name_v2` …)",
            ),
            (
                "",
                "product: information_schema\nversion: 1\nports: { days: { model: date, columns: { year: {} } } }\n",
                "1:10: `information_schema` cannot be the name of a product (queries find the newest version by the product's name, and each version at `name_v1`, `name_v2` …)",
            ),
            (
                "",
                "product: extra\nversion: 0\nports: { days: { model: date, columns: { year: {} } } }\n",
                "2:10: versions begin with 1",
            ),
            (
                "",
                "product: orders\nversion: 1\nports: { days: { model: date, columns: { year: {} } } }\n",
                "1:10: the product `sales.orders_v1` is defined twice (it is also at sales/orders_v1.yaml:1:10)",
            ),
            ("", "product: orders\nversion: 2\nports: { days: { model: date, columns: { year: {} } } }\n", ""),
            ("", "product: order_view\nversion: 1\nports: { days: { model: date, columns: { year: {} } } }\n", ""),
            ("", "product: extra\nversion: 1\nports: {}\n", "1:10: the product `extra` has no ports"),
            (
                "",
                "product: extra\nversion: 1\nports: { nothing: { model: date, columns: {} } }\n",
                "3:19: the port has no columns (list under `columns` what readers may rely on)",
            ),
        ],
    );
    each_is_told(
        ORDERS,
        &[(
            "  order_lines:\n",
            "  Order-lines:\n",
            "5:5: `Order-lines` is not a name (write lower-case letters, digits and `_`, beginning with a letter, up to 63)",
        )],
    );
}

#[test]
fn ports_show_models_of_their_own_domain() {
    each_is_told(
        ORDERS,
        &[
            (
                "model: order_lines",
                "model: order_line",
                "5:5: there is no model `sales.order_line` (did you mean `order_lines`?)",
            ),
            (
                "model: order_lines",
                "model: person",
                "5:5: there is no model `sales.person` (there are: `date`, `order_lines`)",
            ),
            (
                "model: order_lines",
                "model: people.person",
                "5:5: `people.person` is not a model of `sales` (a port shows a model of its own domain, by its bare name)",
            ),
        ],
    );
    each_is_told(
        PEOPLE,
        &[("model: person", "model: persn", "5:5: there is no model `people.persn` (did you mean `person`?)")],
    );
}

#[test]
fn columns_are_those_of_the_model() {
    each_is_told(
        ORDERS,
        &[
            (
                "from: amount",
                "from: amont",
                "15:16: `sales.order_lines` has no column `amont` (did you mean `amount`?)",
            ),
            (
                "revenue: { from: amount,",
                "amont: {",
                "15:14: `sales.order_lines` has no column `amont` (did you mean `amount`?)",
            ),
            (
                "revenue:",
                "Revenue:",
                "15:16: `Revenue` is not a name (write lower-case letters, digits and `_`, beginning with a letter, up to 63)",
            ),
            (
                "type: 'decimal(18,2)'",
                "type: int",
                "15:16: the contract says int of `revenue`, and `sales.order_lines` has decimal(18,2) (change the model, or publish a new version)",
            ),
            (
                "type: 'decimal(18,2)'",
                "type: 'decimal(18,3)'",
                "15:16: the contract says decimal(18,3) of `revenue`, and `sales.order_lines` has decimal(18,2) (change the model, or publish a new version)",
            ),
            (
                "revenue: { from: amount, type: 'decimal(18,2)' }",
                "lines: { from: quantity, type: bigint }",
                "15:14: the contract says bigint of `lines`, and `sales.order_lines` has int (change the model, or publish a new version)",
            ),
        ],
    );
    each_is_told(PEOPLE, &[("city: { type: string }", "city: { type: json }", "")]);
}

#[test]
fn what_may_be_null_is_known_of_unknown_members_and_keys() {
    each_is_told(
        PEOPLE,
        &[(
            "city: { type: string }",
            "city: { type: string, nullable: false }",
            "9:13: `city` may not be null by contract, and has no value in row 0, the unknown member (leave `nullable: false` out)",
        )],
    );
    each_is_told(
        ORDERS,
        &[
            (
                "year: { type: int }",
                "year: { type: int, nullable: false }",
                "21:13: `year` may not be null by contract, and has no value in row 0, the unknown member (leave `nullable: false` out)",
            ),
            (
                "line_number: { type: int, nullable: false }",
                "line_number: { type: int }",
                "12:20: `line_number` is in the primary key and may be null (add `nullable: false`)",
            ),
        ],
    );
}

#[test]
fn keys_are_columns_of_the_contract() {
    each_is_told(
        ORDERS,
        &[
            (
                "[order_id, line_number]",
                "[order_id, line_no]",
                "5:5: the primary key's column `line_no` is not in the contract (there are: `order_id`, `line_number`, `buyer_key`, `due_key`, `revenue`)",
            ),
            (
                "[order_id, line_number]",
                "[order_id, quantity]",
                "5:5: the primary key's column `quantity` is not in the contract (there are: `order_id`, `line_number`, `buyer_key`, `due_key`, `revenue`)",
            ),
            ("[order_id, line_number]", "[order_id, order_id]", "5:5: the primary key names `order_id` twice"),
            (
                "people.people_v1.person",
                "people.people_v1.persn",
                "5:5: there is no port `people.people_v1.persn` (did you mean `people.people_v1.person`?)",
            ),
            (
                "people.people_v1.person",
                "people.people.person",
                "5:5: there is no port `people.people.person` (did you mean `people.people_v1.person`?)",
            ),
            (
                "      buyer_key: people",
                "      buyr_key: people",
                "5:5: the foreign key's column `buyr_key` is not in the contract (did you mean `buyer_key`?)",
            ),
            (
                "buyer_key: people.people_v1.person",
                "buyer_key: sales.orders_v1.order_lines",
                "5:5: the primary key of `sales.orders_v1.order_lines` has 2 columns, not 1",
            ),
            ("buyer_key: people.people_v1.person", "order_id, line_number: sales.orders_v1.order_lines", ""),
            ("buyer_key: people.people_v1.person", "line_number: people.people_v1.person", ""),
            (
                "      buyer_key: people",
                "      order_id: people",
                "5:5: `order_id` is string, and `person_key` of `people.people_v1.person` is bigint",
            ),
        ],
    );
}
