use super::*;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn schedule(text: &str, zone_name: &str) -> Schedule {
    Schedule::parse(text, zone(zone_name).unwrap()).unwrap()
}

#[test]
fn the_next_time() {
    for (text, zone, after, expected) in [
        ("* * * * *", "UTC", "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z"),
        ("* * * * *", "UTC", "2026-01-01T00:00:59.5Z", "2026-01-01T00:01:00Z"),
        ("*/15 * * * *", "UTC", "2026-01-01T00:14:00Z", "2026-01-01T00:15:00Z"),
        ("5/20 * * * *", "UTC", "2026-01-01T00:26:00Z", "2026-01-01T00:45:00Z"),
        ("0 0 29 2 *", "UTC", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z"),
        ("30 4 * * MON-fri", "UTC", "2026-01-03T00:00:00Z", "2026-01-05T04:30:00Z"),
        // The first of the month or a Friday: both are named, so either will do.
        ("0 0 1 * 5", "UTC", "2026-01-02T00:00:00Z", "2026-01-09T00:00:00Z"),
        ("0 0 13 * ?", "UTC", "2026-01-02T00:00:00Z", "2026-01-13T00:00:00Z"),
        ("0 0 * jan,Jul 0", "UTC", "2026-02-01T00:00:00Z", "2026-07-05T00:00:00Z"),
        ("@yearly", "UTC", "2026-02-01T00:00:00Z", "2027-01-01T00:00:00Z"),
        ("@hourly", "UTC", "2026-02-01T00:00:00Z", "2026-02-01T01:00:00Z"),
        ("@every 1h30m", "UTC", "2026-02-01T00:00:00.7Z", "2026-02-01T01:30:00Z"),
        ("0 9 * * *", "Europe/Berlin", "2026-07-01T00:00:00Z", "2026-07-01T07:00:00Z"),
        ("0 9 * * *", "Asia/Kathmandu", "2026-07-01T00:00:00Z", "2026-07-01T03:15:00Z"),
        // Berlin skips 2:30 on 29 March 2026 …
        ("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", "2026-03-30T00:30:00Z"),
        // … and has it twice on 25 October.
        ("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", "2026-10-25T00:30:00Z"),
        ("30 2 * * *", "Europe/Berlin", "2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z"),
        // Lord Howe's clock moves by half an hour.
        ("45 1 * * *", "Australia/Lord_Howe", "2026-04-04T14:45:00Z", "2026-04-04T15:15:00Z"),
    ] {
        assert_eq!(schedule(text, zone).next(at(after)), Some(at(expected)), "{text} {zone} {after}");
    }
    assert_eq!(schedule("0 0 31 2 *", "UTC").next(at("2026-01-01T00:00:00Z")), None);
}

#[test]
fn the_latest_time() {
    for (text, after, now, expected) in [
        ("0 * * * *", "2026-01-01T10:00:00Z", "2026-01-01T10:59:59Z", None),
        (
            "0 * * * *",
            "2026-01-01T10:00:00Z",
            "2026-01-01T11:00:00Z",
            Some(("2026-01-01T11:00:00Z", Missed::One)),
        ),
        (
            "0 * * * *",
            "2026-01-01T10:00:00Z",
            "2026-01-01T13:10:00Z",
            Some(("2026-01-01T13:00:00Z", Missed::Few)),
        ),
        (
            "* * * * *",
            "2026-01-01T10:00:00Z",
            "2026-05-01T13:10:30Z",
            Some(("2026-05-01T13:10:00Z", Missed::Many)),
        ),
        (
            "0 6-16/4 * * 1-5",
            "2016-01-01T10:00:00Z",
            "2026-01-04T13:10:00Z",
            Some(("2026-01-02T14:00:00Z", Missed::Many)),
        ),
        (
            "@every 7s",
            "2026-01-01T00:00:00Z",
            "2026-01-01T01:00:00Z",
            Some(("2026-01-01T00:59:58Z", Missed::Many)),
        ),
    ] {
        let expected = expected.map(|(time, missed)| (at(time), missed));
        assert_eq!(schedule(text, "UTC").latest(at(after), at(now)), expected, "{text} {after} {now}");
    }
}

#[test]
fn what_upstream_refuses() {
    for bad in [
        "",
        "* * * *",
        "* * * * * *",
        "60 * * * *",
        "* 24 * * *",
        "* * 0 * *",
        "* * * 13 *",
        "* * * * 7",
        "5-1 * * * *",
        "*/0 * * * *",
        "1-2-3 * * * *",
        "a * * * *",
        "* * L * *",
        "* * * * 1#2",
        "+1 * * * *",
        ", * * * *",
        "@never",
        "@every x",
        "1/2/3 * * * *",
    ] {
        assert!(Schedule::parse(bad, TimeZone::UTC).is_err(), "{bad:?}");
    }
    assert!(zone("Europe/Nowhere").is_none() && zone("").is_none());
}
