//! What a runtime and flanneld hand over, damaged: the corpus is replayed, then mutated by proptest. Nothing may panic, and what
//! is accepted keeps the rules that the rest relies on.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::Path;

use cni_plugin::config::Config;
use cni_plugin::request::{Request, container_id};
use cni_plugin::subnet_env::{SubnetEnv, family};
use proptest::prelude::*;
use proptest::sample::Index;

const VERBS: [&str; 6] = ["ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION"];

/// Environment and stdin, and the configuration in it. A name that is accepted can't leave a directory.
fn request(verb: &str, argument: &str, stdin: &[u8]) -> bool {
    let env = |name: &str| match name {
        "CNI_COMMAND" => Some(verb.to_owned()),
        "CNI_CONTAINERID" | "CNI_IFNAME" => Some(argument.to_owned()),
        "CNI_NETNS" => Some(format!("/run/netns/{argument}")),
        "CNI_PATH" => Some("/opt/cni/bin".to_owned()),
        "CNI_ARGS" => Some(format!("K8S_POD_NAME={argument}")),
        _ => None,
    };
    let Ok(request) = Request::parse(env, stdin) else { return false };
    if let Ok(config) = Config::parse(&request.config) {
        assert!(container_id(&config.name).is_ok() && !config.name.contains('/'));
        let _ = config.previous();
        return true;
    }
    false
}

fn subnet_env(text: &str) {
    let Ok(env) = SubnetEnv::parse(text) else { return };
    assert!(!env.subnets.is_empty() && !env.networks.is_empty());
    for version in [4, 6] {
        assert!(env.subnets.iter().filter(|subnet| family(subnet) == version).count() <= 1);
    }
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{target} has no corpus");
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// A text of the corpus with a few places overwritten by what is often mishandled.
fn mutated(target: &str) -> impl Strategy<Value = Vec<u8>> + use<> {
    let pieces = prop::sample::select(vec![
        "",
        "null",
        "-1",
        "99999999999999999999",
        "{",
        "}",
        "[",
        "]",
        "\"",
        "\\u0000",
        "../",
        "::/0",
        "0.0.0.0/0",
        "\u{fffd}",
        "1e400",
    ]);
    let place = (any::<Index>(), 0..12_usize, pieces);
    (prop::sample::select(corpus(target)), prop::collection::vec(place, 1..4)).prop_map(
        |(mut bytes, places)| {
            for (at, over, piece) in places {
                let at = at.index(bytes.len() + 1);
                let end = (at + over).min(bytes.len());
                bytes.splice(at..end, piece.bytes());
            }
            bytes
        },
    )
}

#[test]
fn the_corpus() {
    let mut accepted = 0;
    for (verb, bytes) in VERBS.iter().flat_map(|verb| corpus("request").into_iter().map(move |b| (verb, b))) {
        accepted += usize::from(request(verb, "a1", &bytes));
    }
    assert!(accepted > VERBS.len(), "most of it is good, or mutations of it would find nothing");
    for bytes in corpus("subnet_env") {
        subnet_env(&String::from_utf8_lossy(&bytes));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn requests(verb in prop::sample::select(&VERBS[..]), argument in "[a-z0-9./=;\\x00-]{0,20}", stdin in mutated("request")) {
        request(verb, &argument, &stdin);
    }

    #[test]
    fn subnet_envs(bytes in mutated("subnet_env")) {
        subnet_env(&String::from_utf8_lossy(&bytes));
    }
}
