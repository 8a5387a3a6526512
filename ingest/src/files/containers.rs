//! Files that hold rows of their own kind: Parquet and Avro.
//!
//! A row of Parquet has no bytes of its own; its payload is the row as JSON. A datum of Avro keeps its bytes, behind
//! the fingerprint of its schema (Avro's single-object encoding); the schema is kept beside the table.
//!
//! Positions are numbers of rows. A file of Parquet is known by all of its bytes; one of Avro by those of the blocks
//! that have landed, so that it may grow.

use std::fs::File;
use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use apache_avro::Codec;
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StructArray};
use arrow::datatypes::{DataType, Field, Float32Type, Float64Type, Schema as ArrowSchema};
use arrow::error::ArrowError;
use arrow::json::writer::{LineDelimited, WriterBuilder};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use starmere_lake::formats::{AvroLengths, Incoming, SINGLE_OBJECT, Schema, SchemaId};
use starmere_lake::landing::SourcePartition;

use super::identity::Mark;
use super::read::{self, Digest, Found};
use super::run::{Reading, Stopped};
use crate::{Error, Result};

/// What a file is, by how it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Container {
    Parquet,
    Avro,
    None,
}

/// The beginning of a file of Avro.
const AVRO: [u8; 4] = *b"Obj\x01";
/// Bytes of a block of Avro, packed; a larger one is refused.
const MOST_BLOCK: i64 = 256 << 20;
/// Bytes of a schema of Avro, and of the other facts in a file's header.
const MOST_FACT: i64 = 16 << 20;
/// Rows of Parquet that are read together.
const ROWS: usize = 4096;

/// What a file is. Files of Avro may be packed.
pub(super) fn kind(path: &Path) -> io::Result<Container> {
    let mut begin = Vec::with_capacity(4);
    File::open(path)?.take(4).read_to_end(&mut begin)?;
    if begin == b"PAR1" {
        return Ok(Container::Parquet);
    }
    if read::is_packed(&begin) {
        begin.clear();
        // What cannot be unpacked is told by whoever reads it.
        let _ = read::open(path).and_then(|content| content.take(4).read_to_end(&mut begin));
    }
    Ok(if begin == AVRO { Container::Avro } else { Container::None })
}

impl Reading {
    /// Lands the rows of a file of Parquet, as JSON.
    pub(super) fn parquet(
        &mut self,
        file: &Found,
        partition: SourcePartition,
        landed: Option<&Mark>,
    ) -> Result<Result<(), Stopped>> {
        let failed = |source| Error::read(&file.path, source);
        let damaged =
            |reason: String| Error::Content { path: file.name.clone(), reason: format!("not Parquet: {reason}") };
        let mut whole = File::open(&file.path).map_err(failed)?;
        let (digest, _) = read::skip(&mut whole, file.seen.size).map_err(failed)?;
        let content = File::open(&file.path).map_err(failed)?;
        let mut position = landed.and_then(|mark| mark.position).unwrap_or_default();
        let batches = without_panic(|| {
            let builder = ParquetRecordBatchReaderBuilder::try_new(content)?;
            builder.with_batch_size(ROWS).with_offset(position as usize).build()
        });
        let mut batches = batches.map_err(damaged)?;
        self.begin(partition.clone(), position);
        let mut text = Vec::new();
        loop {
            text.clear();
            let more = without_panic(|| {
                let Some(batch) = batches.next().transpose()? else { return Ok::<_, ArrowError>(false) };
                let mut writer = WriterBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(&mut text);
                if batch.columns().iter().any(is_odd) {
                    // What one row has must not change how others are written.
                    for row in 0..batch.num_rows() {
                        writer.write(&said(&batch.slice(row, 1))?)?;
                    }
                } else {
                    writer.write(&batch)?;
                }
                writer.finish()?;
                Ok(true)
            });
            match more {
                Ok(true) => {}
                Ok(false) => break,
                Err(reason) => return self.end(file, &digest, landed, position, Err(damaged(reason))),
            }
            for row in text.split(|&byte| byte == b'\n').filter(|row| !row.is_empty()) {
                self.push(&Incoming::of(row), &partition, position, position + 1)?;
                self.count(row.len() as u64);
                position += 1;
                if self.is_full() {
                    self.batch.mark(position, read::mark(file, &digest, Some(position), false));
                    if self.flush()?.is_err() {
                        return Ok(Err(Stopped));
                    }
                    self.begin(partition.clone(), position);
                }
            }
        }
        self.end(file, &digest, landed, position, Ok(true))
    }

    /// Lands the data of a file of Avro, block by block.
    pub(super) fn avro(
        &mut self,
        file: &Found,
        partition: SourcePartition,
        landed: Option<&Mark>,
    ) -> Result<Result<(), Stopped>> {
        let failed = |source| Error::read(&file.path, source);
        let damaged =
            |reason: String| Error::Content { path: file.name.clone(), reason: format!("not Avro: {reason}") };
        let mut blocks = Blocks::open(read::open(&file.path).map_err(failed)?).map_err(failed)?;
        let schema = Schema::avro(blocks.schema.clone());
        let id = schema.fingerprint().map_err(damaged)?;
        let mut lengths = AvroLengths::new(&schema.schema).map_err(damaged)?;
        let schemas = self.reader.schemas().clone();
        if !schemas.knows(id) {
            self.runtime.block_on(schemas.keep(self.stream.table(), id, &schema))?;
        }
        let SchemaId::Fingerprint(fingerprint) = id else {
            return Err(damaged("its schema has no fingerprint".into()));
        };
        let mut payload = [&SINGLE_OBJECT[..], &fingerprint.to_le_bytes()].concat();
        let prefix = payload.len();
        if let Some(mark) = landed {
            blocks.skip_to(mark.length).map_err(failed)?;
        }
        let mut position = landed.and_then(|mark| mark.position).unwrap_or_default();
        self.begin(partition.clone(), position);
        let outcome = loop {
            let (count, data) = match blocks.next_block() {
                Ok(Some(block)) => block,
                Ok(None) => break Ok(true),
                // A block that has no end yet: somebody is writing it.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break Ok(false),
                Err(error) => break Err(failed(error)),
            };
            let mut rest = data.as_slice();
            let mut ends = Vec::new();
            for _ in 0..count {
                match lengths.first(rest) {
                    Ok(length) => {
                        rest = &rest[length..];
                        ends.push(data.len() - rest.len());
                    }
                    Err(reason) => {
                        return self.end(file, &blocks.digest, landed, position, Err(damaged(reason)));
                    }
                }
            }
            if !rest.is_empty() {
                let reason = format!("{} bytes follow the last datum of a block", rest.len());
                return self.end(file, &blocks.digest, landed, position, Err(damaged(reason)));
            }
            blocks.accept();
            let mut start = 0;
            for end in ends {
                payload.truncate(prefix);
                payload.extend_from_slice(&data[start..end]);
                self.push(&Incoming::of(&payload), &partition, position, position + 1)?;
                self.count((end - start) as u64);
                position += 1;
                start = end;
            }
            if self.is_full() {
                self.batch.mark(position, read::mark(file, &blocks.digest, Some(position), false));
                if self.flush()?.is_err() {
                    return Ok(Err(Stopped));
                }
                self.begin(partition.clone(), position);
            }
        };
        self.end(file, &blocks.digest, landed, position, outcome)
    }

    /// Ends the share of a file: `outcome` says whether that was its end. Nothing is said where nothing is new.
    fn end(
        &mut self,
        file: &Found,
        digest: &Digest,
        landed: Option<&Mark>,
        position: i64,
        outcome: Result<bool>,
    ) -> Result<Result<(), Stopped>> {
        let is_whole = matches!(outcome, Ok(true));
        if matches!(outcome, Ok(false)) {
            self.report.files_waiting.push(file.name.clone());
        }
        let is_nothing_new = match landed {
            None => position == 0,
            Some(mark) => mark.position == Some(position) && mark.path == file.name,
        };
        if is_nothing_new && !is_whole {
            self.batch.forget_last();
        } else {
            self.batch.mark(position, read::mark(file, digest, Some(position), is_whole));
        }
        outcome?;
        self.flush_parts()
    }
}

/// What `act` comes to, or why not, in words. Over some damaged files the library of Parquet panics.
fn without_panic<T, E: std::fmt::Display>(act: impl FnOnce() -> Result<T, E>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(act)) {
        Ok(done) => done.map_err(|error| error.to_string()),
        Err(_) => Err("its pages are not what they say they are".to_owned()),
    }
}

/// The batch, with numbers that JSON does not have as text: `NaN`, `inf`.
fn said(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let columns: Vec<ArrayRef> = batch.columns().iter().map(with_text).collect::<Result<_, _>>()?;
    let fields =
        batch.schema().fields().iter().zip(&columns).map(|(field, column)| retyped(field, column)).collect::<Vec<_>>();
    RecordBatch::try_new(Arc::new(ArrowSchema::new(fields)), columns)
}

fn retyped(field: &Field, column: &ArrayRef) -> Field {
    field.clone().with_data_type(column.data_type().clone())
}

/// It has numbers that JSON does not have.
fn is_odd(column: &ArrayRef) -> bool {
    match column.data_type() {
        DataType::Float32 => column.as_primitive::<Float32Type>().iter().flatten().any(|value| !value.is_finite()),
        DataType::Float64 => column.as_primitive::<Float64Type>().iter().flatten().any(|value| !value.is_finite()),
        DataType::Struct(_) => column.as_struct().columns().iter().any(is_odd),
        _ => false,
    }
}

fn with_text(column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    match column.data_type() {
        _ if !is_odd(column) => Ok(column.clone()),
        DataType::Struct(fields) => {
            let members = column.as_struct();
            let columns: Vec<ArrayRef> = members.columns().iter().map(with_text).collect::<Result<_, _>>()?;
            let fields: Vec<Field> =
                fields.iter().zip(&columns).map(|(field, column)| retyped(field, column)).collect();
            Ok(Arc::new(StructArray::try_new(fields.into(), columns, members.nulls().cloned())?))
        }
        _ => arrow::compute::cast(column, &DataType::Utf8),
    }
}

/// The blocks of a file of Avro.
struct Blocks {
    content: Box<dyn Read + Send>,
    schema: String,
    codec: Codec,
    sync: [u8; 16],
    /// Of the file up to the end of the last block that was accepted.
    digest: Digest,
    /// What was read since.
    ahead: Vec<u8>,
}

impl Blocks {
    fn open(content: Box<dyn Read + Send>) -> io::Result<Self> {
        let mut blocks = Self {
            content,
            schema: String::new(),
            codec: Codec::Null,
            sync: [0; 16],
            digest: Digest::default(),
            ahead: Vec::new(),
        };
        blocks.take(AVRO.len())?;
        loop {
            let mut count = blocks.long()?;
            if count == 0 {
                break;
            }
            if count < 0 {
                blocks.long()?;
                count = count.checked_neg().ok_or_else(|| wrong("its header cannot be read"))?;
            }
            for _ in 0..count {
                let name = blocks.fact()?;
                let value = blocks.fact()?;
                let text = || String::from_utf8(value.clone()).map_err(|_| wrong("its header is not UTF-8"));
                match name.as_slice() {
                    b"avro.schema" => blocks.schema = text()?,
                    b"avro.codec" => {
                        let codec = text()?;
                        blocks.codec = Codec::from_str(&codec).map_err(|_| {
                            wrong(format!("blocks are packed with `{codec}`, which is not read here; use deflate, snappy or zstandard"))
                        })?;
                    }
                    _ => {}
                }
            }
        }
        let sync = blocks.take(16)?;
        blocks.sync.copy_from_slice(&sync);
        blocks.accept();
        Ok(blocks)
    }

    /// Goes to where so many bytes have been read.
    fn skip_to(&mut self, length: u64) -> io::Result<()> {
        let mut block = vec![0; 1 << 16];
        while self.digest.length() < length {
            let wanted = (length - self.digest.length()).min(block.len() as u64) as usize;
            self.content.read_exact(&mut block[..wanted])?;
            self.digest.update(&block[..wanted]);
        }
        Ok(())
    }

    /// The data of the next block, unpacked, and how many they are; none at the end.
    fn next_block(&mut self) -> io::Result<Option<(i64, Vec<u8>)>> {
        let mut first = [0];
        if self.content.read(&mut first)? == 0 {
            return Ok(None);
        }
        self.ahead.push(first[0]);
        let count = self.long_from(first[0])?;
        let size = self.long()?;
        if count < 0 || !(0..=MOST_BLOCK).contains(&size) {
            return Err(wrong(format!("a block says that it has {count} data in {size} bytes")));
        }
        let mut data = self.take(size as usize)?;
        if self.take(16)? != self.sync {
            return Err(wrong("a block does not end as its header says"));
        }
        self.codec.decompress(&mut data).map_err(|error| wrong(format!("a block cannot be unpacked: {error}")))?;
        // Data may have no bytes at all; then only their number says that they are there.
        if count > (data.len() as i64).max(1 << 20) {
            return Err(wrong(format!("a block says that it has {count} data in {} bytes", data.len())));
        }
        Ok(Some((count, data)))
    }

    /// What was read belongs to what is landed.
    fn accept(&mut self) {
        self.digest.update(&self.ahead);
        self.ahead.clear();
    }

    fn take(&mut self, count: usize) -> io::Result<Vec<u8>> {
        let mut taken = Vec::new();
        self.content.by_ref().take(count as u64).read_to_end(&mut taken)?;
        self.ahead.extend_from_slice(&taken);
        if taken.len() < count { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(taken) }
    }

    fn fact(&mut self) -> io::Result<Vec<u8>> {
        let length = self.long()?;
        if !(0..=MOST_FACT).contains(&length) {
            return Err(wrong("its header cannot be read"));
        }
        self.take(length as usize)
    }

    fn long(&mut self) -> io::Result<i64> {
        let first = self.take(1)?[0];
        self.long_from(first)
    }

    fn long_from(&mut self, first: u8) -> io::Result<i64> {
        let (mut byte, mut value) = (first, 0_u64);
        for shift in (0..63).step_by(7) {
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
            byte = self.take(1)?[0];
        }
        Err(wrong("a number is too long"))
    }
}

fn wrong(reason: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.into())
}
