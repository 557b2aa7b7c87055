//! The TUN device `flannel0`: opened so that it outlives the daemon, read and written packet by packet in batches.
//!
//! Persistent on purpose: when the daemon dies, device and route stay, and no pod packet finds the default route instead.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::errno::Errno;

use super::buffer::Batch;

const DEVICE: &str = "/dev/net/tun";

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
    /// A name that is too long for an interface.
    #[error("{0} is no name for an interface")]
    Name(String),
}

/// An attached TUN; dropping it detaches, the device stays.
#[derive(Debug)]
pub struct Tun {
    file: File,
}

impl Tun {
    /// Attaches to the persistent TUN of this name, making it if it is not there.
    pub fn open(name: &str) -> Result<Tun, TunError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(DEVICE);
        let file = file.map_err(TunError::Open)?;
        ioctl::attach(&file, name).map_err(|errno| match errno {
            Errno::EBUSY => TunError::Busy(name.to_owned()),
            Errno::EINVAL if name.len() >= libc::IFNAMSIZ => TunError::Name(name.to_owned()),
            errno => TunError::Setup(name.to_owned(), errno),
        })?;
        ioctl::persist(&file).map_err(|errno| TunError::Setup(name.to_owned(), errno))?;
        Ok(Tun { file })
    }

    /// Reads what is there into the batch, without waiting; an error means that the device is gone.
    pub fn read(&self, batch: &mut Batch) -> std::io::Result<()> {
        batch.filled = 0;
        for buffer in &mut batch.buffers {
            match (&self.file).read(&mut buffer.data) {
                Ok(length) => buffer.len = length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => break,
                Err(error) => return Err(error),
            }
            batch.filled += 1;
        }
        Ok(())
    }

    /// Hands one packet to the kernel; whether it took it.
    pub fn write(&self, packet: &[u8]) -> bool {
        (&self.file).write(packet).is_ok()
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The two calls that have no safe form.
#[allow(unsafe_code)]
mod ioctl {
    use super::*;

    nix::ioctl_write_ptr_bad!(
        set_iff,
        nix::request_code_write!(b'T', 202, size_of::<libc::c_int>()),
        libc::ifreq
    );
    nix::ioctl_write_int_bad!(set_persist, nix::request_code_write!(b'T', 203, size_of::<libc::c_int>()));

    pub(super) fn attach(file: &File, name: &str) -> Result<(), Errno> {
        if name.is_empty() || name.len() >= libc::IFNAMSIZ {
            return Err(Errno::EINVAL);
        }
        // SAFETY: an all-zero ifreq is valid: it holds numbers and a union of numbers.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = libc::c_char::from_ne_bytes([from]);
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
        // SAFETY: the kernel reads one ifreq through the pointer, which lives until the call returns.
        unsafe { set_iff(file.as_raw_fd(), &request) }.map(drop)
    }

    pub(super) fn persist(file: &File) -> Result<(), Errno> {
        // SAFETY: takes a number and keeps no reference.
        unsafe { set_persist(file.as_raw_fd(), 1) }.map(drop)
    }
}
