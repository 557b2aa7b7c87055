//! Questions about the ruleset, by netlink: they cost a few microseconds, where running `nft list` costs milliseconds and more
//! with each rule of others.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, setsockopt, socket,
    sockopt,
};
use nix::sys::time::TimeVal;

use super::Family;
use super::message::{Answer, Fingerprint, Question, Table, generation as parse, messages};
use crate::{Error, Result};

/// The kernel's datagrams are at most half of this.
const ROOM: usize = 64 * 1024;
/// How often a listing is begun anew because the ruleset changed meanwhile.
const TRIES: usize = 5;
/// The kernel answers at once; this is against waiting for ever.
const PATIENCE: TimeVal = TimeVal::new(5, 0);

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
        match ask_once(question) {
            Err(Errno::EAGAIN) => {}
            Err(Errno::ENOENT) => return Ok(None),
            Err(errno) => return Err(Error::Refused { action: "look at the nftables rules".into(), errno }),
            Ok(parts) => return Ok(Some(parts)),
        }
    }
    Err(broken("the rules change faster than they can be listed"))
}

fn ask_once(question: Question<'_>) -> nix::Result<Vec<Vec<u8>>> {
    let socket = open()?;
    sendto(socket.as_raw_fd(), &question.encode(), &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let (mut parts, mut buffer) = (Vec::new(), vec![0; ROOM]);
    loop {
        let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_TRUNC)?;
        for answer in messages(buffer.get(..length).ok_or(Errno::EMSGSIZE)?) {
            match answer {
                Answer::Data(attributes) => parts.push(attributes.to_vec()),
                Answer::Changed => return Err(Errno::EAGAIN),
                Answer::Done => return Ok(parts),
                Answer::Refused(errno) => return Err(errno),
            }
        }
        if !question.is_dump() {
            return Ok(parts);
        }
    }
}

fn open() -> nix::Result<OwnedFd> {
    let netfilter = SockProtocol::NetlinkNetFilter;
    let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, netfilter)?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &PATIENCE)?;
    Ok(socket)
}

fn broken(text: &str) -> Error {
    Error::Protocol { action: "look at the nftables rules".into(), text: text.into() }
}
