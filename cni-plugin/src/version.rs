//! The versions of the CNI specification and what each of them knows.

use crate::error::Error;
use crate::request::Verb;

/// A version whose results this plugin can write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)] // the names are the versions
pub enum Version {
    V0_3_0,
    V0_3_1,
    V0_4_0,
    V1_0_0,
    V1_1_0,
}

impl Version {
    /// All of them, oldest first.
    pub const ALL: [Version; 5] =
        [Version::V0_3_0, Version::V0_3_1, Version::V0_4_0, Version::V1_0_0, Version::V1_1_0];
    /// The one that is assumed where the configuration says nothing usable.
    pub const NEWEST: Version = Version::V1_1_0;

    /// As it is written in `cniVersion`.
    pub fn as_str(self) -> &'static str {
        match self {
            Version::V0_3_0 => "0.3.0",
            Version::V0_3_1 => "0.3.1",
            Version::V0_4_0 => "0.4.0",
            Version::V1_0_0 => "1.0.0",
            Version::V1_1_0 => "1.1.0",
        }
    }

    /// The version that is written `text`.
    pub fn parse(text: &str) -> Option<Version> {
        Version::ALL.into_iter().find(|version| version.as_str() == text)
    }

    /// `text` as a version that has `verb`: CHECK came with 0.4.0, GC and STATUS with 1.1.0.
    pub fn require(text: &str, verb: &Verb) -> Result<Version, Error> {
        let first = match verb {
            Verb::Check { .. } => Version::V0_4_0,
            Verb::Gc | Verb::Status => Version::V1_1_0,
            Verb::Add { .. } | Verb::Del { .. } | Verb::Version => Version::V0_3_0,
        };
        Version::parse(text).filter(|version| *version >= first).ok_or_else(|| Error::IncompatibleVersion {
            found: text.to_owned(),
            verb: verb.name(),
            supported: Version::ALL
                .into_iter()
                .filter(|version| *version >= first)
                .map(Version::as_str)
                .collect::<Vec<_>>()
                .join(", "),
        })
    }
}
