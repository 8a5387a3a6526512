//! Which values a file may hold in some of its columns: hashes of them, in the file itself.
//!
//! A build asks every old file of a stream whether it holds one of the new event ids, and every old file of a fact whether it
//! holds one of the new keys. The answer is almost always no, and reading all of them for it would cost more with every row
//! that there ever was. So these files have:
//!
//! ```text
//! PAR1 │ row groups │ where 2^b buckets begin, and the last one ends: u32 each │ remainders: 3 bytes each │ footer
//! ```
//!
//! The first b bits of a value's XXH3 are the number of its bucket; the 24 that follow are its remainder. A bucket has 16 of
//! them, so a value that is not there is taken for one that is once in a million times. It takes 3.3 bytes a row, where a
//! bloom filter (Parquet has one) with as few mistakes takes 6. Parquet lets bytes stand between row groups and footer, and
//! readers that do not know them pass them by; a key of the footer's metadata says where they are.

use std::ops::Range;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float64Type, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType,
};
use bytes::Bytes;
use parquet::file::metadata::KeyValue;
use xxhash_rust::xxh3::xxh3_64;

/// The key of the footer's metadata.
const KEY: &str = "starmere.hashes";
/// Values of a bucket, on average.
const IN_BUCKET: usize = 16;
const MAX_BITS: u32 = 24;
const REMAINDER_BITS: u32 = 24;
const REMAINDER: usize = 3;
const OFFSET: usize = 4;

/// What each row's values are known by, missing ones included; none where there is a column of another type than keys have.
pub fn hash_rows(columns: &[ArrayRef]) -> Option<Vec<u64>> {
    let rows = columns.first().map_or(0, |column| column.len());
    let mut bytes = Vec::with_capacity(64);
    let hash = |row| {
        bytes.clear();
        for column in columns {
            bytes.push(u8::from(column.is_valid(row)));
            if column.is_valid(row) && !append_value(&mut bytes, column, row) {
                return None;
            }
        }
        Some(xxh3_64(&bytes))
    };
    (0..rows).map(hash).collect()
}

/// Appends the bytes of a value, with their number before them, so that equal values have equal bytes; false where the
/// column is of another type than keys have.
pub fn append_value(into: &mut Vec<u8>, column: &ArrayRef, row: usize) -> bool {
    let mut frame = |bytes: &[u8]| {
        into.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        into.extend_from_slice(bytes);
    };
    match column.data_type() {
        DataType::Utf8 => frame(column.as_string::<i32>().value(row).as_bytes()),
        DataType::Utf8View => frame(column.as_string_view().value(row).as_bytes()),
        DataType::Int32 => frame(&column.as_primitive::<Int32Type>().value(row).to_le_bytes()),
        DataType::Int64 => frame(&column.as_primitive::<Int64Type>().value(row).to_le_bytes()),
        DataType::Date32 => frame(&column.as_primitive::<Date32Type>().value(row).to_le_bytes()),
        DataType::Float64 => frame(&column.as_primitive::<Float64Type>().value(row).to_bits().to_le_bytes()),
        DataType::Decimal128(..) => frame(&column.as_primitive::<Decimal128Type>().value(row).to_le_bytes()),
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            frame(&column.as_primitive::<TimestampMicrosecondType>().value(row).to_le_bytes());
        }
        DataType::Boolean => frame(&[u8::from(column.as_boolean().value(row))]),
        _ => return false,
    }
    true
}

/// The hashes of a file's values.
#[derive(Clone, Debug)]
pub struct Hashes {
    bits: u32,
    bytes: Bytes,
}

impl Hashes {
    /// Hashes that were read from a file; none where they are not what was written.
    pub(super) fn new(bits: u32, bytes: Bytes) -> Option<Self> {
        let found = Self { bits, bytes };
        let end = (bits <= MAX_BITS).then(|| found.offset(1 << bits)).flatten()?;
        (found.bytes.len() == found.first() + end * REMAINDER).then_some(found)
    }

    /// The same, in memory of their own: a store may hand out parts of larger pieces.
    pub(super) fn copy(&self) -> Self {
        Self { bits: self.bits, bytes: Bytes::copy_from_slice(&self.bytes) }
    }

    /// In bytes.
    pub(super) fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Whether the file may hold a value with this hash. If not, it does not.
    pub fn may_hold(&self, hash: u64) -> bool {
        let (bucket, remainder) = parts(hash, self.bits);
        let (Some(from), Some(to)) = (self.offset(bucket), self.offset(bucket + 1)) else { return true };
        let place = |number: usize| self.first() + number * REMAINDER;
        let Some(bucket) = self.bytes.get(place(from)..place(to)) else { return true };
        let [first, second, third, _] = remainder.to_le_bytes();
        bucket.as_chunks::<REMAINDER>().0.contains(&[first, second, third])
    }

    /// Where the remainders begin.
    fn first(&self) -> usize {
        ((1 << self.bits) + 1) * OFFSET
    }

    fn offset(&self, bucket: usize) -> Option<usize> {
        let bytes = self.bytes.get(bucket * OFFSET..(bucket + 1) * OFFSET)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?) as usize)
    }
}

/// The bucket of a hash, and what is kept of it there.
fn parts(hash: u64, bits: u32) -> (usize, u32) {
    let kept = hash >> (64 - REMAINDER_BITS - bits);
    ((kept >> REMAINDER_BITS) as usize, (kept & ((1 << REMAINDER_BITS) - 1)) as u32)
}

/// The bytes that stand for these hashes, and how many bits of each are the bucket's.
pub(super) fn encode(hashes: &[u64]) -> (u32, Vec<u8>) {
    let bits = hashes.len().div_ceil(IN_BUCKET).next_power_of_two().ilog2().min(MAX_BITS);
    // Where the next of each bucket goes, once all before it are counted.
    let mut places = vec![0_u32; (1 << bits) + 1];
    for &hash in hashes {
        places[parts(hash, bits).0 + 1] += 1;
    }
    for bucket in 0..1 << bits {
        places[bucket + 1] += places[bucket];
    }
    let first = places.len() * OFFSET;
    let mut bytes: Vec<u8> = places.iter().flat_map(|place| place.to_le_bytes()).collect();
    bytes.resize(first + hashes.len() * REMAINDER, 0);
    for &hash in hashes {
        let (bucket, remainder) = parts(hash, bits);
        let place = first + places[bucket] as usize * REMAINDER;
        bytes[place..place + REMAINDER].copy_from_slice(&remainder.to_le_bytes()[..REMAINDER]);
        places[bucket] += 1;
    }
    (bits, bytes)
}

/// What the footer says of hashes: how many bits are the bucket's, where in the file they are, and of which columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FooterEntry {
    pub(super) bits: u32,
    pub(super) range: Range<u64>,
    pub(super) columns: Vec<String>,
}

impl FooterEntry {
    pub(super) fn write(&self) -> KeyValue {
        let Range { start, end } = &self.range;
        KeyValue::new(KEY.to_owned(), format!("{} {start} {} {}", self.bits, end - start, self.columns.join(" ")))
    }

    pub(super) fn read(entries: &[KeyValue]) -> Option<Self> {
        let text = entries.iter().find(|entry| entry.key == KEY)?.value.as_ref()?;
        let mut parts = text.split(' ');
        let (bits, start, length) = (parts.next()?, parts.next()?.parse::<u64>().ok()?, parts.next()?);
        let end = start.checked_add(length.parse().ok()?)?;
        Some(Self { bits: bits.parse().ok()?, range: start..end, columns: parts.map(str::to_owned).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_found_and_little_else() {
        for count in [0_u64, 1, 15, 16, 17, 1_000, 100_000] {
            let hashes: Vec<u64> = (0..count).map(|number| xxh3_64(&number.to_le_bytes())).collect();
            let (bits, bytes) = encode(&hashes);
            let found = Hashes::new(bits, bytes.into()).unwrap();
            assert!(hashes.iter().all(|&hash| found.may_hold(hash)), "{count}");
            let others = (count..count + 100_000).map(|number| xxh3_64(&number.to_le_bytes()));
            let mistaken = others.filter(|&hash| found.may_hold(hash)).count();
            assert!(mistaken <= 3, "{mistaken} of 100,000 beside {count}");
        }
        // Ends of the range, and the same value again and again.
        let (bits, bytes) = encode(&[0, u64::MAX, u64::MAX, 0]);
        let found = Hashes::new(bits, bytes.into()).unwrap();
        assert!(found.may_hold(0) && found.may_hold(u64::MAX) && !found.may_hold(1 << 63));
    }

    #[test]
    fn bytes_that_are_not_hashes_are_not_taken_for_some() {
        let (bits, bytes) = encode(&(0..100).map(|number: u64| xxh3_64(&number.to_le_bytes())).collect::<Vec<_>>());
        assert!(Hashes::new(bits, Bytes::from(bytes[..bytes.len() - 1].to_vec())).is_none());
        assert!(Hashes::new(bits + 1, bytes.clone().into()).is_none());
        assert!(Hashes::new(60, bytes.clone().into()).is_none());
        // Whatever they say, nothing is ruled out wrongly and nothing panics.
        for place in 0..bytes.len() {
            let mut wrong = bytes.clone();
            wrong[place] ^= 0xff;
            if let Some(found) = Hashes::new(bits, wrong.into()) {
                (0..100_u64).for_each(|number| _ = found.may_hold(xxh3_64(&number.to_le_bytes())));
            }
        }
        let columns = vec!["a".to_owned(), "b".to_owned()];
        let entry = FooterEntry { bits: 3, range: 100..120, columns };
        assert_eq!(FooterEntry::read(&[entry.write()]), Some(entry));
        let wrong = KeyValue::new(KEY.to_owned(), "3 100".to_owned());
        assert_eq!(FooterEntry::read(&[wrong]), None);
    }
}
