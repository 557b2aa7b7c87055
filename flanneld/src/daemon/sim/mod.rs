//! The lease protocol, run again and again in virtual time with everything going wrong: the keeper, the feed, the renewal and
//! the follower are the daemon's own; the store is the one in memory behind a line that delays, loses and cuts.
//!
//! Chance is seeded, so a run that fails can be had again by its seed. Defects are planted, too: each must be found.

mod store;
mod world;

use std::sync::Arc;
use std::time::Duration;

use ipnetwork::IpNetwork;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::feed::Feed;
use super::insist;
use super::keep::{Fate, absorb};
use super::renewal::{Renewal, wait_until};
use crate::chance;
use crate::family::Dual;
use crate::lease::follow::Follower;
use crate::lease::keeper::{Keeper, Owned, Settings};
use crate::lease::key::{Advert, Lease, encode_key};
use crate::lease::store::LeaseStore;
use store::Link;
use world::{Bug, TICK, World, addresses};

const NODES: usize = 3;
/// In seconds.
const TTL: i64 = 10;
/// Two subnets for three nodes: whoever is late finds another in its place.
const SCARCE: &str = r#"{"Network":"10.5.0.0/24","SubnetLen":26,"SubnetMax":"10.5.0.128"}"#;
const AMPLE: &str = r#"{"Network":"10.5.0.0/16"}"#;
/// Three IPv6 subnets for three nodes, and so many of IPv4 that their keys are hardly ever the same.
const DUAL: &str =
    r#"{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fc00::/62","Backend":{"Type":"vxlan"}}"#;
/// Without disturbance everything is as it should be after this time.
const SETTLE: Duration = Duration::from_secs(45);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// SIGSTOP.
    Pause,
    /// Nothing arrives, either way.
    Cut,
    /// Requests are applied, answers are lost.
    Lossy,
    /// Requests and answers take longer than anybody waits.
    Slow,
    /// Killed, and started again.
    Restart,
    /// The history is compacted, the watch ends.
    Break,
}

const FAULTS: [Fault; 6] =
    [Fault::Pause, Fault::Cut, Fault::Lossy, Fault::Slow, Fault::Restart, Fault::Break];

/// A fault of a node: how long after the one before, and for how long.
type Step = (Duration, Fault, usize, Duration);

struct Run {
    config: &'static str,
    reserved: bool,
    bug: Bug,
    /// The first and the last node have one address.
    twins: bool,
    seed: u64,
    steps: Vec<Step>,
}

fn fence(world: &World, owned: &Owned) -> Option<Instant> {
    match world.bug {
        Bug::NoFence => None,
        Bug::LateFence => {
            owned.safe_until().map(|_| Instant::now() + Duration::from_secs(TTL.unsigned_abs()).mul_f64(0.9))
        }
        _ => owned.safe_until(),
    }
}

/// A node's life, as in `keep.rs`, without a network below it.
async fn live(world: Arc<World>, node: usize, keeper: Keeper, previous: Dual<IpNetwork>) {
    let store: Arc<dyn LeaseStore> = Arc::new(Link::new(world.clone(), node));
    let mut follower = Follower::new(world.config.clone());
    let mut owned = insist(async || keeper.acquire(previous).await).await;
    loop {
        let mut until = fence(&world, &owned);
        world.believe(node, Some(&owned), until);
        let mut feed = Feed::new(store.clone(), owned.held.mod_revision);
        let mut renewal = Renewal::new(keeper.clone(), &owned);
        loop {
            tokio::select! {
                biased;
                item = feed.next() => {
                    let fate = absorb(item, &mut follower, &mut owned, Some(&keeper));
                    world.see(node, &follower);
                    match fate {
                        Fate::Ours => {}
                        Fate::Claimed => renewal.at_once(),
                        Fate::Lost | Fate::Doubtful => break,
                    }
                }
                renewed = renewal.next(&owned) => match renewed {
                    Some(renewed) => {
                        owned = renewed;
                        until = fence(&world, &owned);
                        world.believe(node, Some(&owned), until);
                    }
                    None => break,
                },
                () = wait_until(until) => break,
            }
        }
        world.believe(node, None, None);
        owned = insist(async || keeper.retake(&owned).await).await;
    }
}

/// Runs a future, but not while the gate says that the process is stopped.
async fn stoppable(world: Arc<World>, node: usize, keeper: Keeper, previous: Dual<IpNetwork>) {
    let mut gate = world.gate(node);
    let mut life = std::pin::pin!(live(world, node, keeper, previous));
    loop {
        tokio::select! {
            biased;
            stopped = gate.wait_for(|stopped| *stopped) => if stopped.is_err() { return },
            () = &mut life => return,
        }
        if gate.wait_for(|stopped| !*stopped).await.is_err() {
            return;
        }
    }
}

fn start(world: &Arc<World>, node: usize) -> JoinHandle<()> {
    let settings = Settings {
        network: world.config.clone(),
        public: world.addresses(node),
        holder: format!("boot/{node}"),
        machine: None,
        backend: Advert::default(),
        ttl: TTL,
        margin: Duration::from_secs(5),
    };
    let keeper = Keeper::new(Arc::new(Link::new(world.clone(), node)), settings);
    world.set_up(node, true);
    tokio::task::spawn_local(stoppable(world.clone(), node, keeper, Dual::default()))
}

async fn inflict(world: &Arc<World>, nodes: &mut [JoinHandle<()>], (gap, fault, node, length): Step) {
    sleep(gap).await;
    let set: fn(&World, usize, bool) = match fault {
        Fault::Pause => World::set_paused,
        Fault::Cut => World::set_cut,
        Fault::Lossy => World::set_lossy,
        Fault::Slow => World::set_slow,
        Fault::Break => return world.break_watch(node),
        Fault::Restart => {
            nodes[node].abort();
            world.set_up(node, false);
            sleep(length).await;
            nodes[node] = start(world, node);
            return;
        }
    };
    set(world, node, true);
    let world = world.clone();
    tokio::spawn(async move {
        sleep(length).await;
        set(&world, node, false);
    });
}

/// What was found, and the trace.
fn play(run: &Run) -> (Vec<String>, Vec<String>) {
    chance::seed(run.seed);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let (v4, v6) =
            if run.config == DUAL { ("10.5.7.0/24", "fc00:0:0:2::/64") } else { ("10.5.0.64/26", "") };
        let reserved = run.reserved.then(|| Dual { v4: v4.parse().ok(), v6: v6.parse().ok() });
        let world = Arc::new(World::new(NODES, run.config, reserved, run.bug).with_twins(run.twins));
        if let Some(subnets) = reserved {
            let public = Dual::of(|family| subnets.get(family).and(addresses(0).get(family).copied()));
            let lease = Lease { subnets, public, backend: Advert::default() };
            world.memory.create(&encode_key(&subnets), &lease.encode(), 0).await.unwrap();
        }
        let clock = world.clone();
        tokio::spawn(async move {
            loop {
                sleep(TICK).await;
                clock.memory.pass(1);
                clock.check();
            }
        });
        let mut nodes: Vec<JoinHandle<()>> = (0..NODES).map(|node| start(&world, node)).collect();
        let longest = run.steps.iter().map(|step| step.3).max().unwrap_or_default();
        for step in &run.steps {
            inflict(&world, &mut nodes, *step).await;
        }
        sleep(longest + SETTLE).await;
        let most = if run.config == SCARCE { NODES - 1 } else { NODES };
        // Of twins that start at the same moment each may have one.
        let least = if run.twins { most - 1 } else { most };
        let (mut found, trace) = world.report();
        if !(least..=most).contains(&world.using()) {
            found.push(format!("{} nodes have a subnet at the end, not {most}", world.using()));
        }
        (found, trace)
    })
}

/// A run by chance.
fn random(seed: u64, bug: Bug) -> Run {
    chance::seed(seed);
    let seconds = |most: f64| Duration::from_secs_f64(chance::factor(0.0..most));
    let steps = (0..8)
        .map(|_| (seconds(8.0), FAULTS[chance::below(FAULTS.len())], chance::below(NODES), seconds(25.0)))
        .collect();
    let config = match seed % 4 {
        2 => DUAL,
        3 => AMPLE,
        _ => SCARCE,
    };
    Run { config, reserved: seed % 4 == 1 || seed % 8 == 6, bug, twins: false, seed, steps }
}

#[test]
fn no_subnet_has_two_owners_whatever_goes_wrong() {
    for seed in 0..300 {
        let run = random(seed, Bug::None);
        let (found, trace) = play(&run);
        assert!(found.is_empty(), "seed {seed}: {found:#?}\n{:#?}\n{trace:#?}", run.steps);
    }
}

/// Every pair of faults, of the same node or of two, at the moment where they hurt: the second while the first lasts.
#[test]
fn every_short_schedule_is_survived() {
    let (gap, length) = (Duration::from_secs(4), Duration::from_secs(14));
    for (first, second) in FAULTS.iter().flat_map(|first| FAULTS.iter().map(move |second| (*first, *second)))
    {
        for (node, config) in (0..NODES).map(|node| (node, SCARCE)).chain([(1, DUAL)]) {
            let steps = vec![(gap, first, 0, length), (gap, second, node, length)];
            let run = Run { config, reserved: false, bug: Bug::None, twins: false, seed: 7, steps };
            let (found, trace) = play(&run);
            assert!(found.is_empty(), "{:?}: {found:#?}\n{trace:#?}", run.steps);
        }
    }
}

/// Two hosts have one address. As long as the one that has the lease can be asked, the other one does not get it; when it is killed, its
/// heir has the subnet. (A holder that is cut off from the store loses a claim: its word is all that tells it from a dead one.)
#[test]
fn of_two_hosts_with_one_address_one_has_the_subnet() {
    for seed in 0..100 {
        let faults = [Fault::Restart, Fault::Break];
        let steps = random(seed, Bug::None).steps.into_iter();
        let steps =
            steps.map(|(gap, _, node, length)| (gap, faults[chance::below(2)], node, length)).collect();
        let run = Run { config: AMPLE, reserved: false, bug: Bug::None, twins: true, seed, steps };
        let (found, trace) = play(&run);
        assert!(found.is_empty(), "seed {seed}: {found:#?}\n{:#?}\n{trace:#?}", run.steps);
    }
}

#[test]
fn a_seed_is_a_run() {
    assert_eq!(play(&random(5, Bug::None)).1, play(&random(5, Bug::None)).1);
    assert_ne!(play(&random(5, Bug::None)).1, play(&random(6, Bug::None)).1);
}

#[test]
fn planted_defects_are_found() {
    let said = [
        (Bug::PlainCreate, "uses"),
        (Bug::PlainRenew, "uses"),
        (Bug::NoFence, "uses"),
        (Bug::LateFence, "uses"),
        (Bug::NoSecondLook, "uses"),
        (Bug::AgeIgnored, "uses"),
        (Bug::WatchSkipsOne, "does not see"),
    ];
    for (bug, said) in said {
        let found = (0..300).find(|seed| play(&random(*seed, bug)).0.iter().any(|line| line.contains(said)));
        assert!(found.is_some(), "{bug:?} is not found");
        println!("{bug:?}: found with seed {found:?}");
    }
}
