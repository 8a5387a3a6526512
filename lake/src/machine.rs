//! What the machine gives to this process: less than it has, where a container says so.

use std::fs;
use std::path::Path;

/// The memory of the machine, or what the process's cgroup or one above it may use, if that is less; in bytes. None where
/// neither is told.
pub fn memory_limit() -> Option<u64> {
    limit_below(Path::new("/"))
}

/// The same, with the system's files below `root`.
fn limit_below(root: &Path) -> Option<u64> {
    let read = |path: String| fs::read_to_string(root.join(path)).ok();
    let mut limits: Vec<u64> = read("proc/meminfo".into()).as_deref().and_then(total).into_iter().collect();
    for line in read("proc/self/cgroup".into()).unwrap_or_default().lines() {
        // `0::/a/b` of version 2; `4:memory:/a/b` of version 1, where memory has a tree of its own.
        let mut parts = line.splitn(3, ':').skip(1);
        let (folder, file) = match parts.next() {
            Some("") => ("sys/fs/cgroup", "memory.max"),
            Some(controllers) if controllers.split(',').any(|controller| controller == "memory") => {
                ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        // A limit holds for all that is below it. In a container, the upper ones may not be there.
        for own in Path::new(parts.next().unwrap_or_default().trim_start_matches('/')).ancestors() {
            let limit = read(format!("{folder}/{}/{file}", own.display()));
            limits.extend(limit.and_then(|limit| limit.trim().parse::<u64>().ok()));
        }
    }
    limits.into_iter().min()
}

/// The memory that `/proc/meminfo` tells.
fn total(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1 << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(files: &[(&str, &str)]) -> Option<u64> {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        limit_below(root.path())
    }

    #[test]
    fn the_least_limit_holds() {
        let machine = ("proc/meminfo", "MemTotal:       16384 kB\nMemFree:  1 kB\n");
        let own = ("proc/self/cgroup", "0::/pod/app\n");
        assert_eq!(limit(&[]), None);
        assert_eq!(limit(&[machine]), Some(16 << 20));
        assert_eq!(limit(&[machine, own, ("sys/fs/cgroup/pod/app/memory.max", "max\n")]), Some(16 << 20));
        assert_eq!(limit(&[machine, own, ("sys/fs/cgroup/pod/app/memory.max", "4194304\n")]), Some(4 << 20));
        assert_eq!(limit(&[machine, own, ("sys/fs/cgroup/pod/memory.max", "2097152\n")]), Some(2 << 20));
        assert_eq!(limit(&[machine, own, ("sys/fs/cgroup/pod/app/memory.max", "99999999999\n")]), Some(16 << 20));
        // A container that sees its own cgroup as the root.
        let root = ("proc/self/cgroup", "0::/\n");
        assert_eq!(limit(&[machine, root, ("sys/fs/cgroup/memory.max", "1048576\n")]), Some(1 << 20));
        // Version 1: memory has a tree of its own, and a number for no limit.
        let first = ("proc/self/cgroup", "5:cpu,cpuacct:/x\n4:memory:/docker/x\n");
        let unlimited = ("sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(limit(&[machine, first, unlimited]), Some(16 << 20));
        let limited = ("sys/fs/cgroup/memory/memory.limit_in_bytes", "3145728\n");
        assert_eq!(limit(&[machine, first, unlimited, limited]), Some(3 << 20));
    }
}
