//! A run from its seed: a time in which things break, then one in which nothing does and everything has
//! to come to rest.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::checks;
use crate::world::{Checked, Counts, World};

const MS_NS: u64 = 1_000_000;
/// Rounds in which a cluster has to come to rest once nothing breaks.
const REST_ROUNDS: usize = 600;

/// What did not hold, and how to see it again.
#[derive(Debug)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// Steps that were asked for.
    pub steps: u64,
    /// What did not hold.
    pub what: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "seed {}: {}\n  again, step by step: cargo run -p unibus-sim -- --seed {} --steps {} --trace",
            self.seed, self.what, self.seed, self.steps
        )
    }
}

/// Runs one seed for `steps` steps of faults, then until everything rests. `trace`: tells each step.
///
/// # Errors
/// What did not hold.
pub fn run(seed: u64, steps: u64, trace: bool) -> Result<Counts, Failure> {
    let failure = |what| Failure { seed, steps, what };
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let mut world = World::new(seed, trace);
        world.whole(steps).map(|()| world.counts)
    }));
    match outcome {
        Ok(result) => result.map_err(failure),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            Err(failure(format!(
                "panic: {}",
                text.unwrap_or("without words")
            )))
        }
    }
}

impl World {
    fn whole(&mut self, steps: u64) -> Checked {
        self.is_calm = true;
        self.set_up()?;
        self.is_calm = false;
        for _ in 0..steps {
            self.counts.steps += 1;
            self.step()?;
        }
        self.rest()
    }

    /// One thing happens, and the cluster gets somewhere.
    fn step(&mut self) -> Checked {
        self.now_ns += self.rng.below(120) * MS_NS;
        let node = self.any_node();
        match self.rng.below(100) {
            0..=24 => self.publish(),
            25..=28 => self.write_register(),
            29..=30 => self.delete(),
            31..=39 => self.pull(),
            40..=53 => self.serve(node)?,
            54..=62 => self.report(node),
            63..=65 => self.tick(node),
            66..=80 => self.ask(),
            81..=92 => self.chat()?,
            93..=95 => {
                let incremental = self.rng.chance(70);
                if self.members[node].up {
                    self.members[node].take_checkpoint(incremental);
                }
            }
            _ => self.fault(node)?,
        }
        for _ in 0..3 {
            self.progress()?;
        }
        Ok(())
    }

    /// Something that was under way goes on.
    fn progress(&mut self) -> Checked {
        let (node, peer) = (self.any_node(), self.any_node());
        match self.rng.below(10) {
            0 => self.send_proposals(node)?,
            1 => self.pump_any(node, peer)?,
            2..=3 => {
                for leader in 0..self.members.len() {
                    self.replicate(leader, peer)?;
                }
            }
            4..=6 => {
                for _ in 0..=self.rng.below(6) {
                    if !self.apply(node)? {
                        break;
                    }
                }
            }
            7 if !self.members.iter().any(|member| member.up && member.leads) => {
                self.elect(node)?;
            }
            _ => {
                for _ in 0..=self.rng.below(3) {
                    self.deliver_any()?;
                }
            }
        }
        Ok(())
    }

    fn deliver_any(&mut self) -> Checked {
        if self.packets.is_empty() {
            return Ok(());
        }
        let at = self.rng.index(self.packets.len());
        if self.rng.chance(4) {
            return self.lose_packet(at);
        }
        self.deliver(at)
    }

    fn pump_any(&mut self, from: usize, to: usize) -> Checked {
        if from == to {
            return Ok(());
        }
        let there = self.passes(from, to) && self.members[from].up;
        let both = self.members[from].sessions.is_connected(to)
            && self.members[to].sessions.is_connected(from);
        if !there || !self.links[to][from] {
            self.members[from].sessions.disconnect(to);
            self.members[to].sessions.disconnect(from);
        } else if both {
            return self.pump(from, to);
        } else {
            self.members[from].sessions.connect(from, to);
            self.members[to].sessions.connect(to, from);
        }
        Ok(())
    }

    fn fault(&mut self, node: usize) -> Checked {
        let peer = self.any_node();
        match self.rng.below(12) {
            10..=11 => self.members[node].lapse(),
            0..=2 => self.elect(node)?,
            3 => self.crash(node)?,
            4..=5 => self.restart(node)?,
            6 => {
                let both = self.rng.chance(60);
                self.counts.cuts += 1;
                self.note(|| format!("from {node} to {peer} is cut; both ways: {both}"));
                self.links[node][peer] = false;
                self.links[peer][node] &= !both;
            }
            7..=8 => {
                self.links[node][peer] = true;
                self.links[peer][node] = true;
            }
            _ => {
                let skew_ms = self.rng.below(3_000);
                self.members[node].skew_ns = (skew_ms * MS_NS).cast_signed() - 1_500_000_000;
            }
        }
        Ok(())
    }

    /// Nothing breaks any more: everything has to come to rest, and everything that was promised is
    /// looked at.
    fn rest(&mut self) -> Checked {
        self.note(|| "nothing breaks from here on".into());
        self.is_calm = true;
        let nodes = self.members.len();
        self.links = vec![vec![true; nodes]; nodes];
        for node in 0..nodes {
            self.restart(node)?;
        }
        for _ in 0..REST_ROUNDS {
            if !self.members.iter().any(crate::member::Member::acts) {
                let node = self.any_node();
                self.elect(node)?;
            }
            self.run_quietly(2)?;
            if self.settle_down()? {
                return checks::at_the_end(self);
            }
        }
        checks::at_the_end(self)?;
        Err(format!(
            "does not come to rest; publishers that wait: {:?}",
            self.unanswered()
        ))
    }

    /// True once nothing is left to do.
    fn settle_down(&mut self) -> Result<bool, String> {
        self.now_ns += 200 * MS_NS;
        for _ in 0..6 {
            self.pull();
        }
        for node in 0..self.members.len() {
            for _ in 0..6 {
                self.serve(node)?;
            }
            self.report(node);
            self.tick(node);
        }
        let waiting = self.unanswered();
        let last = self.members.iter().map(|member| member.last()).max();
        let applied = self.members.iter().map(|member| member.applied).min();
        let rests = waiting.is_empty() && last == applied;
        Ok(rests && checks::at_the_end(self).is_ok())
    }
}
