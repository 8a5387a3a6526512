//! A store in memory for tests: something else happens before an operation, answers are lost, and clocks differ.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use chrono::TimeDelta;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use super::Store;

type Act = BoxFuture<'static, ()>;
/// A write whose answer was lost, and which arrives when somebody sends it on.
type Late = (Path, PutPayload, PutOptions);

#[derive(Default)]
struct Script {
    /// Happens once, before so many more operations.
    act: Option<(usize, Act)>,
    /// Writes of objects whose path has this in it are on their way, and their answers are lost.
    late: Option<(&'static str, Vec<Late>)>,
    /// Objects that listings do not have: they came while the listing was made.
    unlisted: Vec<Path>,
    /// So much before ours is the store's clock.
    behind: TimeDelta,
}

/// The store.
pub(crate) struct Scripted {
    store: Arc<InMemory>,
    script: Mutex<Script>,
}

impl Scripted {
    pub(crate) fn new(store: &Arc<InMemory>) -> Arc<Self> {
        Arc::new(Self { store: store.clone(), script: Mutex::default() })
    }

    /// The store as the lake sees it.
    pub(crate) fn opened(self: &Arc<Self>) -> Store {
        Store::over(self.clone(), "memory://scripted")
    }

    /// After `number` more operations, `act` happens, to its end.
    pub(crate) fn before(&self, number: usize, act: impl Future<Output = ()> + Send + 'static) {
        self.script().act = Some((number, Box::pin(act)));
    }

    /// Whether what was to happen has happened.
    pub(crate) fn has_happened(&self) -> bool {
        self.script().act.is_none()
    }

    /// From now on, writes of objects with `part` in their paths are on their way for long.
    pub(crate) fn lose(&self, part: &'static str) {
        self.script().late = Some((part, Vec::new()));
    }

    /// What was on its way arrives. Nobody waits for the answer.
    pub(crate) async fn deliver(&self) {
        let late = self.script().late.take();
        for (path, payload, options) in late.into_iter().flat_map(|(_, late)| late) {
            _ = self.store.put_opts(&path, payload, options).await;
        }
    }

    /// Listings do not have the object.
    pub(crate) fn hide(&self, path: Path) {
        self.script().unlisted.push(path);
    }

    /// The store's clock is so much behind ours.
    pub(crate) fn set_behind(&self, behind: TimeDelta) {
        self.script().behind = behind;
    }

    fn script(&self) -> std::sync::MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn step(&self) {
        let act = {
            let mut script = self.script();
            match script.act.take() {
                Some((0, act)) => Some(act),
                Some((left, act)) => {
                    script.act = Some((left - 1, act));
                    None
                }
                None => None,
            }
        };
        if let Some(act) = act {
            act.await;
        }
    }
}

impl fmt::Debug for Scripted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scripted").finish_non_exhaustive()
    }
}

impl fmt::Display for Scripted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "scripted {}", self.store)
    }
}

#[async_trait]
impl ObjectStore for Scripted {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.step().await;
        {
            let mut script = self.script();
            if let Some((part, late)) = &mut script.late
                && path.as_ref().contains(*part)
            {
                late.push((path.clone(), payload, options));
                return Err(Error::Generic { store: "scripted", source: "the answer was lost".into() });
            }
        }
        self.store.put_opts(path, payload, options).await
    }

    async fn put_multipart_opts(&self, path: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.store.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.step().await;
        let mut found = self.store.get_opts(path, options).await?;
        found.meta.last_modified -= self.script().behind;
        Ok(found)
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.store.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (unlisted, behind) = {
            let script = self.script();
            (script.unlisted.clone(), script.behind)
        };
        let listed = self
            .store
            .list(prefix)
            .map(move |listed| listed.map(|meta| ObjectMeta { last_modified: meta.last_modified - behind, ..meta }));
        let is_listed = move |meta: &Result<ObjectMeta>| {
            let is_unlisted = meta.as_ref().is_ok_and(|meta| unlisted.contains(&meta.location));
            std::future::ready(!is_unlisted)
        };
        listed.filter(is_listed).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.store.copy_opts(from, to, options).await
    }
}
