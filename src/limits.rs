//! `queries:` in `starmere.yaml`: how much queries may take. What is left out follows the machine or its cgroup.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use starmere_lake::machine::Machine;
use starmere_models::define::{Placed, Problem};
use starmere_sql::Limits;

const MIB: u64 = 1 << 20;
/// Memory of queries, unless the project says otherwise: two fifths of the machine's, in these bounds.
const MEMORY: std::ops::RangeInclusive<u64> = 64 * MIB..=8 << 30;
/// Bytes that queries may have spilled at a time, unless the project says otherwise.
const SPILL: u64 = 32 << 30;
/// Longer is as good as for ever, and can still be counted from any moment on: ten years, in seconds.
const LONGEST: u64 = 10 * 365 * 86_400;
/// The least memory that queries run in, in MiB.
const LEAST_MEMORY_MIB: u64 = 16;

/// `queries:`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct QueryLimits {
    /// Memory that all queries together may reserve before they spill; two fifths of the machine's.
    #[serde(default)]
    memory_mib: Option<Placed<u64>>,
    /// Memory of the whole process, beyond which the largest query is stopped; nine tenths of the machine's.
    #[serde(default)]
    process_mib: Option<Placed<u64>>,
    /// How many queries run at once; twice the number of processors.
    #[serde(default)]
    slots: Option<Placed<usize>>,
    /// How many small queries run beside those, and statements are planned; the number of processors.
    #[serde(default)]
    small_slots: Option<usize>,
    /// How many of the slots one user may have; three quarters.
    #[serde(default)]
    slots_per_user: Option<Placed<usize>>,
    /// How many queries wait for a slot; 100.
    #[serde(default)]
    waiting: Option<usize>,
    /// How long one of them waits; 60.
    #[serde(default)]
    wait_seconds: Option<u64>,
    /// How long a query may run, and its complete answer may be left unread; 600.
    #[serde(default)]
    time_seconds: Option<Placed<u64>>,
    /// Temporary files of queries that spill; 32768.
    #[serde(default)]
    spill_mib: Option<u64>,
    /// Temporary files of answers that nobody has read yet; 4096.
    #[serde(default)]
    result_mib: Option<u64>,
    /// Memory of statements that clients have prepared, and of their parameters; 64.
    #[serde(default)]
    prepared_mib: Option<Placed<u64>>,
}

fn bytes(mib: u64) -> u64 {
    mib.saturating_mul(MIB)
}

fn size(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

impl QueryLimits {
    /// The limits on this machine.
    pub(crate) fn limits(&self, machine: Machine) -> Limits {
        let default = Limits::of(machine);
        let running = self.slots.as_ref().map_or(default.running, |slots| slots.value);
        let seconds = |seconds: Option<u64>, otherwise| {
            seconds.map_or(otherwise, |seconds| Duration::from_secs(seconds.min(LONGEST)))
        };
        Limits {
            running,
            small: self.small_slots.unwrap_or(default.small),
            per_user: self.slots_per_user.as_ref().map_or(Limits::share_of_slots(running), |slots| slots.value),
            waiting: self.waiting.unwrap_or(default.waiting),
            patience: seconds(self.wait_seconds, default.patience),
            time: seconds(self.time_seconds.as_ref().map(|seconds| seconds.value), default.time),
            result_disk: self.result_mib.map_or(default.result_disk, bytes),
            prepared_memory: self.prepared_mib.as_ref().map_or(default.prepared_memory, |mib| size(bytes(mib.value))),
            resident: self.process_mib.as_ref().map_or(default.resident, |mib| Some(bytes(mib.value))),
            ..default
        }
    }

    /// Memory of queries, in bytes.
    pub(crate) fn memory(&self, machine: Machine) -> usize {
        let share = (machine.memory / 5 * 2).clamp(*MEMORY.start(), *MEMORY.end());
        size(self.memory_mib.as_ref().map_or(share, |mib| bytes(mib.value)))
    }

    /// Bytes that queries may have spilled at a time.
    pub(crate) fn spill(&self) -> u64 {
        self.spill_mib.map_or(SPILL, bytes)
    }

    /// What cannot be right.
    pub(crate) fn mistakes(&self, file: &str) -> Vec<Problem> {
        let mut problems = Vec::new();
        let slots = [("slots", &self.slots), ("slots_per_user", &self.slots_per_user)];
        for (key, value) in slots.into_iter().filter_map(|(key, value)| Some((key, value.as_ref()?))) {
            if value.value == 0 {
                let hint = "write 1 or more, or leave it out: then it follows the number of processors";
                problems.push(Problem::new(value.place(file), format!("no query runs with 0 `{key}`")).hint(hint));
            }
        }
        let least = [
            ("memory_mib", &self.memory_mib, LEAST_MEMORY_MIB),
            ("process_mib", &self.process_mib, LEAST_MEMORY_MIB),
            ("prepared_mib", &self.prepared_mib, 1),
            ("time_seconds", &self.time_seconds, 1),
        ];
        let least = least.into_iter().filter_map(|(key, value, least)| Some((key, value.as_ref()?, least)));
        for (key, value, least) in least {
            if value.value < least {
                let message = format!("{} is too little for `{key}` of queries", value.value);
                let hint = format!("write {least} or more, or leave it out");
                problems.push(Problem::new(value.place(file), message).hint(hint));
            }
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(gibibytes: u64, processors: usize) -> Machine {
        Machine { memory: gibibytes << 30, processors }
    }

    #[test]
    fn what_is_left_out_follows_the_machine() {
        let none = QueryLimits::default();
        let (small, large) = (none.limits(machine(1, 1)), none.limits(machine(64, 16)));
        assert_eq!((small.running, small.small, small.per_user), (2, 1, 2));
        assert_eq!((large.running, large.small, large.per_user), (32, 16, 24));
        assert!(small.resident.is_some_and(|most| most < 1 << 30));
        assert_eq!((none.memory(machine(1, 1)) >> 20, none.memory(machine(64, 1))), (409, 8 << 30));
    }

    #[test]
    fn what_is_written_counts() {
        let written = QueryLimits {
            memory_mib: Some(Placed::from(100)),
            process_mib: Some(Placed::from(500)),
            slots: Some(Placed::from(8)),
            time_seconds: Some(Placed::from(5)),
            spill_mib: Some(0),
            ..QueryLimits::default()
        };
        let limits = written.limits(machine(1, 1));
        assert_eq!((limits.running, limits.per_user, limits.time), (8, 6, Duration::from_secs(5)));
        assert_eq!(limits.resident, Some(500 << 20));
        assert_eq!((written.memory(machine(64, 1)), written.spill()), (100 << 20, 0));
        assert!(written.mistakes("starmere.yaml").is_empty());
    }

    #[test]
    fn for_ever_can_be_counted() {
        let written = QueryLimits {
            time_seconds: Some(Placed::from(u64::MAX)),
            wait_seconds: Some(u64::MAX),
            slots: Some(Placed::from(usize::MAX)),
            ..QueryLimits::default()
        };
        let limits = written.limits(machine(1, 1));
        let now = std::time::Instant::now();
        assert!(now.checked_add(limits.time).is_some() && now.checked_add(limits.patience).is_some());
        assert_eq!(limits.per_user, usize::MAX - usize::MAX / 4);
    }

    #[test]
    fn nothing_is_too_little() {
        let wrong = QueryLimits {
            memory_mib: Some(Placed::from(1)),
            slots: Some(Placed::from(0)),
            time_seconds: Some(Placed::from(0)),
            ..QueryLimits::default()
        };
        assert_eq!(wrong.mistakes("starmere.yaml").len(), 3);
    }
}
