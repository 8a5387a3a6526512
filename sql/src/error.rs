//! What can go wrong with a query, and how each protocol says it.
//!
//! A [`QueryError`] has a kind (what to do about it), a message that names the object, a hint where there is
//! one, and the place in the SQL text where the parser or planner knows it. One table,
//! [`ErrorKind::codes`], turns kinds into gRPC codes and HTTP statuses.
//!
//! DataFusion's errors arrive wrapped in several layers; [`QueryError::from`] digs for the root and for one
//! of our own errors that travelled through the engine, so that a refusal by a table provider reaches the
//! client as what it was.

use std::{
    borrow::Cow,
    error::Error,
    sync::{Arc, PoisonError, RwLock},
};

use arrow::error::ArrowError;
use axum::http::StatusCode;
use datafusion::{
    common::{DataFusionError, Diagnostic},
    object_store,
    sql::sqlparser::parser::ParserError,
};
use starmere_lake::echo::{cut, cut_at};
use tonic::{Code, Status};

#[cfg(test)]
mod tests;

/// Characters of a message that clients get: engines repeat what they were given.
const LONGEST_SHOWN: usize = 2000;

/// What to do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// Mend the query.
    Invalid,
    /// There is no such table, query or statement.
    NotFound,
    /// Say who you are.
    Unauthenticated,
    /// You may not.
    Denied,
    /// Wait and try again.
    Unavailable,
    /// Too much is asked for at once: wait and try again.
    Busy,
    /// It took longer than the server allows.
    TimedOut,
    /// Somebody stopped it.
    Cancelled,
    /// Our fault.
    Internal,
}

impl ErrorKind {
    /// Every kind.
    pub const ALL: [Self; 9] = [
        Self::Invalid,
        Self::NotFound,
        Self::Unauthenticated,
        Self::Denied,
        Self::Unavailable,
        Self::Busy,
        Self::TimedOut,
        Self::Cancelled,
        Self::Internal,
    ];

    /// The word that clients see in JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::NotFound => "not_found",
            Self::Unauthenticated => "unauthenticated",
            Self::Denied => "denied",
            Self::Unavailable => "unavailable",
            Self::Busy => "busy",
            Self::TimedOut => "timed_out",
            Self::Cancelled => "cancelled",
            Self::Internal => "internal",
        }
    }

    /// The gRPC code and the HTTP status of each kind.
    pub fn codes(self) -> (Code, StatusCode) {
        let (code, status) = match self {
            Self::Invalid => (Code::InvalidArgument, 400),
            Self::NotFound => (Code::NotFound, 404),
            Self::Unauthenticated => (Code::Unauthenticated, 401),
            Self::Denied => (Code::PermissionDenied, 403),
            Self::Unavailable => (Code::Unavailable, 503),
            Self::Busy => (Code::ResourceExhausted, 429),
            Self::TimedOut => (Code::DeadlineExceeded, 504),
            Self::Cancelled => (Code::Cancelled, 499),
            Self::Internal => (Code::Internal, 500),
        };
        (code, StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR))
    }
}

/// Why a query has no answer.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct QueryError {
    kind: ErrorKind,
    message: String,
    hint: Option<String>,
    /// Line in the SQL text, from 1.
    pub line: Option<u64>,
    /// Column in that line, in characters from 1.
    pub column: Option<u64>,
    #[source]
    source: Option<Arc<dyn Error + Send + Sync>>,
}

impl QueryError {
    /// An error of a kind. The message names the object and leaves the cause to [`Self::caused_by`].
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None, line: None, column: None, source: None }
    }

    /// The query must be mended.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    /// There is no such thing.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }

    /// Nobody known is asking.
    pub fn unauthenticated(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unauthenticated, message)
    }

    /// A known caller may not.
    pub fn denied(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Denied, message)
    }

    /// Later it may work.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unavailable, message)
    }

    /// Too many ask at once.
    pub fn busy(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Busy, message).with_hint("try again in a while; `GET /v1/queries` lists what runs")
    }

    /// Our fault.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// What the reader can do.
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Where in the SQL text, both from 1.
    pub fn at(mut self, line: u64, column: u64) -> Self {
        self.line = Some(line);
        self.column = Some(column);
        self
    }

    /// What it came from.
    pub fn caused_by(mut self, source: impl Error + Send + Sync + 'static) -> Self {
        self.source = Some(Arc::new(source));
        self
    }

    /// What to do about it.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What the reader can do, where we know.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// [`Self::text`] for clients: without paths of this machine, see [`hide_paths`], and cut where it repeats long
    /// names of a statement. The log has all paths.
    pub fn shown(&self) -> String {
        let text = self.text();
        let shown = without_paths(&text);
        if let Cow::Owned(_) = shown {
            tracing::warn!(error = %text, "an error that a client got, with the paths that it was not shown");
        }
        cut_at(LONGEST_SHOWN, &shown).into_owned()
    }

    /// The message and its causes in one line, for logs.
    pub fn text(&self) -> String {
        let mut text = self.message.clone();
        let mut cause = Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

/// Folders of this machine that clients are not to know.
static HIDDEN: RwLock<Vec<String>> = RwLock::new(Vec::new());

/// Leaves these folders out of the errors that clients get, from now on and in the whole process: they say where on
/// this machine its data lies, which helps a stranger and no reader.
pub fn hide_paths(folders: impl IntoIterator<Item = String>) {
    let mut hidden = HIDDEN.write().unwrap_or_else(PoisonError::into_inner);
    for folder in folders {
        let folder = folder.trim_end_matches('/').to_owned();
        // Objects are named without the first slash. What has one name alone could be a word of any message.
        let bare = folder.trim_start_matches('/').to_owned();
        if !folder.is_empty() {
            hidden.push(folder);
        }
        if bare.contains('/') {
            hidden.push(bare);
        }
    }
    // A folder goes before those that contain it.
    hidden.sort_by_key(|folder| std::cmp::Reverse(folder.len()));
    hidden.dedup();
}

/// The text with `…` instead of hidden folders.
pub fn without_paths(text: &str) -> Cow<'_, str> {
    let hidden = HIDDEN.read().unwrap_or_else(PoisonError::into_inner);
    let mut shown = Cow::Borrowed(text);
    for folder in hidden.iter() {
        if shown.contains(folder.as_str()) {
            shown = Cow::Owned(shown.replace(folder.as_str(), "…"));
        }
    }
    shown
}

/// A gRPC status carries one text: message and causes, place, hint.
impl From<QueryError> for Status {
    fn from(error: QueryError) -> Self {
        let mut text = error.shown();
        if error.kind == ErrorKind::Internal {
            tracing::error!(error = %error.text(), "a Flight call failed through our fault");
        }
        if let (Some(line), Some(column)) = (error.line, error.column) {
            text.push_str(&format!(" (line {line}, column {column})"));
        }
        if let Some(hint) = error.hint() {
            text.push_str("\n\nhint: ");
            text.push_str(hint);
        }
        Self::new(error.kind.codes().0, text)
    }
}

impl From<DataFusionError> for QueryError {
    fn from(error: DataFusionError) -> Self {
        if let Some(ours) = embedded(&error) {
            return ours.clone();
        }
        if let Some(stored) = starmere_lake::damage::lake_error(&error) {
            return of_lake(stored);
        }
        if let Some(wide) = starmere_lake::widths::too_wide(&error) {
            return QueryError::invalid(wide.to_string());
        }
        let diagnostic = error.diagnostic();
        let mut ours = from_root(error.find_root());
        if let Some(span) = diagnostic.and_then(|diagnostic| diagnostic.span)
            && ours.line.is_none()
        {
            ours = ours.at(span.start.line, span.start.column);
        }
        if ours.hint.is_none() {
            ours.hint = diagnostic.and_then(advice);
        }
        ours
    }
}

impl From<ArrowError> for QueryError {
    fn from(error: ArrowError) -> Self {
        Self::from(DataFusionError::from(error))
    }
}

/// One of our own errors among the causes.
fn embedded<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a QueryError> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(ours) = error.downcast_ref::<QueryError>() {
            return Some(ours);
        }
        next = error.source();
    }
    None
}

/// What is stored could not be read: whoever asks can do nothing about it, and may try again where the store is away.
fn of_lake(error: &starmere_lake::Error) -> QueryError {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    let kind = match error.kind() {
        starmere_lake::Kind::Unavailable => ErrorKind::Unavailable,
        _ => ErrorKind::Internal,
    };
    QueryError { hint: error.hint().map(Into::into), ..QueryError::new(kind, text) }
}

/// The planner's first advice: what to do, else what it noticed.
fn advice(diagnostic: &Diagnostic) -> Option<String> {
    let help = diagnostic.helps.first().map(|help| help.message.clone());
    let advice = help.or_else(|| diagnostic.notes.first().map(|note| note.message.clone()))?;
    Some(cut_at(LONGEST_SHOWN, &advice).into_owned())
}

fn from_root(root: &DataFusionError) -> QueryError {
    match root {
        DataFusionError::SQL(error, _) => syntax(error),
        DataFusionError::Plan(message) => match missing_table(message) {
            Some(table) => {
                let hint = match table.starts_with("work.") {
                    true => WORK,
                    false => "`SHOW TABLES` and `GET /v1/tables` list what there is",
                };
                QueryError::not_found(format!("there is no table `{}`", cut(table))).with_hint(hint)
            }
            None => QueryError::invalid(message.as_str()),
        },
        DataFusionError::Configuration(message) | DataFusionError::Execution(message) => {
            QueryError::invalid(message.as_str())
        }
        DataFusionError::SchemaError(error, _) => QueryError::invalid(error.to_string()),
        DataFusionError::NotImplemented(message) => QueryError::invalid(format!("not supported: {message}")),
        DataFusionError::ArrowError(error, _) => from_arrow(error),
        DataFusionError::ResourcesExhausted(message) => {
            QueryError::unavailable(message.as_str()).with_hint("ask for less at once, or give the server more memory")
        }
        DataFusionError::ObjectStore(error) => match error.as_ref() {
            // A file that the snapshot pins is gone: waiting does not bring it back.
            object_store::Error::NotFound { .. } => QueryError::internal(error.to_string()),
            _ => QueryError::unavailable(error.to_string()),
        },
        DataFusionError::IoError(error) => QueryError::unavailable(error.to_string()),
        DataFusionError::Internal(message) => QueryError::internal(message.as_str()),
        other => QueryError::internal(other.strip_backtrace()),
    }
}

fn from_arrow(error: &ArrowError) -> QueryError {
    match error {
        ArrowError::DivideByZero
        | ArrowError::ArithmeticOverflow(_)
        | ArrowError::CastError(_)
        | ArrowError::ComputeError(_)
        | ArrowError::InvalidArgumentError(_)
        | ArrowError::ParseError(_) => QueryError::invalid(error.to_string()),
        ArrowError::MemoryError(_) => QueryError::unavailable(error.to_string()),
        _ => QueryError::internal(error.to_string()),
    }
}

/// Where models are that need be no ports.
const WORK: &str = "models that were built are `work.<domain>.<model>` in `starmere sql`, and in a server that was \
    started with `--work`";

/// The name in `table 'x.y.z' not found`. The engine completes names by a catalog and a schema of its own, which
/// nobody has written.
pub(crate) fn missing_table(message: &str) -> Option<&str> {
    let name = message.strip_prefix("table '")?.strip_suffix("' not found")?;
    let written = name.strip_prefix("datafusion.public.").or_else(|| name.strip_prefix("datafusion."));
    Some(written.unwrap_or(name))
}

fn syntax(error: &ParserError) -> QueryError {
    let text = match error {
        ParserError::TokenizerError(text) | ParserError::ParserError(text) => text,
        ParserError::RecursionLimitExceeded => {
            return QueryError::invalid("the statement is nested too deeply");
        }
    };
    match split_place(text) {
        Some((message, line, column)) => QueryError::invalid(message).at(line, column),
        None => QueryError::invalid(text.as_str()),
    }
}

/// `Expected: …, found: x at Line: 1, Column: 8` as message, line and column.
fn split_place(text: &str) -> Option<(&str, u64, u64)> {
    let (message, place) = text.rsplit_once(" at Line: ")?;
    let (line, column) = place.split_once(", Column: ")?;
    let end = column.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(column.len());
    Some((message, line.parse().ok()?, column[..end].parse().ok()?))
}
