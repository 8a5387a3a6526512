//! Lines of a byte stream, or records of CSV, in bounded memory however long one is.

use std::io::{self, Read};

use starmere_lake::formats::csv::Within;

/// One step through a stream of lines.
#[derive(Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// A whole line without its newline; a carriage return before it stays.
    Whole(&'a [u8]),
    /// A piece of a line that is longer than the limit; more follows.
    Piece(&'a [u8]),
    /// The last piece of such a line.
    LastPiece(&'a [u8]),
    /// Bytes after the last newline; the stream has ended.
    Unterminated(&'a [u8]),
    /// The stream has ended.
    End,
}

/// Where a line ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    /// At each newline.
    Newline,
    /// At each newline that is not within quotes, as RFC 4180 has them; one in a field that began without is a mere
    /// character.
    Csv { delimiter: u8, within: Within },
}

impl Ends {
    /// Records of CSV.
    pub fn csv(delimiter: u8) -> Self {
        Self::Csv { delimiter, within: Within::Start }
    }

    /// The place of the newline that ends the line; `bytes` follow what was searched before.
    pub(crate) fn find(&mut self, bytes: &[u8]) -> Option<usize> {
        let Self::Csv { delimiter, within } = self else { return memchr::memchr(b'\n', bytes) };
        for (place, &byte) in bytes.iter().enumerate() {
            if byte == b'\n' && *within != Within::Quotes {
                *within = Within::Start;
                return Some(place);
            }
            *within = within.after(byte, *delimiter);
        }
        None
    }
}

/// Splits a stream into lines. Memory: the limit plus one block.
#[derive(Debug)]
pub struct Lines<R> {
    ends: Ends,
    stream: R,
    buffer: Vec<u8>,
    /// Unread bytes of the buffer.
    start: usize,
    end: usize,
    /// Up to here the unread bytes are known to hold no newline.
    searched: usize,
    limit: usize,
    oversized: bool,
    ended: bool,
}

const BLOCK: usize = 1 << 20;

impl<R: Read> Lines<R> {
    /// Lines of `stream`; those longer than `limit` bytes come in pieces.
    pub fn new(stream: R, limit: usize) -> Self {
        Self::of(stream, limit, Ends::Newline)
    }

    /// The same, where lines end elsewhere.
    pub fn of(stream: R, limit: usize, ends: Ends) -> Self {
        Self {
            ends,
            stream,
            buffer: vec![0; BLOCK.min(limit.max(1) * 2)],
            start: 0,
            end: 0,
            searched: 0,
            limit: limit.max(1),
            oversized: false,
            ended: false,
        }
    }

    /// The next step.
    pub fn next_line(&mut self) -> io::Result<Line<'_>> {
        loop {
            let unread = &self.buffer[self.searched..self.end];
            if let Some(found) = self.ends.find(unread) {
                let newline = self.searched + found;
                let from = self.start;
                self.start = newline + 1;
                self.searched = self.start;
                let line = &self.buffer[from..newline];
                if std::mem::take(&mut self.oversized) {
                    return Ok(Line::LastPiece(line));
                }
                if line.len() <= self.limit {
                    return Ok(Line::Whole(line));
                }
                // Only a line in one block with its newline can be too long and complete.
                return Ok(Line::LastPiece(line));
            }
            self.searched = self.end;
            if self.end - self.start > self.limit || (self.oversized && self.end > self.start) {
                let piece = self.start..self.end;
                self.start = self.end;
                self.oversized = true;
                return Ok(Line::Piece(&self.buffer[piece]));
            }
            if self.ended {
                let rest = self.start..self.end;
                self.start = self.end;
                return Ok(if rest.is_empty() { Line::End } else { Line::Unterminated(&self.buffer[rest]) });
            }
            self.fill()?;
        }
    }

    fn fill(&mut self) -> io::Result<()> {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.searched -= self.start;
            self.start = 0;
        }
        if self.end == self.buffer.len() {
            let larger = (self.buffer.len() * 2).min(self.limit + BLOCK).max(self.end + 1);
            self.buffer.resize(larger, 0);
        }
        match self.stream.read(&mut self.buffer[self.end..]) {
            Ok(0) => self.ended = true,
            Ok(read) => self.end += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stream that gives `step` bytes at a time.
    struct Slow<'a>(&'a [u8], usize);

    impl Read for Slow<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let count = self.1.min(self.0.len()).min(into.len());
            into[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }

    #[test]
    fn records_end_where_no_quotes_are_open() {
        let text = b"a,b\n\"x\n\"\"y\"\"\n\",1\r\n5\" pipe,2\n\"\"\n\"open,\nto the end\n";
        let expected: [&[u8]; 4] = [b"a,b", b"\"x\n\"\"y\"\"\n\",1\r", b"5\" pipe,2", b"\"\""];
        for step in 1..text.len() {
            let mut lines = Lines::of(Slow(text, step), 100, Ends::csv(b','));
            for record in expected {
                assert_eq!(lines.next_line().unwrap(), Line::Whole(record), "step {step}");
            }
            assert_eq!(lines.next_line().unwrap(), Line::Unterminated(b"\"open,\nto the end\n"));
        }
    }

    #[test]
    fn lines_are_the_same_for_any_block_size_and_limit() {
        let text = b"one\n\ntwo two\r\n0123456789012345678901234567890123456789\nlast";
        let expected: Vec<&[u8]> = text.split(|&byte| byte == b'\n').collect();
        for step in 1..text.len() {
            for limit in [1, 5, 8, 39, 40, 100] {
                let mut lines = Lines::new(Slow(text, step), limit);
                let (mut found, mut line) = (Vec::<Vec<u8>>::new(), Vec::new());
                loop {
                    match lines.next_line().unwrap() {
                        Line::Whole(whole) => {
                            assert!(whole.len() <= limit);
                            found.push(whole.to_vec());
                        }
                        Line::Piece(piece) => line.extend_from_slice(piece),
                        Line::LastPiece(piece) => {
                            line.extend_from_slice(piece);
                            assert!(line.len() > limit);
                            found.push(std::mem::take(&mut line));
                        }
                        Line::Unterminated(rest) => {
                            line.extend_from_slice(rest);
                            found.push(std::mem::take(&mut line));
                        }
                        Line::End => break,
                    }
                }
                if !line.is_empty() {
                    found.push(line);
                }
                assert_eq!(found, expected, "step {step}, limit {limit}");
            }
        }
    }
}
