//! Connections that are held: how many, of whom, and how soon they have to ask something.
//!
//! ```text
//!   accept ──► a place among all and among the peer's ──► first request in time ──► served
//!                 │ none: told so, and closed                │ none: closed
//! ```
//!
//! A request has come once its head is whole. Bytes alone do not put off the end: a client that sends one byte a second
//! does not keep its place, nor does one that answers the pings of HTTP/2 and asks nothing.
//!
//! A peer is an IPv4 address, or the 64 bits of an IPv6 address that one machine or network has to itself.

use std::{
    collections::HashMap,
    io::{self, Write},
    net::{IpAddr, Ipv6Addr},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    time::{Instant, Sleep, sleep, sleep_until},
};
use tonic::transport::server::{Connected, TcpConnectInfo};

/// Limits of a listener.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Connections that are held at once.
    pub(super) all: usize,
    /// Those of one peer.
    pub(super) of_peer: usize,
    /// The whole head of a connection's first request comes within this time.
    pub(super) first_request: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { all: 512, of_peer: 256, first_request: Duration::from_secs(10) }
    }
}

/// Refused connections are logged this often at most.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// A pause after an error of the listener itself, such as too many open files.
const PAUSE: Duration = Duration::from_secs(1);

/// A listener that holds a bounded number of connections.
pub(super) struct Door {
    listener: TcpListener,
    limits: Limits,
    places: Places,
    /// Said to a connection that finds no place.
    full: &'static [u8],
    logged: Option<Instant>,
}

impl Door {
    /// A door of this listener; `full` is sent to those who find no place.
    pub(super) fn new(listener: TcpListener, limits: Limits, full: &'static [u8]) -> Self {
        Self { listener, limits, places: Places::default(), full, logged: None }
    }

    /// The next connection that has a place.
    pub(super) async fn next(&mut self) -> Held {
        loop {
            let (io, peer) = match self.listener.accept().await {
                Ok((io, address)) => (io, peer_of(address.ip())),
                Err(error) => {
                    let gone = [io::ErrorKind::ConnectionAborted, io::ErrorKind::ConnectionReset];
                    if !gone.contains(&error.kind()) {
                        tracing::warn!(%error, "connections cannot be accepted; trying again");
                        sleep(PAUSE).await;
                    }
                    continue;
                }
            };
            match self.places.take(peer, &self.limits) {
                Some(place) => {
                    // Answers are small, and clients wait for them.
                    let _slower = io.set_nodelay(true);
                    let by = Box::pin(sleep_until(Instant::now() + self.limits.first_request));
                    return Held { io, place, asked: Asked::default(), by: Some(by) };
                }
                None => self.refuse(io, peer),
            }
        }
    }

    fn refuse(&mut self, io: TcpStream, peer: IpAddr) {
        // It has sent nothing yet that could block: either the few bytes fit or they are lost.
        let _told = io.into_std().and_then(|mut io| io.write_all(self.full));
        let now = Instant::now();
        if self.logged.is_none_or(|logged| now.duration_since(logged) >= LOG_EVERY) {
            self.logged = Some(now);
            let Limits { all, of_peer, .. } = self.limits;
            tracing::warn!(%peer, all, of_peer, "a connection was refused: too many are held");
        }
    }
}

/// Who is on the other side, for counting.
pub(crate) fn peer_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => {
            let network = address.to_bits() >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from_bits(network))
        }
        address => address,
    }
}

#[derive(Clone, Debug, Default)]
struct Places(Arc<Mutex<HashMap<IpAddr, usize>>>);

impl Places {
    fn take(&self, peer: IpAddr, limits: &Limits) -> Option<Place> {
        let mut taken = self.taken();
        let all: usize = taken.values().sum();
        let of_peer = taken.get(&peer).copied().unwrap_or_default();
        if all >= limits.all || of_peer >= limits.of_peer {
            return None;
        }
        taken.insert(peer, of_peer + 1);
        Some(Place { peer, places: self.clone() })
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place of a connection; free again when dropped.
#[derive(Debug)]
struct Place {
    peer: IpAddr,
    places: Places,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        match taken.get_mut(&self.peer) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                taken.remove(&self.peer);
            }
        }
    }
}

/// Whether a connection has asked something: who serves it notes that, and its clones see it.
#[derive(Clone, Debug, Default)]
pub(super) struct Asked(Arc<AtomicBool>);

impl Asked {
    /// Notes that the whole head of a request has come.
    pub(super) fn note(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_noted(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// What the requests of a connection know about it.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    pub(super) addresses: TcpConnectInfo,
    pub(super) asked: Asked,
}

/// A connection that has a place.
#[derive(Debug)]
pub(super) struct Held {
    io: TcpStream,
    place: Place,
    /// It has to have asked something …
    asked: Asked,
    /// … by this time; none once it has.
    by: Option<Pin<Box<Sleep>>>,
}

impl Held {
    /// Who is on the other side.
    pub(super) fn peer(&self) -> IpAddr {
        self.place.peer
    }

    /// Where to note that it has asked something.
    pub(super) fn asked(&self) -> Asked {
        self.asked.clone()
    }
}

impl Connected for Held {
    type ConnectInfo = Origin;

    fn connect_info(&self) -> Self::ConnectInfo {
        Origin { addresses: self.io.connect_info(), asked: self.asked() }
    }
}

impl AsyncRead for Held {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.asked.is_noted() {
            this.by = None;
        }
        if let Some(by) = &mut this.by
            && by.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut this.io).poll_read(context, buffer)
    }
}

impl AsyncWrite for Held {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(context)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn door(limits: Limits) -> (Door, std::net::SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (Door::new(listener, limits, b"full"), address)
    }

    #[tokio::test]
    async fn a_peer_holds_a_bounded_number_of_connections() {
        let limits = Limits { of_peer: 2, ..Limits::default() };
        let (mut door, address) = door(limits).await;
        let _clients = [TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap()];
        let held = [door.next().await, door.next().await];
        let mut refused = TcpStream::connect(address).await.unwrap();
        let mut said = Vec::new();
        tokio::select! {
            biased;
            _ = door.next() => panic!("there was no place"),
            read = refused.read_to_end(&mut said) => assert_eq!(read.unwrap(), 4),
        }
        assert_eq!(said, b"full");
        drop(held);
        let _client = TcpStream::connect(address).await.unwrap();
        assert!(door.next().await.peer().is_loopback());
    }

    #[tokio::test]
    async fn a_connection_that_asks_nothing_ends() {
        let limits = Limits { first_request: Duration::from_millis(20), ..Limits::default() };
        let (mut door, address) = door(limits).await;
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"12").await.unwrap();
        let mut held = door.next().await;
        let error = held.read_exact(&mut [0; 3]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_connection_that_has_asked_may_take_its_time() {
        let (mut door, address) = door(Limits::default()).await;
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"123").await.unwrap();
        let mut held = door.next().await;
        held.read_exact(&mut [0; 2]).await.unwrap();
        assert!(held.by.is_some(), "bytes alone are no request");
        held.asked().note();
        held.read_exact(&mut [0; 1]).await.unwrap();
        assert!(held.by.is_none());
    }

    #[test]
    fn peers_are_addresses_or_networks() {
        let peer = |text: &str| peer_of(text.parse().unwrap()).to_string();
        assert_eq!(peer("192.0.2.1"), "192.0.2.1");
        assert_eq!(peer("::ffff:192.0.2.1"), "192.0.2.1");
        assert_eq!(peer("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(peer("::1"), "::1");
    }
}
