use std::sync::Arc;

use arrow::{
    array::{
        ArrayRef, BooleanArray, FixedSizeListArray, Float64Array, Int32Array, Int32Builder, ListArray, MapBuilder,
        NullArray, RecordBatch, RunArray, StringArray, StringBuilder, StructArray, UnionArray, new_null_array,
    },
    buffer::NullBuffer,
    compute::cast,
    datatypes::{Fields, Int32Type, IntervalUnit, TimeUnit, UnionFields, UnionMode},
    ipc::writer::IpcWriteOptions,
};
use arrow_flight::{
    SchemaAsIpc,
    decode::FlightRecordBatchStream,
    encode::{DictionaryHandling, FlightDataEncoderBuilder},
    error::FlightError,
};
use datafusion::scalar::ScalarValue;
use futures::{TryStreamExt, executor::block_on, stream};
use tonic::Status;

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
        DataType::Union(UnionFields::from_fields(pair.iter().cloned()), UnionMode::Dense),
        DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8)),
        DataType::RunEndEncoded(field(DataType::Int32), field(DataType::BinaryView)),
    ];
    Schema::new(types.into_iter().enumerate().map(|(n, of)| Field::new(n.to_string(), of, true)).collect::<Fields>())
}

/// What passes is read by the library, which panics where a type is none.
#[test]
fn schemas_that_pass_can_be_read() {
    let schema = of_all_types();
    let whole: FlightData = SchemaAsIpc::new(&schema, &IpcWriteOptions::default()).into();
    let check = |message: &FlightData| Messages::default().check(message);
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

/// Columns of all kinds of types, some with values and some with nulls alone; but for large lists, of which the library's
/// encoder makes what its decoder refuses.
fn columns() -> Vec<ArrayRef> {
    let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None, Some("longer than a view has room for")]));
    let numbers: ArrayRef = Arc::new(Int32Array::from(vec![Some(1), None, Some(3)]));
    let lists = [Some(vec![Some(1), None]), None, Some(vec![Some(2), Some(3)])];
    let list: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(lists.clone()));
    let pair = ["text", "number"].map(|name| Arc::new(Field::new(name, DataType::Utf8, true)));
    let structs = StructArray::new(
        Fields::from(pair.to_vec()),
        vec![Arc::clone(&texts), Arc::clone(&texts)],
        Some(NullBuffer::from(vec![true, false, true])),
    );
    let of_union = |of: DataType| Field::new(of.to_string(), of, true);
    let fields = UnionFields::try_new([0, 5], [DataType::Utf8, DataType::Float64].map(of_union)).unwrap();
    let floats: ArrayRef = Arc::new(Float64Array::from(vec![0.5, 1.5, 2.5]));
    let union = |offsets: Option<Vec<i32>>| {
        let values = vec![Arc::clone(&texts), Arc::clone(&floats)];
        UnionArray::try_new(fields.clone(), vec![0_i8, 5, 0].into(), offsets.map(Into::into), values).unwrap()
    };
    let mut map = MapBuilder::new(None, StringBuilder::new(), Int32Builder::new());
    for is_valid in [true, false, true] {
        map.keys().append_value("key");
        map.values().append_null();
        map.append(is_valid).unwrap();
    }
    let runs =
        RunArray::<Int32Type>::try_new(&Int32Array::from(vec![1, 3]), &StringArray::from(vec!["x", "y"])).unwrap();
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)])),
        Arc::new(NullArray::new(3)),
        Arc::new(FixedSizeListArray::from_iter_primitive::<Int32Type, _, _>(lists, 2)),
        Arc::new(structs),
        Arc::new(union(None)),
        Arc::new(union(Some(vec![0, 0, 2]))),
        Arc::new(map.finish()),
        Arc::new(runs),
    ];
    let of_numbers = Arc::new(Field::new_list_field(DataType::Int32, true));
    let dictionary = DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Utf8));
    for of in [DataType::LargeUtf8, DataType::Utf8View, DataType::LargeBinary, dictionary] {
        columns.push(cast(&texts, &of).unwrap());
    }
    let of_structs = Arc::new(Field::new_list_field(DataType::Struct(Fields::from(pair.to_vec())), true));
    let others = [
        DataType::Float16,
        DataType::Decimal128(38, 2),
        DataType::Decimal256(76, 10),
        DataType::FixedSizeBinary(3),
        DataType::Interval(IntervalUnit::MonthDayNano),
        DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        DataType::ListView(of_numbers),
        DataType::List(of_structs),
    ];
    columns.extend(others.iter().map(|of| new_null_array(of, 3)));
    columns.extend([texts, numbers, list]);
    columns
}

/// The columns as a client sends them: a schema, a dictionary, a batch.
fn sent(options: IpcWriteOptions) -> Vec<FlightData> {
    let messages = sent_of(columns(), options);
    assert_eq!(messages.len(), 3);
    messages
}

fn sent_of(columns: Vec<ArrayRef>, options: IpcWriteOptions) -> Vec<FlightData> {
    let columns = columns.into_iter().enumerate().map(|(number, column)| (number.to_string(), column, true));
    let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
    let encoder = FlightDataEncoderBuilder::new()
        .with_options(options)
        .with_dictionary_handling(DictionaryHandling::Resend)
        .build(stream::iter([Ok(batch)]));
    block_on(encoder.try_collect()).unwrap()
}

#[test]
fn what_clients_send_of_each_type_is_read() {
    for column in columns() {
        let of = column.data_type().clone();
        read(&sent_of(vec![column], IpcWriteOptions::default())).unwrap_or_else(|error| panic!("{of}: {error}"));
    }
}

/// Reads messages as those of a client are read.
fn read(messages: &[FlightData]) -> Result<(), FlightError> {
    let mut checks = Messages::default();
    let mut checked = |message: &FlightData| {
        checks.check(message).map_err(Status::from)?;
        Ok::<_, FlightError>(message.clone())
    };
    let messages: Vec<_> = messages.iter().map(&mut checked).collect();
    let mut batches = FlightRecordBatchStream::new_from_flight_data(stream::iter(messages));
    while let Some(batch) = block_on(batches.try_next())? {
        for row in 0..batch.num_rows().min(10) {
            for column in batch.columns() {
                // Not every type can be a parameter.
                let _value = ScalarValue::try_from_array(column, row);
            }
        }
    }
    Ok(())
}

/// Other bytes in the place of some, as damage or a stranger would have them.
fn mutate(bytes: &mut Vec<u8>, random: &mut fastrand::Rng) {
    if bytes.is_empty() {
        return;
    }
    let place = random.usize(0..bytes.len());
    match random.u8(0..8) {
        0..4 => bytes[place] = random.u8(..),
        4 => bytes[place] ^= 1 << random.u8(0..8),
        5 | 6 => {
            let numbers = [0, 1, 2, 4, 7, 12, 100, 1 << 20, 1 << 31, 1 << 62, i64::MAX, -1, i64::MIN];
            let number = numbers[random.usize(0..numbers.len())].to_le_bytes();
            bytes[place / 8 * 8..].iter_mut().zip(number).for_each(|(byte, new)| *byte = new);
        }
        _ => bytes.truncate(place),
    }
}

/// What passes is read by the library, which panics where a buffer is shorter than its array.
#[test]
fn batches_that_pass_can_be_read() {
    let whole = sent(IpcWriteOptions::default());
    read(&whole).unwrap();
    let (mut random, mut passed, mut refused) = (fastrand::Rng::with_seed(20_261_201), 0, 0);
    for _ in 0..25_000 {
        let mut messages = whole.clone();
        // Mostly the batch.
        let message = &mut messages[random.usize(0..6).min(2)];
        for _ in 0..random.usize(1..4) {
            let part = if random.usize(0..3) == 0 { &mut message.data_body } else { &mut message.data_header };
            let mut bytes = part.to_vec();
            mutate(&mut bytes, &mut random);
            *part = bytes.into();
        }
        match read(&messages) {
            Ok(()) => passed += 1,
            Err(_) => refused += 1,
        }
    }
    assert!(passed > 1000 && refused > 1000, "{passed} {refused}");
}

#[test]
fn arrays_that_are_longer_than_their_buffers_are_refused() {
    let whole = sent(IpcWriteOptions::default());
    let header = &whole[2].data_header;
    let batch = ipc::root_as_message(header).unwrap().header_as_record_batch().unwrap();
    let read_with = |from: [i64; 2], to: [i64; 2]| {
        let [from, to] = [from, to].map(|pair| pair.map(i64::to_le_bytes).concat());
        let place = header.windows(16).position(|bytes| bytes == from).unwrap();
        let mut header = header.to_vec();
        header[place..place + 16].copy_from_slice(&to);
        let mut messages = whole.clone();
        messages[2].data_header = header.into();
        read(&messages)
    };
    for array in batch.nodes().unwrap().iter().filter(|array| array.length() > 0) {
        let (length, nulls) = (array.length(), array.null_count());
        for more in [1, 2, 8, 1000] {
            let error = read_with([length, nulls], [length + more, nulls]).err();
            assert!(more < 1000 || error.is_some(), "{length} values, {nulls} of them nulls");
        }
    }
    let mut errors = Vec::new();
    for buffer in batch.buffers().unwrap() {
        let (offset, length) = (buffer.offset(), buffer.length());
        for less in (0..length).filter(|less| *less < 2 || *less > length - 9) {
            errors.extend(read_with([offset, length], [offset, less]).err());
            // A place that is none of whole values.
            errors.extend(read_with([offset, length], [offset + 1, less]).err());
        }
    }
    let told = errors.iter().filter(|error| error.to_string().contains("a buffer is shorter than its array"));
    assert!(told.count() > 20, "{errors:?}");
}

#[test]
fn what_is_compressed_is_refused() {
    let options = IpcWriteOptions::default().try_with_compression(Some(ipc::CompressionType::ZSTD)).unwrap();
    let error = read(&sent(options)).unwrap_err();
    assert!(error.to_string().contains("without compression"), "{error}");
}
