//! The gate before the gRPC service: nobody's message is read before it is known who calls, except a handshake.
//!
//! ```text
//!   request ──► Handshake? ── yes ──► Flight, messages of a few KiB
//!                  │ no
//!                  └──► headers say who calls? ── yes ──► Flight, large messages
//!                          │ no: a status, no byte of the body is read
//! ```

use std::{
    convert::Infallible,
    future::ready,
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

use super::{Flight, caller_of};
use crate::{
    access::{Access, Caller, Right},
    error::QueryError,
    server::Peer,
};

/// Lets callers in and notes who they are, as an extension of the request.
#[derive(Clone)]
pub struct Gate {
    access: Arc<Access>,
    callers: FlightServiceServer<Flight>,
    strangers: FlightServiceServer<Flight>,
}

impl Gate {
    pub(super) fn new(
        access: Arc<Access>,
        callers: FlightServiceServer<Flight>,
        strangers: FlightServiceServer<Flight>,
    ) -> Self {
        Self { access, callers, strangers }
    }

    fn caller(&self, request: &Request<Body>) -> Result<Caller, QueryError> {
        let peer = request.extensions().get::<Peer>().map(|peer| peer.0);
        let metadata = MetadataMap::from_headers(request.headers().clone());
        let caller = caller_of(&self.access, &metadata, peer)?;
        caller.may(&[Right::Query, Right::Raw])?;
        Ok(caller)
    }
}

impl Service<Request<Body>> for Gate {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        if request.uri().path().ends_with("/Handshake") {
            return self.strangers.call(request);
        }
        match self.caller(&request) {
            Ok(caller) => {
                request.extensions_mut().insert(caller);
                self.callers.call(request)
            }
            Err(error) => {
                let refused: Result<Self::Response, Self::Error> = Ok(Status::from(error).into_http());
                Box::pin(ready(refused))
            }
        }
    }
}
