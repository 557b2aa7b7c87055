//! The rows that there are: the table's, and one for each served version of each established definition.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arc_swap::ArcSwap;
use kubelite_api::custom::{Version, definition};
use kubelite_api::object;
use parking_lot::{Mutex, RwLock};
use serde_json::Value;

use super::{Custom, strategy};
use crate::cache::Entry;
use crate::resources::{RESOURCES, Resource, VIRTUAL};
use crate::storage::Revision;

/// How many different rows a server makes in its life. A row is small, and is used again if its definition comes back; what is large
/// (the schema) goes with the definition.
const MOST: usize = 8192;

/// All rows. Those of the table come first.
#[derive(Default)]
pub struct Rows {
    custom: ArcSwap<Vec<&'static Resource>>,
    made: Mutex<HashMap<Names, &'static Resource>>,
    /// By the definition's name.
    known: Mutex<BTreeMap<String, Known>>,
}

/// What a definition said at a revision.
struct Known {
    revision: Revision,
    served: Vec<&'static Resource>,
    stored: Option<&'static Resource>,
}

/// All that a row itself says: what changes there makes another row.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Names {
    /// Group, version, plural, singular, kind.
    words: [String; 5],
    short: Vec<String>,
    categories: Vec<String>,
    fields: Vec<String>,
    namespaced: bool,
    status: bool,
    scale: bool,
}

impl Rows {
    /// All rows.
    pub fn all(&self) -> impl Iterator<Item = &'static Resource> + use<> {
        let custom: Vec<&'static Resource> = self.custom.load().to_vec();
        RESOURCES.iter().chain(custom)
    }

    /// Those of custom kinds.
    pub fn custom(&self) -> Arc<Vec<&'static Resource>> {
        self.custom.load_full()
    }

    /// The row in whose version a definition's objects are stored, served or not.
    pub fn stored(&self, definition: &str) -> Option<&'static Resource> {
        self.known.lock().get(definition)?.stored
    }

    /// The row of a resource, by the words of a path.
    pub fn lookup(&self, group: &str, version: &str, plural: &str) -> Option<&'static Resource> {
        self.all().find(|r| r.group == group && r.version == version && r.plural == plural)
    }

    /// The groups in the order of discovery, each with its versions, the preferred one first.
    pub fn groups(&self) -> Vec<(&'static str, Vec<&'static str>)> {
        let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
        let asked = VIRTUAL.iter().map(|r| (r.group, r.version));
        for (group, version) in self.all().map(|r| (r.group, r.version)).chain(asked) {
            match groups.iter_mut().find(|(name, _)| *name == group) {
                None => groups.push((group, vec![version])),
                Some((_, versions)) if versions.contains(&version) => {}
                Some((_, versions)) => versions.push(version),
            }
        }
        groups
            .iter_mut()
            .for_each(|(_, versions)| versions.sort_by_key(|version| std::cmp::Reverse(age(version))));
        groups
    }

    /// Makes the rows what the definitions say. Returns the rows in whose version objects are stored.
    pub fn follow(&self, definitions: &[Arc<Entry>]) -> Vec<&'static Resource> {
        let mut known = self.known.lock();
        known.retain(|name, _| definitions.iter().any(|it| it.name == *name));
        for it in definitions {
            if known.get(&it.name).is_none_or(|known| known.revision != it.revision) {
                // Large, and needed once: it isn't kept.
                let definition = serde_json::from_slice(&it.bytes).unwrap_or_default();
                known.insert(it.name.clone(), self.read(&definition, it.revision));
            }
        }
        let served: Vec<&'static Resource> =
            known.values().flat_map(|known| known.served.iter().copied()).collect();
        let stored: Vec<&'static Resource> = known.values().filter_map(|known| known.stored).collect();
        // What is gone needs no schema any more.
        for gone in self.custom.swap(Arc::new(served.clone())).iter() {
            let used = served.iter().chain(&stored).any(|row| std::ptr::eq(*row, *gone));
            if let Some(custom) = gone.custom.filter(|_| !used) {
                custom.version.store(Arc::new(Version::of(&Value::Null, &Value::Null)));
            }
        }
        stored
    }

    /// The rows of one definition.
    fn read(&self, definition: &Value, revision: Revision) -> Known {
        let mut known = Known { revision, served: Vec::new(), stored: None };
        if !definition::is(definition, "Established") {
            return known;
        }
        let mut all = Vec::new();
        for version in definition::versions(definition) {
            let Some(row) = self.row(definition, version) else {
                tracing::error!(
                    definition = object::name(definition),
                    "there were {MOST} definitions already: start the server anew"
                );
                continue;
            };
            if version["storage"] == true {
                known.stored = Some(row);
            }
            if version["served"] == true {
                known.served.push(row);
            }
            all.push(row);
        }
        for custom in all.iter().filter_map(|row| row.custom) {
            *custom.stored.write() = known.stored;
        }
        known
    }

    /// The row of one version, with what the definition says now.
    fn row(&self, definition: &Value, version: &Value) -> Option<&'static Resource> {
        let names = Names::of(definition, version);
        let content = Arc::new(Version::of(definition, version));
        let mut made = self.made.lock();
        if let Some(row) = made.get(&names) {
            row.custom.iter().for_each(|custom| custom.version.store(content.clone()));
            return Some(row);
        }
        if made.len() >= MOST {
            return None;
        }
        let row = names.clone().into_row(content);
        made.insert(names, row);
        Some(row)
    }
}

impl Names {
    fn of(definition: &Value, version: &Value) -> Names {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let list = |value: &Value| value.as_array().into_iter().flatten().map(text).collect();
        let (spec, names) = (&definition["spec"], &definition["spec"]["names"]);
        let paths = version["selectableFields"].as_array().into_iter().flatten();
        Names {
            words: [&spec["group"], &version["name"], &names["plural"], &names["singular"], &names["kind"]]
                .map(text),
            short: list(&names["shortNames"]),
            categories: list(&names["categories"]),
            fields: paths.map(|field| text(&field["jsonPath"]).trim_start_matches('.').to_owned()).collect(),
            namespaced: spec["scope"] == "Namespaced",
            status: version.pointer("/subresources/status").is_some_and(|it| !it.is_null()),
            scale: version.pointer("/subresources/scale").is_some_and(|it| !it.is_null()),
        }
    }

    fn into_row(self, version: Arc<Version>) -> &'static Resource {
        let leak = |text: String| &*text.leak();
        let leak_all = |texts: Vec<String>| &*texts.into_iter().map(leak).collect::<Vec<_>>().leak();
        let [group, version_name, plural, singular, kind] = self.words.map(leak);
        let subresources = [("status", self.status), ("scale", self.scale)];
        let custom = Custom { version: ArcSwap::new(version), stored: RwLock::new(None) };
        Box::leak(Box::new(Resource {
            group,
            version: version_name,
            plural,
            singular,
            kind,
            short: leak_all(self.short),
            categories: leak_all(self.categories),
            namespaced: self.namespaced,
            prefix: leak(format!("{group}/{plural}")),
            fields: leak_all(self.fields),
            subresources: subresources
                .iter()
                .filter(|(_, is)| *is)
                .map(|(name, _)| *name)
                .collect::<Vec<_>>()
                .leak(),
            connections: &[],
            strategy: if self.status { &strategy::WithStatus } else { &strategy::Whole },
            custom: Some(Box::leak(Box::new(custom))),
        }))
    }
}

/// How versions are ordered: `v2` before `v1`, these before `v1beta2` and that before `v1alpha1`, and all of them before other names.
fn age(version: &str) -> (u8, u64, u64) {
    let number = |text: &str| text.parse::<u64>().ok();
    let parsed = || {
        let rest = version.strip_prefix('v')?;
        if let Some(major) = number(rest) {
            return Some((3, major, 0));
        }
        let (word, rank) = [("beta", 2), ("alpha", 1)].into_iter().find(|(word, _)| rest.contains(word))?;
        let (major, minor) = rest.split_once(word)?;
        Some((rank, number(major)?, number(minor)?))
    };
    parsed().unwrap_or((0, 0, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_upstream_does() {
        let mut versions = ["v1alpha1", "foo", "v2", "v1beta2", "v11", "v1", "v1beta1"];
        versions.sort_by_key(|version| std::cmp::Reverse(age(version)));
        assert_eq!(versions, ["v11", "v2", "v1", "v1beta2", "v1beta1", "v1alpha1", "foo"]);
    }
}
