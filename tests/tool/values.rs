//! `kv`.

use crate::world::{World, ended};

#[tokio::test]
async fn keys_are_set_read_watched_and_deleted() -> anyhow::Result<()> {
    let world = World::with_node(&[]).await?;
    world
        .run("kv get config theme")
        .await
        .refused(1, "unibus kv add config");
    world
        .run("kv add config --history 5 --max-value-size 1K")
        .await
        .done();
    assert_eq!(
        world.run("kv put config theme dark").await.done().out,
        "theme is at revision 1\n"
    );
    let put = world
        .run_args(&["kv", "put", "config", "logo", "--json"], &[0xff, 0])
        .await;
    assert_eq!(put.json()["revision"], 2);
    assert_eq!(world.run("kv get config theme").await.done().out, "dark\n");
    assert_eq!(
        world.run("kv get config theme --raw").await.done().out,
        "dark"
    );
    let logo = world.run("kv get config logo --json").await.json();
    assert_eq!(logo["payload_base64"], "/wA=");

    world
        .run("kv create config theme x")
        .await
        .refused(1, "is there already");
    world
        .run("kv update config theme light 7")
        .await
        .refused(1, "not at revision 7");
    world.run("kv update config theme light 1").await.done();
    assert_eq!(
        world
            .run("kv get config theme --revision 1")
            .await
            .done()
            .out,
        "dark\n"
    );
    world
        .run("kv get config theme --revision 9")
        .await
        .refused(1, "no revision 9");
    world
        .run("kv get config none")
        .await
        .refused(1, "there is no key \"none\"");
    world
        .run("kv put config .bad x")
        .await
        .refused(2, "can't be a key");

    Ok(())
}

#[tokio::test]
async fn keys_have_a_history_and_are_listed_watched_and_deleted() -> anyhow::Result<()> {
    let world = World::with_node(&[]).await?;
    world.run("kv add config --history 5").await.done();
    world.run("kv put config theme dark").await.done();
    world
        .run_args(&["kv", "put", "config", "logo"], &[0xff, 0])
        .await
        .done();
    world.run("kv put config theme light").await.done();
    let history = world.run("kv history config theme --json").await.json();
    assert_eq!(history.as_array().unwrap().len(), 2);
    assert_eq!(history[1]["payload"], "light");
    assert_eq!(world.run("kv ls config").await.done().out, "logo\ntheme\n");
    let verbose = world.run("kv ls config --verbose").await.done().out;
    assert!(
        verbose.contains("light") && verbose.contains("no text"),
        "{verbose}"
    );

    let watch = world.listening("kv watch config --json --count 4").await?;
    // The present values come first; then what happens.
    world.run("kv del config theme").await.done();
    world.run("kv purge config logo").await.done();
    let seen = ended(watch).await.json_lines();
    let kinds: Vec<_> = seen
        .iter()
        .map(|entry| entry["operation"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["put", "put", "deleted", "purged"]);
    world
        .run("kv get config theme")
        .await
        .refused(1, "there is no key");
    assert_eq!(
        world.run("kv ls config --json").await.json(),
        serde_json::json!([])
    );
    Ok(())
}

#[tokio::test]
async fn buckets_are_listed_looked_at_and_deleted() -> anyhow::Result<()> {
    let world = World::with_node(&[]).await?;
    world.run("kv ls").await.done();
    world
        .run("kv add one --ttl 1h --description first")
        .await
        .done();
    world
        .run("kv add one --history 9")
        .await
        .refused(1, "can't make bucket");
    world
        .run("kv add a.b")
        .await
        .refused(2, "can't be the name of a bucket");
    let list = world.run("kv ls --json").await.json();
    assert_eq!(list[0]["bucket"], "one");
    assert!(world.run("kv ls").await.done().out.contains("1h"));
    let info = world.run("kv info one").await.done().out;
    assert!(info.contains("first") && info.contains("ttl"), "{info}");
    world.run("kv rm one").await.refused(2, "--force");
    world.run("kv rm one --force").await.done();
    world
        .run("kv info one")
        .await
        .refused(1, "stream not found");
    Ok(())
}

#[tokio::test]
async fn a_watch_prints_changes_until_it_has_enough() -> anyhow::Result<()> {
    let world = World::with_node(&[]).await?;
    world.run("kv add b --history 3").await.done();
    world.run("kv put b k 1").await.done();
    world.run("kv put b k 2").await.done();
    world.run("kv del b k").await.done();
    let present = world
        .run("kv watch b k --count 1 --json")
        .await
        .json_lines();
    assert_eq!(present[0]["operation"], "deleted");
    let all = world.run("kv watch b --history --count 3").await.done().out;
    let kinds: Vec<&str> = all
        .lines()
        .map(|line| line.split_whitespace().nth(2).unwrap())
        .collect();
    assert_eq!(kinds, ["put", "put", "deleted"], "{all}");
    Ok(())
}
