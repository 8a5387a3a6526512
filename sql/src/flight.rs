//! Arrow Flight SQL, for ADBC, JDBC, ODBC and the tools built on them.
//!
//! ```text
//!   client                         server
//!     │ GetFlightInfo(statement) ──► plan: schema, snapshot                 nothing runs yet
//!     │ ◄── schema, ticket           ticket = text + snapshot + schema digest + query id
//!     │ DoGet(ticket) ─────────────► run at that snapshot, or be told that the tables have changed
//!     │ ◄── exactly that schema, then batches, then the end or a status
//! ```
//!
//! Tickets of statements hold all they need, so any server over the same catalog can redeem them. The one that
//! planned the statement may still have its plan ([`crate::Plans`]), which saves time and nothing else. Prepared
//! statements are remembered: bounded, forgotten when unused (`prepared`).
//!
//! * `Gate` finds out who calls before it reads any message: strangers may send a handshake, which is small. What comes
//!   in is bounded, of one and of all (`intake`).
//! * `Flight` is the gRPC service. It adds what arrow-flight's blanket implementation leaves out: `GetSchema`,
//!   `PollFlightInfo`, an honest list of actions.
//! * `Service` implements arrow-flight's `FlightSqlService`: statements in `statements`, questions about
//!   tables and the server in `metadata`, `keys`, `info` and `xdbc`.
//!
//! Everything that would write answers `read-only`, in words. Errors, also those in the middle of a stream, are
//! gRPC statuses by the table in [`crate::error`].

use std::{net::IpAddr, pin::Pin, sync::Arc, time::Duration};

use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo, HandshakeRequest, HandshakeResponse,
    PollInfo, PutResult, SchemaResult, Ticket, flight_service_server::FlightService,
};
use futures::{Stream, stream};
use tokio::time::timeout;
use tonic::{Request, Response, Status, Streaming, metadata::MetadataMap};

pub use self::gate::Gate;
use self::{
    gate::Entrance,
    intake::{Most, Room},
    service::Service,
};
use crate::{
    access::{Access, Caller},
    error::QueryError,
    query::Queries,
    statement::MAX_SQL_BYTES,
};

mod encode;
mod gate;
mod info;
mod intake;
mod keys;
mod messages;
mod metadata;
mod prepared;
mod service;
mod statements;
#[cfg(test)]
mod tests;
mod ticket;
mod xdbc;

/// The gRPC service over these queries.
pub fn server(queries: Queries, access: Arc<Access>) -> Gate {
    // What could not be remembered with its statement need not come in.
    let memory = queries.limits().prepared_memory;
    let flight = Arc::new(Flight { service: Service::new(queries, Arc::clone(&access)) });
    let strangers = Entrance::new(&flight, Room::new(STRANGERS_ROOM, STRANGERS_ROOM / 8), HANDSHAKES);
    let statements = Entrance::new(&flight, Room::new(STATEMENTS_ROOM, STATEMENTS_ROOM / 2), STATEMENTS);
    let parameters = Entrance::new(&flight, Room::new(memory, memory / prepared::SHARE), PARAMETERS);
    Gate::new(access, strangers, statements, parameters)
}

/// A stream of answers, as arrow-flight makes them.
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Handshakes that come in take so many bytes.
const STRANGERS_ROOM: usize = 8 << 20;

/// Statements that come in, and tickets, take so many bytes.
const STATEMENTS_ROOM: usize = 16 << 20;

/// A name and a password.
const HANDSHAKES: Most = Most { bytes: 16 << 10, time: HANDSHAKE };

/// A statement, or a ticket or flight with one: a ticket may need two bytes for a character of the statement, and a
/// flight has the statement beside its ticket.
const STATEMENTS: Most = Most { bytes: 4 * MAX_SQL_BYTES, time: Duration::from_secs(30) };

/// Parameters that may be bound, and what describes them.
const PARAMETERS: Most = Most { bytes: statements::MAX_BOUND_BYTES + (4 << 20), time: Duration::from_secs(60) };

/// Who shakes hands sends a name and a password within this time.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// The Flight service: lets arrow-flight's `FlightSqlService` answer callers that the [`Gate`] has let in.
pub struct Flight {
    service: Service,
}

impl Flight {
    /// A call that the gate has let in; it has noted who it is from.
    fn admit<T>(&self, request: Request<T>) -> Result<Request<T>, Status> {
        if request.extensions().get::<Caller>().is_none() {
            return Err(QueryError::internal("a call came in without a caller").into());
        }
        Ok(request)
    }
}

/// Who sends these headers from that address: `authorization`, or the token that old Java clients send on their own
/// way.
fn caller_of(access: &Access, metadata: &MetadataMap, peer: Option<IpAddr>) -> Result<Caller, QueryError> {
    access.caller(authorization(metadata).as_deref(), peer)
}

fn authorization(metadata: &MetadataMap) -> Option<String> {
    if let Some(value) = metadata.get("authorization") {
        return value.to_str().ok().map(str::to_owned);
    }
    let token = metadata.get_bin("auth-token-bin")?.to_bytes().ok()?;
    Some(format!("Bearer {}", std::str::from_utf8(&token).ok()?))
}

#[tonic::async_trait]
impl FlightService for Flight {
    type HandshakeStream = Answers<HandshakeResponse>;
    type ListFlightsStream = Answers<FlightInfo>;
    type DoGetStream = Answers<FlightData>;
    type DoPutStream = Answers<PutResult>;
    type DoActionStream = Answers<arrow_flight::Result>;
    type ListActionsStream = Answers<ActionType>;
    type DoExchangeStream = Answers<FlightData>;

    /// The one call that nobody is turned away from: it is where callers say who they are.
    async fn handshake(
        &self,
        request: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Self::HandshakeStream>, Status> {
        let answered = FlightService::handshake(&self.service, request);
        timeout(HANDSHAKE, answered).await.unwrap_or_else(|_| {
            Err(QueryError::invalid(format!("no handshake came within {} s", HANDSHAKE.as_secs())).into())
        })
    }

    async fn list_flights(&self, request: Request<Criteria>) -> Result<Response<Self::ListFlightsStream>, Status> {
        let _admitted = self.admit(request)?;
        Err(Status::unimplemented("tables are listed by Flight SQL's `CommandGetTables`"))
    }

    async fn get_flight_info(&self, request: Request<FlightDescriptor>) -> Result<Response<FlightInfo>, Status> {
        FlightService::get_flight_info(&self.service, self.admit(request)?).await
    }

    /// Planning is quick and running begins with `DoGet`, so there is never anything to poll for.
    async fn poll_flight_info(&self, request: Request<FlightDescriptor>) -> Result<Response<PollInfo>, Status> {
        let info = self.get_flight_info(request).await?.into_inner();
        let done = PollInfo::new().with_info(info).try_with_progress(1.0);
        Ok(Response::new(done.map_err(QueryError::from)?))
    }

    async fn get_schema(&self, request: Request<FlightDescriptor>) -> Result<Response<SchemaResult>, Status> {
        let info = self.get_flight_info(request).await?.into_inner();
        Ok(Response::new(SchemaResult { schema: info.schema }))
    }

    async fn do_get(&self, request: Request<Ticket>) -> Result<Response<Self::DoGetStream>, Status> {
        FlightService::do_get(&self.service, self.admit(request)?).await
    }

    async fn do_put(&self, request: Request<Streaming<FlightData>>) -> Result<Response<Self::DoPutStream>, Status> {
        FlightService::do_put(&self.service, self.admit(request)?).await
    }

    async fn do_action(&self, request: Request<Action>) -> Result<Response<Self::DoActionStream>, Status> {
        FlightService::do_action(&self.service, self.admit(request)?).await
    }

    async fn list_actions(&self, request: Request<Empty>) -> Result<Response<Self::ListActionsStream>, Status> {
        let _admitted = self.admit(request)?;
        let actions = service::ACTIONS
            .map(|(name, description)| Ok(ActionType { r#type: name.to_owned(), description: description.to_owned() }));
        let actions: Self::ListActionsStream = Box::pin(stream::iter(actions));
        Ok(Response::new(actions))
    }

    async fn do_exchange(
        &self,
        request: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoExchangeStream>, Status> {
        let _admitted = self.admit(request)?;
        Err(Status::unimplemented("`DoExchange` is not served: ask with Flight SQL statements"))
    }
}
