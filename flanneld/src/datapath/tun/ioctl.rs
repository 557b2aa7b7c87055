//! The calls on a TUN that have no safe form.
#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::AsRawFd;

use nix::errno::Errno;

const WORD: usize = size_of::<libc::c_int>();

nix::ioctl_write_ptr_bad!(set_iff, nix::request_code_write!(b'T', 202, WORD), libc::ifreq);
nix::ioctl_read_bad!(get_iff, nix::request_code_read!(b'T', 210, size_of::<libc::c_uint>()), libc::ifreq);
nix::ioctl_write_int_bad!(set_persist, nix::request_code_write!(b'T', 203, WORD));
nix::ioctl_write_int_bad!(set_offload, nix::request_code_write!(b'T', 208, WORD));
nix::ioctl_write_ptr_bad!(set_vnet_hdr_size, nix::request_code_write!(b'T', 216, WORD), libc::c_int);

/// How a device is attached to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Flags {
    /// It may have several queues.
    pub(super) multi: bool,
    /// Each packet has a `virtio_net_hdr` before it.
    pub(super) vnet: bool,
}

/// Attaches to the device of this name, which is made if it is not there.
pub(super) fn attach(file: &File, name: &str, flags: Flags) -> Result<(), Errno> {
    // SAFETY: an all-zero ifreq is valid: it holds numbers and a union of numbers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    let multi = if flags.multi { libc::IFF_MULTI_QUEUE } else { 0 };
    let vnet = if flags.vnet { libc::IFF_VNET_HDR } else { 0 };
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI | multi | vnet) as libc::c_short;
    // SAFETY: the kernel reads one ifreq through the pointer, which lives until the call returns.
    unsafe { set_iff(file.as_raw_fd(), &request) }.map(drop)
}

/// To which device a queue is attached, and how.
pub(super) fn attached(file: &File) -> Result<(String, Flags), Errno> {
    // SAFETY: an all-zero ifreq is valid: it holds numbers and a union of numbers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one ifreq through the pointer, which lives until the call returns.
    unsafe { get_iff(file.as_raw_fd(), &raw mut request) }?;
    let name = request.ifr_name.iter().map(|byte| byte.to_ne_bytes()[0]).take_while(|byte| *byte != 0);
    // SAFETY: this call fills in the flags, which are a number.
    let flags = libc::c_int::from(unsafe { request.ifr_ifru.ifru_flags });
    let has = |flag| flags & flag != 0;
    let flags = Flags { multi: has(libc::IFF_MULTI_QUEUE), vnet: has(libc::IFF_VNET_HDR) };
    Ok((name.map(char::from).collect(), flags))
}

/// Whether the device stays when nobody is attached.
pub(super) fn persist(file: &File, stays: bool) -> Result<(), Errno> {
    // SAFETY: takes a number and keeps no reference.
    unsafe { set_persist(file.as_raw_fd(), i32::from(stays)) }.map(drop)
}

/// What may be left to us.
pub(super) fn offload(file: &File, features: libc::c_uint) -> Result<(), Errno> {
    // SAFETY: takes a number and keeps no reference.
    unsafe { set_offload(file.as_raw_fd(), features as libc::c_int) }.map(drop)
}

/// How long the header before each packet is.
pub(super) fn vnet_hdr_size(file: &File, length: usize) -> Result<(), Errno> {
    let length = length as libc::c_int;
    // SAFETY: the kernel reads one int through the pointer, which lives until the call returns.
    unsafe { set_vnet_hdr_size(file.as_raw_fd(), &length) }.map(drop)
}
