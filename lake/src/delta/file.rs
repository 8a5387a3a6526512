//! A data file in the store: only the ranges that are asked for are read, and each is checked (see [`super::seal`]).

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::errors::ParquetError;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};

use super::seal::{Seal, Sums};
use super::{Add, Table};
use crate::damage::damaged;
use crate::{Error, Result};

/// How much of a file's end is read for a footer whose place is not known.
const FOOTER: u64 = 1 << 16;

/// A Parquet file in the store. What it gives is what was written, or an error that names it.
#[derive(Debug)]
pub struct DataFile {
    objects: Arc<dyn ObjectStore>,
    path: Path,
    size: u64,
    /// None: the file is older than digests.
    seal: Option<Seal>,
    /// Once the tail was read.
    sums: Option<Arc<Sums>>,
}

impl DataFile {
    pub(crate) fn new(objects: Arc<dyn ObjectStore>, path: Path, size: u64, seal: Option<Seal>) -> Self {
        Self { objects, path, size, seal, sums: None }
    }

    /// A file of a table.
    pub(super) fn of(table: &Table, add: &Add) -> Result<Self> {
        let path = table.path().file(&add.path);
        let seal = Seal::of(add, &path)?;
        Ok(Self::new(table.store().objects().clone(), path, add.size as u64, seal))
    }

    /// Its digests, if they were read.
    pub(crate) fn sums(&self) -> Option<&Arc<Sums>> {
        self.sums.as_ref()
    }

    /// Its digests, which another reader has read.
    pub(crate) fn know(&mut self, sums: Option<Arc<Sums>>) {
        self.sums = self.sums.take().or(sums);
    }

    /// All of it.
    pub(super) async fn whole(mut self) -> Result<Bytes> {
        let all = 0..self.size;
        self.range(all).await
    }

    async fn range(&mut self, range: Range<u64>) -> Result<Bytes> {
        let mut read = self.ranges(std::slice::from_ref(&range)).await?;
        Ok(read.pop().unwrap_or_default())
    }

    async fn ranges(&mut self, wanted: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let Some(seal) = self.seal else { return self.fetch(wanted).await };
        let is_outside = |range: &&Range<u64>| range.start > range.end || range.end > self.size;
        if let Some(Range { start, end }) = wanted.iter().find(is_outside) {
            return Err(damaged(&self.path, format!("bytes {start} to {end} are not within its {}", self.size)));
        }
        let (sums, tail) = match self.sums.clone() {
            Some(sums) => (sums, None),
            None => {
                let tail = self.tail(seal).await?;
                let sums = seal.sums(&tail, self.size).map_err(|reason| damaged(&self.path, reason))?;
                (self.sums.insert(Arc::new(sums)).clone(), Some(tail))
            }
        };
        // Readers begin with the footer.
        if let (Some(tail), [range]) = (tail, wanted)
            && range.start >= seal.body
        {
            return Ok(vec![tail.slice((range.start - seal.body) as usize..(range.end - seal.body) as usize)]);
        }
        let spans = sums.spans(wanted);
        let read = self.fetch(&spans).await?;
        for (span, bytes) in spans.iter().zip(&read) {
            sums.check(span, bytes).map_err(|reason| damaged(&self.path, reason))?;
        }
        Ok(wanted.iter().map(|range| part(&spans, &read, range)).collect())
    }

    async fn tail(&self, seal: Seal) -> Result<Bytes> {
        let range = seal.body.min(self.size)..self.size;
        let mut read = self.fetch(std::slice::from_ref(&range)).await?;
        Ok(read.pop().unwrap_or_default())
    }

    async fn fetch(&self, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let read = match ranges {
            [range] => self.objects.get_range(&self.path, range.clone()).await.map(|bytes| vec![bytes]),
            _ => self.objects.get_ranges(&self.path, ranges).await,
        };
        match read {
            Ok(read) => Ok(read),
            Err(source) => Err(self.failed(source).await),
        }
    }

    /// A store says of bytes that an object does not have what it says of a broken connection. The object's length tells.
    async fn failed(&self, source: object_store::Error) -> Error {
        if matches!(source, object_store::Error::NotFound { .. }) {
            return damaged(&self.path, "it is gone");
        }
        if matches!(source, object_store::Error::Generic { .. })
            && let Ok(found) = self.objects.head(&self.path).await
            && found.size != self.size
        {
            return damaged(&self.path, format!("it has {} bytes, not {}", found.size, self.size));
        }
        Error::Store { action: "read", path: self.path.to_string(), source }
    }

    /// The error of a footer, with the file's name.
    fn named(&self, error: ParquetError) -> ParquetError {
        match error {
            ParquetError::External(ours) if ours.is::<Error>() => ParquetError::External(ours),
            other => external(damaged(&self.path, other.to_string())),
        }
    }
}

/// The bytes of a range that lies in one of the spans.
fn part(spans: &[Range<u64>], read: &[Bytes], range: &Range<u64>) -> Bytes {
    if range.is_empty() {
        return Bytes::new();
    }
    let place = spans.partition_point(|span| span.start <= range.start) - 1;
    let start = spans[place].start;
    read[place].slice((range.start - start) as usize..(range.end - start) as usize)
}

fn external(error: Error) -> ParquetError {
    ParquetError::External(Box::new(error))
}

impl AsyncFileReader for DataFile {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        async move { self.range(range).await.map_err(external) }.boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, Result<Vec<Bytes>, ParquetError>> {
        async move { self.ranges(&ranges).await.map_err(external) }.boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>, ParquetError>> {
        async move {
            let size = self.size;
            let footer = self.seal.map_or(FOOTER, |seal| size.saturating_sub(seal.body));
            let index = options.map_or(PageIndexPolicy::Skip, ArrowReaderOptions::column_index_policy);
            let reader =
                ParquetMetaDataReader::new().with_page_index_policy(index).with_prefetch_hint(Some(footer as usize));
            let loaded = reader.load_and_finish(&mut *self, size).await;
            loaded.map(Arc::new).map_err(|error| self.named(error))
        }
        .boxed()
    }
}
