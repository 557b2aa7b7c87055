//! The ring, its bounds, and what a listing tells.

use super::*;

fn put(name: &str, revision: Revision) -> Event {
    let value = format!(r#"{{"kind":"ConfigMap","metadata":{{"name":"{name}","namespace":"n"}}}}"#);
    let key = format!("/registry/configmaps/n/{name}");
    let current = KeyValue { key, value: value.into(), create_revision: revision, mod_revision: revision };
    Event::Put { current, previous: None }
}

fn cache() -> Cache {
    Cache::new(crate::resources::by_plural("configmaps").unwrap())
}

#[test]
fn a_cursor_that_the_ring_has_passed_is_too_old() {
    let cache = cache();
    let last = Revision::try_from(RING).unwrap() + 10;
    for revision in 1..=last {
        cache.apply(&put("m", revision));
    }
    cache.tell();
    assert_eq!(cache.changes_after(5, 1).unwrap_err(), TooOld { oldest: 10 });
    assert_eq!(cache.changes_after(10, usize::MAX).unwrap().len(), RING);
    assert_eq!(cache.changes_after(last, usize::MAX).unwrap().len(), 0);
    assert_eq!(cache.list("/registry/configmaps/n/").len(), 1);
}

#[test]
fn changes_of_a_revision_are_told_together() {
    let cache = cache();
    cache.apply(&put("a", 1));
    assert_eq!(cache.changes_after(0, 9).unwrap().len(), 0, "the revision may not be complete");
    cache.apply(&put("b", 1));
    cache.tell();
    assert_eq!(cache.changes_after(0, 9).unwrap().len(), 2);
    cache.apply(&put("c", 2));
    cache.tell();
    assert_eq!(cache.changes_after(0, 1).unwrap().len(), 2, "no revision is split");
    assert_eq!(cache.changes_after(1, 1).unwrap().len(), 1);
}

#[test]
fn the_ring_is_bounded_in_bytes() {
    let cache = cache();
    let large = "x".repeat(RING_BYTES / 4);
    for revision in 1..=9 {
        let Event::Put { mut current, previous } = put("m", revision) else { unreachable!() };
        current.value =
            String::from_utf8(current.value.to_vec()).unwrap().replace("ConfigMap", &large).into();
        cache.apply(&Event::Put { current, previous });
        assert!(cache.state.read().ring_bytes <= RING_BYTES);
    }
    cache.tell();
    assert_eq!(cache.changes_after(1, 9).unwrap_err(), TooOld { oldest: 6 });
    assert_eq!(cache.changes_after(6, 9).unwrap().len(), 3);
}

#[test]
fn an_empty_cache_tells_what_a_new_listing_brings() {
    let cache = cache();
    cache.fill(&[], 3);
    let seen = cache.subscribe();
    let Event::Put { current, .. } = put("new", 5) else { unreachable!() };
    cache.replace(&[current], 6);
    cache.tell();
    assert!(seen.has_changed().unwrap(), "a watcher sleeps on");
    assert_eq!(cache.changes_after(3, 9).unwrap().len(), 1);
}

#[test]
fn a_new_listing_tells_the_difference() {
    let cache = cache();
    let listed = |names: &[(&str, Revision)]| -> Vec<KeyValue> {
        let put = names.iter().map(|(name, revision)| put(name, *revision));
        put.filter_map(|event| if let Event::Put { current, .. } = event { Some(current) } else { None })
            .collect()
    };
    cache.fill(&listed(&[("kept", 1), ("gone", 2), ("later", 3)]), 3);
    cache.replace(&listed(&[("kept", 1), ("later", 8), ("new", 7)]), 9);
    cache.tell();
    let told = |changes: Vec<Arc<Change>>| -> Vec<(String, bool)> {
        changes.iter().map(|c| (c.now.name.clone(), c.deleted)).collect()
    };
    let all = [("new".to_owned(), false), ("later".to_owned(), false), ("gone".to_owned(), true)];
    assert_eq!(told(cache.changes_after(3, 9).unwrap()), all);
    assert_eq!(told(cache.changes_after(7, 9).unwrap()), all[1..]);
}
