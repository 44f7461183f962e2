//! What is done to a cluster, in an order that follows from a seed: one fault at a time, sometimes two,
//! each for a while, then a pause in which the cluster may recover.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use crate::history::{FaultSpan, Recorder};
use crate::host::{Host, faketime};
use crate::lab::Lab;
use crate::stores;
use crate::switch::Link;

/// How long a planned stop, and the start after it, may take.
const STOP_PATIENCE: Duration = Duration::from_secs(30);
const START_PATIENCE: Duration = Duration::from_secs(60);

/// What a node's move to the newest version is called in reports.
const UPGRADE: &str = "upgrade";

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// kill -9 of one node, or of all.
    Kill,
    /// SIGSTOP, and SIGCONT later.
    Pause,
    /// A node, or a minority, hears nobody and is heard by nobody.
    Partition,
    /// One direction only.
    OneWay,
    /// Two halves that only one node can reach both of.
    Bridge,
    /// Delay, jitter and loss between all.
    Slow,
    /// A node's clock jumps.
    Clock,
    /// A node's disk stands still.
    DiskStall,
    /// A node's disk is full.
    DiskFull,
    /// A node, or all of them at once, loses power: what was not synced is gone.
    Power,
    /// One node after the other is stopped and started.
    Rolling,
    /// A file of a node that was killed is damaged before it starts again.
    Damage,
    /// A node that was killed comes back without its store.
    DiskLost,
    /// A node is removed from the cluster, works on for a while, and joins again with an empty store.
    Membership,
}

/// Every kind, with the word that names it on the command line.
pub(crate) const KINDS: [(Kind, &str); 14] = [
    (Kind::Kill, "kill"),
    (Kind::Pause, "pause"),
    (Kind::Partition, "partition"),
    (Kind::OneWay, "one-way"),
    (Kind::Bridge, "bridge"),
    (Kind::Slow, "slow-network"),
    (Kind::Clock, "clock"),
    (Kind::DiskStall, "disk-stall"),
    (Kind::DiskFull, "disk-full"),
    (Kind::Power, "power"),
    (Kind::Rolling, "rolling-restart"),
    (Kind::Damage, "damage"),
    (Kind::DiskLost, "disk-lost"),
    (Kind::Membership, "membership"),
];

/// The kinds of these names, all where there are none.
///
/// # Errors
/// For a name that is none.
pub(crate) fn kinds(names: &[String]) -> anyhow::Result<Vec<Kind>> {
    if names.is_empty() {
        return Ok(KINDS.iter().map(|(kind, _)| *kind).collect());
    }
    let one = |name: &String| {
        let found = KINDS.iter().find(|(_, word)| word == name);
        found.map(|(kind, _)| *kind).ok_or_else(|| {
            let known: Vec<_> = KINDS.iter().map(|(_, word)| *word).collect();
            anyhow::anyhow!(
                "no fault is called {name:?}: there are {}",
                known.join(", ")
            )
        })
    };
    names.iter().map(one).collect()
}

/// Does it.
pub(crate) struct Nemesis {
    rng: SmallRng,
    kinds: Vec<Kind>,
    recorder: Recorder,
    /// The version that nodes of an older one are moved to, in between.
    newest: PathBuf,
    /// Faults of each kind that were done.
    pub(crate) done: BTreeMap<&'static str, u64>,
}

impl Nemesis {
    pub(crate) fn new(seed: u64, kinds: Vec<Kind>, newest: PathBuf, recorder: Recorder) -> Self {
        let able = |kind: &Kind| *kind != Kind::Clock || faketime().is_some();
        Self {
            rng: SmallRng::seed_from_u64(seed),
            kinds: kinds.into_iter().filter(able).collect(),
            recorder,
            newest,
            done: BTreeMap::new(),
        }
    }

    /// One fault from its beginning to its end.
    ///
    /// # Errors
    /// When it could not be done or undone.
    pub(crate) async fn strike(&mut self, lab: &mut Lab) -> anyhow::Result<()> {
        if self.rng.random_range(0..2) == 0 {
            self.upgrade_one(lab).await?;
        }
        let kind = self.kinds[self.rng.random_range(0..self.kinds.len())];
        let nodes = self.victims(kind, lab).await;
        let (started, name) = (self.recorder.now(), word(kind));
        *self.done.entry(name).or_default() += 1;
        // A disk that stands still is to be noticed: longer than a node may go by what it knows.
        let hold = if kind == Kind::DiskStall {
            self.rng.random_range(2000..9000)
        } else {
            self.rng.random_range(700..4500)
        };
        let hold = Duration::from_millis(hold);
        let detail = self.begin(kind, &nodes, lab).await?;
        tokio::time::sleep(hold).await;
        end(kind, &nodes, lab)?;
        self.recorder.fault(FaultSpan {
            kind: name,
            nodes,
            started,
            ended: self.recorder.now(),
            detail,
        });
        let quiet = Duration::from_millis(self.rng.random_range(300..2500));
        tokio::time::sleep(quiet).await;
        Ok(())
    }

    /// Whom it meets: half the time the leader is among them.
    async fn victims(&mut self, kind: Kind, lab: &Lab) -> Vec<usize> {
        let all: Vec<usize> = (0..lab.hosts.len()).collect();
        let everybody = match kind {
            Kind::Slow | Kind::Rolling | Kind::Bridge => true,
            Kind::Kill | Kind::Power => self.rng.random_range(0..5) == 0,
            _ => false,
        };
        let mut nodes = all.clone();
        nodes.shuffle(&mut self.rng);
        if everybody {
            return nodes;
        }
        if self.rng.random_range(0..2) == 0
            && let Some(leader) = lab.leader().await
        {
            nodes.retain(|node| *node != leader);
            nodes.insert(0, leader);
        }
        let most = match kind {
            // A store that is lost or damaged is gone for good: it is one at a time, for its peers have
            // to bring it back before the next.
            Kind::Damage | Kind::DiskLost | Kind::Membership => 1,
            _ => (all.len() - 1) / 2,
        };
        nodes.truncate(self.rng.random_range(1..=most));
        nodes
    }

    /// Does it; answers with what there is to say about it.
    async fn begin(
        &mut self,
        kind: Kind,
        nodes: &[usize],
        lab: &mut Lab,
    ) -> anyhow::Result<String> {
        match kind {
            Kind::Partition | Kind::OneWay | Kind::Bridge | Kind::Slow => {
                return Ok(self.change_links(kind, nodes, lab));
            }
            Kind::Clock => return self.jump_clocks(nodes, lab),
            Kind::Rolling => {
                for node in nodes {
                    self.restart(&mut lab.hosts[*node]).await?;
                }
            }
            Kind::Damage | Kind::DiskLost | Kind::Membership => {
                return self.lose_store(kind, nodes[0], lab).await;
            }
            _ => {
                for node in nodes {
                    let host = &mut lab.hosts[*node];
                    match kind {
                        Kind::Kill => host.kill(),
                        Kind::Power => host.lose_power()?,
                        Kind::Pause => host.signal(Signal::SIGSTOP)?,
                        Kind::DiskStall => host.disk.freeze()?,
                        _ => host.disk.fill()?,
                    }
                }
            }
        }
        Ok(String::new())
    }

    fn change_links(&mut self, kind: Kind, nodes: &[usize], lab: &Lab) -> String {
        let apart = |a: &usize, b: &usize| nodes.contains(a) != nodes.contains(b);
        match kind {
            Kind::Partition => {
                for_pairs(lab, |a, b| apart(&a, &b).then(cut));
                String::new()
            }
            Kind::OneWay => {
                let outwards = self.rng.random_range(0..2) == 0;
                for_pairs(lab, |from, to| {
                    (apart(&from, &to) && nodes.contains(&from) == outwards).then(cut)
                });
                if outwards {
                    "nothing out"
                } else {
                    "nothing in"
                }
                .to_owned()
            }
            Kind::Bridge => {
                let (bridge, rest) = nodes.split_at(1);
                let half = &rest[..rest.len() / 2];
                for_pairs(lab, |a, b| {
                    let halves = half.contains(&a) != half.contains(&b);
                    (halves && a != bridge[0] && b != bridge[0]).then(cut)
                });
                format!("n{} reaches both halves", bridge[0])
            }
            _ => {
                let link = Link {
                    cut: false,
                    delay_ms: self.rng.random_range(1..60),
                    jitter_ms: self.rng.random_range(0..40),
                    loss_permille: self.rng.random_range(0..80),
                };
                for_pairs(lab, |_, _| Some(link));
                format!(
                    "{} ms + {} ms, {} of 1000 lost",
                    link.delay_ms, link.jitter_ms, link.loss_permille
                )
            }
        }
    }

    fn jump_clocks(&mut self, nodes: &[usize], lab: &Lab) -> anyhow::Result<String> {
        let steps = [-3600, -20, -5, 5, 20, 3600];
        let seconds = steps[self.rng.random_range(0..steps.len())];
        for node in nodes {
            lab.hosts[*node].set_clock(seconds)?;
        }
        Ok(format!("{seconds:+} s"))
    }

    /// Takes a node's store away, or some of it, and waits until the node votes again.
    async fn lose_store(
        &mut self,
        kind: Kind,
        node: usize,
        lab: &mut Lab,
    ) -> anyhow::Result<String> {
        let name = lab.hosts[node].name.clone();
        let peer = (node + 1) % lab.hosts.len();
        let mut detail = String::new();
        if kind == Kind::Membership {
            self.operate(lab, peer, &["cluster", "remove", &name]).await;
            let outside = self.rng.random_range(500..5000);
            tokio::time::sleep(Duration::from_millis(outside)).await;
        }
        let host = &mut lab.hosts[node];
        host.kill();
        if kind == Kind::Damage {
            detail = stores::damage(&host.data_dir(), &mut self.rng)?;
        } else {
            stores::lose(&host.data_dir())?;
        }
        self.come_back(host).await?;
        self.operate(lab, peer, &["cluster", "add", &name]).await;
        Ok(detail)
    }

    /// An operator's command at a node; one that does not come to work is a finding.
    async fn operate(&self, lab: &Lab, node: usize, command: &[&str]) {
        let asked = || async { lab.operate(node, command) };
        let worked = unibus_testkit::eventually("the command", START_PATIENCE, asked).await;
        if let Err(error) = worked {
            self.recorder.finding(format!("{command:?}: {error:#}"));
        }
    }

    /// Moves one node to the newest version, if there is one of another.
    async fn upgrade_one(&mut self, lab: &mut Lab) -> anyhow::Result<bool> {
        let is_older = |host: &Host| host.binary != self.newest;
        let Some(node) = lab.hosts.iter().position(is_older) else {
            return Ok(false);
        };
        let started = self.recorder.now();
        lab.hosts[node].binary.clone_from(&self.newest);
        self.restart(&mut lab.hosts[node]).await?;
        *self.done.entry(UPGRADE).or_default() += 1;
        self.recorder.fault(FaultSpan {
            kind: UPGRADE,
            nodes: vec![node],
            started,
            ended: self.recorder.now(),
            detail: String::new(),
        });
        Ok(true)
    }

    /// Moves all that are left.
    ///
    /// # Errors
    /// When a process can't be started.
    pub(crate) async fn upgrade_all(&mut self, lab: &mut Lab) -> anyhow::Result<()> {
        while self.upgrade_one(lab).await? {}
        Ok(())
    }

    /// A planned restart; one that does not work is a finding.
    async fn restart(&self, host: &mut Host) -> anyhow::Result<()> {
        if let Err(error) = host.stop(STOP_PATIENCE).await {
            self.recorder.finding(format!("{error:#}"));
        }
        self.come_back(host).await
    }

    /// Starts a node and waits until it is well.
    async fn come_back(&self, host: &mut Host) -> anyhow::Result<()> {
        host.start()?;
        let ready = || async {
            match host.health().await? {
                (200, _) => Ok(()),
                (status, _) => anyhow::bail!("{status}"),
            }
        };
        let ready = unibus_testkit::eventually("healthy", START_PATIENCE, ready).await;
        if let Err(error) = ready {
            let (name, tail) = (&host.name, host.log_tail(4));
            self.recorder
                .finding(format!("{name} after a restart: {error:#}\n{tail}"));
        }
        Ok(())
    }
}

/// Undoes a fault.
fn end(kind: Kind, nodes: &[usize], lab: &mut Lab) -> anyhow::Result<()> {
    match kind {
        Kind::Kill | Kind::Power => {
            for node in nodes {
                lab.hosts[*node].start()?;
            }
        }
        Kind::Pause => {
            for node in nodes {
                lab.hosts[*node].signal(Signal::SIGCONT)?;
            }
        }
        Kind::Partition | Kind::OneWay | Kind::Bridge | Kind::Slow => {
            for_pairs(lab, |_, _| Some(Link::default()));
        }
        Kind::Clock => {
            for node in nodes {
                lab.hosts[*node].set_clock(0)?;
            }
        }
        Kind::DiskStall => {
            for node in nodes {
                lab.hosts[*node].disk.thaw()?;
            }
        }
        Kind::DiskFull => {
            for node in nodes {
                lab.hosts[*node].disk.clear()?;
                // A node whose disk was full may have given up.
                lab.hosts[*node].start()?;
            }
        }
        Kind::Rolling | Kind::Damage | Kind::DiskLost | Kind::Membership => {}
    }
    Ok(())
}

/// Everything runs and nothing is in the way.
pub(crate) fn heal(lab: &mut Lab) -> anyhow::Result<()> {
    for_pairs(lab, |_, _| Some(Link::default()));
    for host in &mut lab.hosts {
        // Most of these were undone already, and say so.
        let _ = host.disk.thaw();
        host.disk.clear()?;
        host.set_clock(0)?;
        host.signal(Signal::SIGCONT)?;
        host.start()?;
    }
    Ok(())
}

fn cut() -> Link {
    Link {
        cut: true,
        ..Link::default()
    }
}

/// Sets the links between nodes for which `link` gives one. Clients reach everybody throughout.
fn for_pairs(lab: &Lab, link: impl Fn(usize, usize) -> Option<Link>) {
    let nodes = lab.hosts.len();
    for from in 0..nodes {
        for to in (0..nodes).filter(|to| *to != from) {
            if let Some(link) = link(from, to) {
                lab.switch.set(from, to, link);
            }
        }
    }
}

fn word(kind: Kind) -> &'static str {
    let found = KINDS.iter().find(|(other, _)| *other == kind);
    found.map_or("unknown", |(_, word)| word)
}
