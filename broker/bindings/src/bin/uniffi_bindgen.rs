//! Generates the bindings from the built library: `uniffi-bindgen generate --language kotlin …`. What
//! `ops/bindings/generate.sh` calls.

fn main() {
    uniffi::uniffi_bindgen_main();
}
