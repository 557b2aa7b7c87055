//! What a node can take beyond what every flannel can: the field `Features` at the end of its lease's value. Go's decoder passes over
//! fields that it does not know, so that a Go node reads such a lease as any other, and its own lease names none.

use serde_json::Value;

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feature {
    /// Inner packets may come as a kernel leaves them to its network card: of the checksum of TCP or UDP only the pseudo header is summed up,
    /// and TCP segments of one flow are one packet. A sender in the kernel cannot tell whether there is a card on the way that does the rest;
    /// between two network namespaces of one machine there is none.
    Offload,
    /// Marks of congestion on the outer packet are taken over into the inner one (RFC 6040), so that ECN may be offered outside.
    Ecn,
}

impl Feature {
    /// All of them, in the order in which they are written.
    const ALL: [Feature; 2] = [Feature::Offload, Feature::Ecn];

    fn name(self) -> &'static str {
        match self {
            Feature::Offload => "offload",
            Feature::Ecn => "ecn",
        }
    }
}

/// A set of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Features(u8);

impl Features {
    /// The same and one more.
    #[must_use]
    pub fn with(self, feature: Feature) -> Features {
        Features(self.0 | 1 << feature as u8)
    }

    /// Whether it is in the set.
    pub fn has(self, feature: Feature) -> bool {
        self.0 & 1 << feature as u8 != 0
    }

    /// As JSON, e.g. `["offload"]`; none for the empty set, which is left out.
    pub fn encode(self) -> Option<String> {
        let names: Vec<String> =
            Feature::ALL.iter().filter(|f| self.has(**f)).map(|f| format!(r#""{}""#, f.name())).collect();
        (!names.is_empty()).then(|| format!("[{}]", names.join(",")))
    }

    /// From JSON. What is not known here is passed over: a later version may say more.
    pub fn decode(value: &Value) -> Features {
        let names = value.as_array().into_iter().flatten().filter_map(Value::as_str);
        let known = names.filter_map(|name| Feature::ALL.into_iter().find(|f| f.name() == name));
        known.fold(Features::default(), Features::with)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_what_is_unknown_passed_over() {
        let offload = Features::default().with(Feature::Offload);
        assert_eq!(offload.encode().as_deref(), Some(r#"["offload"]"#));
        assert_eq!(Features::default().encode(), None);
        for (text, expected) in [
            (r#"["offload"]"#, offload),
            (r#"["later",7,null,"offload","offload"]"#, offload),
            (r#"["Offload"]"#, Features::default()),
            (r#"{"offload":true}"#, Features::default()),
            (r#""offload""#, Features::default()),
            ("null", Features::default()),
        ] {
            let value = serde_json::from_str(text).unwrap();
            assert_eq!(Features::decode(&value), expected, "{text}");
        }
    }
}
