//! Objects that are not what they were.

use bytes::Bytes;
use fastrand::Rng;
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use starmere_lake::paths;

/// What has become of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Damage {
    Gone,
    Empty,
    /// Half of it is there.
    Cut,
    /// As long as it was, and something else.
    Overwritten,
}

impl Damage {
    pub(crate) const ALL: [Self; 4] = [Self::Gone, Self::Empty, Self::Cut, Self::Overwritten];

    /// What is left.
    pub(crate) fn of(self, bytes: &[u8]) -> Option<Vec<u8>> {
        match self {
            Self::Gone => None,
            Self::Empty => Some(Vec::new()),
            Self::Cut => Some(bytes[..bytes.len() / 2].to_vec()),
            Self::Overwritten => Some(vec![b'x'; bytes.len()]),
        }
    }

    /// Does it to an object.
    pub(crate) async fn befall(self, store: &InMemory, path: &Path) {
        match self.of(&read(store, path).await) {
            Some(bytes) => write(store, path, bytes).await,
            None => store.delete(path).await.expect("an object can be removed"),
        }
    }
}

/// All objects, in order of path.
pub(crate) async fn objects(store: &InMemory) -> Vec<Path> {
    let objects: Vec<_> = store.list(None).try_collect().await.expect("a store can be listed");
    let mut paths: Vec<Path> = objects.into_iter().map(|object| object.location).collect();
    paths.sort();
    paths
}

/// The commits among them, without the first of a table.
pub(crate) async fn commits(store: &InMemory) -> Vec<Path> {
    let mut objects = objects(store).await;
    objects.retain(|path| is_in_log(path) && paths::commit_version(path).is_some_and(|version| version > 0));
    objects
}

pub(crate) async fn read(store: &InMemory, path: &Path) -> Bytes {
    let object = store.get(path).await.expect("the object is there");
    object.bytes().await.expect("an object can be read")
}

pub(crate) async fn write(store: &InMemory, path: &Path, bytes: impl Into<Bytes>) {
    let bytes: Bytes = bytes.into();
    store.put(path, bytes.into()).await.expect("an object can be written");
}

/// What the object lies in.
pub(crate) fn folder(path: &Path) -> &str {
    let path: &str = path.as_ref();
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// Whether it is a part of a table's log.
pub(crate) fn is_in_log(path: &Path) -> bool {
    folder(path).ends_with("/_delta_log")
}

/// The table that the object of a log belongs to; of any other object, the object itself.
pub(crate) fn table(path: &Path) -> &str {
    folder(path).strip_suffix("/_delta_log").unwrap_or(path.as_ref())
}

/// Whether it is a Parquet file of a table.
pub(crate) fn is_data_file(path: &Path) -> bool {
    let text: &str = path.as_ref();
    text.ends_with(".parquet") && !is_in_log(path)
}

/// The same bytes with one bit changed, and the number of that bit.
pub(crate) fn flipped(bytes: &[u8], random: &mut Rng) -> (Vec<u8>, usize) {
    let bit = random.usize(0..bytes.len() * 8);
    let mut flipped = bytes.to_vec();
    flipped[bit / 8] ^= 1 << (bit % 8);
    (flipped, bit)
}
