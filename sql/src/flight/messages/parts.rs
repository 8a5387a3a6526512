//! The arrays and buffers of a batch, in the order that its types give them.
//!
//! ```text
//!   type              arrays and buffers
//!   integers, …       array: nulls, values
//!   texts             array: nulls, offsets, bytes
//!   views             array: nulls, views, as many buffers of bytes as the message says
//!   lists             array: nulls, offsets (and sizes); then the type within
//!   structs           array: nulls; then the types within
//!   unions            array: ids of types (and offsets); then the types within
//!   dictionaries      array: nulls, keys
//!   run ends          array; then the types within
//! ```
//!
//! A buffer may be longer than its array needs, and nulls may be left out where there are none.

use std::vec::IntoIter;

use arrow::{
    datatypes::{DataType, UnionMode},
    ipc,
};

/// What is left of a batch to check.
pub(super) struct Parts<'a> {
    arrays: IntoIter<&'a ipc::FieldNode>,
    buffers: IntoIter<&'a ipc::Buffer>,
    /// Of each array of views, in how many buffers its bytes are.
    views: IntoIter<i64>,
    /// Before version 5, unions had nulls.
    has_nulls_of_unions: bool,
}

/// An array, as its batch describes it.
#[derive(Clone, Copy)]
struct Array {
    length: usize,
    has_nulls: bool,
}

const TOO_FEW: &str = "an array or a buffer is missing";

const TOO_SHORT: &str = "a buffer is shorter than its array";

const NO_WIDTH: &str = "a type has no width";

impl<'a> Parts<'a> {
    /// Those of a batch whose lengths are within its message.
    pub(super) fn of(batch: &ipc::RecordBatch<'a>, version: ipc::MetadataVersion) -> Self {
        let arrays: Vec<_> = batch.nodes().into_iter().flatten().collect();
        let buffers: Vec<_> = batch.buffers().into_iter().flatten().collect();
        let views: Vec<_> = batch.variadicBufferCounts().into_iter().flatten().collect();
        Self {
            arrays: arrays.into_iter(),
            buffers: buffers.into_iter(),
            views: views.into_iter(),
            has_nulls_of_unions: version < ipc::MetadataVersion::V5,
        }
    }

    /// That the next arrays and buffers are those of a type, and that buffers are as long as their arrays need.
    ///
    /// # Errors
    /// What is wrong.
    pub(super) fn check(&mut self, of: &DataType) -> Result<(), &'static str> {
        let Array { length, has_nulls } = self.array()?;
        match of {
            DataType::Null => Ok(()),
            DataType::RunEndEncoded(ends, values) => {
                self.check(ends.data_type())?;
                self.check(values.data_type())
            }
            DataType::Union(fields, mode) => {
                if self.has_nulls_of_unions {
                    self.buffer(0, 1)?;
                }
                self.buffer(length, 1)?;
                if *mode == UnionMode::Dense {
                    if self.buffers.as_slice().first().is_some_and(|offsets| offsets.offset() % 4 != 0) {
                        return Err("offsets begin within a value");
                    }
                    self.buffer(length, 4)?;
                }
                fields.iter().try_for_each(|(_, field)| self.check(field.data_type()))
            }
            _ => {
                let nulls = if has_nulls { length.div_ceil(8) } else { 0 };
                self.buffer(nulls, 1)?;
                self.check_values(of, length)
            }
        }
    }

    /// What comes behind the nulls of an array.
    fn check_values(&mut self, of: &DataType, length: usize) -> Result<(), &'static str> {
        match of {
            DataType::Boolean => self.buffer(length.div_ceil(8), 1),
            DataType::FixedSizeBinary(width) => {
                let width = usize::try_from(*width).map_err(|_| NO_WIDTH)?;
                self.buffer(length.saturating_mul(width), 1)
            }
            DataType::Utf8 | DataType::Binary => {
                self.offsets(length, 4)?;
                self.buffer(0, 1)
            }
            DataType::LargeUtf8 | DataType::LargeBinary => {
                self.offsets(length, 8)?;
                self.buffer(0, 1)
            }
            DataType::Utf8View | DataType::BinaryView => {
                self.buffer(length, 16)?;
                let buffers = self.views.next().and_then(|buffers| usize::try_from(buffers).ok()).ok_or(TOO_FEW)?;
                (0..buffers).try_for_each(|_| self.buffer(0, 1))
            }
            DataType::List(field) | DataType::Map(field, _) => {
                self.offsets(length, 4)?;
                self.check(field.data_type())
            }
            DataType::LargeList(field) => {
                self.offsets(length, 8)?;
                self.check(field.data_type())
            }
            DataType::ListView(field) => {
                self.buffer(length, 4)?;
                self.buffer(length, 4)?;
                self.check(field.data_type())
            }
            DataType::LargeListView(field) => {
                self.buffer(length, 8)?;
                self.buffer(length, 8)?;
                self.check(field.data_type())
            }
            DataType::FixedSizeList(field, _) => self.check(field.data_type()),
            DataType::Struct(fields) => fields.iter().try_for_each(|field| self.check(field.data_type())),
            DataType::Dictionary(of, _) => self.buffer(length, of.primitive_width().ok_or(NO_WIDTH)?),
            of => self.buffer(length, of.primitive_width().ok_or(NO_WIDTH)?),
        }
    }

    /// That all views were those of the types: the library counts them.
    pub(super) fn end(&mut self) -> Result<(), &'static str> {
        if self.views.next().is_some() { Err("there are buffers of views that no column has") } else { Ok(()) }
    }

    fn array(&mut self) -> Result<Array, &'static str> {
        let node = self.arrays.next().ok_or(TOO_FEW)?;
        let length = usize::try_from(node.length()).map_err(|_| TOO_FEW)?;
        Ok(Array { length, has_nulls: node.null_count() > 0 })
    }

    /// The next buffer, of whole values: so many of so many bytes, or more.
    fn buffer(&mut self, values: usize, width: usize) -> Result<(), &'static str> {
        let buffer = self.buffers.next().ok_or(TOO_FEW)?;
        let bytes = usize::try_from(buffer.length()).map_err(|_| TOO_SHORT)?;
        if bytes < values.saturating_mul(width) {
            return Err(TOO_SHORT);
        }
        if bytes.is_multiple_of(width) { Ok(()) } else { Err("a buffer ends within a value") }
    }

    /// The next buffer, of offsets: one more than the array has values, or none where it has none.
    fn offsets(&mut self, values: usize, width: usize) -> Result<(), &'static str> {
        let is_empty = self.buffers.as_slice().first().is_some_and(|offsets| offsets.length() == 0);
        let offsets = if values == 0 && is_empty { 0 } else { values.saturating_add(1) };
        self.buffer(offsets, width)
    }
}
