//! Containers: names, images, ports, environment, mounts, resources and probes.

use serde_json::Value;

use super::report::{Report, entries, list, text};
use crate::{names, quantity::Quantity};

/// All containers of a pod's spec at `path`, whose volumes have these names.
pub(super) fn all(report: &mut Report, path: &str, spec: &Value, volumes: &[&str]) {
    if list(spec, "/containers").is_empty() {
        report.required(format!("{path}.containers"), "");
    }
    let mut seen = Vec::new();
    for field in ["initContainers", "containers", "ephemeralContainers"] {
        for (i, container) in list(spec, &format!("/{field}")).iter().enumerate() {
            let (at, name) = (format!("{path}.{field}[{i}]"), text(container, "/name"));
            if seen.contains(&name) && !name.is_empty() {
                report.duplicate(format!("{at}.name"), &name.into());
            }
            seen.push(name);
            one(report, &at, container, volumes);
        }
    }
}

fn one(report: &mut Report, at: &str, container: &Value, volumes: &[&str]) {
    let (name, image) = (text(container, "/name"), text(container, "/image"));
    if name.is_empty() {
        report.required(format!("{at}.name"), "");
    } else {
        report.each(&format!("{at}.name"), name, &names::dns1123_label(name));
    }
    if image.is_empty() {
        report.required(format!("{at}.image"), "");
    } else if image.trim() != image {
        report.invalid(format!("{at}.image"), &image.into(), "must not have leading or trailing whitespace");
    }
    let policy = text(container, "/imagePullPolicy");
    report.one_of(format!("{at}.imagePullPolicy"), policy, &["Always", "IfNotPresent", "Never"]);
    ports(report, at, container);
    environment(report, at, container);
    mounts(report, at, container, volumes);
    resources(report, at, container);
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(value) = container.get(probe) {
            self::probe(report, &format!("{at}.{probe}"), value, probe != "readinessProbe");
        }
    }
    for hook in ["postStart", "preStop"] {
        if let Some(value) = container.pointer(&format!("/lifecycle/{hook}")) {
            handler(report, &format!("{at}.lifecycle.{hook}"), value);
        }
    }
}

fn ports(report: &mut Report, at: &str, container: &Value) {
    let mut seen = Vec::new();
    for (i, port) in list(container, "/ports").iter().enumerate() {
        let at = format!("{at}.ports[{i}]");
        let name = text(port, "/name");
        if !name.is_empty() {
            report.each(&format!("{at}.name"), name, &names::port_name(name));
            if seen.contains(&name) {
                report.duplicate(format!("{at}.name"), &name.into());
            }
            seen.push(name);
        }
        match port.get("containerPort").and_then(Value::as_i64) {
            None | Some(0) => report.required(format!("{at}.containerPort"), ""),
            Some(number) => self::number(report, &format!("{at}.containerPort"), number),
        }
        if let Some(number) = port.get("hostPort").and_then(Value::as_i64).filter(|n| *n != 0) {
            self::number(report, &format!("{at}.hostPort"), number);
        }
        report.one_of(format!("{at}.protocol"), text(port, "/protocol"), &["SCTP", "TCP", "UDP"]);
    }
}

fn number(report: &mut Report, field: &str, number: i64) {
    for problem in names::port_number(number) {
        report.invalid(field, &number.into(), &problem);
    }
}

fn environment(report: &mut Report, at: &str, container: &Value) {
    for (i, variable) in list(container, "/env").iter().enumerate() {
        let (at, name) = (format!("{at}.env[{i}]"), text(variable, "/name"));
        if name.is_empty() {
            report.required(format!("{at}.name"), "");
        } else {
            report.each(&format!("{at}.name"), name, &names::env_name(name));
        }
        let Some(source) = variable.get("valueFrom") else { continue };
        if !text(variable, "/value").is_empty() {
            let detail = "may not be specified when `value` is not empty";
            report.invalid(format!("{at}.valueFrom"), &"".into(), detail);
        }
        match source.as_object().map_or(0, serde_json::Map::len) {
            1 => {}
            0 => {
                let detail = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`";
                report.invalid(format!("{at}.valueFrom"), &"".into(), detail);
            }
            _ => {
                let detail = "may not have more than one field specified at a time";
                report.invalid(format!("{at}.valueFrom"), &"".into(), detail);
            }
        }
    }
}

fn mounts(report: &mut Report, at: &str, container: &Value, volumes: &[&str]) {
    let mut seen = Vec::new();
    for (i, mount) in list(container, "/volumeMounts").iter().enumerate() {
        let at = format!("{at}.volumeMounts[{i}]");
        let (name, path) = (text(mount, "/name"), text(mount, "/mountPath"));
        if name.is_empty() {
            report.required(format!("{at}.name"), "");
        } else if !volumes.contains(&name) {
            report.not_found(format!("{at}.name"), name);
        }
        if path.is_empty() {
            report.required(format!("{at}.mountPath"), "");
        } else if seen.contains(&path) {
            report.invalid(format!("{at}.mountPath"), &path.into(), "must be unique");
        }
        seen.push(path);
        let sub = text(mount, "/subPath");
        if sub.starts_with('/') {
            report.invalid(format!("{at}.subPath"), &sub.into(), "must be a relative path");
        }
        if sub.split('/').any(|part| part == "..") {
            report.invalid(format!("{at}.subPath"), &sub.into(), "must not contain '..'");
        }
    }
}

fn resources(report: &mut Report, at: &str, container: &Value) {
    let parse = |value: &Value| value.as_str().and_then(|text| text.parse::<Quantity>().ok());
    for field in ["limits", "requests"] {
        for (name, value) in entries(container, &format!("/resources/{field}")) {
            let path = format!("{at}.resources.{field}");
            report.each(&path, name, &names::qualified_name(name));
            if parse(value).is_some_and(|q| q.is_negative()) {
                report.invalid(format!("{path}[{name}]"), value, "must be greater than or equal to 0");
            }
        }
    }
    for (name, request) in entries(container, "/resources/requests") {
        let limit = container.pointer("/resources/limits").and_then(|l| l.get(name)).and_then(parse);
        if let (Some(requested), Some(limit)) = (parse(request), limit)
            && requested > limit
        {
            let detail = format!("must be less than or equal to {name} limit of {limit}");
            report.invalid(format!("{at}.resources.requests"), request, &detail);
        }
    }
}

/// A liveness or start-up probe needs one success exactly.
fn probe(report: &mut Report, at: &str, probe: &Value, once: bool) {
    handler(report, at, probe);
    for field in
        ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
    {
        report.not_negative(format!("{at}.{field}"), probe.get(field));
    }
    if let (true, Some(times)) = (once, probe.get("successThreshold").filter(|n| **n != 1)) {
        report.invalid(format!("{at}.successThreshold"), times, "must be 1");
    }
}

/// Exactly one of the ways to run or ask.
fn handler(report: &mut Report, at: &str, handler: &Value) {
    const KINDS: [&str; 5] = ["exec", "httpGet", "tcpSocket", "grpc", "sleep"];
    let mut found = KINDS.iter().filter(|kind| handler.get(**kind).is_some());
    if found.next().is_none() {
        report.required(at, "must specify a handler type");
    }
    for extra in found {
        report.forbidden(format!("{at}.{extra}"), "may not specify more than 1 handler type");
    }
    if handler.get("exec").is_some() && list(handler, "/exec/command").is_empty() {
        report.required(format!("{at}.exec.command"), "");
    }
    for kind in ["httpGet", "tcpSocket", "grpc"] {
        match handler.pointer(&format!("/{kind}/port")) {
            Some(Value::Number(port)) => {
                number(report, &format!("{at}.{kind}.port"), port.as_i64().unwrap_or(0));
            }
            Some(Value::String(name)) => {
                report.each(&format!("{at}.{kind}.port"), name, &names::port_name(name));
            }
            _ => {}
        }
    }
}
