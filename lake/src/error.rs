//! What can go wrong in the lake, sorted by what the reader of the message can do about it.

use std::borrow::Cow;

/// Result of this room.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a caller does about an error. One table in `starmere-sql` and one in the binary turn these
/// into protocol codes and exit statuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The input is wrong: mend it.
    Invalid,
    /// Somebody else was first: read again, then decide.
    Conflict,
    /// The store cannot be reached now: wait.
    Unavailable,
    /// What is stored contradicts itself: stop and look.
    Corrupt,
    /// A mistake of ours.
    Internal,
}

/// An error of the lake. The message names the object; the cause is in `source`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A warehouse location nobody can open.
    #[error("could not open the warehouse `{location}`: {reason}")]
    Warehouse { location: String, reason: String },
    /// The object store refused or failed.
    #[error("could not {action} `{path}`")]
    Store {
        action: &'static str,
        path: String,
        #[source]
        source: object_store::Error,
    },
    /// A store on which the protocols do not hold.
    #[error("the store of the warehouse `{location}` does not keep a promise: {broken}")]
    Promise { location: String, broken: String },
    /// A commit lost the race for its version.
    #[error("version {version} of `{table}` was committed by somebody else")]
    Conflict { table: String, version: u64 },
    /// Something that must be there is not.
    #[error("`{object}` does not exist")]
    Missing { object: String },
    /// Stored bytes that do not fit their format.
    #[error("`{path}` is damaged: {reason}")]
    Corrupt { path: String, reason: String },
    /// The newest catalog snapshot cannot be read, or is gone.
    #[error("catalog snapshot {number} is damaged: `{path}`: {reason}")]
    DamagedSnapshot {
        number: u64,
        path: String,
        reason: String,
        /// Of the newest: the snapshot before it that can be read; 0 where there is none, as before the first publish.
        before: Option<u64>,
    },
    /// The warehouse was written by a newer binary, in a format that this one does not know.
    #[error("the warehouse has format {found}, and this binary knows formats up to {known}: it does not {action} it")]
    Format { action: &'static str, found: u64, known: u64, written_by: String },
    /// A value that has no place in the format.
    #[error("{what} is not valid: {reason}")]
    Invalid { what: String, reason: String },
    /// Arrow or Parquet failed on data of ours.
    #[error("could not encode or decode `{object}`")]
    Columns {
        object: String,
        #[source]
        source: arrow::error::ArrowError,
    },
}

/// How to get a model's table back whose object at `path` is damaged or gone.
fn refill(path: &str) -> Cow<'static, str> {
    let model = crate::paths::model_of(path).map(|model| format!(" {model}")).unwrap_or_default();
    let fill = format!("fill the model again with `starmere build --full{model}`, or restore the object from a copy");
    format!("{fill}; `starmere verify` lists what else is damaged").into()
}

impl Error {
    /// Who can do something about it.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Warehouse { .. }
            | Self::Promise { .. }
            | Self::Missing { .. }
            | Self::Invalid { .. }
            | Self::Format { .. } => Kind::Invalid,
            Self::Conflict { .. } => Kind::Conflict,
            Self::Corrupt { .. } | Self::DamagedSnapshot { .. } => Kind::Corrupt,
            Self::Columns { .. } => Kind::Internal,
            Self::Store { source, .. } => match source {
                object_store::Error::PermissionDenied { .. }
                | object_store::Error::Unauthenticated { .. }
                | object_store::Error::NotFound { .. }
                | object_store::Error::InvalidPath { .. } => Kind::Invalid,
                object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. } => Kind::Conflict,
                _ => Kind::Unavailable,
            },
        }
    }

    /// Whether the store, its disk or its rights are to blame: then the error says nothing of what is stored.
    pub fn is_of_the_store(&self) -> bool {
        matches!(self, Self::Store { source, .. } if !matches!(source, object_store::Error::NotFound { .. }))
    }

    /// What to do, where that is known.
    pub fn hint(&self) -> Option<Cow<'static, str>> {
        match self {
            Self::Store { source: object_store::Error::PermissionDenied { .. }, path, .. } => {
                Some(format!("allow reading and writing below `{path}`").into())
            }
            Self::Warehouse { .. } => {
                Some("a warehouse is a folder, `file:///path`, `memory://`, `s3://bucket/prefix`, `gs://bucket/prefix` or `az://container/prefix`".into())
            }
            Self::Promise { .. } => Some(
                "nothing was written; use a folder on a local disk, S3, Google Cloud Storage or Azure, or a release of your store \
                 that keeps conditional writes (`If-None-Match: *`)"
                    .into(),
            ),
            // No command goes on without it, `verify` included.
            Self::Corrupt { path, .. } if *path == crate::paths::format_number().to_string() => Some(
                "restore the object from a copy; or, where no newer version of Starmere has written the warehouse, \
                 delete it: the next command that writes makes it again"
                    .into(),
            ),
            // What is made of the lake can be made again.
            Self::Corrupt { path, .. } if path.starts_with("models/") => Some(refill(path)),
            // A version of a table: its path comes last.
            Self::Missing { object } if object.contains(" models/") => {
                Some(refill(object.rsplit(' ').next().unwrap_or(object)))
            }
            Self::Corrupt { .. } => {
                Some("restore the object from a copy; `starmere verify` lists what else is damaged".into())
            }
            Self::DamagedSnapshot { before: Some(before), .. } => Some(
                format!(
                    "restore the object from a copy; or publish what was published before it, \
                     `starmere build --back-to {before}`, and then `starmere build`"
                )
                .into(),
            ),
            Self::DamagedSnapshot { before: None, .. } => Some("restore the object from a copy".into()),
            Self::Format { written_by, .. } => {
                Some(format!("use {written_by}, or a newer one; or restore a copy from before the upgrade").into())
            }
            _ => None,
        }
    }

    /// Names the object an Arrow error is about; made for `map_err`.
    pub fn columns(object: impl Into<String>) -> impl FnOnce(arrow::error::ArrowError) -> Self {
        let object = object.into();
        move |source| Self::Columns { object, source }
    }

    /// Names the object a Parquet error is about; made for `map_err`.
    pub fn parquet(path: impl Into<String>) -> impl FnOnce(parquet::errors::ParquetError) -> Self {
        let path = path.into();
        move |error| match error {
            // A reader of ours has named it.
            parquet::errors::ParquetError::External(error) if error.is::<Self>() => match error.downcast::<Self>() {
                Ok(ours) => *ours,
                Err(error) => Self::Corrupt { path, reason: error.to_string() },
            },
            parquet::errors::ParquetError::External(error) if error.is::<object_store::Error>() => {
                match error.downcast::<object_store::Error>() {
                    Ok(source) => Self::Store { action: "read", path, source: *source },
                    Err(error) => Self::Corrupt { path, reason: error.to_string() },
                }
            }
            error => Self::Corrupt { path, reason: error.to_string() },
        }
    }
}
