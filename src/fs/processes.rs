//! Which processes change a file: whose close of it must wait for the upload.
//!
//! A process that another one starts has copies of its descriptors, and closes them when it runs its program:
//! the kernel sends a FLUSH for each, in the midst of what the other is writing. What such a process closes,
//! it has not written.

/// The processes, as thread ids, that changed a file since it was last uploaded.
#[derive(Debug, Default)]
pub struct Changers {
    threads: Vec<u32>,
    /// One that nothing is known of, or more than are remembered.
    anybody: bool,
}

impl Changers {
    /// More threads than that seldom write one file.
    const MOST: usize = 16;

    /// `thread` is 0 where the kernel does not say.
    pub fn add(&mut self, thread: u32) {
        if thread == 0 || (self.threads.len() == Changers::MOST && !self.threads.contains(&thread))
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
    pub fn are_others_than(&self, thread: u32, process_of: impl Fn(u32) -> Option<u32>) -> bool {
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
            let mut known = Changers::default();
            changers.iter().for_each(|&thread| known.add(thread));
            let others = known.are_others_than(closes, process_of);
            assert_eq!(others, expected, "{changers:?} {closes}");
        }
        let mut many = Changers::default();
        (100..200).for_each(|thread| many.add(thread));
        assert!(!many.are_others_than(20, Some));
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
}
