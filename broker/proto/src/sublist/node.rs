//! One node of the trie: its token, its links and its members.
//!
//! Owns the compact layout: 64 bytes for pointer-sized members. Must never link or unlink itself.

use std::collections::HashMap;
use std::sync::Arc;

use super::Match;

/// No node.
pub(super) const NONE: u32 = u32::MAX;

/// Queue groups of one filter above which they are found through an index.
const LISTED_GROUPS_MAX: usize = 16;

#[derive(Debug, Clone)]
pub(super) struct Node<T> {
    pub(super) token: Token,
    /// The node above; in an unused node the next unused one.
    pub(super) parent: u32,
    pub(super) star: u32,
    pub(super) rest: u32,
    /// How many literal children the index holds for this node.
    pub(super) literals: u32,
    pub(super) plain: Members<T>,
    /// Boxed since most nodes have none.
    queues: Option<Box<Groups<T>>>,
}

/// The queue groups of one filter.
#[derive(Debug, Clone)]
struct Groups<T> {
    list: Vec<Group<T>>,
    /// Places in `list` by name; `None` while a look through the list is as good.
    places: Option<HashMap<Arc<[u8]>, u32>>,
}

#[derive(Debug, Clone)]
pub(super) struct Group<T> {
    pub(super) name: Arc<[u8]>,
    pub(super) members: Vec<T>,
}

/// Most filters have exactly one plain subscription.
#[derive(Debug, Clone)]
pub(super) enum Members<T> {
    None,
    One(T),
    #[allow(clippy::box_collection, reason = "keeps the node at one cache line")]
    Many(Box<Vec<T>>),
}

const INLINE_BYTES: usize = 22;

/// A token's text, inside the node when it is short.
#[derive(Debug, Clone)]
pub(super) enum Token {
    Inline { len: u8, bytes: [u8; INLINE_BYTES] },
    Heap(Box<[u8]>),
}

impl Token {
    pub(super) fn new(text: &[u8]) -> Self {
        if text.len() > INLINE_BYTES {
            return Self::Heap(text.into());
        }
        let mut bytes = [0; INLINE_BYTES];
        bytes[..text.len()].copy_from_slice(text);
        Self::Inline {
            len: text.len() as u8,
            bytes,
        }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Inline { len, bytes } => &bytes[..usize::from(*len).min(INLINE_BYTES)],
            Self::Heap(text) => text,
        }
    }
}

impl<T> Node<T> {
    pub(super) const fn new(token: Token, parent: u32) -> Self {
        Self {
            token,
            parent,
            star: NONE,
            rest: NONE,
            literals: 0,
            plain: Members::None,
            queues: None,
        }
    }

    pub(super) fn is_unused(&self) -> bool {
        self.literals == 0
            && self.star == NONE
            && self.rest == NONE
            && self.plain.is_empty()
            && self.queues.is_none()
    }

    pub(super) fn groups(&self) -> &[Group<T>] {
        self.queues.as_ref().map_or(&[], |groups| &groups.list)
    }

    /// Adds a queue member; returns the group's size.
    pub(super) fn join(&mut self, queue: &[u8], value: T) -> usize {
        let groups = self.queues.get_or_insert_default();
        match groups.find(queue) {
            Some(at) => {
                let members = &mut groups.list[at].members;
                members.push(value);
                members.len()
            }
            None => {
                groups.push(Group {
                    name: queue.into(),
                    members: vec![value],
                });
                1
            }
        }
    }

    /// Removes a queue member; returns the group's size.
    pub(super) fn leave(&mut self, queue: &[u8], mut leaver: Leaver<'_, T>) -> Option<usize> {
        let groups = self.queues.as_mut()?;
        let at = groups.find(queue)?;
        let members = &mut groups.list[at].members;
        let place = leaver.place_in(members)?;
        members.swap_remove(place);
        leaver.tell(members, place);
        let left = members.len();
        if left == 0 {
            groups.remove(at);
        }
        if groups.list.is_empty() {
            self.queues = None;
        }
        Some(left)
    }

    pub(super) fn members_mut(&mut self, queue: Option<&[u8]>) -> &mut [T] {
        let Some(queue) = queue else {
            return self.plain.as_mut_slice();
        };
        let Some(groups) = &mut self.queues else {
            return &mut [];
        };
        match groups.find(queue) {
            Some(at) => &mut groups.list[at].members,
            None => &mut [],
        }
    }

    /// Keeps what `keep` accepts; returns how many were removed.
    pub(super) fn retain(&mut self, keep: &mut dyn FnMut(&T) -> bool) -> usize {
        let mut removed = self.plain.retain(keep);
        if let Some(groups) = &mut self.queues {
            for group in &mut groups.list {
                let before = group.members.len();
                group.members.retain(&mut *keep);
                removed += before - group.members.len();
            }
            groups.list.retain(|group| !group.members.is_empty());
            groups.places = None;
            groups.index();
            if groups.list.is_empty() {
                self.queues = None;
            }
        }
        removed
    }

    pub(super) fn visit<'a>(&'a self, visit: &mut impl FnMut(Match<'a, T>)) {
        if !self.plain.is_empty() {
            visit(Match {
                queue: None,
                members: self.plain.as_slice(),
            });
        }
        for group in self.groups() {
            visit(Match {
                queue: Some(&group.name),
                members: &group.members,
            });
        }
    }
}

impl<T> Default for Groups<T> {
    fn default() -> Self {
        Self {
            list: Vec::new(),
            places: None,
        }
    }
}

impl<T> Groups<T> {
    fn find(&self, name: &[u8]) -> Option<usize> {
        match &self.places {
            Some(places) => places.get(name).map(|&at| at as usize),
            None => self.list.iter().position(|group| &*group.name == name),
        }
    }

    fn push(&mut self, group: Group<T>) {
        if let Some(places) = &mut self.places {
            places.insert(Arc::clone(&group.name), self.list.len() as u32);
        }
        self.list.push(group);
        self.index();
    }

    fn remove(&mut self, at: usize) {
        let gone = self.list.swap_remove(at);
        if let Some(places) = &mut self.places {
            places.remove(&gone.name);
            if let Some(moved) = self.list.get(at) {
                places.insert(Arc::clone(&moved.name), at as u32);
            }
        }
    }

    /// Makes the index where there are enough for one.
    fn index(&mut self) {
        if self.places.is_none() && self.list.len() > LISTED_GROUPS_MAX {
            let groups = self.list.iter().zip(0..);
            self.places = Some(groups.map(|(g, at)| (Arc::clone(&g.name), at)).collect());
        }
    }
}

/// Who is to be removed from a list of members.
pub(super) struct Leaver<'a, T> {
    /// Where it should be.
    pub(super) place: usize,
    pub(super) is_it: &'a mut dyn FnMut(&T) -> bool,
    /// Is told of whoever takes its place.
    pub(super) moved: &'a mut dyn FnMut(&T, usize),
}

impl<T> Leaver<'_, T> {
    fn place_in(&mut self, members: &[T]) -> Option<usize> {
        let there = members.get(self.place);
        if there.is_some_and(|member| (self.is_it)(member)) {
            return Some(self.place);
        }
        members.iter().position(|member| (self.is_it)(member))
    }

    fn tell(&mut self, members: &[T], place: usize) {
        if let Some(member) = members.get(place) {
            (self.moved)(member, place);
        }
    }
}

impl<T> Members<T> {
    pub(super) const fn is_empty(&self) -> bool {
        matches!(self, Self::None)
    }

    pub(super) fn as_slice(&self) -> &[T] {
        match self {
            Self::None => &[],
            Self::One(member) => std::slice::from_ref(member),
            Self::Many(members) => members,
        }
    }

    fn as_mut_slice(&mut self) -> &mut [T] {
        match self {
            Self::None => &mut [],
            Self::One(member) => std::slice::from_mut(member),
            Self::Many(members) => members,
        }
    }

    /// Returns how many members there are then.
    pub(super) fn push(&mut self, value: T) -> usize {
        match std::mem::replace(self, Self::None) {
            Self::None => *self = Self::One(value),
            Self::One(first) => *self = Self::Many(Box::new(vec![first, value])),
            Self::Many(mut members) => {
                members.push(value);
                *self = Self::Many(members);
            }
        }
        self.as_slice().len()
    }

    /// Returns how many members are left; `None` = it was not there.
    pub(super) fn remove(&mut self, mut leaver: Leaver<'_, T>) -> Option<usize> {
        let at = leaver.place_in(self.as_slice())?;
        match self {
            Self::Many(members) => {
                members.swap_remove(at);
                if members.len() == 1 {
                    let last = members.pop();
                    *self = last.map_or(Self::None, Self::One);
                }
            }
            Self::None | Self::One(_) => *self = Self::None,
        }
        leaver.tell(self.as_slice(), at);
        Some(self.as_slice().len())
    }

    fn retain(&mut self, keep: &mut dyn FnMut(&T) -> bool) -> usize {
        let before = self.as_slice().len();
        match std::mem::replace(self, Self::None) {
            Self::None => {}
            Self::One(member) => {
                if keep(&member) {
                    *self = Self::One(member);
                }
            }
            Self::Many(mut members) => {
                members.retain(keep);
                for member in *members {
                    self.push(member);
                }
            }
        }
        before - self.as_slice().len()
    }
}
