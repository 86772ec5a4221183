//! The table against a model of the kernel's maps: whatever happens, and wherever it stops, every
//! service that a reader finds is complete.

use std::net::{IpAddr, Ipv4Addr};

use kernelet_ebpf_abi::{TCP, UDP};
use proptest::prelude::*;

use super::*;
use crate::services::key;

/// The maps, as the kernel would hold them.
#[derive(Clone, Debug, Default)]
struct Kernel {
    services: BTreeMap<ServiceKey, Service>,
    backends: BTreeMap<u32, Backend>,
    names: BTreeMap<u32, String>,
    extents: BTreeMap<u32, u32>,
}

impl Kernel {
    fn run(&mut self, step: &Step) {
        match step {
            Step::PutBackend { id, backend } => {
                assert!(
                    self.backends.insert(*id, *backend).is_none(),
                    "id {id} is in use"
                );
            }
            Step::PutExtent { start, ids } => {
                for (slot, id) in (*start..).zip(ids) {
                    self.extents.insert(slot, *id);
                }
            }
            Step::PutName { id, name } => {
                self.names.insert(*id, name.clone());
            }
            Step::PutService { key, service } => {
                self.services.insert(*key, *service);
            }
            Step::RemoveService { key } => {
                assert!(self.services.remove(key).is_some());
            }
            Step::RemoveBackend { id } => {
                assert!(self.backends.remove(id).is_some());
            }
            Step::RemoveName { id } => {
                assert!(self.names.remove(id).is_some());
            }
        }
    }

    /// What a connection to `key` may lead to; panics when a reader would find something missing.
    fn read(&self, key: &ServiceKey) -> Option<BTreeSet<BackendSpec>> {
        let service = self.services.get(key)?;
        let mut found = BTreeSet::new();
        for slot in service.extent..service.extent + service.count {
            let id = self.extents.get(&slot).expect("a slot that was written");
            let backend = self.backends.get(id).expect("a backend that is there");
            assert_eq!(backend.service, service.id, "the backend is this service's");
            found.insert(spec_of(backend));
        }
        assert_eq!(found.len(), service.count as usize);
        Some(found)
    }

    fn found(&self) -> Found {
        Found {
            services: self
                .services
                .iter()
                .map(|(key, service)| {
                    let ids = (service.extent..service.extent + service.count)
                        .map(|slot| self.extents[&slot])
                        .collect();
                    (*key, *service, ids)
                })
                .collect(),
            backends: self
                .backends
                .iter()
                .map(|(id, backend)| (*id, *backend))
                .collect(),
            named: self.names.keys().copied().collect(),
        }
    }
}

fn spec(number: u8, protocol: u8, backends: &[u8]) -> ServiceSpec {
    ServiceSpec {
        key: key(IpAddr::V4(Ipv4Addr::new(10, 96, 0, number)), 80, protocol),
        name: format!("default/s{number}:80"),
        affinity_s: 0,
        flags: 1,
        backends: backends
            .iter()
            .map(|last| BackendSpec {
                address: Ipv4Addr::new(10, 244, 0, *last).into(),
                port: 8080,
            })
            .collect(),
    }
}

const NOW: Duration = Duration::from_secs(100);

#[test]
fn an_unchanged_service_needs_no_step_and_one_endpoint_costs_the_same_among_many() {
    let mut table = Table::default();
    let (changes, result) = table.set("default/a", &[spec(1, TCP, &[1, 2, 3])], NOW);
    assert_eq!(result, Ok(()));
    assert_eq!(changes.steps.len(), 3 + 1 + 1 + 1);
    let (changes, _) = table.set("default/a", &[spec(1, TCP, &[1, 2, 3])], NOW);
    assert_eq!(changes, Changes::default());
    for other in 2..200 {
        table
            .set(&format!("default/{other}"), &[spec(other, TCP, &[9])], NOW)
            .1
            .expect("room");
    }
    let (changes, _) = table.set("default/a", &[spec(1, TCP, &[1, 2, 3, 4])], NOW);
    assert!(matches!(
        changes.steps.as_slice(),
        [
            Step::PutBackend { .. },
            Step::PutExtent { .. },
            Step::PutService { .. }
        ]
    ));
}

#[test]
fn a_backend_goes_only_after_the_commit_and_udp_ones_are_named() {
    let mut table = Table::default();
    table
        .set("default/a", &[spec(1, UDP, &[1, 2])], NOW)
        .1
        .expect("room");
    let (changes, _) = table.set("default/a", &[spec(1, UDP, &[2, 3])], NOW);
    let kinds: Vec<&str> = changes
        .steps
        .iter()
        .map(|step| match step {
            Step::PutBackend { .. } => "backend",
            Step::PutExtent { .. } => "extent",
            Step::PutService { .. } => "service",
            Step::RemoveBackend { .. } => "remove",
            _ => "other",
        })
        .collect();
    assert_eq!(kinds, ["backend", "extent", "service", "remove"]);
    let backend = *spec(1, UDP, &[1]).backends.first().expect("one");
    assert_eq!(
        changes.removed_udp,
        [RemovedUdp {
            id: 1,
            service: 1,
            backend
        }]
    );
}

#[test]
fn a_full_array_is_an_error_that_names_the_service_and_changes_nothing() {
    let mut table = Table {
        slots: Slots::new(4),
        ..Table::default()
    };
    table
        .set("default/a", &[spec(1, TCP, &[1, 2, 3])], NOW)
        .1
        .expect("room");
    let (changes, result) = table.set("default/b", &[spec(2, TCP, &[1, 2])], NOW);
    assert_eq!(changes.steps, []);
    assert_eq!(
        result,
        Err(TableError::NoSlots {
            name: "default/s2:80".into(),
            needed: 2
        })
    );
    // What rests is free again after its time.
    table
        .set("default/a", &[], NOW)
        .1
        .expect("nothing to place");
    let (_, result) = table.set("default/b", &[spec(2, TCP, &[1, 2, 3, 4])], NOW);
    assert!(result.is_err());
    let (_, result) = table.set("default/b", &[spec(2, TCP, &[1, 2, 3, 4])], NOW + GRACE);
    assert_eq!(result, Ok(()));
}

#[test]
fn an_address_that_moves_to_another_service_is_not_taken_away_by_the_first() {
    let mut table = Table::default();
    let mut kernel = Kernel::default();
    let mut set = |table: &mut Table, owner: &str, wanted: &[ServiceSpec]| {
        table
            .set(owner, wanted, NOW)
            .0
            .steps
            .iter()
            .for_each(|step| kernel.run(step));
        kernel.clone()
    };
    set(&mut table, "default/a", &[spec(1, TCP, &[1])]);
    set(&mut table, "default/b", &[spec(1, TCP, &[2])]);
    let kernel = set(&mut table, "default/a", &[]);
    assert_eq!(
        kernel.read(&spec(1, TCP, &[]).key),
        Some(spec(1, TCP, &[2]).backends)
    );
}

#[test]
fn after_a_failed_step_everything_of_the_owner_is_written_anew() {
    let mut table = Table::default();
    let wanted = [spec(1, UDP, &[1, 2])];
    // The kernel saw nothing of it.
    table.set("default/a", &wanted, NOW).1.expect("room");
    table.distrust("default/a");
    let (changes, result) = table.set("default/a", &wanted, NOW);
    assert_eq!(result, Ok(()));
    let puts = |wanted: fn(&Step) -> bool| changes.steps.iter().filter(|step| wanted(step)).count();
    assert_eq!(puts(|step| matches!(step, Step::PutBackend { .. })), 2);
    assert_eq!(puts(|step| matches!(step, Step::PutName { .. })), 1);
    assert_eq!(puts(|step| matches!(step, Step::PutService { .. })), 1);
    assert_eq!(puts(|step| matches!(step, Step::RemoveBackend { .. })), 2);
    assert_eq!(table.set("default/a", &wanted, NOW).0, Changes::default());
}

#[derive(Clone, Debug)]
enum Operation {
    Set {
        service: u8,
        protocol: u8,
        backends: Vec<u8>,
    },
    Remove {
        service: u8,
    },
    /// The agent dies before its steps are all done, and starts anew from what the kernel holds.
    Crash {
        after: usize,
    },
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        4 => (0_u8..6, any::<bool>(), proptest::collection::vec(1_u8..12, 0..6)).prop_map(
            |(service, udp, backends)| Operation::Set {
                service,
                protocol: if udp { UDP } else { TCP },
                backends,
            }
        ),
        1 => (0_u8..6).prop_map(|service| Operation::Remove { service }),
        1 => (0_usize..5).prop_map(|after| Operation::Crash { after }),
    ]
}

proptest! {
    #[test]
    fn at_every_step_a_reader_finds_the_old_set_or_the_new_one(
        operations in proptest::collection::vec((operation(), 0_u64..3), 1..60)
    ) {
        let mut table = Table::default();
        let mut kernel = Kernel::default();
        let mut wanted: BTreeMap<u8, ServiceSpec> = BTreeMap::new();
        let mut now = NOW;
        let mut stop_after = None;
        for (operation, seconds) in operations {
            now += Duration::from_secs(seconds);
            let changed = match operation {
                Operation::Set { service, protocol, backends } => {
                    // A service's protocol is part of its key; one entry an owner keeps the model plain.
                    let spec = spec(service, protocol, &backends);
                    wanted.insert(service, spec.clone());
                    vec![(service, vec![spec])]
                }
                Operation::Remove { service } => {
                    wanted.remove(&service);
                    vec![(service, vec![])]
                }
                Operation::Crash { after } => {
                    stop_after = Some(after);
                    continue;
                }
            };
            for (service, specs) in changed {
                let (changes, result) = table.set(&format!("default/{service}"), &specs, now);
                prop_assert_eq!(result, Ok(()));
                let limit = stop_after.take().unwrap_or(usize::MAX);
                let complete = changes.steps.len() <= limit;
                for step in changes.steps.iter().take(limit) {
                    let before: Vec<_> =
                        kernel.services.keys().map(|key| (*key, kernel.read(key))).collect();
                    kernel.run(step);
                    for (key, old) in before {
                        let new = kernel.read(&key);
                        let target = wanted.values().find(|spec| spec.key == key);
                        prop_assert!(
                            new == old || new == target.map(|spec| spec.backends.clone()),
                            "neither the old set nor the new one"
                        );
                    }
                }
                if !complete {
                    // A new agent: adopts, sets everything, and only then removes.
                    table = Table::adopt(&kernel.found());
                    for (service, spec) in &wanted {
                        let (changes, result) =
                            table.set(&format!("default/{service}"), std::slice::from_ref(spec), now);
                        prop_assert_eq!(result, Ok(()));
                        changes.steps.iter().for_each(|step| kernel.run(step));
                    }
                    table.finish_sync(now).steps.iter().for_each(|step| kernel.run(step));
                }
            }
        }
        // In the end the kernel holds what is wanted, and nothing else.
        let keys: BTreeSet<ServiceKey> = kernel.services.keys().copied().collect();
        prop_assert_eq!(keys, wanted.values().map(|spec| spec.key).collect::<BTreeSet<_>>());
        for spec in wanted.values() {
            prop_assert_eq!(kernel.read(&spec.key), Some(spec.backends.clone()));
        }
        let referenced: usize = wanted.values().map(|spec| spec.backends.len()).sum();
        prop_assert_eq!(kernel.backends.len(), referenced);
        prop_assert_eq!(kernel.names.len(), wanted.len());
    }
}
