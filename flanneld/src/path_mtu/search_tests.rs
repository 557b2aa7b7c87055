use super::*;

const FULL: u32 = 1472;

/// A way that lets packets of up to so many bytes through, and whether routers tell.
struct Way {
    mtu: u32,
    tells: bool,
    answers: bool,
}

const WIDE: Way = Way { mtu: 1500, tells: false, answers: true };
const HOLE: Way = Way { mtu: 1372, tells: false, answers: true };

/// Runs a search over a way, a tick each 250 ms, with packets of `largest` bytes all the time. What was asked, and when it ended.
fn run(search: &mut Search, way: &Way, largest: u32, start: Instant, seconds: u64) -> (Vec<u32>, Duration) {
    let (mut asked, mut settled) = (Vec::new(), Duration::ZERO);
    for n in 0..seconds * 4 {
        let now = start + WAIT * u32::try_from(n).unwrap();
        let before = search.limit();
        for size in search.tick(FULL, largest, now, 1.0) {
            asked.push(size);
            if size <= way.mtu && way.answers {
                search.answered(size, now + Duration::from_millis(30));
            } else if size > way.mtu && way.tells {
                search.told(way.mtu, now);
            }
        }
        if search.limit() != before {
            settled = now - start;
        }
    }
    (asked, settled)
}

#[test]
fn a_way_that_takes_all_costs_one_question() {
    let mut search = Search::new(FULL);
    let now = Instant::now();
    assert_eq!(search.tick(FULL, 0, now, 1.0), [0; 0], "nothing goes there");
    assert_eq!(run(&mut search, &WIDE, 60, now, 50).0, [FULL]);
    assert_eq!(search.limit(), None);
    assert_eq!(run(&mut search, &WIDE, 60, now, 600).0, [0; 0], "small packets need no other");
    assert_eq!(run(&mut search, &WIDE, FULL, now + CONFIRM, 50).0, [FULL], "large ones do, after a while");
}

#[test]
fn a_black_hole_is_found_within_seconds_and_tested_again_later() {
    let mut search = Search::new(FULL);
    let start = Instant::now();
    let (asked, settled) = run(&mut search, &HOLE, FULL, start, 60);
    assert_eq!((search.limit(), settled), (Some(1372), Duration::from_secs(1)));
    assert!(asked.len() < 40, "{} questions", asked.len());
    let (asked, _) = run(&mut search, &HOLE, FULL, start + RAISE, 5);
    assert_eq!((asked[0], search.limit()), (FULL, Some(1372)));
    // It got wider: found by itself, and nothing is lost meanwhile.
    let (asked, _) = run(&mut search, &WIDE, 0, start + 2 * RAISE + CONFIRM, 5);
    assert_eq!((asked, search.limit()), (vec![FULL], None));
}

#[test]
fn one_lost_question_or_answer_changes_nothing() {
    let mut search = Search::new(FULL);
    let now = Instant::now();
    assert_eq!(search.tick(FULL, 60, now, 1.0), [FULL]);
    for n in 1..4 {
        let now = now + WAIT * n;
        assert!(search.tick(FULL, 60, now, 1.0).len() > 10);
        search.answered(572, now);
        if n == 3 {
            search.answered(FULL, now);
        }
    }
    run(&mut search, &WIDE, 60, now + WAIT * 4, 5);
    assert_eq!(search.limit(), None);
    // One that comes when all is judged counts as well.
    let mut search = Search::new(FULL);
    run(&mut search, &HOLE, 60, now, 5);
    search.answered(1432, now);
    assert_eq!(search.limit(), Some(1432));
    search.answered(FULL, now);
    assert_eq!(search.limit(), None);
}

#[test]
fn who_answers_no_echo_is_taken_at_his_routers_word() {
    let silent = |mtu, tells| Way { mtu, tells, answers: false };
    let mut search = Search::new(FULL);
    let start = Instant::now();
    run(&mut search, &silent(1500, false), FULL, start, 5);
    assert_eq!(search.limit(), None, "silence says nothing");
    assert!(search.told(1252, start));
    run(&mut search, &silent(1252, true), FULL, start + CONFIRM, 5);
    assert_eq!(search.limit(), Some(1252));
    // When its time is over a router is asked anew, by real packets.
    run(&mut search, &silent(1500, false), FULL, start + CONFIRM + RAISE, 5);
    assert_eq!(search.limit(), None);
}

#[test]
fn a_router_is_believed_at_once_and_tested() {
    let mut search = Search::new(FULL);
    let start = Instant::now();
    run(&mut search, &WIDE, FULL, start, 5);
    // Right after an answer nobody is believed.
    assert!(!search.told(600, start + Duration::from_secs(6)));
    let later = start + Duration::from_secs(30);
    assert!(search.told(1233, later));
    assert_eq!(search.limit(), Some(1233));
    assert!(!search.told(1233, later) && !search.told(1400, later), "nothing new");
    // It was true; the size that was told is among those that are asked.
    let way = Way { mtu: 1233, tells: true, answers: true };
    run(&mut search, &way, FULL, later, 5);
    assert_eq!(search.limit(), Some(1233));
}

#[test]
fn a_lie_lasts_for_a_moment_and_lowers_to_the_least_at_the_most() {
    for (way, truth) in [(&WIDE, None), (&HOLE, Some(1372))] {
        let mut search = Search::new(FULL);
        let start = Instant::now();
        run(&mut search, way, FULL, start, 5);
        let later = start + Duration::from_secs(30);
        assert!(search.told(68, later));
        assert_eq!(search.limit(), Some(LEAST));
        let (_, settled) = run(&mut search, way, FULL, later, 5);
        assert_eq!(search.limit(), truth);
        assert!(settled <= Duration::from_secs(1), "{settled:?}");
    }
}

#[test]
fn another_mtu_of_the_interface_begins_anew() {
    let mut search = Search::new(FULL);
    let now = Instant::now();
    run(&mut search, &HOLE, FULL, now, 5);
    assert_eq!(search.tick(1372, 60, now, 1.0), [1372]);
    assert_eq!(search.limit(), None);
    assert!(!search.told(1372, now) && search.told(1371, now));
}
