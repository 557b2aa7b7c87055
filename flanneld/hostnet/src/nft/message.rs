//! The few netlink messages of nf_tables that questions need (linux/netfilter/nf_tables.h). Pure.

use std::hash::{DefaultHasher, Hasher};

use super::Family;
use crate::raw::{self, Message};

const GET_TABLE: u16 = libc::NFT_MSG_GETTABLE as u16;
const GET_RULE: u16 = libc::NFT_MSG_GETRULE as u16;
const GET_GENERATION: u16 = libc::NFT_MSG_GETGEN as u16;
/// `NFTA_TABLE_NAME` and `NFTA_RULE_TABLE` have the same number.
const TABLE_NAME: u16 = 1;
/// `NFTA_TABLE_USERDATA`, which the kernel keeps for whoever wrote it (since Linux 5.10); a comment is its first part (libnftnl, udata.h).
const TABLE_USERDATA: u16 = 6;
const COMMENT: u8 = 0;
/// `NFTA_GEN_ID`.
const GENERATION: u16 = 1;

/// A question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Question<'a> {
    /// How often the ruleset was changed.
    Generation,
    /// One table.
    Table(Family, &'a str),
    /// All tables of a family.
    Tables(Family),
    /// All rules of one table.
    Rules(Family, &'a str),
}

impl Question<'_> {
    /// The message.
    pub(super) fn encode(&self) -> Vec<u8> {
        let (kind, flags, family, name) = match *self {
            Question::Generation => (GET_GENERATION, 0, 0, None),
            Question::Table(family, name) => (GET_TABLE, 0, family as u8, Some(name)),
            Question::Tables(family) => (GET_TABLE, libc::NLM_F_DUMP, family as u8, None),
            Question::Rules(family, name) => (GET_RULE, libc::NLM_F_DUMP, family as u8, Some(name)),
        };
        let kind = (libc::NFNL_SUBSYS_NFTABLES as u16) << 8 | kind;
        // Family, version, and a number for the whole transaction.
        let message = Message::new(kind, flags, [family, libc::NFNETLINK_V0 as u8, 0, 0]);
        match name {
            Some(name) => message.attribute(TABLE_NAME, &raw::text(name)),
            None => message,
        }
        .finish()
    }

    /// Whether the answer comes in parts, with an end of its own.
    pub(super) fn is_dump(&self) -> bool {
        matches!(self, Question::Tables(_) | Question::Rules(..))
    }
}

/// The generation out of an answer's attributes.
pub(super) fn generation(attributes: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(attribute(attributes, GENERATION)?.try_into().ok()?))
}

/// A table that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its name.
    pub name: String,
    /// What somebody wrote on it (`comment "…"`).
    pub comment: Option<String>,
}

impl Table {
    /// Out of a table's attributes.
    pub(super) fn read(attributes: &[u8]) -> Option<Table> {
        let name = text(attribute(attributes, TABLE_NAME)?)?;
        Some(Table { name, comment: comment(attributes) })
    }
}

fn text(value: &[u8]) -> Option<String> {
    String::from_utf8(value.strip_suffix(b"\0").unwrap_or(value).to_vec()).ok()
}

fn comment(attributes: &[u8]) -> Option<String> {
    let mut parts = attribute(attributes, TABLE_USERDATA)?;
    loop {
        let (kind, length) = (*parts.first()?, usize::from(*parts.get(1)?));
        let value = parts.get(2..2 + length)?;
        if kind == COMMENT {
            return text(value);
        }
        parts = &parts[2 + length..];
    }
}

fn attribute(attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    raw::attributes(attributes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

/// What a table looked like: equal as long as nobody changed the table, its chains' rules, or their order. Only good within one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(u64);

impl Fingerprint {
    /// Of the attributes of the table and of its rules, in their order. Each rule has a handle that is never used again.
    pub(super) fn of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Fingerprint {
        let mut hasher = DefaultHasher::new();
        for part in parts {
            hasher.write_usize(part.len());
            hasher.write(part);
        }
        Fingerprint(hasher.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_a_whole_padded_message() {
        for name in ["a", "abc", "flannel-ipv4"] {
            let bytes = Question::Table(Family::Ip, name).encode();
            assert_eq!(u32::from_ne_bytes(bytes[..4].try_into().unwrap()) as usize, bytes.len());
            assert_eq!((bytes.len() % 4, bytes[16]), (0, 2), "{name}");
            assert!(bytes[24..].starts_with(name.as_bytes()) && bytes[24 + name.len()] == 0);
        }
        assert_eq!(Question::Generation.encode().len(), 20);
    }

    #[test]
    fn the_generation_is_found_among_others() {
        let attributes = [6, 0, 2, 0, 9, 9, 0, 0, 8, 0, 1, 0, 0, 0, 1, 2];
        assert_eq!(generation(&attributes), Some(258));
        for cut in 0..attributes.len() {
            assert_eq!(generation(&attributes[..cut]), None, "{cut}");
        }
        assert_eq!(generation(&[0; 32]), None);
    }

    #[test]
    fn a_comment_is_found_among_other_data_of_the_user() {
        let attributes = [6, 0, 1, 0, b'a', 0, 0, 0, 13, 0, 6, 0, 9, 1, 7, 0, 4, b'b', b'l', b'u', 0];
        let table = |comment| Some(Table { name: "a".into(), comment });
        assert_eq!(Table::read(&attributes), table(Some("blu".into())));
        for cut in 8..attributes.len() {
            assert_eq!(Table::read(&attributes[..cut]), table(None), "{cut}");
        }
        assert_eq!(Table::read(&attributes[8..]), None);
    }

    #[test]
    fn a_fingerprint_is_of_order_and_bounds_too() {
        let of = |parts: &[&'static [u8]]| Fingerprint::of(parts.iter().copied());
        assert_eq!(of(&[b"ab", b"c"]), of(&[b"ab", b"c"]));
        assert!(of(&[b"ab", b"c"]) != of(&[b"c", b"ab"]) && of(&[b"ab", b"c"]) != of(&[b"a", b"bc"]));
    }
}
