//! The gRPC listener for Flight SQL. HTTP is served by the binary, which adds its own routes to
//! [`crate::http::router`].
//!
//! There is no TLS here: beyond one machine, put a proxy in front that speaks it (and HTTP/2) to clients.

use std::{sync::Arc, time::Duration};

use tokio::{net::TcpListener, time::sleep};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Server, server::TcpIncoming};

use crate::{access::Access, error::QueryError, flight, query::Queries};

/// How long queries may go on after the server was told to stop.
const GRACE: Duration = Duration::from_secs(10);

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
    let serving = Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(20)))
        .add_service(flight::server(queries, access))
        .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), shutdown.cancelled_owned());
    let served = tokio::select! {
        served = serving => served,
        never = stopping => match never {},
    };
    tracing::info!(%address, "Flight SQL has stopped");
    served.map_err(|error| QueryError::unavailable(format!("Flight SQL on `{address}` failed")).caused_by(error))
}

/// Once told to stop, waits a while and then cancels what still runs, again and again: an open connection may
/// yet start another query. Never returns.
async fn stop_queries(queries: Queries, shutdown: CancellationToken) -> std::convert::Infallible {
    shutdown.cancelled().await;
    loop {
        sleep(GRACE).await;
        queries.cancel_all();
    }
}
