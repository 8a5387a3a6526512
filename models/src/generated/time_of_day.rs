//! The time of day: a dimension of the hours, minutes or seconds that every day has.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimestampMicrosecondType};
use starmere_lake::Error as LakeError;

use super::Columns;
use crate::define::{SpecialMembers, TimeUnit};
use crate::keys::UNKNOWN;
use crate::{Error, Result};

/// How long each row's time is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Times {
    pub every: TimeUnit,
}

impl Times {
    fn seconds(self) -> i64 {
        match self.every {
            TimeUnit::Hour => 3600,
            TimeUnit::Minute => 60,
            TimeUnit::Second => 1,
        }
    }

    pub(super) fn schema(self, name: &str) -> SchemaRef {
        let whole = |name: &str| Field::new(name, DataType::Int32, true);
        let text = |name: &str| Field::new(name, DataType::Utf8, true);
        let mut fields = vec![
            Field::new(format!("{name}_key"), DataType::Int64, false),
            text("time"),
            whole("hour"),
            whole("hour_of_12"),
            text("am_pm"),
        ];
        if self.every != TimeUnit::Hour {
            fields.extend([whole("minute"), whole("minute_of_day")]);
        }
        if self.every == TimeUnit::Second {
            fields.extend([whole("second"), whole("second_of_day")]);
        }
        Arc::new(Schema::new(fields))
    }

    /// The key of a second of the day: 1 and hhmmss, as far as rows tell times apart.
    fn key(self, second: i64) -> i64 {
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        match self.every {
            TimeUnit::Hour => 100 + hour,
            TimeUnit::Minute => 10_000 + hour * 100 + minute,
            TimeUnit::Second => 1_000_000 + hour * 10_000 + minute * 100 + second,
        }
    }

    pub(super) fn keys(self, times: &ArrayRef) -> Int64Array {
        let times = times.as_primitive::<TimestampMicrosecondType>();
        let key = |at: Option<i64>| at.map_or(UNKNOWN, |at| self.key(at.div_euclid(1_000_000).rem_euclid(86_400)));
        Int64Array::from_iter_values(times.iter().map(key))
    }

    pub(super) fn rows(self, name: &str, members: &SpecialMembers) -> Result<RecordBatch> {
        let columns = Columns::new(members);
        let all: Vec<i64> = (0..86_400 / self.seconds()).map(|row| row * self.seconds()).collect();
        let whole = |of: &dyn Fn(i64) -> i64| columns.whole(all.iter().map(|&second| of(second) as i32));
        let text = |of: &dyn Fn(i64) -> String| columns.text(all.iter().map(|&second| of(second)));
        let mut rows: Vec<ArrayRef> = vec![
            columns.keys(all.iter().map(|&second| self.key(second))),
            text(&|second| match self.every {
                TimeUnit::Second => format!("{:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60),
                _ => format!("{:02}:{:02}", second / 3600, second / 60 % 60),
            }),
            whole(&|second| second / 3600),
            whole(&|second| (second / 3600 + 11) % 12 + 1),
            text(&|second| if second < 43_200 { "am".to_owned() } else { "pm".to_owned() }),
        ];
        if self.every != TimeUnit::Hour {
            rows.extend([whole(&|second| second / 60 % 60), whole(&|second| second / 60)]);
        }
        if self.every == TimeUnit::Second {
            rows.extend([whole(&|second| second % 60), whole(&|second| second)]);
        }
        RecordBatch::try_new(self.schema(name), rows)
            .map_err(LakeError::columns(format!("time of day `{name}`")))
            .map_err(Error::Lake)
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::TimestampMicrosecondArray;

    use super::*;

    #[test]
    fn every_time_has_its_row() {
        for (every, rows, noon, before) in [
            (TimeUnit::Hour, 25, 112, 123),
            (TimeUnit::Minute, 1441, 11_200, 12_359),
            (TimeUnit::Second, 86_401, 1_120_000, 1_235_959),
        ] {
            let times = Times { every };
            assert_eq!(times.rows("time", &SpecialMembers::default()).unwrap().num_rows(), rows);
            let at = TimestampMicrosecondArray::from(vec![Some(43_200_000_000), Some(-1), None]).with_timezone("UTC");
            assert_eq!(times.keys(&(Arc::new(at) as ArrayRef)).values(), &[noon, before, UNKNOWN]);
        }
    }
}
