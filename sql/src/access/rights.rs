//! What a user may do, until there are roles.

use std::fmt;

use crate::error::QueryError;

/// One thing that a user may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Right {
    /// Query ports.
    Query,
    /// Query events as they came: the tables of `lake`.
    Raw,
    /// Post events.
    Post,
    /// See and stop queries of others, read metrics.
    Operate,
    /// Read metrics.
    Metrics,
}

impl Right {
    const ALL: [Self; 5] = [Self::Query, Self::Raw, Self::Post, Self::Operate, Self::Metrics];

    fn bit(self) -> u8 {
        1 << self as u8
    }

    /// The words of `can:` that give it, and what it is.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Query => ("query", "query ports"),
            Self::Raw => ("raw", "query raw events"),
            Self::Post => ("post", "post events"),
            Self::Operate => ("operate", "see or stop queries of others"),
            Self::Metrics => ("operate", "read metrics"),
        }
    }
}

/// What a user may do, all together.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Rights(u8);

impl Rights {
    /// Everything: where nobody is declared, and on the command line.
    pub fn all() -> Self {
        Self::of(&Right::ALL)
    }

    /// These rights; whoever operates reads metrics.
    pub fn of(rights: &[Right]) -> Self {
        let implied = if rights.contains(&Right::Operate) { Right::Metrics.bit() } else { 0 };
        Self(rights.iter().fold(implied, |all, right| all | right.bit()))
    }

    /// Whether this right is among them.
    pub fn has(self, right: Right) -> bool {
        self.0 & right.bit() != 0
    }
}

/// Of a user that is declared without `can:`: everything but what concerns other users.
impl Default for Rights {
    fn default() -> Self {
        Self::of(&[Right::Query, Right::Raw, Right::Post, Right::Metrics])
    }
}

impl fmt::Debug for Rights {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(Right::ALL.into_iter().filter(|right| self.has(*right))).finish()
    }
}

/// Somebody who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// A user's name, or `anonymous` where there are no users.
    pub user: String,
    /// What the user may do.
    pub rights: Rights,
}

impl Caller {
    /// Who asks where there are no users.
    pub fn anonymous() -> Self {
        Self::named("anonymous")
    }

    /// Somebody who may do everything.
    pub fn named(user: impl Into<String>) -> Self {
        Self { user: user.into(), rights: Rights::all() }
    }

    /// Whether the caller may do one of these.
    ///
    /// # Errors
    /// `Denied`, with what to write into the definition of the user.
    pub fn may(&self, any: &[Right]) -> Result<(), QueryError> {
        let Some(first) = any.first().filter(|_| !any.iter().any(|right| self.rights.has(*right))) else {
            return Ok(());
        };
        let (word, what) = first.words();
        Err(QueryError::denied(format!("the user `{}` may not {what}", self.user))
            .with_hint(format!("add `{word}` to `can:` of that user in starmere.yaml")))
    }

    /// Whether the caller may see and stop the queries of this user.
    pub fn sees_queries_of(&self, user: &str) -> bool {
        self.user == user || self.rights.has(Right::Operate)
    }
}
