//! Random histories of every verb against maps and sets of ancestors.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::{Error, Merge, MergeRequest, ReplayRequest, ResetRequest, Strategy as Side};

type Map = BTreeMap<Key, Bytes>;

#[derive(Debug, Clone)]
enum Step {
    Commit { branch: usize, edits: Vec<(u8, Option<u8>)> },
    Branch { from: usize },
    Merge { into: usize, from: usize, side: u8, squash: bool },
    Replay { branch: usize, commit: prop::sample::Index, parent: usize, back: bool, side: u8 },
    Reset { branch: usize, to: prop::sample::Index },
}

fn step() -> impl Strategy<Value = Step> {
    let edits = proptest::collection::vec((0..12u8, proptest::option::of(0..4u8)), 1..5);
    prop_oneof![
        4 => (0..4usize, edits).prop_map(|(branch, edits)| Step::Commit { branch, edits }),
        1 => (0..4usize).prop_map(|from| Step::Branch { from }),
        4 => (0..4usize, 0..4usize, 0..3u8, any::<bool>()).prop_map(|(into, from, side, squash)| Step::Merge { into, from, side, squash }),
        2 => (0..4usize, any::<prop::sample::Index>(), 0..2usize, any::<bool>(), 0..3u8)
            .prop_map(|(branch, commit, parent, back, side)| Step::Replay { branch, commit, parent, back, side }),
        1 => (0..4usize, any::<prop::sample::Index>()).prop_map(|(branch, to)| Step::Reset { branch, to }),
    ]
}

fn strategy(side: u8) -> Side {
    [Side::Default, Side::Ours, Side::Theirs][usize::from(side)]
}

/// A commit as the model knows it.
#[derive(Debug, Clone)]
struct Known {
    map: Map,
    parents: Vec<CommitId>,
    /// Itself included.
    ancestors: BTreeSet<(u64, CommitId)>,
}

#[derive(Default)]
struct Model {
    commits: BTreeMap<CommitId, Known>,
    order: Vec<CommitId>,
    heads: Vec<CommitId>,
}

/// A three-way merge of maps; `Err` with the keys in conflict.
fn three_way(base: &Map, ours: &Map, theirs: &Map, side: Side) -> Result<Map, Vec<Key>> {
    let keys: BTreeSet<_> = base.keys().chain(ours.keys()).chain(theirs.keys()).cloned().collect();
    let (mut merged, mut conflicts) = (Map::new(), Vec::new());
    for key in keys {
        let (b, o, t) = (base.get(&key), ours.get(&key), theirs.get(&key));
        let both = o != b && t != b && o != t;
        let value = match side {
            Side::Default if both => {
                conflicts.push(key.clone());
                o
            }
            Side::Ours if both => o,
            _ if t == b => o,
            _ => t,
        };
        merged.extend(value.map(|value| (key, value.clone())));
    }
    if conflicts.is_empty() { Ok(merged) } else { Err(conflicts) }
}

impl Model {
    fn note(&mut self, id: CommitId, map: Map, parents: Vec<CommitId>) {
        let mut ancestors: BTreeSet<_> = parents.iter().flat_map(|parent| self.commits[parent].ancestors.iter().copied()).collect();
        let height = ancestors.iter().next_back().map_or(0, |(height, _)| height + 1);
        ancestors.insert((height, id));
        self.commits.insert(id, Known { map, parents, ancestors });
        self.order.push(id);
    }

    fn base(&self, a: &CommitId, b: &CommitId) -> CommitId {
        self.commits[a].ancestors.intersection(&self.commits[b].ancestors).last().unwrap().1
    }

    fn map(&self, id: &CommitId) -> &Map {
        &self.commits[id].map
    }
}

fn conflicting(error: Error) -> Vec<Key> {
    match error {
        Error::Conflicts { conflicts, total, .. } => {
            assert_eq!(conflicts.len() as u64, total);
            conflicts.iter().map(|conflict| conflict.key.clone()).collect()
        }
        error => panic!("{error}"),
    }
}

async fn run(steps: Vec<Step>) {
    let fixture = in_memory().await;
    let repository = &fixture.repository;
    let mut model = Model::default();
    let start = head(&fixture).await;
    model.note(start, Map::new(), Vec::new());
    model.heads.push(start);
    let name = |branch: usize| if branch == 0 { "main".to_owned() } else { format!("b{branch}") };
    for step in steps {
        let count = model.heads.len();
        match step {
            Step::Commit { branch, edits } => {
                let (branch, mut changes) = (branch % count, Vec::new());
                let mut map = model.map(&model.heads[branch]).clone();
                for (number, value) in edits {
                    let key = key(&number.to_string());
                    match value {
                        Some(value) => {
                            map.insert(key.clone(), value.to_string().into());
                            changes.push(Change::put(key, value.to_string()));
                        }
                        None => {
                            map.remove(&key);
                            changes.push(Change::delete(key));
                        }
                    }
                }
                let made = repository.commit(&name(branch), CommitRequest { allow_empty: true, ..request(changes) }).await.unwrap();
                model.note(made.commit, map, vec![made.previous]);
                model.heads[branch] = made.commit;
            }
            Step::Branch { from } => {
                if count < 4 {
                    repository.create_branch(&name(count), &spec(&name(from % count)), "ada").await.unwrap();
                    model.heads.push(model.heads[from % count]);
                }
            }
            Step::Merge { into, from, side, squash } => {
                let (into, from) = (into % count, from % count);
                let (ours, theirs) = (model.heads[into], model.heads[from]);
                let base = model.base(&ours, &theirs);
                let request = MergeRequest { squash, strategy: strategy(side), ..MergeRequest::new(spec(&name(from)), "ada") };
                let outcome = repository.merge(&name(into), request).await;
                let expected = three_way(model.map(&base), model.map(&ours), model.map(&theirs), strategy(side));
                match outcome {
                    Ok(Merge::UpToDate { head }) => assert_eq!((head, base), (ours, theirs)),
                    Ok(Merge::FastForward { from, to }) => {
                        assert!(!squash && base == from);
                        assert_eq!((from, to), (ours, theirs));
                        model.heads[into] = to;
                    }
                    Ok(Merge::Merged { from, to, base: found }) => {
                        assert_eq!((from, found), (ours, base));
                        assert!(base != theirs && (base != ours || squash));
                        model.note(to, expected.unwrap(), if squash { vec![ours] } else { vec![ours, theirs] });
                        model.heads[into] = to;
                    }
                    Err(Error::NothingChanged { .. }) => assert!(squash && base != theirs && expected.as_ref() == Ok(model.map(&ours))),
                    Err(error) => assert_eq!(Err(conflicting(error)), expected),
                }
            }
            Step::Replay { branch, commit, parent, back, side } => {
                let (branch, commit) = (branch % count, *commit.get(&model.order));
                let known = model.commits[&commit].clone();
                if known.parents.is_empty() {
                    continue;
                }
                let parent = parent % known.parents.len();
                let (before, after, ours) = (model.map(&known.parents[parent]).clone(), known.map, model.heads[branch]);
                let (base, theirs) = if back { (after, before) } else { (before, after) };
                let expected = three_way(&base, model.map(&ours), &theirs, strategy(side));
                let request =
                    ReplayRequest { parent: Some(parent as u32 + 1), strategy: strategy(side), ..ReplayRequest::new(RefSpec::commit(commit), "ada") };
                let outcome =
                    if back { repository.revert(&name(branch), request).await } else { repository.cherry_pick(&name(branch), request).await };
                match outcome {
                    Ok(made) => {
                        model.note(made.commit, expected.unwrap(), vec![ours]);
                        model.heads[branch] = made.commit;
                    }
                    Err(Error::NothingChanged { .. }) => assert_eq!(expected.as_ref(), Ok(model.map(&ours))),
                    Err(error) => assert_eq!(Err(conflicting(error)), expected),
                }
            }
            Step::Reset { branch, to } => {
                let (branch, to) = (branch % count, *to.get(&model.order));
                repository.reset(&name(branch), ResetRequest::new(RefSpec::commit(to), "ada")).await.unwrap();
                model.heads[branch] = to;
            }
        }
        for (branch, head) in model.heads.iter().enumerate() {
            assert_eq!(repository.branch(&name(branch)).await.unwrap().head, *head);
        }
        // Commits of the same words, parents and content are one commit: the clock tells them apart.
        fixture.clock.advance(anabranch_core::Span(1_000_000));
    }
    for id in &model.order {
        assert_eq!(content(repository, id).await, *model.map(id));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_verb_does_what_maps_and_sets_of_ancestors_say(steps in proptest::collection::vec(step(), 1..40)) {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(run(steps));
    }
}
