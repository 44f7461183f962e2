//! The control plane on real sockets and real processes: what it grants, and what it refuses to
//! those who attack it. Each attack is tried next to the same request as it is meant to be.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

/// Runs each function on one node and on three, under its own name; with flags, on nodes of its own.
macro_rules! on_one_and_three {
    ($($name:ident $(($($flag:expr),+))?),* $(,)?) => {
        mod one_node {
            $(
                #[tokio::test]
                async fn $name() -> anyhow::Result<()> {
                    let size = crate::world::Size::One;
                    let world = crate::world::World::get(size, &[$($($flag),+)?]).await?;
                    super::$name(&world).await
                }
            )*
        }

        mod three_nodes {
            $(
                #[tokio::test]
                async fn $name() -> anyhow::Result<()> {
                    let size = crate::world::Size::Three;
                    let world = crate::world::World::get(size, &[$($($flag),+)?]).await?;
                    super::$name(&world).await
                }
            )*
        }
    };
}

mod attacks;
mod blobs;
mod commands;
mod deliveries;
mod golden;
mod intrusions;
mod limits;
mod measured;
mod moving;
mod openapi;
mod pages;
mod people;
mod store;
mod tls;
mod world;

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// `UNIBUS_TEST_NODE` names another build of the node, such as a release build that is measured.
static BINARY: LazyLock<PathBuf> = LazyLock::new(|| {
    let other = std::env::var_os("UNIBUS_TEST_NODE").map(PathBuf::from);
    other.unwrap_or_else(|| env!("CARGO_BIN_EXE_unibus-node").into())
});

/// The binary under test.
fn binary() -> &'static Path {
    &BINARY
}
