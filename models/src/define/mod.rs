//! Definitions: what a project's files say about streams and models, typed, with the place of every word.
//!
//! ```text
//! files ─► parse (serde; unknown keys refused) ─► definitions ─► resolve: names, types, SQL, order ─► Models
//!                 │                                                  │
//!                 └── problems, each with file, line, column, mend ──┘
//! ```
//!
//! Nothing here touches data. The shapes are described for people in `docs/definitions.md`.

mod derived;
mod files;
mod model;
pub(crate) mod period;
mod place;
mod stream;
mod types;

pub use derived::{
    AccumulatingFile, AllocationFile, BridgeFile, Computed, ComputedMeasure, DerivedFactFile, DerivedFile,
    HierarchyFile, LedgerFile, Milestone, PeriodicFile, RollupFile, ShrunkenFile, ShrunkenRole, SqlColumnFile, SqlFile,
};
pub use files::{ModelFile, Parsed, parse, parse_model_text, parse_text, read_text};
pub use model::{
    Additivity, As, Attribute, BandsFile, Beside, Calendar, Degenerate, DimensionFile, DimensionSource, EventTypes,
    FactFile, FactSource, FactSources, Histories, History, Measure, Names, ReferenceTo, Role, SpecialMembers,
    TimeOfDay, TimeUnit,
};
pub use period::Period;
pub use place::{Place, Placed, Problem, is_advice, suggestion};
pub use stream::{
    CastStep, ConventionFile, DefaultStep, DropStep, EnvelopeFile, EventFile, FieldFile, FormatFile, MapValuesStep,
    MergeStep, RenameStep, Sample, SplitStep, SqlStep, Step, StreamFile, TimeUnitFile, VersionFile,
};
pub use types::{FieldType, Scalar};

use serde::{Deserialize, Serialize};

/// A model's name: its domain and its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ModelName {
    pub domain: String,
    pub name: String,
}

impl ModelName {
    /// `name` in `domain`.
    pub fn new(domain: &str, name: &str) -> Self {
        Self { domain: domain.to_owned(), name: name.to_owned() }
    }
}

impl std::fmt::Display for ModelName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.domain, self.name)
    }
}
