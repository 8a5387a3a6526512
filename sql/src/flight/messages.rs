//! Arrow messages as strangers send them.
//!
//! The library that reads them trusts the places and lengths that a message tells of itself: one that is damaged, or
//! made up, makes it panic or count to 2^60. So what a message says is compared with what came, before it is read: a
//! schema by itself, a batch also with its schema (`parts`).

use std::collections::{HashMap, HashSet};

use arrow::{
    datatypes::{DataType, Field, Schema},
    ipc::{self, convert::fb_to_schema},
};
use arrow_flight::FlightData;

use self::parts::Parts;
use crate::error::QueryError;

mod parts;
#[cfg(test)]
mod tests;

/// An array has at most so many values, and one more for each byte of the message: what is done with parameters takes
/// memory for each value, and there are arrays whose values take no bytes at all.
const VALUES: i64 = 1 << 20;

/// Checks the messages of a stream, one after the other.
#[derive(Debug, Default)]
pub(super) struct Messages {
    schema: Option<Schema>,
    /// What dictionaries hold, by their ids.
    dictionaries: HashMap<i64, DataType>,
}

impl Messages {
    /// That the next message can be read: the places and lengths in it lie within it, and fit its schema.
    ///
    /// # Errors
    /// `Invalid`, with what is wrong.
    pub(super) fn check(&mut self, message: &FlightData) -> Result<(), QueryError> {
        if message.data_header.is_empty() {
            return Ok(());
        }
        let read = ipc::root_as_message(&message.data_header)
            .map_err(|error| damaged(&format!("a message cannot be read: {error}")))?;
        match read.header_type() {
            ipc::MessageHeader::RecordBatch => {
                let batch = read.header_as_record_batch().ok_or_else(|| damaged("a message has no header"))?;
                check_batch(&batch, message.data_body.len())?;
                let schema = self.schema.as_ref().ok_or_else(|| damaged("a batch comes before its schema"))?;
                let mut parts = Parts::of(&batch, read.version());
                for field in schema.fields() {
                    let of_column = |what: &str| damaged(&format!("in column `{}`, {what}", shortened(field.name())));
                    parts.check(field.data_type()).map_err(of_column)?;
                }
                parts.end().map_err(damaged)
            }
            ipc::MessageHeader::DictionaryBatch => {
                let dictionary = read.header_as_dictionary_batch().ok_or_else(|| damaged("a message has no header"))?;
                let batch = dictionary.data().ok_or_else(|| damaged("a dictionary has no values"))?;
                check_batch(&batch, message.data_body.len())?;
                let values = self.dictionaries.get(&dictionary.id());
                let values = values.ok_or_else(|| damaged("no column has the dictionary that comes"))?;
                let mut parts = Parts::of(&batch, read.version());
                let of_dictionary = |what: &str| damaged(&format!("in a dictionary, {what}"));
                parts.check(values).and_then(|()| parts.end()).map_err(of_dictionary)
            }
            ipc::MessageHeader::Schema => {
                let schema = read.header_as_schema().ok_or_else(|| damaged("a message has no schema"))?;
                check_schema(&schema)?;
                self.dictionaries.clear();
                schema.fields().into_iter().flatten().for_each(|field| self.note_dictionaries(field));
                self.schema = Some(fb_to_schema(schema));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Notes what the dictionaries of a field hold, and of those within it. Where an id comes twice, the first one
    /// counts, as in the library.
    fn note_dictionaries(&mut self, field: ipc::Field<'_>) {
        if let Some(dictionary) = field.dictionary()
            && let DataType::Dictionary(_, values) = Field::from(field).data_type()
        {
            self.dictionaries.entry(dictionary.id()).or_insert_with(|| values.as_ref().clone());
        }
        field.children().into_iter().flatten().for_each(|child| self.note_dictionaries(child));
    }
}

/// A name, for a message.
fn shortened(name: &str) -> String {
    name.chars().take(100).collect()
}

fn check_schema(schema: &ipc::Schema<'_>) -> Result<(), QueryError> {
    if schema.endianness() != ipc::Endianness::Little {
        return Err(damaged("the bytes of numbers are in an order that is not supported"));
    }
    let fields = schema.fields().ok_or_else(|| damaged("a schema has no fields"))?;
    fields.iter().try_for_each(|field| check_field(&field, 0))
}

/// Types within types.
const DEEPEST: usize = 64;

/// That a field is of a type that there is.
fn check_field(field: &ipc::Field<'_>, depth: usize) -> Result<(), QueryError> {
    let is_type = depth < DEEPEST
        && has_type(field)
        && field
            .dictionary()
            .is_none_or(|keys| keys.indexType().is_some_and(|key| is_width_of_integers(key.bitWidth())));
    if !is_type {
        let name = shortened(field.name().unwrap_or_default());
        return Err(damaged(&format!("the type of `{name}` is none of Arrow's")));
    }
    field.children().into_iter().flatten().try_for_each(|child| check_field(&child, depth + 1))
}

fn is_width_of_integers(bits: i32) -> bool {
    matches!(bits, 8 | 16 | 32 | 64)
}

/// Whether a field's type is one that there is, and has as many types within it as it should.
fn has_type(field: &ipc::Field<'_>) -> bool {
    use ipc::Type;
    let children = field.children().map_or(0, |children| children.len());
    let is_time_unit = |unit: ipc::TimeUnit| unit.variant_name().is_some();
    match field.type_type() {
        Type::Null
        | Type::Bool
        | Type::Binary
        | Type::BinaryView
        | Type::LargeBinary
        | Type::Utf8
        | Type::Utf8View
        | Type::LargeUtf8
        | Type::Struct_ => true,
        Type::Int => field.type_as_int().is_some_and(|of| is_width_of_integers(of.bitWidth())),
        Type::FloatingPoint => field.type_as_floating_point().is_some_and(|of| of.precision().variant_name().is_some()),
        Type::Date => field.type_as_date().is_some_and(|of| of.unit().variant_name().is_some()),
        Type::Time => field.type_as_time().is_some_and(|of| match of.unit() {
            ipc::TimeUnit::SECOND | ipc::TimeUnit::MILLISECOND => of.bitWidth() == 32,
            ipc::TimeUnit::MICROSECOND | ipc::TimeUnit::NANOSECOND => of.bitWidth() == 64,
            _ => false,
        }),
        Type::Timestamp => field.type_as_timestamp().is_some_and(|of| is_time_unit(of.unit())),
        Type::Interval => field.type_as_interval().is_some_and(|of| of.unit().variant_name().is_some()),
        Type::Duration => field.type_as_duration().is_some_and(|of| is_time_unit(of.unit())),
        Type::FixedSizeBinary => field.type_as_fixed_size_binary().is_some_and(|of| of.byteWidth() >= 0),
        Type::List | Type::LargeList | Type::ListView | Type::LargeListView => children == 1,
        Type::FixedSizeList => children == 1 && field.type_as_fixed_size_list().is_some_and(|of| of.listSize() >= 0),
        Type::Map => children == 1 && field.type_as_map().is_some() && first_child(field).is_some_and(is_entries),
        Type::RunEndEncoded => children == 2 && first_child(field).is_some_and(is_run_ends),
        Type::Decimal => field.type_as_decimal().is_some_and(|of| {
            matches!(of.bitWidth(), 32 | 64 | 128 | 256)
                && u8::try_from(of.precision()).is_ok()
                && i8::try_from(of.scale()).is_ok()
        }),
        Type::Union => field.type_as_union().is_some_and(|of| {
            let ids = of.typeIds().map(|ids| ids.iter().collect::<Vec<_>>());
            let ids = ids.unwrap_or_else(|| (0_i32..).take(children).collect());
            let different: HashSet<i32> = ids.iter().copied().collect();
            of.mode().variant_name().is_some()
                && children > 0
                && ids.len() == children
                && different.len() == children
                && ids.iter().all(|id| (0..128).contains(id))
        }),
        _ => false,
    }
}

fn first_child<'a>(field: &ipc::Field<'a>) -> Option<ipc::Field<'a>> {
    field.children().and_then(|children| children.iter().next())
}

/// Whether a field holds the entries of a map.
fn is_entries(field: ipc::Field<'_>) -> bool {
    let is_pair = field.children().is_some_and(|children| children.len() == 2);
    field.type_type() == ipc::Type::Struct_ && field.dictionary().is_none() && is_pair
}

/// Whether a field says where runs end.
fn is_run_ends(field: ipc::Field<'_>) -> bool {
    let is_integer = |of: ipc::Int<'_>| of.is_signed() && matches!(of.bitWidth(), 16 | 32 | 64);
    field.dictionary().is_none() && field.type_as_int().is_some_and(is_integer)
}

/// That the places and lengths of a batch lie within its message.
fn check_batch(batch: &ipc::RecordBatch<'_>, body: usize) -> Result<(), QueryError> {
    // Few bytes could stand for many, and the library makes room for as many as they say.
    if batch.compression().is_some() {
        return Err(QueryError::invalid("the parameters are compressed").with_hint("send them without compression"));
    }
    let most = VALUES.saturating_add(i64::try_from(body).unwrap_or(i64::MAX));
    let is_length = |length: i64| (0..=most).contains(&length);
    if !is_length(batch.length()) {
        return Err(damaged("a batch has more rows than a message can hold"));
    }
    for node in batch.nodes().into_iter().flat_map(|nodes| nodes.iter()) {
        if !is_length(node.length()) || !(0..=node.length()).contains(&node.null_count()) {
            return Err(damaged("an array has more values than a message can hold"));
        }
    }
    for buffer in batch.buffers().into_iter().flat_map(|buffers| buffers.iter()) {
        let end = buffer.offset().checked_add(buffer.length());
        let is_within = end.and_then(|end| usize::try_from(end).ok()).is_some_and(|end| end <= body);
        if buffer.offset() < 0 || buffer.length() < 0 || !is_within {
            return Err(damaged("a buffer lies outside of its message"));
        }
    }
    Ok(())
}

/// What is said of parameters that cannot be read.
pub(super) fn damaged(what: &str) -> QueryError {
    QueryError::invalid(format!("could not read the parameters: {what}"))
        .with_hint("send them as an Arrow IPC stream, one column a parameter")
}
