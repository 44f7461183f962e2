//! `bench`: that it does what it was told and counts it; how fast is not asked.

use anyhow::Context;

use crate::world::World;

#[tokio::test]
async fn every_mode_does_what_it_was_told_and_leaves_nothing() -> anyhow::Result<()> {
    let world = World::with_node(&[]).await?;
    let phases = async |line: &str| {
        let json = world.run(&format!("bench {line} --json")).await.json();
        let all = json.as_array().unwrap().clone();
        all.into_iter()
            .map(|phase| {
                assert!(phase["msgs_per_s"].as_f64().unwrap() > 0.0, "{phase}");
                let name = phase["phase"].as_str().unwrap().to_owned();
                (name, phase["messages"].as_u64().unwrap(), phase)
            })
            .collect::<Vec<_>>()
    };
    let run = phases("pub --msgs 2000 --clients 2 --subs 2").await;
    assert_eq!((run[0].0.as_str(), run[0].1), ("pub", 2000));
    assert_eq!((run[1].0.as_str(), run[1].1), ("delivery", 4000));
    assert!(run[1].2["latency_us"]["p99"].as_f64().unwrap() > 0.0);
    let run = phases("request --msgs 300 --clients 3").await;
    assert_eq!((run[0].0.as_str(), run[0].1), ("request", 300));
    let run = phases("kv --msgs 200 --clients 2").await;
    assert_eq!([run[0].1, run[1].1], [200, 200]);
    let run = phases("stream --msgs 500 --in-flight 64").await;
    assert_eq!([run[0].1, run[1].1], [500, 500]);
    let run = phases("pub --msgs 1000000000 --time 200ms").await;
    assert!(run[0].1 < 1_000_000_000);
    assert_eq!(
        world.run("stream ls --json").await.json(),
        serde_json::json!([])
    );

    let table = world.run("bench request --msgs 50").await.done().out;
    assert!(
        table.starts_with("PHASE") && table.contains("request"),
        "{table}"
    );
    world
        .run("bench request nobody.serves --responders 0 --msgs 1")
        .await
        .refused(1, "no answer from nobody.serves");
    Ok(())
}

#[tokio::test]
async fn a_receiver_counts_what_others_publish() -> anyhow::Result<()> {
    let world = World::with_node(&[]).await?;
    let receiver = world.listening("bench sub load --msgs 500 --json").await?;
    world.run("pub load x --count 500").await.done();
    let counted = crate::world::ended(receiver).await.json();
    assert_eq!(counted[0]["messages"], 500);
    Ok(())
}

#[tokio::test]
async fn rooms_are_written_read_and_rekeyed() -> anyhow::Result<()> {
    let world = World::enforced().await?;
    world.person("me", &[]).await?;
    let run = "bench room --msgs 500 --clients 2 --in-flight 64 --json";
    let run = world.run_as("me", run).await.json();
    let of = |run: &serde_json::Value, at: usize, name: &str| run[at][name].clone();
    assert_eq!(
        (of(&run, 0, "phase"), of(&run, 0, "messages")),
        ("publish".into(), 500.into())
    );
    assert_eq!(
        (of(&run, 1, "phase"), of(&run, 1, "messages")),
        ("read".into(), 500.into())
    );
    assert_eq!(of(&run, 1, "lost"), 0);
    let rooms = world.run_as("me", "room ls --json").await.json();
    let again = format!(
        "bench room {} --msgs 10 --json",
        rooms[0]["room"].as_str().unwrap()
    );
    assert_eq!(
        of(&world.run_as("me", &again).await.json(), 1, "messages"),
        10
    );

    // More than 4,096 with: UNIBUS_TEST_FULL=1 cargo test --workspace --test tool rekeyed
    let full = std::env::var_os("UNIBUS_TEST_FULL").is_some();
    let guests = if full { 4999 } else { 19 };
    let line = format!("bench rekey --members {} --rounds 3 --json", guests + 1);
    let words = format!("{line} --identity me.json --timeout 120s");
    let bench = world.start(&words.split(' ').collect::<Vec<_>>());
    let done = bench.wait_with_output().await?;
    let run = serde_json::from_slice(&done.stdout).with_context(|| format!("{done:?}"))?;
    assert_eq!(
        (of(&run, 0, "phase"), of(&run, 0, "messages")),
        ("invite".into(), guests.into())
    );
    assert_eq!(
        (of(&run, 1, "phase"), of(&run, 1, "messages")),
        ("rekey".into(), 3.into())
    );
    let rooms = world.run_as("me", "room ls --json").await.json();
    assert!(
        rooms
            .as_array()
            .unwrap()
            .iter()
            .any(|room| room["epoch"] == 4),
        "{rooms}"
    );
    Ok(())
}
