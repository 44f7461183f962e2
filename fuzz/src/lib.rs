//! Harnesses: each takes any bytes and panics if a pure core breaks its promise.
//!
//! Owns what is checked and how seeds are varied; the promises themselves belong to the cores. The
//! same functions serve `cargo fuzz run <target>` (nightly) and the bounded run in
//! `tests/replay.rs` (stable).

mod acks;
mod client_decoder;
mod explore;
mod frames;
mod headers;
mod jetstream_api;
mod log_recovery;
mod route;
mod signed_request;
mod sublist;

pub use acks::acks;
pub use client_decoder::client_decoder;
pub use explore::{Budget, explore, read_corpus, replay_arguments};
pub use frames::frames;
pub use headers::headers;
pub use jetstream_api::jetstream_api;
pub use log_recovery::log_recovery;
pub use route::route_decoder;
pub use signed_request::signed_request;
pub use sublist::sublist;
pub use unibus_node::frontdoor::conf::fuzzing::configuration;
pub use unibus_node::jetstream::fuzzing::{leader_frames, stream_archive};
pub use unibus_raft::fuzzing::group_frames;
pub use unibus_state::fuzzing::state_machine;

/// Makes a harness the entry point of a fuzz target: libFuzzer's under `cargo fuzz`, else a `main`
/// that replays the files it is given.
#[macro_export]
macro_rules! entry_point {
    ($harness:path) => {
        #[cfg(fuzzing)]
        libfuzzer_sys::fuzz_target!(|data: &[u8]| $harness(data));

        #[cfg(not(fuzzing))]
        fn main() -> std::io::Result<()> {
            $crate::replay_arguments($harness)
        }
    };
}
