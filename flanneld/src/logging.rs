//! What is logged, to standard error: klog's three flags, with the names of our own sources.

use std::backtrace::Backtrace;
use std::io::{IsTerminal, Write};
use std::str::FromStr;

use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::filter::{LevelFilter, filter_fn};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// At this level the libraries may speak, too.
const LIBRARIES: i32 = 8;
/// Below that this one says nothing: it tells of each handshake of each peer that is away. What is lost by it is counted.
const CHATTY: &str = "boringtun";
/// Whose sources are ours.
const OURS: [&str; 2] = ["flanneld", "hostnet"];

/// `-v`, `--vmodule` and `--log_backtrace_at`.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// For all sources that no module names.
    pub verbosity: i32,
    /// For single sources.
    pub modules: Modules,
    /// Where a stack trace is wanted.
    pub backtrace_at: At,
}

/// Patterns of source files, each with its level: `keep=2,iface*=1`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Modules(Vec<(String, i32)>);

impl FromStr for Modules {
    type Err = String;

    fn from_str(text: &str) -> Result<Modules, String> {
        let setting = |setting: &str| {
            let pair = setting.split_once('=').filter(|(pattern, _)| !pattern.is_empty());
            let parsed = pair.and_then(|(pattern, level)| Some((pattern.to_owned(), level.parse().ok()?)));
            parsed.ok_or_else(|| format!("{setting} is no pattern=N"))
        };
        text.split(',').filter(|part| !part.is_empty()).map(setting).collect::<Result<_, _>>().map(Modules)
    }
}

/// A line of a source file, `keep.rs:41`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct At(Option<(String, u32)>);

impl FromStr for At {
    type Err = String;

    fn from_str(text: &str) -> Result<At, String> {
        if text.is_empty() {
            return Ok(At(None));
        }
        let pair = text.split_once(':').and_then(|(file, line)| Some((file.to_owned(), line.parse().ok()?)));
        pair.filter(|(_, line)| *line > 0)
            .map(|pair| At(Some(pair)))
            .ok_or_else(|| format!("{text} is no file:N"))
    }
}

impl Options {
    /// From here on everything is logged as these say.
    pub fn init(self) {
        let terminal = std::io::stderr().is_terminal();
        let most = self.modules.0.iter().map(|(_, level)| *level).chain([self.verbosity]).max().unwrap_or(0);
        let at = self.backtrace_at.clone();
        let filter = filter_fn(move |metadata| self.logs(metadata)).with_max_level_hint(level(most));
        let lines = tracing_subscriber::fmt::layer().with_ansi(terminal).with_writer(std::io::stderr);
        tracing_subscriber::registry().with(lines.and_then(Traces(at)).with_filter(filter)).init();
    }

    fn logs(&self, metadata: &Metadata) -> bool {
        let krate = metadata.target().split("::").next().unwrap_or_default();
        let verbosity = match metadata.file() {
            Some(file) if OURS.contains(&krate) => self.modules.of(file).unwrap_or(self.verbosity),
            _ if self.verbosity >= LIBRARIES => self.verbosity,
            _ if krate == CHATTY => return false,
            _ => 0,
        };
        *metadata.level() <= level(verbosity)
    }
}

fn level(verbosity: i32) -> LevelFilter {
    match verbosity {
        ..=0 => LevelFilter::INFO,
        1..=3 => LevelFilter::DEBUG,
        _ => LevelFilter::from_level(Level::TRACE),
    }
}

impl Modules {
    /// The level of a source file, by its name without `.rs`, or by its path if the pattern has a slash.
    fn of(&self, file: &str) -> Option<i32> {
        let path = file.strip_suffix(".rs").unwrap_or(file);
        let name = |pattern: &str| if pattern.contains('/') { path } else { last(path) };
        self.0.iter().find(|(pattern, _)| matches(pattern, name(pattern))).map(|(_, level)| *level)
    }
}

fn last(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Whether a name is as a pattern with `*` and `?` says.
fn matches(pattern: &str, name: &str) -> bool {
    let mut rest = name.chars();
    match (pattern.chars().next(), rest.next()) {
        (None, None) => true,
        (Some('*'), _) => {
            let after = &pattern[1..];
            name.char_indices().any(|(i, _)| matches(after, &name[i..])) || matches(after, "")
        }
        (Some(wanted), Some(found)) if wanted == '?' || wanted == found => {
            matches(&pattern[wanted.len_utf8()..], rest.as_str())
        }
        _ => false,
    }
}

/// Shows how a line of the log came about.
struct Traces(At);

impl<S: Subscriber> Layer<S> for Traces {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let Some((file, line)) = &self.0.0 else { return };
        let metadata = event.metadata();
        if metadata.line() == Some(*line) && metadata.file().is_some_and(|path| last(path) == file) {
            let _ = writeln!(std::io::stderr(), "{}", Backtrace::force_capture());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_found_by_the_name_of_its_file() {
        let modules: Modules = "keep=2,if*=1,lease/*=4,m?d=3".parse().unwrap();
        for (file, level) in [
            ("flanneld/src/daemon/keep.rs", Some(2)),
            ("flanneld/src/iface.rs", Some(1)),
            ("flanneld/src/lease/etcd.rs", None),
            ("lease/etcd.rs", Some(4)),
            ("flanneld/src/daemon/mod.rs", Some(3)),
            ("flanneld/src/daemon/keeper.rs", None),
        ] {
            assert_eq!(modules.of(file), level, "{file}");
        }
        assert_eq!("".parse(), Ok(Modules::default()));
    }

    #[test]
    fn levels_are_klogs() {
        assert_eq!(
            [-1, 0, 1, 4].map(level),
            [LevelFilter::INFO, LevelFilter::INFO, LevelFilter::DEBUG, LevelFilter::TRACE]
        );
    }

    #[test]
    fn a_line_is_a_file_and_a_number() {
        assert_eq!("keep.rs:41".parse(), Ok(At(Some(("keep.rs".into(), 41)))));
        assert!("keep.rs".parse::<At>().is_err() && "keep.rs:-1".parse::<At>().is_err());
    }
}
