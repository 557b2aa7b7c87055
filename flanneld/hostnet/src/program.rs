//! Programs (BPF) on a link: a classifier at its ingress or egress, and one in its driver (XDP). They are attached so that they stay when
//! the process that did it ends, and are replaced in one step. Loading them is not done here.

use std::os::fd::{AsRawFd, BorrowedFd};

use futures::{StreamExt, TryStreamExt};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkXdp};
use netlink_packet_route::tc::{
    TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcMessage, TcOption,
};
use nix::errno::Errno;
use rtnetlink::{LinkMessageBuilder, LinkUnspec};

use crate::error::{during, unless};
use crate::{Netlink, Result};

/// Where a classifier sees packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// As they come in.
    Ingress,
    /// As they go out.
    Egress,
}

/// A classifier that is attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Classifier {
    /// Its program's number.
    pub program: u32,
    /// The text with which it was attached.
    pub name: String,
}

/// The place of our classifiers among others': their order, and their number there.
const PRIORITY: u16 = 8285;
const NUMBER: u32 = 1;

/// `XDP_FLAGS_*` of linux/if_link.h.
const IF_NONE: u32 = 1 << 0;
const IN_DRIVER: u32 = 1 << 2;

impl Netlink {
    /// Puts a program in our place at a hook, or in place of the one that is there.
    pub async fn set_classifier(&self, link: u32, hook: Hook, name: &str, fd: BorrowedFd<'_>) -> Result<()> {
        let what = || format!("attach {name} to link {link}");
        let mut queue = message(link, TcHandle::CLSACT);
        queue.header.handle = TcHandle { major: u16::MAX, minor: 0 };
        queue.attributes.push(TcAttribute::Kind("clsact".to_owned()));
        let made = self.ask(RouteNetlinkMessage::NewQueueDiscipline(queue), NLM_F_CREATE | NLM_F_EXCL).await;
        unless(made.map_err(during(what)), &[Errno::EEXIST])?;
        let mut filter = ours(link, hook);
        filter.attributes.push(TcAttribute::Kind(TcFilterBpf::KIND.to_owned()));
        filter.attributes.push(TcAttribute::Options(vec![
            TcOption::Bpf(TcFilterBpfOption::ProgFd(fd.as_raw_fd().unsigned_abs())),
            TcOption::Bpf(TcFilterBpfOption::ProgName(name.to_owned())),
            TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction)),
        ]));
        self.ask(RouteNetlinkMessage::NewTrafficFilter(filter), NLM_F_CREATE).await.map_err(during(what))
    }

    /// What is in our place at a hook.
    pub async fn classifier(&self, link: u32, hook: Hook) -> Result<Option<Classifier>> {
        let index = i32::try_from(link).unwrap_or_default();
        let mut filters = self.handle.traffic_filter(index).get();
        filters = if hook == Hook::Ingress { filters.ingress() } else { filters.egress() };
        let found: std::result::Result<Vec<TcMessage>, _> = filters.execute().try_collect().await;
        let what = || format!("list the filters of link {link}");
        let found = match found.map_err(during(what)) {
            Ok(found) => found,
            // No such hook: nobody has put anything there.
            Err(error) if [Some(Errno::EINVAL), Some(Errno::ENODEV)].contains(&error.errno()) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let place = ours(link, hook).header;
        let in_place =
            |filter: &&TcMessage| (filter.header.handle, filter.header.info) == (place.handle, place.info);
        Ok(found.iter().find(in_place).and_then(Classifier::read))
    }

    /// Takes the program in our place at a hook away; none is fine.
    pub async fn delete_classifier(&self, link: u32, hook: Hook) -> Result<()> {
        let mut filter = ours(link, hook);
        filter.attributes.push(TcAttribute::Kind(TcFilterBpf::KIND.to_owned()));
        let deleted = self.ask(RouteNetlinkMessage::DelTrafficFilter(filter), 0).await;
        let what = || format!("take the program off link {link}");
        unless(deleted.map_err(during(what)), &[Errno::ENOENT, Errno::EINVAL, Errno::ENODEV])
    }

    /// Puts a program into the driver of a link, in place of whatever is there, or only if nothing is (else EBUSY). One that somebody holds
    /// by a link of BPF stays in any case (EBUSY).
    pub async fn set_driver_program(&self, link: u32, fd: BorrowedFd<'_>, replace: bool) -> Result<()> {
        let what = || format!("put a program into the driver of link {link}");
        let flags = if replace { IN_DRIVER } else { IN_DRIVER | IF_NONE };
        self.driver(link, fd.as_raw_fd(), flags).await.map_err(during(what))
    }

    /// Takes the program out of the driver of a link.
    pub async fn delete_driver_program(&self, link: u32) -> Result<()> {
        let what = || format!("take the program out of the driver of link {link}");
        self.driver(link, -1, IN_DRIVER).await.map_err(during(what))
    }

    async fn driver(&self, link: u32, fd: i32, flags: u32) -> std::result::Result<(), rtnetlink::Error> {
        let options = vec![LinkXdp::Fd(fd), LinkXdp::Flags(flags)];
        let message = LinkMessageBuilder::<LinkUnspec>::new()
            .index(link)
            .append_extra_attribute(LinkAttribute::Xdp(options));
        self.handle.link().set(message.build()).execute().await
    }

    /// The number of the program that a link has for XDP, in whatever mode, whosever it is.
    pub async fn driver_program(&self, link: u32) -> Result<Option<u32>> {
        let found = self.handle.link().get().match_index(link).execute().try_next().await;
        let message = found.map_err(during(|| format!("look up the link {link}")))?;
        let attributes = message.into_iter().flat_map(|message| message.attributes);
        Ok(attributes.into_iter().find_map(|attribute| match attribute {
            LinkAttribute::Xdp(options) => options.iter().find_map(|option| match option {
                LinkXdp::ProgId(id) => Some(*id),
                _ => None,
            }),
            _ => None,
        }))
    }

    async fn ask(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> std::result::Result<(), rtnetlink::Error> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        let mut answers = self.handle.clone().request(request)?;
        while let Some(answer) = answers.next().await {
            if let NetlinkPayload::Error(error) = answer.payload {
                return if error.code.is_none() {
                    Ok(())
                } else {
                    Err(rtnetlink::Error::NetlinkError(error))
                };
            }
        }
        Ok(())
    }
}

fn message(link: u32, parent: TcHandle) -> TcMessage {
    let mut message = TcMessage::with_index(i32::try_from(link).unwrap_or_default());
    message.header.parent = parent;
    message
}

/// Our place at a hook.
fn ours(link: u32, hook: Hook) -> TcMessage {
    let minor = if hook == Hook::Ingress { TcHandle::MIN_INGRESS } else { TcHandle::MIN_EGRESS };
    let mut filter = message(link, TcHandle { major: u16::MAX, minor });
    filter.header.handle = NUMBER.into();
    let all = u16::try_from(libc::ETH_P_ALL).unwrap_or_default();
    filter.header.info = TcHandle { major: PRIORITY, minor: all.to_be() }.into();
    filter
}

impl Classifier {
    fn read(filter: &TcMessage) -> Option<Classifier> {
        let options = filter.attributes.iter().find_map(|attribute| match attribute {
            TcAttribute::Options(options) => Some(options.iter()),
            _ => None,
        })?;
        let (mut program, mut text) = (None, String::new());
        for option in options {
            match option {
                TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => program = Some(*id),
                TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => text.clone_from(name),
                _ => {}
            }
        }
        program.map(|program| Classifier { program, name: text })
    }
}
