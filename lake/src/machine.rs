//! How much memory and how many processors this process may use: the machine's, or what its cgroup leaves of them.
//!
//! Linux says it in files, and where a file is missing (another system, a hidden `/sys`) the answer is what is left:
//! the number of processors that the standard library knows, and no memory limit that is known.

use std::path::{Path, PathBuf};

/// Taken for the memory of a machine that does not tell.
const UNKNOWN_BYTES: u64 = 4 << 30;

/// What a process may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Bytes of memory, beyond which the kernel kills.
    pub memory: u64,
    /// Processors, rounded up.
    pub processors: usize,
}

impl Machine {
    /// This machine, or this process' cgroup.
    pub fn here() -> Self {
        let read = |path: &Path| std::fs::read_to_string(path).ok();
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self::told(&read, processors)
    }

    /// What the files say, `read` by their paths; `processors` are those that the system schedules on.
    fn told(read: &dyn Fn(&Path) -> Option<String>, processors: usize) -> Self {
        let total = read(Path::new("/proc/meminfo")).and_then(|text| kibibytes(&text, "MemTotal:"));
        let groups = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
        let limits = groups_of(&groups).into_iter().flat_map(|group| group.limits(read)).collect::<Vec<_>>();
        let memory = limits.iter().filter_map(|limits| limits.memory).chain(total).min();
        let share = limits.iter().filter_map(|limits| limits.processors).min();
        Self {
            memory: memory.unwrap_or(UNKNOWN_BYTES),
            processors: share.map_or(processors, |share| share.min(processors)).max(1),
        }
    }
}

/// Bytes of memory that this process has in use, where the system tells.
pub fn resident() -> Option<u64> {
    kibibytes(&std::fs::read_to_string("/proc/self/status").ok()?, "VmRSS:")
}

/// Bytes, of a line such as `MemTotal:  24576 kB`.
fn kibibytes(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// A limit of a cgroup, or of one above it.
#[derive(Clone, Copy, Debug, Default)]
struct Limits {
    memory: Option<u64>,
    processors: Option<usize>,
}

/// A group that this process is in: of version 2, or of a controller of version 1.
struct Group {
    root: PathBuf,
    path: String,
    is_v2: bool,
}

/// The groups in `/proc/self/cgroup`: lines such as `0::/a/b` and `4:memory:/a/b`.
fn groups_of(text: &str) -> Vec<Group> {
    let of = |line: &str| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        let root = Path::new("/sys/fs/cgroup");
        if controllers.is_empty() {
            return Some(Group { root: root.to_path_buf(), path: path.to_owned(), is_v2: true });
        }
        let counts = controllers.split(',').any(|controller| controller == "memory" || controller == "cpu");
        counts.then(|| Group { root: root.join(controllers), path: path.to_owned(), is_v2: false })
    };
    text.lines().filter_map(of).collect()
}

impl Group {
    /// The limits of the group and of those above it. In a container the path may be the host's, while the root is
    /// the group itself: both are looked at.
    fn limits(&self, read: &dyn Fn(&Path) -> Option<String>) -> Vec<Limits> {
        let below = Path::new(self.path.trim_start_matches('/'));
        let folders = below.ancestors().map(|part| self.root.join(part));
        folders.map(|folder| self.limit(&|file: &str| read(&folder.join(file)))).collect()
    }

    fn limit(&self, read: &dyn Fn(&str) -> Option<String>) -> Limits {
        let bytes = |text: String| text.trim().parse::<u64>().ok();
        if self.is_v2 {
            return Limits {
                memory: read("memory.max").and_then(bytes),
                processors: read("cpu.max").and_then(|text| {
                    let (quota, period) = text.trim().split_once(' ')?;
                    rounded_up(quota.parse().ok()?, period.parse().ok()?)
                }),
            };
        }
        let number = |file: &str| read(file)?.trim().parse::<i64>().ok();
        let quota = number("cpu.cfs_quota_us").and_then(|quota| u64::try_from(quota).ok());
        let period = number("cpu.cfs_period_us").and_then(|period| u64::try_from(period).ok());
        Limits {
            memory: read("memory.limit_in_bytes").and_then(bytes),
            processors: quota.zip(period).and_then(|(quota, period)| rounded_up(quota, period)),
        }
    }
}

/// Processors, of microseconds in a period.
fn rounded_up(quota: u64, period: u64) -> Option<usize> {
    if period == 0 {
        return None;
    }
    usize::try_from(quota.div_ceil(period).max(1)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO: &str = "MemTotal:       24576000 kB\nMemFree:         1000 kB\n";

    fn machine(files: &[(&str, &str)]) -> Machine {
        let read = |path: &Path| {
            let found = files.iter().find(|(name, _)| Path::new(name) == path);
            found.map(|(_, text)| (*text).to_owned())
        };
        Machine::told(&read, 8)
    }

    #[test]
    fn a_machine_without_groups_is_all_there_is() {
        assert_eq!(machine(&[]), Machine { memory: UNKNOWN_BYTES, processors: 8 });
        let all = Machine { memory: 24_576_000 * 1024, processors: 8 };
        assert_eq!(machine(&[("/proc/meminfo", MEMINFO)]), all);
        let unlimited = [
            ("/proc/meminfo", MEMINFO),
            ("/proc/self/cgroup", "0::/user.slice\n"),
            ("/sys/fs/cgroup/user.slice/memory.max", "max\n"),
            ("/sys/fs/cgroup/user.slice/cpu.max", "max 100000\n"),
        ];
        assert_eq!(machine(&unlimited), all);
    }

    #[test]
    fn the_least_limit_of_the_groups_above_counts() {
        let files = [
            ("/proc/meminfo", MEMINFO),
            ("/proc/self/cgroup", "0::/a/b\n"),
            ("/sys/fs/cgroup/a/b/memory.max", "max\n"),
            ("/sys/fs/cgroup/a/memory.max", "1073741824\n"),
            ("/sys/fs/cgroup/a/b/cpu.max", "150000 100000\n"),
            ("/sys/fs/cgroup/a/cpu.max", "400000 100000\n"),
        ];
        assert_eq!(machine(&files), Machine { memory: 1 << 30, processors: 2 });
    }

    #[test]
    fn a_container_is_limited_at_its_root() {
        let files = [
            ("/proc/meminfo", MEMINFO),
            ("/proc/self/cgroup", "0::/\n"),
            ("/sys/fs/cgroup/memory.max", "536870912\n"),
            ("/sys/fs/cgroup/cpu.max", "50000 100000\n"),
        ];
        assert_eq!(machine(&files), Machine { memory: 512 << 20, processors: 1 });
    }

    #[test]
    fn version_1_has_a_folder_a_controller() {
        let groups = "5:cpu,cpuacct:/docker/x\n4:memory:/docker/x\n1:name=systemd:/docker/x\n";
        let files = [
            ("/proc/meminfo", MEMINFO),
            ("/proc/self/cgroup", groups),
            ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "1073741824\n"),
            ("/sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_quota_us", "-1\n"),
            ("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "300000\n"),
            ("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
        ];
        assert_eq!(machine(&files), Machine { memory: 1 << 30, processors: 3 });
        // What version 1 writes for none.
        let none = [
            ("/proc/meminfo", MEMINFO),
            ("/proc/self/cgroup", groups),
            ("/sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes", "9223372036854771712\n"),
        ];
        assert_eq!(machine(&none), Machine { memory: 24_576_000 * 1024, processors: 8 });
    }

    #[test]
    fn nonsense_is_no_limit() {
        let files = [
            ("/proc/meminfo", "MemTotal: many kB\n"),
            ("/proc/self/cgroup", "0\n::\n0::/a\n"),
            ("/sys/fs/cgroup/a/memory.max", "-5\n"),
            ("/sys/fs/cgroup/a/cpu.max", "100000 0\n"),
        ];
        assert_eq!(machine(&files), Machine { memory: UNKNOWN_BYTES, processors: 8 });
    }

    #[test]
    fn memory_in_use_is_known_where_the_system_tells() {
        assert_eq!(resident().is_some(), Path::new("/proc/self/status").exists());
        assert!(resident().is_none_or(|bytes| bytes > 1 << 20));
    }
}
