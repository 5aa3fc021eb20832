//! Runs a check: that all properties hold, or that one falls when a rule is left out.

use std::fmt::Debug;
use std::hash::Hash;
use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model};

/// Set to see the way to each harm, step by step.
pub const TRACE: &str = "TINTYPE_MODEL_TRACE";

/// Whether the way to a harm is to be shown, with names that stay the same from step to step.
pub fn traces() -> bool {
    std::env::var_os(TRACE).is_some()
}

/// A model that a check can run in several threads.
pub trait Checkable:
    Model<State: Clone + PartialEq + Hash + Debug + Send + Sync, Action: Clone + PartialEq + Debug> + Send + Sync + 'static
{
}

impl<M> Checkable for M where
    M: Model<State: Clone + PartialEq + Hash + Debug + Send + Sync, Action: Clone + PartialEq + Debug>
        + Send
        + Sync
        + 'static
{
}

/// Checks all properties in all states, and says how many there were.
///
/// # Panics
///
/// If a property falls, or if something that must be reached at least once is not.
pub fn holds(name: &str, model: impl Checkable) {
    let started = Instant::now();
    let checker = model.checker().threads(threads()).finish_when(HasDiscoveries::AnyFailures).spawn_dfs().join();
    let (states, steps, depth) = (checker.unique_state_count(), checker.state_count(), checker.max_depth());
    println!("{name}: {states} states, {steps} steps, depth {depth}, {:.1} s", started.elapsed().as_secs_f64());
    checker.assert_properties();
}

/// Checks that the property falls.
///
/// # Panics
///
/// If it holds.
pub fn falls(name: &str, model: impl Checkable, property: &'static str) {
    let started = Instant::now();
    let wanted = HasDiscoveries::AnyOf([property].into());
    let checker = model.checker().threads(threads()).finish_when(wanted).spawn_bfs().join();
    let states = checker.unique_state_count();
    let path = checker.discovery(property).unwrap_or_else(|| panic!("{name}: \"{property}\" holds in {states} states"));
    let actions = path.into_actions();
    println!("{name}: falls after {} steps, {states} states, {:.1} s", actions.len(), started.elapsed().as_secs_f64());
    if traces() {
        actions.iter().for_each(|action| println!("    {action:?}"));
    }
}

/// One thread finds the shortest way.
fn threads() -> usize {
    if traces() {
        return 1;
    }
    std::thread::available_parallelism().map_or(1, usize::from)
}
