//! Defaults that depend on other fields of the same object.

use serde_json::{Map, Value, json};

type Fields = Map<String, Value>;

/// Runs before the literals of `definition`.
pub(super) fn before(definition: &str, object: &mut Fields) {
    match definition {
        "io.k8s.api.core.v1.Container" | "io.k8s.api.core.v1.EphemeralContainer" => pull_policy(object),
        "io.k8s.api.core.v1.ResourceRequirements" => requests_from_limits(object),
        "io.k8s.api.core.v1.PodSpec" => host_ports(object),
        "io.k8s.api.core.v1.ServiceSpec" => service(object),
        "io.k8s.api.core.v1.ReplicationController" => from_template(object),
        "io.k8s.api.apps.v1.DeploymentStrategy" | "io.k8s.api.apps.v1.DaemonSetUpdateStrategy" => {
            rolling_update(object);
        }
        "io.k8s.api.apps.v1.StatefulSetUpdateStrategy" => rolling_update(object),
        "io.k8s.api.batch.v1.Job" => job(object),
        "io.k8s.api.networking.v1.NetworkPolicySpec" => policy_types(object),
        "io.k8s.api.rbac.v1.Subject" => subject(object),
        _ => {}
    }
}

/// Runs after the literals of `definition` and of everything below.
pub(super) fn after(definition: &str, object: &mut Fields) {
    match definition {
        "io.k8s.api.core.v1.Namespace" => namespace(object),
        "io.k8s.api.core.v1.ServiceSpec" => service_policies(object),
        _ => {}
    }
}

fn text<'a>(object: &'a Fields, field: &str) -> &'a str {
    object.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn set_default(object: &mut Fields, field: &str, value: impl Into<Value>) {
    if super::is_absent(object, field) {
        object.insert(field.to_owned(), value.into());
    }
}

/// `Always` for an image without a tag or with `latest`, else `IfNotPresent`. A digest is a version.
fn pull_policy(container: &mut Fields) {
    let image = text(container, "image");
    let policy = if image.contains('@') {
        "IfNotPresent"
    } else {
        let last = image.rsplit('/').next().unwrap_or(image);
        match last.split_once(':').map(|(_, tag)| tag) {
            None | Some("latest") => "Always",
            Some(_) => "IfNotPresent",
        }
    };
    set_default(container, "imagePullPolicy", policy);
}

fn requests_from_limits(resources: &mut Fields) {
    let Some(limits) = resources.get("limits").and_then(Value::as_object).cloned() else { return };
    let requests = resources.entry("requests").or_insert_with(|| json!({}));
    if let Value::Object(requests) = requests {
        for (name, limit) in limits {
            requests.entry(name).or_insert(limit);
        }
    }
}

/// A pod in the host's network occupies its container ports on the host.
fn host_ports(spec: &mut Fields) {
    set_default_account(spec);
    if spec.get("hostNetwork") != Some(&Value::Bool(true)) {
        return;
    }
    for list in ["containers", "initContainers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            for port in container.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
                let Value::Object(port) = port else { continue };
                if let Some(number) = port.get("containerPort").cloned() {
                    port.entry("hostPort").or_insert(number);
                }
            }
        }
    }
}

/// `serviceAccount` is the old name of `serviceAccountName`, kept equal to it.
fn set_default_account(spec: &mut Fields) {
    let name = match text(spec, "serviceAccountName") {
        "" => text(spec, "serviceAccount").to_owned(),
        name => name.to_owned(),
    };
    if !name.is_empty() {
        spec.insert("serviceAccountName".into(), name.clone().into());
        spec.insert("serviceAccount".into(), name.into());
    }
}

/// A port's target is the port itself, unless the service has no proxy.
fn service(spec: &mut Fields) {
    let kind = text(spec, "type").to_owned();
    for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        let Value::Object(port) = port else { continue };
        let unset = matches!(port.get("targetPort"), None | Some(Value::Null))
            || port.get("targetPort").is_some_and(|t| t == 0 || t == "");
        if let (true, Some(number)) = (unset, port.get("port").cloned()) {
            port.insert("targetPort".into(), number);
        }
    }
    if text(spec, "sessionAffinity") == "ClientIP" {
        set_default(spec, "sessionAffinityConfig", json!({"clientIP": {"timeoutSeconds": 10800}}));
    } else {
        spec.remove("sessionAffinityConfig");
    }
    if kind == "LoadBalancer" {
        set_default(spec, "allocateLoadBalancerNodePorts", true);
    }
}

fn service_policies(spec: &mut Fields) {
    let kind = text(spec, "type").to_owned();
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
        set_default(spec, "externalTrafficPolicy", "Cluster");
    }
    if kind != "ExternalName" {
        set_default(spec, "internalTrafficPolicy", "Cluster");
    }
}

/// A ReplicationController takes its labels and its selector from its template.
fn from_template(object: &mut Fields) {
    let labels = object
        .get("spec")
        .and_then(|spec| spec.pointer("/template/metadata/labels"))
        .filter(|labels| labels.as_object().is_some_and(|l| !l.is_empty()))
        .cloned();
    let Some(labels) = labels else { return };
    if let Some(Value::Object(spec)) = object.get_mut("spec") {
        set_default_map(spec, "selector", &labels);
    }
    if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
        set_default_map(metadata, "labels", &labels);
    }
}

fn set_default_map(object: &mut Fields, field: &str, value: &Value) {
    if object.get(field).and_then(Value::as_object).is_none_or(Map::is_empty) {
        object.insert(field.to_owned(), value.clone());
    }
}

fn rolling_update(strategy: &mut Fields) {
    if matches!(text(strategy, "type"), "" | "RollingUpdate") {
        set_default(strategy, "rollingUpdate", json!({}));
    }
}

/// One completion after the other, unless a work queue was asked for. These are defaults of a Job and not of its spec:
/// the template in a CronJob stays as it was written.
fn job(job: &mut Fields) {
    let labels = job.get("spec").and_then(|s| s.pointer("/template/metadata/labels")).cloned();
    if let (Some(labels), Some(Value::Object(metadata))) = (labels, job.get_mut("metadata")) {
        set_default_map(metadata, "labels", &labels);
    }
    let Some(Value::Object(spec)) = job.get_mut("spec") else { return };
    if super::is_absent(spec, "completions") && super::is_absent(spec, "parallelism") {
        spec.insert("completions".into(), 1.into());
    }
    set_default(spec, "parallelism", 1);
    set_default(spec, "completionMode", "NonIndexed");
    set_default(spec, "suspend", false);
    // With a limit per index, that is the one that counts.
    let per_index = !super::is_absent(spec, "backoffLimitPerIndex");
    set_default(spec, "backoffLimit", if per_index { i32::MAX } else { 6 });
    // Only a pod that has failed completely has all that its policy is judged by.
    let judged = !super::is_absent(spec, "podFailurePolicy");
    set_default(spec, "podReplacementPolicy", if judged { "Failed" } else { "TerminatingOrFailed" });
    let rules = spec.get_mut("podFailurePolicy").and_then(|policy| policy.get_mut("rules"));
    for rule in rules.and_then(Value::as_array_mut).into_iter().flatten() {
        let patterns = rule.get_mut("onPodConditions").and_then(Value::as_array_mut);
        for pattern in patterns.into_iter().flatten().filter_map(Value::as_object_mut) {
            set_default(pattern, "status", "True");
        }
    }
}

fn policy_types(spec: &mut Fields) {
    let types = if spec.contains_key("egress") { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
    set_default(spec, "policyTypes", types);
}

fn subject(subject: &mut Fields) {
    if matches!(text(subject, "kind"), "User" | "Group") {
        set_default(subject, "apiGroup", "rbac.authorization.k8s.io");
    }
}

/// Every namespace bears its name as a label.
fn namespace(object: &mut Fields) {
    let Some(Value::Object(metadata)) = object.get_mut("metadata") else { return };
    let name = text(metadata, "name").to_owned();
    if name.is_empty() {
        return;
    }
    let labels = metadata.entry("labels").or_insert_with(|| json!({}));
    if let Value::Object(labels) = labels {
        labels.insert("kubernetes.io/metadata.name".into(), name.into());
    }
}
