//! Elections, replication and what nodes do with entries: enough of Raft that a log has the histories of
//! a real one, entries that nobody knows the fate of included.

use bytes::Bytes;
use unibus_state::{Command, Effect, EncodedBatch, Rules, decode_entry, encode_entry};

use crate::checks;
use crate::control;
use crate::member::{Index, Record};
use crate::tokens::{FlightId, Landing, Packet};
use crate::world::{Checked, Truth, World};

/// Proposals of one node on their way at a time.
const FLYING_MAX: usize = 3;
/// Replicas are compared after every so many entries.
const DIGEST_EVERY: usize = 8;

impl World {
    /// A node asks for votes and may come to lead.
    pub(crate) fn elect(&mut self, candidate: usize) -> Checked {
        if !self.members[candidate].up {
            return Ok(());
        }
        let nodes = self.members.len();
        let mine = (self.last_term(candidate), self.members[candidate].last());
        let reached: Vec<usize> = (0..nodes)
            .filter(|peer| self.passes(candidate, *peer) && self.passes(*peer, candidate))
            .collect();
        let highest = reached.iter().map(|peer| self.members[*peer].term).max();
        let term = highest.unwrap_or(0) + 1;
        let mut votes = 0;
        for peer in reached {
            let theirs = (self.last_term(peer), self.members[peer].last());
            let heard = peer == candidate || self.is_calm || self.rng.chance(80);
            if heard && self.members[peer].voted < term && theirs <= mine {
                self.see_term(peer, term)?;
                self.members[peer].voted = term;
                votes += 1;
            }
        }
        if votes * 2 > nodes {
            self.note(|| format!("node {candidate} leads in term {term}"));
            self.counts.elections += 1;
            let member = &mut self.members[candidate];
            member.leads = true;
            member.leader = Some(candidate);
            member.matched = vec![0; nodes];
            // An entry of its own: what earlier leaders left is committed with it.
            let rules = EncodedBatch::of(&Command::Rules(Rules::NEWEST));
            let rules = rules.map_err(|error| error.to_string())?;
            self.append(candidate, encode_entry(0, &[rules]), None);
        }
        Ok(())
    }

    fn last_term(&self, node: usize) -> u64 {
        self.members[node].term_at(self.members[node].last())
    }

    fn see_term(&mut self, node: usize, term: u64) -> Checked {
        if self.members[node].term >= term {
            return Ok(());
        }
        self.members[node].term = term;
        self.members[node].leader = None;
        let lost = self.members[node].step_down();
        self.lose(node, lost)
    }

    /// Nobody will say what became of these proposals.
    fn lose(&mut self, node: usize, lost: Vec<FlightId>) -> Checked {
        for flight in lost {
            let Some(to) = self.flights.get(&flight).map(|flight| flight.origin) else {
                continue;
            };
            let landing = Landing::Unknown;
            if to == node {
                self.land(node, flight, landing)?;
            } else {
                self.post(Packet::Answer {
                    from: node,
                    to,
                    flight,
                    landing,
                });
            }
        }
        Ok(())
    }

    fn append(&mut self, leader: usize, bytes: Bytes, flight: Option<FlightId>) {
        let member = &mut self.members[leader];
        let term = member.term;
        member.log.push(Record { term, bytes });
        let last = member.last();
        member.matched[leader] = last;
        member.waiting.extend(flight.map(|flight| (last, flight)));
    }

    /// A leader sends a peer what that lacks.
    pub(crate) fn replicate(&mut self, leader: usize, peer: usize) -> Checked {
        let there = self.passes(leader, peer) && self.passes(peer, leader);
        if leader == peer || !self.members[leader].up || !self.members[leader].leads || !there {
            return Ok(());
        }
        let term = self.members[leader].term;
        if self.members[peer].term > term {
            let newer = self.members[peer].term;
            return self.see_term(leader, newer);
        }
        self.see_term(peer, term)?;
        self.members[peer].leader = Some(leader);
        let equal = self.equal_up_to(leader, peer);
        if equal < self.members[leader].base.0 {
            return self.send_snapshot(leader, peer);
        }
        let last = self.members[leader].last();
        let most = if self.is_calm {
            last
        } else {
            1 + self.rng.index(8)
        };
        let upto = last.min(equal + most);
        let more: Vec<Record> = (equal + 1..=upto)
            .filter_map(|index| self.members[leader].record(index).cloned())
            .collect();
        let follower = &mut self.members[peer];
        if !more.is_empty() {
            if equal < follower.committed {
                return Err(format!("node {peer} would lose committed entries"));
            }
            let keep = equal.saturating_sub(follower.base.0);
            follower.log.truncate(keep);
            follower.log.extend(more);
        }
        let committed = self.members[leader].committed.min(upto);
        let follower = &mut self.members[peer];
        follower.committed = follower.committed.max(committed);
        self.members[leader].matched[peer] = upto;
        self.commit(leader);
        Ok(())
    }

    /// The highest index up to which two logs are the same.
    fn equal_up_to(&self, leader: usize, peer: usize) -> Index {
        let (one, other) = (&self.members[leader], &self.members[peer]);
        let mut index = one.last().min(other.last());
        while index > other.base.0
            && index >= one.base.0
            && one.term_at(index) != other.term_at(index)
        {
            index -= 1;
        }
        index
    }

    fn send_snapshot(&mut self, leader: usize, peer: usize) -> Checked {
        self.note(|| format!("node {leader} sends node {peer} its checkpoint"));
        let checkpoint = self.members[leader].checkpoint.clone();
        if checkpoint.applied <= self.members[peer].applied {
            return Ok(());
        }
        self.counts.snapshots += 1;
        let installed = self.members[peer].install(&checkpoint);
        installed.map_err(|error| format!("node {peer}: {error}"))?;
        self.after_load(peer)
    }

    fn commit(&mut self, leader: usize) {
        let member = &mut self.members[leader];
        let mut matched = member.matched.clone();
        matched.sort_unstable();
        let majority = matched[(matched.len() - 1) / 2];
        if majority > member.committed && member.term_at(majority) == member.term {
            member.committed = majority;
        }
    }

    /// A node sends what waits in its queue to whoever leads, as far as it knows.
    pub(crate) fn send_proposals(&mut self, node: usize) -> Checked {
        while self.members[node].up && self.members[node].flying.len() < FLYING_MAX {
            let member = &mut self.members[node];
            let Some(leader) = member.leader else { break };
            let aim = (leader, member.term);
            // Nothing goes elsewhere while something is on its way: it could overtake that.
            if !member.flying.is_empty() && member.target != Some(aim) {
                if self.is_calm || self.rng.chance(10) {
                    self.forget_flying(node)?;
                }
                break;
            }
            if !member.refused.is_empty() {
                break;
            }
            let Some(flight) = member.queue.pop_front() else {
                break;
            };
            member.target = Some(aim);
            member.flying.push(flight);
            if leader == node {
                self.take_proposal(node, node, flight)?;
            } else {
                self.post(Packet::Propose {
                    from: node,
                    to: leader,
                    flight,
                });
            }
        }
        Ok(())
    }

    /// What is with a leader of the past has waited long enough: it counts as unknown.
    fn forget_flying(&mut self, node: usize) -> Checked {
        for flight in self.members[node].flying.clone() {
            self.land(node, flight, Landing::Unknown)?;
        }
        Ok(())
    }

    pub(crate) fn take_proposal(&mut self, from: usize, to: usize, flight: FlightId) -> Checked {
        let Some(batch) = self.flights.get(&flight).map(|flight| flight.batch.clone()) else {
            return Ok(());
        };
        if !self.passes(from, to) {
            return self.land(from, flight, Landing::Unknown);
        }
        if self.members[to].leads {
            let stamp_ns = self.members[to].clock(self.now_ns);
            self.append(to, encode_entry(stamp_ns, &[batch]), Some(flight));
            return Ok(());
        }
        let landing = Landing::Refused;
        if from == to {
            return self.land(from, flight, landing);
        }
        self.post(Packet::Answer {
            from: to,
            to: from,
            flight,
            landing,
        });
        Ok(())
    }

    /// A proposal came back to where it was made.
    pub(crate) fn land(&mut self, node: usize, flight: FlightId, landing: Landing) -> Checked {
        let member = &mut self.members[node];
        let Some(at) = member.flying.iter().position(|other| *other == flight) else {
            // It was given up before: the node crashed meanwhile.
            return Ok(());
        };
        member.flying.remove(at);
        match landing {
            Landing::Refused => drop(member.refused.insert(flight)),
            Landing::Unknown => self.give_up(node, flight)?,
            Landing::Applied { index, outcomes } => {
                let tokens = self.flights.remove(&flight).map(|flight| flight.tokens);
                for (token, outcome) in tokens.into_iter().flatten().zip(&outcomes) {
                    self.resolve(node, &token, Some((index, outcome)))?;
                }
            }
        }
        self.members[node].put_back();
        Ok(())
    }

    fn give_up(&mut self, node: usize, flight: FlightId) -> Checked {
        let tokens = self.flights.remove(&flight).map(|flight| flight.tokens);
        for token in tokens.into_iter().flatten() {
            self.resolve(node, &token, None)?;
        }
        Ok(())
    }

    /// Applies one entry. False: there is none.
    pub(crate) fn apply(&mut self, node: usize) -> Result<bool, String> {
        let Some((index, record, applied)) = self.members[node].apply() else {
            return Ok(false);
        };
        // A difference stays: where exactly it came in is what a trace finds out.
        let digest = (index % DIGEST_EVERY == 0 || self.is_traced())
            .then(|| self.members[node].state.digest());
        match self.truth.get(index - 1) {
            Some(truth) if truth.bytes != record.bytes => {
                return Err(format!("two entries {index}: the sketch of Raft is wrong"));
            }
            Some(truth) if truth.outcomes != applied.outcomes => {
                return Err(format!("node {node} answers entry {index} differently"));
            }
            Some(truth) if truth.digest != digest => {
                return Err(format!("node {node} differs after entry {index}"));
            }
            Some(_) => {}
            None => {
                let entry = decode_entry(&record.bytes).map_err(|error| error.to_string())?;
                self.naive.take(index, &entry, &applied.outcomes)?;
                self.counts.entries += 1;
                self.truth.push(Truth {
                    bytes: record.bytes,
                    outcomes: applied.outcomes.clone(),
                    digest,
                });
            }
        }
        let is_control = |effect: &Effect| matches!(effect, Effect::ControlChanged { .. });
        if applied.effects.iter().any(is_control) {
            self.renew_grants(node);
            checks::check_rooms(self, node)?;
        }
        checks::after_apply(self, node)?;
        let waiting = self.members[node].waiting.remove(&index);
        if let Some(flight) = waiting {
            let landing = Landing::Applied {
                index,
                outcomes: applied.outcomes,
            };
            let origin = self.flights.get(&flight).map(|flight| flight.origin);
            match origin {
                Some(to) if to != node => self.post(Packet::Answer {
                    from: node,
                    to,
                    flight,
                    landing,
                }),
                _ => self.land(node, flight, landing)?,
            }
        }
        Ok(true)
    }

    fn after_load(&mut self, node: usize) -> Checked {
        self.renew_grants(node);
        let index = self.members[node].applied;
        let truth = index.checked_sub(1).and_then(|at| self.truth.get(at));
        let known = truth.and_then(|truth| truth.digest);
        if known.is_some_and(|known| known != self.members[node].state.digest()) {
            return Err(format!("node {node} differs after loading entry {index}"));
        }
        checks::check_rooms(self, node)?;
        checks::after_apply(self, node)
    }

    fn renew_grants(&mut self, node: usize) {
        for user in 0..control::USERS {
            let rooms = control::rooms_of(&self.members[node], user);
            self.members[node].sessions.grant(user, &rooms);
        }
    }

    pub(crate) fn crash(&mut self, node: usize) -> Checked {
        if !self.members[node].up {
            return Ok(());
        }
        self.note(|| format!("node {node} crashes"));
        self.counts.crashes += 1;
        let own: Vec<FlightId> = {
            let member = &self.members[node];
            let all = member.queue.iter().chain(&member.flying);
            all.chain(&member.refused).copied().collect()
        };
        let lost = self.members[node].crash();
        // Its own clients see the connection end.
        for flight in own {
            self.give_up(node, flight)?;
        }
        self.lose(node, lost)?;
        let nodes = self.members.len();
        self.members[node].sessions = crate::plane::Sessions::new(nodes);
        for peer in (0..nodes).filter(|peer| *peer != node) {
            self.members[peer].sessions.disconnect(node);
        }
        Ok(())
    }

    pub(crate) fn restart(&mut self, node: usize) -> Checked {
        if self.members[node].up {
            return Ok(());
        }
        self.note(|| format!("node {node} starts again"));
        let restarted = self.members[node].restart(&mut self.rng);
        restarted.map_err(|error| format!("node {node}: {error}"))?;
        self.after_load(node)
    }
}
