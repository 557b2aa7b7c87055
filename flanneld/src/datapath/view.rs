//! What judging asks of a packet and does to it, whichever its family. Each family is compiled for itself.

use std::net::IpAddr;

use super::counters::Reason;
use super::fragment;
use super::packet::Packet;
use super::packet6::Packet6;
use crate::family::Family;

/// See the module.
pub(super) trait View {
    const FAMILY: Family;

    fn source(&self) -> impl Into<IpAddr>;
    fn destination(&self) -> impl Into<IpAddr>;
    fn tos(&self) -> u8;
    fn set_tos(&mut self, tos: u8);
    fn hop(&mut self) -> Result<(), Reason>;
    fn bytes_mut(&mut self) -> &mut [u8];
    /// Whether only its sender may fragment it.
    fn is_one_piece(&self) -> bool;
}

macro_rules! view {
    ($packet:ident, $family:expr, $one_piece:expr) => {
        impl View for $packet<'_> {
            const FAMILY: Family = $family;

            fn source(&self) -> impl Into<IpAddr> {
                self.source()
            }

            fn destination(&self) -> impl Into<IpAddr> {
                self.destination()
            }

            fn tos(&self) -> u8 {
                self.tos()
            }

            fn set_tos(&mut self, tos: u8) {
                self.set_tos(tos);
            }

            fn hop(&mut self) -> Result<(), Reason> {
                self.hop()
            }

            fn bytes_mut(&mut self) -> &mut [u8] {
                self.bytes_mut()
            }

            fn is_one_piece(&self) -> bool {
                $one_piece(self.bytes())
            }
        }
    };
}

view!(Packet, Family::V4, fragment::forbidden);
view!(Packet6, Family::V6, |_| true);
