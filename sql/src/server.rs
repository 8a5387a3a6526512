//! The listeners: Flight SQL, and HTTP for the routes of [`crate::http::router`] and those that the binary adds.
//!
//! Both hold a bounded number of connections (`connections`), of all and of one peer, and close those that say
//! nothing. There is no TLS here: beyond one machine, put a proxy in front that speaks it to clients.

use std::{convert::Infallible, net::IpAddr, pin::pin, sync::Arc, time::Duration};

use axum::{Router, extract::Request};
use futures::stream;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, time::sleep};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{codegen::Service, transport::Server};

pub(crate) use self::connections::peer_of;
use self::connections::{Door, Held, Limits};
use crate::{access::Access, error::QueryError, flight, query::Queries};

mod connections;

/// How long queries may go on after the server was told to stop.
const GRACE: Duration = Duration::from_secs(10);

/// The head of a request comes within this time, counted from the answer before it: so long a connection is idle.
const HEAD: Duration = Duration::from_secs(75);

/// What a client of HTTP is told where too many connections are held.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\n\
    Content-Type: application/json\r\nContent-Length: 154\r\n\r\n\
    {\"error\":{\"kind\":\"unavailable\",\"message\":\"too many connections are held\",\
    \"hint\":\"close those that are not used, and try again\",\"line\":null,\"column\":null}}";

/// What HTTP/2 begins with has so many bytes.
const PREFACE_BYTES: usize = 24;

/// The address that a request over HTTP came from, for counting: an extension of every request.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub IpAddr);

/// Serves HTTP/1.1 on a listener until told to stop. Then the listener closes at once, and requests that run end.
pub async fn serve_http(listener: TcpListener, router: Router, shutdown: CancellationToken) {
    let mut door = Door::new(listener, Limits::default(), FULL, 1);
    let connections = TaskTracker::new();
    loop {
        let held = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            held = door.next() => held,
        };
        connections.spawn(serve_connection(held, router.clone(), shutdown.clone()));
    }
    drop(door);
    connections.close();
    connections.wait().await;
}

async fn serve_connection(held: Held, router: Router, shutdown: CancellationToken) {
    let peer = Peer(held.peer());
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
        let mut router = router.clone();
        Service::call(&mut router, request)
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(held), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection over HTTP has failed");
    }
}

/// Serves Flight SQL on a listener until told to stop. Then the listener closes at once, streams that run get
/// ten seconds to end, and the rest is cancelled: their readers are told.
///
/// # Errors
/// `Unavailable` when the transport fails as a whole; a broken connection only ends itself.
pub async fn serve_flight(
    listener: TcpListener,
    queries: Queries,
    access: Arc<Access>,
    shutdown: CancellationToken,
) -> Result<(), QueryError> {
    let address = listener
        .local_addr()
        .map_err(|error| QueryError::unavailable("the listener of Flight SQL has no address").caused_by(error))?;
    tracing::info!(%address, "Flight SQL listens");
    let stopping = stop_queries(queries.clone(), shutdown.clone());
    let door = Door::new(listener, Limits::default(), b"", PREFACE_BYTES);
    let incoming = stream::unfold(door, |mut door| async move { Some((Ok::<_, Infallible>(door.next().await), door)) });
    let serving = Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(20)))
        .add_service(flight::server(queries, access))
        .serve_with_incoming_shutdown(incoming, shutdown.cancelled_owned());
    let served = tokio::select! {
        served = serving => served,
        never = stopping => match never {},
    };
    tracing::info!(%address, "Flight SQL has stopped");
    served.map_err(|error| QueryError::unavailable(format!("Flight SQL on `{address}` failed")).caused_by(error))
}

/// Once told to stop, waits a while and then cancels what still runs, again and again: an open connection may
/// yet start another query. Never returns.
async fn stop_queries(queries: Queries, shutdown: CancellationToken) -> Infallible {
    shutdown.cancelled().await;
    loop {
        sleep(GRACE).await;
        queries.cancel_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_for_too_many_connections_is_well_formed() {
        let text = std::str::from_utf8(FULL).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.ends_with(&format!("Content-Length: {}", body.len())), "{head}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(body).unwrap()["error"]["kind"], "unavailable");
    }
}
