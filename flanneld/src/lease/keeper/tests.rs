use futures::StreamExt;

use super::*;
use crate::lease::memory::Memory;
use crate::lease::store::Event;

fn keeper(store: &Memory, last: u8, network: &str) -> Keeper {
    keeper_of(store, last, network, &format!("boot/{last}"))
}

fn keeper_of(store: &Memory, last: u8, network: &str, holder: &str) -> Keeper {
    let settings = Settings {
        network: NetworkConfig::parse(network).unwrap(),
        public: Dual { v4: Some([192, 0, 2, last].into()), v6: format!("fd00::{last}").parse().ok() },
        holder: holder.to_owned(),
        machine: None,
        backend: Advert::default(),
        ttl: 10,
        margin: Duration::from_secs(3600),
    };
    Keeper::new(Arc::new(store.clone()), settings)
}

const LARGE: &str = r#"{"Network":"10.5.0.0/16"}"#;
/// Room for three.
const SMALL: &str = r#"{"Network":"10.5.0.0/24","SubnetLen":26}"#;

#[tokio::test]
async fn a_restarted_node_gets_its_subnet_back() {
    let store = Memory::default();
    let first = keeper(&store, 1, LARGE).acquire(Dual::default()).await.unwrap();
    let again = keeper(&store, 1, LARGE).acquire(Dual::default()).await.unwrap();
    assert_eq!(first.lease, again.lease);
    assert!(again.held.mod_revision > first.held.mod_revision);
    store.delete(&encode_key(&first.lease.subnets));
    let later = keeper(&store, 1, LARGE).acquire(first.lease.subnets).await.unwrap();
    assert_eq!(later.lease, first.lease, "by the subnet of the last time");
}

#[tokio::test]
async fn nodes_that_start_together_all_get_one() {
    let store = Memory::default();
    let starts = (1..=50).map(|n| {
        let keeper = keeper(&store, n, r#"{"Network":"10.5.0.0/16","SubnetMax":"10.5.60.0"}"#);
        tokio::spawn(async move { keeper.acquire(Dual::default()).await.unwrap().lease.subnets })
    });
    let subnets = futures::future::join_all(starts).await.into_iter().map(Result::unwrap);
    assert_eq!(subnets.collect::<std::collections::BTreeSet<_>>().len(), 50);
}

#[tokio::test]
async fn when_all_are_taken_it_is_said() {
    let store = Memory::default();
    for n in 1..=3 {
        keeper(&store, n, SMALL).acquire(Dual::default()).await.unwrap();
    }
    assert!(matches!(
        keeper(&store, 4, SMALL).acquire(Dual::default()).await,
        Err(KeeperError::OutOfSubnets(Family::V4))
    ));
}

#[tokio::test]
async fn a_paused_node_never_overwrites_the_new_owner() {
    let store = Memory::default();
    let (paused, other) = (keeper(&store, 1, LARGE), keeper(&store, 2, LARGE));
    let lost = paused.acquire(Dual::default()).await.unwrap();
    store.pass(11);
    let taken = other.acquire(lost.lease.subnets).await.unwrap();
    assert_eq!(taken.lease.subnets, lost.lease.subnets);
    assert!(paused.renew(&lost).await.unwrap().is_none(), "not ours any more");
    let anew = paused.acquire(lost.lease.subnets).await.unwrap();
    assert_ne!(anew.lease.subnets, taken.lease.subnets);
    assert!(other.renew(&taken).await.unwrap().is_some());
}

#[tokio::test]
async fn it_stops_before_the_end_by_its_own_clock() {
    let store = Memory::default();
    let keeper = keeper(&store, 1, LARGE);
    let before = Instant::now();
    let owned = keeper.acquire(Dual::default()).await.unwrap();
    let until = owned.safe_until().unwrap();
    assert!(until < before + Duration::from_secs(10) && until > before + Duration::from_secs(8));
    assert!(
        keeper.due(&owned).unwrap() <= Instant::now() + Duration::from_secs(5),
        "half of its life at the latest"
    );
    store.set_down(true);
    assert!(keeper.renew(&owned).await.is_err());
    assert_eq!(owned.safe_until(), Some(until), "a failed renewal makes it no longer");
}

#[tokio::test]
async fn a_damaged_record_is_mended_and_a_new_owner_left_alone() {
    let store = Memory::default();
    let (mine, other) = (keeper(&store, 1, LARGE), keeper(&store, 2, LARGE));
    let owned = mine.acquire(Dual::default()).await.unwrap();
    let key = encode_key(&owned.lease.subnets);
    store.renew(&key, "{not json", owned.held.mod_revision, 0).await.unwrap().unwrap();
    assert!(mine.renew(&owned).await.unwrap().is_none());
    let again = mine.retake(&owned).await.unwrap();
    assert_eq!(again.lease, owned.lease, "pods keep their subnet");
    assert_ne!(again.held.lease_id, 0);

    store.pass(11);
    let taken = other.acquire(owned.lease.subnets).await.unwrap();
    let anew = mine.retake(&again).await.unwrap();
    assert_ne!(anew.lease.subnets, taken.lease.subnets);
    assert!(other.renew(&taken).await.unwrap().is_some(), "nobody wrote over it");
}

const DUAL: &str =
    r#"{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fc00::/62","Backend":{"Type":"vxlan"}}"#;

#[tokio::test]
async fn both_families_are_leased_under_one_key() {
    let store = Memory::default();
    let first = keeper(&store, 1, DUAL).acquire(Dual::default()).await.unwrap();
    let record = &store.list().await.unwrap().records[0];
    let (v4, v6) = (first.lease.subnets.v4.unwrap(), first.lease.subnets.v6.unwrap());
    assert_eq!(record.key, format!("{}-24&{}-64", v4.network(), v6.network()));
    assert_eq!(record.value, br#"{"PublicIP":"192.0.2.1","PublicIPv6":"fd00::1","Holder":"boot/1"}"#);
    // Beyond those of which one is chosen by chance.
    let previous = Dual { v4: "10.5.200.0/24".parse().ok(), v6: first.lease.subnets.v6 };
    let second = keeper(&store, 2, DUAL).acquire(previous).await.unwrap().lease.subnets;
    assert_eq!(second.v4, previous.v4, "each by itself");
    assert_ne!(second.v6, previous.v6);
    keeper(&store, 3, DUAL).acquire(Dual::default()).await.unwrap();
    let none = keeper(&store, 4, DUAL).acquire(Dual::default()).await;
    assert!(matches!(none, Err(KeeperError::OutOfSubnets(Family::V6))));
}

/// A key that names the subnet and another one doesn't keep it from being taken.
#[tokio::test]
async fn of_two_that_took_one_subnet_the_younger_gives_way() {
    let store = Memory::default();
    let value = |n: u8| format!(r#"{{"PublicIP":"192.0.2.{n}","PublicIPv6":"fd00::{n}"}}"#);
    store.create("10.5.7.0-24&fc00:0:0:1::-64", &value(7), 60).await.unwrap().unwrap();
    store.create("10.5.1.0-24&fc00:0:0:1::-64", &value(1), 60).await.unwrap().unwrap();
    let owned = keeper(&store, 1, DUAL).acquire(Dual::default()).await.unwrap().lease.subnets;
    assert_eq!(owned.v4, "10.5.1.0/24".parse().ok(), "what nobody else has stays");
    assert_ne!(owned.v6, "fc00:0:0:1::/64".parse().ok());
    let older = keeper(&store, 7, DUAL).acquire(Dual::default()).await.unwrap().lease.subnets;
    assert_eq!(encode_key(&older), "10.5.7.0-24&fc00:0:0:1::-64");
    assert_eq!(store.list().await.unwrap().records.len(), 2, "no second record of the younger");
}

#[tokio::test]
async fn a_family_more_or_less_changes_nothing_of_the_other() {
    let store = Memory::default();
    let v4 = keeper(&store, 1, LARGE).acquire(Dual::default()).await.unwrap().lease.subnets.v4;
    let both = keeper(&store, 1, DUAL).acquire(Dual::default()).await.unwrap().lease.subnets;
    assert!(both.v4 == v4 && both.v6.is_some());
    let back = keeper(&store, 1, LARGE).acquire(Dual::default()).await.unwrap().lease.subnets;
    assert_eq!(back, Dual { v4, v6: None });
    let again = keeper(&store, 1, DUAL).acquire(both).await.unwrap().lease.subnets;
    assert_eq!(again, both, "by the subnet of the last time");
    assert_eq!(store.list().await.unwrap().records.len(), 1);

    let (key, value) = ("10.5.177.0-24", r#"{"PublicIP":"192.0.2.2","PublicIPv6":null}"#);
    store.create(key, value, 0).await.unwrap().unwrap();
    let reserved = keeper(&store, 2, DUAL).acquire(Dual::default()).await.unwrap();
    assert_eq!(reserved.lease.subnets.v4, "10.5.177.0/24".parse().ok());
    assert!(reserved.reserved && reserved.held.lease_id == 0);
}

#[tokio::test]
async fn a_reservation_stays_one() {
    let store = Memory::default();
    let key = "10.5.77.0-24";
    let value = r#"{"PublicIP":"192.0.2.1","PublicIPv6":null}"#;
    let reserved = store.create(key, value, 1).await.unwrap().unwrap();
    store.renew(key, value, reserved.mod_revision, 0).await.unwrap().unwrap();
    let owned = keeper(&store, 1, LARGE).acquire(Dual::default()).await.unwrap();
    assert_eq!(owned.lease.subnets.v4, "10.5.77.0/24".parse().ok());
    assert!(owned.reserved && owned.safe_until().is_none() && owned.held.lease_id == 0);
    store.pass(1_000_000);
    assert_eq!(store.list().await.unwrap().records.len(), 1);
    let other = keeper(&store, 2, LARGE).acquire(owned.lease.subnets).await.unwrap();
    assert_ne!(other.lease.subnets, owned.lease.subnets, "nobody else takes it");
}

#[tokio::test]
async fn what_is_passed_on_is_renewed_by_the_next_process_only() {
    let store = Memory::default();
    let (old, new) = (keeper(&store, 1, DUAL), keeper(&store, 1, DUAL));
    let owned = old.acquire(Dual::default()).await.unwrap();
    let asked = Instant::now();
    let adopted = new.adopt(&owned.pass(), asked).unwrap();
    assert_eq!((&adopted.lease, adopted.held), (&owned.lease, owned.held));
    assert!(adopted.safe_until() <= owned.safe_until(), "not a moment longer");
    assert!(new.due(&adopted).unwrap() > Instant::now(), "nothing to say anew");
    let renewed = new.renew(&adopted).await.unwrap().unwrap();
    assert!(old.renew(&owned).await.unwrap().is_none(), "they do not fight");
    assert!(new.renew(&renewed).await.unwrap().is_some());

    // It is reached elsewhere, and says so at once.
    let moved = keeper(&store, 9, DUAL);
    let adopted = moved.adopt(&renewed.pass(), Instant::now()).unwrap();
    assert!(moved.due(&adopted).unwrap() <= Instant::now());
    assert!(adopted.is_of(&owned.lease.public) && adopted.is_of(&adopted.lease.public));
    for elsewhere in [LARGE, r#"{"Network":"10.6.0.0/16"}"#] {
        assert!(keeper(&store, 1, elsewhere).adopt(&renewed.pass(), Instant::now()).is_none());
    }
}

/// The same address on two hosts.
#[tokio::test(start_paused = true)]
async fn a_live_holder_keeps_its_lease_and_a_dead_ones_goes_to_its_heir() {
    let store = Memory::default();
    let (first, second) = (keeper_of(&store, 1, LARGE, "first/1"), keeper_of(&store, 1, LARGE, "second/1"));
    let mut owned = first.acquire(Dual::default()).await.unwrap();
    let mut events = store.watch(owned.held.mod_revision).await.unwrap();
    let rival = tokio::spawn(async move { (second.acquire(Dual::default()).await, second) });
    let (seen, _) = events.next().await.unwrap().unwrap();
    let Event::Put(record) = &seen[0] else { panic!("{seen:?}") };
    let holding = Holding::of(&record.value);
    assert!(first.holds(&holding) && holding.claimant.is_some());
    assert!(first.answer(&mut owned, &holding, record.mod_revision));
    owned = first.renew(&owned).await.unwrap().unwrap();
    let (answer, second) = rival.await.unwrap();
    let error = answer.unwrap_err().to_string();
    assert!(error.contains("is another host's, too"), "{error}");
    assert!(first.renew(&owned).await.unwrap().is_some(), "nothing was lost");

    // The first one is dead, or its host was installed anew.
    let before = Instant::now();
    let heir = second.acquire(Dual::default()).await.unwrap();
    assert_eq!((heir.lease.subnets, before.elapsed()), (owned.lease.subnets, CLAIM));
    let record = store.list().await.unwrap().records.remove(0);
    assert!(
        !first.holds(&Holding::of(&record.value)),
        "the first one would see that it is not its own any more"
    );
    assert!(first.renew(&owned).await.unwrap().is_none());
    // A restart of the same host asks nobody, nor does who finds a lease of Go flannel's.
    let before = Instant::now();
    assert_eq!(second.acquire(Dual::default()).await.unwrap().lease, heir.lease);
    store.create("10.5.7.0-24", r#"{"PublicIP":"192.0.2.7","PublicIPv6":null}"#, 60).await.unwrap();
    assert_eq!(
        keeper(&store, 7, LARGE).acquire(Dual::default()).await.unwrap().lease.subnets.v4,
        "10.5.7.0/24".parse().ok()
    );
    assert_eq!(before.elapsed(), Duration::ZERO);
}

/// Started again with another address: nothing but the machine is the same.
#[tokio::test(start_paused = true)]
async fn a_machine_that_was_started_again_with_another_address_keeps_its_subnet() {
    let store = Memory::default();
    let of_machine = |last, holder: &str| {
        let mut keeper = keeper_of(&store, last, LARGE, holder);
        keeper.settings.machine = Some("machine".to_owned());
        keeper
    };
    let before = of_machine(1, "first/1").acquire(Dual::default()).await.unwrap();
    let (start, again) = (Instant::now(), of_machine(9, "second/1"));
    let mut owned = again.acquire(Dual::default()).await.unwrap();
    assert_eq!((owned.lease.subnets, start.elapsed()), (before.lease.subnets, CLAIM));
    let records = store.list().await.unwrap().records;
    let value = String::from_utf8(records[0].value.clone()).unwrap();
    assert!(records.len() == 1 && value.starts_with(r#"{"PublicIP":"192.0.2.9""#), "{value}");

    // A copy of the machine finds out that it is one, and is told of no rival.
    let mut events = store.watch(owned.held.mod_revision).await.unwrap();
    let copy = of_machine(5, "copy/1");
    let copy = tokio::spawn(async move { copy.acquire(Dual::default()).await });
    let (seen, _) = events.next().await.unwrap().unwrap();
    let Event::Put(record) = &seen[0] else { panic!("{seen:?}") };
    assert!(again.answer(&mut owned, &Holding::of(&record.value), record.mod_revision));
    let owned = again.renew(&owned).await.unwrap().unwrap();
    let copy = copy.await.unwrap().unwrap();
    assert_ne!(copy.lease.subnets, owned.lease.subnets);
    assert!(again.renew(&owned).await.unwrap().is_some(), "nothing was lost");
}

#[tokio::test]
async fn a_renewal_is_seen_by_the_others() {
    let store = Memory::default();
    let keeper = keeper(&store, 1, LARGE);
    let owned = keeper.acquire(Dual::default()).await.unwrap();
    let mut events = store.watch(owned.held.mod_revision).await.unwrap();
    let renewed = keeper.renew(&owned).await.unwrap().unwrap();
    let (seen, revision) = events.next().await.unwrap().unwrap();
    assert!(matches!(&seen[0], Event::Put(record) if record.mod_revision == renewed.held.mod_revision));
    assert_eq!(revision, renewed.held.mod_revision);
}
