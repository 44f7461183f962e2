//! Acknowledgements and pull requests on the wire.
#![cfg_attr(fuzzing, no_main)]

unibus_fuzz::entry_point!(unibus_fuzz::acks);
