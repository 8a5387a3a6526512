//! What went wrong, for the user: hints, and the exit status.

use starmere_lake::Kind;
use starmere_models::define::{Problem, is_advice};

use crate::held::HeldBack;

/// Definitions are wrong.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.words())]
pub(crate) struct Problems(pub(crate) Vec<Problem>);

impl Problems {
    fn words(&self) -> String {
        let all: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        let count = match self.0.len() {
            1 => "1 problem".to_owned(),
            count => format!("{count} problems"),
        };
        format!("{count} in the project's definitions\n\n{}", all.join("\n"))
    }
}

/// Something that the user can mend, with what to do.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Mendable {
    pub(crate) message: String,
    pub(crate) hint: String,
}

impl Mendable {
    pub(crate) fn error(message: impl Into<String>, hint: impl Into<String>) -> anyhow::Error {
        Self { message: message.into(), hint: hint.into() }.into()
    }
}

fn kind(error: &anyhow::Error) -> Option<Kind> {
    error.chain().find_map(|cause| {
        if cause.is::<Problems>() || cause.is::<Mendable>() || cause.is::<HeldBack>() {
            return Some(Kind::Invalid);
        }
        let lake = cause.downcast_ref::<starmere_lake::Error>().map(starmere_lake::Error::kind);
        let ingest = cause.downcast_ref::<starmere_ingest::Error>().map(starmere_ingest::Error::kind);
        let models = cause.downcast_ref::<starmere_models::Error>().map(starmere_models::Error::kind);
        let query = cause.downcast_ref::<starmere_sql::QueryError>().map(|error| match error.kind() {
            starmere_sql::ErrorKind::Internal => Kind::Internal,
            starmere_sql::ErrorKind::Unavailable
            | starmere_sql::ErrorKind::Busy
            | starmere_sql::ErrorKind::TimedOut => Kind::Unavailable,
            _ => Kind::Invalid,
        });
        lake.or(ingest).or(models).or(query)
    })
}

/// The exit status: 1 where the user can mend it, 2 otherwise.
pub(crate) fn status(error: &anyhow::Error) -> u8 {
    match kind(error) {
        Some(Kind::Invalid) => 1,
        _ => 2,
    }
}

/// What to do about it, where that is known.
pub(crate) fn hint(error: &anyhow::Error) -> Option<String> {
    error.chain().find_map(|cause| {
        let own = cause.downcast_ref::<Mendable>().map(|mendable| mendable.hint.clone());
        let own = own.filter(|hint| is_advice(hint));
        let lake = cause.downcast_ref::<starmere_lake::Error>().and_then(starmere_lake::Error::hint).map(Into::into);
        let ingest =
            cause.downcast_ref::<starmere_ingest::Error>().and_then(starmere_ingest::Error::hint).map(Into::into);
        let models =
            cause.downcast_ref::<starmere_models::Error>().and_then(starmere_models::Error::hint).map(Into::into);
        let query = cause.downcast_ref::<starmere_sql::QueryError>().and_then(|error| error.hint().map(str::to_owned));
        let held_back = cause.downcast_ref::<HeldBack>().map(HeldBack::hint);
        own.or(lake).or(ingest).or(models).or(query).or(held_back)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_that_says_nothing_to_do_is_not_told() {
        let none = starmere_models::define::suggestion("salse", []);
        for hint in [String::new(), none] {
            assert_eq!(super::hint(&Mendable::error("there is no model `salse`", hint)), None);
        }
        assert_eq!(super::hint(&Mendable::error("wrong", "mend it")).as_deref(), Some("mend it"));
    }
}
