//! Object paths. Nobody else builds or parses one.
//!
//! ```text
//! <warehouse>/
//!   lake/<domain>/<stream>/                       a stream: a Delta table
//!     _delta_log/  ingest_date=2026-11-21/…        its log and its files
//!     _starmere/oversized/<source>/…              events too long for a row
//!     _starmere/schemas/<id>.json                 schemas that its payloads were written with
//!     _starmere/stopped/<source>/…                partitions that are not read on, and why
//!     _starmere/landed/<version>.json             which files have landed, folded up to a version
//!     _starmere/archive/<from>-<to>.jsonl.zst     commits of long ago, packed (of any table)
//!   models/<domain>/<model>/<fingerprint>/<part>/ a derived table: a Delta table
//!   ledger/<domain>/<stream>/<fingerprint>/       which copy of an event counts: a Delta table
//!   catalog/<number>.json                         snapshots
//!   _starmere/format.json                         which binaries may write and read all this
//!   operations/<command>.json                     trouble that a running `up`, `serve` or `ingest` has
//!   catalog/_newest.json                          the number of one of the newest
//!   environments/<name>/catalog/<number>.json     snapshots of an environment, which shares all tables
//!   _starmere/probe/…                             objects by which the store was tried
//! ```
//!
//! Readers of Delta ignore folders that begin with `_`.

use object_store::path::Path;

/// Root of a Delta table, relative to the warehouse.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct TablePath(String);

impl TablePath {
    /// The table of a stream.
    pub fn stream(domain: &str, stream: &str) -> Self {
        Self(format!("lake/{domain}/{stream}"))
    }

    /// One table of a model: its rows, its change log, its rejects.
    pub fn model(domain: &str, model: &str, fingerprint: &str, part: &str) -> Self {
        Self(format!("models/{domain}/{model}/{fingerprint}/{part}"))
    }

    /// The table that says which copy of a stream's event counts.
    pub fn ledger(domain: &str, stream: &str, fingerprint: &str) -> Self {
        Self(format!("ledger/{domain}/{stream}/{fingerprint}"))
    }

    /// The fingerprint in a model's path, and what follows it.
    pub fn fingerprint(&self) -> Option<&str> {
        match self.0.split('/').collect::<Vec<_>>().as_slice() {
            ["models", _, _, fingerprint, _] => Some(fingerprint),
            _ => None,
        }
    }

    /// It is a stream's.
    pub fn is_stream(&self) -> bool {
        self.0.starts_with("lake/")
    }

    /// The object is a part of the table's log.
    pub fn is_log(&self, object: &Path) -> bool {
        object.prefix_matches(&self.log())
    }

    /// As text, without slashes at the ends.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The table's root as a path of the store.
    pub fn root(&self) -> Path {
        Path::from(self.0.as_str())
    }

    /// The folder of commits and checkpoints.
    pub fn log(&self) -> Path {
        Path::from(format!("{}/_delta_log", self.0))
    }

    /// The commit that makes `version`.
    pub fn commit(&self, version: u64) -> Path {
        Path::from(format!("{}/_delta_log/{version:020}.json", self.0))
    }

    /// The checkpoint of `version`.
    pub fn checkpoint(&self, version: u64) -> Path {
        Path::from(format!("{}/_delta_log/{version:020}.checkpoint.parquet", self.0))
    }

    /// The hint that names the newest checkpoint.
    pub fn last_checkpoint(&self) -> Path {
        Path::from(format!("{}/_delta_log/_last_checkpoint", self.0))
    }

    /// A file of the table, by the path that its `add` action carries.
    pub fn file(&self, relative: &str) -> Path {
        Path::from_url_path(format!("{}/{relative}", self.0))
            .unwrap_or_else(|_| Path::from(format!("{}/{relative}", self.0)))
    }

    /// An event too long for a row, named by where it came from.
    pub fn oversized(&self, source: &str, topic: &str, incarnation: u32, partition: i32, position: i64) -> Path {
        let (source, topic) = (escape(source), escape(topic));
        let of = format!("{source}/{topic}/{incarnation}/{partition}/{position:020}");
        Path::from(format!("{}/_starmere/oversized/{of}", self.0))
    }

    /// The folder of [`Self::stopped`].
    pub fn stopped_folder(&self) -> Path {
        Path::from(format!("{}/_starmere/stopped", self.0))
    }

    /// Why a partition of a source is not read on.
    pub fn stopped(&self, source: &str, topic: &str, incarnation: u32, partition: i32) -> Path {
        let (source, topic) = (escape(source), escape(topic));
        Path::from(format!("{}/_starmere/stopped/{source}/{topic}/{incarnation}/{partition}.json", self.0))
    }

    /// The files of a source that were not landed.
    pub fn refused(&self, source: &str) -> Path {
        Path::from(format!("{}/_starmere/refused/{}.json", self.0, escape(source)))
    }

    /// The folder of [`Self::schema`].
    pub fn schemas_folder(&self) -> Path {
        Path::from(format!("{}/_starmere/schemas", self.0))
    }

    /// A schema that payloads were written with.
    pub fn schema(&self, name: &str) -> Path {
        Path::from(format!("{}/_starmere/schemas/{name}.json", self.0))
    }

    /// The commits `from` to `to`, packed.
    pub fn archive(&self, from: u64, to: u64) -> Path {
        Path::from(format!("{}/_starmere/archive/{from:020}-{to:020}.jsonl.zst", self.0))
    }

    /// The folder of [`Self::landed`].
    pub fn landed_folder(&self) -> Path {
        Path::from(format!("{}/_starmere/landed", self.0))
    }

    /// Which files have landed, folded up to `version`: a cache, made from the log.
    pub fn landed(&self, version: u64) -> Path {
        Path::from(format!("{}/_starmere/landed/{version:020}.json", self.0))
    }
}

impl std::fmt::Display for TablePath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// The path of a new data file inside a table. `group` keeps files apart that are rewritten apart.
pub fn new_file(partition: Option<(&str, &str)>, group: Option<u32>) -> String {
    let unique = uuid::Uuid::now_v7();
    let folder = partition.map(|(name, value)| format!("{name}={value}/")).unwrap_or_default();
    let group = group.map(|group| format!("bucket-{group:05}-")).unwrap_or_default();
    format!("{folder}{group}{unique}.parquet")
}

/// The group that [`new_file`] wrote into the name.
pub fn file_group(relative: &str) -> Option<u32> {
    let name = relative.rsplit('/').next()?;
    name.strip_prefix("bucket-")?.split('-').next()?.parse().ok()
}

/// The number of a commit, from an object below `_delta_log`.
pub fn commit_version(path: &Path) -> Option<u64> {
    let name = path.filename()?.strip_suffix(".json")?;
    (name.len() == 20).then(|| name.parse().ok())?
}

/// The version of a single-file checkpoint, from an object below `_delta_log`.
pub fn checkpoint_version(path: &Path) -> Option<u64> {
    let name = path.filename()?.strip_suffix(".checkpoint.parquet")?;
    (name.len() == 20).then(|| name.parse().ok())?
}

/// The first version in an archive, from an object below a table's root.
pub fn archive_version(path: &Path) -> Option<u64> {
    let (from, to) = path.filename()?.strip_suffix(".jsonl.zst")?.split_once('-')?;
    (from.len() == 20 && to.len() == 20).then(|| from.parse().ok())?
}

/// Where tables are.
pub fn table_folders() -> [Path; 3] {
    ["lake", "models", "ledger"].map(Path::from)
}

/// Where tables of models are.
pub fn models() -> Path {
    Path::from("models")
}

/// The model, as commands name it, that an object with this path belongs to.
pub fn model_of(object: &str) -> Option<String> {
    match object.split('/').collect::<Vec<_>>().as_slice() {
        ["models", domain, model, _, ..] => Some(format!("{domain}.{model}")),
        _ => None,
    }
}

/// The table that an object belongs to.
pub fn table_of(object: &Path) -> Option<TablePath> {
    let parts: Vec<_> = object.parts().collect();
    let depth = match parts.first()?.as_ref() {
        "lake" => 3,
        "ledger" => 4,
        "models" => 5,
        _ => return None,
    };
    let names: Vec<&str> = parts.get(..depth).filter(|_| parts.len() > depth)?.iter().map(AsRef::as_ref).collect();
    Some(TablePath(names.join("/")))
}

/// The object is a data file of the table at `table`: not of its log, nor of what is beside it.
pub fn is_data_file(table: &TablePath, object: &Path) -> bool {
    let is_hidden = object
        .prefix_match(&table.root())
        .and_then(|mut parts| parts.next())
        .is_none_or(|first| first.as_ref().starts_with('_'));
    !is_hidden && object.extension() == Some("parquet")
}

/// The folder of catalog snapshots, of an environment or of none.
pub fn catalog_folder(environment: Option<&str>) -> Path {
    match environment {
        None => Path::from("catalog"),
        Some(name) => Path::from(format!("environments/{}/catalog", escape(name))),
    }
}

/// A catalog snapshot.
pub fn catalog(environment: Option<&str>, number: u64) -> Path {
    Path::from(format!("{}/{number:020}.json", catalog_folder(environment)))
}

/// Objects by which a store is tried, in a folder that nobody else knows.
#[derive(Debug)]
pub(crate) struct Probe(String);

impl Probe {
    pub(crate) fn new() -> Self {
        Self(format!("_starmere/probe/{}", uuid::Uuid::new_v4().simple()))
    }

    /// Where it says that the store has been tried.
    pub(crate) fn verdict() -> Path {
        Path::from("_starmere/probe/kept.json")
    }

    /// Written to see what time the store says it is.
    pub(crate) fn clock() -> Path {
        Path::from("_starmere/probe/clock")
    }

    pub(crate) fn folder(&self) -> Path {
        Path::from(self.0.as_str())
    }

    pub(crate) fn object(&self, name: &str) -> Path {
        Path::from(format!("{}/{name}", self.0))
    }
}

/// The format number of the warehouse.
pub fn format_number() -> Path {
    Path::from("_starmere/format.json")
}

/// The number of a catalog snapshot that is there, to begin listing at: not always the newest.
pub fn catalog_hint(environment: Option<&str>) -> Path {
    Path::from(format!("{}/_newest.json", catalog_folder(environment)))
}

/// The folder of all environments.
pub fn environments() -> Path {
    Path::from("environments")
}

/// The environment that an object is of.
pub fn environment_of(object: &Path) -> Option<String> {
    object.prefix_match(&environments())?.next().map(|name| name.as_ref().to_owned())
}

/// The folder of [`report`].
pub fn reports_folder() -> Path {
    Path::from("operations")
}

/// What a running process says of its troubles.
pub fn report(command: &str) -> Path {
    Path::from(format!("operations/{}.json", escape(command)))
}

/// The command whose process wrote a report.
pub fn report_command(path: &Path) -> Option<&str> {
    path.filename()?.strip_suffix(".json")
}

/// The name of a schema, from its path.
pub fn schema_name(path: &Path) -> Option<&str> {
    path.filename()?.strip_suffix(".json")
}

/// The number of a catalog snapshot, or of a fold of landed files.
pub fn number(path: &Path) -> Option<u64> {
    commit_version(path)
}

/// Escapes one part of a `txn` application id or of an object path: everything but letters, digits and `-_.`
/// becomes `%XX`, so that `/` only ever separates parts.
pub fn escape(part: &str) -> String {
    let mut escaped = String::with_capacity(part.len());
    for byte in part.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => escaped.push(char::from(byte)),
            _ => {
                use std::fmt::Write as _;
                let _ = write!(escaped, "%{byte:02X}");
            }
        }
    }
    escaped
}

/// What [`escape`] was given; none, where it has given nothing like it.
pub fn unescape(part: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        match byte {
            b'%' => {
                let digits = std::str::from_utf8(after.get(..2)?).ok()?;
                bytes.push(u8::from_str_radix(digits, 16).ok()?);
                rest = &after[2..];
            }
            byte => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_name_tells_its_group() {
        assert_eq!(file_group(&new_file(None, Some(17))), Some(17));
        assert_eq!(file_group(&new_file(Some(("ingest_date", "2026-01-01")), None)), None);
    }

    #[test]
    fn only_commits_are_commits() {
        let table = TablePath::stream("sales", "orders");
        assert_eq!(commit_version(&table.commit(7)), Some(7));
        assert_eq!(commit_version(&table.checkpoint(7)), None);
        assert_eq!(checkpoint_version(&table.checkpoint(7)), Some(7));
        assert_eq!(commit_version(&table.last_checkpoint()), None);
        assert_eq!(archive_version(&table.archive(1000, 1999)), Some(1000));
        assert_eq!((archive_version(&table.commit(7)), commit_version(&table.archive(0, 9))), (None, None));
    }

    #[test]
    fn an_object_tells_its_table() {
        for table in
            [TablePath::stream("d", "s"), TablePath::model("d", "m", "f00", "rows"), TablePath::ledger("d", "s", "f00")]
        {
            assert_eq!(table_of(&table.commit(0)), Some(table.clone()));
            let file = table.file(&new_file(Some(("ingest_date", "2026-01-01")), None));
            assert_eq!(table_of(&file), Some(table.clone()));
            assert!(is_data_file(&table, &file) && table.is_log(&table.commit(3)) && !table.is_log(&file));
            assert!(!is_data_file(&table, &table.checkpoint(3)) && !is_data_file(&table, &table.landed(3)));
        }
        assert_eq!(table_of(&catalog(None, 3)), None);
        let of_model = TablePath::model("d", "m", "f00", "rows").file("a.parquet");
        assert_eq!(model_of(of_model.as_ref()).as_deref(), Some("d.m"));
        assert_eq!((model_of(TablePath::stream("d", "s").as_str()), model_of("models/d/m")), (None, None));
        assert_eq!((number(&catalog(None, 3)), number(&catalog_hint(None))), (Some(3), None));
        assert_eq!(environment_of(&catalog(Some("ann"), 3)).as_deref(), Some("ann"));
        assert_eq!(environment_of(&catalog(None, 3)), None);
    }

    #[test]
    fn escaping_leaves_no_separator() {
        assert_eq!(escape("a/b c"), "a%2Fb%20c");
        for text in ["a/b c", "", "%", "東京", "a-b_c.d"] {
            assert_eq!(unescape(&escape(text)).as_deref(), Some(text));
        }
        assert!(unescape("%2").is_none() && unescape("%zz").is_none() && unescape("%ff").is_none());
    }
}
