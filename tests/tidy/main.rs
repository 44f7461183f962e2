//! Keeps the house rules that no lint keeps: who may import what, how long a file may be, and that every
//! module says what it owns. Reads the source tree; starts nothing.

#![allow(
    clippy::expect_used,
    reason = "a test may fail where the tree is not as it expects"
)]

mod examples;
mod layers;
mod rooms;
mod tree;
