use proptest::prelude::*;
use serde_json::json;

use super::*;

/// A field that is bytes on the wire.
fn bytes(number: u8, content: &[u8]) -> Vec<u8> {
    assert!(number < 16 && content.len() < 128);
    [&[number << 3 | 2, content.len() as u8], content].concat()
}

fn int(number: u8, value: u8) -> Vec<u8> {
    vec![number << 3, value]
}

fn body(api_version: &str, kind: &str, message: &[u8]) -> Vec<u8> {
    let meta = [bytes(1, api_version.as_bytes()), bytes(2, kind.as_bytes())].concat();
    [MAGIC, &bytes(1, &meta), &bytes(2, message), &bytes(3, b""), &bytes(4, b"")].concat()
}

#[test]
fn a_config_map() {
    let metadata = [bytes(1, b"x"), bytes(2, b""), int(7, 0), bytes(8, b"")].concat();
    let entries =
        [bytes(2, &[bytes(1, b"k"), bytes(2, b"v")].concat()), bytes(2, &bytes(1, b"empty"))].concat();
    let binary = bytes(3, &[bytes(1, b"b"), bytes(2, &[0xff, 0])].concat());
    let message = [bytes(1, &metadata), entries, binary, int(4, 0), bytes(15, b"of a newer client")].concat();
    assert_eq!(
        decode(&body("v1", "ConfigMap", &message)).unwrap(),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "immutable": false,
            "data": {"k": "v", "empty": ""}, "binaryData": {"b": "/wA="}})
    );
}

#[test]
fn embedded_messages_and_special_scalars() {
    let volume = [bytes(1, b"v"), bytes(2, &bytes(1, &bytes(1, b"/tmp")))].concat();
    let port = [bytes(1, b""), int(3, 80), int(5, 0)].concat();
    let target = bytes(4, &[int(1, 1), int(2, 0), bytes(3, b"http")].concat());
    let pod = decode(&body("v1", "Pod", &bytes(2, &bytes(1, &volume)))).unwrap();
    assert_eq!(pod["spec"], json!({"volumes": [{"name": "v", "hostPath": {"path": "/tmp"}}]}));
    let service = decode(&body("v1", "Service", &bytes(2, &bytes(1, &[port, target].concat())))).unwrap();
    assert_eq!(service["spec"]["ports"], json!([{"port": 80, "targetPort": "http"}]));

    let created = bytes(1, &bytes(8, &int(1, 60)));
    let quota = bytes(1, &[bytes(1, b"cpu"), bytes(2, &bytes(1, b"2"))].concat());
    let quota = decode(&body("v1", "ResourceQuota", &[created, bytes(2, &quota)].concat())).unwrap();
    assert_eq!(quota["metadata"]["creationTimestamp"], "1970-01-01T00:01:00Z");
    assert_eq!(quota["spec"]["hard"], json!({"cpu": "2"}));

    let who = [bytes(1, b"scopes"), bytes(2, &[bytes(1, b"a"), bytes(1, b"b")].concat())].concat();
    let review = bytes(2, &[bytes(3, b"me"), bytes(5, &who)].concat());
    let review = decode(&body("authorization.k8s.io/v1", "SubjectAccessReview", &review)).unwrap();
    assert_eq!(review["spec"], json!({"user": "me", "extra": {"scopes": ["a", "b"]}}));
}

/// The structs of k8s-pb 0.9 encoded by prost, an encoder that shares nothing with this decoder.
const POD: &str = "\
    0a1a0a01701200380042005a030a01616a050a014b30007203662f671281010a100a0165120b12090a0012050a033147\
    6912550a01631203693a311a01611a003a130a015312001a0c220a0a030a016e12016b1800420f0a0d0a036370751206\
    0a043530306d521d0a1612140a022f78120a080110001a04687474701a00220010ac021800800100200028ffffffffff\
    ffffffff01580072071000200120ac021a00";

#[test]
fn a_pod_of_another_encoder() {
    let digits: Vec<u8> = POD.chars().map(|c| c.to_digit(16).unwrap() as u8).collect();
    let message: Vec<u8> = digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect();
    let length = [message.len() as u8 & 0x7f | 0x80, (message.len() >> 7) as u8];
    let meta = bytes(1, &[bytes(1, b"v1"), bytes(2, b"Pod")].concat());
    let pod = decode(&[MAGIC, &meta, &[0x12], &length, &message].concat()).unwrap();
    let container = json!({
        "name": "c", "image": "i:1", "command": ["a", ""], "resources": {"limits": {"cpu": "500m"}},
        "env": [{"name": "S", "valueFrom": {"secretKeyRef": {"name": "n", "key": "k", "optional": false}}}],
        "livenessProbe": {"httpGet": {"path": "/x", "port": "http"}, "initialDelaySeconds": 300},
    });
    assert_eq!(
        pod,
        json!({
            "apiVersion": "v1", "kind": "Pod", "status": {},
            "metadata": {"name": "p", "labels": {"a": ""}, "finalizers": ["f/g"],
                "ownerReferences": [{"kind": "K", "controller": false}]},
            "spec": {
                "volumes": [{"name": "e", "emptyDir": {"sizeLimit": "1Gi"}}], "containers": [container],
                "terminationGracePeriodSeconds": 0, "activeDeadlineSeconds": -1,
                "securityContext": {"runAsUser": 0, "supplementalGroups": [1, 300]},
            },
        })
    );
}

#[test]
fn a_pointer_to_zero_is_kept() {
    let scaled = decode(&body("apps/v1", "Deployment", &bytes(2, &[int(1, 0), int(5, 0)].concat()))).unwrap();
    assert_eq!(scaled["spec"], json!({"replicas": 0}));
    let options = decode(&body("policy/v1", "DeleteOptions", &int(1, 0))).unwrap();
    assert_eq!(options["gracePeriodSeconds"], 0);
}

#[test]
fn refuses() {
    let refusal = |body: &[u8]| decode(body).unwrap_err();
    assert_eq!(refusal(b"{}"), ProtobufError::Magic);
    assert_eq!(refusal(b"k8s\0\x0a\x05"), ProtobufError::Truncated);
    assert_eq!(refusal(&body("v1", "Pod", b"\x0b")), ProtobufError::Malformed);
    assert!(matches!(refusal(&body("v9", "Pod", b"")), ProtobufError::UnknownKind { .. }));
    let error = refusal(&body("v1", "Pod", &bytes(2, &int(1, 0))));
    assert_eq!(error.to_string(), "the value of PodSpec.volumes does not have the field's type");
    let many = [0x0a, 0].repeat(decode::MAX_VALUES + 1);
    let numbers = numbers::of("io.k8s.api.core.v1.PodSpec").unwrap();
    let definition = schema::lookup("io.k8s.api.core.v1.PodSpec").unwrap();
    assert_eq!(decode::object(definition, numbers, &many), Err(ProtobufError::Size));
}

#[test]
fn an_eviction_carries_options() {
    let options = bytes(2, &[int(1, 0), bytes(2, &bytes(1, b"u"))].concat());
    let eviction = [bytes(1, &bytes(1, b"p")), options].concat();
    assert_eq!(
        decode(&body("policy/v1", "Eviction", &eviction)).unwrap(),
        json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"},
            "deleteOptions": {"gracePeriodSeconds": 0, "preconditions": {"uid": "u"}}})
    );
}

#[test]
fn every_row_names_real_fields() {
    for line in include_str!("fields.txt").lines() {
        let mut words = line.split(' ');
        let definition = schema::lookup(words.next().unwrap()).unwrap();
        let mut seen = std::collections::HashSet::new();
        for (name, path) in words.map(|word| word.split_once('=').unwrap()) {
            assert!(definition.field(name).is_some(), "{} {name}", definition.name());
            assert!(seen.insert(path), "{} {path}", definition.name());
        }
    }
}

#[test]
fn the_kinds_without_numbers_are_newer_ones_and_extensions() {
    // They answer with an error that says to send JSON.
    let without = schema::kinds().filter(|(_, _, _, name)| numbers::of(name).is_none());
    let mut without: Vec<&str> = without.map(|(_, _, kind, _)| kind).collect();
    without.sort_unstable();
    let newer = [
        "ClusterTrustBundle",
        "DeviceTaintRule",
        "MutatingAdmissionPolicy",
        "MutatingAdmissionPolicyBinding",
        "PodCertificateRequest",
        "StorageVersionMigration",
    ];
    let mut expected = [&["APIService", "CustomResourceDefinition"][..], &newer].concat();
    expected.sort_unstable();
    assert_eq!(without, expected);
}

proptest! {
    #[test]
    fn never_panics(message in proptest::collection::vec(any::<u8>(), 0..120)) {
        let _ = decode(&[MAGIC, &message].concat());
        for (version, kind) in [("v1", "Pod"), ("v1", "Secret"), ("apps/v1", "Deployment"), ("v1", "Event")] {
            let _ = decode(&body(version, kind, &message));
        }
    }
}
