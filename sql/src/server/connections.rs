//! Connections that are held: how many, of whom, and how soon they have to ask something.
//!
//! ```text
//!   accept ──► a place among all and among the peer's ──► waits for a request ◄──► asks, and is answered
//!                 │ none: a spare one, for probes            │ not in time, or another one needs the place: closed
//!                 │ none: told so, and closed
//! ```
//!
//! A connection that waits is closed when a new one finds no place: of the peer that has most, the one that has waited
//! longest. So new ones get in unless all others are busy. A connection that has just come is safe from peers that have
//! as many or more, so that it can ask before a crowd takes its place.
//!
//! A request has come once its head is whole. Bytes alone do not put off the end: a client that sends one byte a second
//! does not keep its place, nor does one that answers the pings of HTTP/2 and asks nothing.
//!
//! A peer is an IPv4 address, or the 64 bits of an IPv6 address that one machine or network has to itself.

use std::{
    cmp::Reverse,
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
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Limits of a listener.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Connections that are held at once.
    pub(super) all: usize,
    /// Those of one peer.
    pub(super) of_peer: usize,
    /// Those beside all, for probes alone.
    pub(super) spare: usize,
    /// The whole head of a connection's first request comes within this time.
    pub(super) first_request: Duration,
    /// A connection of Flight SQL on which no call is open is kept for so long.
    pub(super) idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            all: 512,
            of_peer: 256,
            spare: 0,
            first_request: Duration::from_secs(10),
            idle: Duration::from_secs(600),
        }
    }
}

/// A connection has so long to ask before a peer that has as many takes its place.
const TO_ASK: Duration = Duration::from_secs(1);

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
                    let closed = Box::pin(place.closed.clone().cancelled_owned());
                    return Held { io, asked: place.asked(), place, by: Some(by), closed };
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
fn peer_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => {
            let network = address.to_bits() >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from_bits(network))
        }
        address => address,
    }
}

#[derive(Clone, Debug, Default)]
struct Places(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    next: u64,
    taken: HashMap<u64, Taken>,
}

#[derive(Debug)]
struct Taken {
    peer: IpAddr,
    is_spare: bool,
    state: State,
    closed: CancellationToken,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// For a request, since then.
    Waits(Instant),
    Asks,
    /// The whole answer was made, and may not have been sent yet.
    IsAnswered,
}

impl Places {
    fn take(&self, peer: IpAddr, limits: &Limits) -> Option<Place> {
        let mut table = self.table();
        let is_spare = !table.has_room(peer, false, limits.all, limits.of_peer);
        if is_spare && !table.has_room(peer, true, limits.spare, limits.spare) {
            return None;
        }
        let (number, closed) = (table.next, CancellationToken::new());
        table.next += 1;
        let taken = Taken { peer, is_spare, state: State::Waits(Instant::now()), closed: closed.clone() };
        table.taken.insert(number, taken);
        Some(Place { places: self.clone(), number, peer, is_spare, closed })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Whether there is room for one more connection of this peer; closes one that waits where that makes room.
    fn has_room(&mut self, peer: IpAddr, is_spare: bool, all: usize, of_peer: usize) -> bool {
        let mut held: HashMap<IpAddr, usize> = HashMap::new();
        for taken in self.taken.values().filter(|taken| taken.is_spare == is_spare) {
            *held.entry(taken.peer).or_default() += 1;
        }
        let held_by = |peer: &IpAddr| held.get(peer).copied().unwrap_or_default();
        let own = held_by(&peer);
        if own < of_peer && held.values().sum::<usize>() < all {
            return true;
        }
        let now = Instant::now();
        let waiting = self.taken.iter().filter_map(|(number, taken)| {
            let State::Waits(since) = taken.state else { return None };
            let of_its_peer = held_by(&taken.peer);
            let is_safe = own >= of_peer || (of_its_peer <= own && now.duration_since(since) < TO_ASK);
            let gives = taken.is_spare == is_spare && (taken.peer == peer || !is_safe);
            gives.then_some((of_its_peer, Reverse(since), *number))
        });
        let Some((_, _, number)) = waiting.max() else { return false };
        if let Some(taken) = self.taken.remove(&number) {
            taken.closed.cancel();
        }
        true
    }
}

/// A place of a connection; free again when dropped.
#[derive(Debug)]
struct Place {
    places: Places,
    number: u64,
    peer: IpAddr,
    is_spare: bool,
    /// Cancelled when another connection needs the place.
    closed: CancellationToken,
}

impl Place {
    fn asked(&self) -> Asked {
        Asked { places: self.places.clone(), number: self.number, has_asked: Arc::default() }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.table().taken.remove(&self.number);
    }
}

/// Whether a connection has asked something: who serves it notes that, and its clones see it.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    places: Places,
    number: u64,
    has_asked: Arc<AtomicBool>,
}

impl Asked {
    /// Notes that the whole head of a request has come. False: the place has just been given to another connection.
    pub(super) fn note(&self) -> bool {
        self.has_asked.store(true, Ordering::Relaxed);
        self.change(|_| State::Asks)
    }

    /// Notes that the answer was made. Once all of it has been sent, the connection waits for its next request.
    pub(super) fn note_answer(&self) {
        self.change(|_| State::IsAnswered);
    }

    fn note_sent(&self) {
        self.change(|state| if state == State::IsAnswered { State::Waits(Instant::now()) } else { state });
    }

    fn change(&self, change: impl FnOnce(State) -> State) -> bool {
        let mut table = self.places.table();
        let Some(taken) = table.taken.get_mut(&self.number) else { return false };
        taken.state = change(taken.state);
        true
    }

    fn is_noted(&self) -> bool {
        self.has_asked.load(Ordering::Relaxed)
    }
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
    /// Ready when another connection needs the place.
    closed: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Held {
    /// Who is on the other side.
    pub(super) fn peer(&self) -> IpAddr {
        self.place.peer
    }

    /// Whether it is beside all that may be held, and may only ask for probes.
    pub(super) fn is_spare(&self) -> bool {
        self.place.is_spare
    }

    /// Where to note that it has asked something.
    pub(super) fn asked(&self) -> Asked {
        self.asked.clone()
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
        if this.closed.as_mut().poll(context).is_ready() {
            // As if its client had closed it.
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.io).poll_read(context, buffer)
    }
}

impl AsyncWrite for Held {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.io).poll_flush(context);
        if matches!(flushed, Poll::Ready(Ok(()))) {
            this.asked.note_sent();
        }
        flushed
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
        assert!(held.iter().all(|held| held.asked().note()));
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
    async fn who_waits_longest_makes_room_and_who_is_answered_does_not() {
        let (mut door, address) = door(Limits { all: 3, ..Limits::default() }).await;
        let mut clients = Vec::new();
        let mut held = Vec::new();
        for _ in 0..3 {
            clients.push(TcpStream::connect(address).await.unwrap());
            held.push(door.next().await);
        }
        let mut buffer = [0];
        assert!(held[0].asked().note() && held[1].asked().note());
        // The third one waits; then the first, which has been answered; then the second, of which not all was sent.
        for gone in [2, 0] {
            held[1].asked().note_answer();
            clients.push(TcpStream::connect(address).await.unwrap());
            let came = door.next().await;
            assert!(came.asked().note());
            assert_eq!(held[gone].read(&mut buffer).await.unwrap(), 0, "{gone}");
            assert!(!held[gone].asked().note(), "its place is another's");
            held.push(came);
            held[0].asked().note_answer();
            held[0].flush().await.unwrap();
        }
        let mut refused = TcpStream::connect(address).await.unwrap();
        let mut said = Vec::new();
        tokio::select! {
            biased;
            _ = door.next() => panic!("all are busy"),
            read = refused.read_to_end(&mut said) => assert_eq!(read.unwrap(), 4),
        }
        assert!(held[1].asked().note(), "it is still held");
    }

    /// Tries to keep others out by a crowd that takes each place as soon as somebody has it.
    #[test]
    fn a_crowd_makes_room_for_others_and_not_the_other_way_round() {
        let limits = Limits { all: 4, of_peer: 4, ..Limits::default() };
        let places = Places::default();
        let take = |last: u8| places.take(IpAddr::from([10, 0, 0, last]), &limits).unwrap();
        let crowd: Vec<Place> = (0..4).map(|_| take(1)).collect();
        let other = take(2);
        let more: Vec<Place> = (0..100).map(|_| take(1)).collect();
        assert!(crowd.iter().all(|place| place.closed.is_cancelled()) && !other.closed.is_cancelled());
        assert_eq!(more.iter().filter(|place| !place.closed.is_cancelled()).count(), 3);
        assert!(!take(3).closed.is_cancelled() && !other.closed.is_cancelled());
    }

    #[test]
    fn spare_places_are_taken_when_all_are_busy() {
        let limits = Limits { all: 2, of_peer: 2, spare: 1, ..Limits::default() };
        let places = Places::default();
        let take = |last: u8| places.take(IpAddr::from([10, 0, 0, last]), &limits);
        let busy = [take(1).unwrap(), take(1).unwrap()];
        assert!(busy.iter().all(|place| place.asked().note() && !place.is_spare));
        let spare = take(1).unwrap();
        assert!(spare.is_spare && spare.asked().note());
        assert!(take(2).is_none());
        drop(busy);
        assert!(take(2).is_some_and(|place| !place.is_spare));
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
