//! The format number of a warehouse: which binaries may write it, and which may read it.
//!
//! `_starmere/format.json` is created with put-if-absent by the first process that writes. A later binary that stores
//! something which this one would misread, or drop when it writes, raises the number first. A binary refuses what is
//! beyond the number that it knows. A warehouse without the object was made before there was one: it has format 1, and
//! gets the object from the next process that writes.
//!
//! What raises it, of a catalog snapshot: a key below the top level that must not be lost. A binary carries on the keys
//! that it does not know at the top of a snapshot and of its meaning, and drops those below. To keep them there as well
//! would be wrong: pins, ports and columns are made anew from the files, and a key that is kept from the snapshot
//! before would speak of another pin or port. A test of `starmere-marts` (`meaning.rs`) lists all keys, and fails where
//! one is added.
//!
//! Commands ask once, when they begin; builds ask each time. A process that writes looks every few seconds
//! ([`keep_looking`]): a newer binary may have raised the number meanwhile. What a look finds is noted with the opened
//! store, and whoever is about to write asks that ([`as_noted`]), which takes no request:
//!
//! ```text
//! keep_looking ─► may_write ─► noted: refused ─► streams are not opened to land, no commit, no snapshot, no clean-up
//!                         └──► noted: known   ─► writing goes on
//! ```
//!
//! A look that fails leaves what is noted as it was.

use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::store::Store;
use crate::troubles::{self, About};
use crate::{Error, Kind, Result, paths};

/// The newest format that this binary knows, and the one that it writes.
pub const FORMAT: u64 = 1;

/// A process that goes on looks at the number this often.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// The object of troubles about the format.
const WAREHOUSE: &str = "warehouse";

/// What the object says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stored {
    /// Who writes must know this format.
    format: u64,
    /// Who reads must know this one; where it is left out, the same.
    #[serde(default)]
    reader: Option<u64>,
    /// The version of the binary that set the numbers.
    #[serde(default)]
    written_by: String,
}

/// The numbers that the last look found, where this binary must not write the warehouse any more. Of one opened store.
#[derive(Debug, Default)]
pub(crate) struct Noted(RwLock<Option<Stored>>);

/// Refuses a warehouse that this binary must not write, and gives one without a format number its own. Notes what it
/// finds.
///
/// # Errors
///
/// [`Error::Format`] where the number is beyond [`FORMAT`]; errors of the store.
pub async fn may_write(store: &Store) -> Result<()> {
    let found = read_or_made(store).await?;
    let refused = refused(&found, true);
    let noted = refused.is_some().then_some(found);
    *store.noted().0.write().unwrap_or_else(PoisonError::into_inner) = noted;
    refused.map_or(Ok(()), Err)
}

/// The same as the last look of [`may_write`] found it: takes no request.
///
/// # Errors
///
/// [`Error::Format`].
pub fn as_noted(store: &Store) -> Result<()> {
    let noted = store.noted().0.read().unwrap_or_else(PoisonError::into_inner);
    noted.as_ref().and_then(|found| refused(found, true)).map_or(Ok(()), Err)
}

/// Looks at the number every few seconds, as long as it is not dropped, and tells the trouble where it is beyond ours.
pub async fn keep_looking(store: &Store) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        match may_write(store).await {
            Ok(()) => troubles::well(About::Format, WAREHOUSE),
            // A store that does not answer is told by whoever needs it.
            Err(error) if error.kind() == Kind::Unavailable => {
                tracing::debug!(%error, "the format number could not be read");
            }
            Err(error) => {
                let hint = error.hint().map(|hint| format!("; hint: {hint}")).unwrap_or_default();
                troubles::failed(About::Format, WAREHOUSE, &format!("{}{hint}", troubles::causes(&error)));
            }
        }
    }
}

/// The numbers of a warehouse; one without them gets ours.
async fn read_or_made(store: &Store) -> Result<Stored> {
    let path = paths::format_number();
    let bytes = match store.read(&path).await? {
        Some(bytes) => bytes,
        None => {
            let ours =
                Stored { format: FORMAT, reader: Some(FORMAT), written_by: env!("CARGO_PKG_VERSION").to_owned() };
            let bytes = serde_json::to_vec(&ours)
                .map_err(|error| Error::Invalid { what: "the format number".into(), reason: error.to_string() })?;
            if store.create(&path, bytes.into()).await? {
                tell_if_new(store).await;
                return Ok(ours);
            }
            let created = store.read(&path).await?;
            created.ok_or_else(|| Error::Missing { object: path.to_string() })?
        }
    };
    stored(&bytes)
}

/// Warns that a warehouse begins here: a volume that is not mounted leaves an empty folder in its place, and its
/// operator would get an empty warehouse. One that has tables was made before there were numbers.
async fn tell_if_new(store: &Store) {
    if store.ends_with_the_process() {
        return;
    }
    for folder in paths::table_folders() {
        // A store that does not answer is told by whoever needs it.
        if !matches!(store.is_empty_below(&folder).await, Ok(true)) {
            return;
        }
    }
    tracing::warn!(
        "there was no warehouse at `{}`; a new one is made. If data should be there, stop and check that its volume is \
         mounted",
        store.location()
    );
}

/// Refuses a warehouse that this binary cannot read.
///
/// # Errors
///
/// [`Error::Format`] where the number for readers is beyond [`FORMAT`]; errors of the store.
pub async fn may_read(store: &Store) -> Result<()> {
    match store.read(&paths::format_number()).await? {
        Some(bytes) => refused(&stored(&bytes)?, false).map_or(Ok(()), Err),
        None => Ok(()),
    }
}

fn stored(bytes: &[u8]) -> Result<Stored> {
    serde_json::from_slice(bytes)
        .map_err(|error| Error::Corrupt { path: paths::format_number().to_string(), reason: error.to_string() })
}

/// Why this binary keeps off a warehouse. Pure.
fn refused(stored: &Stored, writes: bool) -> Option<Error> {
    let reader = stored.reader.unwrap_or(stored.format);
    let (action, found) = match writes {
        true if reader <= FORMAT => ("write", stored.format),
        _ => ("read", reader),
    };
    let written_by = match stored.written_by.as_str() {
        "" => "the binary that wrote it".to_owned(),
        version => format!("Starmere {version}"),
    };
    (found > FORMAT).then(|| Error::Format { action, found, known: FORMAT, written_by })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn with(text: &str) -> Store {
        let store = Store::memory();
        store.write(&paths::format_number(), text.to_owned().into()).await.unwrap();
        store
    }

    #[tokio::test]
    async fn a_warehouse_without_a_number_gets_ours_from_the_first_that_writes() {
        let store = Store::memory();
        may_read(&store).await.unwrap();
        assert!(store.read(&paths::format_number()).await.unwrap().is_none(), "who reads writes nothing");
        may_write(&store).await.unwrap();
        let bytes = store.read(&paths::format_number()).await.unwrap().unwrap();
        assert_eq!(stored(&bytes).unwrap().format, FORMAT);
        may_write(&store).await.unwrap();
        may_read(&store).await.unwrap();
    }

    #[tokio::test]
    async fn a_newer_format_is_refused_with_both_numbers_and_the_way_out() {
        let store = with(r#"{"format":7,"reader":1,"written_by":"2.3.0","more":{}}"#).await;
        may_read(&store).await.unwrap();
        let error = may_write(&store).await.unwrap_err();
        let words = "the warehouse has format 7, and this binary knows formats up to 1: it does not write it";
        assert_eq!(error.to_string(), words);
        assert!(error.hint().unwrap().contains("Starmere 2.3.0"), "{error:?}");
        for text in [r#"{"format":7,"reader":2,"written_by":"2.3.0"}"#, r#"{"format":2}"#] {
            let store = with(text).await;
            for error in [may_read(&store).await.unwrap_err(), may_write(&store).await.unwrap_err()] {
                assert!(error.to_string().ends_with("it does not read it"), "{error}");
            }
        }
    }

    #[tokio::test]
    async fn a_number_that_is_raised_while_a_process_runs_stops_its_writing_until_it_is_put_back() {
        let warehouse = crate::delta::Warehouse::new(Store::memory());
        let store = warehouse.store();
        let table = warehouse.table(paths::TablePath::stream("d", "s"));
        let stream = crate::landing::Stream::new("s", table.clone());
        let catalog = crate::catalog::Catalog::new(&warehouse);
        may_write(store).await.unwrap();
        let opened = stream.open().await.unwrap();
        store.write(&paths::format_number(), r#"{"format":7,"reader":1}"#.into()).await.unwrap();
        stream.land(&[], Vec::new()).await.unwrap();
        assert!(as_noted(store).is_ok(), "nobody has looked yet");
        let words = may_write(store).await.unwrap_err().to_string();
        let publish = catalog.publish_next(|_| Ok(Some(crate::catalog::Next::default())));
        let refused = [
            as_noted(store).unwrap_err(),
            stream.open().await.unwrap_err(),
            stream.land(&[], Vec::new()).await.unwrap_err(),
            table.commit(&opened, crate::delta::Commit::default()).await.unwrap_err(),
            publish.await.unwrap_err(),
        ];
        assert!(refused.iter().all(|error| error.to_string() == words), "{refused:?}");
        // What only reads goes on.
        assert_eq!(stream.newest().await.unwrap().unwrap().version(), 1);
        // A look that fails tells nothing new.
        store.write(&paths::format_number(), "{".into()).await.unwrap();
        assert_eq!(may_write(store).await.unwrap_err().kind(), Kind::Corrupt);
        assert!(as_noted(store).is_err());
        store.write(&paths::format_number(), r#"{"format":1}"#.into()).await.unwrap();
        may_write(store).await.unwrap();
        stream.land(&[], Vec::new()).await.unwrap();
    }

    #[tokio::test]
    async fn a_damaged_number_is_told() {
        let error = may_read(&with("{\"form").await).await.unwrap_err();
        assert!(error.to_string().contains("_starmere/format.json"), "{error}");
        let hint = error.hint().unwrap();
        assert!(hint.contains("delete") && !hint.contains("verify"), "{hint}");
    }
}
