//! `identity`, and logging in with one.

use crate::world::World;

#[tokio::test]
async fn an_identity_is_made_once_and_shown_without_its_secrets() {
    let world = World::alone();
    world
        .run("identity show")
        .await
        .refused(2, "unibus identity new");
    let made = world.run("identity new --json").await.json();
    let file = world.path(".config/unibus/identity.json");
    let text = std::fs::read_to_string(&file).unwrap();
    world
        .run("identity new")
        .await
        .refused(1, "is there already");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
    let shown = world.run("identity show").await.done().out;
    assert!(shown.contains(made["contact"].as_str().unwrap()), "{shown}");
    let kept: serde_json::Value = serde_json::from_str(&text).unwrap();
    for secret in ["seed", "kex_secret"] {
        assert!(!shown.contains(kept[secret].as_str().unwrap()), "{shown}");
    }
    std::fs::write(&file, "{").unwrap();
    world.run("identity show").await.refused(2, "corrupt");
}

#[tokio::test]
async fn an_identity_logs_in_once_an_admin_lets_it() -> anyhow::Result<()> {
    let world = World::enforced().await?;
    world.run("identity new other.json").await.done();
    world
        .run_as("other", "pub x y")
        .await
        .refused(1, "does not let identity");
    world
        .person("me", &["--role", "service", "--pub", "x"])
        .await?;
    world.run("pub x y --identity me.json").await.done();
    // What is not granted is refused after the fact, and told all the same.
    world
        .run("pub other y --identity me.json")
        .await
        .refused(1, "Permissions Violation for Publish to \"other\"");
    world
        .run("sub x --identity me.json")
        .await
        .refused(1, "Permissions Violation for Subscription to \"x\"");
    Ok(())
}
