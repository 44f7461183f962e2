//! libFuzzer entry point; on stable, replays the files given as arguments.
#![cfg_attr(fuzzing, no_main)]

unibus_fuzz::entry_point!(unibus_fuzz::frames);
