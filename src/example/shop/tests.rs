use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process;

use super::{Size, generate, in_the_way};

/// A folder that goes when the test does.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let folder = env::temp_dir().join(format!("starmere-shop-{}-{name}", process::id()));
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(path.strip_prefix(folder).unwrap().to_owned(), fs::read(&path).unwrap());
            }
        }
    }
    found
}

#[test]
fn same_size_and_seed_write_the_same_bytes() {
    let [first, again, other] = ["first", "again", "other"].map(Scratch::new);
    generate(&first.0, Size { orders: 500 }, 1).unwrap();
    generate(&again.0, Size { orders: 500 }, 1).unwrap();
    generate(&other.0, Size { orders: 500 }, 2).unwrap();
    let first = files(&first.0);
    assert_eq!(first, files(&again.0));
    assert_ne!(first, files(&other.0));
}

#[test]
fn every_file_of_the_example_is_written() {
    let scratch = Scratch::new("definitions");
    generate(&scratch.0, Size { orders: 1 }, 1).unwrap();
    let written = files(&scratch.0);
    for (path, content) in files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/shop")) {
        assert_eq!(written.get(&path), Some(&content), "{}", path.display());
    }
}

#[test]
fn summary_counts_the_lines_of_the_files() {
    let scratch = Scratch::new("summary");
    let summary = generate(&scratch.0, Size { orders: 3000 }, 7).unwrap();
    let lines = |folder: &str| -> u64 {
        let newlines = |content: &Vec<u8>| content.iter().filter(|byte| **byte == b'\n').count() as u64;
        files(&scratch.0.join(folder)).values().map(newlines).sum()
    };
    assert_eq!(lines("events/customers"), summary.customers);
    assert_eq!(lines("events/products"), summary.products);
    assert_eq!(lines("events/orders"), summary.orders);
    assert_eq!(lines("events-http"), summary.orders_to_post);
}

#[test]
fn a_second_shop_in_the_same_folder_is_refused() {
    let scratch = Scratch::new("twice");
    generate(&scratch.0, Size { orders: 100 }, 1).unwrap();
    let before = files(&scratch.0);
    let refused = generate(&scratch.0, Size { orders: 50 }, 1).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::AlreadyExists);
    assert_eq!(files(&scratch.0), before);
}

#[test]
fn files_of_the_user_are_not_overwritten() {
    for (name, taken) in [("readme", "README.md"), ("blocked", "streams"), ("answers", "expected")] {
        let scratch = Scratch::new(name);
        assert_eq!(in_the_way(&scratch.0), None);
        fs::write(scratch.0.join(taken), "mine").unwrap();
        let before = files(&scratch.0);
        assert_eq!(in_the_way(&scratch.0), Some(scratch.0.join(taken)));
        assert!(generate(&scratch.0, Size { orders: 10 }, 1).is_err());
        assert_eq!(files(&scratch.0), before);
    }
}
