//! What nodes say to the leader about consumers.
#![cfg_attr(fuzzing, no_main)]

unibus_fuzz::entry_point!(unibus_fuzz::leader_frames);
