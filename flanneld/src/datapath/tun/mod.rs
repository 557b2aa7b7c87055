//! The TUN device `flannel0`: opened so that it outlives the daemon, with several queues and super-packets where the kernel can.
//!
//! Persistent on purpose: when the daemon dies, device and route stay, and no pod packet finds the default route instead.

mod ioctl;
mod queue;

pub use queue::Queue;

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use nix::errno::Errno;

use super::path::{Feature, Level, Path};
use super::virtio;
use ioctl::Flags;

const DEVICE: &str = "/dev/net/tun";

/// `TUN_F_*` of linux/if_tun.h.
const CSUM: u32 = 0x01;
const TSO4: u32 = 0x02;
const TSO6: u32 = 0x04;
const USO4: u32 = 0x20;
const USO6: u32 = 0x40;
const TSO: u32 = CSUM | TSO4 | TSO6;
/// Since Linux 6.2.
const USO: u32 = TSO | USO4 | USO6;

/// Why there is no TUN.
#[derive(Debug, thiserror::Error)]
pub enum TunError {
    /// The device file.
    #[error(
        "cannot open {DEVICE}: {0} (is the kernel module tun loaded, are you root, is the device in the container?)"
    )]
    Open(std::io::Error),
    /// Somebody else has it.
    #[error("{0} is in use: another flanneld runs on this host, and has to end first")]
    Busy(String),
    /// The kernel refused.
    #[error("cannot set up {0}: {1}")]
    Setup(String, Errno),
    /// Queues that another process passed on.
    #[error("what was passed on is attached to {there}, not to {name} as this process would make it")]
    Foreign {
        /// The device that is wanted.
        name: String,
        /// The one that it is.
        there: String,
    },
    /// A name that is too long for an interface.
    #[error("{0} is no name for an interface")]
    Name(String),
}

/// An attached TUN; dropping it detaches, the device stays.
#[derive(Debug)]
pub struct Tun {
    queues: Vec<Queue>,
    /// A device with several queues can be attached to by several processes, which would take packets from each other.
    alone: UnixDatagram,
}

impl Tun {
    /// Attaches to the persistent TUN of this name, making it if it is not there.
    pub fn open(name: &str, queues: usize, level: Level, path: &Path) -> Result<Tun, TunError> {
        if name.is_empty() || name.len() >= libc::IFNAMSIZ {
            return Err(TunError::Name(name.to_owned()));
        }
        let alone = alone(name)?;
        let setup = |errno| TunError::Setup(name.to_owned(), errno);
        let (first, flags) = first(name, level)?;
        ioctl::persist(&first, true).map_err(setup)?;
        let mut files = vec![first];
        if flags.multi {
            files.extend((1..queues).map_while(|_| attach(name, flags).ok()));
        }
        Tun::of(files, alone, flags, path).map_err(setup)
    }

    /// Of queues of this device that another process passed on; as many as it had.
    pub fn adopt(
        name: &str,
        (alone, queues): (OwnedFd, Vec<OwnedFd>),
        level: Level,
        path: &Path,
    ) -> Result<Tun, TunError> {
        let files: Vec<File> = queues.into_iter().map(File::from).collect();
        let vnet = level == Level::Offload;
        let mut multi = false;
        for file in &files {
            let (there, flags) =
                ioctl::attached(file).map_err(|errno| TunError::Setup(name.to_owned(), errno))?;
            if there != name || flags.vnet != vnet {
                return Err(TunError::Foreign { name: name.to_owned(), there });
            }
            multi = flags.multi;
        }
        let flags = Flags { multi, vnet };
        Tun::of(files, alone.into(), flags, path).map_err(|errno| TunError::Setup(name.to_owned(), errno))
    }

    fn of(files: Vec<File>, alone: UnixDatagram, flags: Flags, path: &Path) -> Result<Tun, Errno> {
        let first = files.first().ok_or(Errno::EBADF)?;
        let features = features(first, flags.vnet)?;
        path.set(Feature::TunTso, features & TSO == TSO);
        path.set(Feature::TunUso, features & USO == USO);
        path.set(Feature::Join, features & TSO == TSO);
        let queues = files.into_iter().map(|file| Queue::new(file, flags.vnet)).collect();
        Ok(Tun { queues, alone })
    }

    /// The name that one process can have.
    pub fn alone(&self) -> BorrowedFd<'_> {
        self.alone.as_fd()
    }

    /// Over files that do as the queues of a device with `IFF_VNET_HDR`: a packet a read and a packet a write, neither of them
    /// waiting. One end of a pair of sockets does, so that the data path runs where there is no device.
    pub fn over(files: Vec<File>, path: &Path) -> std::io::Result<Tun> {
        for feature in [Feature::TunTso, Feature::TunUso, Feature::Join] {
            path.set(feature, true);
        }
        let queues = files.into_iter().map(|file| Queue::new(file, true)).collect();
        Ok(Tun { queues, alone: UnixDatagram::unbound()? })
    }

    /// The queues; the kernel keeps a flow in one of them.
    pub fn queues(&self) -> &[Queue] {
        &self.queues
    }

    /// Detaches from all but so many queues.
    pub fn keep(&mut self, queues: usize) {
        self.queues.truncate(queues.max(1));
    }
}

/// A name of the network namespace that one process can have, until it ends.
fn alone(name: &str) -> Result<UnixDatagram, TunError> {
    let address = SocketAddr::from_abstract_name(format!("flanneld/{name}")).map_err(TunError::Open)?;
    UnixDatagram::bind_addr(&address).map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => TunError::Busy(name.to_owned()),
        _ => TunError::Open(error),
    })
}

/// Attaches to the first queue, with as much as the kernel has.
fn first(name: &str, level: Level) -> Result<(File, Flags), TunError> {
    let vnet = level == Level::Offload;
    let wanted = Flags { multi: true, vnet };
    match attach(name, wanted) {
        // One of another make, as earlier versions left it: how many queues it has cannot be changed.
        Err(TunError::Setup(_, Errno::EINVAL)) => remove(name)?,
        other => return Ok((other?, wanted)),
    }
    let ways = [wanted, Flags { multi: false, vnet }, Flags { multi: false, vnet: false }];
    let mut outcome = Err(TunError::Setup(name.to_owned(), Errno::EINVAL));
    for flags in ways {
        outcome = attach(name, flags).map(|file| (file, flags));
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

/// Removes a device of one queue; until it is made anew, the route that refuses stands in for it.
fn remove(name: &str) -> Result<(), TunError> {
    let Ok(file) = attach(name, Flags { multi: false, vnet: false }) else { return Ok(()) };
    tracing::info!(device = name, "the device is of an earlier version; it is made anew");
    ioctl::persist(&file, false).map_err(|errno| TunError::Setup(name.to_owned(), errno))
}

fn attach(name: &str, flags: Flags) -> Result<File, TunError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(DEVICE)
        .map_err(TunError::Open)?;
    match ioctl::attach(&file, name, flags) {
        Ok(()) => Ok(file),
        Err(Errno::EBUSY) => Err(TunError::Busy(name.to_owned())),
        Err(errno) => Err(TunError::Setup(name.to_owned(), errno)),
    }
}

/// Asks for as much as the kernel has; what it gave. A predecessor may have left the device with more or less.
fn features(file: &File, vnet: bool) -> Result<u32, Errno> {
    if vnet {
        ioctl::vnet_hdr_size(file, virtio::LEN)?;
        for features in [USO, TSO] {
            if ioctl::offload(file, features).is_ok() {
                return Ok(features);
            }
        }
    }
    ioctl::offload(file, 0).map(|()| 0)
}
