//! JSON of the JetStream API.
#![cfg_attr(fuzzing, no_main)]

unibus_fuzz::entry_point!(unibus_fuzz::jetstream_api);
