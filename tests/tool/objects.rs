//! `object`.

use crate::world::World;

#[tokio::test]
async fn files_go_in_and_come_out_as_they_were() -> anyhow::Result<()> {
    let world = World::with_node(&[]).await?;
    world
        .run("object ls builds")
        .await
        .refused(1, "unibus object add builds");
    world.run("object add builds").await.done();
    let bytes: Vec<u8> = (0..1_000_000u32).map(|i| (i * 7 % 251) as u8).collect();
    std::fs::write(world.path("app.bin"), &bytes)?;
    let put = world
        .run("object put builds app.bin --description release --json")
        .await
        .json();
    assert_eq!(
        (&put["name"], &put["size"]),
        (&"app.bin".into(), &1_000_000.into())
    );

    world
        .run("object get builds app.bin")
        .await
        .refused(1, "is there already");
    world
        .run("object get builds app.bin --output out/copy.bin")
        .await
        .done();
    assert_eq!(std::fs::read(world.path("out/copy.bin"))?, bytes);
    world
        .run("object get builds none --output x")
        .await
        .refused(1, "no object \"none\"");
    let parts = std::fs::read_dir(world.dir.path())?.filter(|entry| {
        let name = entry.as_ref().unwrap().file_name();
        name.to_string_lossy().ends_with(".part")
    });
    assert_eq!(parts.count(), 0);

    world
        .run_args(
            &["object", "put", "builds", "-", "--name", "dir/note"],
            b"hello",
        )
        .await
        .done();
    let note = world
        .run("object get builds dir/note --output -")
        .await
        .done();
    assert_eq!(note.out, "hello");
    world
        .run("object put builds - --json")
        .await
        .refused(2, "--name");
    world
        .run("object put builds missing")
        .await
        .refused(2, "missing");

    Ok(())
}

#[tokio::test]
async fn links_stand_for_objects_and_objects_go() -> anyhow::Result<()> {
    let world = World::with_node(&[]).await?;
    world.run("object add builds").await.done();
    let bytes = vec![7; 1_000_000];
    std::fs::write(world.path("app.bin"), &bytes)?;
    world
        .run("object put builds app.bin --description release")
        .await
        .done();
    world
        .run_args(
            &["object", "put", "builds", "-", "--name", "dir/note"],
            b"x",
        )
        .await
        .done();
    world
        .run("object link builds latest --to app.bin")
        .await
        .done();
    let list = world.run("object ls builds").await.done().out;
    assert!(
        list.contains("→ builds/app.bin") && list.contains("release"),
        "{list}"
    );
    world
        .run("object get builds latest --output again.bin")
        .await
        .done();
    assert_eq!(std::fs::read(world.path("again.bin"))?, bytes);

    world.run("object rm builds dir/note").await.done();
    world
        .run("object info builds dir/note")
        .await
        .refused(1, "note");
    let info = world.run("object info builds app.bin").await.done().out;
    assert!(
        info.contains("SHA-256=") && info.contains("976.6 KiB"),
        "{info}"
    );
    let watch = world
        .run("object watch builds --count 2 --json")
        .await
        .json_lines();
    assert!(
        watch
            .iter()
            .all(|change| change["object"]["bucket"] == "builds")
    );
    Ok(())
}

#[tokio::test]
async fn a_sealed_bucket_takes_nothing_more() -> anyhow::Result<()> {
    let world = World::with_node(&[]).await?;
    world.run("object add b").await.done();
    world
        .run_args(&["object", "put", "b", "-", "--name", "x"], b"1")
        .await
        .done();
    world.run("object seal b").await.refused(2, "--force");
    world.run("object seal b --force").await.done();
    let put = world
        .run_args(&["object", "put", "b", "-", "--name", "y"], b"2")
        .await;
    put.refused(1, "sealed");
    assert_eq!(
        world.run("object ls --json").await.json()[0]["sealed"],
        true
    );
    world.run("object rm b --force").await.done();
    world
        .run("object info b")
        .await
        .refused(1, "stream not found");
    Ok(())
}
