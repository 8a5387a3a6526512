//! `starmere plan`: what a build would do, and why.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use serde_json::Value;
use starmere_lake::catalog::{CatalogSnapshot, Pin};
use starmere_lake::delta::Snapshot;
use starmere_lake::paths::TablePath;
use starmere_models::build::{DEFINITION, consumed};
use starmere_models::dimension::CHANGES;
use starmere_models::fact::ROWS;
use starmere_models::reread::Rereads;
use starmere_models::resolve::{Model, RULES};

use super::inspect::{Cell, Holds, listing};
use crate::changes::{Verdict, edits as changed};
use crate::command_line::Format;
use crate::output::{Output, counted};
use crate::part::Part;
use crate::project::Opened;
use crate::publish::goes_back;
use crate::verdicts::{is_made_by, verdicts};

/// Edits of a definition that are shown; the rest are counted.
const EDITS: usize = 8;

/// What a build would do with one thing.
#[derive(Default)]
struct Step {
    kind: &'static str,
    name: String,
    action: &'static str,
    events: u64,
    rows: u64,
    why: String,
    /// How the definition differs from the one that the table was made by.
    edits: Vec<String>,
    made_of: Vec<String>,
    /// Of them, the models.
    inputs: Vec<String>,
    ports: Vec<String>,
    /// Of a port: how its change is judged.
    verdict: Option<Verdict>,
    moves: Moves,
}

impl Step {
    /// What it does, in a character.
    fn sign(&self) -> char {
        match self.action {
            "create" => '+',
            "unpublish" => '-',
            "keep" => '=',
            _ => '~',
        }
    }
}

/// Lists what a build would do: to people as a tree, to programs as rows.
pub(super) async fn plan(opened: &Opened, output: &Output) -> anyhow::Result<()> {
    let newest = opened.catalog.newest().await?;
    if let Some(words) = goes_back(opened, &newest) {
        output.say(words);
    }
    let steps = steps(opened, &newest).await?;
    if output.format() == Format::Table {
        return output.text(&tree(&steps));
    }
    let columns = [
        ("kind", Holds::Text),
        ("model", Holds::Text),
        ("action", Holds::Text),
        ("events to read", Holds::Number),
        ("rows to read", Holds::Number),
        ("why", Holds::Text),
        ("edits", Holds::Texts),
        ("made of", Holds::Texts),
        ("ports", Holds::Texts),
        ("verdict", Holds::Text),
    ];
    let rows = steps.into_iter().map(|step| {
        vec![
            step.kind.to_owned().into(),
            step.name.into(),
            step.action.to_owned().into(),
            Cell::Number(step.events),
            Cell::Number(step.rows),
            step.why.into(),
            Cell::Texts(step.edits),
            Cell::Texts(step.made_of),
            Cell::Texts(step.ports),
            step.verdict.map_or(Cell::Nothing, |verdict| verdict.word().to_owned().into()),
        ]
    });
    listing(output, &columns, &rows.collect::<Vec<_>>())
}

async fn steps(opened: &Opened, newest: &CatalogSnapshot) -> anyhow::Result<Vec<Step>> {
    let mut steps: Vec<Step> = Vec::new();
    let mut moved: BTreeMap<String, Moves> = BTreeMap::new();
    let rereads = Rereads::of(&opened.warehouse, &opened.project.models).await?;
    // What a model is made of comes before it: whether that moves is known then.
    let mut waiting: Vec<&Model> = opened.project.models.models.iter().collect();
    while !waiting.is_empty() {
        let names: Vec<String> = waiting.iter().map(|model| model.name().to_string()).collect();
        let is_ready = |model: &&Model| !model.inputs().iter().any(|input| names.contains(&input.to_string()));
        let model = waiting.remove(waiting.iter().position(is_ready).unwrap_or_default());
        let step = step(opened, newest, model, &moved, &rereads).await?;
        moved.insert(step.name.clone(), step.moves);
        steps.push(step);
    }
    for (name, _) in newest.tables.iter().filter(|(name, _)| !name.starts_with("lake.") && !name.contains('/')) {
        if !opened.project.models.models.iter().any(|model| model.name().to_string() == *name) {
            let (action, why) = ("unpublish", "it is no longer defined".to_owned());
            steps.push(Step { kind: "model", name: name.clone(), action, why, ..Step::default() });
        }
    }
    for change in verdicts(opened, newest, &Part::default()).await? {
        let (why, verdict) = (change.words(), Some(change.verdict));
        steps.push(Step { kind: "port", name: change.port, action: change.action, why, verdict, ..Step::default() });
    }
    Ok(steps)
}

/// What becomes of a model that others are made of.
#[derive(Clone, Copy, Default)]
struct Moves {
    /// It has another table, or other rows in it.
    is_other: bool,
    /// Some of its rows are yet to be made.
    is_unfinished: bool,
}

async fn step(
    opened: &Opened,
    newest: &CatalogSnapshot,
    model: &Model,
    moved: &BTreeMap<String, Moves>,
    rereads: &Rereads,
) -> anyhow::Result<Step> {
    let name = model.name().to_string();
    let published = newest.tables.get(&name);
    let is_made = published.is_some_and(|published| is_made_by(published, model));
    let reread = if is_made { rereads.since(newest, &opened.project.models, model) } else { Vec::new() };
    let same = is_made && reread.is_empty();
    let built = if same { None } else { built(opened, model, rereads).await? };
    let mut waiting = Vec::new();
    let mut events = 0;
    for stream in model.streams() {
        let Some(stream) = opened.project.models.streams.get(stream) else { continue };
        let table = opened.warehouse.table(TablePath::stream(&stream.domain, &stream.name));
        let Some(snapshot) = table.snapshot().await? else { continue };
        let input = format!("lake.{}.{}", stream.domain, stream.name);
        let read = match &built {
            Some(built) => consumed(built, &input),
            None => same.then(|| newest.tables.get(&input)).flatten().map(|pin| pin.version),
        };
        let all = snapshot.rows().unwrap_or_default();
        let new = match read {
            Some(version) if version >= snapshot.version() => continue,
            Some(version) => all - table.snapshot_at(version).await?.rows().unwrap_or_default().min(all),
            None => all,
        };
        events += new;
        waiting.push(format!("{} of {}", counted(new, "event", "events"), stream.name));
    }
    let inputs: Vec<String> = model.inputs().into_iter().map(ToString::to_string).collect();
    let is_unfinished = |input: &&String| moved.get(*input).is_some_and(|moves| moves.is_unfinished);
    waiting.extend(inputs.iter().filter(is_unfinished).map(|input| format!("changes of {input}")));
    let mut rows = 0;
    if !same && built.is_none() {
        for pin in inputs.iter().filter_map(|input| newest.tables.get(input)) {
            let table = opened.warehouse.table(pin.path.clone());
            rows += table.snapshot_at(pin.version).await?.rows().unwrap_or_default();
        }
    }
    let (differs, edits) = match published {
        None => ("it was never published".to_owned(), Vec::new()),
        Some(_) if same => (String::new(), Vec::new()),
        Some(_) if is_made => (format!("{} was reread", reread.join(" and ")), Vec::new()),
        Some(published) => {
            let is_other = |input: &String| moved.get(input).is_some_and(|moves| moves.is_other);
            differs(opened, model, published, inputs.iter().any(is_other)).await?
        }
    };
    let (action, why) = match (published.is_some(), same, waiting.is_empty()) {
        (_, false, _) if built.is_some() => ("publish", format!("{differs}, and its table is built already")),
        (false, ..) => ("create", differs),
        (true, false, _) => ("rebuild", differs),
        (true, true, false) => ("update", waiting.join(", ")),
        (true, true, true) => ("keep", "nothing is new".to_owned()),
    };
    let is_finished = built.is_some() && waiting.is_empty();
    let moves = Moves { is_other: action != "keep", is_unfinished: action != "keep" && !is_finished };
    let made_of = model.streams().into_iter().map(str::to_owned).chain(inputs.iter().cloned()).collect();
    let ports = opened.project.meaning.ports.iter().filter(|port| port.table == name);
    let ports = ports.map(|port| port.full_name()).collect();
    let kind = model.kind();
    Ok(Step { kind, name, action, events, rows, why, edits, made_of, inputs, ports, verdict: None, moves })
}

/// The table of a model that is not published here, and is there: an environment has built it, or a build that published
/// nothing. It says what of the streams it has; of a dimension, its change log does.
async fn built(opened: &Opened, model: &Model, rereads: &Rereads) -> anyhow::Result<Option<Arc<Snapshot>>> {
    match (filled(opened, model, rereads, ROWS).await?, model) {
        (Some(_), Model::Dimension(_)) => filled(opened, model, rereads, CHANGES).await,
        (rows, _) => Ok(rows),
    }
}

/// A part of a model by its definition as it is now, if it is there and has been committed to.
async fn filled(
    opened: &Opened,
    model: &Model,
    rereads: &Rereads,
    part: &str,
) -> anyhow::Result<Option<Arc<Snapshot>>> {
    let name = model.name();
    let fingerprint = rereads.fingerprint(&opened.project.models, model);
    let path = TablePath::model(&name.domain, &name.name, &fingerprint, part);
    let snapshot = opened.warehouse.table(path).snapshot().await?;
    Ok(snapshot.filter(|snapshot| snapshot.version() > 0))
}

/// Why a model is not the published one, and how its definition differs. `is_other`: what it is made of is not the same.
async fn differs(
    opened: &Opened,
    model: &Model,
    published: &Pin,
    is_other: bool,
) -> anyhow::Result<(String, Vec<String>)> {
    let table = opened.warehouse.table(published.path.clone());
    let snapshot = table.snapshot_at(published.version).await?;
    let made_by = snapshot.setting(DEFINITION).and_then(|text| serde_json::from_str::<Value>(text).ok());
    let Some(made_by) = made_by else {
        return Ok(("its definition, or one it depends on, has changed".to_owned(), Vec::new()));
    };
    let is_made_otherwise = made_by[RULES] != model.made_by()[RULES];
    let mut edits = changed(&made_by, &model.made_by());
    edits.retain(|edit| !edit[2..].starts_with(&format!("{RULES}:")));
    let is_own = |edit: &String| !edit[2..].starts_with("inputs:");
    let why = match (edits.iter().any(is_own), is_other || !edits.is_empty()) {
        _ if is_made_otherwise => "this version of Starmere makes it in another way".to_owned(),
        (true, _) => "its definition has changed".to_owned(),
        (false, true) => "what it is made of has changed".to_owned(),
        (false, false) => mentions_changed(model),
    };
    Ok((why, edits))
}

/// What has changed where neither a model's definition nor its inputs have.
fn mentions_changed(model: &Model) -> String {
    let by = match model {
        Model::Dimension(dimension) => dimension.inferred_from.iter().map(ToString::to_string).collect(),
        _ => Vec::new(),
    };
    match by.as_slice() {
        [] => "what it depends on has changed".to_owned(),
        by => format!("{}, which mentions its members, or the format of its events has changed", by.join(" or ")),
    }
}

/// The steps as people read them: each model below the last of those it is made of.
fn tree(steps: &[Step]) -> String {
    let mut text = String::new();
    let models: Vec<&Step> = steps.iter().filter(|step| step.kind != "port").collect();
    // The last input is built last.
    let above = |step: &Step| models.iter().rposition(|other| step.inputs.contains(&other.name));
    let mut below: BTreeMap<Option<usize>, Vec<usize>> = BTreeMap::new();
    for (place, step) in models.iter().enumerate() {
        below.entry(above(step)).or_default().push(place);
    }
    let width = models.iter().map(|step| step.kind.len() + step.name.len()).max().unwrap_or_default() + 12;
    let mut stack: Vec<(usize, String, &str)> = Vec::new();
    let push = |stack: &mut Vec<_>, of: Option<usize>, indent: &str| {
        let children = below.get(&of).map(Vec::as_slice).unwrap_or_default();
        for (number, &place) in children.iter().enumerate().rev() {
            let branch = match (of, number + 1 == children.len()) {
                (None, _) => "",
                (_, true) => "└─ ",
                (_, false) => "├─ ",
            };
            stack.push((place, indent.to_owned(), branch));
        }
    };
    push(&mut stack, None, "");
    while let Some((place, indent, branch)) = stack.pop() {
        let step = models[place];
        let head = format!("{indent}{branch}{} {} {}", step.sign(), step.kind, step.name);
        let padding = width.saturating_sub(head.chars().count()).max(2);
        let reads = [(step.events, "event", "events"), (step.rows, "row", "rows")];
        let reads: Vec<String> =
            reads.iter().filter(|(number, ..)| *number > 0).map(|&(n, one, many)| counted(n, one, many)).collect();
        let reads = if reads.is_empty() || step.action == "update" {
            String::new()
        } else {
            format!("; reads {}", reads.join(", "))
        };
        _ = writeln!(text, "{head}{:padding$}{}: {}{reads}", "", step.action, step.why);
        let continued = match branch {
            "" => indent.clone(),
            "├─ " => format!("{indent}│  "),
            _ => format!("{indent}   "),
        };
        let bar = if below.contains_key(&Some(place)) { "│" } else { " " };
        for edit in step.edits.iter().take(EDITS) {
            _ = writeln!(text, "{continued}{bar}      {edit}");
        }
        if step.edits.len() > EDITS {
            _ = writeln!(text, "{continued}{bar}      and {} more", step.edits.len() - EDITS);
        }
        if matches!(step.action, "rebuild" | "publish") && !step.ports.is_empty() {
            _ = writeln!(text, "{continued}{bar}      read as {}", step.ports.join(", "));
        }
        push(&mut stack, Some(place), &continued);
    }
    for step in steps.iter().filter(|step| step.kind == "port") {
        _ = writeln!(text, "{} port {}: {}", step.sign(), step.name, step.why);
    }
    let count = |action: &str| models.iter().filter(|step| step.action == action).count();
    let actions = ["create", "rebuild", "publish", "update", "unpublish", "keep"];
    let counts = actions.iter().map(|action| (count(action), action)).filter(|(count, _)| *count > 0);
    let counts: Vec<String> = counts.map(|(count, action)| format!("{count} to {action}")).collect();
    _ = writeln!(text, "{}", if counts.is_empty() { "nothing is defined".to_owned() } else { counts.join(", ") });
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(kind: &'static str, name: &str, action: &'static str, inputs: &[&str]) -> Step {
        let inputs = inputs.iter().map(|input| (*input).to_owned()).collect();
        Step { kind, name: name.to_owned(), action, why: "why".to_owned(), inputs, ..Step::default() }
    }

    #[test]
    fn models_stand_below_what_they_are_made_of() {
        let mut customer = step("dimension", "d.customer", "rebuild", &[]);
        customer.edits = vec!["~ attributes.city.history: overwrite → version".to_owned()];
        customer.ports = vec!["d.p_v1.customer".to_owned(), "d.p_v2.customer".to_owned()];
        customer.events = 12;
        let steps = [
            step("calendar", "d.date", "keep", &[]),
            customer,
            step("fact", "d.orders", "rebuild", &["d.customer"]),
            step("rollup", "d.by_city", "create", &["d.customer", "d.date", "d.orders"]),
            step("fact", "d.visits", "update", &["d.customer"]),
            step("model", "d.old", "unpublish", &[]),
            step("port", "d.p_v1.orders", "change", &[]),
        ];
        let expected = "\
= calendar d.date              keep: why
~ dimension d.customer         rebuild: why; reads 12 events
│      ~ attributes.city.history: overwrite → version
│      read as d.p_v1.customer, d.p_v2.customer
├─ ~ fact d.orders             rebuild: why
│  └─ + rollup d.by_city       create: why
└─ ~ fact d.visits             update: why
- model d.old                  unpublish: why
~ port d.p_v1.orders: why
1 to create, 2 to rebuild, 1 to update, 1 to unpublish, 1 to keep
";
        assert_eq!(tree(&steps), expected);
    }
}
