//! How files were when they were read: tells whether they have changed, without reading them.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Files by their paths; none where there is no file.
pub(crate) type Stamps = BTreeMap<PathBuf, Option<Stamp>>;

/// A file at one moment. To write it changes one of these; a copy that keeps the time of change has another inode, or
/// another time of its inode's change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    bytes: u64,
    inode: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    changed: (i64, i64),
}

/// How the file is now.
pub(crate) fn stamp(path: &Path) -> Option<Stamp> {
    let file = std::fs::metadata(path).ok()?;
    Some(Stamp {
        bytes: file.len(),
        inode: file.ino(),
        modified: (file.mtime(), file.mtime_nsec()),
        changed: (file.ctime(), file.ctime_nsec()),
    })
}

/// What to do about files that are looked at again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    Same,
    /// They are being written: half of a change is not taken up.
    Wait,
    Read,
}

/// Files are read again when they are other than those read last, and have stayed so from one look to the next. Pure.
pub(crate) fn look(read: &Stamps, seen: Option<&Stamps>, found: &Stamps) -> Look {
    match found {
        found if found == read => Look::Same,
        found if seen == Some(found) => Look::Read,
        _ => Look::Wait,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_being_written_are_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.yaml");
        let now = || Stamps::from([(path.clone(), stamp(&path))]);
        let none = now();
        std::fs::write(&path, "half").unwrap();
        let half = now();
        assert_eq!(look(&none, None, &none), Look::Same);
        assert_eq!(look(&none, Some(&none), &half), Look::Wait);
        assert_eq!(look(&none, Some(&half), &half), Look::Read);
        std::fs::write(&path, "the whole").unwrap();
        assert_eq!(look(&none, Some(&half), &now()), Look::Wait);
        assert_eq!(look(&half, Some(&now()), &now()), Look::Read);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(look(&half, Some(&none), &now()), Look::Read);
    }
}
