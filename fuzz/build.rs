//! Tells rustc that `cfg(fuzzing)`, which `cargo fuzz` sets, is a known name.

fn main() {
    #[allow(
        clippy::print_stdout,
        reason = "this is how a build script talks to cargo"
    )]
    {
        println!("cargo::rustc-check-cfg=cfg(fuzzing)");
        println!("cargo::rerun-if-changed=build.rs");
    }
}
