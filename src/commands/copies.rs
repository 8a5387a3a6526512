//! `starmere streams copies`: events that landed more than once and do not say the same.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use datafusion::common::TableReference;
use starmere_lake::events;
use starmere_lake::provider::PinnedTable;
use starmere_sql::wire;

use super::rejects::readable;
use crate::command_line::{Copies, Format};
use crate::output::{Output, counted};
use crate::project::Opened;

/// So much of a payload is shown to people; programs get all of it.
const SHOWN: usize = 80;
/// What an event says, beside when it happened and what its headers are.
const CONTENT: [&str; 5] = [
    "payload",
    "coalesce(arrow_cast(key, 'Binary'), arrow_cast('', 'Binary'))",
    "coalesce(event_type, '')",
    "coalesce(event_version, 0)",
    "coalesce(op, '')",
];

pub(super) async fn run(opened: &Opened, arguments: &Copies, output: &Output) -> anyhow::Result<()> {
    let mut streams = Vec::new();
    match &arguments.stream {
        Some(name) => streams.push(opened.stream(name)?.0),
        None => {
            for parsed in &opened.project.streams {
                streams.push(opened.stream(&parsed.definition.stream)?.0);
            }
        }
    }
    let session = opened.engine.session();
    let mut selects = Vec::new();
    for (number, stream) in streams.iter().enumerate() {
        let snapshot = stream.table().open_or_create(events::table_schema(), &[events::INGEST_DATE]).await?;
        let name = format!("stream_{number}");
        let table = PinnedTable::new(opened.warehouse.store(), snapshot);
        session.register_table(TableReference::bare(name.clone()), Arc::new(table))?;
        // The least copy in the order of events counts.
        let twice = format!(
            "SELECT * FROM {name} WHERE rejection IS NULL AND event_id IN (\
             SELECT event_id FROM {name} WHERE rejection IS NULL GROUP BY event_id HAVING count(*) > 1)"
        );
        let differ = CONTENT.map(|part| format!("min({part}) <> max({part})")).join(" OR ");
        selects.push(format!(
            "SELECT '{}' AS stream, event_id, row_number() OVER (PARTITION BY event_id ORDER BY occurred_at, source, topic, \
             partition, position) = 1 AS counts, occurred_at, source, topic, partition, position, event_type, event_version, \
             arrow_cast(payload, 'Binary') AS payload FROM ({twice}) WHERE event_id IN (\
             SELECT event_id FROM ({twice}) GROUP BY event_id HAVING {differ})",
            stream.name().replace('\'', "''")
        ));
    }
    if selects.is_empty() {
        output.say("the project has no streams");
        return Ok(());
    }
    let query = format!(
        "SELECT * FROM ({}) ORDER BY stream, event_id, counts DESC, occurred_at, source, topic, partition, position LIMIT {}",
        selects.join(" UNION ALL "),
        arguments.limit
    );
    let batches = session.sql(&query).await?.collect().await?;
    let count: usize = batches.iter().map(RecordBatch::num_rows).sum();
    if count == 0 {
        output.say("all copies of an event say the same");
    } else if count == arguments.limit as usize {
        output.say(format!("the first {}; see --limit", counted(count as u64, "copy", "copies")));
    }
    let most = if output.format() == Format::Table { SHOWN } else { usize::MAX };
    let batches = batches.iter().map(|batch| readable(batch, most)).collect::<anyhow::Result<Vec<_>>>()?;
    let schema = batches.first().map_or_else(|| Arc::new(Schema::empty()), RecordBatch::schema);
    let schema = wire::wire_schema(&schema);
    let batches = batches.iter().map(|batch| wire::wire_batch(batch, &schema)).collect::<Result<Vec<_>, _>>()?;
    output.data(&schema, &batches)
}
