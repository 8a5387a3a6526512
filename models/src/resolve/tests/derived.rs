//! Models that are made of facts and dimensions: what is wrong with them.

use super::*;

const MODEL: &str = "sales/model.yaml";

/// What is said of the right project with a model beside it, in which `right` is replaced.
fn said(model: &str, right: &str, wrong: &str) -> String {
    assert!(model.contains(right), "{right}");
    let mut files = changed(LINES, "fact", "fact");
    files.insert(MODEL.to_owned(), model.replacen(right, wrong, 1));
    let problems = check(&files).err().unwrap_or_default();
    problems.iter().map(|problem| told(problem, MODEL)).collect::<Vec<_>>().join("\n")
}

/// The model is right, and wrong in each case as it says, by the beginning of what is told.
fn each_is_said(model: &str, cases: &[(&str, &str, &str)]) {
    assert_eq!(said(model, "", ""), "", "{model}");
    let missed: Vec<String> = cases
        .iter()
        .map(|(right, wrong, expected)| (wrong, expected, said(model, right, wrong)))
        .filter(|(_, expected, found)| !found.starts_with(**expected) || found.lines().count() > 1)
        .map(|(wrong, expected, found)| format!("{wrong}\n  expected: {expected}\n  found:    {found}"))
        .collect();
    assert!(missed.is_empty(), "{} of {} cases:\n{}", missed.len(), cases.len(), missed.join("\n"));
}

#[test]
fn a_derived_fact() {
    let model = "derived_fact: wide\nof: order_lines\nwhere: fact.quantity > 1\nmeasures:\n  twice: { expression: 2 * fact.quantity }\ndegenerate:\n  city: { expression: buyer.city }\n";
    each_is_said(
        model,
        &[
            (
                "of: order_lines",
                "of: oder_lines",
                "2:5: there is no fact `sales.oder_lines` (did you mean `order_lines`?)",
            ),
            ("of: order_lines", "of: people.person", "2:5: `people.person` is not a fact of this domain"),
            ("buyer.city", "byer.city", "7:9: `byer.city`: there is no column `byer.city`"),
            ("buyer.city", "buyer.town", "7:9: `buyer.town`: there is no column `buyer.town`"),
            (
                "2 * fact.quantity",
                "sum(fact.quantity)",
                "5:10: `sum(fact.quantity)`: an aggregate within an expression",
            ),
            ("2 * fact.quantity", "random()", "5:10: `random()`: `random` does not give the same answer every day"),
            ("2 * fact.quantity", "1.5e0 * fact.quantity", "5:10: `twice` is double, which is not added exactly"),
            (
                "2 * fact.quantity",
                "fact.quantity * 1.5, type: int",
                "5:10: `twice` is double, which int holds only if it is rounded (write `CAST(round(fact.quantity * 1.5) AS int)`",
            ),
            (
                "2 * fact.quantity",
                "\"CAST(fact.quantity AS DECIMAL(9,2)) * 1.005\", type: \"decimal(12,2)\"",
                "5:10: `twice` is decimal(14,5), which decimal(12,2) holds only if it is rounded (write `round(",
            ),
            ("2 * fact.quantity", "1 FROM x", "5:10: `1 FROM x`: something follows the expression"),
            (
                "2 * fact.quantity",
                "rank() OVER (ORDER BY fact.quantity)",
                "5:10: `rank() OVER (ORDER BY fact.quantity)`: a window function",
            ),
            ("where: fact.quantity > 1", "where: fact.quantity", "3:8: `fact.quantity` is int, not true or false"),
            ("  twice:", "  quantity:", "1:15: two columns have the name `quantity`"),
            ("  twice:", "  Twice:", "5:10: `Twice` is not a name"),
            ("measures:", "keep: [quantity]\nmeasures:", "4:7: `keep` leaves out `order_id`, which is of the grain"),
            ("measures:", "keep: [quantty]\nmeasures:", "4:7: `sales.order_lines` has no column `quantty`"),
        ],
    );
}

#[test]
fn a_ledger() {
    let model = "ledger: book\nof: order_lines\nby: order_id\nvoids: fact.quantity = 0\n";
    each_is_said(
        model,
        &[
            ("by: order_id", "by: order", "3:5: `sales.order_lines` has no column `order`"),
            ("by: order_id", "by: []", "3:5: `by` names no column"),
            ("by: order_id", "by: [order_id, order_id]", "3:5: `by` names `order_id` twice"),
            ("fact.quantity = 0", "buyer.city = 'Ulm'", "4:8: `voids` is about columns of the fact"),
            ("fact.quantity = 0", "nothing", "4:8: `nothing`: there is no column `nothing`"),
            ("of: order_lines", "of: book", "1:9: models that read each other: sales.book"),
        ],
    );
}

#[test]
fn an_allocation_and_a_bridge() {
    let model = "allocation: shares\nof: order_lines\nheader: order_lines\non: order_id\namounts: { share: amount }\nweight: quantity\n";
    each_is_said(
        model,
        &[
            ("on: order_id", "on: order", "4:5: `sales.order_lines` has no column `order`"),
            ("share: amount", "share: order_id", "5:19: `sales.order_lines` has no measure `order_id`"),
            ("{ share: amount }", "{}", "1:13: the allocation splits no amounts"),
            ("share: amount", "amount: amount", "5:20: `sales.order_lines` has a column `amount` already"),
            ("weight: quantity", "weight: buyer", "6:9: `sales.order_lines` has no measure `buyer`"),
        ],
    );
    let model = "bridge: buyers\nof: order_lines\ngroup: order_id\nmember: buyer\nweight: quantity\n";
    each_is_said(
        model,
        &[
            (
                "member: buyer",
                "member: byer",
                "4:9: `sales.order_lines` has no dimension `byer` (did you mean `buyer`?)",
            ),
            ("group: order_id", "group: buyer_key", "3:8: `buyer_key` is a column of the group and of the member"),
        ],
    );
}

#[test]
fn snapshots() {
    let model = "periodic_snapshot: daily\nof: order_lines\nevery: day\nfrom: 2024-01-01\nto: 2024-12-31\nby: [buyer, order_id]\nbalances: { quantity: quantity }\n";
    each_is_said(
        model,
        &[
            ("every: day", "every: fortnight", "3:8: `fortnight` is no period: there are: `minute`, `hour`, `day`"),
            ("every: day", "every: 2 wekes", "3:8: `2 wekes` is no period: did you mean `week`?"),
            ("every: day", "every: 0 days", "3:8: `0 days` is no period: `0` is not a number from 1 to 65535"),
            ("from: 2024-01-01", "from: soon", "4:7: `soon` is not a day such as 2024-01-31"),
            (
                "from: 2024-01-01",
                "from: 2024-01-01T06:00:00Z",
                "4:7: `2024-01-01T06:00:00Z` is not a day such as 2024-01-31",
            ),
            (
                "every: day\nfrom: 2024-01-01",
                "every: hour\nfrom: 2024-01-01T06:00",
                "4:7: `2024-01-01T06:00` is not a day such as 2024-01-31, nor a time with its zone, such as 2024-01-31T06:00:00Z",
            ),
            ("to: 2024-12-31", "to: 2023-12-31", "5:5: `to` is before `from` (periods have bounds"),
            (
                "every: day\nfrom: 2024-01-01",
                "every: year\nfrom: 2024-12-31T00:00:00Z",
                "4:7: `2024-12-31T00:00:00Z` is not a day",
            ),
            (
                "every: day\nfrom: 2024-01-01\nto: 2024-12-31",
                "every: week\nfrom: 2024-01-07\nto: 2024-01-01",
                "5:5: `to` is before `from`",
            ),
            ("to: 2024-12-31", "to: 2200-01-01", "5:5: the periods have 64284 days together, of at most 40000"),
            ("from: 2024-01-01", "from: 0000-01-01", "4:7: `0000-01-01` is not in one of the years 1 to 9998, in UTC"),
            (
                "every: day\nfrom: 2024-01-01",
                "every: minute\nfrom: 2020-01-01",
                "5:5: there are 2630880 periods, of at most 1000000 (periods have bounds",
            ),
            (
                "every: day\nfrom: 2024-01-01\nto: 2024-12-31",
                "every: 5 years\nfrom: 9997-01-01\nto: 9998-01-01",
                "5:5: the last period is not over by the year 9999",
            ),
            (
                "to: 2024-12-31\n",
                "",
                "1:20: the snapshot has no `to`, so its periods would go on for ever (name the last day that it is about: `to: 2030-12-31`)",
            ),
            (
                "by: [buyer, order_id]",
                "by: [byer]",
                "6:5: `sales.order_lines` has neither a dimension nor a column `byer`",
            ),
            ("balances: { quantity: quantity }", "flows: {}", "1:20: the snapshot has no measures"),
            (
                "balances: { quantity: quantity }",
                "balances: { q: quantity }\nflows: { q: quantity }",
                "8:13: the snapshot has two columns `q` (rename one of them)",
            ),
            ("{ quantity: quantity }", "{ period_to: quantity }", "7:24: the snapshot has two columns `period_to`"),
            ("quantity: quantity", "quantity: buyer.city", "7:23: `buyer.city` is string, which is not added exactly"),
        ],
    );
    let model = "accumulating_snapshot: way\ngrain: order_id\nmilestones:\n  placed: { fact: order_lines }\n  large: { fact: order_lines, where: fact.quantity > 9 }\ndimensions: { buyer: placed }\nmeasures: { quantity: placed.quantity }\nlags: { wait: [placed, large] }\n";
    each_is_said(
        model,
        &[
            (
                "milestones:\n  placed: { fact: order_lines }\n  large: { fact: order_lines, where: fact.quantity > 9 }",
                "milestones: {}",
                "1:24: the snapshot has no milestones",
            ),
            ("{ fact: order_lines }", "{ fact: lines }", "4:11: there is no fact `sales.lines`"),
            ("grain: order_id", "grain: order", "4:11: `sales.order_lines` has no column `order`, of the grain"),
            ("fact.quantity > 9", "fact.quantity", "5:10: `fact.quantity` is int, not true or false"),
            ("[placed, large]", "[placed, huge]", "8:15: there is no milestone `huge`"),
            ("[placed, large]", "[placed]", "8:"),
            ("buyer: placed", "buyer: placd", "6:22: there is no milestone `placd` (did you mean `placed`?)"),
            ("buyer: placed", "byer: placed", "6:21: `sales.order_lines` has no dimension `byer`"),
            (
                "placed.quantity",
                "quantity",
                "7:23: `quantity` names no measure of a milestone (write `milestone.measure`)",
            ),
            ("placed.quantity", "placed.price", "7:23: `sales.order_lines` has no measure `price`"),
        ],
    );
}

#[test]
fn shrunken_dimensions_and_hierarchies() {
    let model = "shrunken_dimension: month\nof: date\nkey: year_month\nattributes: [year]\n";
    each_is_said(
        model,
        &[
            ("of: date", "of: dat", "2:5: there is no dimension `sales.dat` (did you mean `date`?)"),
            ("of: date", "of: order_lines", "2:5: `sales.order_lines` is a fact, where a dimension belongs"),
            ("key: year_month", "key: month_year", "3:6: `sales.date` has no attribute `month_year`"),
            ("key: year_month", "key: date_key", "3:6: `sales.date` has no attribute `date_key`"),
            ("[year]", "[year_month]", "4:13: `year_month` is of the key already"),
        ],
    );
    let model = "hierarchy: boss\nof: people.people_v1.person\nparent: city\n";
    each_is_said(
        model,
        &[
            ("parent: city", "parent: cty", "3:9: `people.person` has no attribute `cty` (did you mean `city`?)"),
            (
                "of: people.people_v1.person",
                "of: date",
                "2:5: `sales.date` is a calendar, where a dimension of events belongs",
            ),
        ],
    );
}

#[test]
fn generated_dimensions() {
    let of = |wrong: &str| problems(DATE, "", &format!("dimension: date\n{wrong}\n"));
    for (wrong, expected) in [
        (
            "calendar: { from: 2024-01-01, to: 2024-12-31, fiscal_year_begins: 13 }",
            "2:11: `fiscal_year_begins` is a month: 1 to 12",
        ),
        (
            "calendar: { from: 2024-01-01, to: 2024-12-31, locales: [klingon] }",
            "2:11: `klingon` is no language that is known (write it as `de_CH`: a language, and where it is spoken)",
        ),
        ("time_of_day: { every: day }", "2:23: unknown choice `day`"),
        (
            "bands: { of: string, names: { a: } }",
            "2:8: values of type string have no bands (`of` is a decimal or an integer)",
        ),
        ("bands: { of: int, names: {} }", "2:8: there are no bands"),
        ("bands: { of: int, names: { a: 1 } }", "2:8: the last band, `a`, has an end"),
        ("bands: { of: int, names: { a: 5, b: 5, c: } }", "2:8: `b` ends before it begins: at 5"),
        ("bands: { of: int, names: { a: 1.5, c: } }", "2:8: `1.5`, where `a` ends, is not of type int"),
        ("bands: { of: int, names: { a: , c: } }", "2:8: `a` does not say where it ends"),
        ("key: x\nbands: { of: int, names: { a: } }", "3:8: a dimension of bands has no key"),
        ("junk: { a: string }", "2:7: a junk dimension has columns, and facts that mention them"),
        ("junk: { a: string }\nkey: a", "2:7: a junk dimension has no key"),
    ] {
        let found = of(wrong);
        let first = found.lines().next().unwrap_or_default();
        assert!(first.starts_with(expected), "{wrong}\n  expected: {expected}\n  found:    {found}");
    }
}

#[test]
fn what_a_dimension_may_not_be() {
    for (right, wrong, expected) in [
        ("attributes:", "mini: { m: [cty] }\nattributes:", "`cty` is not an attribute"),
        ("attributes:", "mini: { m: [city] }\nattributes:", "`city` is in `m`, whose combinations have the history"),
        ("attributes:", "mini: { m: [name, name] }\nattributes:", "`name` is in a mini-dimension twice"),
        ("attributes:", "mini: { m: [] }\nattributes:", "`m` has no attributes"),
    ] {
        let found = problems(PERSON, right, wrong);
        assert!(found.contains(expected), "{wrong}\n  expected: {expected}\n  found:    {found}");
    }
}

#[test]
fn sums_that_mean_nothing_are_refused() {
    let said = |additive: &str, model: &str| {
        let measure = format!("quantity: {{ type: int, additive: {additive} }}");
        let mut files = changed(LINES, "quantity: { type: int }", &measure);
        files.insert(MODEL.to_owned(), model.to_owned());
        let problems = check(&files).err().unwrap_or_default();
        problems.iter().map(|problem| told(problem, MODEL)).collect::<Vec<_>>().join("\n")
    };
    let snapshot = |measures: &str| {
        format!(
            "periodic_snapshot: daily\nof: order_lines\nevery: day\nfrom: 2024-01-01\nto: 2024-12-31\nby: buyer\n{measures}\n"
        )
    };
    let milestones = "accumulating_snapshot: progress\ngrain: order_id\nmilestones:\n  placed: { fact: order_lines }\n\
                      measures: { quantity: placed.quantity }\n";
    let rollup = "rollup: by_order\nof: order_lines\nby: { order: order_id }\nmeasures: quantity\n";
    let allocation =
        "allocation: shares\nof: order_lines\nheader: order_lines\non: order_id\namounts: { part: quantity }\n";
    for additive in ["semi", "none"] {
        let nothing = format!(
            "`quantity` is `additive: {additive}`, so sums of it mean nothing (leave it out, or write a SQL model)"
        );
        for (model, place) in [
            (rollup.to_owned(), "4:11"),
            (milestones.to_owned(), "5:23"),
            (allocation.to_owned(), "5:18"),
            (snapshot("balances: { b: quantity }"), "7:16"),
            (snapshot("flows: { f: -CAST((fact.quantity) AS BIGINT) }"), "7:13"),
        ] {
            assert_eq!(said(additive, &model), format!("{place}: {nothing}"), "{model}");
        }
        for right in [
            // What is computed of it may be added, and the last of its values is no sum.
            snapshot("flows: { f: fact.quantity * 2 + amount }"),
            snapshot("levels: { l: quantity }"),
            "rollup: by_order\nof: order_lines\nby: { order: order_id }\n".to_owned(),
        ] {
            assert_eq!(said(additive, &right), "", "{right}");
        }
    }
}

#[test]
fn what_was_said_last_is_no_sum_of_its_own() {
    let model = "periodic_snapshot: daily\nof: order_lines\nevery: day\nfrom: 2024-01-01\nto: 2024-12-31\nby: buyer\n\
                 levels: { last: quantity, note: order_id, ratio: CAST(quantity AS DOUBLE) }\n";
    let mut files = changed(LINES, "fact", "fact");
    files.insert(MODEL.to_owned(), model.to_owned());
    let models = check(&files).unwrap_or_else(|problems| panic!("{problems:?}"));
    let daily = models.get(&ModelName::new("sales", "daily")).expect("the snapshot");
    let measures = daily.shape().expect("a fact").measures.clone();
    assert_eq!(measures, [("last".to_owned(), Additivity::Semi), ("ratio".to_owned(), Additivity::None)]);
    each_is_said(
        model,
        &[
            (
                "last: quantity",
                "last: qantity",
                "7:17: `qantity`: there is no column `qantity`; did you mean `quantity`?",
            ),
            ("last: quantity", "last: max(quantity)", "7:17: `max(quantity)`: an aggregate within an expression"),
            (
                "levels: { last: quantity, note: order_id, ratio: CAST(quantity AS DOUBLE) }\n",
                "",
                "1:20: the snapshot has no measures (name",
            ),
        ],
    );
}

#[test]
fn columns_of_derived_models_say_what_they_are_for() {
    let means = |text: &str, columns: &[&str]| -> Vec<String> {
        let mut files = changed(LINES, "fact", "fact");
        files.insert(MODEL.to_owned(), text.to_owned());
        let models = check(&files).unwrap_or_else(|problems| panic!("{problems:?}"));
        let model = models.get(&ModelName::new("sales", "m")).expect("the model");
        columns.iter().map(|column| model.column(column).0.unwrap_or_default()).collect()
    };
    let snapshot = "periodic_snapshot: m\nof: order_lines\nevery: week\nfrom: 2024-01-01\nto: 2024-12-31\nby: [buyer, order_id]\n\
                    balances: { b: quantity }\nflows: { f: quantity }\n";
    assert_eq!(
        means(snapshot, &["buyer_key", "order_id", "period_from", "period_to", "b", "f"]),
        ["key of people.person", "grain", "period", "period", "measure, semi-additive", "measure, additive"]
    );
    let progress = "accumulating_snapshot: m\ngrain: order_id\nmilestones:\n  placed: { fact: order_lines }\n  paid: { fact: order_lines }\n\
                    lags: { days: [placed, paid] }\n";
    assert_eq!(
        means(progress, &["order_id", "placed_at", "paid_count", "placed_skipped", "milestone", "days"]),
        ["grain", "milestone", "milestone", "milestone", "milestone", "measure, additive"]
    );
    let derived = "derived_fact: m\nof: order_lines\ndegenerate: { city: { expression: buyer.city } }\n";
    assert_eq!(
        means(derived, &["city", "order_id", "event_id", "amount"]),
        ["degenerate dimension", "grain", "event", "measure, additive"]
    );
    let town = "shrunken_dimension: m\nof: people.people_v1.person\nkey: city\n";
    assert_eq!(means(town, &["m_key", "city"]), ["key", "attribute"]);
}

#[test]
fn reversals_are_not_what_was_said_last() {
    let mut files = changed(LINES, "fact", "fact");
    files.insert("sales/ledger.yaml".to_owned(), "ledger: entries\nof: order_lines\nby: order_id\n".to_owned());
    let told_of = |files: &BTreeMap<String, String>, filter: &str| {
        let mut files = files.clone();
        let snapshot = format!(
            "periodic_snapshot: daily\nof: entries\n{filter}every: day\nfrom: 2024-01-01\nto: 2024-12-31\nby: order_id\nlevels: {{ q: quantity }}\n"
        );
        files.insert(MODEL.to_owned(), snapshot);
        let problems = check(&files).err().unwrap_or_default();
        problems.iter().map(|problem| told(problem, MODEL)).collect::<Vec<_>>().join("\n")
    };
    assert_eq!(
        told_of(&files, ""),
        "2:5: `sales.entries` is a ledger, whose reversals say nothing of their own \
         (add `where: fact.entry = 'entry'`, or name the fact that the ledger is of)"
    );
    assert_eq!(told_of(&files, "where: fact.entry = 'entry'\n"), "");
}
