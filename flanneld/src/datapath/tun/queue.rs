//! A queue of the TUN: packets are read one by one into a batch, runs of packets are written in one call.

use std::fs::File;
use std::io::{ErrorKind, IoSlice, Read, Write};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};

use crate::datapath::buffer::Batch;
use crate::datapath::coalesce::MOST_JOINED;
use crate::datapath::virtio;

/// See the module.
#[derive(Debug)]
pub struct Queue {
    file: File,
    vnet: bool,
}

impl Queue {
    pub(super) fn new(file: File, vnet: bool) -> Queue {
        Queue { file, vnet }
    }

    /// Reads what is there into the batch, without waiting; whether there was something. An error means that the device is gone.
    pub fn read(&self, batch: &mut Batch) -> std::io::Result<bool> {
        batch.slots.clear();
        while let Some(room) = batch.room() {
            match (&self.file).read(room) {
                Ok(length) => batch.filled(length, self.vnet),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => break,
                Err(error) => return Err(error),
            }
        }
        Ok(!batch.slots.is_empty())
    }

    /// Hands one packet to the kernel, with nothing left to be done.
    pub fn write(&self, packet: &[u8]) -> std::io::Result<()> {
        let header = if self.vnet { &[0; virtio::LEN][..] } else { &[] };
        (&self.file).write_vectored(&[IoSlice::new(header), IoSlice::new(packet)]).map(drop)
    }

    /// The same with a packet whose header lies elsewhere.
    pub fn write_parts(&self, header: &[u8], payload: &[u8]) -> std::io::Result<()> {
        let begin = if self.vnet { &[0; virtio::LEN][..] } else { &[] };
        let parts = [IoSlice::new(begin), IoSlice::new(header), IoSlice::new(payload)];
        (&self.file).write_vectored(&parts).map(drop)
    }

    /// Hands a super-packet to the kernel: its header with what is left to be done, and the payloads of its packets.
    pub fn write_run(
        &self,
        header: &[u8],
        bytes: &[u8],
        payloads: impl Iterator<Item = Range<usize>>,
    ) -> std::io::Result<()> {
        let mut parts = [IoSlice::new(&[]); 1 + MOST_JOINED];
        parts[0] = IoSlice::new(header);
        let mut count = 1;
        for (part, payload) in parts[1..].iter_mut().zip(payloads) {
            *part = IoSlice::new(&bytes[payload]);
            count += 1;
        }
        (&self.file).write_vectored(&parts[..count]).map(drop)
    }
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
