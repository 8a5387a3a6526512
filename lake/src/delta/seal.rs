//! Digests of a data file's blocks, by which a reader tells damage from data.
//!
//! Parquet has checksums of pages, which its Rust library does not write. They would not cover headers of pages, page
//! indexes, bloom filters, our hashes and the footer either. So a file has digests of our own:
//!
//! ```text
//! PAR1 │ row groups │ hashes │ filters, page indexes │ XXH3 of each 32 KiB of the body: u64 each │ footer
//! └───────────────────── body ──────────────────────┘└──────────────────── tail ────────────────────┘
//! ```
//!
//! The log's `add` action of the file says in a tag how long a block and the body are, and the XXH3 of the tail. A
//! reader begins with the tail, whose place it knows: one request for exactly the digests and the footer. After that it
//! reads whole blocks, and checks each. Digests take a quarter of a thousandth of a file. Reading a range reads up to two
//! blocks more, and hashes them at the speed of memory. Other readers pass the digests by: Parquet lets bytes stand before
//! the footer that the footer does not speak of.
//!
//! Files that were written before have no tag, and are read unchecked.

use std::ops::Range;

use object_store::path::Path;
use xxhash_rust::xxh3::xxh3_64;

use super::Add;
use crate::damage::damaged;
use crate::{Error, Result};

/// The tag of a file: the length of a block, the length of the body, and the digest of the tail.
const SEAL: &str = "starmere.seal";
/// Bytes that have a digest together.
const BLOCK: u64 = 1 << 15;
const DIGEST: usize = size_of::<u64>();
/// The end of a Parquet file: how long the footer is, and four letters.
const FOOTER_END: usize = 8;

/// What the log says of a file's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seal {
    block: u64,
    /// Where the tail begins.
    pub(super) body: u64,
    tail: u64,
}

impl Seal {
    /// Puts digests into an encoded file, before its footer.
    pub(super) fn put(file: &mut Vec<u8>) -> Result<Self> {
        let body = footer_start(file)
            .ok_or_else(|| Error::Invalid { what: "a new file".into(), reason: "it has no footer".into() })?;
        let footer = file.split_off(body);
        let digests: Vec<u8> = file.chunks(BLOCK as usize).flat_map(|block| xxh3_64(block).to_le_bytes()).collect();
        file.extend_from_slice(&digests);
        file.extend_from_slice(&footer);
        Ok(Self { block: BLOCK, body: body as u64, tail: xxh3_64(&file[body..]) })
    }

    /// The tag that says it.
    pub(super) fn tag(self) -> (String, Option<String>) {
        let Self { block, body, tail } = self;
        (SEAL.to_owned(), Some(format!("{block} {body} {tail:016x}")))
    }

    /// What the log says of the file at `path`; nothing, where the file is older than this is written.
    pub(crate) fn of(add: &Add, path: &Path) -> Result<Option<Self>> {
        let Some(Some(text)) = add.tags.as_ref().and_then(|tags| tags.get(SEAL)) else { return Ok(None) };
        match Self::parse(text) {
            Some(seal) if i64::try_from(seal.body).is_ok_and(|body| body <= add.size) => Ok(Some(seal)),
            _ => Err(damaged(path, format!("the tag `{SEAL}` in the log is `{text}`"))),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(' ');
        let (block, body) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let tail = u64::from_str_radix(parts.next()?, 16).ok()?;
        (block > 0 && parts.next().is_none()).then_some(Self { block, body, tail })
    }

    /// The digests in the tail of a file of `size` bytes, if it is the tail that was written.
    pub(super) fn sums(self, tail: &[u8], size: u64) -> Result<Sums, String> {
        let expected = size.saturating_sub(self.body);
        if tail.len() as u64 != expected {
            return Err(format!("it has {} of the {expected} bytes of its footer", tail.len()));
        }
        let length = usize::try_from(self.body.div_ceil(self.block)).ok().and_then(|count| count.checked_mul(DIGEST));
        let digests = length.and_then(|length| tail.get(..length)).filter(|_| xxh3_64(tail) == self.tail);
        let digests = digests.ok_or("its footer is not the one that was written")?;
        let digests = digests.as_chunks::<DIGEST>().0.iter().map(|digest| u64::from_le_bytes(*digest)).collect();
        Ok(Sums { seal: self, size, digests })
    }
}

/// Where the footer of an encoded Parquet file begins.
pub(super) fn footer_start(file: &[u8]) -> Option<usize> {
    let end = file.len().checked_sub(FOOTER_END)?;
    let length: [u8; 4] = file.get(end..end + 4)?.try_into().ok()?;
    end.checked_sub(u32::from_le_bytes(length) as usize)
}

/// The digests of a file.
#[derive(Debug)]
pub(crate) struct Sums {
    seal: Seal,
    size: u64,
    digests: Box<[u64]>,
}

impl Sums {
    /// Bytes that they take.
    pub(crate) fn memory_size(&self) -> usize {
        size_of::<Self>() + self.digests.len() * DIGEST
    }

    /// Spans of whole blocks, apart from each other and in order, that hold these ranges.
    pub(super) fn spans(&self, wanted: &[Range<u64>]) -> Vec<Range<u64>> {
        let mut whole: Vec<Range<u64>> =
            wanted.iter().filter(|range| !range.is_empty()).map(|range| self.whole(range)).collect();
        whole.sort_unstable_by_key(|span| span.start);
        let mut spans: Vec<Range<u64>> = Vec::with_capacity(whole.len());
        for span in whole {
            match spans.last_mut() {
                Some(last) if span.start <= last.end => last.end = last.end.max(span.end),
                _ => spans.push(span),
            }
        }
        spans
    }

    fn whole(&self, range: &Range<u64>) -> Range<u64> {
        let Seal { block, body, .. } = self.seal;
        let start = if range.start < body { range.start / block * block } else { body };
        let end = if range.end <= body { range.end.div_ceil(block).saturating_mul(block).min(body) } else { self.size };
        start..end
    }

    /// What is wrong with the bytes of a span of whole blocks.
    pub(super) fn check(&self, span: &Range<u64>, bytes: &[u8]) -> Result<(), String> {
        let Seal { block, body, tail: written } = self.seal;
        if bytes.len() as u64 != span.end - span.start {
            return Err(format!("of its bytes {} to {}, {} are there", span.start, span.end, bytes.len()));
        }
        let (blocks, tail) = bytes.split_at((body.saturating_sub(span.start) as usize).min(bytes.len()));
        for (number, content) in (span.start / block..).zip(blocks.chunks(block as usize)) {
            if self.digests.get(number as usize) != Some(&xxh3_64(content)) {
                let start = number * block;
                let end = start + content.len() as u64;
                return Err(format!("its bytes {start} to {end} are not those that were written"));
            }
        }
        if !tail.is_empty() && xxh3_64(tail) != written {
            return Err("its footer is not the one that was written".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that end as a Parquet file with a footer of so many bytes does.
    fn file(body: usize, footer: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..body + footer).map(|place| (place * 31 % 251) as u8).collect();
        bytes.extend_from_slice(&(footer as u32).to_le_bytes());
        bytes.extend_from_slice(b"PAR1");
        bytes
    }

    #[test]
    fn ranges_are_read_as_whole_blocks_and_each_changed_bit_is_found() {
        let block = BLOCK as usize;
        for body in [0, 1, block - 1, block, block + 1, 3 * block + 17] {
            let plain = file(body, 40);
            let mut bytes = plain.clone();
            let seal = Seal::put(&mut bytes).unwrap();
            assert_eq!((seal.body, &bytes[..body]), (body as u64, &plain[..body]));
            assert_eq!(&bytes[bytes.len() - 48..], &plain[body..], "the footer is the end of the file");
            let size = bytes.len() as u64;
            let sums = seal.sums(&bytes[body..], size).unwrap();
            let mut random = fastrand::Rng::with_seed(body as u64);
            for _ in 0..200 {
                let mut wanted: Vec<Range<u64>> = Vec::new();
                for _ in 0..random.usize(0..4) {
                    let start = random.u64(0..=size);
                    wanted.push(start..random.u64(start..=size));
                }
                let spans = sums.spans(&wanted);
                assert!(spans.windows(2).all(|pair| pair[0].end < pair[1].start), "{spans:?}");
                for range in wanted.iter().filter(|range| !range.is_empty()) {
                    assert!(spans.iter().any(|span| span.start <= range.start && range.end <= span.end));
                }
                for span in &spans {
                    let content = &bytes[span.start as usize..span.end as usize];
                    sums.check(span, content).unwrap();
                    let mut changed = content.to_vec();
                    let place = random.usize(0..changed.len());
                    changed[place] ^= 1 << random.u32(0..8);
                    sums.check(span, &changed).unwrap_err();
                    sums.check(span, &content[1..]).unwrap_err();
                }
            }
            let mut tail = bytes[body..].to_vec();
            let place = random.usize(0..tail.len());
            tail[place] ^= 1;
            seal.sums(&tail, size).unwrap_err();
            seal.sums(&bytes[body + 1..], size).unwrap_err();
        }
    }

    #[test]
    fn a_tag_says_what_was_put_or_is_refused() {
        let seal = Seal::put(&mut file(100, 10)).unwrap();
        let (name, text) = seal.tag();
        assert_eq!((name.as_str(), Seal::parse(&text.unwrap())), (SEAL, Some(seal)));
        for wrong in ["", "1", "0 1 2", "1 2 x", "1 2 3 4", "-1 2 3"] {
            assert_eq!(Seal::parse(wrong), None, "{wrong}");
        }
        // Whatever a tag says, nothing panics.
        for (block, body) in [(1, u64::MAX), (u64::MAX, 7), (1, 7), (u64::MAX, u64::MAX)] {
            let hostile = Seal { block, body, tail: 0 };
            assert!(hostile.sums(b"tail", body.saturating_add(4)).is_err());
        }
        assert!(Seal::put(&mut b"PAR1".to_vec()).is_err());
    }
}
