//! The subscription index: a compact trie of subject tokens.
//!
//! Owns who gets which subject: literal children, `*` and `>` per node, plain members and queue
//! groups. Nodes lie in one arena and literal children are found through one open-addressing table, so
//! a subscription with a token of its own costs one 64-byte node. Matching uses an explicit stack.
//! Must never know what a member is, nor check permissions.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use crate::subject::{WILDCARD_ONE, WILDCARD_REST};

mod index;
mod node;
#[cfg(test)]
mod tests;

use index::Index;
use node::{Leaver, NONE, Node, Token};

const ROOT: u32 = 0;

/// Nodes that one part of [`Sublist::visit_from`] looks at: most of them may hold no subscription.
pub const PART_NODES_MAX: usize = 16 * 1024;

/// Where a subscription hangs in the trie. Valid as long as one subscription with that filter exists.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Hash)]
pub struct Handle(u32);

impl Handle {
    /// The handle as a number, to keep it in an atomic.
    #[must_use]
    pub const fn to_bits(self) -> u32 {
        self.0
    }

    /// The handle that [`Self::to_bits`] gave the number of.
    #[must_use]
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }
}

/// A trie of subscriptions. `T` is whatever receives a message; cloning it should be cheap.
#[derive(Debug, Clone)]
pub struct Sublist<T> {
    nodes: Vec<Node<T>>,
    /// Head of the list of unused nodes, linked through `parent`.
    free: u32,
    index: Index,
    generation: u64,
    subscriptions: usize,
}

/// The outcome of [`Sublist::insert`].
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Inserted {
    /// For [`Sublist::remove`] and [`Sublist::filter_of`].
    pub handle: Handle,
    /// Members of the same filter and queue (or plain members), the new one included.
    pub members: usize,
}

impl Inserted {
    /// The new one's place among the members, for [`Sublist::remove_at`].
    #[must_use]
    pub const fn place(&self) -> usize {
        self.members - 1
    }
}

/// Where a visit of the whole trie in parts goes on. The default is its beginning.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct Cursor {
    node: usize,
    /// Groups of that node that are still to be visited; `None` = all of it is.
    groups: Option<usize>,
}

/// What a subject matched, and the working space to find it. Reused from call to call.
#[derive(Debug)]
pub struct Matches<T> {
    /// One for each plain subscription.
    pub plain: Vec<T>,
    /// One for each distinct queue name, with its members over all matching filters.
    pub queues: Vec<(Arc<[u8]>, Vec<T>)>,
    walk: Walk,
}

/// The stack of a match in progress: nodes to visit and the offset of the token to look up there.
#[derive(Debug, Default)]
pub struct Walk {
    stack: Vec<(u32, u32)>,
}

/// One match of [`Sublist::for_each_match`].
#[derive(Debug)]
pub struct Match<'a, T> {
    /// The queue group; `None` = plain subscriptions.
    pub queue: Option<&'a Arc<[u8]>>,
    /// All members with one filter and that queue; never empty.
    pub members: &'a [T],
}

impl<T> Default for Matches<T> {
    fn default() -> Self {
        Self {
            plain: Vec::new(),
            queues: Vec::new(),
            walk: Walk::default(),
        }
    }
}

impl<T> Matches<T> {
    /// Forgets the last result but keeps the space.
    pub fn clear(&mut self) {
        self.plain.clear();
        self.queues.clear();
    }

    /// Whether nothing matched.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.plain.is_empty() && self.queues.is_empty()
    }
}

impl<T> Default for Sublist<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Sublist<T> {
    /// An empty trie. The index is seeded per process, so that nobody can choose colliding tokens.
    #[must_use]
    pub fn new() -> Self {
        Self::with_seed(RandomState::new().hash_one(0_u8))
    }

    /// An empty trie with a given seed for its index.
    #[must_use]
    pub fn with_seed(seed: u64) -> Self {
        Self {
            nodes: vec![Node::new(Token::new(b""), NONE)],
            free: NONE,
            index: Index::new(seed),
            generation: 0,
            subscriptions: 0,
        }
    }

    /// Changes with every insert and removal; equal values mean equal match results.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Makes every cached match result stale without changing the trie.
    pub fn touch(&mut self) {
        self.generation += 1;
    }

    /// How many subscriptions there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.subscriptions
    }

    /// Whether there are no subscriptions.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.subscriptions == 0
    }

    /// How many trie nodes are in use, the root not counted.
    #[must_use]
    pub fn nodes_in_use(&self) -> usize {
        let mut free = 0;
        let mut next = self.free;
        while next != NONE {
            free += 1;
            next = self.nodes[next as usize].parent;
        }
        self.nodes.len() - 1 - free
    }

    /// Adds a subscription. `filter` has to be valid: see [`crate::subject::is_valid_filter`].
    pub fn insert(&mut self, filter: &[u8], queue: Option<&[u8]>, value: T) -> Inserted {
        let mut at = ROOT;
        for token in crate::subject::tokens(filter) {
            at = match self.child(at, token) {
                NONE => self.add_child(at, token),
                child => child,
            };
        }
        let node = &mut self.nodes[at as usize];
        let members = match queue {
            None => node.plain.push(value),
            Some(queue) => node.join(queue, value),
        };
        self.subscriptions += 1;
        self.generation += 1;
        Inserted {
            handle: Handle(at),
            members,
        }
    }

    /// Removes the first subscription at `handle` with that queue that `is_it` recognises, and prunes
    /// nodes that nobody needs. Returns how many members of the same filter and queue are left;
    /// `None` = there was none.
    pub fn remove(
        &mut self,
        handle: Handle,
        queue: Option<&[u8]>,
        is_it: impl FnMut(&T) -> bool,
    ) -> Option<usize> {
        self.remove_at(handle, queue, usize::MAX, is_it, |_, _| {})
    }

    /// The same for one whose place among the members is known, however many they are: the one from
    /// [`Inserted::place`], or what `moved` was told since of a member and its new place. A wrong place
    /// costs a search.
    pub fn remove_at(
        &mut self,
        handle: Handle,
        queue: Option<&[u8]>,
        place: usize,
        mut is_it: impl FnMut(&T) -> bool,
        mut moved: impl FnMut(&T, usize),
    ) -> Option<usize> {
        let node = self.nodes.get_mut(handle.0 as usize)?;
        let leaver = Leaver {
            place,
            is_it: &mut is_it,
            moved: &mut moved,
        };
        let left = match queue {
            None => node.plain.remove(leaver),
            Some(queue) => node.leave(queue, leaver),
        }?;
        self.subscriptions -= 1;
        self.generation += 1;
        self.prune(handle.0);
        Some(left)
    }

    /// The place of an existing filter.
    #[must_use]
    pub fn find(&self, filter: &[u8]) -> Option<Handle> {
        let mut at = ROOT;
        for token in crate::subject::tokens(filter) {
            at = self.child(at, token);
            if at == NONE {
                return None;
            }
        }
        Some(Handle(at))
    }

    /// The members at a place, to change them without changing what matches. Counts as a change.
    pub fn members_mut(&mut self, handle: Handle, queue: Option<&[u8]>) -> &mut [T] {
        self.generation += 1;
        match self.nodes.get_mut(handle.0 as usize) {
            None => &mut [],
            Some(node) => node.members_mut(queue),
        }
    }

    /// Keeps only the subscriptions that `keep` accepts.
    pub fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        for at in 0..self.nodes.len() {
            let removed = self.nodes[at].retain(&mut keep);
            if removed > 0 {
                self.subscriptions -= removed;
                self.generation += 1;
                self.prune(at as u32);
            }
        }
    }

    /// Appends the filter text of a place to `out`.
    pub fn filter_of(&self, handle: Handle, out: &mut Vec<u8>) {
        let mut chain = Vec::new();
        let mut at = handle.0;
        while at != ROOT && at != NONE {
            let Some(node) = self.nodes.get(at as usize) else {
                break;
            };
            chain.push(at);
            at = node.parent;
        }
        for (position, &at) in chain.iter().rev().enumerate() {
            if position > 0 {
                out.push(b'.');
            }
            out.extend_from_slice(self.nodes[at as usize].token.as_bytes());
        }
    }

    /// Visits every filter and queue with its members, in no particular order.
    pub fn for_each(&self, mut visit: impl FnMut(Handle, Option<&[u8]>, &[T])) {
        for (at, node) in self.nodes.iter().enumerate() {
            let handle = Handle(at as u32);
            if !node.plain.is_empty() {
                visit(handle, None, node.plain.as_slice());
            }
            for group in node.groups() {
                visit(handle, Some(&group.name), &group.members);
            }
        }
    }

    /// Visits a part of what [`Self::for_each`] does: from `cursor` on, which moves, for as long as `visit`
    /// returns true and [`PART_NODES_MAX`] nodes at most. Returns whether nothing is left. What is there from
    /// before the first part until after the last is visited at least once: nodes don't move, and a node's
    /// groups are visited from the last, because a removal moves the last one forward.
    pub fn visit_from(
        &self,
        cursor: &mut Cursor,
        mut visit: impl FnMut(Handle, Option<&[u8]>, &[T]) -> bool,
    ) -> bool {
        let end = cursor.node.saturating_add(PART_NODES_MAX);
        while let Some(node) = self.nodes.get(cursor.node) {
            if cursor.node >= end {
                return false;
            }
            let handle = Handle(cursor.node as u32);
            let groups = node.groups();
            let mut left = match cursor.groups {
                Some(left) => left.min(groups.len()),
                None => groups.len(),
            };
            let is_new = cursor.groups.replace(left).is_none();
            if is_new && !node.plain.is_empty() && !visit(handle, None, node.plain.as_slice()) {
                return false;
            }
            while left > 0 {
                left -= 1;
                cursor.groups = Some(left);
                if !visit(handle, Some(&groups[left].name), &groups[left].members) {
                    return false;
                }
            }
            cursor.node += 1;
            cursor.groups = None;
        }
        true
    }

    /// Visits everything that matches a literal subject. A subject with an empty token matches nothing.
    pub fn for_each_match<'a>(
        &'a self,
        subject: &[u8],
        walk: &mut Walk,
        mut visit: impl FnMut(Match<'a, T>),
    ) {
        if self.subscriptions == 0 || !crate::subject::is_valid_publish(subject) {
            return;
        }
        walk.stack.clear();
        walk.stack.push((ROOT, 0));
        while let Some((mut at, mut offset)) = walk.stack.pop() {
            // Follow literal tokens in this loop; only a `*` beside one costs a stack entry.
            loop {
                let node = &self.nodes[at as usize];
                if offset as usize > subject.len() {
                    node.visit(&mut visit);
                    break;
                }
                if node.rest != NONE {
                    self.nodes[node.rest as usize].visit(&mut visit);
                }
                let token = first_token(&subject[offset as usize..]);
                let next = offset + token.len() as u32 + 1;
                let literal = if node.literals == 0 {
                    NONE
                } else {
                    self.index.find(&self.nodes, at, token)
                };
                at = match (literal, node.star) {
                    (NONE, NONE) => break,
                    (NONE, star) => star,
                    (literal, NONE) => literal,
                    (literal, star) => {
                        walk.stack.push((star, next));
                        literal
                    }
                };
                offset = next;
            }
        }
    }

    /// Whether anything matches a literal subject.
    #[must_use]
    pub fn has_match(&self, subject: &[u8]) -> bool {
        let mut found = false;
        self.for_each_match(subject, &mut Walk::default(), |_| found = true);
        found
    }

    fn child(&self, parent: u32, token: &[u8]) -> u32 {
        let node = &self.nodes[parent as usize];
        match token {
            WILDCARD_ONE => node.star,
            WILDCARD_REST => node.rest,
            _ if node.literals == 0 => NONE,
            _ => self.index.find(&self.nodes, parent, token),
        }
    }

    fn add_child(&mut self, parent: u32, token: &[u8]) -> u32 {
        let id = self.allocate(Node::new(Token::new(token), parent));
        let node = &mut self.nodes[parent as usize];
        match token {
            WILDCARD_ONE => node.star = id,
            WILDCARD_REST => node.rest = id,
            _ => {
                node.literals += 1;
                self.index.insert(parent, token, id);
            }
        }
        id
    }

    fn allocate(&mut self, node: Node<T>) -> u32 {
        if self.free == NONE {
            self.nodes.push(node);
            return (self.nodes.len() - 1) as u32;
        }
        let id = self.free;
        self.free = self.nodes[id as usize].parent;
        self.nodes[id as usize] = node;
        id
    }

    /// Unlinks `at` and its ancestors as long as they have neither members nor children.
    fn prune(&mut self, mut at: u32) {
        while at != ROOT && self.nodes[at as usize].is_unused() {
            let parent = self.nodes[at as usize].parent;
            let node = std::mem::replace(
                &mut self.nodes[at as usize],
                Node::new(Token::new(b""), self.free),
            );
            self.free = at;
            let above = &mut self.nodes[parent as usize];
            match node.token.as_bytes() {
                WILDCARD_ONE => above.star = NONE,
                WILDCARD_REST => above.rest = NONE,
                token => {
                    above.literals -= 1;
                    self.index.remove(parent, token, at);
                }
            }
            at = parent;
        }
    }
}

impl<T: Clone> Sublist<T> {
    /// Collects everything that matches a literal subject into `out`, which is cleared first.
    pub fn matches(&self, subject: &[u8], out: &mut Matches<T>) {
        out.clear();
        let Matches {
            plain,
            queues,
            walk,
        } = out;
        self.for_each_match(subject, walk, |found| match found.queue {
            None => plain.extend_from_slice(found.members),
            Some(name) => match queues.iter_mut().find(|(known, _)| known == name) {
                Some((_, members)) => members.extend_from_slice(found.members),
                None => queues.push((Arc::clone(name), found.members.to_vec())),
            },
        });
    }
}

fn first_token(rest: &[u8]) -> &[u8] {
    match memchr::memchr(b'.', rest) {
        Some(end) => &rest[..end],
        None => rest,
    }
}
