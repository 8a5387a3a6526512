//! What every store must do, run over a folder, memory, and a slow store; over S3 where a server is at hand.
//!
//! `scripts/test_outside.py` starts a server of S3's protocol and runs the tests that are ignored here. By hand:
//!
//! ```sh
//! STARMERE_STORE=s3://bucket/new-prefix AWS_ENDPOINT=… cargo test --workspace --lib over_the_network -- --ignored
//! ```

use std::collections::HashSet;

use object_store::path::Path;
use object_store::throttle::{ThrottleConfig, ThrottledStore};

use super::*;

async fn conforms(store: &Store) {
    let path = Path::from("a/b/object");
    assert_eq!(store.read(&path).await.unwrap(), None);
    assert!(store.create(&path, Bytes::from_static(b"first")).await.unwrap());
    assert!(!store.create(&path, Bytes::from_static(b"second")).await.unwrap());
    assert_eq!(store.read(&path).await.unwrap().unwrap(), "first");
    store.write(&path, Bytes::from_static(b"third")).await.unwrap();
    assert_eq!(store.read(&path).await.unwrap().unwrap(), "third");

    for number in [3_u64, 1, 2] {
        store.write(&Path::from(format!("list/{number:03}")), Bytes::new()).await.unwrap();
    }
    let names = |objects: Vec<ObjectMeta>| objects.into_iter().map(|o| o.location.to_string()).collect::<Vec<_>>();
    assert_eq!(names(store.list(&Path::from("list"), None).await.unwrap()), ["list/001", "list/002", "list/003"]);
    let after = Path::from("list/001");
    assert_eq!(names(store.list(&Path::from("list"), Some(&after)).await.unwrap()), ["list/002", "list/003"]);
    assert!(store.list(&Path::from("nothing"), None).await.unwrap().is_empty());
    assert!(store.is_empty_below(&Path::from("nothing")).await.unwrap());
    assert!(!store.is_empty_below(&Path::from("list")).await.unwrap());

    let mut upload = store.objects().put_multipart(&Path::from("large/object")).await.unwrap();
    let parts =
        [upload.put_part(Bytes::from(vec![1; 6 << 20]).into()), upload.put_part(Bytes::from_static(b"end").into())];
    for part in parts {
        part.await.unwrap();
    }
    upload.complete().await.unwrap();
    drop(upload);
    let large = store.read(&Path::from("large/object")).await.unwrap().unwrap();
    assert_eq!((large.len(), &large[large.len() - 3..]), ((6 << 20) + 3, &b"end"[..]));

    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..32_u8 {
        let store = store.clone();
        tasks.spawn(async move {
            store.create(&Path::from("race"), Bytes::from(vec![writer; 1000])).await.unwrap().then_some(writer)
        });
    }
    let winners: Vec<u8> = tasks.join_all().await.into_iter().flatten().collect();
    let stored: HashSet<u8> = store.read(&Path::from("race")).await.unwrap().unwrap().into_iter().collect();
    assert_eq!(stored, winners.iter().copied().collect(), "exactly one writer creates an object");
    assert_eq!(winners.len(), 1);
}

#[tokio::test]
async fn memory_conforms() {
    conforms(&Store::memory()).await;
}

#[tokio::test]
async fn a_slow_store_conforms() {
    let wait = std::time::Duration::from_millis(2);
    let slow = ThrottleConfig {
        wait_put_per_call: wait,
        wait_get_per_call: wait,
        wait_list_per_call: wait,
        ..Default::default()
    };
    let objects = ThrottledStore::new(object_store::memory::InMemory::new(), slow);
    conforms(&Store::over(Arc::new(objects), "slow")).await;
}

#[tokio::test]
async fn a_folder_conforms_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    conforms(&Store::open("warehouse", folder.path()).unwrap()).await;
    let leftovers = walk(folder.path()).into_iter().filter(|path| path.contains('#')).collect::<Vec<_>>();
    assert_eq!(leftovers, Vec::<String>::new());
}

/// The store that the environment names: nothing is below its prefix yet.
fn in_environment() -> Store {
    let location = std::env::var("STARMERE_STORE").expect("STARMERE_STORE names a store, such as s3://bucket/prefix");
    Store::open(&location, FolderPath::new(".")).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a server: scripts/test_outside.py starts one"]
async fn a_store_over_the_network_conforms() {
    let store = in_environment();
    conforms(&store).await;
    store.try_promises().await.unwrap();
    assert!(
        store.exists(&crate::paths::Probe::verdict()).await.unwrap(),
        "it kept its promises, as far as can be tried"
    );
}

/// What a store has at last, however often it fails.
async fn read_at_last(store: &Store, path: &Path) -> Option<Bytes> {
    for _ in 0..20 {
        if let Ok(found) = store.read(path).await {
            return found;
        }
    }
    panic!("`{path}` cannot be read");
}

/// An answer may be lost, or be an error though the object was made: then nobody is told that it did. But whoever is told
/// so is told the truth, and so is whoever reads it afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a server: scripts/test_outside.py starts one, behind a proxy that fails"]
async fn writers_that_race_over_the_network_are_told_the_truth() {
    const ROUNDS: usize = 24;
    let writers: Vec<Store> = (0..4).map(|_| in_environment()).collect();
    let mut told = 0;
    for round in 0..ROUNDS {
        let path = Path::from(format!("races/{round:03}"));
        let mut tasks = tokio::task::JoinSet::new();
        for (number, store) in writers.iter().cloned().enumerate() {
            let path = path.clone();
            tasks.spawn(async move {
                let mine = Bytes::from(format!("writer {number}"));
                let is_mine = store.create(&path, mine.clone()).await.is_ok_and(|is_mine| is_mine);
                is_mine.then_some(mine)
            });
        }
        let winners: Vec<Bytes> = tasks.join_all().await.into_iter().flatten().collect();
        assert!(winners.len() <= 1, "round {round}: {winners:?} were told that they created one object");
        for store in &writers {
            let found = read_at_last(store, &path).await;
            assert!(
                winners.is_empty() || found == winners.first().cloned(),
                "round {round}: {winners:?}, and {found:?}"
            );
        }
        told += winners.len();
    }
    assert!(told >= ROUNDS / 2, "only {told} of {ROUNDS} objects were created in a way that somebody was told");
}

#[tokio::test]
async fn an_unfinished_upload_is_invisible() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open("warehouse", folder.path()).unwrap();
    let path = Path::from("large/object");
    let mut upload = store.objects().put_multipart(&path).await.unwrap();
    upload.put_part(Bytes::from_static(b"half").into()).await.unwrap();
    assert_eq!(store.read(&path).await.unwrap(), None);
    assert!(store.list(&Path::from("large"), None).await.unwrap().is_empty());
}

#[test]
fn a_location_nobody_knows_is_refused_with_the_choices() {
    let error = Store::open("ftp://host/folder", FolderPath::new(".")).unwrap_err();
    assert_eq!(error.to_string(), "could not open the warehouse `ftp://host/folder`: `ftp` is not a kind of store");
    assert!(error.hint().unwrap().contains("s3://"));
}

fn walk(folder: &FolderPath) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(walk(&path));
        }
        found.push(path.display().to_string());
    }
    found
}

/// A store that breaks one promise.
#[derive(Clone, Copy, Debug)]
enum Breaks {
    /// Looks whether an object is there, and writes then.
    LooksFirst,
    /// Creates what is there.
    Conditions,
    /// Knows no conditions.
    Unknown,
    /// Says that it has written, and has not.
    Writes,
    /// Does not answer.
    Everything,
}

#[derive(Debug)]
struct Broken {
    objects: object_store::memory::InMemory,
    breaks: Breaks,
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a store that breaks {:?}", self.breaks)
    }
}

#[async_trait::async_trait]
impl ObjectStore for Broken {
    async fn put_opts(
        &self,
        path: &Path,
        payload: PutPayload,
        mut options: PutOptions,
    ) -> object_store::Result<object_store::PutResult> {
        let is_creation = options.mode == PutMode::Create;
        match self.breaks {
            Breaks::LooksFirst if is_creation => {
                if self.objects.head(path).await.is_ok() {
                    return Err(object_store::Error::AlreadyExists { path: path.to_string(), source: "it is".into() });
                }
                // Others look meanwhile.
                tokio::task::yield_now().await;
                options.mode = PutMode::Overwrite;
            }
            Breaks::Conditions => options.mode = PutMode::Overwrite,
            Breaks::Unknown if is_creation => {
                return Err(object_store::Error::Generic { store: "broken", source: "501 Not Implemented".into() });
            }
            Breaks::Writes => return Ok(object_store::PutResult { e_tag: None, version: None }),
            Breaks::Everything => {
                return Err(object_store::Error::Generic { store: "broken", source: "no answer".into() });
            }
            Breaks::LooksFirst | Breaks::Unknown => {}
        }
        self.objects.put_opts(path, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: object_store::PutMultipartOptions,
    ) -> object_store::Result<Box<dyn object_store::MultipartUpload>> {
        self.objects.put_multipart_opts(path, options).await
    }

    async fn get_opts(
        &self,
        path: &Path,
        options: object_store::GetOptions,
    ) -> object_store::Result<object_store::GetResult> {
        self.objects.get_opts(path, options).await
    }

    fn delete_stream(
        &self,
        paths: futures::stream::BoxStream<'static, object_store::Result<Path>>,
    ) -> futures::stream::BoxStream<'static, object_store::Result<Path>> {
        self.objects.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> futures::stream::BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.objects.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<object_store::ListResult> {
        self.objects.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: object_store::CopyOptions) -> object_store::Result<()> {
        self.objects.copy_opts(from, to, options).await
    }
}

#[tokio::test]
async fn a_store_that_breaks_a_promise_is_refused_with_what_it_would_lose() {
    for (breaks, expected) in [
        (Breaks::LooksFirst, "8 were told that they did"),
        (Breaks::Conditions, "an object that was there was created again"),
        (Breaks::Unknown, "501 Not Implemented"),
        (Breaks::Writes, "something else was read then"),
    ] {
        let store = Store::over(Arc::new(Broken { objects: Default::default(), breaks }), "s3://bucket");
        let error = store.try_promises().await.unwrap_err();
        assert_eq!(error.kind(), crate::Kind::Invalid);
        let text = error.to_string();
        assert!(text.contains(expected) && text.contains("s3://bucket"), "{breaks:?}: {text}");
        assert!(error.hint().unwrap().contains("conditional writes"));
        assert!(store.list(&Path::default(), None).await.unwrap().is_empty(), "{breaks:?} leaves something");
    }
}

#[tokio::test]
async fn a_store_that_keeps_its_promises_is_tried_once() {
    let folder = tempfile::tempdir().unwrap();
    let open = || Store::open("warehouse", folder.path()).unwrap();
    let probed = |paths: Vec<String>| {
        let mut probed: Vec<String> = paths.into_iter().filter(|path| path.contains("probe/")).collect();
        probed.sort();
        probed
    };
    open().try_promises().await.unwrap();
    let left = probed(walk(folder.path()));
    assert!(left.iter().any(|path| path.ends_with("kept.json")), "{left:?}");
    assert!(left.iter().all(|path| !path.contains("raced")), "{left:?}");
    // Another process reads the verdict, and makes no folder of its own.
    open().try_promises().await.unwrap();
    assert_eq!(probed(walk(folder.path())), left);
}

#[tokio::test]
async fn a_store_that_does_not_answer_is_no_verdict() {
    let objects = Broken { objects: Default::default(), breaks: Breaks::Everything };
    Store::over(Arc::new(objects), "s3://bucket").try_promises().await.unwrap();
}

#[tokio::test]
async fn a_folder_whose_volume_went_away_is_neither_written_nor_empty() {
    let parent = tempfile::tempdir().unwrap();
    let place = parent.path().join("warehouse");
    let store = Store::over(std::sync::Arc::new(Folder::open(&place).unwrap()), "warehouse");
    let (path, next) = (Path::from("log/1"), Path::from("log/2"));
    assert!(store.create(&path, "first".into()).await.unwrap());
    let mut upload = store.objects().put_multipart(&Path::from("large")).await.unwrap();
    upload.put_part("part".into()).await.unwrap();

    let away = parent.path().join("away");
    std::fs::rename(&place, &away).unwrap();
    for hollow in [false, true] {
        if hollow {
            std::fs::create_dir(&place).unwrap();
        }
        let told = |error: crate::Error| {
            let words = format!("{error}: {}", std::error::Error::source(&error).unwrap());
            assert!(words.contains("bring its volume back"), "{words}");
        };
        told(store.create(&next, "second".into()).await.unwrap_err());
        told(store.write(&path, "second".into()).await.unwrap_err());
        told(store.read(&path).await.unwrap_err());
        told(store.list(&Path::from("log"), None).await.unwrap_err());
        told(store.list(&Path::from("log"), Some(&path)).await.unwrap_err());
        store.objects().list_with_delimiter(None).await.unwrap_err();
        store.objects().put_multipart(&Path::from("another")).await.unwrap_err();
    }
    upload.complete().await.unwrap_err();
    assert_eq!(std::fs::read_dir(&place).unwrap().count(), 0, "nothing is written where the volume was");

    std::fs::remove_dir(&place).unwrap();
    std::fs::rename(&away, &place).unwrap();
    assert_eq!(store.read(&path).await.unwrap().unwrap(), "first");
    assert_eq!(store.read(&next).await.unwrap(), None);
    assert!(store.create(&next, "second".into()).await.unwrap(), "all goes on once it is back");
}
