//! The checks of the Pod Security Standards: a pod in, what is wrong with it out, in upstream's order. Pure.

use serde_json::Value;

use super::Level::{self, Baseline, Restricted};
use crate::auth::rbac::array;

/// What a pod's checks look at.
struct Pod<'a> {
    metadata: &'a Value,
    spec: &'a Value,
    containers: Vec<&'a Value>,
}

/// One check: from which level on it holds, up to which, and what it finds.
struct Check {
    from: Level,
    to: Level,
    /// What is wrong, if something is.
    what: &'static str,
    find: fn(&Pod<'_>) -> Vec<String>,
}

const fn check(from: Level, to: Level, what: &'static str, find: fn(&Pod<'_>) -> Vec<String>) -> Check {
    Check { from, to, what, find }
}

const CHECKS: &[Check] = &[
    check(Restricted, Restricted, "allowPrivilegeEscalation != false", escalation),
    check(Baseline, Restricted, "forbidden AppArmor profile", app_armor),
    check(Baseline, Baseline, "non-default capabilities", default_capabilities),
    check(Restricted, Restricted, "unrestricted capabilities", restricted_capabilities),
    check(Baseline, Restricted, "host namespaces", host_namespaces),
    check(Baseline, Baseline, "hostPath volumes", host_paths),
    check(Baseline, Restricted, "hostPort", host_ports),
    check(Baseline, Restricted, "privileged", privileged),
    check(Baseline, Restricted, "probe or lifecycle host", probe_hosts),
    check(Baseline, Restricted, "procMount", proc_mount),
    check(Restricted, Restricted, "restricted volume types", volume_types),
    check(Restricted, Restricted, "runAsNonRoot != true", non_root),
    check(Restricted, Restricted, "runAsUser=0", user_zero),
    check(Baseline, Baseline, "seccompProfile", seccomp_unconfined),
    check(Restricted, Restricted, "seccompProfile", seccomp_restricted),
    check(Baseline, Restricted, "seLinuxOptions", se_linux),
    check(Baseline, Restricted, "forbidden sysctls", sysctls),
    check(Baseline, Restricted, "hostProcess", host_process),
];

/// What of a pod a level does not allow.
pub(super) fn violations(pod: &Value, level: Level) -> Vec<String> {
    let spec = &pod["spec"];
    let lists = ["initContainers", "containers", "ephemeralContainers"];
    let containers = lists.iter().flat_map(|list| array(&spec[*list])).collect();
    let pod = Pod { metadata: &pod["metadata"], spec, containers };
    let applied = CHECKS.iter().filter(|check| check.from <= level && level <= check.to);
    let told = |check: &Check| {
        let found = (check.find)(&pod);
        (!found.is_empty()).then(|| format!("{} ({})", check.what, found.join("; ")))
    };
    applied.filter_map(told).collect()
}

impl<'a> Pod<'a> {
    /// The names of the containers of which something holds.
    fn of(&self, is: impl Fn(&Value) -> bool) -> Vec<&'a str> {
        let name = |container: &&'a Value| container["name"].as_str().unwrap_or_default();
        self.containers.iter().filter(|container| is(container)).map(name).collect()
    }

    fn is_windows(&self) -> bool {
        self.spec["os"]["name"] == "windows"
    }

    /// Of pod and containers those whose `securityContext` has a value that is forbidden.
    fn forbidden(&self, is: impl Fn(&Value) -> bool, what: &str) -> Vec<String> {
        let pod = is(&self.spec["securityContext"]).then(|| format!("pod {what}"));
        let containers = self.of(|container| is(&container["securityContext"]));
        pod.into_iter().chain(said(&containers, what)).collect()
    }

    /// What neither the pod nor some containers say as they must.
    fn missing(&self, is: impl Fn(&Value) -> bool, what: &str) -> Vec<String> {
        let pod = is(&self.spec["securityContext"]);
        let without = self.of(|container| !pod && !is(&container["securityContext"]));
        said(&without, what).map(|text| format!("pod or {text}")).into_iter().collect()
    }
}

fn quoted(names: &[&str]) -> String {
    names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ")
}

/// `container "a" must …`; none if there is none.
fn said(containers: &[&str], what: &str) -> Option<String> {
    let plural = if containers.len() == 1 { "" } else { "s" };
    (!containers.is_empty()).then(|| format!("container{plural} {} {what}", quoted(containers)))
}

fn escalation(pod: &Pod<'_>) -> Vec<String> {
    let allowed = pod.of(|c| c["securityContext"]["allowPrivilegeEscalation"] != false);
    let found = said(&allowed, "must set securityContext.allowPrivilegeEscalation=false");
    found.filter(|_| !pod.is_windows()).into_iter().collect()
}

fn app_armor(pod: &Pod<'_>) -> Vec<String> {
    let unconfined = |context: &Value| context["appArmorProfile"]["type"] == "Unconfined";
    let mut found = pod.forbidden(unconfined, "must not set AppArmor profile type to \"Unconfined\"");
    for (name, value) in pod.metadata["annotations"].as_object().into_iter().flatten() {
        let value = value.as_str().unwrap_or_default();
        let fine = value.is_empty() || value == "runtime/default" || value.starts_with("localhost/");
        if name.starts_with("container.apparmor.security.beta.kubernetes.io/") && !fine {
            found.push(format!("annotation {name}=\"{value}\""));
        }
    }
    found
}

/// What a container runtime gives by itself.
const DEFAULT_CAPABILITIES: &[&str] = &[
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// Containers that add capabilities other than these.
fn added(pod: &Pod<'_>, allowed: &[&str]) -> Vec<String> {
    let other =
        |capability: &Value| capability.as_str().filter(|name| !allowed.contains(name)).map(str::to_owned);
    let adds = |c: &Value| {
        array(&c["securityContext"]["capabilities"]["add"]).iter().filter_map(other).collect::<Vec<_>>()
    };
    let containers = pod.of(|c| !adds(c).is_empty());
    let mut names: Vec<String> = pod.containers.iter().flat_map(|c| adds(c)).collect();
    names.sort();
    names.dedup();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    said(&containers, &format!("must not include {} in securityContext.capabilities.add", quoted(&names)))
        .into_iter()
        .collect()
}

fn default_capabilities(pod: &Pod<'_>) -> Vec<String> {
    added(pod, DEFAULT_CAPABILITIES)
}

fn restricted_capabilities(pod: &Pod<'_>) -> Vec<String> {
    if pod.is_windows() {
        return Vec::new();
    }
    let keeps =
        |c: &Value| !array(&c["securityContext"]["capabilities"]["drop"]).iter().any(|name| name == "ALL");
    let mut found: Vec<String> =
        said(&pod.of(keeps), "must set securityContext.capabilities.drop=[\"ALL\"]").into_iter().collect();
    found.extend(added(pod, &["NET_BIND_SERVICE"]));
    found
}

fn host_namespaces(pod: &Pod<'_>) -> Vec<String> {
    let set = ["hostNetwork", "hostPID", "hostIPC"].into_iter().filter(|name| pod.spec[*name] == true);
    let set: Vec<String> = set.map(|name| format!("{name}=true")).collect();
    if set.is_empty() { Vec::new() } else { vec![set.join(", ")] }
}

fn host_paths(pod: &Pod<'_>) -> Vec<String> {
    let volumes = array(&pod.spec["volumes"]).iter().filter(|volume| volume["hostPath"].is_object());
    let names: Vec<&str> = volumes.filter_map(|volume| volume["name"].as_str()).collect();
    let plural = if names.len() == 1 { "" } else { "s" };
    if names.is_empty() { Vec::new() } else { vec![format!("volume{plural} {}", quoted(&names))] }
}

fn host_ports(pod: &Pod<'_>) -> Vec<String> {
    let of = |c: &Value| {
        array(&c["ports"])
            .iter()
            .filter_map(|port| port["hostPort"].as_i64())
            .filter(|port| *port != 0)
            .collect::<Vec<_>>()
    };
    let containers = pod.of(|c| !of(c).is_empty());
    let ports: Vec<String> = pod.containers.iter().flat_map(|c| of(c)).map(|port| port.to_string()).collect();
    let verb = if containers.len() == 1 { "uses" } else { "use" };
    let plural = if ports.len() == 1 { "" } else { "s" };
    said(&containers, &format!("{verb} hostPort{plural} {}", ports.join(", "))).into_iter().collect()
}

fn privileged(pod: &Pod<'_>) -> Vec<String> {
    let set = pod.of(|c| c["securityContext"]["privileged"] == true);
    said(&set, "must not set securityContext.privileged=true").into_iter().collect()
}

fn probe_hosts(pod: &Pod<'_>) -> Vec<String> {
    let handlers =
        ["/livenessProbe", "/readinessProbe", "/startupProbe", "/lifecycle/postStart", "/lifecycle/preStop"];
    let named =
        |handler: &Value, action: &str| handler[action]["host"].as_str().is_some_and(|host| !host.is_empty());
    let uses = |c: &Value| {
        let handlers = handlers.iter().filter_map(|at| c.pointer(at));
        handlers.into_iter().any(|handler| named(handler, "httpGet") || named(handler, "tcpSocket"))
    };
    said(&pod.of(uses), "must not set a host in probes or lifecycle handlers").into_iter().collect()
}

fn proc_mount(pod: &Pod<'_>) -> Vec<String> {
    let other =
        |c: &Value| c["securityContext"]["procMount"].as_str().is_some_and(|mount| mount != "Default");
    said(&pod.of(other), "must not set securityContext.procMount to \"Unmasked\"").into_iter().collect()
}

/// The sources that a restricted pod's volumes may have.
const VOLUMES: &[&str] = &[
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

fn volume_types(pod: &Pod<'_>) -> Vec<String> {
    let (mut names, mut types) = (Vec::new(), Vec::new());
    for volume in array(&pod.spec["volumes"]) {
        let sources = volume.as_object().into_iter().flatten().filter(|(field, _)| *field != "name");
        for (source, _) in
            sources.filter(|(source, value)| !value.is_null() && !VOLUMES.contains(&source.as_str()))
        {
            names.push(volume["name"].as_str().unwrap_or_default());
            types.push(source.as_str());
        }
    }
    types.sort_unstable();
    types.dedup();
    let (verb, volumes) = if names.len() == 1 { ("uses", "volume") } else { ("use", "volumes") };
    let plural = if types.len() == 1 { "" } else { "s" };
    let text =
        || format!("{volumes} {} {verb} restricted volume type{plural} {}", quoted(&names), quoted(&types));
    if names.is_empty() { Vec::new() } else { vec![text()] }
}

fn non_root(pod: &Pod<'_>) -> Vec<String> {
    let mut found = pod.forbidden(
        |context| context["runAsNonRoot"] == false,
        "must not set securityContext.runAsNonRoot=false",
    );
    if found.is_empty() {
        found = pod
            .missing(|context| context["runAsNonRoot"] == true, "must set securityContext.runAsNonRoot=true");
    }
    found
}

fn user_zero(pod: &Pod<'_>) -> Vec<String> {
    pod.forbidden(|context| context["runAsUser"] == 0, "must not set runAsUser=0")
}

fn seccomp_unconfined(pod: &Pod<'_>) -> Vec<String> {
    let unconfined = |context: &Value| context["seccompProfile"]["type"] == "Unconfined";
    pod.forbidden(unconfined, "must not set securityContext.seccompProfile.type to \"Unconfined\"")
}

fn seccomp_restricted(pod: &Pod<'_>) -> Vec<String> {
    if pod.is_windows() {
        return Vec::new();
    }
    let mut found = seccomp_unconfined(pod);
    if found.is_empty() {
        let set = |context: &Value| {
            context["seccompProfile"]["type"] == "RuntimeDefault"
                || context["seccompProfile"]["type"] == "Localhost"
        };
        found = pod.missing(
            set,
            "must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"",
        );
    }
    found
}

/// The types that a container runtime gives to containers.
const SE_LINUX: &[&str] = &["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"];

fn se_linux(pod: &Pod<'_>) -> Vec<String> {
    let options =
        |context: &Value, name: &str| context["seLinuxOptions"][name].as_str().unwrap_or_default().to_owned();
    let other = |context: &Value| {
        !SE_LINUX.contains(&options(context, "type").as_str())
            || !options(context, "user").is_empty()
            || !options(context, "role").is_empty()
    };
    pod.forbidden(
        other,
        "must not set securityContext.seLinuxOptions to a user, a role, or a type that no container has",
    )
}

/// Those that concern the pod's own namespaces only.
const SYSCTLS: &[&str] = &[
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];

fn sysctls(pod: &Pod<'_>) -> Vec<String> {
    let names =
        array(&pod.spec["securityContext"]["sysctls"]).iter().filter_map(|sysctl| sysctl["name"].as_str());
    let other: Vec<&str> = names.filter(|name| !SYSCTLS.contains(name)).collect();
    if other.is_empty() { Vec::new() } else { vec![other.join(", ")] }
}

fn host_process(pod: &Pod<'_>) -> Vec<String> {
    let set = |context: &Value| context["windowsOptions"]["hostProcess"] == true;
    pod.forbidden(set, "must not set securityContext.windowsOptions.hostProcess=true")
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
