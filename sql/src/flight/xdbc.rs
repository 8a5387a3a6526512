//! The types that are served, as JDBC and ODBC describe types.

use arrow::{array::RecordBatch, datatypes::SchemaRef};
use arrow_flight::sql::{
    CommandGetXdbcTypeInfo, Nullable, Searchable, XdbcDataType, XdbcDatetimeSubcode,
    metadata::{XdbcTypeInfo, XdbcTypeInfoDataBuilder},
};

use super::metadata::{Metadata, built};
use crate::{error::QueryError, view::View};

impl Metadata for CommandGetXdbcTypeInfo {
    fn schema(&self) -> SchemaRef {
        XdbcTypeInfoDataBuilder::new().schema()
    }

    fn rows(self, _view: &View) -> Result<RecordBatch, QueryError> {
        let mut builder = XdbcTypeInfoDataBuilder::new();
        for info in types() {
            builder.append(info);
        }
        let data = built(builder.build())?;
        built(data.record_batch(self.data_type))
    }
}

/// What all types have in common.
fn plain(name: &str, data_type: XdbcDataType) -> XdbcTypeInfo {
    XdbcTypeInfo {
        type_name: name.to_owned(),
        data_type,
        sql_data_type: data_type,
        nullable: Nullable::NullabilityNullable,
        searchable: Searchable::Full,
        local_type_name: Some(name.to_owned()),
        ..XdbcTypeInfo::default()
    }
}

fn integer(name: &str, data_type: XdbcDataType, digits: i32, unsigned: bool) -> XdbcTypeInfo {
    XdbcTypeInfo {
        column_size: Some(digits),
        unsigned_attribute: Some(unsigned),
        fixed_prec_scale: true,
        auto_increment: Some(false),
        minimum_scale: Some(0),
        maximum_scale: Some(0),
        num_prec_radix: Some(10),
        ..plain(name, data_type)
    }
}

fn float(name: &str, data_type: XdbcDataType, bits: i32) -> XdbcTypeInfo {
    XdbcTypeInfo {
        column_size: Some(bits),
        unsigned_attribute: Some(false),
        auto_increment: Some(false),
        num_prec_radix: Some(2),
        ..plain(name, data_type)
    }
}

/// Dates and times: the general type is `DATETIME`, the subcode says which.
fn moment(name: &str, data_type: XdbcDataType, characters: i32, subcode: XdbcDatetimeSubcode) -> XdbcTypeInfo {
    XdbcTypeInfo {
        column_size: Some(characters),
        literal_prefix: Some("'".to_owned()),
        literal_suffix: Some("'".to_owned()),
        sql_data_type: XdbcDataType::XdbcDatetime,
        datetime_subcode: Some(subcode),
        ..plain(name, data_type)
    }
}

fn types() -> Vec<XdbcTypeInfo> {
    use XdbcDataType as Xdbc;

    vec![
        XdbcTypeInfo { column_size: Some(1), ..plain("BOOLEAN", Xdbc::XdbcBit) },
        integer("TINYINT", Xdbc::XdbcTinyint, 3, false),
        integer("SMALLINT", Xdbc::XdbcSmallint, 5, false),
        integer("INTEGER", Xdbc::XdbcInteger, 10, false),
        integer("BIGINT", Xdbc::XdbcBigint, 19, false),
        integer("TINYINT UNSIGNED", Xdbc::XdbcTinyint, 3, true),
        integer("SMALLINT UNSIGNED", Xdbc::XdbcSmallint, 5, true),
        integer("INTEGER UNSIGNED", Xdbc::XdbcInteger, 10, true),
        integer("BIGINT UNSIGNED", Xdbc::XdbcBigint, 20, true),
        float("REAL", Xdbc::XdbcReal, 24),
        float("DOUBLE", Xdbc::XdbcDouble, 53),
        XdbcTypeInfo {
            column_size: Some(76),
            create_params: Some(vec!["precision".to_owned(), "scale".to_owned()]),
            unsigned_attribute: Some(false),
            auto_increment: Some(false),
            minimum_scale: Some(0),
            maximum_scale: Some(76),
            num_prec_radix: Some(10),
            ..plain("DECIMAL", Xdbc::XdbcDecimal)
        },
        XdbcTypeInfo {
            column_size: Some(i32::MAX),
            literal_prefix: Some("'".to_owned()),
            literal_suffix: Some("'".to_owned()),
            case_sensitive: true,
            ..plain("VARCHAR", Xdbc::XdbcVarchar)
        },
        XdbcTypeInfo {
            column_size: Some(i32::MAX),
            literal_prefix: Some("X'".to_owned()),
            literal_suffix: Some("'".to_owned()),
            searchable: Searchable::Basic,
            ..plain("VARBINARY", Xdbc::XdbcVarbinary)
        },
        moment("DATE", Xdbc::XdbcDate, 10, XdbcDatetimeSubcode::XdbcSubcodeYear),
        moment("TIME", Xdbc::XdbcTime, 18, XdbcDatetimeSubcode::XdbcSubcodeTime),
        moment("TIMESTAMP", Xdbc::XdbcTimestamp, 29, XdbcDatetimeSubcode::XdbcSubcodeTimestamp),
        moment(
            "TIMESTAMP WITH TIME ZONE",
            Xdbc::XdbcTimestamp,
            35,
            XdbcDatetimeSubcode::XdbcSubcodeTimestampWithTimezone,
        ),
        XdbcTypeInfo {
            literal_prefix: Some("INTERVAL '".to_owned()),
            literal_suffix: Some("'".to_owned()),
            searchable: Searchable::Basic,
            ..plain("INTERVAL", Xdbc::XdbcInterval)
        },
    ]
}
