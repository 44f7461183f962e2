//! One run: a fresh cluster, clients that work, faults from a seed, then quiet, and judgement.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context;
use parking_lot::Mutex;
use tokio::task::JoinSet;
use unibus_testkit::eventually;

use crate::faults::{Nemesis, heal};
use crate::history::{Notes, Recorder};
use crate::lab::{Lab, PATIENCE, Site};
use crate::work::{Ctx, consume, log, nonces, register, rooms};

/// What is run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The node's binary.
    pub binary: PathBuf,
    /// The binary of an older version, with which the nodes begin: one after the other is moved to `binary`
    /// between the faults.
    pub previous: Option<PathBuf>,
    /// Nodes of the cluster.
    pub nodes: usize,
    /// Everything that is decided by chance follows from it (but not the cluster's own timing).
    pub seed: u64,
    /// How long faults are made.
    pub faults_for: Duration,
    /// Kinds of faults, by name; empty: all.
    pub kinds: Vec<String>,
    /// Where a failed run leaves the nodes' logs and disks' contents; `None`: nowhere.
    pub keep: Option<PathBuf>,
}

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// Nodes.
    pub nodes: usize,
    /// What did not hold; empty: everything did.
    pub findings: Vec<String>,
    /// Faults by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Operations by kind: done, refused, unknown.
    pub operations: BTreeMap<&'static str, [u64; 3]>,
    /// Messages acknowledged and found again at every node.
    pub acknowledged: u64,
    /// Keys whose history was too long to judge in time.
    pub unjudged: usize,
    /// Frames that were lost on the network.
    pub frames_lost: u64,
    pub(crate) notes: Notes,
}

/// Runs it in a thread of its own, which enters the clients' network namespace.
///
/// # Errors
/// When the cluster could not be made or did not come back; findings are no errors.
pub fn run(plan: &Plan) -> anyhow::Result<Outcome> {
    let plan = plan.clone();
    in_lab(
        plan.nodes,
        move |site| async move { whole(&plan, site).await },
    )
}

/// Runs something in a fresh site.
pub(crate) fn in_lab<T, F, Fut>(nodes: usize, work: F) -> anyhow::Result<T>
where
    T: Send + 'static,
    F: FnOnce(Site) -> Fut + Send + 'static,
    Fut: Future<Output = anyhow::Result<T>>,
{
    let thread = std::thread::spawn(move || {
        let site = Site::enter(nodes)?;
        // Its threads are started by this one, and so are where this one is.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        runtime.block_on(work(site))
    });
    let joined = thread.join();
    joined.map_err(|_| anyhow::anyhow!("the run panicked"))?
}

struct Shared {
    written: Arc<Mutex<log::Written>>,
    histories: Arc<Mutex<register::Histories>>,
    read: Arc<Mutex<consume::Read>>,
    nonces: Arc<nonces::Seen>,
}

async fn whole(plan: &Plan, site: Site) -> anyhow::Result<Outcome> {
    let first = plan.previous.as_ref().unwrap_or(&plan.binary);
    let mut lab = Lab::start(first, site, plan.seed).await?;
    let recorder = Recorder::new();
    let ctx = Ctx::new(recorder.clone());
    make(&lab).await?;
    let shared = Shared {
        written: Arc::default(),
        histories: Arc::default(),
        read: Arc::default(),
        nonces: Arc::default(),
    };
    let mut clients = start_clients(&lab, &ctx, &shared, plan.seed).await?;
    let watch = tokio::spawn(watch_leader(ctx.clone(), lab.addresses()));

    let kinds = crate::faults::kinds(&plan.kinds)?;
    let newest = plan.binary.clone();
    let mut nemesis = Nemesis::new(plan.seed, kinds, newest, recorder.clone());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let until = tokio::time::Instant::now() + plan.faults_for;
    while tokio::time::Instant::now() < until {
        nemesis.strike(&mut lab).await?;
    }
    heal(&mut lab)?;
    let mut recovered = lab.ready().await;
    if recovered.is_ok() {
        nemesis.upgrade_all(&mut lab).await?;
        recovered = lab.ready().await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    ctx.stop();
    while clients.join_next().await.is_some() {}
    watch.abort();
    let mut unjudged = 0;
    match recovered {
        Ok(()) => unjudged = judge(&lab, &ctx, &shared, plan.seed).await?,
        Err(error) => recorder.finding(format!("the cluster did not come back: {error:#}")),
    }
    look_at_logs(&lab, &recorder);
    let notes = recorder.finish();
    let outcome = Outcome {
        seed: plan.seed,
        nodes: plan.nodes,
        findings: notes.findings.clone(),
        faults: nemesis.done,
        operations: notes.counts(),
        acknowledged: shared.written.lock().acknowledged(),
        unjudged,
        frames_lost: lab.switch.dropped.load(Ordering::Relaxed),
        notes,
    };
    if let (Some(keep), false) = (&plan.keep, outcome.findings.is_empty()) {
        keep_evidence(&lab, &keep.join(format!("seed-{}", plan.seed)))?;
    }
    lab.switch.stop();
    Ok(outcome)
}

async fn make(lab: &Lab) -> anyhow::Result<()> {
    let client = lab.client(0).await?;
    let replicas = lab.hosts.len().min(5);
    let made = || async {
        log::make(&client, replicas).await?;
        register::make(&client, replicas).await?;
        consume::make(&client).await
    };
    eventually("streams", PATIENCE, made).await
}

async fn start_clients(
    lab: &Lab,
    ctx: &Ctx,
    shared: &Shared,
    seed: u64,
) -> anyhow::Result<JoinSet<()>> {
    let mut clients = JoinSet::new();
    for node in 0..lab.hosts.len() {
        let client = lab.client(node).await?;
        let of_node = seed.wrapping_mul(31).wrapping_add(node as u64);
        clients.spawn(log::write(
            ctx.clone(),
            client.clone(),
            node,
            Arc::clone(&shared.written),
        ));
        clients.spawn(register::work(
            ctx.clone(),
            lab.client(node).await?,
            (node, of_node),
            Arc::clone(&shared.histories),
        ));
        clients.spawn(consume::work(
            ctx.clone(),
            lab.client(node).await?,
            of_node,
            Arc::clone(&shared.read),
            false,
        ));
        clients.spawn(consume::watch_floor(
            ctx.clone(),
            client,
            Arc::clone(&shared.read),
        ));
    }
    let addresses = lab.addresses();
    let (admin, seen) = (lab.admin, Arc::clone(&shared.nonces));
    clients.spawn(nonces::work(ctx.clone(), addresses.clone(), admin, seen));
    clients.spawn(rooms::work(ctx.clone(), addresses, admin));
    Ok(clients)
}

/// Notes who leads.
async fn watch_leader(ctx: Ctx, nodes: Vec<String>) {
    loop {
        let mut leader = None;
        for ip in &nodes {
            let asked = crate::http::get(ip, crate::host::HTTP_PORT, "/healthz");
            let answer = tokio::time::timeout(Duration::from_millis(300), asked).await;
            let Ok(Ok(answer)) = answer else { continue };
            let json = answer.json();
            if answer.status == 200 && json["role"] == "leader" {
                let name = json["server_name"].as_str().unwrap_or_default();
                leader = name.strip_prefix('n').and_then(|place| place.parse().ok());
            }
        }
        ctx.recorder.leader(leader);
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
}

async fn judge(lab: &Lab, ctx: &Ctx, shared: &Shared, seed: u64) -> anyhow::Result<usize> {
    let mut last = 0;
    for (node, host) in lab.hosts.iter().enumerate() {
        let client = lab.client(node).await?;
        let read = || async { log::read(&client).await };
        let stored = eventually("the whole log", PATIENCE, read)
            .await
            .with_context(|| host.name.clone())?;
        last = stored.keys().last().copied().unwrap_or(0);
        for finding in log::judge(&host.name, &stored, &shared.written.lock()) {
            ctx.recorder.finding(finding);
        }
    }
    let mut drains = JoinSet::new();
    for node in 0..lab.hosts.len() {
        let read = Arc::clone(&shared.read);
        let (ctx, client) = (ctx.clone(), lab.client(node).await?);
        drains.spawn(async move { consume::work(ctx, client, seed, read, true).await });
    }
    let drained = async { while drains.join_next().await.is_some() {} };
    if tokio::time::timeout(PATIENCE, drained).await.is_err() {
        ctx.recorder
            .finding("draining the consumer does not end".into());
    }
    let client = lab.client(0).await?;
    consume::judge(ctx, &client, &shared.read, last).await?;
    let (findings, unjudged) = register::judge(&shared.histories.lock());
    for finding in findings {
        ctx.recorder.finding(finding);
    }
    Ok(unjudged)
}

/// A node never panics, whatever is done to it.
fn look_at_logs(lab: &Lab, recorder: &Recorder) {
    for host in &lab.hosts {
        let text = host.log_text();
        let panicked = text.lines().find(|line| line.contains("panicked at"));
        if let Some(line) = panicked {
            recorder.finding(format!("{} panicked: {line}", host.name));
        }
    }
}

/// Copies logs and data, so that a finding can be looked into.
fn keep_evidence(lab: &Lab, folder: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder)?;
    for host in &lab.hosts {
        std::fs::write(folder.join(format!("{}.log", host.name)), host.log_text())?;
        let (from, to) = (
            host.data_dir().display().to_string(),
            folder
                .join(format!("{}.data", host.name))
                .display()
                .to_string(),
        );
        crate::disk::run("cp", &["-r", "--sparse=always", &from, &to])?;
    }
    Ok(())
}
