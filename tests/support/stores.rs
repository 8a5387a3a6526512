//! Stores that misbehave: one that fails by a seeded plan, one that lets something else happen in the middle of
//! somebody's work.

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
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use starmere_lake::delta::Warehouse;
use starmere_lake::store::Store;

/// What happens to operations on their way to the store.
#[async_trait]
pub(crate) trait Tamper: fmt::Debug + Send + Sync + 'static {
    /// Called before every operation; an error is the operation's.
    async fn before(&self, store: &InMemory, path: &Path) -> Result<()>;

    /// Writes an object.
    async fn put(&self, store: &InMemory, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        store.put_opts(path, payload, options).await
    }
}

/// A store in memory, behind a [`Tamper`].
#[derive(Debug)]
struct Tampered<T> {
    store: Arc<InMemory>,
    tamper: Arc<T>,
}

/// A warehouse in this store.
pub(crate) fn plain(store: &Arc<InMemory>) -> Warehouse {
    Warehouse::new(Store::over(store.clone(), "memory://plain"))
}

/// A warehouse in this store, reached by way of a [`Tamper`].
pub(crate) fn tampered<T: Tamper>(store: &Arc<InMemory>, tamper: &Arc<T>) -> Warehouse {
    let objects = Tampered { store: store.clone(), tamper: tamper.clone() };
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
        self.tamper.before(&self.store, path).await?;
        self.tamper.put(&self.store, path, payload, options).await
    }

    async fn put_multipart_opts(&self, path: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.tamper.before(&self.store, path).await?;
        self.store.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.tamper.before(&self.store, path).await?;
        self.store.get_opts(path, options).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.store.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (store, tamper, prefix) = (self.store.clone(), self.tamper.clone(), prefix.cloned());
        let listed = async move {
            match tamper.before(&store, &prefix.clone().unwrap_or_default()).await {
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

/// Fails by a seeded plan: before a write, after it took effect, by sending it twice (so that a creation finds its
/// own object), or by letting it take effect later, when nobody waits for it any more. Reading fails too.
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
        match plan.random.u32(0..4) {
            0 => Fate::LostBefore,
            1 => Fate::LostAfter,
            2 => Fate::SentTwice,
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
    async fn before(&self, store: &InMemory, path: &Path) -> Result<()> {
        let (fails, due) = self.next();
        for late in due {
            // Nobody waits for the answer.
            let _ = store.put_opts(&late.path, late.payload, late.options).await;
        }
        if fails { Err(lost(path)) } else { Ok(()) }
    }

    async fn put(&self, store: &InMemory, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        match self.fate() {
            Fate::Done => store.put_opts(path, payload, options).await,
            Fate::LostBefore => Err(lost(path)),
            Fate::LostAfter => {
                let _ = store.put_opts(path, payload, options).await;
                Err(lost(path))
            }
            Fate::SentTwice => {
                let first = store.put_opts(path, payload.clone(), options.clone()).await;
                match options.mode {
                    PutMode::Create => store.put_opts(path, payload, options).await,
                    _ => first,
                }
            }
            Fate::Late => {
                self.delay(path, payload, options);
                Err(lost(path))
            }
        }
    }
}

type When = Box<dyn Fn(usize, &Path) -> bool + Send + Sync>;

/// Lets something else happen, once and to its end, before an operation.
pub(crate) struct Interrupt {
    operations: AtomicUsize,
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
        Arc::new(Self { operations: AtomicUsize::new(0), when: Box::new(when), act: Mutex::new(Some(act.boxed())) })
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
    async fn before(&self, _: &InMemory, path: &Path) -> Result<()> {
        let number = self.operations.fetch_add(1, Ordering::Relaxed);
        if (self.when)(number, path)
            && let Some(act) = self.take()
        {
            act.await;
        }
        Ok(())
    }
}
