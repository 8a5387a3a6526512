//! Reading files: finding them, unpacking them, digesting what was landed.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

use super::identity::{HEAD, Known, Mark, Observed, Seen};
use crate::{Error, Result};

/// A file of a source.
#[derive(Clone, Debug)]
pub(super) struct Found {
    /// Relative to the source's root, with `/`.
    pub(super) name: String,
    pub(super) path: PathBuf,
    pub(super) seen: Seen,
}

/// What cannot be looked at, and why.
type Unreadable = Vec<(String, Error)>;

/// Refuses a pattern that is none. Whatever has no wildcard is one.
pub fn check_pattern(pattern: &Path) -> Result<()> {
    let text = pattern.to_string_lossy();
    if text.contains(['*', '?', '[', '{']) { glob(&text).map(|_| ()) } else { Ok(()) }
}

fn glob(text: &str) -> Result<globset::Glob> {
    let failed = |error: globset::Error| Error::Pattern { pattern: text.to_owned(), reason: error.kind().to_string() };
    globset::GlobBuilder::new(text).literal_separator(true).build().map_err(failed)
}

/// The files of `pattern`: a file, a folder or a glob; and what cannot be looked at. Hidden files are left out. Sorted by
/// name.
pub(super) fn find(pattern: &Path) -> Result<(Vec<Found>, Unreadable)> {
    let text = pattern.to_string_lossy();
    let is_glob = !pattern.exists() && text.contains(['*', '?', '[', '{']);
    let root = if is_glob {
        let fixed: PathBuf = pattern
            .components()
            .take_while(|part| !part.as_os_str().to_string_lossy().contains(['*', '?', '[', '{']))
            .collect();
        fixed
    } else {
        pattern.to_path_buf()
    };
    let matcher = is_glob.then(|| glob(&text)).transpose()?.map(|glob| glob.compile_matcher());
    let base = if root.is_file() { root.parent().unwrap_or(&root).to_path_buf() } else { root.clone() };
    let name = |path: &Path| path.strip_prefix(&base).unwrap_or(path).to_string_lossy().replace('\\', "/");
    let (mut found, mut unreadable) = (Vec::new(), Vec::new());
    let hidden = |entry: &walkdir::DirEntry| entry.depth() > 0 && entry.file_name().to_string_lossy().starts_with('.');
    for entry in walkdir::WalkDir::new(&root).follow_links(true).into_iter().filter_entry(|entry| !hidden(entry)) {
        let entry = match entry {
            Ok(entry) => entry,
            // Without its root a source has nothing.
            Err(error) => {
                let (depth, path) = (error.depth(), error.path().unwrap_or(&root).to_path_buf());
                let cause = error.into_io_error().unwrap_or_else(|| io::Error::other("a loop of links"));
                match depth {
                    0 => return Err(Error::read(&path, cause)),
                    _ => unreadable.push((name(&path), Error::read(&path, cause))),
                }
                continue;
            }
        };
        let path = entry.path();
        if !entry.file_type().is_file() || matcher.as_ref().is_some_and(|matcher| !matcher.is_match(path)) {
            continue;
        }
        match std::fs::metadata(path) {
            Ok(metadata) => {
                found.push(Found { name: name(path), path: path.to_path_buf(), seen: seen(&metadata) });
            }
            Err(error) => unreadable.push((name(path), Error::read(path, error))),
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok((found, unreadable))
}

fn seen(metadata: &std::fs::Metadata) -> Seen {
    Seen {
        size: metadata.len(),
        modified_ns: metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec()),
        inode: metadata.ino(),
    }
}

/// The file's content, unpacked if it is packed.
pub(super) fn open(path: &Path) -> io::Result<Box<dyn Read + Send>> {
    let mut file = File::open(path)?;
    let mut magic = [0; 4];
    let mut read = 0;
    while read < magic.len() {
        match file.read(&mut magic[read..])? {
            0 => break,
            more => read += more,
        }
    }
    let whole = io::Cursor::new(magic[..read].to_vec()).chain(file);
    Ok(match magic {
        [a, b, ..] if [a, b] == GZIP => {
            Box::new(flate2::read::MultiGzDecoder::new(BufReader::with_capacity(1 << 18, whole)))
        }
        magic if magic == ZSTD => Box::new(zstd::Decoder::new(whole)?),
        _ => Box::new(whole),
    })
}

/// How packed files begin.
const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Whether a file that begins so is packed.
pub(super) fn is_packed(begin: &[u8]) -> bool {
    begin.starts_with(&GZIP) || begin.starts_with(&ZSTD)
}

/// What a commit says of a file of which `digest` has landed. `position`: where that is not the length.
pub(super) fn mark(file: &Found, digest: &Digest, position: Option<i64>, is_whole: bool) -> Option<serde_json::Value> {
    let mark = Mark {
        path: file.name.clone(),
        length: digest.length(),
        digest: digest.digest(),
        head: digest.head(),
        position,
        is_partial: position.is_some() && !is_whole,
        seen: is_whole.then(|| file.seen.clone()),
    };
    serde_json::to_value(mark).ok()
}

/// Reads the first `length` bytes of `content`; their digest and the last of them.
pub(super) fn skip(content: &mut impl Read, length: u64) -> io::Result<(Digest, Option<u8>)> {
    let (mut digest, mut last) = (Digest::default(), None);
    let mut block = vec![0; 1 << 16];
    while digest.length() < length {
        let wanted = (length - digest.length()).min(block.len() as u64) as usize;
        match content.read(&mut block[..wanted])? {
            0 => return Err(io::Error::other("the file became shorter while it was read")),
            read => {
                digest.update(&block[..read]);
                last = Some(block[read - 1]);
            }
        }
    }
    Ok((digest, last))
}

/// Digest of a beginning, continued byte by byte.
#[derive(Clone, Default)]
pub(super) struct Digest {
    whole: Xxh3,
    head: Xxh3,
    length: u64,
}

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Digest").field("length", &self.length).finish_non_exhaustive()
    }
}

impl Digest {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        if self.length < HEAD {
            let rest = (HEAD - self.length).min(bytes.len() as u64) as usize;
            self.head.update(&bytes[..rest]);
        }
        self.whole.update(bytes);
        self.length += bytes.len() as u64;
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    pub(super) fn digest(&self) -> String {
        format!("{:032x}", self.whole.digest128())
    }

    pub(super) fn head(&self) -> String {
        format!("{:032x}", self.head.digest128())
    }
}

/// What the contents of `wanted` files are, where two of them may be the same. Only files of equal size whose
/// beginnings are equal are read whole, and, where some are packed, those whose beginnings are; what cannot be read is
/// told when it lands.
pub(super) fn contents(files: &[Found], wanted: impl Fn(usize) -> bool, end_of_input: bool) -> Vec<Option<String>> {
    let mut contents = vec![None; files.len()];
    // Packed files are known by their names here: to open all of them would take longer than to land them.
    let is_packed = |file: &Found| [".gz", ".zst", ".zstd"].iter().any(|ending| file.name.ends_with(ending));
    let some_packed = files.iter().enumerate().any(|(place, file)| wanted(place) && is_packed(file));
    let mut by_size: HashMap<u64, Vec<usize>> = HashMap::new();
    for (place, file) in files.iter().enumerate().filter(|&(place, _)| wanted(place)) {
        let size = if some_packed { 0 } else { file.seen.size };
        by_size.entry(size).or_default().push(place);
    }
    for places in by_size.into_values().filter(|places| places.len() > 1) {
        let mut by_head: HashMap<String, Vec<usize>> = HashMap::new();
        for place in places {
            if let Ok(head) = head(&files[place].path) {
                by_head.entry(head).or_default().push(place);
            }
        }
        for place in by_head.into_values().filter(|places| places.len() > 1).flatten() {
            contents[place] = content(&files[place].path, end_of_input).ok().flatten();
        }
    }
    contents
}

fn head(path: &Path) -> io::Result<String> {
    let mut head = Vec::with_capacity(HEAD as usize);
    open(path)?.take(HEAD).read_to_end(&mut head)?;
    let mut digest = Digest::default();
    digest.update(&head);
    Ok(digest.head())
}

/// Length and digest of a file's content; `None` where not all of it would land.
fn content(path: &Path, end_of_input: bool) -> io::Result<Option<String>> {
    let mut stream = open(path)?;
    let (mut digest, mut last) = (Digest::default(), None);
    let mut block = vec![0; 1 << 16];
    loop {
        match stream.read(&mut block)? {
            0 => break,
            read => {
                digest.update(&block[..read]);
                last = Some(block[read - 1]);
            }
        }
    }
    let is_whole = last.is_some_and(|last| last == b'\n' || end_of_input);
    Ok(is_whole.then(|| format!("{} {}", digest.length(), digest.digest())))
}

/// Known files by what narrows them down.
pub(super) struct Index<'a> {
    known: &'a [Known],
    by_path: HashMap<&'a str, usize>,
    by_head: HashMap<(u64, &'a str), Vec<usize>>,
    head_lengths: Vec<u64>,
}

impl<'a> Index<'a> {
    pub(super) fn new(known: &'a [Known]) -> Self {
        let mut by_head: HashMap<(u64, &str), Vec<usize>> = HashMap::new();
        for (place, file) in known.iter().enumerate() {
            by_head.entry((file.mark.head_length(), file.mark.head.as_str())).or_default().push(place);
        }
        let mut head_lengths: Vec<u64> = by_head.keys().map(|&(length, _)| length).collect();
        head_lengths.sort_unstable();
        head_lengths.dedup();
        let by_path = known.iter().enumerate().map(|(place, file)| (file.mark.path.as_str(), place)).collect();
        Self { known, by_path, by_head, head_lengths }
    }

    /// Looks at a file: which known files does it begin with?
    pub(super) fn observe(&self, found: &Found) -> Result<Observed> {
        let untouched = self.by_path.get(found.name.as_str()).copied();
        let untouched = untouched.filter(|&place| self.known[place].mark.seen.as_ref() == Some(&found.seen));
        let mut observed = Observed { path: found.name.clone(), begins_with: Vec::new(), untouched };
        if untouched.is_none() && !self.known.is_empty() {
            observed.begins_with = self.begins_with(&found.path).map_err(|source| Error::read(&found.path, source))?;
        }
        Ok(observed)
    }

    fn begins_with(&self, path: &Path) -> io::Result<Vec<(usize, bool)>> {
        let mut stream = open(path)?;
        let mut head = Vec::with_capacity(HEAD as usize);
        stream.by_ref().take(HEAD).read_to_end(&mut head)?;
        let mut candidates = Vec::new();
        let mut digest = Xxh3::new();
        let mut digested = 0;
        for &length in self.head_lengths.iter().filter(|&&length| length <= head.len() as u64) {
            digest.update(&head[digested..length as usize]);
            digested = length as usize;
            let text = format!("{:032x}", digest.digest128());
            candidates.extend(self.by_head.get(&(length, text.as_str())).into_iter().flatten().copied());
        }
        candidates.sort_by_key(|&place| self.known[place].mark.length);
        let mut matches = Vec::new();
        let mut whole = Digest::default();
        let mut content = io::Cursor::new(head).chain(stream);
        let mut block = vec![0; 1 << 16];
        for place in candidates {
            let mark = &self.known[place].mark;
            while whole.length() < mark.length {
                let wanted = (mark.length - whole.length()).min(block.len() as u64) as usize;
                match content.read(&mut block[..wanted])? {
                    0 => return Ok(matches),
                    read => whole.update(&block[..read]),
                }
            }
            if whole.digest() == mark.digest {
                matches.push((place, false));
            }
        }
        // Whether anything follows the longest match.
        if let Some((place, is_whole)) = matches.last_mut()
            && whole.length() == self.known[*place].mark.length
        {
            *is_whole = content.read(&mut block[..1])? == 0;
        }
        Ok(matches)
    }
}
