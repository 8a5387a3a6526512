//! Files that were not landed, kept beside the table: whoever asks later is told too.

use serde::{Deserialize, Serialize};
use starmere_lake::landing::Stream;

use crate::{Error, Result};

/// So many files of a source are named.
const MOST: usize = 1000;

/// A file that was not landed, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    pub path: String,
    pub reason: String,
}

/// The files of `source` that its last run did not land, of those that were named.
pub async fn refused(stream: &Stream, source: &str) -> Result<Vec<Refused>> {
    let path = stream.table().path().refused(source);
    let Some(bytes) = stream.table().store().read(&path).await? else { return Ok(Vec::new()) };
    let corrupt =
        |error: serde_json::Error| starmere_lake::Error::Corrupt { path: path.to_string(), reason: error.to_string() };
    Ok(serde_json::from_slice(&bytes).map_err(corrupt)?)
}

/// Writes down what the last run of `source` did not land.
pub async fn record_refused(stream: &Stream, source: &str, refused: &[Refused]) -> Result<()> {
    let refused = &refused[..refused.len().min(MOST)];
    // What is there and cannot be read is written anew.
    if self::refused(stream, source).await.is_ok_and(|recorded| recorded == refused) {
        return Ok(());
    }
    let bytes = serde_json::to_vec(refused).map_err(|error| Error::Task(error.to_string()))?;
    stream.table().store().write(&stream.table().path().refused(source), bytes.into()).await?;
    Ok(())
}
