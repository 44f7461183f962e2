//! Archives of streams, as clients send them to be restored.
#![cfg_attr(fuzzing, no_main)]

unibus_fuzz::entry_point!(unibus_fuzz::stream_archive);
