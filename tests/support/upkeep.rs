//! Compaction and clean-up, as eager as can be.

use starmere_lake::Result;
use starmere_lake::delta::Warehouse;
use starmere_lake::events::{file_options, file_schema};
use starmere_lake::upkeep::{Cleaned, Compacted, Keep, Sizes, clean_up, compact};

use super::tables;

/// Puts all small files of a stream together, where there are two.
pub(crate) async fn compact_all(warehouse: &Warehouse, stream: &str) -> Result<Compacted> {
    let sizes = Sizes { fewest: 2, ..Sizes::default() };
    compact(&tables::stream(warehouse, stream), file_schema(), &file_options(), &sizes).await
}

/// Deletes what nobody needs after so many days.
pub(crate) async fn clean_up_after(warehouse: &Warehouse, days: i64) -> Result<Cleaned> {
    let now = chrono::Utc::now().timestamp_millis() + days * 24 * 60 * 60 * 1000;
    clean_up(warehouse, &Keep::at(now, 1), false).await
}
