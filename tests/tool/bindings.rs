//! The generated Python binding against a real node, with a person at the shell on the other side.

use std::process::Stdio;

use anyhow::Context;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use unibus_testkit::PATIENCE;

use crate::world::World;

/// What an application in Python does; it lies beside this file.
const APPLICATION: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/tool/bindings.py");

/// Generates the sources of every language, and puts the library beside those of Python; answers with
/// that folder.
fn generate(world: &World) -> anyhow::Result<String> {
    let name = format!(
        "{}unibus_bindings{}",
        std::env::consts::DLL_PREFIX,
        std::env::consts::DLL_SUFFIX
    );
    // Cargo builds it for this test, beside it.
    let library = std::env::current_exe()?.with_file_name(&name);
    let source = library.to_str().context("a path in UTF-8")?;
    let folder = world.path("generated");
    uniffi::generate(uniffi::GenerateOptions {
        languages: vec![
            uniffi::TargetLanguage::Python,
            uniffi::TargetLanguage::Kotlin,
            uniffi::TargetLanguage::Swift,
        ],
        source: source.into(),
        out_dir: folder.as_str().into(),
        config_override: None,
        format: false,
        crate_filter: None,
        metadata_no_deps: true,
    })?;
    std::fs::copy(&library, std::path::Path::new(&folder).join(&name))?;
    Ok(folder)
}

#[tokio::test]
async fn an_application_in_python_meets_somebody_at_the_shell() -> anyhow::Result<()> {
    // The library is linked by name only; this keeps it a dependency that is built.
    let _linked = unibus_bindings::BusError::Closed {
        words: String::new(),
    };
    let world = World::enforced().await?;
    let folder = generate(&world)?;
    for file in ["unibus.py", "unibus.swift", "uniffi/unibus/unibus.kt"] {
        let path = std::path::Path::new(&folder).join(file);
        let text = std::fs::read_to_string(&path).with_context(|| file.to_owned())?;
        assert!(text.contains("Session"), "{file}");
    }
    let python = tokio::process::Command::new("python3")
        .arg("--version")
        .output()
        .await;
    if !python.is_ok_and(|python| python.status.success()) {
        eprintln!("skipped: python3 is not there, so the Python binding is not run");
        return Ok(());
    }
    world.person("ann", &[]).await?;
    let bob = world.person("bob", &[]).await?;
    let node = world.node.as_ref().context("a node")?;
    let mut application = tokio::process::Command::new("python3")
        .args([APPLICATION, &folder, &world.path("ann.json")])
        .args([format!("http://127.0.0.1:{}", node.http_port), node.url()])
        .arg(bob["contact"].as_str().context("contact")?)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut said = BufReader::new(application.stdout.take().context("stdout")?).lines();
    let talk = async {
        let line = said.next_line().await?.unwrap_or_default();
        if line.starts_with("invited ") {
            world.run_as("bob", "room join team.python").await.done();
            world
                .run_as("bob", "room pub team.python hello")
                .await
                .done();
        }
        anyhow::Ok((line, said.next_line().await?.unwrap_or_default()))
    };
    let (invited, end) = tokio::time::timeout(PATIENCE, talk).await??;
    let mut error = String::new();
    let mut told = application.stderr.take().context("stderr")?;
    tokio::time::timeout(PATIENCE, told.read_to_string(&mut error)).await??;
    assert!(
        invited.starts_with("invited ") && end == "done",
        "{invited:?} {end:?}\n{error}"
    );
    let history = world
        .run_as("bob", "room history team.python")
        .await
        .done()
        .out;
    assert!(history.contains("you said: hello"), "{history}");
    assert!(
        tokio::time::timeout(PATIENCE, application.wait())
            .await??
            .success()
    );
    Ok(())
}
