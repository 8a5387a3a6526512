//! The warehouse's object store, opened by URL.
//!
//! Every store behind [`Store`] keeps three promises that the protocols need: an object appears whole or not
//! at all; `PutMode::Create` succeeds for exactly one writer; and an object whose `put` returned is durable.
//! The conformance test of this module tries the first two over a folder, memory and a slow store, and over a server of S3's
//! protocol where one is started for it (`scripts/test_outside.py`); Google's and Azure's stores are untested. A process that
//! is to write tries the store that it is given ([`Store::try_promises`]).

mod arriving;
mod backoff;
mod counted;
mod folder;
mod promises;
#[cfg(test)]
pub(crate) mod scripted;
#[cfg(test)]
mod tests;

use std::path::Path as FolderPath;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use tokio::sync::OnceCell;
use url::Url;

pub use backoff::Backoff;
pub use folder::Folder;

use arriving::Connections;

use crate::format_number::Noted;
use crate::paths::Probe;
use crate::{Error, Result};

/// Objects that are deleted side by side.
const SIDE_BY_SIDE: usize = 16;

/// The object store of a warehouse: every path is relative to the warehouse's root.
#[derive(Clone, Debug)]
pub struct Store {
    objects: Arc<dyn ObjectStore>,
    /// What DataFusion knows the store as: unique for each opened store.
    url: Url,
    location: String,
    /// Asked once a process.
    tried: Arc<OnceCell<()>>,
    /// What the last look at the warehouse's format number found.
    noted: Arc<Noted>,
}

/// A bucket of S3 or of what speaks like it, of Google's or of Azure's. Its connections live on the runtime that opens
/// it: the runtimes of queries come and go, and their threads may be busy.
fn in_cloud(scheme: &str, bucket: &str) -> object_store::Result<Arc<dyn ObjectStore>> {
    let connector = tokio::runtime::Handle::try_current().map(Connections::on);
    Ok(match scheme {
        "gs" => {
            let builder = GoogleCloudStorageBuilder::from_env().with_bucket_name(bucket);
            Arc::new(connector.map_or(builder.clone(), |connector| builder.with_http_connector(connector)).build()?)
        }
        "az" => {
            let builder = MicrosoftAzureBuilder::from_env().with_container_name(bucket);
            Arc::new(connector.map_or(builder.clone(), |connector| builder.with_http_connector(connector)).build()?)
        }
        _ => {
            let builder = AmazonS3Builder::from_env().with_bucket_name(bucket);
            Arc::new(connector.map_or(builder.clone(), |connector| builder.with_http_connector(connector)).build()?)
        }
    })
}

impl Store {
    /// Opens a folder (a path or `file://`), `memory://`, or a bucket: `s3://bucket/prefix`, `gs://bucket/prefix`,
    /// `az://container/prefix` (who asks, and where, by the usual variables `AWS_…`, `GOOGLE_…`, `AZURE_…`). A relative folder is relative to `base`. A folder that
    /// does not exist is made.
    pub fn open(location: &str, base: &FolderPath) -> Result<Self> {
        let refuse = |reason: String| Error::Warehouse { location: location.to_owned(), reason };
        if location.is_empty() {
            return Err(refuse("it is empty".into()));
        }
        if location.starts_with("memory:") {
            return Ok(Self::memory());
        }
        if let Some((scheme @ ("s3" | "gs" | "az"), rest)) = location.split_once("://") {
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            let objects = in_cloud(scheme, bucket).map_err(|error| refuse(error.to_string()))?;
            let objects: Arc<dyn ObjectStore> = match prefix.trim_matches('/') {
                "" => objects,
                prefix => Arc::new(PrefixStore::new(objects, prefix)),
            };
            return Ok(Self::over(objects, location));
        }
        let folder = match location.split_once("://") {
            Some(("file", path)) => FolderPath::new(path).to_path_buf(),
            Some((scheme, _)) => return Err(refuse(format!("`{scheme}` is not a kind of store"))),
            None => base.join(location),
        };
        let folder = Folder::open(&folder).map_err(|error| refuse(error.to_string()))?;
        Ok(Self::over(Arc::new(folder), location))
    }

    /// An empty store that is gone with the process.
    pub fn memory() -> Self {
        Self::over(Arc::new(object_store::memory::InMemory::new()), "memory://")
    }

    /// Wraps any object store, for tests that make it fail. Its requests are counted.
    pub fn over(objects: Arc<dyn ObjectStore>, location: &str) -> Self {
        let objects = Arc::new(counted::Counted(objects));
        let unique = uuid::Uuid::new_v4().simple();
        let url = Url::parse(&format!("starmere://{unique}/")).expect("a scheme and a host make a URL");
        Self { objects, url, location: location.to_owned(), tried: Arc::default(), noted: Arc::default() }
    }

    /// The store itself, for readers of Parquet.
    pub fn objects(&self) -> &Arc<dyn ObjectStore> {
        &self.objects
    }

    /// The URL under which sessions register the store.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// As the user named it.
    pub fn location(&self) -> &str {
        &self.location
    }

    /// Whether what it holds is gone with the process.
    pub(crate) fn ends_with_the_process(&self) -> bool {
        self.location.starts_with("memory:")
    }

    pub(crate) fn noted(&self) -> &Noted {
        &self.noted
    }

    /// Fails where the store does not keep the promises that writers need, as far as that can be tried (see the `promises`
    /// module). To be asked before a process writes; it tries once.
    pub async fn try_promises(&self) -> Result<()> {
        self.tried.get_or_try_init(|| promises::check(self)).await?;
        Ok(())
    }

    /// The time by the store's clock, or by ours where that is behind; in milliseconds since 1970. How old an object is
    /// can be told by it. Writes an object.
    pub async fn time(&self) -> Result<i64> {
        let path = Probe::clock();
        self.write(&path, Bytes::from_static(b"what time is it?")).await?;
        let written = self.objects.head(&path).await;
        let failed = |source| Error::Store { action: "read", path: path.to_string(), source };
        let theirs = written.map_err(failed)?.last_modified.timestamp_millis();
        Ok(theirs.min(chrono::Utc::now().timestamp_millis()))
    }

    /// The object's bytes; `None` where it does not exist.
    pub async fn read(&self, path: &Path) -> Result<Option<Bytes>> {
        let failed = |source| Error::Store { action: "read", path: path.to_string(), source };
        match self.objects.get(path).await {
            Ok(object) => Ok(Some(object.bytes().await.map_err(failed)?)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(failed(source)),
        }
    }

    /// Whether the object is there.
    pub async fn exists(&self, path: &Path) -> Result<bool> {
        match self.objects.head(path).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(source) => Err(Error::Store { action: "read", path: path.to_string(), source }),
        }
    }

    /// Deletes the objects; those that are gone already are no error.
    pub async fn delete(&self, paths: impl IntoIterator<Item = Path>) -> Result<()> {
        let paths: Vec<Path> = paths.into_iter().collect();
        let mut deleting = futures::stream::iter(paths)
            .map(|path| async move {
                match self.objects.delete(&path).await {
                    Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
                    Err(source) => Err(Error::Store { action: "delete", path: path.to_string(), source }),
                }
            })
            .buffer_unordered(SIDE_BY_SIDE);
        while let Some(deleted) = deleting.next().await {
            deleted?;
        }
        Ok(())
    }

    /// Writes the object, replacing what is there.
    pub async fn write(&self, path: &Path, bytes: Bytes) -> Result<()> {
        self.objects.put(path, PutPayload::from_bytes(bytes)).await.map(|_| ()).map_err(|source| Error::Store {
            action: "write",
            path: path.to_string(),
            source,
        })
    }

    /// Writes the object if nobody has: `false` where it exists already. Any error means that the outcome is
    /// unknown: read, then decide.
    pub async fn create(&self, path: &Path, bytes: Bytes) -> Result<bool> {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.objects.put_opts(path, PutPayload::from_bytes(bytes), options).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => Ok(false),
            Err(source) => Err(Error::Store { action: "create", path: path.to_string(), source }),
        }
    }

    /// Whether there is no object below `prefix`. Asks for the first one, not for all.
    pub(crate) async fn is_empty_below(&self, prefix: &Path) -> Result<bool> {
        let first = self.objects.list(Some(prefix)).try_next().await;
        first.map(|first| first.is_none()).map_err(|source| Error::Store {
            action: "list",
            path: prefix.to_string(),
            source,
        })
    }

    /// Objects below `prefix` whose path sorts after `after`, in order of path.
    pub async fn list(&self, prefix: &Path, after: Option<&Path>) -> Result<Vec<ObjectMeta>> {
        let objects = match after {
            Some(after) => self.objects.list_with_offset(Some(prefix), after),
            None => self.objects.list(Some(prefix)),
        };
        let mut objects: Vec<ObjectMeta> = objects.try_collect().await.map_err(|source| Error::Store {
            action: "list",
            path: prefix.to_string(),
            source,
        })?;
        objects.sort_by(|a, b| a.location.cmp(&b.location));
        Ok(objects)
    }
}
