//! The first thing that somebody types: what a node says at its start, and that it works.

use anyhow::Context;

use crate::world::{UNIBUS, World};

#[tokio::test]
async fn what_a_node_says_to_type_next_works_as_it_stands() -> anyhow::Result<()> {
    let world = World::with_node(&[]).await?;
    let node = world.node.as_ref().context("a node")?;
    let log = node.log_text();
    let said = log
        .lines()
        .find_map(|line| line.strip_prefix("  next "))
        .with_context(|| log.clone())?;
    let (command, _) = said.trim().split_once("   ").context("one command")?;
    assert!(command.starts_with(UNIBUS), "{said}");
    // As a shell takes it, and until one message has come.
    let script = format!("{command} --count 1");
    let mut shell = tokio::process::Command::new("/bin/sh");
    shell
        .args(["-c", &script])
        .env_clear()
        .envs(world.environment());
    shell.stdout(std::process::Stdio::piped());
    let mut listening = shell.stderr(std::process::Stdio::piped()).spawn()?;
    let said = world.said(&mut listening).await?;
    anyhow::ensure!(said.starts_with("listening"), "{said}");
    // Somebody who hears everything is in nobody's way.
    world.run("pub greetings.you hello").await.done();
    let heard = crate::world::ended(listening).await;
    assert_eq!(heard.done().out, "[#1] greetings.you\nhello\n\n");
    Ok(())
}
