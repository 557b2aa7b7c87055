//! Lines of a container's log in CRI's format, `<time> <stream> <tag> <text>`, and what of them a client gets. Pure.

use jiff::Timestamp;
use std::ops::ControlFlow;

/// What a client wants of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// Stay until the container ends.
    pub(crate) follow: bool,
    /// The instance before the current one.
    pub(crate) previous: bool,
    /// Each line begins with its time.
    pub(crate) timestamps: bool,
    /// Only so many lines from the end.
    pub(crate) tail: Option<u64>,
    /// Only lines of this time or later.
    pub(crate) since: Option<Timestamp>,
    /// No more bytes than this.
    pub(crate) limit: Option<u64>,
}

impl Options {
    /// From the query of a request, by the names of `PodLogOptions`. `now` is what sinceSeconds counts from.
    pub(crate) fn parse(query: &[(String, String)], now: Timestamp) -> Result<Options, String> {
        let mut options = Options::default();
        for (key, value) in query {
            let wrong = || format!("query parameter {key}: \"{value}\" is not a valid value");
            let number = || value.parse::<u64>().map_err(|_| wrong());
            let flag = || value.parse::<bool>().map_err(|_| wrong());
            match key.as_str() {
                "follow" => options.follow = flag()?,
                "previous" => options.previous = flag()?,
                "timestamps" => options.timestamps = flag()?,
                "tailLines" => options.tail = Some(number()?),
                "limitBytes" => options.limit = Some(number()?),
                "sinceTime" => options.since = Some(value.parse().map_err(|_| wrong())?),
                "sinceSeconds" => {
                    let seconds = i64::try_from(number()?).map_err(|_| wrong())?;
                    let since = now.checked_sub(jiff::SignedDuration::from_secs(seconds));
                    options.since = Some(since.map_err(|_| wrong())?);
                }
                // Names of other versions, and those that only the API server needs.
                _ => {}
            }
        }
        Ok(options)
    }
}

/// One line of the file.
#[derive(Debug, PartialEq, Eq)]
struct Line<'a> {
    time: &'a [u8],
    /// The text goes on in the next line of the same stream (tag P).
    partial: bool,
    text: &'a [u8],
}

fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut fields = line.splitn(4, |byte| *byte == b' ');
    let (time, _stream, tag, text) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    // Tags are separated by colons; the first one says whether the line is complete.
    let partial = match tag.split(|byte| *byte == b':').next()? {
        b"P" => true,
        b"F" => false,
        _ => return None,
    };
    Some(Line { time, partial, text })
}

/// Whether a line (without its newline) ends what the container wrote as one line.
pub(super) fn is_end(line: &[u8]) -> bool {
    parse(line).is_none_or(|line| !line.partial)
}

/// Turns lines of the file into what a client gets.
pub(super) struct Filter {
    since: Option<Timestamp>,
    timestamps: bool,
    left: Option<u64>,
    /// The last line taken was partial.
    inside: bool,
}

impl Filter {
    pub(super) fn new(options: &Options) -> Filter {
        Filter { since: options.since, timestamps: options.timestamps, left: options.limit, inside: false }
    }

    /// Appends what the client gets of `line` (without its newline) to `out`; breaks where the limit is reached. Lines
    /// that are not in CRI's format are passed over: a write that was cut off must not end a log.
    pub(super) fn take(&mut self, line: &[u8], out: &mut Vec<u8>) -> ControlFlow<()> {
        let Some(line) = parse(line) else { return ControlFlow::Continue(()) };
        if self.since.is_some_and(|since| time(line.time).is_some_and(|at| at < since)) {
            return ControlFlow::Continue(());
        }
        let from = out.len();
        if self.timestamps && !self.inside {
            out.extend_from_slice(line.time);
            out.push(b' ');
        }
        out.extend_from_slice(line.text);
        if !line.partial {
            out.push(b'\n');
        }
        self.inside = line.partial;
        let Some(left) = &mut self.left else { return ControlFlow::Continue(()) };
        let size = (out.len() - from) as u64;
        if size < *left {
            *left -= size;
            return ControlFlow::Continue(());
        }
        out.truncate(from + usize::try_from(*left).unwrap_or(usize::MAX));
        *left = 0;
        ControlFlow::Break(())
    }
}

fn time(text: &[u8]) -> Option<Timestamp> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "2026-01-01T00:00:01.5Z stdout F one
2026-01-01T00:00:02.5Z stderr P tw
2026-01-01T00:00:02.6Z stderr F o
cut off
2026-01-01T00:00:03.5Z stdout F 
2026-01-01T00:00:04.5Z stdout F:x a  b";

    fn filtered(query: &[(&str, &str)]) -> String {
        let query: Vec<_> = query.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let now = "2026-01-01T00:00:10Z".parse().unwrap();
        let mut filter = Filter::new(&Options::parse(&query, now).unwrap());
        let mut out = vec![];
        for line in LOG.lines() {
            if filter.take(line.as_bytes(), &mut out).is_break() {
                break;
            }
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn clients_get_what_they_ask_for() {
        let cases: [(&[(&str, &str)], &str); 6] = [
            (&[], "one\ntwo\n\na  b\n"),
            (&[("sinceSeconds", "7")], "\na  b\n"),
            (&[("sinceTime", "2026-01-01T00:00:04.5Z")], "a  b\n"),
            (&[("limitBytes", "5")], "one\nt"),
            (&[("limitBytes", "0")], ""),
            (
                &[("timestamps", "true"), ("sinceSeconds", "8")],
                "2026-01-01T00:00:02.5Z two\n2026-01-01T00:00:03.5Z \n2026-01-01T00:00:04.5Z a  b\n",
            ),
        ];
        for (query, expected) in cases {
            assert_eq!(filtered(query), expected, "{query:?}");
        }
    }

    #[test]
    fn wrong_values_are_named() {
        for (key, value) in [("tailLines", "-1"), ("follow", "perhaps"), ("sinceTime", "now")] {
            let error = Options::parse(&[(key.into(), value.into())], Timestamp::UNIX_EPOCH).unwrap_err();
            assert_eq!(error, format!("query parameter {key}: \"{value}\" is not a valid value"));
        }
    }
}
