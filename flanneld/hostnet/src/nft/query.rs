//! Questions about the ruleset, by netlink: they cost a few microseconds, where running `nft list` costs milliseconds and more
//! with each rule of others.

use nix::errno::Errno;
use nix::sys::socket::SockProtocol;

use super::Family;
use super::message::{Fingerprint, Question, Table, generation as parse};
use crate::raw::exchange;
use crate::{Error, Result};

/// How often a listing is begun anew because the ruleset changed meanwhile.
const TRIES: usize = 5;

/// How often this namespace's ruleset was changed, by anybody. As long as it stays the same nothing has changed.
pub fn generation() -> Result<u32> {
    let answer = ask(Question::Generation)?.and_then(|parts| parts.first().and_then(|part| parse(part)));
    answer.ok_or_else(|| broken("nf_tables tells no generation"))
}

/// Whether a table is there, e.g. `ip`, `flannel-ipv4`.
pub fn has_table(family: Family, name: &str) -> Result<bool> {
    Ok(ask(Question::Table(family, name))?.is_some())
}

/// All tables of a family.
pub fn tables(family: Family) -> Result<Vec<Table>> {
    let parts = ask(Question::Tables(family))?.unwrap_or_default();
    Ok(parts.iter().filter_map(|part| Table::read(part)).collect())
}

/// What a table looks like; none if it is not there. Compare it with the one of a moment when it was right.
pub fn fingerprint(family: Family, name: &str) -> Result<Option<Fingerprint>> {
    let Some(mut parts) = ask(Question::Table(family, name))? else { return Ok(None) };
    let Some(rules) = ask(Question::Rules(family, name))? else { return Ok(None) };
    parts.extend(rules);
    Ok(Some(Fingerprint::of(parts.iter().map(Vec::as_slice))))
}

/// The attributes of each message of the answer; none if what was asked for is not there.
fn ask(question: Question<'_>) -> Result<Option<Vec<Vec<u8>>>> {
    for _ in 0..TRIES {
        match exchange(SockProtocol::NetlinkNetFilter, &question.encode(), question.is_dump()) {
            Err(Errno::EAGAIN) => {}
            Err(Errno::ENOENT) => return Ok(None),
            Err(errno) => return Err(Error::Refused { action: "look at the nftables rules".into(), errno }),
            Ok(parts) => return Ok(Some(parts)),
        }
    }
    Err(broken("the rules change faster than they can be listed"))
}

fn broken(text: &str) -> Error {
    Error::Protocol { action: "look at the nftables rules".into(), text: text.into() }
}
