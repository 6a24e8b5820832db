//! Which processes change a file and have it open: whose close of it must wait for the upload.
//!
//! A process that another one starts has copies of its descriptors, and closes them when it runs its program:
//! the kernel sends a FLUSH for each, in the midst of what the other is writing. What such a process closes,
//! it has not written.
//!
//! Of a file that is still empty, only the close of the last copy of its descriptor tells that it stays so: a shell
//! opens the target of a redirection, makes a copy of the descriptor and closes the first, all before a byte is
//! written. The kernel does not say which close is the last; what a process has open is in /proc.

/// The processes, as thread ids, that changed a file since it was last uploaded.
#[derive(Debug, Default)]
pub struct WriterSet {
    threads: Vec<u32>,
    /// One that nothing is known of, or more than are remembered.
    anybody: bool,
}

impl WriterSet {
    /// More threads than that seldom write one file.
    const MOST: usize = 16;

    /// `thread` is 0 where the kernel does not say.
    pub fn add(&mut self, thread: u32) {
        if thread == 0 || (self.threads.len() == WriterSet::MOST && !self.threads.contains(&thread))
        {
            self.anybody = true;
        } else if !self.threads.contains(&thread) {
            self.threads.push(thread);
        }
    }

    pub fn clear(&mut self) {
        self.threads.clear();
        self.anybody = false;
    }

    /// Whether a thread is known to be of another process than all that changed the file. `process_of` tells
    /// a thread's process, if it can.
    pub fn excludes_process_of(
        &self,
        thread: u32,
        process_of: impl Fn(u32) -> Option<u32>,
    ) -> bool {
        if thread == 0 || self.anybody || self.threads.contains(&thread) {
            return false;
        }
        let Some(process) = process_of(thread) else {
            return false;
        };
        let mut threads = self.threads.iter();
        threads.all(|&changer| process_of(changer).is_some_and(|other| other != process))
            && !self.threads.is_empty()
    }
}

/// The groups of this process.
pub fn own_groups() -> Vec<u32> {
    let groups = nix::unistd::getgroups().unwrap_or_default();
    let mut groups: Vec<u32> = groups.into_iter().map(|group| group.as_raw()).collect();
    groups.push(nix::unistd::getegid().as_raw());
    groups
}

/// The process of a thread, while it lives.
pub fn process_of(thread: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Tgid:"))?;
    line.trim().parse().ok()
}

/// Whether two threads are known to be of one process. `0` is one that the kernel does not name.
pub fn same_process(thread: u32, other: u32) -> bool {
    thread != 0
        && other != 0
        && (thread == other || process_of(thread).is_some_and(|of| process_of(other) == Some(of)))
}

/// Descriptors of one process that are looked through, and children.
const MOST_DESCRIPTORS: usize = 4096;
const MOST_CHILDREN: usize = 64;

/// Whether more writes through a descriptor that `opener` has opened may be expected from others when `closer` closes
/// it: `closer` is of another process, or its process has another copy, or a child of that has one. Both are
/// thread ids, 0 where the kernel does not say; what is not known counts as no.
pub fn leaves_copies(opener: u32, closer: u32, ino: u64) -> bool {
    let Some(process) = process_of(closer).filter(|_| closer != 0) else {
        return false;
    };
    let inherited = opener != 0
        && opener != closer
        && process_of(opener).is_some_and(|opened_by| opened_by != process);
    inherited
        || writes_through_descriptor(process, ino)
        || children_of(process).any(|child| writes_through_descriptor(child, ino))
}

/// Whether a process has a descriptor for writing to a file of this number. A descriptor that is being closed is in
/// its table no more.
fn writes_through_descriptor(process: u32, ino: u64) -> bool {
    let Ok(entries) = std::fs::read_dir(format!("/proc/{process}/fdinfo")) else {
        return false;
    };
    entries.take(MOST_DESCRIPTORS).flatten().any(|entry| {
        // Not the file itself: what is asked of that is asked of us.
        std::fs::read_to_string(entry.path()).is_ok_and(|text| is_writer_to(&text, ino))
    })
}

/// Whether a file of /proc/PID/fdinfo is about a descriptor for writing to a file of this number.
fn is_writer_to(fdinfo: &str, ino: u64) -> bool {
    let field = |name| {
        let line = fdinfo.lines().find_map(|line| line.strip_prefix(name));
        line.map(str::trim)
    };
    let flags = field("flags:").and_then(|flags| i32::from_str_radix(flags, 8).ok());
    flags.is_some_and(|flags| flags & libc::O_ACCMODE != libc::O_RDONLY)
        && field("ino:").and_then(|number| number.parse().ok()) == Some(ino)
}

fn children_of(process: u32) -> impl Iterator<Item = u32> {
    let path = format!("/proc/{process}/task/{process}/children");
    let children = std::fs::read_to_string(path).unwrap_or_default();
    let children: Vec<u32> = children
        .split_ascii_whitespace()
        .take(MOST_CHILDREN)
        .filter_map(|child| child.parse().ok())
        .collect();
    children.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_is_known_to_have_changed_nothing_is_another() {
        // Threads 10 and 11 are of process 10, 20 of process 20; 30 is gone.
        let process_of = |thread| match thread {
            10 | 11 => Some(10),
            20 => Some(20),
            _ => None,
        };
        for (changers, closes, expected) in [
            (&[10][..], 10, false),
            (&[10], 11, false),
            (&[10], 20, true),
            (&[10, 20], 20, false),
            (&[10, 20], 11, false),
            (&[10], 30, false),
            (&[30], 20, false),
            (&[10, 0], 20, false),
            (&[10], 0, false),
            (&[], 20, false),
        ] {
            let mut known = WriterSet::default();
            changers.iter().for_each(|&thread| known.add(thread));
            let others = known.excludes_process_of(closes, process_of);
            assert_eq!(others, expected, "{changers:?} {closes}");
        }
        let mut many = WriterSet::default();
        (100..200).for_each(|thread| many.add(thread));
        assert!(!many.excludes_process_of(20, Some));
    }

    #[test]
    fn threads_are_of_their_process() {
        let thread = std::thread::spawn(|| process_of(nix::unistd::gettid().as_raw() as u32));
        assert_eq!(thread.join().unwrap(), Some(std::process::id()));
        assert_eq!(process_of(u32::MAX), None);
        let own = std::process::id();
        let thread = std::thread::spawn(move || {
            let thread = nix::unistd::gettid().as_raw() as u32;
            same_process(own, thread) && same_process(thread, thread)
        });
        assert!(thread.join().unwrap());
        for other in [0, 1, u32::MAX] {
            assert!(!same_process(own, other), "{other}");
        }
        assert!(!same_process(0, 0));
    }

    #[test]
    fn descriptors_for_writing_are_told_from_their_files_and_from_others() {
        for (text, expected) in [
            ("pos:\t0\nflags:\t0100001\nmnt_id:\t29\nino:\t77\n", true),
            ("pos:\t0\nflags:\t02\nmnt_id:\t29\nino:\t77\n", true),
            ("pos:\t0\nflags:\t0100000\nmnt_id:\t29\nino:\t77\n", false),
            ("pos:\t0\nflags:\t01\nmnt_id:\t29\nino:\t770\n", false),
            ("pos:\t0\nflags:\t01\nmnt_id:\t29\n", false),
            ("flags:\tx\nino:\t77\n", false),
            ("", false),
        ] {
            assert_eq!(is_writer_to(text, 77), expected, "{text:?}");
        }
    }

    #[test]
    fn copies_in_the_process_and_in_its_children_are_found() {
        use std::os::unix::fs::MetadataExt;
        let folder = tempfile::tempdir().unwrap();
        let file = std::fs::File::create(folder.path().join("file")).unwrap();
        let ino = file.metadata().unwrap().ino();
        let this = std::process::id();
        if !std::fs::read_to_string("/proc/self/fdinfo/0").is_ok_and(|text| text.contains("ino:")) {
            return; // A kernel that does not tell.
        }
        assert!(leaves_copies(this, this, ino), "this one is open");
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .stdout(file)
            .spawn()
            .unwrap();
        let in_child = writes_through_descriptor(child.id(), ino);
        let left = leaves_copies(this, this, ino);
        let inherited = leaves_copies(this, child.id(), 1);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(in_child && inherited);
        // Threads have children of their own: those of the first are what is looked at.
        let first = nix::unistd::gettid().as_raw() as u32 == this;
        assert!(left || !first);
        assert!(!leaves_copies(this, this, ino), "all are closed");
        assert!(!leaves_copies(0, 0, ino));
    }
}
