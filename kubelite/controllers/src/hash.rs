//! Short stable names for templates: the `pod-template-hash` label and the suffix of replica set and revision names.

use serde::Serialize;
use sha2::{Digest, Sha256};

/// Letters and digits that can't form words, and are valid in names.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
const LENGTH: usize = 10;

/// Hash of a template, `collisions` being the count of hashes that turned out to be taken by another template.
pub(crate) fn of<T: Serialize>(template: &T, collisions: i32) -> String {
    // A template comes from the API as JSON, so that it can be written as JSON again.
    let bytes = serde_json::to_vec(template).unwrap_or_default();
    let digest = Sha256::new().chain_update(bytes).chain_update(collisions.to_be_bytes()).finalize();
    let letter = |byte: &u8| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()]);
    digest.iter().take(LENGTH).map(letter).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn stable_and_distinct() {
        assert_eq!(super::of(&"a", 0), super::of(&"a", 0));
        assert_ne!(super::of(&"a", 0), super::of(&"a", 1));
        assert_ne!(super::of(&"a", 0), super::of(&"b", 0));
        assert_eq!(super::of(&"a", 0).len(), super::LENGTH);
    }
}
