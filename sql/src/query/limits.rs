//! How much is let in.

use std::{path::PathBuf, time::Duration};

use starmere_lake::machine::Machine;

/// How much is let in, and how much of the machine it may take.
#[derive(Clone, Debug)]
pub struct Limits {
    /// How long a query may run, from its slot to the end of its answer; and how long its reader may leave an answer
    /// that is complete unread. Default: 10 minutes.
    pub time: Duration,
    /// How many queries run at once. Default: twice the number of processors.
    pub running: usize,
    /// How many small queries run beside those, and statements are planned: what reads little never waits for what
    /// reads much. Default: the number of processors.
    pub small: usize,
    /// How many of those that run may be one user's. Default: three quarters.
    pub per_user: usize,
    /// How many wait for a slot. Default: 100.
    pub waiting: usize,
    /// How long one of them waits. Default: 1 minute.
    pub patience: Duration,
    /// Bytes of answers that nobody has read yet, in memory. Default: a sixteenth of the machine's, at most 256 MiB.
    pub result_memory: usize,
    /// Bytes of answers that nobody has read yet, on disk. Default: 4 GiB.
    pub result_disk: u64,
    /// Where they are on disk. Default: the system's folder for temporary files.
    pub folder: PathBuf,
    /// Bytes that statements which clients prepared, and their parameters, take. Default: 64 MiB.
    pub prepared_memory: usize,
    /// Bytes of memory that the process may have in use. Beyond, the largest query is stopped. None: no limit.
    /// Default: nine tenths of the machine's.
    pub resident: Option<u64>,
}

/// Of the memory for answers on disk or in memory, the share that one answer may take.
pub(super) const SHARE: u64 = 4;

/// So many answers may be unread, or read, beside the queries that run and wait.
const UNREAD: usize = 100;

const MIB: u64 = 1 << 20;

impl Limits {
    /// The defaults on this machine.
    pub fn of(machine: Machine) -> Self {
        let processors = machine.processors;
        let running = 2 * processors;
        Self {
            time: Duration::from_secs(600),
            running,
            small: processors,
            per_user: Self::share_of_slots(running),
            waiting: 100,
            patience: Duration::from_secs(60),
            result_memory: usize::try_from((machine.memory / 16).clamp(16 * MIB, 256 * MIB)).unwrap_or(usize::MAX),
            result_disk: 4 << 30,
            folder: std::env::temp_dir(),
            prepared_memory: 64 << 20,
            resident: Some(machine.memory / 10 * 9),
        }
    }

    /// How many queries there may be: those that run, that wait, and of which not all has been read. Each has some
    /// memory, or threads, whatever other limits say. One user may have a share of them.
    pub(super) fn queries(&self) -> usize {
        self.running.saturating_add(self.small).saturating_add(self.waiting).saturating_add(UNREAD)
    }

    /// How many of so many slots one user may have.
    pub fn share_of_slots(running: usize) -> usize {
        running - running / 4
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::of(Machine::here())
    }
}
