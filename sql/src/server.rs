//! The listeners: Flight SQL, and HTTP for the routes of [`crate::http::router`] and those that the binary adds.
//!
//! Both hold a bounded number of connections (`connections`), of all and of one peer, and close those that ask nothing;
//! what becomes of one of Flight SQL that has asked is in `calls`. The listener of HTTP has some connections to spare,
//! over which only probes are answered. There is no TLS here: beyond one machine, put a proxy in front that speaks it
//! to clients.

use std::{
    convert::Infallible,
    net::IpAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::Request,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use hyper::{
    body::{Frame, Incoming, SizeHint},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, time::sleep};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::codegen::Service;

use self::{
    calls::Quiet,
    connections::{Asked, Door, Held, Limits},
};
use crate::{
    access::Access,
    error::QueryError,
    flight,
    query::{self, Queries},
};

mod calls;
mod connections;

/// How long queries may go on after the server was told to stop.
const GRACE: Duration = Duration::from_secs(10);

/// The head of a request comes within this time, counted from the answer before it: so long a connection is idle.
const HEAD: Duration = Duration::from_secs(75);

/// Answered also when all connections that may be held are busy.
const PROBES: [&str; 4] = ["/livez", "/readyz", "/healthz", "/metrics"];

/// So many connections are held beside all others, for probes.
const SPARE: usize = 16;

/// What a client of HTTP is told where too many connections are held.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\n\
    Content-Type: application/json\r\nContent-Length: 154\r\n\r\n\
    {\"error\":{\"kind\":\"unavailable\",\"message\":\"too many connections are held\",\
    \"hint\":\"close those that are not used, and try again\",\"line\":null,\"column\":null}}";

/// The address that a request over HTTP came from, for counting: an extension of every request.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub IpAddr);

/// Serves HTTP/1.1 on a listener until told to stop. Then the listener closes at once, and requests that run end.
pub async fn serve_http(listener: TcpListener, router: Router, shutdown: CancellationToken) {
    serve_http_within(Limits { spare: SPARE, ..Limits::default() }, listener, router, shutdown).await;
}

async fn serve_http_within(limits: Limits, listener: TcpListener, router: Router, shutdown: CancellationToken) {
    let (door, told) = (Door::new(listener, limits, FULL), shutdown.clone());
    serve_each(door, shutdown, move |held| serve_connection(held, router.clone(), told.clone())).await;
}

/// Serves each connection that comes in until told to stop. Then the listener closes at once, and waits until all have
/// ended.
async fn serve_each<S>(mut door: Door, shutdown: CancellationToken, serve: impl Fn(Held) -> S)
where
    S: Future<Output = ()> + Send + 'static,
{
    let connections = TaskTracker::new();
    loop {
        let held = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            held = door.next() => held,
        };
        connections.spawn(serve(held));
    }
    drop(door);
    connections.close();
    connections.wait().await;
}

async fn serve_connection(held: Held, router: Router, shutdown: CancellationToken) {
    let (peer, asked, is_spare) = (Peer(held.peer()), held.asked(), held.is_spare());
    let service = service_fn(move |mut request: Request<Incoming>| {
        let (asked, mut router) = (asked.clone(), router.clone());
        let is_taken = asked.note() && (!is_spare || PROBES.contains(&request.uri().path()));
        request.extensions_mut().insert(peer);
        let answer = is_taken.then(|| Service::call(&mut router, request));
        async move {
            let response = match answer {
                Some(answer) => answer.await?,
                None => full(),
            };
            Ok::<_, Infallible>(response.map(|body| Answer { body, asked }))
        }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD).keep_alive(!is_spare);
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

/// The same as [`FULL`], to a client that has asked for something else than a probe over a spare connection.
fn full() -> Response {
    let error = QueryError::unavailable("too many connections are held");
    let mut response = error.with_hint("close those that are not used, and try again").into_response();
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

/// The body of an answer; its connection is busy until it is dropped.
struct Answer {
    body: Body,
    asked: Asked,
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.asked.note_answer();
    }
}

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Serves Flight SQL on a listener until told to stop. Then the listener closes at once, streams that run get
/// ten seconds to end, and the rest is cancelled: their readers are told.
///
/// # Errors
/// `Unavailable` when the listener has no address; a broken connection only ends itself.
pub async fn serve_flight(
    listener: TcpListener,
    queries: Queries,
    access: Arc<Access>,
    shutdown: CancellationToken,
) -> Result<(), QueryError> {
    serve_flight_within(Limits::default(), listener, queries, access, shutdown).await
}

async fn serve_flight_within(
    limits: Limits,
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
    // Until a call moves, its query may be planned and run, each after it has waited for a slot. An answer that nobody
    // reads is dropped sooner.
    let query::Limits { patience, time, .. } = queries.limits();
    let stuck = limits.idle.saturating_add(patience.saturating_add(*time).saturating_mul(2));
    let quiet = Quiet { idle: limits.idle, stuck };
    let (door, told) = (Door::new(listener, limits, b""), shutdown.clone());
    let gate = flight::server(queries, access);
    let serving = serve_each(door, shutdown, move |held| calls::serve(held, gate.clone(), quiet, told.clone()));
    tokio::select! {
        () = serving => {}
        never = stopping => match never {},
    }
    tracing::info!(%address, "Flight SQL has stopped");
    Ok(())
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
    use std::{future, iter, net::SocketAddr};

    use axum::routing::get;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpSocket, TcpStream},
        sync::Semaphore,
        time::{interval, timeout},
    };

    use super::*;
    use crate::testing;

    /// Short enough for a test.
    const FIRST_REQUEST: Duration = Duration::from_millis(200);

    /// What HTTP/2 begins with, and settings that change nothing.
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

    /// Headers of a whole request: `POST /` over `http`.
    const ASK: &[u8] = b"\0\0\x03\x01\x05\0\0\0\x01\x83\x86\x84";

    const PING: &[u8] = b"\0\0\x08\x06\0\0\0\0\0unasked!";

    async fn listening() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    async fn http() -> SocketAddr {
        let (listener, address) = listening().await;
        let limits = Limits { first_request: FIRST_REQUEST, ..Limits::default() };
        tokio::spawn(serve_http_within(limits, listener, Router::new(), CancellationToken::new()));
        address
    }

    async fn flight() -> SocketAddr {
        flight_within(Limits { first_request: FIRST_REQUEST, ..Limits::default() }).await
    }

    async fn flight_within(limits: Limits) -> SocketAddr {
        let (listener, address) = listening().await;
        let queries = testing::queries(query::Limits::default());
        let access = Arc::new(Access::default());
        tokio::spawn(serve_flight_within(limits, listener, queries, access, CancellationToken::new()));
        address
    }

    /// Sends piece after piece, a few milliseconds apart, until the server closes the connection.
    async fn drip(address: SocketAddr, pieces: impl Iterator<Item = &'static [u8]>) {
        let mut client = TcpStream::connect(address).await.unwrap();
        let mut ticks = interval(Duration::from_millis(5));
        let mut answer = [0; 1024];
        for piece in pieces {
            tokio::select! {
                read = client.read(&mut answer) => {
                    if matches!(read, Ok(0) | Err(_)) {
                        return;
                    }
                }
                _ = ticks.tick() => {}
            }
            if client.write_all(piece).await.is_err() {
                return;
            }
        }
    }

    async fn is_closed(address: SocketAddr, pieces: impl Iterator<Item = &'static [u8]>) -> bool {
        timeout(Duration::from_secs(30), drip(address, pieces)).await.is_ok()
    }

    async fn is_held(address: SocketAddr, pieces: impl Iterator<Item = &'static [u8]>) -> bool {
        timeout(FIRST_REQUEST * 4, drip(address, pieces)).await.is_err()
    }

    #[tokio::test]
    async fn a_head_that_drips_does_not_hold_a_connection() {
        let head: &'static [u8] = b"GET /livez HTTP/1.1\r\nX-Slow: ";
        assert!(is_closed(http().await, head.chunks(1).chain(iter::repeat(&b"a"[..]))).await);
        let whole: &'static [u8] = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n";
        assert!(is_held(http().await, iter::repeat(whole)).await);
    }

    #[tokio::test]
    async fn pings_without_a_request_do_not_hold_a_connection() {
        assert!(is_closed(flight().await, PREFACE.chunks(1).chain(iter::repeat(PING))).await);
        assert!(is_held(flight().await, [PREFACE, ASK].into_iter().chain(iter::repeat(PING))).await);
    }

    async fn connect(address: SocketAddr, from: u8) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, from], 0))).unwrap();
        socket.connect(address).await.unwrap()
    }

    async fn ask(client: &mut TcpStream, path: &str) {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        client.write_all(request.as_bytes()).await.unwrap();
    }

    /// What the client is sent until there is `end`, or the connection is closed.
    async fn told(client: &mut TcpStream, end: &str) -> String {
        let mut text = String::new();
        let mut buffer = [0; 1024];
        while !text.ends_with(end) || end.is_empty() {
            match client.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(length) => text.push_str(std::str::from_utf8(&buffer[..length]).unwrap()),
            }
        }
        text
    }

    /// Five connections and one to spare; `/slow` is never answered, and counts who asks for it.
    async fn narrow() -> (SocketAddr, Arc<Semaphore>) {
        let (listener, address) = listening().await;
        let slow = Arc::new(Semaphore::new(0));
        let begun = Arc::clone(&slow);
        let never = move || {
            begun.add_permits(1);
            future::pending::<()>()
        };
        let router = Router::new()
            .route("/livez", get(|| async { "it lives" }))
            .route("/other", get(|| async { "another" }))
            .route("/slow", get(never));
        let limits = Limits { all: 5, of_peer: 3, spare: 1, ..Limits::default() };
        tokio::spawn(serve_http_within(limits, listener, router, CancellationToken::new()));
        (address, slow)
    }

    /// Tries to close the listener to others by connections that ask nothing, or ask once and stay.
    #[tokio::test]
    async fn idle_connections_of_others_keep_nobody_out() {
        let (address, _) = narrow().await;
        let mut crowd = Vec::new();
        for from in [2, 2, 2, 3, 3] {
            crowd.push(connect(address, from).await);
        }
        for client in &mut crowd[..2] {
            ask(client, "/other").await;
            assert!(told(client, "another").await.starts_with("HTTP/1.1 200"));
        }
        for _ in 0..20 {
            let mut client = connect(address, 4).await;
            ask(&mut client, "/other").await;
            assert!(told(&mut client, "another").await.starts_with("HTTP/1.1 200"));
            crowd.push(client);
        }
        // The one that had waited longest of those with most connections had to go.
        assert_eq!(told(&mut crowd[2], "").await, "");
    }

    #[tokio::test]
    async fn probes_are_answered_when_all_connections_are_busy() {
        let (address, slow) = narrow().await;
        let mut busy = Vec::new();
        for from in [2, 2, 2, 3, 3] {
            let mut client = connect(address, from).await;
            ask(&mut client, "/slow").await;
            busy.push(client);
        }
        slow.acquire_many(5).await.unwrap().forget();
        for from in [2, 4] {
            // It asks nothing, and keeps no probe out.
            let _idle = connect(address, from).await;
            let mut probe = connect(address, from).await;
            ask(&mut probe, "/livez").await;
            let answer = told(&mut probe, "").await;
            assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("it lives"), "{answer}");
            let mut other = connect(address, from).await;
            ask(&mut other, "/other").await;
            let answer = told(&mut other, "").await;
            assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("too many connections"), "{answer}");
            assert!(answer.contains("retry-after: 1") && answer.contains("connection: close"), "{answer}");
        }
        // Who hangs up makes room again.
        drop(busy.pop());
        timeout(Duration::from_secs(30), async {
            loop {
                let mut client = connect(address, 4).await;
                ask(&mut client, "/other").await;
                if told(&mut client, "another").await.starts_with("HTTP/1.1 200") {
                    break;
                }
            }
        })
        .await
        .unwrap();
    }

    /// Kinds of frames of HTTP/2.
    const HEADERS: u8 = 1;
    const PINGS: u8 = 6;
    const GOAWAY: u8 = 7;

    /// The kind of the next frame, until the server closes the connection. Answers its pings.
    async fn next_frame(client: &mut TcpStream) -> Option<u8> {
        let mut head = [0; 9];
        client.read_exact(&mut head).await.ok()?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        client.read_exact(&mut payload).await.ok()?;
        let (kind, flags) = (head[3], head[4]);
        if kind == PINGS && flags == 0 {
            client.write_all(&[&b"\0\0\x08\x06\x01\0\0\0\0"[..], &payload].concat()).await.ok()?;
        }
        Some(kind)
    }

    async fn asking(address: SocketAddr) -> TcpStream {
        let mut client = TcpStream::connect(address).await.unwrap();
        // Where there is no room, it is closed already.
        let _asked = client.write_all(&[PREFACE, ASK].concat()).await;
        client
    }

    #[tokio::test]
    async fn a_client_that_asks_nothing_more_is_asked_to_go() {
        let mut client = asking(flight_within(Limits { idle: FIRST_REQUEST, ..Limits::default() }).await).await;
        let frames = async {
            let mut kinds = Vec::new();
            while let Some(kind) = next_frame(&mut client).await {
                kinds.push(kind);
            }
            kinds
        };
        let kinds = timeout(Duration::from_secs(30), frames).await.unwrap();
        assert!(kinds.contains(&HEADERS) && kinds.contains(&GOAWAY), "{kinds:?}");
    }

    #[tokio::test]
    async fn a_client_that_asks_nothing_more_makes_room_for_another() {
        let address = flight_within(Limits { all: 1, ..Limits::default() }).await;
        let mut first = asking(address).await;
        while next_frame(&mut first).await.unwrap() != HEADERS {}
        let another_is_answered = async {
            loop {
                let mut client = asking(address).await;
                while let Some(kind) = next_frame(&mut client).await {
                    if kind == HEADERS {
                        return;
                    }
                }
            }
        };
        timeout(Duration::from_secs(30), another_is_answered).await.unwrap();
    }

    #[test]
    fn the_answer_for_too_many_connections_is_well_formed() {
        let text = std::str::from_utf8(FULL).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.ends_with(&format!("Content-Length: {}", body.len())), "{head}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(body).unwrap()["error"]["kind"], "unavailable");
    }
}
