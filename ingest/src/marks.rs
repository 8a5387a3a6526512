//! What a stream's commits say of each partition.

use serde_json::Value;
use starmere_lake::delta::Snapshot;
use starmere_lake::landing::{SourcePartition, Stream};

use crate::Result;

/// The newest mark of each partition of `source`, by `snapshot`; the partition that began first comes first.
pub(crate) async fn marks(stream: &Stream, snapshot: &Snapshot, source: &str) -> Result<Vec<(SourcePartition, Value)>> {
    Ok(stream.marks(snapshot, source).await?)
}
