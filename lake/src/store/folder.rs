//! A folder as an object store that survives a power cut.
//!
//! `object_store`'s own folder never syncs: after a power cut an acknowledged object may be empty. Here an
//! object is written beside its place, synced, and only then linked into it, and the folder that holds it is
//! synced before the writer is told. So a visible object is a whole object, at every moment:
//!
//! ```text
//! write staged#123 ─► sync file ─► link (create) or rename (overwrite) ─► sync folders ─► acknowledged
//!      │ crash: a hidden leftover          │ crash: whole object or none
//! ```
//!
//! `link` fails where the name exists, which makes `PutMode::Create` atomic. Reading and listing are
//! `object_store`'s; it does not list names that end in `#` and digits.
//!
//! A volume may go away under a process, and leaves an empty folder where it was mounted. Whoever wrote there would be
//! told that it is durable, and whoever read there that a table has no rows. So a folder is known by its device and inode:
//! in another one nothing is written, nothing is acknowledged, and nothing is missing; once the volume is back, all goes on.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path as FolderPath, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};

/// A folder whose writes are durable when they are acknowledged.
#[derive(Debug)]
pub struct Folder {
    root: Arc<Root>,
    reader: LocalFileSystem,
}

/// The folder itself, as it was when it was opened.
#[derive(Debug)]
struct Root {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Root {
    fn open(path: PathBuf) -> io::Result<Self> {
        let found = fs::metadata(&path)?;
        Ok(Self { path, device: found.dev(), inode: found.ino() })
    }

    /// Fails where another folder, or none, has taken its place.
    fn check(&self) -> io::Result<()> {
        let reason = match fs::metadata(&self.path) {
            Ok(found) if found.dev() == self.device && found.ino() == self.inode => return Ok(()),
            Ok(_) => "another folder has taken its place".to_owned(),
            Err(error) => error.to_string(),
        };
        Err(io::Error::other(format!(
            "the folder `{}` is not the one that was opened any more ({reason}): bring its volume back, or start again",
            self.path.display()
        )))
    }

    /// The same, of a request that has found nothing.
    fn checked<T>(&self, found: Result<T>) -> Result<T> {
        match found {
            Err(Error::NotFound { .. }) => self.check().map_err(generic).and(found),
            _ => found,
        }
    }
}

fn generic(error: io::Error) -> Error {
    Error::Generic { store: "folder", source: error.into() }
}

impl Folder {
    /// Opens the folder and makes it where it is missing.
    pub fn open(root: &FolderPath) -> io::Result<Self> {
        fs::create_dir_all(root)?;
        let root = root.canonicalize()?;
        let reader = LocalFileSystem::new_with_prefix(&root).map_err(io::Error::other)?;
        Ok(Self { root: Arc::new(Root::open(root)?), reader })
    }

    fn place(&self, location: &Path) -> Result<PathBuf> {
        self.reader.path_to_filesystem(location)
    }

    /// What is listed, and an error where that was another folder.
    fn listed(&self, objects: BoxStream<'static, Result<ObjectMeta>>) -> BoxStream<'static, Result<ObjectMeta>> {
        let root = self.root.clone();
        let checked = stream::once(async move { root.check().err().map(|error| Err(generic(error))) });
        objects.chain(checked.filter_map(futures::future::ready)).boxed()
    }
}

impl fmt::Display for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "folder {}", self.root.path.display())
    }
}

#[async_trait]
impl ObjectStore for Folder {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let place = self.place(location)?;
        let root = self.root.clone();
        let exclusive = match options.mode {
            PutMode::Create => true,
            PutMode::Overwrite => false,
            PutMode::Update(_) => {
                return Err(Error::NotImplemented {
                    operation: "conditional update".into(),
                    implementer: self.to_string(),
                });
            }
        };
        blocking(location, move || {
            let staged = Staged::beside(root, place)?;
            let mut file = File::create(&staged.path)?;
            for part in &payload {
                file.write_all(part)?;
            }
            staged.publish(file, exclusive)
        })
        .await
    }

    async fn put_multipart_opts(&self, location: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let place = self.place(location)?;
        let root = self.root.clone();
        let (staged, file) = blocking(location, move || {
            let staged = Staged::beside(root, place)?;
            let file = File::create(&staged.path)?;
            Ok((staged, file))
        })
        .await?;
        let file = Arc::new(file);
        Ok(Box::new(Upload { location: location.clone(), parts: Some((staged, file)), offset: 0 }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.root.checked(self.reader.get_opts(location, options).await)
    }

    async fn get_ranges(&self, location: &Path, ranges: &[std::ops::Range<u64>]) -> Result<Vec<bytes::Bytes>> {
        self.root.checked(self.reader.get_ranges(location, ranges).await)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.reader.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listed(self.reader.list(prefix))
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listed(self.reader.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let listed = self.reader.list_with_delimiter(prefix).await;
        self.root.check().map_err(generic)?;
        listed
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        use object_store::ObjectStoreExt as _;
        let bytes = self.reader.get(from).await?.bytes().await?;
        let mode = match options.mode {
            object_store::CopyMode::Overwrite => PutMode::Overwrite,
            object_store::CopyMode::Create => PutMode::Create,
        };
        self.put_opts(to, bytes.into(), PutOptions { mode, ..PutOptions::default() }).await.map(|_| ())
    }
}

/// An object that is being written beside its place. Dropping it removes what was written.
#[derive(Debug)]
struct Staged {
    root: Arc<Root>,
    path: PathBuf,
    place: PathBuf,
    /// Folders whose entries changed, innermost first.
    folders: Vec<PathBuf>,
}

impl Staged {
    fn beside(root: Arc<Root>, place: PathBuf) -> io::Result<Self> {
        root.check()?;
        let folder = place.parent().unwrap_or(&root.path).to_path_buf();
        let mut folders = vec![folder.clone()];
        let mut missing = folder.as_path();
        while !missing.exists() {
            let Some(parent) = missing.parent() else { break };
            folders.push(parent.to_path_buf());
            missing = parent;
        }
        fs::create_dir_all(&folder)?;
        // `object_store` hides names that end in `#` and digits.
        let path = folder.join(format!("staged#{}", uuid::Uuid::new_v4().as_u128()));
        Ok(Self { root, path, place, folders })
    }

    fn publish(self, file: File, exclusive: bool) -> io::Result<PutResult> {
        file.sync_all()?;
        drop(file);
        if exclusive {
            fs::hard_link(&self.path, &self.place)?;
        } else {
            fs::rename(&self.path, &self.place)?;
        }
        for folder in &self.folders {
            File::open(folder)?.sync_all()?;
        }
        // Where it went away meanwhile, nobody knows what was written where.
        self.root.check()?;
        Ok(PutResult { e_tag: None, version: None })
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // After a rename there is nothing left to remove; a leftover is hidden from listings.
        let _ = fs::remove_file(&self.path);
    }
}

/// An upload in parts; each part knows its offset, so that they may be written in any order.
#[derive(Debug)]
struct Upload {
    location: Path,
    parts: Option<(Staged, Arc<File>)>,
    offset: u64,
}

impl Upload {
    fn ended(&self) -> Error {
        Error::Generic { store: "folder", source: format!("the upload of `{}` has ended", self.location).into() }
    }
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        use std::os::unix::fs::FileExt as _;
        let Some((_, file)) = &self.parts else {
            let error = self.ended();
            return Box::pin(async move { Err(error) });
        };
        let (file, mut offset, location) = (file.clone(), self.offset, self.location.clone());
        self.offset += data.content_length() as u64;
        Box::pin(async move {
            blocking(&location, move || {
                for part in &data {
                    file.write_all_at(part, offset)?;
                    offset += part.len() as u64;
                }
                Ok(())
            })
            .await
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let (staged, file) = self.parts.take().ok_or_else(|| self.ended())?;
        blocking(&self.location, move || {
            let file = Arc::try_unwrap(file).map_err(|_| io::Error::other("a part is still being written"))?;
            staged.publish(file, false)
        })
        .await
    }

    async fn abort(&mut self) -> Result<()> {
        self.parts = None;
        Ok(())
    }
}

/// Runs file work where it may block and words its errors as the store's.
async fn blocking<T: Send + 'static>(
    location: &Path,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T> {
    let path = location.to_string();
    let done = tokio::task::spawn_blocking(work).await.map_err(|source| Error::JoinError { source })?;
    done.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => Error::AlreadyExists { path, source: error.into() },
        io::ErrorKind::NotFound => Error::NotFound { path, source: error.into() },
        io::ErrorKind::PermissionDenied => Error::PermissionDenied { path, source: error.into() },
        _ => generic(error),
    })
}
