//! What can go wrong while models are built.

use std::borrow::Cow;

use starmere_lake::Kind;

/// Result of this room.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of a build.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The lake refused or failed.
    #[error(transparent)]
    Lake(#[from] starmere_lake::Error),
    /// An expression of a definition could not be compiled or evaluated.
    #[error("`{expression}` of `{object}` could not be evaluated: {reason}")]
    Expression { object: String, expression: String, reason: String },
    /// Arrow refused data of ours.
    #[error("could not compute `{object}`")]
    Columns {
        object: String,
        #[source]
        source: arrow::error::ArrowError,
    },
    /// Two members have the same key.
    #[error("two members of `{dimension}` have the key {key}: {first} and {second}")]
    Collision { dimension: String, key: i64, first: String, second: String },
    /// The rows do not keep what a contract promises.
    #[error("`{port}` breaks its contract: {reason}")]
    Contract { port: String, reason: String },
    /// A query could not be answered.
    #[error("the query of `{model}` fails: {reason}")]
    Query { model: String, reason: String },
    /// A query takes more memory than there is.
    #[error("the query of `{model}` takes too much memory: {reason}")]
    Memory { model: String, reason: String },
    /// Two rows have one grain.
    #[error("two rows of `{model}` have one grain: {grain}")]
    Grain { model: String, grain: String },
    /// A stream no longer has its first events, and somebody wants to read them.
    #[error(
        "the stream `{stream}` has forgotten what landed before {day}, and a model is to be built from its beginning"
    )]
    CutOff { stream: String, day: chrono::NaiveDate },
    /// A task of ours died.
    #[error("a task of the build died: {0}")]
    Task(String),
}

impl Error {
    /// Who can do something about it.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Lake(error) => error.kind(),
            Self::Expression { .. }
            | Self::Contract { .. }
            | Self::CutOff { .. }
            | Self::Query { .. }
            | Self::Memory { .. }
            | Self::Grain { .. } => Kind::Invalid,
            Self::Collision { .. } => Kind::Corrupt,
            Self::Columns { .. } | Self::Task(_) => Kind::Internal,
        }
    }

    /// What to do, where that is known.
    pub fn hint(&self) -> Option<Cow<'static, str>> {
        match self {
            Self::Lake(error) => error.hint(),
            Self::Contract { .. } => {
                Some("mend the events or the model, or publish a new major version of the product".into())
            }
            Self::Query { .. } => {
                Some("mend its SQL, or what it reads; `CASE WHEN` leaves out what cannot be computed".into())
            }
            Self::Memory { .. } => {
                Some("raise `build_memory_mib` in starmere.yaml, aggregate earlier, or join with less".into())
            }
            Self::Grain { .. } => Some("name in `grain` what tells rows apart, or aggregate by it".into()),
            Self::Collision { .. } => Some("rename the dimension: its keys are derived from its name".into()),
            Self::CutOff { stream, .. } => {
                Some(format!("`starmere build --accept-loss {stream}` builds it from what is left").into())
            }
            _ => None,
        }
    }

    /// Names the object an Arrow error is about; made for `map_err`.
    pub fn columns(object: impl Into<String>) -> impl FnOnce(arrow::error::ArrowError) -> Self {
        let object = object.into();
        move |source| Self::Columns { object, source }
    }
}
