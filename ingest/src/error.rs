//! What can go wrong while events are brought in.

use std::borrow::Cow;

use starmere_lake::Kind;

/// Result of this room.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of ingestion.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read.
    #[error("could not read `{path}`")]
    Read {
        path: String,
        #[source]
        source: std::io::Error,
    },
    /// A file is not what its stream has.
    #[error("{reason}")]
    Content { path: String, reason: String },
    /// A pattern of a file source is none.
    #[error("`{pattern}` is not a pattern of files: {reason}")]
    Pattern { pattern: String, reason: String },
    /// A broker refused, failed, or is not there.
    #[error("kafka source `{source_name}`: {message}")]
    Kafka { source_name: String, message: String, kind: Kind },
    /// A schema registry refused, failed, or is not there.
    #[error("schema registry `{url}`: {message}")]
    Registry { url: String, message: String, kind: Kind },
    /// The lake refused or failed.
    #[error(transparent)]
    Lake(#[from] starmere_lake::Error),
    /// Rows that have landed are not to be read anew like that, or not put back.
    #[error("{reason}")]
    Refused { reason: String, hint: String },
    /// Others have committed to a stream for as long as somebody waited.
    #[error("others have committed to `{stream}` again and again for {minutes} minutes; nothing is changed")]
    Overtaken { stream: String, minutes: u64 },
    /// What does not fit into memory could not be kept on the disk.
    #[error("could not sort ids of events in the folder for temporary files")]
    Sort(#[source] std::io::Error),
    /// A task of ours died.
    #[error("a task of ingestion died: {0}")]
    Task(String),
}

impl Error {
    pub(crate) fn read(path: &std::path::Path, source: std::io::Error) -> Self {
        Self::Read { path: path.display().to_string(), source }
    }

    pub(crate) fn kafka(source_name: &str, error: rdkafka::error::KafkaError) -> Self {
        use rdkafka::error::{KafkaError, RDKafkaErrorCode};
        let is_invalid = matches!(error, KafkaError::ClientConfig(..) | KafkaError::ClientCreation(_))
            || matches!(
                error.rdkafka_error_code(),
                Some(
                    RDKafkaErrorCode::InvalidArgument
                        | RDKafkaErrorCode::UnknownTopicOrPartition
                        | RDKafkaErrorCode::UnknownTopic
                        | RDKafkaErrorCode::TopicAuthorizationFailed
                        | RDKafkaErrorCode::GroupAuthorizationFailed
                        | RDKafkaErrorCode::SaslAuthenticationFailed
                )
            );
        let kind = if is_invalid { Kind::Invalid } else { Kind::Unavailable };
        let message = match &error {
            // Without the value: it may be a secret.
            KafkaError::ClientConfig(_, reason, name, _) => format!("the setting `{name}`: {reason}"),
            other => other.to_string(),
        };
        Self::of_kafka(source_name, message, kind)
    }

    /// What is wrong with a source of Kafka's, in our words.
    pub(crate) fn of_kafka(source_name: &str, message: impl Into<String>, kind: Kind) -> Self {
        Self::Kafka { source_name: source_name.to_owned(), message: message.into(), kind }
    }

    /// Who can do something about it.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Read { .. } | Self::Content { .. } | Self::Pattern { .. } | Self::Refused { .. } => Kind::Invalid,
            Self::Overtaken { .. } => Kind::Conflict,
            Self::Sort(_) => Kind::Unavailable,
            Self::Kafka { kind, .. } | Self::Registry { kind, .. } => *kind,
            Self::Lake(error) => error.kind(),
            Self::Task(_) => Kind::Internal,
        }
    }

    /// What to do, where that is known.
    pub fn hint(&self) -> Option<Cow<'static, str>> {
        match self {
            Self::Read { path, .. } => Some(format!("check that `{path}` exists and may be read").into()),
            Self::Content { path, .. } => Some(format!("mend `{path}`, or land it into another stream").into()),
            Self::Pattern { .. } => Some("name a file, a folder, or a pattern such as `events/*.jsonl`".into()),
            Self::Kafka { .. } => Some("check `brokers`, `topics` and `settings` of the source".into()),
            Self::Registry { .. } => Some("check `registry` of the source".into()),
            Self::Refused { hint, .. } => Some(hint.clone().into()),
            Self::Overtaken { .. } => Some("run it again, or stop what lands into the stream until it is done".into()),
            Self::Sort(_) => {
                Some("free space in the folder for temporary files (`TMPDIR`), or name another one".into())
            }
            Self::Lake(error) => error.hint(),
            Self::Task(_) => None,
        }
    }
}
