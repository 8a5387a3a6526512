//! `domains/<domain>/models/*.yaml`: models that are made of other models.

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Additivity, FieldType, Names, Period, Placed};

/// A model that is made of other models.
#[derive(Clone, Debug)]
pub enum DerivedFile {
    Sql(SqlFile),
    Rollup(RollupFile),
    DerivedFact(DerivedFactFile),
    Periodic(PeriodicFile),
    Accumulating(AccumulatingFile),
    Ledger(LedgerFile),
    Allocation(AllocationFile),
    Bridge(BridgeFile),
    Shrunken(ShrunkenFile),
    Hierarchy(HierarchyFile),
}

impl DerivedFile {
    /// Its name.
    pub fn name(&self) -> &Placed<String> {
        match self {
            Self::Sql(file) => &file.sql,
            Self::Rollup(file) => &file.rollup,
            Self::DerivedFact(file) => &file.derived_fact,
            Self::Periodic(file) => &file.periodic_snapshot,
            Self::Accumulating(file) => &file.accumulating_snapshot,
            Self::Ledger(file) => &file.ledger,
            Self::Allocation(file) => &file.allocation,
            Self::Bridge(file) => &file.bridge,
            Self::Shrunken(file) => &file.shrunken_dimension,
            Self::Hierarchy(file) => &file.hierarchy,
        }
    }

    /// The models that it names as what it is made of; of SQL, what it names is found otherwise.
    pub fn of(&self) -> Vec<&str> {
        match self {
            Self::Sql(_) => Vec::new(),
            Self::Rollup(file) => {
                let shrunken = file.dimensions.values().map(|shrunken| shrunken.dimension.as_str());
                std::iter::once(file.of.as_str()).chain(shrunken).collect()
            }
            Self::DerivedFact(file) => vec![&file.of],
            Self::Periodic(file) => vec![&file.of],
            Self::Accumulating(file) => file.milestones.values().map(|milestone| milestone.fact.as_str()).collect(),
            Self::Ledger(file) => vec![&file.of],
            Self::Allocation(file) => vec![&file.of, &file.header],
            Self::Bridge(file) => vec![&file.of],
            Self::Shrunken(file) => vec![&file.of],
            Self::Hierarchy(file) => vec![&file.of],
        }
    }
}

/// A fact at a coarser grain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RollupFile {
    pub rollup: Placed<String>,
    #[serde(default)]
    pub description: Option<String>,
    /// The fact.
    pub of: Placed<String>,
    /// Its grain: columns of the fact, or attributes of its dimensions (`role.attribute`), by the names they get.
    #[serde(default)]
    pub by: IndexMap<String, Placed<String>>,
    /// Shrunken dimensions, by role: their keys are part of the grain, too.
    #[serde(default)]
    pub dimensions: IndexMap<String, Placed<ShrunkenRole>>,
    /// SQL: which rows of the fact.
    #[serde(default, rename = "where")]
    pub filter: Option<Placed<String>>,
    /// Measures that are summed; all that may be added where it is left out.
    #[serde(default)]
    pub measures: Option<Placed<Names>>,
    /// The column that counts rows of the fact.
    #[serde(default)]
    pub count: Option<Placed<String>>,
}

/// A SQL model: one SELECT over other models.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SqlFile {
    pub sql: Placed<String>,
    #[serde(default)]
    pub description: Option<String>,
    pub select: Placed<String>,
    /// Columns that tell rows apart.
    pub grain: Placed<Names>,
    /// What columns mean.
    #[serde(default)]
    pub columns: IndexMap<String, Placed<SqlColumnFile>>,
}

/// A column of a SQL model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SqlColumnFile {
    #[serde(default)]
    pub description: Option<String>,
}

/// A shrunken dimension that a roll-up has, and the role of the fact that leads to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ShrunkenRole {
    pub dimension: String,
    pub role: String,
}

/// A fact with columns that are computed of its own and of its dimensions'.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DerivedFactFile {
    pub derived_fact: Placed<String>,
    #[serde(default)]
    pub description: Option<String>,
    /// The fact.
    pub of: Placed<String>,
    /// SQL: which rows of the fact.
    #[serde(default, rename = "where")]
    pub filter: Option<Placed<String>>,
    /// Columns of the fact that stay; all where it is left out.
    #[serde(default)]
    pub keep: Option<Placed<Names>>,
    #[serde(default)]
    pub degenerate: IndexMap<String, Placed<Computed>>,
    #[serde(default)]
    pub measures: IndexMap<String, Placed<ComputedMeasure>>,
}

/// A column that is computed of a fact's columns and of its dimensions' (`role.attribute`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Computed {
    pub expression: String,
    #[serde(default, rename = "type")]
    pub field_type: Option<FieldType>,
    #[serde(default)]
    pub description: Option<String>,
}

/// The same, of a number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ComputedMeasure {
    pub expression: String,
    #[serde(default, rename = "type")]
    pub field_type: Option<FieldType>,
    #[serde(default)]
    pub additive: Additivity,
    #[serde(default)]
    pub description: Option<String>,
}

/// The state at each period's end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PeriodicFile {
    pub periodic_snapshot: Placed<String>,
    #[serde(default)]
    pub description: Option<String>,
    /// The fact.
    pub of: Placed<String>,
    pub every: Period,
    /// The first period has this day; of hours and minutes, it may be a time.
    pub from: Placed<String>,
    /// No period begins after this day or time, whatever events say.
    #[serde(default)]
    pub to: Option<Placed<String>>,
    /// Roles of the fact, or columns: each has a row per period.
    pub by: Placed<Names>,
    /// SQL: which rows of the fact.
    #[serde(default, rename = "where")]
    pub filter: Option<Placed<String>>,
    /// What has come together up to a period's end: SQL over the fact's columns that is summed.
    #[serde(default)]
    pub balances: IndexMap<String, Placed<String>>,
    /// What came in a period: the same.
    #[serde(default)]
    pub flows: IndexMap<String, Placed<String>>,
    /// What was said last, up to a period's end: SQL over the fact's columns.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub levels: IndexMap<String, Placed<String>>,
}

/// A row for each thing that goes through milestones.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AccumulatingFile {
    pub accumulating_snapshot: Placed<String>,
    #[serde(default)]
    pub description: Option<String>,
    /// Columns that all milestones' facts have.
    pub grain: Placed<Names>,
    /// In the order in which they are expected.
    pub milestones: IndexMap<String, Placed<Milestone>>,
    /// Roles, as the first row of a milestone has them: `role: milestone` or `role: milestone.role`.
    #[serde(default)]
    pub dimensions: IndexMap<String, Placed<String>>,
    /// Sums, of all rows of a milestone: `milestone.measure`.
    #[serde(default)]
    pub measures: IndexMap<String, Placed<String>>,
    /// Seconds from one milestone to another.
    #[serde(default)]
    pub lags: IndexMap<String, Placed<[String; 2]>>,
}

/// What reaches a milestone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Milestone {
    pub fact: String,
    /// SQL: which rows of the fact.
    #[serde(default, rename = "where")]
    pub filter: Option<String>,
    /// Where the fact calls a column of the grain otherwise.
    #[serde(default)]
    pub key: IndexMap<String, String>,
    #[serde(default)]
    pub description: Option<String>,
}

/// A fact whose rows say anew what holds, as entries that are never changed: what is corrected is reversed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LedgerFile {
    pub ledger: Placed<String>,
    #[serde(default)]
    pub description: Option<String>,
    /// The fact.
    pub of: Placed<String>,
    /// What rows are about: a later one takes the place of the one before.
    pub by: Placed<Names>,
    /// SQL: rows that only take back.
    #[serde(default)]
    pub voids: Option<Placed<String>>,
}

/// A fact with amounts of another one, its header, split among its rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AllocationFile {
    pub allocation: Placed<String>,
    #[serde(default)]
    pub description: Option<String>,
    /// The fact of lines.
    pub of: Placed<String>,
    /// The fact with the amounts.
    pub header: Placed<String>,
    /// Columns of both.
    pub on: Placed<Names>,
    /// Measures of the header, by the columns they become.
    pub amounts: IndexMap<String, Placed<String>>,
    /// The measure of lines by which amounts are split; equally where it is left out.
    #[serde(default)]
    pub weight: Option<Placed<String>>,
}

/// Members of a dimension, several to a group, with weights that add up to 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BridgeFile {
    pub bridge: Placed<String>,
    #[serde(default)]
    pub description: Option<String>,
    /// The fact: a row for each member of a group.
    pub of: Placed<String>,
    /// Columns that name the group.
    pub group: Placed<Names>,
    /// The role of the members.
    pub member: Placed<String>,
    /// The measure that says how much a member counts; equally where it is left out.
    #[serde(default)]
    pub weight: Option<Placed<String>>,
}

/// A dimension of some of another one's attributes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ShrunkenFile {
    pub shrunken_dimension: Placed<String>,
    #[serde(default)]
    pub description: Option<String>,
    /// The dimension, or a port with one.
    pub of: Placed<String>,
    /// Attributes that tell members apart.
    pub key: Placed<Names>,
    /// Further attributes, which follow from these.
    #[serde(default)]
    pub attributes: Option<Placed<Names>>,
}

/// Who is above whom among a dimension's members, at any distance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HierarchyFile {
    pub hierarchy: Placed<String>,
    #[serde(default)]
    pub description: Option<String>,
    /// The dimension.
    pub of: Placed<String>,
    /// The attribute with the natural key of the member above.
    pub parent: Placed<String>,
}
