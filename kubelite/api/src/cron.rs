//! Cron schedules, exactly as a CronJob takes them: five fields or a descriptor, in a time zone.
//!
//! What upstream's parser refuses is refused here (seconds, years, `L`, `W`, `#`, 7 for Sunday), and its rules of daylight
//! saving hold: a time that the clock skips is skipped, one that it shows twice comes twice. Zones come from the data base
//! that is compiled in, so that they are the same on every machine.

mod field;

use jiff::tz::{TimeZone, TimeZoneDatabase};
use jiff::{SignedDuration, Span, Timestamp, Zoned};

use field::{Field, Set};

/// How far a schedule is searched for its next time; 31 February has none.
const HORIZON_YEARS: i16 = 5;
/// How many missed times are counted one by one; beyond, they are just many (upstream warns then).
const MANY: usize = 100;
/// How far back the last of many missed times is searched, step by step.
const LOOK_BACK: [SignedDuration; 6] = [
    SignedDuration::from_hours(1),
    SignedDuration::from_hours(24),
    SignedDuration::from_hours(31 * 24),
    SignedDuration::from_hours(366 * 24),
    SignedDuration::from_hours(5 * 366 * 24),
    SignedDuration::from_hours(9 * 366 * 24),
];

/// When something is due.
#[derive(Debug, Clone)]
pub struct Schedule {
    times: Times,
    zone: TimeZone,
}

#[derive(Debug, Clone)]
enum Times {
    /// At these minutes of the clock.
    At(Box<Fields>),
    /// `@every`: so long after the last time, wherever that was.
    Every(SignedDuration),
}

#[derive(Debug, Clone)]
struct Fields {
    minute: Set,
    hour: Set,
    day: Set,
    month: Set,
    weekday: Set,
}

/// How many times of a schedule passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missed {
    /// None or the latest one alone.
    One,
    /// Some before the latest.
    Few,
    /// More than a hundred.
    Many,
}

/// The zone of an IANA name, from the compiled-in data base; none if there is no such zone.
pub fn zone(name: &str) -> Option<TimeZone> {
    TimeZoneDatabase::bundled().get(name).ok()
}

impl Schedule {
    /// Reads a schedule in `zone`. The error is a sentence for the user.
    pub fn parse(text: &str, zone: TimeZone) -> Result<Schedule, String> {
        let text = text.trim();
        let times = match text.strip_prefix('@') {
            Some(descriptor) => descriptor_times(descriptor)?,
            None => fields(text)?,
        };
        Ok(Schedule { times, zone })
    }

    /// The first time after `after`; none within five years if there is none.
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        match &self.times {
            Times::Every(delay) => {
                let whole = Timestamp::from_second(after.as_second()).ok()?;
                whole.checked_add(*delay).ok()
            }
            Times::At(fields) => fields.next(&after.to_zoned(self.zone.clone())),
        }
    }

    /// The latest time that is after `after` and not after `now`, and whether others passed before it.
    pub fn latest(&self, after: Timestamp, now: Timestamp) -> Option<(Timestamp, Missed)> {
        let mut latest = self.next(after).filter(|first| *first <= now)?;
        let first = latest;
        for count in 0..MANY {
            match self.next(latest).filter(|next| *next <= now) {
                None if count == 0 => return Some((latest, Missed::One)),
                None => return Some((latest, Missed::Few)),
                Some(next) => latest = next,
            }
        }
        Some((self.last_before(first, latest, now), Missed::Many))
    }

    /// The latest time up to `now`, when `known` is one, without walking over all between.
    fn last_before(&self, first: Timestamp, known: Timestamp, now: Timestamp) -> Timestamp {
        if let Times::Every(delay) = self.times {
            let steps = now.duration_since(first).as_secs() / delay.as_secs().max(1);
            let passed = SignedDuration::from_secs(steps * delay.as_secs());
            return first.checked_add(passed).unwrap_or(known);
        }
        let from = LOOK_BACK.iter().filter_map(|back| now.checked_sub(*back).ok());
        let near = from.filter_map(|from| self.next(from)).find(|time| *time <= now).unwrap_or(known);
        std::iter::successors(Some(near.max(known)), |time| self.next(*time).filter(|next| *next <= now))
            .last()
            .unwrap_or(known)
    }
}

fn descriptor_times(descriptor: &str) -> Result<Times, String> {
    if let Some(duration) = descriptor.strip_prefix("every ") {
        let delay: SignedDuration =
            duration.parse().map_err(|e| format!("failed to parse duration @{descriptor}: {e}"))?;
        // Rounded to seconds, as upstream does, and never a busy loop.
        return Ok(Times::Every(SignedDuration::from_secs(delay.as_secs().max(1))));
    }
    fields(match descriptor {
        "yearly" | "annually" => "0 0 1 1 *",
        "monthly" => "0 0 1 * *",
        "weekly" => "0 0 * * 0",
        "daily" | "midnight" => "0 0 * * *",
        "hourly" => "0 * * * *",
        _ => return Err(format!("unrecognized descriptor: @{descriptor}")),
    })
}

fn fields(text: &str) -> Result<Times, String> {
    let parts: Vec<&str> = text.split_whitespace().collect();
    let [minute, hour, day, month, weekday] = parts[..] else {
        return Err(format!("expected exactly 5 fields, found {}: [{}]", parts.len(), parts.join(" ")));
    };
    Ok(Times::At(Box::new(Fields {
        minute: Field::MINUTE.parse(minute)?,
        hour: Field::HOUR.parse(hour)?,
        day: Field::DAY.parse(day)?,
        month: Field::MONTH.parse(month)?,
        weekday: Field::WEEKDAY.parse(weekday)?,
    })))
}

impl Fields {
    /// Days are those of the month and those of the week, unless only one of them says anything.
    fn on_day(&self, at: &Zoned) -> bool {
        let day = self.day.has(at.day());
        let weekday = self.weekday.has(at.weekday().to_sunday_zero_offset());
        if self.day.any || self.weekday.any { day && weekday } else { day || weekday }
    }

    /// Goes forward in absolute time, so that what the clock shows decides and no rule about zones is needed here.
    fn next(&self, after: &Zoned) -> Option<Timestamp> {
        let horizon = after.year().checked_add(HORIZON_YEARS)?;
        let mut at = next_minute(after)?;
        while at.year() <= horizon {
            at = if !self.month.has(at.month()) {
                at.first_of_month().ok()?.checked_add(Span::new().months(1)).ok()?.start_of_day().ok()?
            } else if !self.on_day(&at) {
                at.tomorrow().ok()?.start_of_day().ok()?
            } else if !self.hour.has(at.hour()) {
                at.checked_add(SignedDuration::from_mins(60 - i64::from(at.minute()))).ok()?
            } else if !self.minute.has(at.minute()) {
                at.checked_add(SignedDuration::from_mins(1)).ok()?
            } else {
                return Some(at.timestamp());
            };
        }
        None
    }
}

/// The beginning of the minute after this moment.
fn next_minute(at: &Zoned) -> Option<Zoned> {
    let rest = SignedDuration::from_secs(60 - i64::from(at.second()));
    let subsecond = SignedDuration::from_nanos(i64::from(at.subsec_nanosecond()));
    at.checked_add(rest.checked_sub(subsecond)?).ok()
}

#[cfg(test)]
mod tests;
