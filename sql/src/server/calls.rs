//! Connections of Flight SQL: which calls are open on one, and what becomes of it when nothing happens any more.
//!
//! ```text
//!   calls ◄──► none is open ─── for `idle` ───► GOAWAY ──► open calls end ──► closed
//!     └─────── none of the open ones moves, for `stuck` ─►    └ none moves, for `stuck` once more ──► closed
//! ```
//!
//! By GOAWAY, a server of HTTP/2 asks a client to open another connection for its next call. Clients of gRPC do, and
//! lose no call over it, so they may keep a connection as long as they like.
//!
//! A call moves when its client takes a piece of its answer. Clients that take nothing and never hang up would hold a
//! connection for good otherwise: they still answer pings.
//!
//! What the library keeps of what comes in is bounded by a connection's window, and by the headers of its calls.

use std::{
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::extract::Request;
use bytes::Bytes;
use hyper::{
    body::{Frame, Incoming, SizeHint},
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tonic::{Status, body::Body, codegen::Service};

use super::{
    Peer,
    connections::{Asked, Held},
};
use crate::flight::Gate;

/// A client that says nothing for so long is asked whether it is still there …
const PING: Duration = Duration::from_secs(30);

/// … and answers within this time.
const PONG: Duration = Duration::from_secs(20);

/// So many bytes of bodies wait, at most, on one connection.
const WINDOW: u32 = 256 << 10;

/// So many calls are open at once, at most, on one connection.
const CALLS: u32 = 100;

/// The headers of a call have so many bytes at most.
const HEADERS: u32 = 16 << 10;

/// How long nothing may happen on a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quiet {
    /// When no call is open.
    pub(super) idle: Duration,
    /// When calls are open and none moves.
    pub(super) stuck: Duration,
}

/// Serves a connection until its client closes it, until it was quiet for too long, or until told to stop.
pub(super) async fn serve(held: Held, gate: Gate, quiet: Quiet, shutdown: CancellationToken) {
    let peer = Peer(held.peer());
    let calls = Calls::new(held.asked());
    let opening = calls.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        let (call, mut gate) = (opening.open(), gate.clone());
        request.extensions_mut().insert(peer);
        let answer = Service::call(&mut gate, request.map(Body::new));
        async move { answer.await.map(|response| response.map(|body| Answer { body, call })) }
    });
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(PING)
        .keep_alive_timeout(PONG)
        .initial_connection_window_size(WINDOW)
        .initial_stream_window_size(WINDOW)
        .max_concurrent_streams(CALLS)
        .max_header_list_size(HEADERS);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(held), service));
    let mut ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = shutdown.cancelled() => None,
        () = calls.quiet(quiet) => None,
    };
    if ended.is_none() {
        connection.as_mut().graceful_shutdown();
        calls.note();
        ended = tokio::select! {
            ended = connection.as_mut() => Some(ended),
            () = calls.quiet(quiet) => None,
        };
    }
    match ended {
        Some(Ok(())) => {}
        Some(Err(error)) => tracing::debug!(%error, "a connection of Flight SQL has failed"),
        None => tracing::debug!(peer = %peer.0, "closed a connection of Flight SQL whose calls do not end"),
    }
}

/// The calls of a connection.
#[derive(Clone, Debug)]
struct Calls {
    asked: Asked,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    open: usize,
    /// When one was opened, moved or ended last.
    moved: Instant,
}

impl Calls {
    fn new(asked: Asked) -> Self {
        Self { asked, state: Arc::new(Mutex::new(State { open: 0, moved: Instant::now() })) }
    }

    /// Notes that a call has come.
    fn open(&self) -> Call {
        let mut state = self.state();
        state.open += 1;
        state.moved = Instant::now();
        self.asked.note();
        Call(self.clone())
    }

    /// Notes that something happens.
    fn note(&self) {
        self.state().moved = Instant::now();
    }

    /// Waits until nothing has happened for too long.
    async fn quiet(&self, quiet: Quiet) {
        loop {
            let left = self.left(quiet);
            if left.is_zero() {
                return;
            }
            sleep(left.min(quiet.idle)).await;
        }
    }

    fn left(&self, Quiet { idle, stuck }: Quiet) -> Duration {
        let state = self.state();
        let most = if state.open == 0 { idle } else { stuck };
        most.saturating_sub(state.moved.elapsed())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call that is open until this is dropped.
#[derive(Debug)]
struct Call(Calls);

impl Drop for Call {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.open -= 1;
        state.moved = Instant::now();
        if state.open == 0 {
            self.0.asked.note_answer();
        }
    }
}

/// The body of an answer.
struct Answer {
    body: Body,
    call: Call,
}

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = self.get_mut();
        let next = ready!(Pin::new(&mut this.body).poll_frame(context));
        this.call.0.note();
        Poll::Ready(next)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        net::{TcpListener, TcpStream},
        time::timeout,
    };

    use super::*;
    use crate::server::connections::{Door, Limits};

    #[tokio::test]
    async fn a_connection_is_quiet_when_no_call_is_open_or_none_moves() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let held = Door::new(listener, Limits::default(), b"").next().await;
        let calls = Calls::new(held.asked());
        let (short, long) = (Duration::from_millis(20), Duration::from_secs(600));
        let is_quiet = async |idle, stuck| timeout(short * 10, calls.quiet(Quiet { idle, stuck })).await.is_ok();
        assert!(is_quiet(short, long).await);
        let (first, second) = (calls.open(), calls.open());
        assert!(!is_quiet(short, long).await, "calls are open");
        assert!(is_quiet(long, short).await, "no call moves");
        drop(first);
        assert!(!is_quiet(short, long).await, "a call is open");
        drop(second);
        assert!(is_quiet(short, long).await);
    }
}
