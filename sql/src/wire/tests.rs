use arrow::{
    array::{
        Array, ArrayRef, AsArray, DictionaryArray, Int32Array, LargeListArray, StringArray, StringViewArray,
        StructArray,
    },
    datatypes::{Int32Type, Int64Type},
};

use super::*;

fn inside() -> RecordBatch {
    let view: ArrayRef = Arc::new(StringViewArray::from(vec![Some("a"), None]));
    let dictionary: DictionaryArray<Int32Type> = vec![Some("x"), Some("y")].into_iter().collect();
    let list = LargeListArray::from_iter_primitive::<Int64Type, _, _>(vec![Some(vec![Some(1), None]), None]);
    let nested = StructArray::from(vec![(
        Arc::new(Field::new("deep", DataType::Utf8View, true)),
        Arc::new(StringViewArray::from(vec!["p", "q"])) as ArrayRef,
    )]);
    RecordBatch::try_from_iter_with_nullable(vec![
        ("view", view, true),
        ("dictionary", Arc::new(dictionary) as ArrayRef, true),
        ("list", Arc::new(list) as ArrayRef, true),
        ("nested", Arc::new(nested) as ArrayRef, true),
        ("plain", Arc::new(Int32Array::from(vec![1, 2])) as ArrayRef, false),
    ])
    .unwrap()
}

#[test]
fn views_dictionaries_and_large_lists_become_plain() {
    let inside = inside();
    let promised = wire_schema(&inside.schema());
    let types: Vec<String> = promised.fields().iter().map(|field| field.data_type().to_string()).collect();
    assert_eq!(types[0], "Utf8");
    assert_eq!(types[1], "Utf8");
    assert!(matches!(promised.field(2).data_type(), DataType::List(_)));
    let DataType::Struct(children) = promised.field(3).data_type() else { panic!("no struct") };
    assert_eq!(children[0].data_type(), &DataType::Utf8);
    assert!(!promised.field(4).is_nullable());

    let outside = wire_batch(&inside, &promised).unwrap();
    assert_eq!(outside.schema(), promised);
    assert_eq!(outside.column(0).as_string::<i32>(), &StringArray::from(vec![Some("a"), None]));
    assert_eq!(outside.column(1).as_string::<i32>().value(1), "y");
    assert!(outside.column(2).is_null(1));
}

#[test]
fn wire_schema_is_its_own_wire_schema() {
    let once = wire_schema(&inside().schema());
    assert_eq!(wire_schema(&once), once);
}

#[test]
fn rows_are_counted_without_columns() {
    let options = RecordBatchOptions::new().with_row_count(Some(3));
    let empty = Arc::new(Schema::empty());
    let batch = RecordBatch::try_new_with_options(Arc::clone(&empty), vec![], &options).unwrap();
    assert_eq!(wire_batch(&batch, &empty).unwrap().num_rows(), 3);
}

#[test]
fn broken_promise_is_our_fault() {
    let nulls: ArrayRef = Arc::new(Int32Array::from(vec![None, Some(1)]));
    let batch = RecordBatch::try_from_iter(vec![("n", nulls)]).unwrap();
    let promised = Arc::new(Schema::new(vec![Field::new("n", DataType::Int32, false)]));
    let error = wire_batch(&batch, &promised).unwrap_err();
    assert_eq!(error.kind(), crate::error::ErrorKind::Internal);
    assert!(wire_batch(&batch, &Arc::new(Schema::empty())).is_err());
}

#[test]
fn digest_tells_types_and_nullability_apart() {
    let schema = |data_type, nullable| Schema::new(vec![Field::new("a", data_type, nullable)]);
    let base = schema_digest(&schema(DataType::Int32, true));
    assert_eq!(base, schema_digest(&schema(DataType::Int32, true)));
    assert_ne!(base, schema_digest(&schema(DataType::Int64, true)));
    assert_ne!(base, schema_digest(&schema(DataType::Int32, false)));
}
