//! SQL models: one SELECT over other models, kept up to date.
//!
//! ```text
//! SELECT ─► plan ─► is its answer the same every day? ─► how is it kept?
//!                                                          │ by key: which values of the grain does a change touch?
//!    rows of each input that came or went ─► plan over them ─► these ─► the rows with these are computed and replaced
//!                                            └► sums, where rows only came: they are added to those that are there
//!                                                          │ whole: all rows, where the plan is not made for that
//! ```
//!
//! Invariant: the rows are the query's answer over the versions of the inputs that the table says it has consumed.
//! One Delta commit replaces rows and says so.

mod changed;
mod closure;
mod functions;
mod lineage;
mod query;
mod run;
mod sums;
mod touched;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray};
use arrow::datatypes::{Date32Type, Field, Int64Type, Schema, SchemaRef, TimestampMicrosecondType};
use starmere_lake::literals::planning_session;

pub(crate) use functions::{check_fragment, only_column, period_text};
pub use lineage::Lineage;
pub use query::{Query, Strategy};
pub(crate) use query::{Scanned, Source, Text, WATERMARK, table_names};
pub(crate) use run::build;

use crate::define::period::DAY;
use crate::define::{Additivity, FieldType, ModelName};

/// What a model is declared as whose rows are about periods, `period_from` to `period_to`.
pub const PERIODIC: &str = "periodic_snapshot";

/// A SQL model that can be built.
#[derive(Clone, Debug)]
pub struct SqlModel {
    pub name: ModelName,
    /// What it is declared as: `sql`, `rollup`, …
    pub kind: &'static str,
    pub description: Option<String>,
    pub definition: serde_json::Value,
    pub fingerprint: String,
    pub columns: Vec<SqlColumn>,
    /// Columns that tell rows apart.
    pub grain: Vec<String>,
    /// What makes it a fact, where it is one.
    pub shape: Option<Shape>,
    /// Keys that are looked up in dimensions, after the query.
    pub look_ups: Vec<LookUp>,
    /// The query's rows are members and who is right above each; the model's, who is above at any distance.
    pub is_closure: bool,
    pub query: Query,
}

/// What makes a table a fact: its dimensions, by role, and its measures.
#[derive(Clone, Debug, Default)]
pub struct Shape {
    pub roles: Vec<(String, ModelName)>,
    pub measures: Vec<(String, Additivity)>,
}

/// A column of the answer.
#[derive(Clone, Debug)]
pub struct SqlColumn {
    pub name: String,
    pub field_type: FieldType,
    pub description: Option<String>,
}

/// A key of the version of a member that held at a row's time.
#[derive(Clone, Debug)]
pub struct LookUp {
    pub dimension: ModelName,
    /// The column of the key, and the one of the member's durable key.
    pub key: String,
    pub durable: String,
    /// The column with the last day of the time that the row is about, or with when that is over.
    pub at: String,
}

/// When periods are over, in microseconds, by their last days or by these times themselves; none of other values.
fn over(ends: &ArrayRef) -> Option<impl Iterator<Item = i64> + use<>> {
    let times = match ends.as_primitive_opt::<Date32Type>() {
        Some(days) => days.unary::<_, Int64Type>(|day| (i64::from(day) + 1) * DAY),
        None => ends.as_primitive_opt::<TimestampMicrosecondType>()?.reinterpret_cast::<Int64Type>(),
    };
    Some((0..times.len()).map(move |row| times.value(row)))
}

impl SqlModel {
    /// The columns of its rows.
    pub fn schema(&self) -> SchemaRef {
        let field = |column: &SqlColumn| Field::new(&column.name, column.field_type.arrow(), true);
        Arc::new(Schema::new(self.columns.iter().map(field).collect::<Vec<_>>()))
    }

    /// The columns of each model that its rows depend on; none where they are not known.
    pub fn reads(&self) -> Option<HashMap<ModelName, BTreeSet<String>>> {
        self.query.reads(&planning_session().state()).ok()
    }

    /// The models that it reads.
    pub fn inputs(&self) -> BTreeSet<&ModelName> {
        self.query.scans.iter().chain(self.look_ups.iter().map(|look_up| &look_up.dimension)).collect()
    }
}
