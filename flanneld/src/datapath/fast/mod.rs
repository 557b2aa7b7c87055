//! The kernel's part: programs that carry the common case in the same wire format, so that such a packet never comes to user space.
//!
//! `bpf/fastpath.c` is what they do. Here they are loaded, told the leases, and asked what they carried; where they are attached is the
//! backend's matter. They live on when flanneld ends, and stop by themselves at the lease's end: a map holds the moment.

mod layout;
mod maps;
mod picture;

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use aya::Ebpf;
use aya::programs::{SchedClassifier, Xdp};
use ipnetwork::Ipv4Network;
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use nix::time::{ClockId, clock_gettime};

pub use layout::Traffic;
pub use maps::Carried;
use maps::Maps;
pub use picture::{MOST_PEERS, Neighbour, Place};

/// What `make bpf` compiles out of `bpf/fastpath.c`.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../bpf/fastpath.o");

/// Why the kernel has no fast path for us.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// Reading the object, making maps, or a part of it is not there.
    #[error("cannot load the programs into the kernel: {}", whole(.0))]
    Load(#[from] aya::EbpfError),
    /// The kernel refused a program.
    #[error("the kernel does not take the program {name}: {}", whole(.source))]
    Program {
        /// The program.
        name: &'static str,
        /// The kernel's words.
        source: aya::programs::ProgramError,
    },
    /// A map cannot be read or written.
    #[error("the programs' maps cannot be used: {}", whole(.0))]
    Maps(#[from] aya::maps::MapError),
}

/// An error with its causes in one line; of the verifier's log only the beginning.
fn whole(error: &dyn std::error::Error) -> String {
    const LONGEST: usize = 300;
    let causes = std::iter::successors(Some(error), |error| error.source());
    let text = causes.map(ToString::to_string).collect::<Vec<_>>().join(": ");
    text.lines().next().unwrap_or_default().chars().take(LONGEST).collect()
}

/// The programs' names in the kernel.
const OUT: &str = "flannel_out";
const IN: &str = "flannel_in";
const DRIVER: &str = "flannel_xdp";

/// The programs in the kernel, not attached anywhere.
#[derive(Debug)]
pub struct Programs {
    object: Ebpf,
    maps: Arc<Mutex<Maps>>,
}

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// At the egress of flannel's device.
    Out,
    /// At the ingress of the interface to the other nodes.
    In,
    /// In the driver of that interface.
    Driver,
}

impl Programs {
    /// Loads them.
    pub fn load() -> Result<Programs, Unavailable> {
        // Kernels before 5.11 count maps as locked memory. If it may not be raised, loading tells.
        let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
        let mut object = Ebpf::load(OBJECT)?;
        for name in [OUT, IN] {
            classifier(&mut object, name)
                .and_then(SchedClassifier::load)
                .map_err(|source| Unavailable::Program { name, source })?;
        }
        driver(&mut object)
            .and_then(Xdp::load)
            .map_err(|source| Unavailable::Program { name: DRIVER, source })?;
        let maps = Arc::new(Mutex::new(Maps::take(&mut object)?));
        Ok(Programs { object, maps })
    }

    /// A program's number in the kernel, and its file.
    pub fn program(&self, program: Program) -> Option<(u32, BorrowedFd<'_>)> {
        let name = match program {
            Program::Out => OUT,
            Program::In => IN,
            Program::Driver => DRIVER,
        };
        let program = self.object.program(name)?;
        Some((program.info().ok()?.id(), program.fd().ok()?.as_fd()))
    }

    /// Tells them the leases. A subnet's entry is replaced as a whole; between two of them, a packet may meet the one that is new and the
    /// other that is old, as it may on the way.
    pub fn publish(
        &self,
        own: Ipv4Network,
        place: &Place,
        others: impl Iterator<Item = Neighbour>,
        until: Option<Instant>,
    ) -> Result<(), Unavailable> {
        let lease = picture::lease(own, place, until, clocks());
        let mut maps = self.maps.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(maps.publish(lease, picture::peers(own, others))?)
    }

    /// From now on they do nothing.
    pub fn withdraw(&self) -> Result<(), Unavailable> {
        Ok(self.maps.lock().unwrap_or_else(PoisonError::into_inner).withdraw()?)
    }

    /// For reading what they carry.
    pub fn carried(&self) -> Carried {
        Carried::of(self.maps.clone())
    }
}

fn classifier<'a>(
    object: &'a mut Ebpf,
    name: &str,
) -> Result<&'a mut SchedClassifier, aya::programs::ProgramError> {
    object.program_mut(name).ok_or(aya::programs::ProgramError::NotLoaded)?.try_into()
}

fn driver(object: &mut Ebpf) -> Result<&mut Xdp, aya::programs::ProgramError> {
    object.program_mut(DRIVER).ok_or(aya::programs::ProgramError::NotLoaded)?.try_into()
}

/// Both clocks at one moment, the kernel's first: a pause in between makes the lease shorter, never longer.
fn clocks() -> (Instant, std::time::Duration) {
    let clock = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(std::time::Duration::ZERO, Into::into);
    (Instant::now(), clock)
}
