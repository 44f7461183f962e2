//! `stream` and `consumer`.

use serde_json::json;

use crate::world::World;

/// A node with the stream ORDERS and three messages in it.
async fn orders() -> anyhow::Result<World> {
    let world = World::with_node(&[]).await?;
    let added = world
        .run("stream add ORDERS --subjects orders.>,returns --max-age 1h")
        .await
        .done();
    assert_eq!(
        added.out,
        "made stream ORDERS, which keeps orders.>, returns\n"
    );
    for (subject, text) in [("orders.a", "1"), ("orders.b", "2"), ("orders.a", "3")] {
        let stored = world
            .run(&format!("pub {subject} {text} --jetstream"))
            .await
            .done()
            .out;
        assert!(stored.starts_with("stored in ORDERS as "), "{stored}");
    }
    Ok(world)
}

#[tokio::test]
async fn stored_messages_are_read() -> anyhow::Result<()> {
    let world = orders().await?;
    world
        .run("pub elsewhere x --jetstream")
        .await
        .refused(1, "no stream keeps \"elsewhere\"");

    let get = world.run("stream get ORDERS 2 --json").await.json();
    assert_eq!(
        (&get["subject"], &get["payload"]),
        (&json!("orders.b"), &json!("2"))
    );
    assert_eq!(
        world
            .run("stream get ORDERS --last-for orders.a --raw")
            .await
            .done()
            .out,
        "3\n"
    );
    world
        .run("stream get ORDERS 9")
        .await
        .refused(1, "no message 9");
    let view = world.run("stream view ORDERS --raw").await.done().out;
    assert_eq!(view, "1\n2\n3\n");
    assert_eq!(
        world
            .run("stream view ORDERS --raw --last 1")
            .await
            .done()
            .out,
        "3\n"
    );
    let filtered = world
        .run("stream view ORDERS --raw --subject orders.a --from 2")
        .await;
    assert_eq!(filtered.done().out, "3\n");

    Ok(())
}

#[tokio::test]
async fn streams_are_looked_at_and_changed() -> anyhow::Result<()> {
    let world = orders().await?;
    let info = world.run("stream info ORDERS --subjects").await.done().out;
    assert!(
        info.contains("max age") && info.contains("orders.a  2"),
        "{info}"
    );
    world
        .run("stream edit ORDERS")
        .await
        .refused(2, "nothing would change");
    world
        .run("stream edit ORDERS --max-msgs 2 --description two")
        .await
        .done();
    let info = world.run("stream info ORDERS --json").await.json();
    assert_eq!(
        (&info["state"]["messages"], &info["config"]["max_age"]),
        (&json!(2), &json!(3_600_000_000_000u64))
    );

    std::fs::write(world.path("orders.json"), info.to_string())?;
    world
        .run("stream add COPY --config orders.json --subjects copy")
        .await
        .done();
    assert_eq!(
        world.run("stream ls --names").await.done().out,
        "COPY\nORDERS\n"
    );
    assert_eq!(
        world.run("stream ls --json").await.json()[0]["config"]["max_msgs"],
        2
    );
    assert!(
        world
            .run("stream ls")
            .await
            .done()
            .out
            .contains("orders.>, returns")
    );

    Ok(())
}

#[tokio::test]
async fn streams_are_purged_and_deleted() -> anyhow::Result<()> {
    let world = orders().await?;
    world.run("stream edit ORDERS --max-msgs 2").await.done();
    let purged = world
        .run("stream purge ORDERS --keep 1 --force --json")
        .await
        .json();
    assert_eq!(purged["purged"], 1);
    world.run("stream rm ORDERS").await.refused(2, "--force");
    world.run("stream rm ORDERS --force").await.done();
    world
        .run("stream info ORDERS")
        .await
        .refused(1, "stream not found");
    world
        .run("stream info a.b")
        .await
        .refused(2, "can't be the name of a stream");
    Ok(())
}

#[tokio::test]
async fn consumers_deliver_what_they_were_told() -> anyhow::Result<()> {
    let world = World::with_node(&[]).await?;
    world.run("stream add S --subjects s.*").await.done();
    for n in 1..=4 {
        world.run(&format!("pub s.{n} {n} -J -q")).await.done();
    }
    world
        .run("consumer add S c --filter s.1,s.2,s.3 --ack-wait 1m")
        .await
        .done();
    world
        .run("consumer add S late --deliver 4 --ephemeral")
        .await
        .done();
    world
        .run("consumer add S x --deliver soon")
        .await
        .refused(2, "--deliver \"soon\"");
    world
        .run("consumer add NONE x")
        .await
        .refused(1, "stream not found");

    let first = world.run("consumer next S c --json").await.json_lines();
    assert_eq!(
        (&first[0]["payload"], &first[0]["pending"]),
        (&json!("1"), &json!(2))
    );
    let rest = world
        .run("consumer next S c --count 5 --raw --no-ack --timeout 500ms")
        .await;
    assert_eq!(rest.done().out, "2\n3\n");
    let info = world.run("consumer info S c --json").await.json();
    assert_eq!(
        (&info["num_ack_pending"], &info["ack_floor"]["stream_seq"]),
        (&json!(2), &json!(1))
    );
    world
        .run("consumer next S c --timeout 200ms")
        .await
        .refused(1, "no message for c of S within 200ms");
    assert_eq!(
        world.run("consumer next S late --raw").await.done().out,
        "4\n"
    );

    Ok(())
}

#[tokio::test]
async fn consumers_are_listed_paused_and_deleted() -> anyhow::Result<()> {
    let world = World::with_node(&[]).await?;
    world.run("stream add S --subjects s.*").await.done();
    world
        .run("consumer add S c --filter s.1,s.2,s.3")
        .await
        .done();
    world.run("consumer add S late --ephemeral").await.done();
    let list = world.run("consumer ls S").await.done().out;
    assert!(
        list.contains("s.1, s.2, s.3") && list.contains("late"),
        "{list}"
    );
    assert_eq!(
        world.run("consumer ls S --names").await.done().out,
        "c\nlate\n"
    );
    world
        .run("consumer pause S c tomorrow")
        .await
        .refused(2, "is no time");
    let paused = world.run("consumer pause S c 1h").await.done().out;
    assert!(paused.starts_with("c delivers nothing until "), "{paused}");
    assert!(
        world
            .run("consumer ls S")
            .await
            .done()
            .out
            .contains("paused")
    );
    assert_eq!(
        world.run("consumer resume S c").await.done().out,
        "c delivers\n"
    );
    world.run("consumer rm S c --force").await.done();
    world
        .run("consumer info S c")
        .await
        .refused(1, "consumer not found");
    Ok(())
}
