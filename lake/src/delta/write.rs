//! Writing a data file: record batches in, an encoded Parquet file with Delta's statistics out.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::SchemaRef;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use super::hashes::{self, FooterEntry, hash_rows};
use super::statistics;
use crate::Error;
use crate::Result;

/// Hashes are hashed already.
#[derive(Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = (self.0 << 8) | u64::from(*byte));
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// How a table's files are encoded.
#[derive(Clone, Debug)]
pub struct FileOptions {
    /// zstd (small) where the file is kept for long and seldom read, else LZ4 (quick to read).
    pub small: bool,
    /// Columns that queries look single values up in.
    pub bloom: Vec<String>,
    /// Columns whose values hardly repeat: a dictionary would only cost.
    pub plain: Vec<String>,
    /// Columns that a dictionary makes as small as they get: to unpack them on top would only cost.
    pub uncompressed: Vec<String>,
    /// Columns whose values, together, are looked for in every file: the file says by itself which it may hold.
    pub hashed: Vec<String>,
    /// Columns that nobody looks values up in: their least and greatest are not kept.
    pub opaque: Vec<String>,
    /// Rows of a row group: what a reader can skip at once.
    pub row_group: usize,
}

impl Default for FileOptions {
    fn default() -> Self {
        Self {
            small: false,
            bloom: Vec::new(),
            plain: Vec::new(),
            uncompressed: Vec::new(),
            hashed: Vec::new(),
            opaque: Vec::new(),
            row_group: 1 << 17,
        }
    }
}

/// So many rows tell whether a column's values repeat, and fewer than so many do not.
const TELLING: std::ops::RangeInclusive<usize> = 1 << 12..=1 << 17;

impl FileOptions {
    /// The same for a file that begins with these rows: a dictionary of values that hardly repeat in them would only cost.
    #[must_use]
    pub fn suited_to(mut self, rows: &RecordBatch) -> Self {
        if rows.num_rows() < *TELLING.start() {
            return self;
        }
        let hardly_repeats = |column: &ArrayRef, count: usize| {
            let column = column.slice(0, count.min(column.len()));
            let hashes = hash_rows(std::slice::from_ref(&column)).unwrap_or_default();
            let distinct: HashSet<u64, BuildHasherDefault<Hashed>> = hashes.into_iter().collect();
            distinct.len() * 2 > column.len()
        };
        for (field, column) in rows.schema().fields().iter().zip(rows.columns()) {
            // What repeats in a few rows does in many.
            if !self.plain.contains(field.name())
                && hardly_repeats(column, *TELLING.start())
                && hardly_repeats(column, *TELLING.end())
            {
                self.plain.push(field.name().clone());
            }
        }
        self
    }

    pub(super) fn properties(&self) -> WriterProperties {
        let compression = match (self.small, ZstdLevel::try_new(1)) {
            (true, Ok(level)) => Compression::ZSTD(level),
            _ => Compression::LZ4_RAW,
        };
        let mut properties = WriterProperties::builder()
            .set_compression(compression)
            .set_max_row_group_row_count(Some(self.row_group))
            .set_statistics_enabled(EnabledStatistics::Page);
        for column in &self.bloom {
            properties = properties.set_column_bloom_filter_enabled(ColumnPath::from(column.as_str()), true);
        }
        for column in &self.plain {
            properties = properties.set_column_dictionary_enabled(ColumnPath::from(column.as_str()), false);
        }
        for column in &self.uncompressed {
            properties =
                properties.set_column_compression(ColumnPath::from(column.as_str()), Compression::UNCOMPRESSED);
        }
        for column in &self.opaque {
            properties =
                properties.set_column_statistics_enabled(ColumnPath::from(column.as_str()), EnabledStatistics::None);
        }
        properties.build()
    }
}

/// A file that is ready to be uploaded.
#[derive(Debug)]
pub struct EncodedFile {
    /// The Parquet file.
    pub bytes: Vec<u8>,
    /// Rows in it.
    pub rows: u64,
    /// Delta's statistics, as JSON text.
    pub statistics: String,
    /// The partition it belongs to: column and value.
    pub partition: Option<(String, String)>,
    /// The group of rows that is rewritten together, if the table has such groups.
    pub group: Option<u32>,
}

impl EncodedFile {
    pub(super) fn partition_pair(&self) -> Option<(&str, &str)> {
        self.partition.as_ref().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// Encodes one file in memory. Dropping it loses what was written.
pub struct FileWriter {
    schema: SchemaRef,
    writer: ArrowWriter<Vec<u8>>,
    rows: u64,
    /// Columns that are hashed, and their hashes.
    hashed: Vec<String>,
    hashes: Vec<u64>,
}

impl std::fmt::Debug for FileWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileWriter").field("rows", &self.rows).finish_non_exhaustive()
    }
}

impl FileWriter {
    /// A writer of rows of `schema`, which does not hold the partition columns.
    pub fn new(schema: SchemaRef, options: &FileOptions) -> Result<Self> {
        let writer = ArrowWriter::try_new(Vec::new(), schema.clone(), Some(options.properties()))
            .map_err(Error::parquet("a new file"))?;
        Ok(Self { schema, writer, rows: 0, hashed: options.hashed.clone(), hashes: Vec::new() })
    }

    /// Adds rows.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        self.writer.write(batch).map_err(Error::parquet("a new file"))?;
        self.rows += batch.num_rows() as u64;
        if !self.hashed.is_empty() {
            let columns =
                self.hashed.iter().map(|name| batch.column_by_name(name).cloned()).collect::<Option<Vec<_>>>();
            match columns.and_then(|columns| hash_rows(&columns)) {
                Some(hashes) => self.hashes.extend(hashes),
                // Whoever asks reads the columns.
                None => self.hashed.clear(),
            }
        }
        Ok(())
    }

    /// Rows written so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Bytes encoded and buffered so far, roughly.
    pub fn size(&self) -> usize {
        self.writer.bytes_written() + self.writer.in_progress_size() + self.hashes.len() * size_of::<u64>()
    }

    /// Ends the file.
    pub fn finish(mut self) -> Result<EncodedFile> {
        let failed = || Error::parquet("a new file");
        if !self.hashed.is_empty() {
            self.writer.flush().map_err(failed())?;
            let (bits, bytes) = hashes::encode(&self.hashes);
            let start = self.writer.bytes_written() as u64;
            let range = start..start + bytes.len() as u64;
            let entry = FooterEntry { bits, range, columns: std::mem::take(&mut self.hashed) };
            self.writer.write_all(&bytes).map_err(|error| failed()(error.into()))?;
            self.writer.append_key_value_metadata(entry.write());
        }
        let footer = self.writer.finish().map_err(failed())?;
        let statistics = statistics::from_footer(&self.schema, &footer);
        let bytes = std::mem::take(self.writer.inner_mut());
        Ok(EncodedFile { bytes, rows: self.rows, statistics, partition: None, group: None })
    }
}

/// Encodes one batch as one file.
impl EncodedFile {
    /// Encodes `batches` as one file.
    pub fn of(schema: &SchemaRef, batches: &[RecordBatch], options: &FileOptions) -> Result<Self> {
        let mut writer = FileWriter::new(Arc::clone(schema), options)?;
        for batch in batches {
            writer.write(batch)?;
        }
        writer.finish()
    }

    /// Puts the file into a partition.
    #[must_use]
    pub fn in_partition(mut self, column: &str, value: String) -> Self {
        self.partition = Some((column.to_owned(), value));
        self
    }

    /// Puts the file into a group.
    #[must_use]
    pub fn in_group(mut self, group: u32) -> Self {
        self.group = Some(group);
        self
    }
}
