//! A careless producer of files: they grow, by half lines too, are renamed, and come anew under old names. It sends
//! every event three times, in any order.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use fastrand::Rng;

use super::events::{Event, STREAMS};

/// How often an event is sent.
const COPIES: usize = 3;

/// Writes files below an inbox, a folder a stream.
#[derive(Debug)]
pub(crate) struct Producer {
    inbox: PathBuf,
    /// Lines to be written, by stream.
    pending: [Vec<String>; 2],
    /// Lines that were or will be written, by stream, in order of text.
    all: [Vec<String>; 2],
    files: Vec<Written>,
    names: usize,
}

#[derive(Debug)]
struct Written {
    stream: usize,
    path: PathBuf,
    /// The other half of a line.
    rest: String,
}

impl Producer {
    pub(crate) fn new(inbox: &Path) -> Self {
        Self {
            inbox: inbox.to_path_buf(),
            pending: Default::default(),
            all: Default::default(),
            files: Vec::new(),
            names: 0,
        }
    }

    /// Takes events to send, each three times, shuffled.
    pub(crate) fn take(&mut self, events: &[Event], random: &mut Rng) {
        let mut copies: Vec<&Event> = (0..COPIES).flat_map(|_| events).collect();
        random.shuffle(&mut copies);
        let before = self.all.iter().map(Vec::len).sum::<usize>();
        for (sent, event) in copies.into_iter().enumerate() {
            let stream = usize::from(event.stream() == STREAMS[1]);
            let line = event.line(before + sent);
            self.pending[stream].push(line.clone());
            self.all[stream].push(line);
        }
        self.all.iter_mut().for_each(|lines| lines.sort());
    }

    /// All lines of both streams, in order of text.
    pub(crate) fn all(&self) -> [Vec<String>; 2] {
        self.all.clone()
    }

    /// Does one thing to the files.
    pub(crate) fn act(&mut self, random: &mut Rng) {
        if !self.files.is_empty() && random.u32(0..4) == 0 {
            return self.rename(random);
        }
        let stream = random.usize(0..2);
        let count = random.usize(1..25).min(self.pending[stream].len());
        let lines: Vec<String> = self.pending[stream].drain(..count).collect();
        let file = self.file(stream, random);
        let mut text = std::mem::take(&mut self.files[file].rest);
        text.extend(lines.iter().flat_map(|line| [line.as_str(), "\n"]));
        if random.u32(0..3) == 0 && !text.is_empty() {
            self.files[file].rest = text.split_off(random.usize(0..text.len()));
        }
        self.files[file].append(&text);
    }

    /// Writes everything that is left.
    pub(crate) fn finish(&mut self, random: &mut Rng) {
        for file in &mut self.files {
            let rest = std::mem::take(&mut file.rest);
            file.append(&rest);
        }
        for stream in 0..2 {
            let text: String = self.pending[stream].drain(..).map(|line| line + "\n").collect();
            let file = self.file(stream, random);
            self.files[file].append(&text);
        }
    }

    /// A file to write to: one of those that are there, or a new one.
    fn file(&mut self, stream: usize, random: &mut Rng) -> usize {
        let of_stream: Vec<usize> = (0..self.files.len()).filter(|&file| self.files[file].stream == stream).collect();
        match random.choice(of_stream) {
            Some(file) if random.u32(0..3) > 0 => file,
            _ => {
                let path = self.new_name(stream);
                self.files.push(Written { stream, path, rest: String::new() });
                self.files.len() - 1
            }
        }
    }

    /// Gives a file another name; every other time, a new file takes its old one.
    fn rename(&mut self, random: &mut Rng) {
        let file = random.usize(0..self.files.len());
        let stream = self.files[file].stream;
        let to = self.new_name(stream);
        let from = std::mem::replace(&mut self.files[file].path, to.clone());
        fs::rename(&from, &to).expect("a file of ours can be renamed");
        if random.bool() {
            let written = Written { stream, path: from, rest: String::new() };
            written.append("");
            self.files.push(written);
        }
    }

    fn new_name(&mut self, stream: usize) -> PathBuf {
        self.names += 1;
        self.inbox.join(STREAMS[stream]).join(format!("{}.jsonl", self.names))
    }
}

impl Written {
    fn append(&self, text: &str) {
        let file = OpenOptions::new().create(true).append(true).open(&self.path);
        file.and_then(|mut file| file.write_all(text.as_bytes())).expect("a file of ours can be written");
    }
}
