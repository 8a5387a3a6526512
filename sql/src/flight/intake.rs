//! Bodies of requests as they come in: how many bytes of each, of each sender and of all at once, and for how long.
//!
//! ```text
//!   request ──► room for its head ──► a piece of its body ──► room for the piece ──► gathered to a message
//!                 │ none: told so        │ too late: told so     │ none, or too many: told so
//! ```
//!
//! The library gathers the pieces of a message until it is whole, however many requests do the same, and however long
//! that takes. So a piece gets its room here before the library gets the piece. A request gives its room back when its
//! body has been read to what it was sent for, or has failed. Who only announces a large message takes no room for it.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::time::{Sleep, sleep};
use tonic::{Status, body::Body};

use crate::error::{ErrorKind, QueryError};

/// A request takes so much before any of its body has come, for its headers.
pub(super) const HEAD: usize = 16 << 10;

/// What the body of a request may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Most {
    /// So many bytes, of all its messages.
    pub(super) bytes: usize,
    /// All of them come within this time.
    pub(super) time: Duration,
}

/// Memory for bodies that come in; clones share it.
#[derive(Clone, Debug)]
pub(super) struct Room {
    /// Bytes of all bodies.
    all: usize,
    /// Bytes of those of one sender.
    of_one: usize,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by: HashMap<Arc<str>, usize>,
}

impl Room {
    pub(super) fn new(all: usize, of_one: usize) -> Self {
        Self { all, of_one, taken: Arc::default() }
    }

    /// Gives room to a request of a sender, and to its body as it comes.
    ///
    /// # Errors
    /// `Busy` when there is no room. The body itself fails as `Busy` when there is none for what comes, as `Invalid`
    /// when it is too long, and as `TimedOut`.
    pub(super) fn admit(&self, sender: &str, body: Body, most: Most) -> Result<Body, QueryError> {
        let sender: Arc<str> = sender.into();
        if !self.take(&sender, HEAD) {
            return Err(self.full());
        }
        let by = Box::pin(sleep(most.time));
        Ok(Body::new(Intake { body, most, by, came: 0, sender, room: self.clone() }))
    }

    fn take(&self, sender: &Arc<str>, bytes: usize) -> bool {
        let mut taken = self.taken();
        let own = taken.by.get(sender).copied().unwrap_or_default();
        if bytes > self.all.saturating_sub(taken.all) || bytes > self.of_one.saturating_sub(own) {
            return false;
        }
        taken.all += bytes;
        taken.by.insert(Arc::clone(sender), own + bytes);
        true
    }

    fn give_back(&self, sender: &Arc<str>, bytes: usize) {
        let mut taken = self.taken();
        taken.all -= bytes;
        match taken.by.get_mut(sender) {
            Some(own) if *own > bytes => *own -= bytes,
            _ => {
                taken.by.remove(sender);
            }
        }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn full(&self) -> QueryError {
        let Self { all, of_one, .. } = self;
        QueryError::busy(format!("too much comes in at once: {all} bytes of all senders may, {of_one} of one"))
            .with_hint("send fewer requests at a time, or shorter ones, and this one again in a while")
    }
}

/// A body whose bytes have their room.
struct Intake {
    body: Body,
    most: Most,
    by: Pin<Box<Sleep>>,
    /// Bytes that have come.
    came: usize,
    sender: Arc<str>,
    room: Room,
}

impl Intake {
    fn make_room(&mut self, bytes: usize) -> Result<(), QueryError> {
        let Most { bytes: most, .. } = self.most;
        if bytes > most - self.came {
            return Err(QueryError::invalid(format!("the request has more than {most} bytes"))
                .with_hint("send a shorter statement, or bind fewer rows at a time"));
        }
        if !self.room.take(&self.sender, bytes) {
            return Err(self.room.full());
        }
        self.came += bytes;
        Ok(())
    }

    fn late(&self) -> QueryError {
        let message = format!("the request did not come whole within {} s", self.most.time.as_secs_f64());
        QueryError::new(ErrorKind::TimedOut, message).with_hint("send it again, or bind fewer rows at a time")
    }
}

impl hyper::body::Body for Intake {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = self.get_mut();
        let Poll::Ready(next) = Pin::new(&mut this.body).poll_frame(context) else {
            ready!(this.by.as_mut().poll(context));
            return Poll::Ready(Some(Err(this.late().into())));
        };
        let bytes = match &next {
            Some(Ok(frame)) => frame.data_ref().map_or(0, Bytes::len),
            _ => 0,
        };
        match this.make_room(bytes) {
            Ok(()) => Poll::Ready(next),
            Err(error) => Poll::Ready(Some(Err(error.into()))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Intake {
    fn drop(&mut self) {
        self.room.give_back(&self.sender, HEAD + self.came);
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, future::poll_fn};

    use futures::{Stream, StreamExt, stream};
    use tonic::Code;

    use hyper::body::Body as _;

    use super::*;

    const KIB: usize = 1 << 10;

    const MOST: Most = Most { bytes: 100 * KIB, time: Duration::from_secs(600) };

    fn body(pieces: impl Stream<Item = usize> + Send + 'static) -> Body {
        let pieces = pieces.map(|bytes| Ok::<_, Infallible>(Bytes::from(vec![0; bytes])));
        Body::new(axum::body::Body::from_stream(pieces))
    }

    /// Pieces of so many KiB, and then nothing more for good.
    fn stalled(pieces: &'static [usize]) -> Body {
        body(stream::iter(pieces).map(|kib| kib * KIB).chain(stream::pending()))
    }

    /// The next piece of a body that has one, or why there is none.
    async fn next(body: &mut Body) -> Result<usize, Code> {
        let frame = poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await;
        let frame = frame.unwrap().map_err(|status| status.code())?;
        Ok(frame.into_data().unwrap().len())
    }

    #[tokio::test]
    async fn bytes_take_room_as_they_come_and_give_it_back() {
        let room = Room::new(100 * KIB, 50 * KIB);
        let admit = |sender: &str, body| room.admit(sender, body, MOST);
        let mut first = admit("ana", stalled(&[30, 30])).unwrap();
        assert_eq!(room.taken().all, HEAD, "nothing has come yet");
        assert_eq!(next(&mut first).await, Ok(30 * KIB));
        assert!(admit("ana", stalled(&[])).is_err(), "her share is taken");
        assert_eq!(next(&mut first).await, Err(Code::ResourceExhausted));
        let mut other = admit("ben", stalled(&[34])).unwrap();
        assert_eq!(next(&mut other).await, Ok(34 * KIB));
        let error = admit("cy", stalled(&[])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy);
        assert!(error.hint().is_some_and(|hint| hint.contains("shorter")));
        drop(first);
        assert!(admit("cy", stalled(&[])).is_ok());
        drop(other);
        let taken = room.taken();
        assert!(taken.all == 0 && taken.by.is_empty());
    }

    #[tokio::test]
    async fn a_body_has_so_many_bytes_at_most() {
        let room = Room::new(1000 * KIB, 1000 * KIB);
        let mut long = room.admit("ana", body(stream::iter([60 * KIB, 40 * KIB, 1])), MOST).unwrap();
        assert_eq!(next(&mut long).await, Ok(60 * KIB));
        assert_eq!(next(&mut long).await, Ok(40 * KIB));
        assert_eq!(next(&mut long).await, Err(Code::InvalidArgument));
    }

    #[tokio::test]
    async fn a_body_that_stalls_or_drips_ends() {
        let room = Room::new(1000 * KIB, 1000 * KIB);
        let most = Most { time: Duration::from_millis(20), ..MOST };
        let mut silent = room.admit("ana", stalled(&[1]), most).unwrap();
        assert_eq!(next(&mut silent).await, Ok(KIB));
        assert_eq!(next(&mut silent).await, Err(Code::DeadlineExceeded));
        let drips = stream::unfold((), |()| async { Some((sleep(Duration::from_millis(1)).await, ())) }).map(|()| 1);
        let mut drips = room.admit("ana", body(drips), most).unwrap();
        let ended = loop {
            if let Err(code) = next(&mut drips).await {
                break code;
            }
        };
        assert_eq!(ended, Code::DeadlineExceeded);
    }
}
