//! Arrow messages as strangers send them.
//!
//! The library that reads them trusts the places and lengths that a message tells of itself: one that is damaged, or
//! made up, makes it panic or count to 2^60. So what a message says is compared with what came, before it is read.

use std::collections::HashSet;

use arrow::ipc;
use arrow_flight::FlightData;

use crate::error::QueryError;

/// An array has at most so many values, and one more for each byte of the message: what is done with parameters takes
/// memory for each value, and there are arrays whose values take no bytes at all.
const VALUES: i64 = 1 << 20;

/// That the places and lengths in a message lie within it.
///
/// # Errors
/// `Invalid`, with what is wrong.
pub(super) fn check(message: &FlightData) -> Result<(), QueryError> {
    if message.data_header.is_empty() {
        return Ok(());
    }
    let read = ipc::root_as_message(&message.data_header)
        .map_err(|error| damaged(&format!("a message cannot be read: {error}")))?;
    match read.header_type() {
        ipc::MessageHeader::RecordBatch => match read.header_as_record_batch() {
            Some(batch) => check_batch(&batch, message.data_body.len()),
            None => Err(damaged("a message has no header")),
        },
        ipc::MessageHeader::DictionaryBatch => match read.header_as_dictionary_batch().and_then(|batch| batch.data()) {
            Some(batch) => check_batch(&batch, message.data_body.len()),
            None => Err(damaged("a dictionary has no values")),
        },
        ipc::MessageHeader::Schema => match read.header_as_schema() {
            Some(schema) => check_schema(&schema),
            None => Err(damaged("a message has no schema")),
        },
        _ => Ok(()),
    }
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
        let name: String = field.name().unwrap_or_default().chars().take(100).collect();
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
        Type::Map => children == 1 && field.type_as_map().is_some(),
        Type::RunEndEncoded => children == 2,
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
                && ids.len() == children
                && different.len() == children
                && ids.iter().all(|id| (0..128).contains(id))
        }),
        _ => false,
    }
}

fn check_batch(batch: &ipc::RecordBatch<'_>, body: usize) -> Result<(), QueryError> {
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::{
        datatypes::{DataType, Field, Fields, IntervalUnit, Schema, TimeUnit, UnionFields},
        ipc::{convert::fb_to_schema, writer::IpcWriteOptions},
    };
    use arrow_flight::SchemaAsIpc;

    use super::*;

    fn of_all_types() -> Schema {
        let field = |of: DataType| Arc::new(Field::new("of", of, true));
        let pair = Fields::from(vec![field(DataType::Int16), field(DataType::LargeUtf8)]);
        let types = [
            DataType::Null,
            DataType::UInt8,
            DataType::Float16,
            DataType::Date64,
            DataType::Time32(TimeUnit::Second),
            DataType::Time64(TimeUnit::Nanosecond),
            DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            DataType::Interval(IntervalUnit::MonthDayNano),
            DataType::Duration(TimeUnit::Millisecond),
            DataType::Utf8View,
            DataType::FixedSizeBinary(16),
            DataType::Decimal128(38, -2),
            DataType::List(field(DataType::Decimal256(76, 10))),
            DataType::FixedSizeList(field(DataType::Boolean), 3),
            DataType::Struct(pair.clone()),
            DataType::Map(field(DataType::Struct(pair.clone())), false),
            DataType::Union(UnionFields::from_fields(pair.iter().cloned()), arrow::datatypes::UnionMode::Dense),
            DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8)),
            DataType::RunEndEncoded(field(DataType::Int32), field(DataType::BinaryView)),
        ];
        Schema::new(
            types.into_iter().enumerate().map(|(n, of)| Field::new(n.to_string(), of, true)).collect::<Fields>(),
        )
    }

    /// What passes is read by the library, which panics where a type is none.
    #[test]
    fn schemas_that_pass_can_be_read() {
        let schema = of_all_types();
        let whole: FlightData = SchemaAsIpc::new(&schema, &IpcWriteOptions::default()).into();
        check(&whole).unwrap();
        let (mut random, mut passed, mut refused) = (fastrand::Rng::with_seed(20_261_130), 0, 0);
        for _ in 0..20_000 {
            let mut header = whole.data_header.to_vec();
            for _ in 0..random.usize(1..4) {
                let place = random.usize(0..header.len());
                header[place] = random.u8(..);
            }
            let message = FlightData { data_header: header.into(), ..FlightData::default() };
            if check(&message).is_err() {
                refused += 1;
                continue;
            }
            if let Some(schema) = ipc::root_as_message(&message.data_header).unwrap().header_as_schema() {
                fb_to_schema(schema);
                passed += 1;
            }
        }
        assert!(passed > 1000 && refused > 1000, "{passed} {refused}");
    }
}
