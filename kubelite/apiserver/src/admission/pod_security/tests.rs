use super::*;
use serde_json::json;

#[allow(clippy::needless_pass_by_value)] // Callers write literals.
fn found(spec: Value, level: Level) -> Vec<String> {
    violations(&json!({"metadata": {}, "spec": spec}), level)
}

fn careful() -> Value {
    json!({"securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": "c", "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}]})
}

#[test]
fn a_plain_pod_is_baseline_and_a_careful_one_restricted() {
    let plain = json!({"containers": [{"name": "a"}, {"name": "b"}]});
    assert_eq!(found(plain.clone(), Baseline), Vec::<String>::new());
    assert_eq!(
        found(plain, Restricted),
        [
            r#"allowPrivilegeEscalation != false (containers "a", "b" must set securityContext.allowPrivilegeEscalation=false)"#,
            r#"unrestricted capabilities (containers "a", "b" must set securityContext.capabilities.drop=["ALL"])"#,
            r#"runAsNonRoot != true (pod or containers "a", "b" must set securityContext.runAsNonRoot=true)"#,
            r#"seccompProfile (pod or containers "a", "b" must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost")"#,
        ]
    );
    assert_eq!(found(careful(), Restricted), Vec::<String>::new());
}

#[test]
fn each_check_finds_its_own() {
    let context = |context: Value| json!({"containers": [{"name": "c", "securityContext": context}]});
    for (spec, what) in [
        (json!({"hostNetwork": true, "hostPID": true}), "host namespaces (hostNetwork=true, hostPID=true)"),
        (json!({"volumes": [{"name": "v", "hostPath": {}}]}), r#"hostPath volumes (volume "v")"#),
        (
            json!({"containers": [{"name": "c", "ports": [{"hostPort": 80}]}]}),
            r#"hostPort (container "c" uses hostPort 80)"#,
        ),
        (
            context(json!({"privileged": true})),
            r#"privileged (container "c" must not set securityContext.privileged=true)"#,
        ),
        (
            json!({"initContainers": [{"name": "i", "securityContext": {"capabilities": {"add": ["CHOWN", "NET_ADMIN"]}}}]}),
            r#"non-default capabilities (container "i" must not include "NET_ADMIN" in securityContext.capabilities.add)"#,
        ),
        (
            context(json!({"procMount": "Unmasked"})),
            r#"procMount (container "c" must not set securityContext.procMount to "Unmasked")"#,
        ),
        (
            json!({"securityContext": {"seccompProfile": {"type": "Unconfined"}}}),
            r#"seccompProfile (pod must not set securityContext.seccompProfile.type to "Unconfined")"#,
        ),
        (
            json!({"securityContext": {"sysctls": [{"name": "kernel.msgmax"}, {"name": "net.ipv4.tcp_rmem"}]}}),
            "forbidden sysctls (kernel.msgmax)",
        ),
        (
            json!({"securityContext": {"windowsOptions": {"hostProcess": true}}}),
            "hostProcess (pod must not set securityContext.windowsOptions.hostProcess=true)",
        ),
    ] {
        assert_eq!(found(spec.clone(), Baseline), [what], "{spec}");
        assert!(found(spec.clone(), Restricted).len() >= usize::from(what.starts_with("host")), "{spec}");
        assert_eq!(found(spec, Level::Privileged), Vec::<String>::new());
    }
    for spec in [
        context(json!({"seLinuxOptions": {"type": "spc_t"}})),
        context(json!({"appArmorProfile": {"type": "Unconfined"}})),
        json!({"containers": [{"name": "c", "livenessProbe": {"httpGet": {"host": "10.0.0.1"}}}]}),
    ] {
        assert_eq!(found(spec.clone(), Baseline).len(), 1, "{spec}");
    }
    let annotated = json!({"metadata": {"annotations": {"container.apparmor.security.beta.kubernetes.io/c": "unconfined"}}, "spec": {}});
    assert_eq!(violations(&annotated, Baseline).len(), 1);
}

fn add(spec: &mut Value, capabilities: Value) {
    spec["containers"][0]["securityContext"]["capabilities"]["add"] = capabilities;
}

#[test]
fn restricted_asks_for_more() {
    let with = |change: fn(&mut Value)| {
        let mut spec = careful();
        change(&mut spec);
        found(spec, Restricted)
    };
    for (change, what) in [
        (
            (|spec| spec["volumes"] = json!([{"name": "v", "nfs": {}}, {"name": "w", "emptyDir": {}}]))
                as fn(&mut Value),
            r#"restricted volume types (volume "v" uses restricted volume type "nfs")"#,
        ),
        (
            |spec| spec["securityContext"]["runAsUser"] = json!(0),
            "runAsUser=0 (pod must not set runAsUser=0)",
        ),
        (
            |spec| spec["containers"][0]["securityContext"]["runAsNonRoot"] = json!(false),
            r#"runAsNonRoot != true (container "c" must not set securityContext.runAsNonRoot=false)"#,
        ),
        (
            |spec| add(spec, json!(["NET_BIND_SERVICE", "CHOWN"])),
            r#"unrestricted capabilities (container "c" must not include "CHOWN" in securityContext.capabilities.add)"#,
        ),
    ] {
        assert_eq!(with(change), [what]);
    }
}
