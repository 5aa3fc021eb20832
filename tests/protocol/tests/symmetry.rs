//! States that differ only in names are taken as one: this checks that nothing else is.

use std::collections::HashSet;

use stateright::Model;
use tintype_protocol_model::protocol::*;
use tintype_protocol_model::state::{Budget, State};
use tintype_protocol_model::{Protocol, symmetry};

/// All states that can be reached.
fn reached(model: &Protocol) -> HashSet<State> {
    let mut reached: HashSet<State> = model.init_states().into_iter().collect();
    let mut pending: Vec<State> = reached.iter().copied().collect();
    let mut actions = Vec::new();
    while let Some(state) = pending.pop() {
        model.actions(&state, &mut actions);
        let next = actions.drain(..).filter_map(|action| model.next_state(&state, action));
        pending.extend(next.filter(|state| reached.insert(*state)));
    }
    reached
}

/// With names enough for all, the representatives of all states are the states of all representatives.
fn agree(sizes: Sizes) {
    let named = Protocol { sizes, keep_names: true, ..Protocol::default() };
    let unnamed = Protocol { sizes, ..Protocol::default() };
    let start: HashSet<State> = named.init_states().into_iter().collect();
    let states = reached(&named);
    let mut represented: HashSet<State> =
        states.difference(&start).map(|state| symmetry::representative(&unnamed, state)).collect();
    represented.extend(start);
    let found = reached(&unnamed);
    println!("{} states with names, {} without", states.len(), found.len());
    assert!(found.len() < states.len());
    assert_eq!(represented.len(), found.len());
    assert!(represented == found);
}

#[test]
fn processes_packs_and_sessions() {
    let budget = Budget { writes: 2, prunes: 2, forgets: 1, ..Budget::default() };
    agree(Sizes { writers: 2, pruners: 2, packs: 3, epochs: 1, budget, ..Sizes::default() });
}

#[test]
fn pages_of_lists() {
    let budget = Budget { writes: 1, prunes: 1, reads: 1, forgets: 1, ..Budget::default() };
    agree(Sizes { packs: 4, sessions: 4, two_pages: true, budget, ..Sizes::default() });
}

#[test]
fn power_cuts() {
    let budget = Budget { writes: 2, prunes: 1, forgets: 1, cuts: 1, ..Budget::default() };
    agree(Sizes { writers: 2, packs: 3, epochs: 1, budget, ..Sizes::default() });
}

#[test]
fn damage() {
    let budget = Budget { writes: 1, prunes: 2, damages: 1, plants: 1, duplicates: 1, ..Budget::default() };
    agree(Sizes { packs: 3, epochs: 1, budget, ..Sizes::default() });
}
