//! Whether this node can give a pod what it asks for. Pure.
//!
//! A setting that isolates or protects, and that the runtime would leave out without a word, is refused here: a pod that
//! runs with less protection than it asked for is worse than one that doesn't run. Whether the pod fits the node is the
//! scheduler's matter.

use super::spec;
use k8s_openapi::api::core::v1::{AppArmorProfile, Container, Pod};

/// Kernel settings that touch only their own pod, with the namespace that each lives in; upstream's list of safe sysctls.
/// Any other could starve the node or its neighbours.
const SAFE_SYSCTLS: [(&str, Scope); 12] = [
    ("kernel.shm_rmid_forced", Scope::Ipc),
    ("net.ipv4.ip_local_port_range", Scope::Network),
    ("net.ipv4.tcp_syncookies", Scope::Network),
    ("net.ipv4.ping_group_range", Scope::Network),
    ("net.ipv4.ip_unprivileged_port_start", Scope::Network),
    ("net.ipv4.ip_local_reserved_ports", Scope::Network),
    ("net.ipv4.tcp_keepalive_time", Scope::Network),
    ("net.ipv4.tcp_fin_timeout", Scope::Network),
    ("net.ipv4.tcp_keepalive_intvl", Scope::Network),
    ("net.ipv4.tcp_keepalive_probes", Scope::Network),
    ("net.ipv4.tcp_rmem", Scope::Network),
    ("net.ipv4.tcp_wmem", Scope::Network),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    Ipc,
    Network,
}

/// Why a pod is not run. It fails at once, as trying again changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// CamelCase reason.
    pub(crate) reason: &'static str,
    /// Text for people.
    pub(crate) message: String,
}

/// Why this node doesn't run `pod`; None if it does. `apparmor` says whether the kernel confines by AppArmor.
pub(crate) fn refusal(pod: &Pod, apparmor: bool) -> Option<Refusal> {
    let sysctl = || forbidden_sysctl(pod).map(|message| Refusal { reason: "SysctlForbidden", message });
    let profile = || unenforced_profile(pod, apparmor).map(|message| Refusal { reason: "AppArmor", message });
    sysctl().or_else(profile)
}

fn forbidden_sysctl(pod: &Pod) -> Option<String> {
    let spec = spec::of(pod);
    let sysctls = spec.security_context.iter().flat_map(|c| c.sysctls.iter().flatten());
    let why = |name: &str| match SAFE_SYSCTLS.iter().find(|(safe, _)| *safe == name) {
        None => Some("not allowlisted"),
        Some((_, Scope::Network)) if spec.host_network == Some(true) => {
            Some("not allowed with host net enabled")
        }
        Some((_, Scope::Ipc)) if spec.host_ipc == Some(true) => Some("not allowed with host ipc enabled"),
        Some(_) => None,
    };
    sysctls.map(|s| dotted(&s.name)).find_map(|name| {
        let why = why(&name)?;
        Some(format!("forbidden sysctl: \"{name}\" {why}"))
    })
}

/// A sysctl's name with dots. `net/ipv4/conf/eth0.1/x` is another spelling, in which a dot belongs to a name and so becomes
/// a slash (sysctl(8)).
pub(super) fn dotted(name: &str) -> String {
    match name.find(['.', '/']).map(|at| name.as_bytes().get(at)) {
        Some(Some(b'/')) => name
            .chars()
            .map(|c| match c {
                '/' => '.',
                '.' => '/',
                c => c,
            })
            .collect(),
        _ => name.to_string(),
    }
}

fn unenforced_profile(pod: &Pod, apparmor: bool) -> Option<String> {
    let of_pod = spec::of(pod).security_context.as_ref().and_then(|c| c.app_armor_profile.clone());
    let ephemeral: Vec<Container> = spec::ephemeral_containers(pod).map(spec::plain).collect();
    let containers = spec::init_containers(pod).map(|(_, c)| c).chain(spec::main_containers(pod));
    let own = containers
        .chain(&ephemeral)
        .filter_map(|c| c.security_context.as_ref()?.app_armor_profile.clone())
        .collect::<Vec<_>>();
    of_pod.iter().chain(&own).find_map(|profile| unenforced(profile, apparmor))
}

/// Where the kernel has AppArmor the runtime confines every container by its own profile; it is told of no other.
fn unenforced(profile: &AppArmorProfile, apparmor: bool) -> Option<String> {
    match (profile.type_.as_str(), apparmor) {
        ("Unconfined", _) | ("RuntimeDefault", true) => None,
        (_, false) => Some("Cannot enforce AppArmor: AppArmor is not enabled on the host".into()),
        (_, true) => Some("Cannot enforce AppArmor: this kubelet knows no profiles of the node's own".into()),
    }
}

/// What keeps a container's mounts from being as asked for. Mounts below a read-only one could still be written to.
pub(super) fn unsupported_mount(container: &Container) -> Option<String> {
    let mut mounts = container.volume_mounts.iter().flatten();
    let mount = mounts.find(|m| m.recursive_read_only.as_deref() == Some("Enabled"))?;
    Some(format!(
        "failed to resolve recursive read-only mode: volume \"{}\" requested recursive read-only mode, but it is not \
         supported by the runtime",
        mount.name
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn refused(mut spec: Value, apparmor: bool) -> String {
        if spec["containers"].is_null() {
            spec["containers"] = json!([{ "name": "c" }]);
        }
        let pod: Pod = serde_json::from_value(json!({ "spec": spec })).unwrap();
        refusal(&pod, apparmor).map(|r| format!("{}: {}", r.reason, r.message)).unwrap_or_default()
    }

    #[test]
    fn unsafe_sysctls_are_refused() {
        let port = "net.ipv4.ip_unprivileged_port_start";
        let cases = [
            (json!({}), "kernel.shm_rmid_forced", ""),
            (json!({}), port, ""),
            (json!({}), "net/ipv4/ip_unprivileged_port_start", ""),
            (json!({}), "kernel.msgmax", "\"kernel.msgmax\" not allowlisted"),
            (json!({}), "kernel/msgmax", "\"kernel.msgmax\" not allowlisted"),
            (json!({}), "net.ipv4.ip_forward", "\"net.ipv4.ip_forward\" not allowlisted"),
            (
                json!({ "hostNetwork": true }),
                port,
                "\"net.ipv4.ip_unprivileged_port_start\" not allowed with host net enabled",
            ),
            (json!({ "hostNetwork": true }), "kernel.shm_rmid_forced", ""),
            (
                json!({ "hostIPC": true }),
                "kernel.shm_rmid_forced",
                "\"kernel.shm_rmid_forced\" not allowed with host ipc enabled",
            ),
        ];
        for (mut spec, name, expected) in cases {
            spec["securityContext"] = json!({ "sysctls": [{ "name": "net.ipv4.tcp_rmem", "value": "1" }] });
            if spec["hostNetwork"] == true {
                spec["securityContext"]["sysctls"] = json!([]);
            }
            let more = json!({ "name": name, "value": "1" });
            spec["securityContext"]["sysctls"].as_array_mut().unwrap().push(more);
            let expected = match expected {
                "" => String::new(),
                text => format!("SysctlForbidden: forbidden sysctl: {text}"),
            };
            assert_eq!(refused(spec, false), expected, "{name}");
        }
    }

    #[test]
    fn names_are_dotted() {
        let cases = [
            ("kernel.msgmax", "kernel.msgmax"),
            ("kernel/msgmax", "kernel.msgmax"),
            ("net/ipv4/conf/eth0.1/forwarding", "net.ipv4.conf.eth0/1.forwarding"),
            ("net.ipv4.conf.eth0/1.forwarding", "net.ipv4.conf.eth0/1.forwarding"),
            ("plain", "plain"),
        ];
        for (name, expected) in cases {
            assert_eq!(dotted(name), expected);
        }
    }

    #[test]
    fn profiles_that_nobody_enforces_are_refused() {
        let profile = |type_: &str| json!({ "appArmorProfile": { "type": type_ } });
        let of_container =
            |type_: &str| json!({ "containers": [{ "name": "c", "securityContext": profile(type_) }] });
        let of_pod = |type_: &str| json!({ "securityContext": profile(type_) });
        let cases = [
            (json!({}), false, false),
            (of_pod("Unconfined"), false, false),
            (of_pod("RuntimeDefault"), true, false),
            (of_pod("RuntimeDefault"), false, true),
            (of_container("RuntimeDefault"), false, true),
            (of_container("Localhost"), false, true),
            (of_container("Localhost"), true, true),
        ];
        for (spec, apparmor, expected) in cases {
            let text = refused(spec.clone(), apparmor);
            assert_eq!(text.starts_with("AppArmor: Cannot enforce AppArmor: "), expected, "{spec}: {text}");
        }
    }

    #[test]
    fn mounts_that_must_be_read_only_all_the_way_down() {
        let container = |mode: Value| -> Container {
            let mounts =
                json!([{ "name": "v", "mountPath": "/v", "readOnly": true, "recursiveReadOnly": mode }]);
            serde_json::from_value(json!({ "name": "c", "volumeMounts": mounts })).unwrap()
        };
        for (mode, expected) in [
            (json!(null), false),
            (json!("Disabled"), false),
            (json!("IfPossible"), false),
            (json!("Enabled"), true),
        ] {
            assert_eq!(unsupported_mount(&container(mode.clone())).is_some(), expected, "{mode}");
        }
    }
}
