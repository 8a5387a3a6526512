//! The ticket of a statement: all that is needed to run what was planned, and nothing kept on the server.
//!
//! JSON, so that a person who finds one in a log can read it. Not signed: whoever can send a ticket can also
//! send the statement.

use arrow_flight::{
    FlightInfo,
    sql::{Any, Command},
};
use prost::Message;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{error::QueryError, query::Promise};

/// What `GetFlightInfo` hands out for a statement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StatementTicket {
    pub(super) sql: String,
    /// The query will run under this id, so that it can be cancelled by the ticket.
    id: String,
    snapshot: u64,
    schema: String,
}

impl StatementTicket {
    pub(super) fn new(sql: String, snapshot: u64, schema: String) -> Self {
        Self { sql, id: Uuid::new_v4().to_string(), snapshot, schema }
    }

    pub(super) fn encode(&self) -> Result<Vec<u8>, QueryError> {
        serde_json::to_vec(self).map_err(|error| QueryError::internal("could not write a ticket").caused_by(error))
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, QueryError> {
        serde_json::from_slice(bytes)
            .map_err(|error| QueryError::invalid("the ticket is not one that this server hands out").caused_by(error))
    }

    pub(super) fn id(&self) -> Option<Uuid> {
        self.id.parse().ok()
    }

    pub(super) fn promise(&self) -> Promise {
        Promise { snapshot: self.snapshot, schema: self.schema.clone() }
    }
}

/// The commands in the tickets of a flight; what cannot be read is left out.
pub(super) fn commands(info: &FlightInfo) -> Vec<Command> {
    let tickets = info.endpoint.iter().filter_map(|endpoint| endpoint.ticket.as_ref());
    tickets
        .filter_map(|ticket| Any::decode(&*ticket.ticket).ok())
        .filter_map(|any| Command::try_from(any).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticket_comes_back_as_it_went() {
        let ticket = StatementTicket::new("SELECT 'ü'".to_owned(), 7, "abc".to_owned());
        let back = StatementTicket::decode(&ticket.encode().unwrap()).unwrap();
        assert_eq!(back, ticket);
        assert!(back.id().is_some());
        assert_eq!(back.promise().snapshot, 7);
        assert!(StatementTicket::decode(b"else").is_err());
    }
}
