//! The invariants of ARCHITECTURE.md that can be read off the sources.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers as well")]

use std::fs;
use std::path::{Path, PathBuf};

/// What any component may depend on.
const LIBRARIES: [&str; 3] = ["kubelite-api", "kubelite-informer", "hostnet"];
/// Who may depend on what else: the one reader of the store, and the composition root.
const EXCEPTIONS: [(&str, &str); 2] = [("kubelite-apiserver", "kubelite-store"), ("kubelite", "*")];
/// The only sources that start programs.
const STARTERS: [&str; 4] = [
    "flanneld/hostnet/src/nft/mod.rs",
    "flanneld/src/backend/extension/command.rs",
    "cni-plugin/src/delegate.rs",
    "kubelite/cli/src/containerd.rs",
];
/// Compiled for tests only.
const TESTS: [&str; 2] =
    ["flanneld/src/lease/conformance.rs", "kubelite/apiserver/src/storage/etcd_tests.rs"];
/// The only sources of the data path that speak to the kernel or know the time.
const IMPURE: [&str; 5] = ["tun", "udp", "engine", "fast", "pass"];
const KERNEL_AND_CLOCK: [&str; 8] =
    ["std::fs", "UdpSocket", "Instant", "SystemTime", "libc", "nix::", "tokio::", "rustix"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// All files of this ending below the folder, as paths relative to the workspace.
fn files(folder: &str, ending: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root().join(folder)).unwrap().map(Result::unwrap) {
        let path = format!("{folder}/{}", entry.file_name().to_str().unwrap());
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&path, ending));
        } else if path.ends_with(ending) {
            found.push(path);
        }
    }
    found
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// The sources of the product: no tests, no examples, nothing of the lab.
fn sources() -> Vec<String> {
    let all = ["flanneld", "cni-plugin", "kubelite"].into_iter().flat_map(|folder| files(folder, ".rs"));
    let found: Vec<String> =
        all.filter(|path| path.contains("/src/") && !TESTS.contains(&path.as_str())).collect();
    assert!(
        found.len() > 200,
        "only {} sources were found: does this test look in the right place?",
        found.len()
    );
    found
}

#[test]
fn components_do_not_depend_on_each_other() {
    // Fuzz targets stand outside of the workspace, each beside the crate that it feeds.
    let manifests = ["flanneld", "cni-plugin", "kubelite"]
        .into_iter()
        .flat_map(|folder| files(folder, "Cargo.toml"))
        .filter(|path| !path.contains("/fuzz/"));
    let mut seen = 0;
    for text in manifests.map(|path| read(&path)) {
        let (head, rest) = text.split_once("\n[dependencies]\n").unwrap();
        let name = head.lines().find_map(|line| line.strip_prefix("name = ")).unwrap().trim_matches('"');
        for line in rest.lines().take_while(|line| !line.starts_with('[')) {
            let other = line.split(['.', ' ', '=']).next().unwrap_or_default();
            let ours =
                other.starts_with("kubelite") || ["flanneld", "cni-plugin", "hostnet"].contains(&other);
            let allowed = LIBRARIES.contains(&other)
                || EXCEPTIONS.iter().any(|(who, what)| *who == name && ["*", other].contains(what));
            assert!(!ours || allowed, "{name} depends on {other}");
            seen += usize::from(ours);
        }
    }
    assert!(seen > 10, "only {seen} dependencies among the crates were found");
}

#[test]
fn programs_are_started_from_four_places() {
    for path in sources().iter().filter(|path| !STARTERS.contains(&path.as_str())) {
        assert!(!read(path).contains("Command::new("), "{path} starts a program");
    }
    for path in STARTERS {
        assert!(read(path).contains("Command::new("), "{path} starts none any more: take it off the list");
    }
}

#[test]
fn the_data_path_decides_without_kernel_and_clock() {
    let pure = files("flanneld/src/datapath", ".rs");
    let pure =
        pure.iter().filter(|path| !IMPURE.iter().any(|name| path.contains(&format!("/datapath/{name}/"))));
    for path in pure {
        let text = read(path);
        for word in KERNEL_AND_CLOCK {
            assert!(!text.contains(word), "{path} mentions {word}");
        }
    }
}

#[test]
fn unsafe_code_stays_at_the_kernel() {
    for path in sources().iter().filter(|path| read(path).contains("allow(unsafe_code)")) {
        assert!(path.starts_with("flanneld/src/datapath/"), "{path} has unsafe code");
    }
}
