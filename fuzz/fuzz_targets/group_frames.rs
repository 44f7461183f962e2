//! Frames between replicas, and files that name a snapshot.
#![cfg_attr(fuzzing, no_main)]

unibus_fuzz::entry_point!(unibus_fuzz::group_frames);
