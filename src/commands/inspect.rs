//! `starmere streams`, `status`: what there is.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use arrow::array::{Array, ArrayRef, BooleanArray, Int64Array, ListBuilder, RecordBatch, StringArray, StringBuilder};
use arrow::datatypes::{DataType, Field, Schema};
use starmere_lake::Kind;
use starmere_lake::catalog::CatalogSnapshot;
use starmere_lake::delta::Snapshot;
use starmere_lake::paths::TablePath;
use starmere_lake::troubles;

use crate::command_line::{Format, Status};
use crate::health::{self, PartitionHealth, STALLED_AFTER, StreamHealth};
use crate::output::{Output, bytes, count, counted};
use crate::project::Opened;
use crate::publish;
use crate::reports;

/// A value of a listing: people see it in words, programs as it is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Cell {
    Text(String),
    Texts(Vec<String>),
    Number(u64),
    Bytes(u64),
    Flag(bool),
    Nothing,
}

impl Cell {
    fn words(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Texts(texts) => texts.join(", "),
            Self::Number(number) => count(*number),
            Self::Bytes(number) => bytes(*number),
            Self::Flag(true) => "yes".to_owned(),
            Self::Flag(false) => "no".to_owned(),
            Self::Nothing => "-".to_owned(),
        }
    }

    fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    fn texts(&self) -> &[String] {
        match self {
            Self::Texts(texts) => texts,
            _ => &[],
        }
    }

    fn number(&self) -> Option<i64> {
        match self {
            Self::Number(number) | Self::Bytes(number) => i64::try_from(*number).ok(),
            _ => None,
        }
    }

    fn flag(&self) -> Option<bool> {
        match self {
            Self::Flag(flag) => Some(*flag),
            _ => None,
        }
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

/// What the cells of a column hold.
#[derive(Clone, Copy, Debug)]
pub(super) enum Holds {
    Text,
    Texts,
    Number,
    Flag,
}

/// Prints rows: in words as a table, as values in every other format.
pub(super) fn listing(output: &Output, columns: &[(&str, Holds)], rows: &[Vec<Cell>]) -> anyhow::Result<()> {
    if output.format() == Format::Table {
        let names: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
        return output.rows(&names, rows.iter().map(|row| row.iter().map(Cell::words).collect()).collect());
    }
    let batch = values(columns, rows)?;
    output.data(&batch.schema(), &[batch])
}

fn values(columns: &[(&str, Holds)], rows: &[Vec<Cell>]) -> anyhow::Result<RecordBatch> {
    let (mut fields, mut arrays) = (Vec::new(), Vec::<ArrayRef>::new());
    for (index, (name, holds)) in columns.iter().enumerate() {
        let cells = rows.iter().map(|row| &row[index]);
        let (data_type, array): (DataType, ArrayRef) = match holds {
            Holds::Text => (DataType::Utf8, Arc::new(cells.map(Cell::text).collect::<StringArray>())),
            Holds::Texts => {
                let mut lists = ListBuilder::new(StringBuilder::new());
                cells.for_each(|cell| lists.append_value(cell.texts().iter().map(Some)));
                let lists = lists.finish();
                (lists.data_type().clone(), Arc::new(lists))
            }
            Holds::Number => (DataType::Int64, Arc::new(cells.map(Cell::number).collect::<Int64Array>())),
            Holds::Flag => (DataType::Boolean, Arc::new(cells.map(Cell::flag).collect::<BooleanArray>())),
        };
        fields.push(Field::new(key(name), data_type, true));
        arrays.push(array);
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).context("could not print the listing")
}

/// A column's name as programs write it: `last commit (UTC)` is `last_commit_utc`.
fn key(name: &str) -> String {
    let parts = |character: char| !character.is_alphanumeric() && character != '.';
    let words = name.split(parts).filter(|word| !word.is_empty());
    words.map(str::to_lowercase).collect::<Vec<_>>().join("_")
}

pub(super) async fn streams(opened: &Opened, output: &Output) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for parsed in &opened.project.streams {
        let file = &parsed.definition;
        let table = opened.warehouse.table(TablePath::stream(&file.domain, &file.stream));
        let snapshot = table.snapshot().await?;
        let fed_by = opened.project.file.sources.iter().filter(|(_, source)| source.stream == *file.stream);
        let fed_by = fed_by.map(|(name, _)| name.as_str()).chain(["http"]).collect::<Vec<_>>().join(", ");
        let landed = snapshot.as_ref().and_then(|snapshot| snapshot.rows()).unwrap_or_default();
        rows.push(vec![
            Cell::Text(file.stream.to_string()),
            Cell::Text(file.domain.to_string()),
            Cell::Number(file.events.len() as u64),
            Cell::Text(fed_by),
            Cell::Number(landed),
            snapshot.map_or(Cell::Nothing, |snapshot| Cell::Number(snapshot.version())),
            Cell::Text(file.description.clone().unwrap_or_default()),
        ]);
    }
    let columns = [
        ("stream", Holds::Text),
        ("domain", Holds::Text),
        ("event types", Holds::Number),
        ("sources", Holds::Text),
        ("landed", Holds::Number),
        ("version", Holds::Number),
        ("description", Holds::Text),
    ];
    listing(output, &columns, &rows)
}

pub(super) async fn status(opened: &Opened, arguments: &Status, output: &Output) -> anyhow::Result<()> {
    let newest = opened.catalog.newest().await?;
    let published = match newest.published_at {
        0 => "nothing was published yet".to_owned(),
        at => format!("published at {} UTC", moment(at).words()),
    };
    output.say(format!("catalog snapshot {}, {published}", newest.number));
    for line in reports::lines(&opened.warehouse).await?.into_iter().chain(refusal(opened).await) {
        output.say(line);
    }
    definitions(opened, &newest, output).await?;
    if !arguments.sources {
        tables(opened, &newest, output).await?;
    }
    if arguments.sources || output.format() == Format::Table {
        sources(opened, output).await?;
    }
    Ok(())
}

/// A store that takes longer for a small object takes none.
const STORE_WAITS: Duration = Duration::from_secs(10);

/// Why the store takes nothing, by trying: a process whose landings it refuses cannot write its report either.
async fn refusal(opened: &Opened) -> Option<String> {
    let cause = match tokio::time::timeout(STORE_WAITS, opened.warehouse.store().time()).await {
        Ok(Ok(_)) => return None,
        // Who may only read sees the rest.
        Ok(Err(error)) if error.kind() == Kind::Invalid => return None,
        Ok(Err(error)) => troubles::causes(&error),
        Err(_) => format!("no answer within {} s", STORE_WAITS.as_secs()),
    };
    Some(format!("trouble: the warehouse takes no writes, so nothing lands and nothing is published: {cause}"))
}

/// What there is to say of the files here and those that are published by.
async fn definitions(opened: &Opened, newest: &CatalogSnapshot, output: &Output) -> anyhow::Result<()> {
    let project = &opened.project;
    if let Some(problems) = &project.unread {
        output.say(format!(
            "models and products are wrong, so nothing is built by these files; events are landed: {problems}"
        ));
    } else if let Some(published) =
        newest.definitions.as_ref().filter(|published| published.fingerprint != project.fingerprint)
    {
        output.say(format!(
            "definitions number {} are published, and the files here are others: `starmere build` publishes these; an `up` \
             that runs with others than the published ones does not build",
            published.number
        ));
    }
    if let Some(words) = publish::lost_catalog(opened).await? {
        output.say(words);
    }
    Ok(())
}

async fn tables(opened: &Opened, newest: &CatalogSnapshot, output: &Output) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    let mut row = |name: &str, snapshot: &Snapshot, published: Option<u64>, rejects: Option<u64>| {
        let size: i64 = snapshot.files().map(|add| add.size).sum();
        rows.push(vec![
            Cell::Text(name.to_owned()),
            Cell::Number(snapshot.version()),
            published.map_or(Cell::Nothing, Cell::Number),
            Cell::Number(snapshot.rows().unwrap_or_default()),
            rejects.map_or(Cell::Nothing, Cell::Number),
            Cell::Number(snapshot.files().len() as u64),
            Cell::Bytes(size as u64),
            moment(snapshot.timestamp()),
        ]);
    };
    for StreamHealth { name, snapshot, rejects, cut } in health::streams(opened).await? {
        let parsed = opened.project.streams.iter().find(|parsed| *parsed.definition.stream == name);
        let Some(parsed) = parsed else { continue };
        let named = format!("lake.{}.{}", *parsed.definition.domain, name);
        row(&named, &snapshot, newest.tables.get(&named).map(|pin| pin.version), rejects);
        if let Some(day) = cut {
            output.say(format!("{named}: what landed before {day} is forgotten"));
        }
    }
    let mut waiting = Vec::new();
    for (name, pin) in newest.tables.iter().filter(|(name, _)| !name.starts_with("lake.")) {
        let Some(snapshot) = opened.warehouse.table(pin.path.clone()).snapshot().await? else { continue };
        if pin.version < snapshot.version() {
            waiting.push(name.clone());
        }
        row(name, &snapshot, Some(pin.version), None);
    }
    if !waiting.is_empty() {
        output.say(format!(
            "built but not published: {}; `starmere build` publishes them, or says why not",
            waiting.join(", ")
        ));
    }
    let columns = [
        ("table", Holds::Text),
        ("version", Holds::Number),
        ("published", Holds::Number),
        ("rows", Holds::Number),
        ("rejects", Holds::Number),
        ("files", Holds::Number),
        ("size", Holds::Number),
        ("last commit (UTC)", Holds::Text),
    ];
    listing(output, &columns, &rows)
}

/// So many refused files of a source are named.
const MOST_REFUSED: usize = 20;

async fn sources(opened: &Opened, output: &Output) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for partition in health::partitions(opened).await? {
        if let Some(stop) = &partition.stopped {
            output.say(super::ingest::stopped(stop));
        } else if let Some(words) = standing(&partition, chrono::Utc::now().timestamp_millis()) {
            output.say(words);
        }
        for refused in partition.refused.iter().take(MOST_REFUSED) {
            output.say(format!("refused {}: {}", refused.path, refused.reason));
        }
        if let Some(more) = partition.refused.len().checked_sub(MOST_REFUSED).filter(|&more| more > 0) {
            output.say(format!("and {} more of `{}`", counted(more as u64, "file", "files"), partition.source));
        }
        let (topic, number) = partition.topic.clone().unzip();
        let inputs = topic.is_none().then_some(partition.inputs);
        let lag = partition.lag();
        rows.push(vec![
            Cell::Text(partition.stream),
            Cell::Text(partition.source),
            topic.map_or(Cell::Nothing, Cell::Text),
            number.map_or(Cell::Nothing, |number| Cell::Number(u64::from(number.unsigned_abs()))),
            inputs.map_or(Cell::Nothing, Cell::Number),
            partition.position.map_or(Cell::Nothing, |position| Cell::Number(position.unsigned_abs())),
            lag.map_or(Cell::Nothing, Cell::Number),
            partition.events_per_second.map_or(Cell::Nothing, |rate| Cell::Number(rate.round() as u64)),
            partition.last_landed.map_or(Cell::Nothing, moment),
            Cell::Flag(partition.stopped.is_some()),
            inputs.map_or(Cell::Nothing, |_| Cell::Number(partition.refused.len() as u64)),
        ]);
    }
    if rows.is_empty() && output.format() == Format::Table {
        return Ok(());
    }
    let columns = [
        ("stream", Holds::Text),
        ("source", Holds::Text),
        ("topic", Holds::Text),
        ("partition", Holds::Number),
        ("files", Holds::Number),
        ("position", Holds::Number),
        ("lag", Holds::Number),
        ("events/s", Holds::Number),
        ("last landed (UTC)", Holds::Text),
        ("stopped", Holds::Flag),
        ("refused", Holds::Number),
    ];
    listing(output, &columns, &rows)
}

/// A partition that has lag, and of which nothing has landed for a while.
fn standing(partition: &PartitionHealth, now: i64) -> Option<String> {
    let lag = partition.lag().filter(|&lag| lag > 0)?;
    let last = partition.last_landed.filter(|&last| now - last >= STALLED_AFTER.as_millis() as i64)?;
    let (topic, number) = partition.topic.as_ref()?;
    let (source, last, lag) = (&partition.source, moment(last).words(), counted(lag, "record", "records"));
    Some(format!("stalled: {source}/{topic}/{number} has {lag} to land, and nothing has landed since {last} UTC"))
}

fn moment(millis: i64) -> Cell {
    let at = chrono::DateTime::from_timestamp_millis(millis).filter(|_| millis > 0);
    at.map_or(Cell::Nothing, |at| Cell::Text(at.format("%Y-%m-%d %H:%M:%S").to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_that_lands_nothing_is_told() {
        let now = 1_700_000_000_000;
        let mut partition = PartitionHealth {
            source: "s".into(),
            topic: Some(("t".into(), 3)),
            position: Some(10),
            end: Some(15),
            last_landed: Some(now - 61_000),
            ..PartitionHealth::default()
        };
        let told = "stalled: s/t/3 has 5 records to land, and nothing has landed since 2023-11-14 22:12:19 UTC";
        assert_eq!(standing(&partition, now).as_deref(), Some(told));
        partition.last_landed = Some(now - 59_000);
        assert_eq!(standing(&partition, now), None);
        (partition.last_landed, partition.end) = (Some(0), Some(10));
        assert_eq!(standing(&partition, now), None);
    }

    #[test]
    fn programs_get_values_and_people_words() {
        let columns =
            [("events to read", Holds::Number), ("last commit (UTC)", Holds::Text), ("nullable", Holds::Flag)];
        let row = vec![Cell::Number(1_234), Cell::Nothing, Cell::Flag(true)];
        assert_eq!(row.iter().map(Cell::words).collect::<Vec<_>>(), ["1,234", "-", "yes"]);
        let batch = values(&columns, &[row]).unwrap();
        let mut out = Vec::new();
        arrow::csv::Writer::new(&mut out).write(&batch).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "events_to_read,last_commit_utc,nullable\n1234,,true\n");
        assert_eq!(values(&columns, &[]).unwrap().num_rows(), 0);
    }
}
