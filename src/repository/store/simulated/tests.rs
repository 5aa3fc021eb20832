use super::*;
use crate::repository::store::StoreErrorKind as Kind;

fn kind<T>(result: Result<T, StoreError>) -> Kind {
    result.err().expect("it must fail").kind()
}

fn names(store: &SimulatedStore) -> Vec<String> {
    store.list("").expect("a list").into_iter().map(|listed| listed.name).collect()
}

/// What is there after the power was cut, for many seeds: each different outcome once.
fn outcomes(run: impl Fn(&Simulation)) -> Vec<String> {
    let mut found: Vec<String> = (0..100)
        .map(|seed| {
            let simulation = Simulation::new(seed, Faults::default());
            run(&simulation);
            names(&simulation.after_power_cut().client()).join(" ")
        })
        .collect();
    found.sort();
    found.dedup();
    found
}

#[test]
fn what_was_not_synced_survives_a_power_cut_or_not() {
    let found = outcomes(|simulation| {
        let store = simulation.client();
        store.put("a", b"a").expect("a put");
        store.sync().expect("a sync");
        store.put("b", b"b").expect("a put");
        store.put("c", b"c").expect("a put");
    });
    // Also the later one without the earlier.
    assert_eq!(found, ["a", "a b", "a b c", "a c"]);
}

#[test]
fn what_was_deleted_and_not_synced_may_come_back() {
    let delete = |simulation: &Simulation| {
        let store = simulation.client();
        store.put("a", b"a").expect("a put");
        store.sync().expect("a sync");
        store.delete("a").expect("a delete");
        store
    };
    assert_eq!(outcomes(|simulation| drop(delete(simulation))), ["", "a"]);
    assert_eq!(outcomes(|simulation| delete(simulation).sync().expect("a sync")), [""]);
}

#[test]
fn a_sync_is_for_what_its_own_client_did_or_met() {
    let put_and_sync_by_another = |simulation: &Simulation, meets: bool| {
        let (first, second) = (simulation.client(), simulation.client());
        first.put("a", b"a").expect("a put");
        if meets {
            assert_eq!(kind(second.put("a", b"other")), Kind::AlreadyExists);
        }
        second.sync().expect("a sync");
    };
    assert_eq!(outcomes(|simulation| put_and_sync_by_another(simulation, false)), ["", "a"]);
    assert_eq!(outcomes(|simulation| put_and_sync_by_another(simulation, true)), ["a"]);
}

#[test]
fn after_a_power_cut_nothing_works_for_anybody() {
    for number in 1..=5 {
        let simulation = Simulation::new(number, Faults::default());
        let (store, other) = (simulation.client(), simulation.client());
        simulation.cut_power_at(number);
        let results: Vec<bool> = (0..5).map(|name| store.put(&name.to_string(), b"x").is_ok()).collect();
        let expected: Vec<bool> = (1..=5).map(|operation| operation < number).collect();
        assert_eq!(results, expected);
        assert!(simulation.is_power_cut());
        assert_eq!(simulation.counts().operations(), number);
        let error = other.list("").expect_err("no power");
        assert_eq!(std::error::Error::source(&error).expect("a cause").to_string(), "power cut");
        assert_eq!(kind(other.sync()), Kind::Io);
        assert_eq!(simulation.after_power_cut().client().get("0", 1).map_or(0, |bytes| bytes.len()) & !1, 0);
    }
}

#[test]
fn a_lost_answer_may_mean_done_not_done_or_not_yet() {
    let faults = Faults { unclear: 1000, max_delay_operations: 3, ..Faults::default() };
    let (mut now, mut later, mut never) = (0, 0, 0);
    for seed in 0..100 {
        let simulation = Simulation::new(seed, faults);
        let store = simulation.client();
        assert_eq!(kind(store.put("a", b"a")), Kind::Unclear);
        simulation.set_faults(Faults::default());
        let found = (0..5).position(|_| store.get("a", 1).is_ok());
        match found {
            Some(0) => now += 1,
            Some(_) => later += 1,
            None => never += 1,
        }
    }
    assert!(now > 20 && later > 10 && never > 20, "{now} {later} {never}");
}

#[test]
fn a_request_that_comes_late_does_not_replace() {
    let faults = Faults { unclear: 1000, max_delay_operations: 2, ..Faults::default() };
    for seed in 0..50 {
        let simulation = Simulation::new(seed, faults);
        let (late, store) = (simulation.client(), simulation.client());
        assert_eq!(kind(late.put("a", b"late")), Kind::Unclear);
        simulation.set_faults(Faults::default());
        let expected: &[u8] = match store.put("a", b"soon") {
            Ok(()) => b"soon",
            Err(_) => b"late",
        };
        for _ in 0..5 {
            assert_eq!(store.get("a", 4).expect("a get"), expected);
        }
    }
}

#[test]
fn a_full_store_and_a_failure_change_nothing() {
    let simulation = Simulation::new(1, Faults { no_space: 1000, ..Faults::default() });
    let (store, other) = (simulation.client(), simulation.client());
    let error = store.put("a", b"a").expect_err("it is full");
    assert_eq!(error.kind(), Kind::NoSpace);
    assert_eq!(crate::error::Error::from(error).kind(), crate::error::Kind::NoSpace);
    simulation.set_faults(Faults { failure: 1000, ..Faults::default() });
    assert_eq!(kind(store.put("a", b"a")), Kind::Io);
    assert_eq!(kind(store.list("")), Kind::Io);
    assert_eq!(kind(store.sync()), Kind::Io);
    simulation.set_faults(Faults::default());
    assert_eq!(kind(store.list("")), Kind::Io, "a sync had failed");
    assert_eq!(names(&other), [""; 0]);
}

#[test]
fn a_listing_may_show_what_comes_or_goes_meanwhile_and_shows_the_rest() {
    let mut found = Vec::new();
    for seed in 0..50 {
        let simulation = Simulation::new(seed, Faults::default());
        let (store, other) = (simulation.client(), simulation.client());
        store.put("goes", b"x").expect("a put");
        store.put("stays", b"x").expect("a put");
        simulation.during_next_list(move || {
            other.put("comes", b"x").expect("a put");
            other.delete("goes").expect("a delete");
        });
        found.push(names(&store).join(" "));
        assert_eq!(names(&store), ["comes", "stays"]);
    }
    found.sort();
    found.dedup();
    assert_eq!(found, ["comes goes stays", "comes stays", "goes stays", "stays"]);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let faults = Faults { unclear: 200, max_delay_operations: 5, no_space: 50, failure: 100, give_way: 100 };
    let run = |seed| {
        let simulation = Simulation::new(seed, faults);
        let stores = [simulation.client(), simulation.client()];
        let step = |number: usize| match number % 5 {
            0 | 1 => format!("{:?}", stores[number % 2].put(&(number % 17).to_string(), &[number as u8])),
            2 => format!("{:?}", stores[number % 2].delete(&(number % 19).to_string())),
            3 => format!("{:?}", stores[number % 2].list("")),
            _ => format!("{:?}", stores[number % 2].get("3", 1)),
        };
        let steps: Vec<String> = (0..500).map(step).collect();
        simulation.set_faults(Faults::default());
        (steps, names(&simulation.after_power_cut().client()))
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}

#[test]
fn operations_and_bytes_are_counted_by_kind() {
    let simulation = Simulation::new(1, Faults::default());
    let store = simulation.client();
    store.put("a", &[1; 100]).expect("a put");
    store.put("a", &[1; 100]).expect_err("it is taken");
    store.get("a", 100).expect("a get");
    store.get_range("a", 10, &mut [0; 20]).expect("a range");
    store.sync().expect("a sync");
    let count = |operation| (simulation.counts().of(operation).operations, simulation.counts().of(operation).bytes);
    assert_eq!(count(Operation::Put), (2, 200));
    assert_eq!(count(Operation::Get), (1, 100));
    assert_eq!(count(Operation::GetRange), (1, 20));
    assert_eq!(count(Operation::Sync), (1, 0));
    assert_eq!(count(Operation::List), (0, 0));
    assert_eq!(simulation.counts().operations(), 5);
}
