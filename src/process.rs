//! What the system says of this process, by the names that Prometheus' clients use. Nothing where there is no `/proc`.

use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

use starmere_lake::metrics::{Text, names};

/// When the process started, in seconds since 1970: when this was first looked at.
pub(crate) static STARTED: LazyLock<u64> =
    LazyLock::new(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()));

/// Linux counts the time of processors in these, whatever its kernel's own are.
const TICKS_A_SECOND: f64 = 100.0;

/// Adds what the system says to `text`.
pub(crate) fn describe(text: &mut Text) {
    text.add(&names::PROCESS_START, &[], Some(*STARTED));
    let read = |name: &str| std::fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
    text.add(&names::PROCESS_MEMORY, &[], resident(&read("status")));
    let (cpu, threads) = times(&read("stat")).unzip();
    text.add(&names::PROCESS_CPU, &[], cpu);
    text.add(&names::PROCESS_THREADS, &[], threads);
    text.add(&names::PROCESS_MAX_FDS, &[], most_files(&read("limits")));
    // Listing them opens one more.
    let open = std::fs::read_dir("/proc/self/fd").ok().map(|open| open.count().saturating_sub(1));
    text.add(&names::PROCESS_FDS, &[], open);
}

/// Bytes of resident memory, from `status`.
fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

/// Seconds of processors and number of threads, from `stat`: its 14th, 15th and 20th fields. The second field is a name,
/// which may have spaces and brackets in it.
fn times(stat: &str) -> Option<(f64, u64)> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some(((field(14)? + field(15)?) as f64 / TICKS_A_SECOND, field(20)?))
}

/// How many files may be open, from `limits`.
fn most_files(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_says_is_read() {
        assert_eq!(resident("Name:\tx\nVmRSS:\t    2048 kB\nThreads:\t3\n"), Some(2 << 20));
        let stat = "7 (a) b) S 1 7 7 0 -1 4194304 1 0 0 0 150 50 0 0 20 0 12 0 99 1000 200 18446744073709551615";
        assert_eq!(times(stat), Some((2.0, 12)));
        let limits = "Limit           Soft Limit  Hard Limit  Units\nMax open files  1024        4096        files\n";
        assert_eq!(most_files(limits), Some(1024));
        for nonsense in ["", "VmRSS: much", "1 (x", "Max open files unlimited"] {
            assert_eq!((resident(nonsense), times(nonsense), most_files(nonsense)), (None, None, None));
        }
    }
}
