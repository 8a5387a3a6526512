//! Models that are made of the facts and dimensions by declaration, and their answers by plain loops over rows.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{Datelike, Days, NaiveDate, NaiveDateTime, TimeDelta};

use super::queries::{hundredths, number, row, shown, summed};
use super::world::{NULL, Row, Tables, UNKNOWN, moment};

pub(crate) const DERIVED_FILES: [&str; 17] = [
    r#"
hierarchy: above
of: zone
parent: name
"#,
    r#"
derived_fact: priced_lines
of: order_lines
where: fact.quantity > 1 AND coalesce(payer.city <> 'Ulm', true)
keep: [event_id, line, buyer_key, quantity, occurred_at]
degenerate:
  buyer_city: { expression: buyer.city }
measures:
  listed: { expression: fact.quantity * product.price, type: "decimal(18,2)" }
  points: { expression: fact.quantity * buyer.score, type: bigint }
"#,
    r#"
periodic_snapshot: daily
of: order_lines
every: day
from: 2024-01-02
to: 2024-01-04
by: [buyer, order_no]
balances: { quantity: fact.quantity }
flows: { sold: fact.quantity, lines: "1" }
"#,
    r#"
periodic_snapshot: by_month
of: order_lines
every: month
from: 2023-11-20
to: 2024-02-10
by: order_no
where: fact.quantity < 25
balances: { amount: amount }
"#,
    // What was said last, in the order of events.
    r#"
periodic_snapshot: by_quarter
of: movements
every: quarter
from: 2023-11-20
to: 2024-02-10
by: what
flows: { moved: -fact.quantity }
levels: { price: price, last_order: fact.order_no }
"#,
    r#"
periodic_snapshot: by_week
of: order_lines
every: week
from: 2023-12-27
to: 2024-01-06
by: line
where: fact.quantity <> 2
levels: { last_amount: -fact.amount }
"#,
    // Of times, counted from the first.
    r#"
periodic_snapshot: by_watch
of: order_lines
every: 7 hours
from: 2024-01-02T07:00:00+02:00
to: 2024-01-04T10:00:00Z
by: [buyer, line]
where: fact.quantity <> 3
balances: { quantity: fact.quantity }
flows: { sold: fact.amount }
levels: { last_order: fact.order_no }
"#,
    r#"
periodic_snapshot: by_term
of: movements
every: 2 months
from: 2023-11-20
to: 2024-02-10
by: order_no
levels: { price: price }
"#,
    r#"
accumulating_snapshot: progress
grain: number
milestones:
  placed: { fact: orders, key: { number: order_no } }
  filled: { fact: order_lines, where: fact.quantity > 3, key: { number: order_no } }
  priced: { fact: priced_orders, key: { number: order_no } }
dimensions: { customer: placed, buyer: filled, payer: filled.payer }
measures: { quantity: filled.quantity }
lags: { to_fill: [placed, filled] }
"#,
    // The milestone before, from a fact of a fact.
    r#"
derived_fact: priced_orders
of: order_lines
where: product.price IS NOT NULL
"#,
    r#"
ledger: order_ledger
of: orders
by: order_no
voids: fact.channel = 'web'
"#,
    // Of two streams, in the order of events.
    r#"
ledger: movement_ledger
of: movements
by: [order_no, line]
"#,
    r#"
allocation: line_shares
of: order_lines
header: orders
on: order_no
amounts: { share_of_orders: orders, share_of_fees: fee }
weight: quantity
"#,
    r#"
bridge: order_buyers
of: order_lines
group: order_no
member: buyer
weight: quantity
"#,
    r#"
shrunken_dimension: tier
of: customer
key: tier
"#,
    r#"
shrunken_dimension: month
of: date
key: year_month
attributes: [year, month]
"#,
    r#"
rollup: tiers_by_day
of: order_lines
by: { day: order_date.date }
dimensions:
  tier: { dimension: tier, role: buyer }
  month: { dimension: month, role: order_date }
measures: quantity
"#,
];

fn at(row: &Row) -> NaiveDateTime {
    NaiveDateTime::parse_from_str(&row["occurred_at"], "%Y-%m-%dT%H:%M:%S%.f").expect("a time")
}

fn day(text: &str) -> NaiveDate {
    text.parse().expect("a day")
}

/// Adds the answers to `tables`, which have facts and dimensions.
pub(crate) fn answer(tables: &mut Tables) {
    let of = |name: &str| tables[&format!("sales.{name}")].clone();
    let (lines, orders, customers, products) = (of("order_lines"), of("orders"), of("customer"), of("product"));
    let movements = of("movements");
    let found = |rows: &[Row], key: &str, value: &str| -> Row {
        rows.iter().find(|row| row[key] == value).expect("what a fact points to is there").clone()
    };
    let customer = |key: &str| found(&customers, "customer_key", key);
    let price = |line: &Row| number(&found(&products, "product_key", &line["product_key"]), "price");
    let quantity = |line: &Row| number(line, "quantity").expect("lines have a quantity");

    let mut priced = Vec::new();
    for line in lines.iter().filter(|line| quantity(line) > 1 && customer(&line["payer_key"])["city"] != "Ulm") {
        let kept = ["event_id", "line", "buyer_key", "quantity", "occurred_at"];
        let mut cells: Row = kept.map(|column| (column.to_owned(), line[column].clone())).into();
        cells.insert("buyer_city".to_owned(), customer(&line["buyer_key"])["city"].clone());
        let listed = price(line).map(|price| hundredths(price * quantity(line)));
        cells.insert("listed".to_owned(), listed.unwrap_or_else(|| NULL.to_owned()));
        let score = number(&customer(&line["buyer_key"]), "score");
        cells.insert("points".to_owned(), shown(score.map(|score| score * quantity(line))));
        priced.push(cells);
    }
    let priced_orders: Vec<Row> = lines.iter().filter(|line| price(line).is_some()).cloned().collect();

    let shares = allocated(&lines, &orders);
    let progress = progress(&orders, &lines, &priced_orders);
    let answers = [
        ("above", above(&of("zone"))),
        ("priced_lines", priced),
        ("priced_orders", priced_orders),
        ("daily", daily(&lines, &customers)),
        ("by_month", by_month(&lines)),
        ("by_quarter", by_quarter(&movements)),
        ("by_week", by_week(&lines)),
        ("by_watch", by_watch(&lines, &customers)),
        ("by_term", by_term(&movements)),
        ("progress", progress),
        ("order_ledger", ledger(&orders, &["order_no"], &["orders", "fee"], |order| order["channel"] == "web")),
        ("movement_ledger", ledger(&movements, &["order_no", "line"], &["quantity"], |_| false)),
        ("line_shares", shares),
        ("order_buyers", bridge(&lines)),
        ("tier", shrunken_tier(&customers)),
        ("tiers_by_day", tiers_by_day(&lines, &customers)),
    ];
    tables.extend(answers.into_iter().map(|(name, rows)| (format!("sales.{name}"), rows)));
    let month = |name: &str, month: u32| {
        row([
            ("month_key", name.to_owned()),
            ("year_month", if month == 0 { NULL.to_owned() } else { name.to_owned() }),
            ("year", if month == 0 { NULL.to_owned() } else { "2024".to_owned() }),
            ("month", if month == 0 { NULL.to_owned() } else { month.to_string() }),
        ])
    };
    tables.insert("sales.month".to_owned(), vec![month(UNKNOWN, 0), month("2024-01", 1)]);
}

/// Who is above whom among zones, by the names that they call.
fn above(zones: &[Row]) -> Vec<Row> {
    let living =
        |zone: &&Row| zone["is_current"] == "true" && zone["is_deleted"] == "false" && zone["region_id"] != NULL;
    let members: BTreeMap<&String, &String> =
        zones.iter().filter(living).map(|zone| (&zone["region_id"], &zone["name"])).collect();
    let mut rows = Vec::new();
    for member in members.keys() {
        let mut way: Vec<&String> = Vec::new();
        let mut at = Some(*member);
        while let Some(ancestor) = at.filter(|at| !way.contains(at)) {
            let parent = members[ancestor];
            rows.push(row([
                ("ancestor", ancestor.clone()),
                ("descendant", (*member).clone()),
                ("distance", way.len().to_string()),
                ("is_top", (!members.contains_key(parent)).to_string()),
                ("is_bottom", (!members.values().any(|above| above == member)).to_string()),
            ]));
            way.push(ancestor);
            at = members.get_key_value(parent).map(|(name, _)| *name);
        }
    }
    rows
}

/// Every buyer and order, from its first day to the last that any line has.
fn daily(lines: &[Row], customers: &[Row]) -> Vec<Row> {
    let (first, last) = (day("2024-01-02"), day("2024-01-04"));
    let Some(until) = until(lines, first, last) else { return Vec::new() };
    let lines: Vec<&Row> = lines.iter().filter(|line| at(line).date() <= last).collect();
    let groups: BTreeSet<(&String, &String)> =
        lines.iter().map(|line| (&line["buyer_durable_key"], &line["order_no"])).collect();
    let mut rows = Vec::new();
    for (buyer, order) in groups {
        let own: Vec<&Row> = lines
            .iter()
            .filter(|line| line["buyer_durable_key"] == *buyer && line["order_no"] == *order)
            .copied()
            .collect();
        let mut of = first;
        while of <= until {
            let so_far: Vec<&Row> = own.iter().filter(|line| at(line).date() <= of).copied().collect();
            let today: Vec<&Row> = own.iter().filter(|line| at(line).date() == of).copied().collect();
            let end = format!("{of}T23:59:59.999999");
            let version = customers.iter().find(|version| {
                version["customer_durable_key"] == *buyer && version["valid_from"] <= end && end < version["valid_to"]
            });
            if !so_far.is_empty() {
                rows.push(row([
                    ("buyer_durable_key", buyer.clone()),
                    ("buyer_key", version.map_or(UNKNOWN.to_owned(), |version| version["customer_key"].clone())),
                    ("order_no", order.clone()),
                    ("period_from", of.to_string()),
                    ("period_to", of.to_string()),
                    ("quantity", summed(&so_far, "quantity").unwrap_or(0).to_string()),
                    ("sold", summed(&today, "quantity").unwrap_or(0).to_string()),
                    ("lines", today.len().to_string()),
                ]));
            }
            of = of + Days::new(1);
        }
    }
    rows
}

/// How far periods go: to the newest row, whatever it is about, between the first day and the last.
fn until(rows: &[Row], first: NaiveDate, last: NaiveDate) -> Option<NaiveDate> {
    rows.iter().map(|row| at(row).date()).max().map(|newest| newest.max(first).min(last))
}

fn by_month(lines: &[Row]) -> Vec<Row> {
    let months = ["2023-11-01", "2023-12-01", "2024-01-01", "2024-02-01", "2024-03-01"].map(day);
    let first = day("2023-11-20");
    let belongs = |line: &&Row| number(line, "quantity") < Some(25) && at(line).date() <= day("2024-02-29");
    let Some(until) = until(lines, first, day("2024-02-29")) else { return Vec::new() };
    let lines: Vec<&Row> = lines.iter().filter(belongs).collect();
    let orders: BTreeSet<&String> = lines.iter().map(|line| &line["order_no"]).collect();
    let mut rows = Vec::new();
    for order in orders {
        for month in months.windows(2).filter(|month| month[0] <= until) {
            let so_far: Vec<&Row> = lines
                .iter()
                .filter(|line| line["order_no"] == *order && at(line).date().max(first) < month[1])
                .copied()
                .collect();
            if !so_far.is_empty() {
                rows.push(row([
                    ("order_no", order.clone()),
                    ("period_from", month[0].to_string()),
                    ("period_to", month[1].pred_opt().expect("a day before").to_string()),
                    ("amount", hundredths(summed(&so_far, "amount").unwrap_or(0))),
                ]));
            }
        }
    }
    rows
}

fn by_quarter(movements: &[Row]) -> Vec<Row> {
    let quarters = ["2023-10-01", "2024-01-01", "2024-04-01"].map(day);
    let mut rows = said_last(movements, |_| true, "what", &quarters, &[("price", "price"), ("last_order", "order_no")]);
    for row in &mut rows {
        let is_own = |movement: &&Row| {
            let on = at(movement).date().to_string();
            movement["what"] == row["what"] && row["period_from"] <= on && on <= row["period_to"]
        };
        let own: Vec<&Row> = movements.iter().filter(is_own).collect();
        row.insert("moved".to_owned(), (-summed(&own, "quantity").unwrap_or(0)).to_string());
    }
    rows
}

fn by_week(lines: &[Row]) -> Vec<Row> {
    let weeks = ["2023-12-25", "2024-01-01", "2024-01-08"].map(day);
    let belongs = |line: &Row| number(line, "quantity") != Some(2);
    let mut rows = said_last(lines, belongs, "line", &weeks, &[("last_amount", "amount")]);
    for row in &mut rows {
        let negated = number(row, "last_amount").map(|amount| hundredths(-amount));
        row.insert("last_amount".to_owned(), negated.unwrap_or_else(|| NULL.to_owned()));
    }
    rows
}

/// Of every buyer and number of a line, by watches of seven hours.
fn by_watch(lines: &[Row], customers: &[Row]) -> Vec<Row> {
    let time = |text: &str| NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M").expect("a time");
    let (first, last) = (time("2024-01-02T05:00"), time("2024-01-04T10:00"));
    let watches = (0..).map(|number| first + TimeDelta::hours(7 * number)).take_while(|begin| *begin <= last);
    let watches: Vec<(NaiveDateTime, NaiveDateTime)> =
        watches.map(|begin| (begin, begin + TimeDelta::hours(7))).collect();
    let end = watches.last().expect("watches").1;
    let Some(newest) = lines.iter().map(at).max() else { return Vec::new() };
    let of = |line: &Row| (line["buyer_durable_key"].clone(), line["line"].clone());
    let lines: Vec<&Row> = ordered(lines.iter().filter(|line| number(line, "quantity") != Some(3) && at(line) < end));
    let mut rows = Vec::new();
    for group in lines.iter().map(|line| of(line)).collect::<BTreeSet<_>>() {
        for &(begin, over) in watches.iter().filter(|(begin, _)| *begin <= newest.max(first)) {
            let so_far: Vec<&Row> = lines.iter().filter(|line| of(line) == group && at(line) < over).copied().collect();
            if so_far.is_empty() {
                continue;
            }
            let said = so_far.iter().rfind(|line| line["order_no"] != NULL);
            let sold: Vec<&Row> = so_far.iter().filter(|line| at(line) >= begin).copied().collect();
            let shown_at = |time: NaiveDateTime| moment(time.and_utc().timestamp_micros());
            let last = shown_at(over - TimeDelta::microseconds(1));
            let version = customers.iter().find(|version| {
                version["customer_durable_key"] == group.0
                    && version["valid_from"] <= last
                    && last < version["valid_to"]
            });
            rows.push(row([
                ("buyer_durable_key", group.0.clone()),
                ("buyer_key", version.map_or(UNKNOWN.to_owned(), |version| version["customer_key"].clone())),
                ("line", group.1.clone()),
                ("period_from", shown_at(begin)),
                ("period_to", shown_at(over)),
                ("quantity", summed(&so_far, "quantity").unwrap_or(0).to_string()),
                ("sold", hundredths(summed(&sold, "amount").unwrap_or(0))),
                ("last_order", said.map_or(NULL.to_owned(), |line| line["order_no"].clone())),
            ]));
        }
    }
    rows
}

fn by_term(movements: &[Row]) -> Vec<Row> {
    said_last(
        movements,
        |_| true,
        "order_no",
        &["2023-11-20", "2024-01-20", "2024-03-20"].map(day),
        &[("price", "price")],
    )
}

/// For each value of `by`, what columns were last, at the end of each period. The last one of `begins` is where there are no more.
fn said_last(
    rows: &[Row],
    belongs: impl Fn(&Row) -> bool,
    by: &str,
    begins: &[NaiveDate],
    columns: &[(&str, &str)],
) -> Vec<Row> {
    let end = *begins.last().expect("periods");
    let Some(until) = until(rows, begins[0], end.pred_opt().expect("a day before")) else { return Vec::new() };
    let rows: Vec<&Row> = ordered(rows.iter().filter(|row| belongs(row) && at(row).date() < end));
    let groups: BTreeSet<&String> = rows.iter().map(|row| &row[by]).collect();
    let mut answer = Vec::new();
    for group in groups {
        for period in begins.windows(2).filter(|period| period[0] <= until) {
            let so_far: Vec<&&Row> =
                rows.iter().filter(|row| row[by] == *group && at(row).date() < period[1]).collect();
            if so_far.is_empty() {
                continue;
            }
            let last_day = period[1].pred_opt().expect("a day before");
            let mut cells =
                row([(by, group.clone()), ("period_from", period[0].to_string()), ("period_to", last_day.to_string())]);
            for (own, of) in columns {
                let last = so_far.iter().rfind(|row| row[*of] != NULL);
                cells.insert((*own).to_owned(), last.map_or(NULL.to_owned(), |row| row[*of].clone()));
            }
            answer.push(cells);
        }
    }
    answer
}

/// In the order of time.
fn ordered<'a>(rows: impl Iterator<Item = &'a Row>) -> Vec<&'a Row> {
    let mut rows: Vec<&Row> = rows.collect();
    let place = |row: &Row| {
        let text = |column: &str| row.get(column).cloned();
        let number = |column: &str| row.get(column).map(|number| number.parse::<i64>().expect("a number"));
        (
            text("event_stream"),
            text("audit_source"),
            text("audit_topic"),
            number("audit_partition"),
            number("audit_position"),
        )
    };
    rows.sort_by_key(|row| (at(row), place(row), row["event_id"].clone(), number(row, "ordinal")));
    rows
}

fn progress(orders: &[Row], lines: &[Row], priced: &[Row]) -> Vec<Row> {
    let numbers: BTreeSet<&String> = orders.iter().chain(lines).map(|row| &row["order_no"]).collect();
    let mut rows = Vec::new();
    for number_of in numbers {
        let of = |rows| -> Vec<&Row> {
            ordered(std::iter::Iterator::filter(rows, |row: &&Row| row["order_no"] == *number_of))
        };
        let (placed, priced) = (of(orders.iter()), of(priced.iter()));
        let mut filled = of(lines.iter());
        filled.retain(|line| number(line, "quantity") > Some(3));
        if placed.is_empty() && filled.is_empty() && priced.is_empty() {
            continue;
        }
        let mut cells = Row::new();
        let mut put = |column: &str, value: String| _ = cells.insert(column.to_owned(), value);
        put("number", number_of.clone());
        let mut furthest = NULL;
        let all = [("placed", &placed), ("filled", &filled), ("priced", &priced)];
        for (index, (name, rows)) in all.iter().enumerate() {
            let time = |row: Option<&&Row>| row.map_or(NULL.to_owned(), |row| row["occurred_at"].clone());
            put(&format!("{name}_at"), time(rows.first()));
            put(&format!("{name}_last_at"), time(rows.last()));
            put(&format!("{name}_count"), rows.len().to_string());
            if index < 2 {
                let is_later = all[index + 1..].iter().any(|(_, later)| !later.is_empty());
                put(&format!("{name}_skipped"), (rows.is_empty() && is_later).to_string());
            }
            furthest = if rows.is_empty() { furthest } else { name };
        }
        put("milestone", furthest.to_owned());
        for (role, of, rows) in
            [("customer", "customer", &placed), ("buyer", "buyer", &filled), ("payer", "payer", &filled)]
        {
            for suffix in ["key", "durable_key"] {
                let key = rows.first().map_or(UNKNOWN.to_owned(), |row| row[&format!("{of}_{suffix}")].clone());
                put(&format!("{role}_{suffix}"), key);
            }
        }
        put("quantity", shown(summed(&filled, "quantity")));
        let lag = placed.first().zip(filled.first()).map(|(placed, filled)| {
            let micros = |row: &Row| at(row).and_utc().timestamp_micros();
            (micros(filled) - micros(placed)) / 1_000_000
        });
        put("to_fill", shown(lag));
        rows.push(cells);
    }
    rows
}

/// Entries and reversals of statements about what `by` names; `voids` says which only take back.
fn ledger(statements: &[Row], by: &[&str], measures: &[&str], voids: impl Fn(&Row) -> bool) -> Vec<Row> {
    const OF_EVENT: [&str; 10] = [
        "occurred_at",
        "event_id",
        "ordinal",
        "event_stream",
        "audit_source",
        "audit_topic",
        "audit_partition",
        "audit_position",
        "audit_event_version",
        "audit_ingested_at",
    ];
    let about = |row: &Row| -> Vec<String> { by.iter().map(|column| row[*column].clone()).collect() };
    let things: BTreeSet<Vec<String>> = statements.iter().map(about).collect();
    let mut rows = Vec::new();
    for thing in things {
        let is_nothing = thing.iter().any(|part| part == NULL);
        let mut before: Option<&Row> = None;
        for statement in ordered(statements.iter().filter(|row| about(row) == thing)) {
            if let Some(before) = before.filter(|_| !is_nothing) {
                let mut reversal = before.clone();
                for column in OF_EVENT.into_iter().filter(|column| statement.contains_key(*column)) {
                    reversal.insert(column.to_owned(), statement[column].clone());
                }
                for measure in measures.iter().filter(|measure| before[**measure] != NULL) {
                    let value = &before[*measure];
                    let negated = value.strip_prefix('-').map_or_else(|| format!("-{value}"), str::to_owned);
                    reversal.insert((*measure).to_owned(), negated);
                }
                reversal.insert("entry".to_owned(), "reversal".to_owned());
                rows.push(reversal);
            }
            before = None;
            if !voids(statement) {
                let mut entry = statement.clone();
                entry.insert("entry".to_owned(), "entry".to_owned());
                rows.push(entry);
                before = Some(statement);
            }
        }
    }
    rows
}

fn allocated(lines: &[Row], orders: &[Row]) -> Vec<Row> {
    let numbers: BTreeSet<&String> = lines.iter().chain(orders).map(|row| &row["order_no"]).collect();
    let mut rows = Vec::new();
    for of in numbers {
        let mut own: Vec<&Row> = lines.iter().filter(|line| line["order_no"] == *of).collect();
        own.sort_by_key(|line| (line["event_id"].clone(), number(line, "line")));
        let headers: Vec<&Row> = orders.iter().filter(|order| order["order_no"] == *of).collect();
        let total = summed(&own, "quantity").unwrap_or(0);
        let mut through = 0;
        let first = rows.len();
        for line in &own {
            let before = through;
            through += number(line, "quantity").unwrap_or(0);
            let mut cells = (*line).clone();
            for (share, amount, shown) in SHARES {
                let amount = summed(&headers, amount).unwrap_or(0);
                // Halves go away from nothing.
                let upto = |weight: i64| amount.signum() * ((2 * amount.abs() * weight + total) / (2 * total));
                let of_line = (!headers.is_empty()).then(|| shown(upto(through) - upto(before)));
                cells.insert(share.to_owned(), of_line.unwrap_or_else(|| NULL.to_owned()));
            }
            rows.push(cells);
        }
        if own.is_empty() {
            let mut cells: Row = Row::new();
            for column in COLUMNS_OF_LINES {
                let value =
                    if column.ends_with("durable_key") || column.ends_with("_key") && !column.ends_with("date_key") {
                        UNKNOWN
                    } else if column.ends_with("date_key") {
                        "0"
                    } else {
                        NULL
                    };
                cells.insert(column.to_owned(), value.to_owned());
            }
            cells.insert("order_no".to_owned(), of.clone());
            for (share, amount, shown) in SHARES {
                cells.insert(share.to_owned(), shown(summed(&headers, amount).unwrap_or(0)));
            }
            rows.push(cells);
        }
        let parts: Vec<&Row> = rows[first..].iter().filter(|_| !headers.is_empty()).collect();
        for (share, amount, _) in SHARES {
            assert_eq!(summed(&parts, share), summed(&headers, amount), "shares add up to what is shared");
        }
    }
    rows
}

/// What is shared: the column of the share, the measure of headers, and how its values are written.
type Share = (&'static str, &'static str, fn(i64) -> String);
const SHARES: [Share; 2] =
    [("share_of_orders", "orders", |number| number.to_string()), ("share_of_fees", "fee", hundredths)];

const COLUMNS_OF_LINES: [&str; 16] = [
    "buyer_key",
    "buyer_durable_key",
    "payer_key",
    "payer_durable_key",
    "product_key",
    "product_durable_key",
    "order_date_key",
    "due_date_key",
    "order_no",
    "line",
    "quantity",
    "amount",
    "share",
    "occurred_at",
    "event_id",
    "ordinal",
];

/// Weights are compared by what they add up to: their order is that of keys. A member has the key of its last row.
fn bridge(lines: &[Row]) -> Vec<Row> {
    let mut groups: BTreeMap<(&String, &String), Vec<&Row>> = BTreeMap::new();
    for line in ordered(lines.iter()) {
        groups.entry((&line["order_no"], &line["buyer_durable_key"])).or_default().push(line);
    }
    let mut totals: BTreeMap<&String, i64> = BTreeMap::new();
    for ((order, _), lines) in &groups {
        *totals.entry(order).or_default() += summed(lines, "quantity").unwrap_or(0);
    }
    let rows = groups.into_iter().map(|((order, durable), lines)| {
        let weight = summed(&lines, "quantity").unwrap_or(0);
        row([
            ("order_no", order.clone()),
            ("buyer_key", lines.last().expect("a group has a line")["buyer_key"].clone()),
            ("buyer_durable_key", durable.clone()),
            ("weight", format!("{:.6}", weight as f64 / totals[order] as f64)),
        ])
    });
    rows.collect()
}

/// The weights of a bridge, which add up to 1 for each group, as near as its answer knows them.
pub(crate) fn rounded(tables: &mut Tables) {
    let Some(rows) = tables.get_mut("sales.order_buyers") else { return };
    let mut sums: BTreeMap<String, i64> = BTreeMap::new();
    for row in rows.iter_mut() {
        let weight = number(row, "weight").expect("a weight");
        *sums.entry(row["order_no"].clone()).or_default() += weight;
        row.insert("weight".to_owned(), format!("{:.6}", weight as f64 / 1e12));
    }
    assert!(sums.values().all(|sum| *sum == 1_000_000_000_000), "weights that do not add up to 1: {sums:?}");
}

fn shrunken_tier(customers: &[Row]) -> Vec<Row> {
    let there = customers.iter().filter(|customer| customer["tier"] != NULL || customer["customer_key"] == UNKNOWN);
    let tiers: BTreeSet<(String, &String)> = there.map(|customer| (tier_key(customer), &customer["tier"])).collect();
    tiers.into_iter().map(|(key, tier)| row([("tier_key", key), ("tier", tier.clone())])).collect()
}

/// Nobody has the key of nobody, whatever is said of them, and so has who is of no tier.
fn tier_key(customer: &Row) -> String {
    let is_nobody = customer["customer_key"] == UNKNOWN || customer["tier"] == NULL;
    if is_nobody { UNKNOWN.to_owned() } else { customer["tier"].clone() }
}

fn tiers_by_day(lines: &[Row], customers: &[Row]) -> Vec<Row> {
    let mut groups: BTreeMap<(String, String), Vec<&Row>> = BTreeMap::new();
    for line in lines {
        let buyer = customers.iter().find(|customer| customer["customer_key"] == line["buyer_key"]);
        let tier = tier_key(buyer.expect("a line has its buyer"));
        groups.entry((tier, line["order_date_key"].clone())).or_default().push(line);
    }
    let rows = groups.into_iter().map(|((tier, key), lines)| {
        let day = key
            .parse()
            .ok()
            .and_then(|key: i32| NaiveDate::from_ymd_opt(key / 10_000, (key / 100 % 100) as u32, (key % 100) as u32));
        row([
            ("tier_key", tier),
            ("month_key", day.map_or(UNKNOWN.to_owned(), |day| format!("{}-{:02}", day.year(), day.month()))),
            ("day", day.map_or(NULL.to_owned(), |day| day.to_string())),
            ("quantity", shown(summed(&lines, "quantity"))),
        ])
    });
    rows.collect()
}
