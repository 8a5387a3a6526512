//! Records that follow each other in a file: lines, and the records of CSV.

use std::io::Read;
use std::path::Path;

use object_store::ObjectStoreExt as _;
use starmere_lake::formats::{Encoding, Header, Incoming, csv};
use starmere_lake::landing::{Oversized, SourcePartition};

use super::identity::Mark;
use super::read::{self, Digest, Found};
use super::run::{Reading, Stopped};
use crate::lines::{Ends, Line, Lines};
use crate::{Error, Result};

/// Parts of an upload: S3 wants at least 5 MiB.
const PART_BYTES: usize = 8 << 20;

/// A file that is being read.
struct Open<'a> {
    file: &'a Found,
    partition: SourcePartition,
    /// Of its content up to `position`, which is behind the last whole line.
    digest: Digest,
    from: i64,
    position: i64,
    /// What landed before ends within a line.
    continues_line: bool,
    /// The first record of CSV.
    header: Option<Vec<u8>>,
}

impl Open<'_> {
    fn mark(&self, complete: bool) -> Option<serde_json::Value> {
        read::mark(self.file, &self.digest, None, complete)
    }
}

impl Reading {
    /// Lands the records of `file` behind what `landed` says.
    pub(super) fn records(
        &mut self,
        file: &Found,
        partition: SourcePartition,
        landed: Option<&Mark>,
    ) -> Result<Result<(), Stopped>> {
        let from = landed.map_or(0, |mark| mark.length);
        let failed = |source| Error::read(&file.path, source);
        let mut content = read::open(&file.path).map_err(failed)?;
        let (digest, last) = read::skip(&mut content, from).map_err(failed)?;
        let continues_line = last.is_some_and(|last| last != b'\n');
        let limit = self.reader.mapping().max_event_bytes;
        let (ends, header) = match self.reader.mapping().format.encoding {
            Encoding::Csv { delimiter } => {
                let mut first = Lines::of(read::open(&file.path).map_err(failed)?, limit, Ends::csv(delimiter));
                let header = match first.next_line().map_err(failed)? {
                    Line::Whole(header) => Some(header.to_vec()),
                    Line::Unterminated(header) if self.source.end_of_input => Some(header.to_vec()),
                    Line::Piece(_) | Line::LastPiece(_) => {
                        let reason = format!("its header has more than `max_event_bytes` ({limit})");
                        return Err(Error::Content { path: file.name.clone(), reason });
                    }
                    Line::Unterminated(_) | Line::End => None,
                };
                if let Some(wrong) = header.as_deref().and_then(|header| self.reader.wrong_header(delimiter, header)) {
                    return Err(Error::Content { path: file.name.clone(), reason: wrong });
                }
                (Ends::csv(delimiter), header)
            }
            _ => (Ends::Newline, None),
        };
        let mut reading =
            Open { file, partition, digest, from: from as i64, position: from as i64, continues_line, header };
        self.begin(reading.partition.clone(), reading.position);
        let mut lines = Lines::of(content, limit, ends);
        let read = self.read_lines(&mut lines, &mut reading);
        let complete = match read {
            Ok(Ok(complete)) => complete,
            Ok(Err(Stopped)) => return Ok(Err(Stopped)),
            // The lines before the place that cannot be read are landed.
            Err(_) => false,
        };
        if !complete && read.is_ok() {
            self.report.files_waiting.push(file.name.clone());
        }
        let is_where_it_was = landed.is_some_and(|mark| mark.path == file.name);
        if reading.position == 0 || (reading.position == from as i64 && !complete && is_where_it_was) {
            // Not one whole line: there is nothing to know the file by, or nothing new. Where it is now is new.
            self.batch.forget_last();
        } else {
            self.batch.mark(reading.position, reading.mark(complete));
        }
        if self.flush_parts()?.is_err() {
            return Ok(Err(Stopped));
        }
        read.map(|_| Ok(()))
    }

    /// Reads lines until the end, or until one that has no end yet; whether it was the end.
    fn read_lines(
        &mut self,
        lines: &mut Lines<Box<dyn Read + Send>>,
        open: &mut Open<'_>,
    ) -> Result<Result<bool, Stopped>> {
        let failed = |source| Error::read(&open.file.path, source);
        let is_csv = matches!(self.reader.mapping().format.encoding, Encoding::Csv { .. });
        let header = open.header.clone();
        let headers: Option<[Header<'_>; 1]> =
            header.as_deref().map(|header| [(csv::HEADER, Some(csv::header(header)))]);
        // The header is no event, and neither is a line of nothing between records.
        let is_event = |position: i64, line: &[u8]| !is_csv || (position > 0 && !line.trim_ascii().is_empty());
        loop {
            let position = open.position;
            let next = match lines.next_line().map_err(failed)? {
                Line::Whole(b"") if position == open.from && open.continues_line => {
                    // The newline of a line that had landed without it, when the end of input was declared.
                    open.digest.update(b"\n");
                    position + 1
                }
                Line::Whole(line) => {
                    let next = position + line.len() as i64 + 1;
                    open.digest.update(line);
                    open.digest.update(b"\n");
                    if is_event(position, line) {
                        let event = Incoming { headers: headers.as_ref().map(|all| &all[..]), ..Incoming::of(line) };
                        self.push(&event, &open.partition, position, next)?;
                        self.count(line.len() as u64 + 1);
                    }
                    next
                }
                Line::Unterminated(line) if self.source.end_of_input => {
                    let next = position + line.len() as i64;
                    open.digest.update(line);
                    if is_event(position, line) {
                        let event = Incoming { headers: headers.as_ref().map(|all| &all[..]), ..Incoming::of(line) };
                        self.push(&event, &open.partition, position, next)?;
                        self.count(line.len() as u64);
                    }
                    next
                }
                Line::Unterminated(_) => return Ok(Ok(false)),
                Line::End => return Ok(Ok(true)),
                Line::Piece(piece) => {
                    let first = piece.to_vec();
                    match self.oversized(lines, &mut open.digest, &open.partition, position, first)? {
                        Some(next) => {
                            self.count((next - position) as u64);
                            next
                        }
                        None => return Ok(Ok(false)),
                    }
                }
                Line::LastPiece(piece) => {
                    let next = position + piece.len() as i64 + 1;
                    // The digest says what has landed, so it comes last: what follows may fail.
                    self.push(&Incoming::of(piece), &open.partition, position, next)?;
                    open.digest.update(piece);
                    open.digest.update(b"\n");
                    self.count(piece.len() as u64 + 1);
                    next
                }
            };
            open.position = next;
            if self.is_full() {
                self.batch.mark(next, open.mark(false));
                if self.flush()?.is_err() {
                    return Ok(Err(Stopped));
                }
                self.begin(open.partition.clone(), next);
            }
        }
    }

    /// Streams a line that is too long for a row to an object beside the table. `None`: it has no end yet.
    fn oversized(
        &mut self,
        lines: &mut Lines<Box<dyn Read + Send>>,
        digest: &mut Digest,
        partition: &SourcePartition,
        position: i64,
        first: Vec<u8>,
    ) -> Result<Option<i64>> {
        use sha2::Digest as _;
        let path = self.stream.table().path().oversized(
            &partition.source,
            &partition.topic,
            partition.incarnation,
            0,
            position,
        );
        let failed =
            |source| Error::Lake(starmere_lake::Error::Store { action: "write", path: path.to_string(), source });
        let store = self.stream.table().store().objects().clone();
        let mut upload = self.runtime.block_on(store.put_multipart(&path)).map_err(failed)?;
        let mut sha256 = sha2::Sha256::new();
        let mut ahead = digest.clone();
        let (mut length, mut piece) = (0_u64, first);
        let mut part = Vec::with_capacity(PART_BYTES);
        loop {
            sha256.update(&piece);
            ahead.update(&piece);
            length += piece.len() as u64;
            part.extend_from_slice(&piece);
            if part.len() >= PART_BYTES {
                let full = std::mem::replace(&mut part, Vec::with_capacity(PART_BYTES));
                self.runtime.block_on(upload.put_part(full.into())).map_err(failed)?;
            }
            let read = lines.next_line().map_err(|source| Error::read(Path::new(&partition.topic), source))?;
            let (more, last) = match read {
                Line::Piece(more) => (more.to_vec(), false),
                Line::LastPiece(more) => (more.to_vec(), true),
                Line::Unterminated(more) if self.source.end_of_input => (more.to_vec(), true),
                Line::End if self.source.end_of_input => (Vec::new(), true),
                Line::Whole(_) | Line::Unterminated(_) | Line::End => {
                    let _ = self.runtime.block_on(upload.abort());
                    return Ok(None);
                }
            };
            piece = more;
            if last {
                sha256.update(&piece);
                ahead.update(&piece);
                ahead.update(b"\n");
                length += piece.len() as u64;
                part.extend_from_slice(&piece);
                self.runtime.block_on(upload.put_part(part.into())).map_err(failed)?;
                self.runtime.block_on(upload.complete()).map_err(failed)?;
                *digest = ahead;
                let next = position + length as i64 + 1;
                self.push_oversized(path.as_ref(), length, &hex::encode(sha256.finalize()), position, next)?;
                return Ok(Some(next));
            }
        }
    }

    fn push_oversized(&mut self, path: &str, length: u64, sha256: &str, position: i64, next: i64) -> Result<()> {
        let kept = Oversized { path: path.to_owned(), bytes: length, sha256: sha256.to_owned() };
        let limit = self.reader.mapping().max_event_bytes;
        self.batch.push_oversized(&Incoming::default(), &kept, limit, position, next)?;
        Ok(())
    }
}
