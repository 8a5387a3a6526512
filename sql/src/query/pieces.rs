//! Batches, cut into what is kept of an answer.
//!
//! An engine may give a batch of hundreds of megabytes, or a few rows of one. What is kept until it is read is small,
//! and keeps nothing else in memory: so two pieces that an answer may always have are little, and what is counted for a
//! piece is what it takes.

use arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch, UInt32Array},
    compute::take_record_batch,
    datatypes::DataType,
    error::ArrowError,
};

/// A piece has about so many bytes, or one row.
const PIECE_BYTES: usize = 1 << 20;

/// A part has about so many bytes of texts that rows share, or one row.
const PART_BYTES: u64 = 32 << 20;

/// The rows of a batch in pieces, in order. A small batch is a piece as it is; rows of others are copied.
pub(super) fn pieces(batch: RecordBatch) -> impl Iterator<Item = Result<RecordBatch, ArrowError>> {
    let (rows, held) = (batch.num_rows(), batch.get_array_memory_size());
    let is_small = held <= PIECE_BYTES;
    let rows_of_piece = match is_small {
        true => rows,
        false => rows.saturating_mul(PIECE_BYTES) / own_bytes(&batch).unwrap_or(held).max(1),
    };
    let rows_of_piece = rows_of_piece.clamp(1, rows.max(1));
    (0..rows).step_by(rows_of_piece).map(move |first| {
        if is_small {
            return Ok(batch.clone());
        }
        let end = rows.min(first + rows_of_piece);
        take_record_batch(&batch, &UInt32Array::from_iter_values((first..end).map(|row| row as u32)))
    })
}

/// The rows of a batch in parts, in order, that take little where texts that rows share are copied.
pub(super) fn parts(batch: &RecordBatch) -> impl Iterator<Item = RecordBatch> {
    let shared = batch.columns().iter().map(shared_bytes).sum::<u64>();
    let rows = batch.num_rows();
    let rows_of_part = match shared <= PART_BYTES {
        true => rows,
        false => usize::try_from(PART_BYTES / (shared / rows.max(1) as u64).max(1)).unwrap_or(rows),
    };
    let rows_of_part = rows_of_part.clamp(1, rows.max(1));
    (0..rows).step_by(rows_of_part).map(move |first| batch.slice(first, rows_of_part.min(rows - first)))
}

/// Bytes of texts that rows may share, each counted as often as it stands there.
fn shared_bytes(column: &ArrayRef) -> u64 {
    // The lowest quarter of a view is the length.
    let lengths = |views: &[u128]| views.iter().map(|view| u64::from(*view as u32)).sum();
    match column.data_type() {
        DataType::Utf8View => lengths(column.as_string_view().views()),
        DataType::BinaryView => lengths(column.as_binary_view().views()),
        _ => 0,
    }
}

/// Bytes of the rows themselves, without those of a larger batch that they are a part of.
fn own_bytes(batch: &RecordBatch) -> Result<usize, ArrowError> {
    batch.columns().iter().map(|column| column.to_data().get_slice_memory_size()).sum()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, AsArray, Int64Array, StringArray};

    use super::*;

    fn batch(column: impl Array + 'static) -> RecordBatch {
        RecordBatch::try_from_iter([("c", Arc::new(column) as ArrayRef)]).unwrap()
    }

    fn cut(batch: RecordBatch) -> Vec<RecordBatch> {
        pieces(batch).collect::<Result<_, _>>().unwrap()
    }

    #[test]
    fn large_batches_are_cut_and_small_ones_are_not() {
        let small = batch(Int64Array::from_iter_values(0..1000));
        assert_eq!(cut(small.clone()), [small]);
        let texts = || (0..100).map(|number| format!("{number}{}", "x".repeat(100_000)));
        let large = cut(batch(StringArray::from_iter_values(texts())));
        assert!((8..=20).contains(&large.len()), "{}", large.len());
        assert!(large.iter().all(|piece| piece.get_array_memory_size() < 2 * PIECE_BYTES));
        let read: Vec<&str> =
            large.iter().flat_map(|piece| piece.column(0).as_string::<i32>().iter().flatten()).collect();
        assert_eq!(read, texts().collect::<Vec<_>>());
        let row = "x".repeat(3 * PIECE_BYTES);
        assert_eq!(cut(batch(StringArray::from_iter_values([&row, &row]))).len(), 2);
        assert!(cut(batch(Int64Array::from_iter_values(0..0))).is_empty());
    }

    #[test]
    fn a_part_of_a_large_batch_does_not_keep_the_rest_in_memory() {
        let whole = batch(Int64Array::from_iter_values(0..1_000_000));
        let [part]: [RecordBatch; 1] = cut(whole.slice(500_000, 10)).try_into().unwrap();
        assert_eq!(part, whole.slice(500_000, 10));
        assert!(part.get_array_memory_size() < 1000);
    }
}
