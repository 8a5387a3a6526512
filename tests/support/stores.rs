//! Stores that misbehave: one that fails by a seeded plan, one that fails at a given operation, one that lets something
//! else happen in the middle of somebody's work.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use fastrand::Rng;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use starmere_lake::delta::Warehouse;
use starmere_lake::store::Store;

/// What is done to a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// Reads, lists, begins an upload: everything is as before.
    Read,
    /// Writes an object, or a part of an upload, or ends one.
    Write,
}

/// What happens to operations on their way to the store.
#[async_trait]
pub(crate) trait Tamper: fmt::Debug + Send + Sync + 'static {
    /// Called before every operation; an error is the operation's.
    async fn before(&self, store: &dyn ObjectStore, operation: Operation, path: &Path) -> Result<()>;

    /// Writes an object.
    async fn put(
        &self,
        store: &dyn ObjectStore,
        path: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        store.put_opts(path, payload, options).await
    }

    /// Called after every write that was done; an error hides that it was.
    async fn after(&self, _: &Path) -> Result<()> {
        Ok(())
    }
}

/// A store behind a [`Tamper`].
#[derive(Debug)]
struct Tampered<T> {
    store: Arc<dyn ObjectStore>,
    tamper: Arc<T>,
}

/// An upload in parts to such a store.
#[derive(Debug)]
struct Upload<T> {
    upload: Box<dyn MultipartUpload>,
    store: Arc<dyn ObjectStore>,
    tamper: Arc<T>,
    path: Path,
}

/// A warehouse in this store.
pub(crate) fn plain(store: &Arc<InMemory>) -> Warehouse {
    Warehouse::new(Store::over(store.clone(), "memory://plain"))
}

/// A warehouse in this store, reached by way of a [`Tamper`].
pub(crate) fn tampered<T: Tamper>(store: &Arc<InMemory>, tamper: &Arc<T>) -> Warehouse {
    tampered_over(store.clone(), tamper)
}

/// The same, for a store of any kind.
pub(crate) fn tampered_over<T: Tamper>(store: Arc<dyn ObjectStore>, tamper: &Arc<T>) -> Warehouse {
    let objects = Tampered { store, tamper: tamper.clone() };
    Warehouse::new(Store::over(Arc::new(objects), "memory://tampered"))
}

impl<T: Tamper> fmt::Display for Tampered<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tampered {}", self.store)
    }
}

#[async_trait]
impl<T: Tamper> ObjectStore for Tampered<T> {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.tamper.before(&*self.store, Operation::Write, path).await?;
        let put = self.tamper.put(&*self.store, path, payload, options).await?;
        self.tamper.after(path).await?;
        Ok(put)
    }

    async fn put_multipart_opts(&self, path: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.tamper.before(&*self.store, Operation::Read, path).await?;
        let upload = self.store.put_multipart_opts(path, options).await?;
        Ok(Box::new(Upload { upload, store: self.store.clone(), tamper: self.tamper.clone(), path: path.clone() }))
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.tamper.before(&*self.store, Operation::Read, path).await?;
        self.store.get_opts(path, options).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.store.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (store, tamper, prefix) = (self.store.clone(), self.tamper.clone(), prefix.cloned());
        let listed = async move {
            match tamper.before(&*store, Operation::Read, &prefix.clone().unwrap_or_default()).await {
                Ok(()) => store.list(prefix.as_ref()),
                Err(error) => stream::once(async move { Err(error) }).boxed(),
            }
        };
        stream::once(listed).flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.store.copy_opts(from, to, options).await
    }
}

#[async_trait]
impl<T: Tamper> MultipartUpload for Upload<T> {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let part = self.upload.put_part(data);
        let (store, tamper, path) = (self.store.clone(), self.tamper.clone(), self.path.clone());
        async move {
            tamper.before(&*store, Operation::Write, &path).await?;
            part.await?;
            tamper.after(&path).await
        }
        .boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.tamper.before(&*self.store, Operation::Write, &self.path).await?;
        let put = self.upload.complete().await?;
        self.tamper.after(&self.path).await?;
        Ok(put)
    }

    async fn abort(&mut self) -> Result<()> {
        self.upload.abort().await
    }
}

/// Fails by a seeded plan: before a write, after it took effect, by sending it twice (so that a creation finds its
/// own object), by saying that another object is there which is not (S3 does, where two create it at once: 409), or by
/// letting it take effect later, when nobody waits for it any more. Reading fails too.
#[derive(Debug)]
pub(crate) struct Failing {
    plan: Mutex<Plan>,
}

#[derive(Debug)]
struct Plan {
    random: Rng,
    /// Of a hundred writes, so many fail.
    percent: u32,
    late: Vec<Late>,
}

/// A write that is on its way.
#[derive(Debug)]
struct Late {
    /// After so many operations of others.
    after: u32,
    path: Path,
    payload: PutPayload,
    options: PutOptions,
}

enum Fate {
    Done,
    LostBefore,
    LostAfter,
    SentTwice,
    Contended,
    Late,
}

fn lost(path: &Path) -> Error {
    Error::Generic { store: "failing", source: format!("the answer about `{path}` was lost").into() }
}

impl Failing {
    pub(crate) fn new(seed: u64, percent: u32) -> Arc<Self> {
        Arc::new(Self { plan: Mutex::new(Plan { random: Rng::with_seed(seed), percent, late: Vec::new() }) })
    }

    /// From now on, nothing fails; what is on its way never arrives.
    pub(crate) fn heal(&self) {
        let mut plan = self.plan();
        plan.percent = 0;
        plan.late.clear();
    }

    fn plan(&self) -> std::sync::MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether reading fails, and the late writes whose time has come.
    fn next(&self) -> (bool, Vec<Late>) {
        let mut plan = self.plan();
        plan.late.iter_mut().for_each(|late| late.after = late.after.saturating_sub(1));
        let (due, waiting) = std::mem::take(&mut plan.late).into_iter().partition(|late| late.after == 0);
        plan.late = waiting;
        let percent = plan.percent;
        (plan.random.u32(0..400) < percent, due)
    }

    fn fate(&self) -> Fate {
        let mut plan = self.plan();
        let percent = plan.percent;
        if plan.random.u32(0..100) >= percent {
            return Fate::Done;
        }
        match plan.random.u32(0..5) {
            0 => Fate::LostBefore,
            1 => Fate::LostAfter,
            2 => Fate::SentTwice,
            3 => Fate::Contended,
            _ => Fate::Late,
        }
    }

    fn delay(&self, path: &Path, payload: PutPayload, options: PutOptions) {
        let mut plan = self.plan();
        let after = plan.random.u32(1..12);
        plan.late.push(Late { after, path: path.clone(), payload, options });
    }
}

#[async_trait]
impl Tamper for Failing {
    async fn before(&self, store: &dyn ObjectStore, _: Operation, path: &Path) -> Result<()> {
        let (fails, due) = self.next();
        for late in due {
            // Nobody waits for the answer.
            let _ = store.put_opts(&late.path, late.payload, late.options).await;
        }
        if fails { Err(lost(path)) } else { Ok(()) }
    }

    async fn put(
        &self,
        store: &dyn ObjectStore,
        path: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        match self.fate() {
            Fate::Done => store.put_opts(path, payload, options).await,
            Fate::LostBefore => Err(lost(path)),
            Fate::LostAfter => {
                let _ = store.put_opts(path, payload, options).await;
                Err(lost(path))
            }
            Fate::SentTwice => twice(store, path, payload, options).await,
            Fate::Contended if options.mode == PutMode::Create => {
                let source = "another request creates it at this moment".into();
                Err(Error::AlreadyExists { path: path.to_string(), source })
            }
            Fate::Contended => Err(lost(path)),
            Fate::Late => {
                self.delay(path, payload, options);
                Err(lost(path))
            }
        }
    }
}

/// Sends a write twice, so that a creation finds its own object.
async fn twice(store: &dyn ObjectStore, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
    let first = store.put_opts(path, payload.clone(), options.clone()).await;
    match options.mode {
        PutMode::Create => store.put_opts(path, payload, options).await,
        _ => first,
    }
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// An operation is not done.
    Refused,
    /// A write is done, and nobody is told.
    Lost,
    /// A write is sent twice.
    Twice,
    /// From a write on, there is no room for any.
    Full,
}

/// Goes wrong at one operation; after it, the store may be away for a while.
#[derive(Debug)]
pub(crate) struct Faulty {
    trouble: Trouble,
    /// Which operation, or which write, it happens to.
    at: usize,
    /// So many operations after it are not done.
    away: usize,
    progress: Mutex<Progress>,
}

#[derive(Debug, Default)]
struct Progress {
    operations: usize,
    writes: usize,
    puts: usize,
    written: usize,
    away: usize,
    healed: bool,
    failed: Vec<Path>,
}

fn no_answer() -> Error {
    Error::Generic { store: "faulty", source: "the store does not answer".into() }
}

impl Faulty {
    pub(crate) fn new(trouble: Trouble, at: usize, away: usize) -> Arc<Self> {
        Arc::new(Self { trouble, at, away, progress: Mutex::default() })
    }

    /// Nothing goes wrong: counts.
    pub(crate) fn never() -> Arc<Self> {
        Self::new(Trouble::Refused, usize::MAX, 0)
    }

    /// From now on, nothing goes wrong.
    pub(crate) fn heal(&self) {
        self.progress().healed = true;
    }

    /// The operations so far.
    pub(crate) fn operations(&self) -> usize {
        self.progress().operations
    }

    /// The writes so far.
    pub(crate) fn writes(&self) -> usize {
        self.progress().writes
    }

    /// The objects that it happened to, in order.
    pub(crate) fn failed(&self) -> Vec<Path> {
        self.progress().failed.clone()
    }

    fn progress(&self) -> std::sync::MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the write that is sent now is sent twice.
    fn is_doubled(&self) -> bool {
        let mut progress = self.progress();
        progress.puts += 1;
        self.trouble == Trouble::Twice && !progress.healed && progress.puts == self.at.saturating_add(1)
    }
}

#[async_trait]
impl Tamper for Faulty {
    async fn before(&self, _: &dyn ObjectStore, operation: Operation, path: &Path) -> Result<()> {
        let is_write = operation == Operation::Write;
        let mut progress = self.progress();
        let (number, write) = (progress.operations, progress.writes);
        progress.operations += 1;
        progress.writes += usize::from(is_write);
        let is_away = progress.away > 0;
        progress.away = progress.away.saturating_sub(1);
        let is_refused = self.trouble == Trouble::Refused && number == self.at;
        let is_full = self.trouble == Trouble::Full && is_write && write >= self.at;
        if progress.healed || !(is_away || is_refused || is_full) {
            return Ok(());
        }
        if is_refused {
            progress.away = self.away;
        }
        progress.failed.push(path.clone());
        Err(if is_full {
            Error::Generic { store: "faulty", source: "no space left on device".into() }
        } else {
            no_answer()
        })
    }

    async fn put(
        &self,
        store: &dyn ObjectStore,
        path: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        match self.is_doubled() {
            true => twice(store, path, payload, options).await,
            false => store.put_opts(path, payload, options).await,
        }
    }

    async fn after(&self, path: &Path) -> Result<()> {
        let mut progress = self.progress();
        let number = progress.written;
        progress.written += 1;
        if self.trouble != Trouble::Lost || progress.healed || number != self.at {
            return Ok(());
        }
        progress.away = self.away;
        progress.failed.push(path.clone());
        Err(no_answer())
    }
}

type When = Box<dyn Fn(usize, &Path) -> bool + Send + Sync>;

/// Lets something else happen, once and to its end, before an operation.
pub(crate) struct Interrupt {
    operations: AtomicUsize,
    /// Only these count.
    only: Option<Operation>,
    when: When,
    act: Mutex<Option<BoxFuture<'static, ()>>>,
}

impl fmt::Debug for Interrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interrupt").field("operations", &self.operations).finish_non_exhaustive()
    }
}

impl Interrupt {
    /// Before the first operation of which `when` says so, by its number and its path.
    pub(crate) fn new(
        when: impl Fn(usize, &Path) -> bool + Send + Sync + 'static,
        act: impl Future<Output = ()> + Send + 'static,
    ) -> Arc<Self> {
        Self::of(None, Box::new(when), act.boxed())
    }

    /// Before the write with this number.
    pub(crate) fn before_write(number: usize, act: impl Future<Output = ()> + Send + 'static) -> Arc<Self> {
        Self::of(Some(Operation::Write), Box::new(move |write, _| write == number), act.boxed())
    }

    fn of(only: Option<Operation>, when: When, act: BoxFuture<'static, ()>) -> Arc<Self> {
        Arc::new(Self { operations: AtomicUsize::new(0), only, when, act: Mutex::new(Some(act)) })
    }

    /// Whether it has happened.
    pub(crate) fn happened(&self) -> bool {
        self.act.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    /// What is to happen, for the one who asks first.
    fn take(&self) -> Option<BoxFuture<'static, ()>> {
        self.act.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

#[async_trait]
impl Tamper for Interrupt {
    async fn before(&self, _: &dyn ObjectStore, operation: Operation, path: &Path) -> Result<()> {
        if self.only.is_some_and(|only| only != operation) {
            return Ok(());
        }
        let number = self.operations.fetch_add(1, Ordering::Relaxed);
        if (self.when)(number, path)
            && let Some(act) = self.take()
        {
            act.await;
        }
        Ok(())
    }
}
