//! Exhaustive exploration of failover: every order in which replicas, their
//! links and the host may act, with failures at any moment. What is explored is
//! the production code of the decision maker, the replica and consensus, see
//! [`lab`]; how, and what is left out, see [`world`].

mod host;
mod lab;
mod machine;
mod rules;
mod scopes;
mod steps;
mod world;

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use chaos::harness::knob;
use stateright::{Checker, HasDiscoveries, Model, Path};

use host::Bug;
use world::{Action, Scope, State, World};

/// As many as the machines have that this has to run on.
const THREADS: usize = 2;

/// The steps that led to a state, for whoever has to understand it.
fn told(path: Path<State, Action>) -> String {
    let mut text = String::new();
    for (state, action) in path.into_vec() {
        let phase = state.maker.phase();
        let _ = match action {
            Some(action) => writeln!(text, "  {phase:?}: {action:?}"),
            None => writeln!(text, "  {phase:?}: {:?}\n  {state:?}", state.flaw),
        };
    }
    text
}

/// Explores all of a scope.
fn explore(scope: Scope) {
    let start = Instant::now();
    let world = World::new(scope.clone(), Bug::None);
    let (lab, seen) = (world.lab.clone(), world.seen.clone());
    // It ends when no state is left to visit: there is no limit of time, depth or
    // count, and discoveries alone end it only when every rule is broken.
    let checker = world.checker().threads(THREADS).spawn_bfs().join();
    for (name, path) in checker.discoveries() {
        let classification = checker.discovery_classification(name).to_string();
        assert_eq!(classification, "example", "{}: not so: {name}\n{}", scope.name, told(path));
    }
    // What is to be found is found.
    checker.assert_properties();
    let (locals, steps) = lab.figures();
    println!(
        "model: {}: exhausted, {} unique states, {} total, depth {}, {locals} states of single \
         replicas in {steps} steps, {:.1} s",
        scope.name,
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        start.elapsed().as_secs_f64(),
    );
    let has = |flag: &AtomicBool| flag.load(Ordering::Relaxed);
    let can_fail_over = checker.model().survives() && scope.failures > 0;
    assert!(!can_fail_over || has(&seen.candidate_failed), "no candidate failed");
    assert!(!can_fail_over || has(&seen.repetition), "nothing was emitted again");
    // It takes two deaths to blame an input, and somebody to be told.
    let may_blame = scope.poison && scope.failures > 1 && checker.model().survives();
    assert_eq!(has(&seen.quarantine), may_blame, "quarantine");
    assert_eq!(has(&seen.loss), !checker.model().survives(), "the group is given up");
}

/// `RVMM_MODEL_WIDE=1` adds scopes that take minutes, and up to a few gigabytes.
#[test]
fn every_failover_is_explored() {
    let wide = if knob("RVMM_MODEL_WIDE", 0) == 1 { scopes::wide() } else { Vec::new() };
    for scope in scopes::in_ci().into_iter().chain(wide) {
        explore(scope);
    }
}

/// A host that does wrong is caught; else the above would mean nothing.
#[test]
fn deliberate_bugs_are_found() {
    for (bug, scope, rules) in scopes::with_bugs() {
        let start = Instant::now();
        let name = scope.name;
        let checker = World::new(scope, bug)
            .checker()
            .threads(THREADS)
            .finish_when(HasDiscoveries::AnyFailures)
            .spawn_bfs()
            .join();
        let found = rules.iter().find_map(|rule| Some((rule, checker.discovery(rule)?)));
        let Some((rule, path)) = found else {
            panic!("{bug:?} does not break {rules:?}, but {:?}", checker.discoveries().keys());
        };
        println!(
            "model: {bug:?}: in {name}, \"{rule}\" does not hold after {} steps; {} unique states, \
             {:.1} s",
            path.into_actions().len(),
            checker.unique_state_count(),
            start.elapsed().as_secs_f64(),
        );
    }
}
