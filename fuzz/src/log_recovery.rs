//! A damaged log: each input is a list of damages, done to a fresh copy of a log in a folder of its own.

/// Sixteen damages at most, four bytes each.
pub fn log_recovery(data: &[u8]) {
    let made = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
    let Ok(folder) = made else {
        panic!("no folder for the log");
    };
    unibus_raft::fuzzing::log_recovery(folder.path(), data);
}
