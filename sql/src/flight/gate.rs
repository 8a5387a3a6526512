//! The gate before the gRPC service: nobody's message is read before it is known who calls, except a handshake.
//!
//! ```text
//!   request ──► Handshake? ── yes ──► Flight, messages of a few KiB
//!                  │ no
//!                  └──► headers say who calls? ── yes ──► DoPut? ── yes ──► Flight, messages that hold parameters
//!                          │                                └─── no ───► Flight, messages that hold a statement
//!                          └ no: a status, no byte of the body is read
//! ```
//!
//! What comes in takes room as it comes (`intake`). Handshakes, statements and parameters have a room each: who fills
//! one keeps nobody out of another.

use std::{
    convert::Infallible,
    future::ready,
    net::IpAddr,
    sync::Arc,
    task::{Context, Poll},
};

use arrow_flight::flight_service_server::FlightServiceServer;
use axum::http::{Request, Response};
use tonic::{
    Status,
    body::Body,
    codegen::{BoxFuture, Service},
    metadata::MetadataMap,
};

use super::{
    Flight, caller_of,
    intake::{Most, Room},
};
use crate::{
    access::{Access, Caller, Right},
    error::QueryError,
    server::Peer,
};

type Answer = BoxFuture<Response<Body>, Infallible>;

/// Lets callers in and notes who they are, as an extension of the request.
#[derive(Clone)]
pub struct Gate {
    access: Arc<Access>,
    strangers: Entrance,
    statements: Entrance,
    parameters: Entrance,
}

/// Where requests of a kind come in.
#[derive(Clone)]
pub(super) struct Entrance {
    service: FlightServiceServer<Flight>,
    room: Room,
    most: Most,
}

impl Entrance {
    /// To a service, for requests that come within so many bytes and so much time.
    pub(super) fn new(flight: &Arc<Flight>, room: Room, most: Most) -> Self {
        let service = FlightServiceServer::from_arc(Arc::clone(flight))
            .max_decoding_message_size(most.bytes)
            .max_encoding_message_size(usize::MAX);
        Self { service, room, most }
    }

    fn enter(&mut self, sender: &str, request: Request<Body>) -> Answer {
        let (head, body) = request.into_parts();
        match self.room.admit(sender, body, self.most) {
            Ok(body) => self.service.call(Request::from_parts(head, body)),
            Err(error) => refused(error),
        }
    }
}

fn peer_of(request: &Request<Body>) -> Option<IpAddr> {
    request.extensions().get::<Peer>().map(|peer| peer.0)
}

fn refused(error: QueryError) -> Answer {
    let refused: Result<Response<Body>, Infallible> = Ok(Status::from(error).into_http());
    Box::pin(ready(refused))
}

impl Gate {
    pub(super) fn new(access: Arc<Access>, strangers: Entrance, statements: Entrance, parameters: Entrance) -> Self {
        Self { access, strangers, statements, parameters }
    }

    fn caller(&self, request: &Request<Body>) -> Result<Caller, QueryError> {
        let metadata = MetadataMap::from_headers(request.headers().clone());
        let caller = caller_of(&self.access, &metadata, peer_of(request))?;
        caller.may(&[Right::Query, Right::Raw])?;
        Ok(caller)
    }
}

impl Service<Request<Body>> for Gate {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        if request.uri().path().ends_with("/Handshake") {
            let peer = peer_of(&request).map(|peer| peer.to_string()).unwrap_or_default();
            return self.strangers.enter(&peer, request);
        }
        match self.caller(&request) {
            Ok(caller) => {
                let user = caller.user.clone();
                request.extensions_mut().insert(caller);
                let has_parameters = request.uri().path().ends_with("/DoPut");
                let entrance = if has_parameters { &mut self.parameters } else { &mut self.statements };
                entrance.enter(&user, request)
            }
            Err(error) => refused(error),
        }
    }
}
