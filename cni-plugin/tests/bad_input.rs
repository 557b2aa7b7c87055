//! Everything that a runtime, an administrator or an attacker can get wrong, with the code and the words of the answer. Nothing of it may
//! touch the kernel: it is refused by functions that get values and return values.

#![allow(clippy::unwrap_used, clippy::too_many_lines)] // tests; a table is long

use cni_plugin::config::Config;
use cni_plugin::error::Error;
use cni_plugin::json::Field;
use cni_plugin::plan::settings;
use cni_plugin::request::Request;
use cni_plugin::subnet_env::SubnetEnv;
use proptest::prelude::*;
use serde_json::{Value, json};

/// A good invocation; a row changes one thing.
fn environment(name: &str) -> Option<String> {
    let value = match name {
        "CNI_COMMAND" => "ADD",
        "CNI_CONTAINERID" => "0123abcd",
        "CNI_IFNAME" => "eth0",
        "CNI_NETNS" => "/run/netns/x",
        "CNI_PATH" => "/opt/cni/bin",
        "CNI_ARGS" => "IgnoreUnknown=1;K8S_POD_NAME=web",
        _ => return None,
    };
    Some(value.to_owned())
}

fn good() -> Value {
    json!({ "cniVersion": "1.0.0", "name": "cbr0", "type": "flannel", "delegate": {}, "ipam": {}, "runtimeConfig": {} })
}

fn refuse(env: impl Fn(&str) -> Option<String>, stdin: &[u8]) -> Error {
    let node =
        SubnetEnv::parse("FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.1.1/24\nFLANNEL_MTU=1400\n")
            .unwrap();
    let read = || settings(&Config::parse(&Request::parse(env, stdin)?.config)?, &node);
    read().expect_err(&String::from_utf8_lossy(stdin))
}

#[test]
fn bad_environment() {
    let long = "a".repeat(201);
    let rows = [
        ("CNI_COMMAND", "", "CNI_COMMAND is not set"),
        ("CNI_COMMAND", "add", "CNI_COMMAND is \"add\""),
        ("CNI_COMMAND", "ADD ", "CNI_COMMAND is \"ADD \""),
        ("CNI_CONTAINERID", "", "CNI_CONTAINERID is not set"),
        ("CNI_CONTAINERID", "../../etc/passwd", "must begin with a letter or digit"),
        ("CNI_CONTAINERID", ".hidden", "must begin with a letter or digit"),
        ("CNI_CONTAINERID", "a/b", "'/' is not allowed"),
        ("CNI_CONTAINERID", "a b", "' ' is not allowed"),
        ("CNI_CONTAINERID", "a\"}comment", "is not allowed"),
        ("CNI_CONTAINERID", "a\nb", "is not allowed"),
        ("CNI_CONTAINERID", &long, "longer than 200 bytes"),
        ("CNI_IFNAME", "", "CNI_IFNAME is not set"),
        ("CNI_IFNAME", "sixteencharacter", "longer than 15 bytes"),
        ("CNI_IFNAME", "a/b", "'/' is not allowed"),
        ("CNI_IFNAME", "eth0:1", "':' is not allowed"),
        ("CNI_IFNAME", "..", "is a directory"),
        ("CNI_IFNAME", "eth%d", "'%' is not allowed"),
        ("CNI_IFNAME", "eth 0", "' ' is not allowed"),
        ("CNI_NETNS", "", "CNI_NETNS is not set"),
        ("CNI_NETNS", "netns/x", "no absolute path"),
        ("CNI_PATH", "", "CNI_PATH is not set"),
        ("CNI_ARGS", "IgnoreUnknown", "no key=value pair"),
    ];
    for (variable, value, message) in rows {
        let env = |name: &str| if name == variable { Some(value.to_owned()) } else { environment(name) };
        let error = refuse(env, good().to_string().as_bytes());
        assert_eq!(error.code(), 4, "{variable}={value}: {error}");
        assert!(error.to_string().contains(message), "{variable}={value}: {error}");
    }
}

#[test]
fn bad_configuration() {
    let rows = [
        (1, "/cniVersion", json!("0.2.0"), "incompatible CNI version \"0.2.0\" for ADD"),
        (1, "/cniVersion", json!("9.9.9"), "1.1.0"),
        (1, "/cniVersion", json!(null), "incompatible CNI version \"0.1.0\""),
        (7, "/cniVersion", json!(1), "cniVersion: expected a string, found the number 1"),
        (7, "/name", json!(""), "name: \"\": empty"),
        (7, "/name", json!("../x"), "must begin with a letter or digit"),
        (7, "/name", json!(["cbr0"]), "name: expected a string, found a list"),
        (7, "/subnetFile", json!("subnet.env"), "subnetFile: expected an absolute path"),
        (7, "/dataDir", json!(false), "dataDir: expected a string, found the boolean false"),
        (7, "/delegate", json!("bridge"), "delegate: expected an object, found the string \"bridge\""),
        (
            7,
            "/delegate",
            json!({ "hairpinMode": 7 }),
            "delegate.hairpinMode: expected true or false, found the number 7",
        ),
        (7, "/delegate", json!({ "isDefaultGateway": "yes" }), "delegate.isDefaultGateway"),
        (7, "/delegate", json!({ "isGateway": 1 }), "delegate.isGateway"),
        (7, "/delegate", json!({ "ipMasq": "true" }), "delegate.ipMasq"),
        (7, "/delegate", json!({ "mtu": "1400" }), "delegate.mtu: expected a whole number from 0 to 65535"),
        (7, "/delegate", json!({ "mtu": -1 }), "delegate.mtu"),
        (7, "/delegate", json!({ "mtu": 67 }), "delegate.mtu: expected an MTU from 68 to 65535"),
        (7, "/delegate", json!({ "mtu": 1400.5 }), "delegate.mtu"),
        (7, "/delegate", json!({ "bridge": "a-bridge-too-long" }), "delegate.bridge"),
        (7, "/delegate", json!({ "bridge": "../../x" }), "delegate.bridge"),
        (7, "/delegate", json!({ "type": "../../bin/sh" }), "delegate.type"),
        (7, "/delegate", json!({ "type": 3 }), "delegate.type: expected a string"),
        (7, "/delegate", json!({ "type": "flannel" }), "cannot delegate to itself"),
        (7, "/delegate", json!({ "name": "x" }), "delegate.name: it'll be set by flannel"),
        (7, "/delegate", json!({ "ipam": {} }), "delegate.ipam: it'll be set by flannel"),
        (2, "/delegate", json!({ "vlan": 100 }), "unsupported field delegate.vlan with value 100"),
        (2, "/delegate", json!({ "macspoofchk": true }), "delegate.macspoofchk"),
        (7, "/ipam", json!([]), "ipam: expected an object, found a list"),
        (7, "/ipam", json!({ "type": "a/b" }), "ipam.type"),
        (7, "/ipam", json!({ "dataDir": "networks" }), "ipam.dataDir"),
        (7, "/ipam", json!({ "routes": {} }), "ipam.routes: expected a list"),
        (7, "/ipam", json!({ "routes": [{ "gw": "10.5.1.1" }] }), "ipam.routes[0].dst: is missing"),
        (
            7,
            "/ipam",
            json!({ "routes": [{ "dst": "10.0.0.0/33" }] }),
            "ipam.routes[0].dst: expected a prefix",
        ),
        (
            7,
            "/ipam",
            json!({ "routes": [{ "dst": "10.0.0.0/8", "gw": "no" }] }),
            "ipam.routes[0].gw: expected an address",
        ),
        (
            7,
            "/ipam",
            json!({ "routes": [{ "dst": "10.0.0.0/8", "gw": "192.0.2.1" }] }),
            "is not in the node's subnet",
        ),
        (7, "/ipam", json!({ "routes": [{ "dst": "fd00::/8" }] }), "this node has no subnet of that family"),
        (7, "/runtimeConfig", json!(1), "runtimeConfig: expected an object"),
        (7, "/runtimeConfig", ports(&json!({})), "runtimeConfig.portMappings: expected a list"),
        (7, "/runtimeConfig", ports(&json!([1])), "runtimeConfig.portMappings[0]: expected an object"),
        (7, "/runtimeConfig", ports(&json!([{ "hostPort": 65536 }])), "portMappings[0].hostPort"),
        (
            7,
            "/runtimeConfig",
            ports(&json!([{ "hostPort": 80 }])),
            "portMappings[0].containerPort: is missing or 0",
        ),
        (
            7,
            "/runtimeConfig",
            port("protocol", &json!("icmp")),
            "portMappings[0].protocol: expected tcp, udp or sctp",
        ),
        (
            7,
            "/runtimeConfig",
            port("hostIP", &json!("localhost")),
            "portMappings[0].hostIP: expected an address",
        ),
        (7, "/dns", json!({ "nameservers": "1.1.1.1" }), "dns: "),
        (
            7,
            "/cni.dev~1valid-attachments",
            json!([{ "containerID": "a/b", "ifname": "eth0" }]),
            "[0].containerID",
        ),
        (7, "/cni.dev~1valid-attachments", json!([{ "containerID": "a" }]), "[0].ifname: \"\": empty"),
    ];
    for (code, field, value, message) in rows {
        let mut config = good();
        let name = field.trim_start_matches('/').replace("~1", "/");
        config[name.as_str()] = value.clone();
        let error = refuse(environment, config.to_string().as_bytes());
        assert_eq!(error.code(), code, "{name} = {value}: {error}");
        assert!(error.to_string().contains(message), "{name} = {value}: {error}");
    }
}

fn ports(value: &Value) -> Value {
    json!({ "portMappings": value })
}

fn port(name: &str, value: &Value) -> Value {
    let mut mapping = json!({ "hostPort": 80, "containerPort": 80 });
    mapping[name] = value.clone();
    ports(&json!([mapping]))
}

#[test]
fn bad_stdin() {
    let huge = vec![b' '; cni_plugin::request::MAX_STDIN + 1];
    let deep = "[".repeat(100_000);
    let rows: [(&[u8], &str); 7] = [
        (b"", "it is empty"),
        (b"  \n", "it is empty"),
        (b"{", "EOF"),
        (b"[]", "expected an object, found a list"),
        (b"{\"name\":\"\xff\"}", "invalid unicode"),
        (&huge, "longer than"),
        (deep.as_bytes(), "recursion limit"),
    ];
    for (stdin, message) in rows {
        let error = refuse(environment, stdin);
        assert_eq!(error.code(), 6, "{error}");
        assert!(error.to_string().contains(message), "{error}");
    }
}

#[test]
fn verbs_need_their_versions() {
    for (verb, version) in [("CHECK", "0.3.1"), ("GC", "1.0.0"), ("STATUS", "0.4.0")] {
        let env = |name: &str| if name == "CNI_COMMAND" { Some(verb.to_owned()) } else { environment(name) };
        let mut config = good();
        config["cniVersion"] = version.into();
        let error = refuse(env, config.to_string().as_bytes());
        assert_eq!(error.code(), 1, "{verb} {version}: {error}");
    }
}

#[test]
fn del_needs_neither_namespace_nor_a_good_previous_result() {
    let mut config = good();
    config["prevResult"] = json!("nonsense");
    let env = |name: &str| match name {
        "CNI_COMMAND" => Some("DEL".to_owned()),
        "CNI_NETNS" => None,
        name => environment(name),
    };
    let request = Request::parse(env, config.to_string().as_bytes()).unwrap();
    let config = Config::parse(&request.config).unwrap();
    assert!(config.previous().is_err(), "CHECK would refuse it");
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[a-z0-9./:]{0,12}".prop_map(Value::from),
    ];
    let names = prop_oneof![
        Just("delegate"),
        Just("ipam"),
        Just("routes"),
        Just("dst"),
        Just("mtu"),
        Just("bridge"),
        Just("name"),
        Just("portMappings"),
        Just("runtimeConfig"),
        Just("hostPort"),
        Just("containerPort"),
        Just("cniVersion"),
        Just("type"),
        Just("prevResult"),
    ];
    leaf.prop_recursive(4, 32, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(names.clone().prop_map(str::to_owned), inner, 0..6)
                .prop_map(Value::from_iter),
        ]
    })
}

proptest! {
    /// Whatever arrives, the answer is an error or a configuration, never a panic; and the error is one that a runtime can read.
    #[test]
    fn nothing_panics(config in any_json(), env in "\\PC{0,40}") {
        let subnets = SubnetEnv::parse(&env);
        let root = Field::root(config.clone());
        if let (Ok(config), Ok(env)) = (Config::parse(&root), subnets) {
            let _ = settings(&config, &env);
        }
        if let Err(error) = Request::parse(environment, config.to_string().as_bytes()) {
            prop_assert!(error.to_json("1.0.0")["code"].as_u64().is_some_and(|code| code > 0));
        }
    }
}
