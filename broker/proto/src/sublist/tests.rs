//! The subject index against a naive matcher, and its edges.

use super::*;
use crate::subject;
use proptest::prelude::*;

fn hits(list: &Sublist<u32>, subject: &str) -> (Vec<u32>, Vec<(String, Vec<u32>)>) {
    let mut found = Matches::default();
    list.matches(subject.as_bytes(), &mut found);
    let mut plain = found.plain.clone();
    plain.sort_unstable();
    let mut queues: Vec<_> = found
        .queues
        .iter()
        .map(|(name, members)| {
            let mut members = members.clone();
            members.sort_unstable();
            (String::from_utf8(name.to_vec()).unwrap(), members)
        })
        .collect();
    queues.sort();
    (plain, queues)
}

#[test]
fn a_node_with_a_pointer_sized_member_is_one_cache_line() {
    assert_eq!(size_of::<Node<Arc<u64>>>(), 64);
}

#[test]
fn three_hundred_thousand_wildcard_subscriptions_stay_small() {
    let mut list = Sublist::with_seed(1);
    for i in 0..300_000_u64 {
        let filter = format!("load.{:04}.*.k{i:07}", i % 997);
        list.insert(filter.as_bytes(), None, i);
    }
    let bytes = list.nodes.capacity() * size_of::<Node<u64>>() + list.index.bytes();
    assert!(
        bytes / 300_000 < 128,
        "{} bytes a subscription",
        bytes / 300_000
    );
    let mut found = Matches::default();
    list.matches(b"load.0007.zz.k0000007", &mut found);
    assert_eq!(found.plain, [7]);
}

#[test]
fn plain_and_queue_members_are_told_apart() {
    let mut list = Sublist::with_seed(1);
    list.insert(b"a.b", None, 1);
    list.insert(b"a.*", Some(b"q"), 2);
    list.insert(b"a.>", Some(b"q"), 3);
    list.insert(b">", Some(b"r"), 4);
    assert_eq!(
        hits(&list, "a.b"),
        (
            vec![1],
            vec![("q".into(), vec![2, 3]), ("r".into(), vec![4])]
        )
    );
    assert_eq!(hits(&list, "a..b"), (vec![], vec![]));
}

#[test]
fn wildcards_in_a_published_subject_are_literals() {
    let mut list = Sublist::with_seed(1);
    list.insert(b"foo.*", None, 1);
    list.insert(b"foo.bar", None, 2);
    list.insert(b"foo.>", None, 3);
    assert_eq!(hits(&list, "foo.*").0, [1, 3]);
    assert_eq!(hits(&list, "foo.>").0, [1, 3]);
}

#[test]
fn counts_handles_and_filters_agree() {
    let mut list = Sublist::with_seed(1);
    let first = list.insert(b"a.*.>", None, 1);
    let second = list.insert(b"a.*.>", None, 2);
    assert_eq!((first.members, second.members), (1, 2));
    assert_eq!(first.handle, second.handle);
    assert_eq!(list.find(b"a.*.>"), Some(first.handle));
    let mut text = vec![];
    list.filter_of(first.handle, &mut text);
    assert_eq!(text, b"a.*.>");
    let before = list.generation();
    assert_eq!(list.remove(first.handle, None, |v| *v == 1), Some(1));
    assert_eq!(list.remove(first.handle, None, |v| *v == 1), None);
    assert_eq!(list.remove(first.handle, None, |v| *v == 2), Some(0));
    assert!(list.generation() > before);
    assert_eq!((list.len(), list.nodes_in_use()), (0, 0));
}

#[test]
fn many_groups_of_one_filter_are_told_apart() {
    let names: Vec<String> = (0..100).map(|n| format!("q{n}")).collect();
    let queue = |n: usize| Some(names[n].as_bytes());
    let mut list = Sublist::with_seed(1);
    let mut handle = Handle::from_bits(0);
    for n in 0..100 {
        handle = list.insert(b"a.b", queue(n), n as u32).handle;
    }
    for n in (0..100).step_by(3) {
        assert_eq!(list.insert(b"a.b", queue(n), 1_000).members, 2);
        assert_eq!(list.remove(handle, queue(n), |v| *v == n as u32), Some(1));
        assert_eq!(list.remove(handle, queue(n), |_| true), Some(0));
        assert_eq!(list.remove(handle, queue(n), |_| true), None);
    }
    let left = |list: &Sublist<u32>| {
        let (_, queues) = hits(list, "a.b");
        queues
            .iter()
            .map(|(_, members)| members[0])
            .collect::<std::collections::BTreeSet<_>>()
    };
    let expected = |from| (from..100_u32).filter(|n| n % 3 != 0).collect();
    assert_eq!(left(&list), expected(0));
    list.retain(|v| *v >= 50);
    assert_eq!(left(&list), expected(50));
    assert_eq!(list.insert(b"a.b", queue(50), 50).members, 2);
    assert_eq!(list.insert(b"a.b", queue(1), 1).members, 1);
    for (n, remote) in [(50, 2), (1, 1), (2, 0)] {
        assert_eq!(list.members_mut(handle, queue(n)).len(), remote);
    }
    list.retain(|_| false);
    assert_eq!((list.len(), list.nodes_in_use()), (0, 0));
}

#[test]
fn deep_subjects_need_no_stack() {
    let mut list = Sublist::with_seed(1);
    let deep = vec!["*"; 5_000].join(".");
    list.insert(deep.as_bytes(), None, 1);
    let subject = vec!["x"; 5_000].join(".");
    assert_eq!(hits(&list, &subject).0, [1]);
}

#[derive(Debug, Clone)]
enum Step {
    Insert(String, Option<&'static str>),
    Remove(usize),
    Retain(u32),
}

fn filters() -> impl Strategy<Value = String> {
    let token = prop::sample::select(vec!["a", "b", "*", "a-token-longer-than-twenty-two-bytes"]);
    (prop::collection::vec(token, 0..4), any::<bool>()).prop_map(|(mut tokens, rest)| {
        if rest || tokens.is_empty() {
            tokens.push(">");
        }
        tokens.join(".")
    })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let queue = prop::sample::select(vec![None, None, Some("q"), Some("r")]);
    let step = prop_oneof![
        6 => (filters(), queue).prop_map(|(filter, queue)| Step::Insert(filter, queue)),
        4 => any::<usize>().prop_map(Step::Remove),
        1 => (2_u32..5).prop_map(Step::Retain),
    ];
    prop::collection::vec(step, 0..60)
}

type Model = Vec<(String, Option<&'static str>, u32, Handle)>;

fn model_hits(model: &Model, subject: &str) -> (Vec<u32>, Vec<(String, Vec<u32>)>) {
    let mut plain = vec![];
    let mut queues = std::collections::BTreeMap::<String, Vec<u32>>::new();
    for (filter, queue, id, _) in model {
        if subject::matches(filter.as_bytes(), subject.as_bytes()) {
            match queue {
                None => plain.push(*id),
                Some(queue) => queues.entry((*queue).into()).or_default().push(*id),
            }
        }
    }
    plain.sort_unstable();
    queues
        .values_mut()
        .for_each(|members| members.sort_unstable());
    (plain, queues.into_iter().collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn behaves_as_a_list_of_filters(steps in steps(), seed in any::<u64>()) {
        let mut list = Sublist::with_seed(seed);
        let mut model: Model = vec![];
        let mut places = std::collections::BTreeMap::new();
        for (id, step) in steps.into_iter().enumerate() {
            let id = id as u32;
            match step {
                Step::Insert(filter, queue) => {
                    let inserted = list.insert(filter.as_bytes(), queue.map(str::as_bytes), id);
                    places.insert(id, inserted.place());
                    model.push((filter.clone(), queue, id, inserted.handle));
                    let same = model.iter().filter(|m| m.0 == filter && m.1 == queue).count();
                    prop_assert_eq!(inserted.members, same);
                }
                Step::Remove(pick) if !model.is_empty() => {
                    let (filter, queue, id, handle) = model.remove(pick % model.len());
                    let (mut looks, at) = (0, places[&id]);
                    let is_it = |v: &u32| {
                        looks += 1;
                        *v == id
                    };
                    let moved = |v: &u32, at| {
                        places.insert(*v, at);
                    };
                    let queue_name = queue.map(str::as_bytes);
                    let left = list.remove_at(handle, queue_name, at, is_it, moved);
                    prop_assert_eq!(looks, 1);
                    let same = model.iter().filter(|m| m.0 == filter && m.1 == queue).count();
                    prop_assert_eq!(left, Some(same));
                }
                Step::Remove(_) => {}
                Step::Retain(modulus) => {
                    list.retain(|v| v % modulus != 0);
                    model.retain(|m| m.2 % modulus != 0);
                    // Whoever is left has moved up.
                    list.for_each(|_, _, members| {
                        for (at, id) in members.iter().enumerate() {
                            places.insert(*id, at);
                        }
                    });
                }
            }
            prop_assert_eq!(list.len(), model.len());
        }
        for subject in ["a", "b", "a.b", "a.a-token-longer-than-twenty-two-bytes", "b.a.b", "a.b.a.b.a", "a..b", "*", "c.>"] {
            prop_assert_eq!(hits(&list, subject), model_hits(&model, subject));
            prop_assert_eq!(list.has_match(subject.as_bytes()), hits(&list, subject) != (vec![], vec![]));
        }
        let mut seen = 0;
        list.for_each(|handle, _, members| {
            let mut text = vec![];
            list.filter_of(handle, &mut text);
            assert_eq!(list.find(&text), Some(handle));
            seen += members.len();
        });
        prop_assert_eq!(seen, model.len());
        list.retain(|_| false);
        prop_assert_eq!((list.len(), list.nodes_in_use(), list.index.len()), (0, 0, 0));
    }
}
