//! Which number of a message is which field.
//!
//! `fields.txt` is made by `examples/protobuf_fields.rs` from the crate k8s-pb 0.9 (Kubernetes 1.35), which is made
//! from Kubernetes' `.proto` files. A row is a definition and its fields: `name=1`, or `hostPath=2.1` for a field of a
//! message that Go embeds: it has a number on the wire, but its fields are the owner's in JSON.

use std::collections::{BTreeMap, HashMap};
use std::sync::OnceLock;

/// The numbers of one message.
#[derive(Debug, Default)]
pub(super) struct Numbers(BTreeMap<u32, Meaning>);

/// What a number stands for.
#[derive(Debug)]
pub(super) enum Meaning {
    /// A field of the definition.
    Field(&'static str),
    /// A message whose fields are the owner's.
    Embedded(Numbers),
}

impl Numbers {
    pub(super) fn get(&self, number: u32) -> Option<&Meaning> {
        self.0.get(&number)
    }

    fn insert(&mut self, path: &str, name: &'static str) {
        let (first, rest) = path.split_once('.').map_or((path, None), |(first, rest)| (first, Some(rest)));
        let Ok(number) = first.parse() else { return };
        match rest {
            None => drop(self.0.insert(number, Meaning::Field(name))),
            Some(rest) => {
                let inner = self.0.entry(number).or_insert_with(|| Meaning::Embedded(Numbers::default()));
                if let Meaning::Embedded(inner) = inner {
                    inner.insert(rest, name);
                }
            }
        }
    }
}

/// The numbers of a definition, e.g. of `io.k8s.api.core.v1.Pod`; none if it isn't in the table.
pub(super) fn of(definition: &str) -> Option<&'static Numbers> {
    static TABLE: OnceLock<HashMap<&'static str, Numbers>> = OnceLock::new();
    TABLE.get_or_init(|| include_str!("fields.txt").lines().filter_map(row).collect()).get(definition)
}

fn row(line: &'static str) -> Option<(&'static str, Numbers)> {
    let mut words = line.split(' ');
    let definition = words.next()?;
    let mut numbers = Numbers::default();
    for (name, path) in words.filter_map(|word| word.split_once('=')) {
        numbers.insert(path, name);
    }
    Some((definition, numbers))
}
