//! How DataFusion's scans read data files: checked against their digests, with footers kept between queries.
//!
//! DataFusion's own reader would do without the digests. Ours keeps them beside the footer, in the cache that the engine
//! bounds.

use std::any::Any;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::common::HashMap;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{ParquetFileMetrics, ParquetFileReaderFactory};
use datafusion::error::Result;
use datafusion::execution::cache::cache_manager::{CachedFileMetadataEntry, FileMetadata, FileMetadataCache};
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use futures::FutureExt;
use futures::future::BoxFuture;
use object_store::{ObjectMeta, ObjectStore};
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::errors::ParquetError;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData};

use crate::delta::{DataFile, Seal, Sums};

/// Makes the readers of a scan. Each file carries its [`Seal`] as an extension.
#[derive(Debug)]
pub(crate) struct CheckedReaders {
    objects: Arc<dyn ObjectStore>,
    footers: Arc<FileMetadataCache>,
}

impl CheckedReaders {
    pub(crate) fn new(objects: Arc<dyn ObjectStore>, footers: Arc<FileMetadataCache>) -> Self {
        Self { objects, footers }
    }
}

impl ParquetFileReaderFactory for CheckedReaders {
    fn create_reader(
        &self,
        partition: usize,
        file: PartitionedFile,
        _: Option<usize>,
        metrics: &ExecutionPlanMetricsSet,
    ) -> Result<Box<dyn AsyncFileReader + Send>> {
        let seal = file.extension::<Seal>().copied();
        let meta = file.object_meta;
        let metrics = ParquetFileMetrics::new(partition, meta.location.as_ref(), metrics);
        let file = DataFile::new(self.objects.clone(), meta.location.clone(), meta.size, seal);
        Ok(Box::new(CheckedReader { file, meta, footers: self.footers.clone(), metrics }))
    }
}

/// A footer, and the digests that stand before it.
struct Footer {
    metadata: Arc<ParquetMetaData>,
    sums: Option<Arc<Sums>>,
}

impl FileMetadata for Footer {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn memory_size(&self) -> usize {
        self.metadata.memory_size() + self.sums.as_ref().map_or(0, |sums| sums.memory_size())
    }

    fn extra_info(&self) -> HashMap<String, String> {
        HashMap::default()
    }
}

/// A reader of one file.
struct CheckedReader {
    file: DataFile,
    meta: ObjectMeta,
    footers: Arc<FileMetadataCache>,
    metrics: ParquetFileMetrics,
}

impl CheckedReader {
    /// The footer, where another reader has read it; the digests are known then.
    fn known(&mut self) -> Option<Arc<ParquetMetaData>> {
        let cached = self.footers.get(&self.meta.location).filter(|cached| cached.is_valid_for(&self.meta))?;
        let footer = cached.file_metadata.as_any().downcast_ref::<Footer>()?;
        self.file.know(footer.sums.clone());
        Some(footer.metadata.clone())
    }

    /// Before `bytes` are read.
    fn begin(&mut self, bytes: u64) {
        self.metrics.bytes_scanned.add(bytes as usize);
        if self.file.sums().is_none() {
            self.known();
        }
    }
}

impl AsyncFileReader for CheckedReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        self.begin(range.end.saturating_sub(range.start));
        self.file.get_bytes(range)
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, Result<Vec<Bytes>, ParquetError>> {
        self.begin(ranges.iter().map(|range| range.end.saturating_sub(range.start)).sum());
        self.file.get_byte_ranges(ranges)
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>, ParquetError>> {
        async move {
            let wants_index = options.is_some_and(|options| options.column_index_policy() != PageIndexPolicy::Skip);
            if let Some(known) = self.known()
                && (!wants_index || known.column_index().is_some())
            {
                return Ok(known);
            }
            let metadata = self.file.get_metadata(options).await?;
            let footer = Footer { metadata: metadata.clone(), sums: self.file.sums().cloned() };
            let entry = CachedFileMetadataEntry::new(self.meta.clone(), Arc::new(footer));
            self.footers.put(&self.meta.location, entry);
            Ok(metadata)
        }
        .boxed()
    }
}

impl Drop for CheckedReader {
    fn drop(&mut self) {
        // Several readers may read one file, so its size is set, not added.
        self.metrics.scan_efficiency_ratio.add_part(self.metrics.bytes_scanned.value());
        self.metrics.scan_efficiency_ratio.set_total(self.meta.size as usize);
    }
}
