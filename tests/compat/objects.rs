//! Object stores, as async-nats uses them.

use anyhow::Context;
use async_nats::jetstream::{self, object_store};
use tokio::io::AsyncReadExt;

/// Bytes of the object: several windows of flow control.
const SIZE: usize = 6 * 1024 * 1024;

#[tokio::test]
async fn an_object_comes_back_as_it_was_put() -> anyhow::Result<()> {
    let (node, _dir) = crate::node().await?;
    let context = jetstream::new(crate::client(&node).await?);
    let config = object_store::Config {
        bucket: "files".into(),
        ..Default::default()
    };
    let store = context.create_object_store(config).await?;
    let data: Vec<u8> = (0..SIZE).map(|at| (at / 7 % 251) as u8).collect();
    store.put("big", &mut &data[..]).await?;
    let mut read = Vec::new();
    store.get("big").await?.read_to_end(&mut read).await?;
    assert!(read == data, "{} of {SIZE} bytes came back", read.len());
    store.delete("big").await?;
    assert!(store.get("big").await.is_err());
    store.put("small", &mut &b"x"[..]).await?;
    let info = store.info("small").await?;
    assert_eq!(info.size, 1);
    info.digest.context("no digest")?;
    Ok(())
}
