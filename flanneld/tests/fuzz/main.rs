//! The fuzz targets in bounded time on the stable toolchain: the corpus is replayed, then mutations of it by a seed. Bytes that
//! once broke a rule are put into `corpus/<target>/` and stay there.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod entry;

use std::fs;
use std::path::Path;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Of packets in each of the packet path's targets; it is as many as take seconds without optimisation.
const PACKETS: usize = 1_000_000;
/// Of the others.
const TEXTS: usize = 20_000;

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{target} has no corpus");
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

fn mutate(rng: &mut StdRng, bytes: &mut Vec<u8>) {
    for _ in 0..rng.random_range(1..4) {
        let at = rng.random_range(0..=bytes.len());
        match rng.random_range(0..5) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, rng.random()),
            2 if at < bytes.len() => bytes[at] = rng.random(),
            3 if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
            _ if at < bytes.len() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][rng.random_range(0..5)],
            _ => bytes.extend_from_within(..at.min(64)),
        }
    }
}

fn fuzz(name: &str, count: usize) {
    let run = entry::TARGETS.iter().find(|(target, _)| *target == name).unwrap().1;
    let corpus = corpus(name);
    corpus.iter().for_each(|bytes| run(bytes));
    let mut rng = StdRng::seed_from_u64(1);
    for _ in 0..count {
        let mut bytes = corpus[rng.random_range(0..corpus.len())].clone();
        mutate(&mut rng, &mut bytes);
        if let Err(panic) = std::panic::catch_unwind(|| run(&bytes)) {
            eprintln!("{name}: put these bytes into the corpus: {bytes:02x?}");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn packets() {
    fuzz("packet", PACKETS);
}

#[test]
fn super_packets() {
    fuzz("super_packet", TEXTS);
}

#[test]
fn flows() {
    fuzz("flow", TEXTS);
}

#[test]
fn leases() {
    fuzz("lease", TEXTS);
}

#[test]
fn configs() {
    fuzz("config", TEXTS);
}

#[test]
fn sealed() {
    fuzz("sealed", TEXTS);
}

#[test]
fn narrow_ways() {
    fuzz("narrow", PACKETS / 4);
}

#[test]
fn icmp_messages() {
    fuzz("icmp", PACKETS / 4);
}
