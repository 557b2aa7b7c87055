//! Ingresses, their classes, and network policies.

use std::net::IpAddr;

use serde_json::Value;

use super::report::{Report, list, text};
use crate::labels::LabelSelector;
use crate::names;

const PATH_TYPES: [&str; 3] = ["Exact", "ImplementationSpecific", "Prefix"];
/// What a path may not have in it, nor at its end, unless the controller alone knows what it means.
const ODD: [&str; 6] = ["//", "/./", "/../", "%2f", "%2F", "%5c"];
const ODD_ENDS: [&str; 2] = ["/..", "/."];

pub(super) fn ingress(report: &mut Report, new: &Value, _: Option<&Value>) {
    let (rules, backend) = (list(new, "/spec/rules"), new.pointer("/spec/defaultBackend"));
    if rules.is_empty() && backend.is_none() {
        let problem = "either `defaultBackend` or `rules` must be specified";
        report.invalid("spec", &new["spec"], problem);
    }
    for (i, tls) in list(new, "/spec/tls").iter().enumerate() {
        for (j, host) in list(tls, "/hosts").iter().enumerate() {
            host_name(report, &format!("spec.tls[{i}].hosts[{j}]"), host.as_str().unwrap_or_default());
        }
    }
    if let Some(backend) = backend {
        check_backend(report, "spec.defaultBackend", backend);
    }
    let class = text(new, "/spec/ingressClassName");
    if !class.is_empty() {
        report.each("spec.ingressClassName", class, &names::dns1123_subdomain(class));
    }
    for (i, rule) in rules.iter().enumerate() {
        let (at, host) = (format!("spec.rules[{i}]"), text(rule, "/host"));
        if host.parse::<IpAddr>().is_ok() {
            report.invalid(format!("{at}.host"), &host.into(), "must be a DNS name, not an IP address");
        } else if !host.is_empty() {
            host_name(report, &format!("{at}.host"), host);
        }
        if rule.get("http").is_some_and(|http| !http.is_null()) {
            let paths = list(rule, "/http/paths");
            if paths.is_empty() {
                report.required(format!("{at}.http.paths"), "");
            }
            for (j, path) in paths.iter().enumerate() {
                check_path(report, &format!("{at}.http.paths[{j}]"), path);
            }
        }
    }
}

/// A name, or all names below one.
fn host_name(report: &mut Report, at: &str, host: &str) {
    let name = host.strip_prefix("*.").unwrap_or(host);
    if name.contains('*') {
        return report.invalid(at, &host.into(), "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. '*.example.com', regex used for validation is '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')");
    }
    report.each(at, host, &names::dns1123_subdomain(name));
}

fn check_path(report: &mut Report, at: &str, path: &Value) {
    let (kind, given) = (text(path, "/pathType"), text(path, "/path"));
    let at_path = format!("{at}.path");
    match kind {
        "" => report.required(format!("{at}.pathType"), "pathType must be specified"),
        "Exact" | "Prefix" => {
            if !given.starts_with('/') {
                report.invalid(&*at_path, &given.into(), "must be an absolute path");
            }
            for odd in ODD.iter().filter(|odd| given.contains(**odd)) {
                report.invalid(&*at_path, &given.into(), &format!("must not contain '{odd}'"));
            }
            for odd in ODD_ENDS.iter().filter(|odd| given.ends_with(**odd)) {
                report.invalid(&*at_path, &given.into(), &format!("cannot end with '{odd}'"));
            }
        }
        kind => {
            report.one_of(format!("{at}.pathType"), kind, &PATH_TYPES);
            if !given.is_empty() && !given.starts_with('/') {
                report.invalid(&*at_path, &given.into(), "must be an absolute path");
            }
        }
    }
    check_backend(report, &format!("{at}.backend"), path.get("backend").unwrap_or(&Value::Null));
}

fn check_backend(report: &mut Report, at: &str, backend: &Value) {
    let there = |field: &str| backend.get(field).is_some_and(|value| !value.is_null());
    match (there("resource"), there("service")) {
        (true, true) => report.invalid(at, &"".into(), "cannot set both resource and service backends"),
        (true, false) => {}
        (false, false) => report.required(at, "resource or service backend is required"),
        (false, true) => {
            let name = text(backend, "/service/name");
            if name.is_empty() {
                report.required(format!("{at}.service.name"), "");
            } else {
                report.each(&format!("{at}.service.name"), name, &names::dns1035_label(name));
            }
            let port_name = text(backend, "/service/port/name");
            let number = backend.pointer("/service/port/number").and_then(Value::as_i64).filter(|n| *n != 0);
            match (port_name, number) {
                ("", None) => report.required(at, "port name or number is required"),
                ("", Some(number)) => {
                    for problem in names::port_number(number) {
                        report.invalid(format!("{at}.service.port.number"), &number.into(), &problem);
                    }
                }
                (name, None) => {
                    report.each(&format!("{at}.service.port.name"), name, &names::port_name(name));
                }
                _ => report.invalid(at, &"".into(), "cannot set both port name & port number"),
            }
        }
    }
}

pub(super) fn ingress_class(report: &mut Report, new: &Value, old: Option<&Value>) {
    let controller = text(new, "/spec/controller");
    match controller {
        "" => report.required("spec.controller", ""),
        _ if controller.len() > 250 => report.too_long("spec.controller", 250),
        _ => match controller.split_once('/') {
            Some((domain, path)) if !path.is_empty() => {
                report.each("spec.controller", controller, &names::dns1123_subdomain(domain));
            }
            _ => report.invalid(
                "spec.controller",
                &controller.into(),
                "must be a domain-prefixed path (such as \"acme.io/foo\")",
            ),
        },
    }
    if let Some(parameters) = new.pointer("/spec/parameters").filter(|parameters| !parameters.is_null()) {
        for field in ["kind", "name"] {
            if text(parameters, &format!("/{field}")).is_empty() {
                report.required(format!("spec.parameters.{field}"), "");
            }
        }
        let (scope, namespace) = (text(parameters, "/scope"), text(parameters, "/namespace"));
        report.one_of("spec.parameters.scope", scope, &["Cluster", "Namespace"]);
        if scope == "Namespace" && namespace.is_empty() {
            report.required("spec.parameters.namespace", "`parameters.scope` is set to 'Namespace'");
        }
        if scope == "Cluster" && !namespace.is_empty() {
            report.forbidden("spec.parameters.namespace", "`parameters.scope` is set to 'Cluster'");
        }
    }
    if let Some(old) = old {
        report.immutable("spec.controller", new.pointer("/spec/controller"), old.pointer("/spec/controller"));
    }
}

pub(super) fn policy(report: &mut Report, new: &Value, _: Option<&Value>) {
    selector(report, "spec.podSelector", new.pointer("/spec/podSelector"));
    for (direction, from) in [("ingress", "from"), ("egress", "to")] {
        for (i, rule) in list(new, &format!("/spec/{direction}")).iter().enumerate() {
            let at = format!("spec.{direction}[{i}]");
            for (j, port) in list(rule, "/ports").iter().enumerate() {
                policy_port(report, &format!("{at}.ports[{j}]"), port);
            }
            for (j, peer) in list(rule, &format!("/{from}")).iter().enumerate() {
                policy_peer(report, &format!("{at}.{from}[{j}]"), peer);
            }
        }
    }
    let types = list(new, "/spec/policyTypes");
    if types.len() > 2 {
        report.invalid(
            "spec.policyTypes",
            &new["spec"]["policyTypes"],
            "may not specify more than two policyTypes",
        );
    }
    for (i, kind) in types.iter().enumerate() {
        report.one_of(
            format!("spec.policyTypes[{i}]"),
            kind.as_str().unwrap_or_default(),
            &["Egress", "Ingress"],
        );
    }
}

fn policy_port(report: &mut Report, at: &str, port: &Value) {
    report.one_of(format!("{at}.protocol"), text(port, "/protocol"), &["SCTP", "TCP", "UDP"]);
    let end = port["endPort"].as_i64();
    match &port["port"] {
        Value::Number(number) => {
            let number = number.as_i64().unwrap_or_default();
            for problem in names::port_number(number) {
                report.invalid(format!("{at}.port"), &number.into(), &problem);
            }
            if let Some(end) = end.filter(|end| *end < number) {
                report.invalid(
                    format!("{at}.endPort"),
                    &end.into(),
                    "must be greater than or equal to `port`",
                );
            }
            for problem in end.map(names::port_number).unwrap_or_default() {
                report.invalid(format!("{at}.endPort"), &end.into(), &problem);
            }
        }
        Value::String(name) => {
            report.each(&format!("{at}.port"), name, &names::port_name(name));
            if let Some(end) = end {
                report.invalid(
                    format!("{at}.endPort"),
                    &end.into(),
                    "may not be specified when `port` is non-numeric",
                );
            }
        }
        _ => {
            if let Some(end) = end {
                report.invalid(
                    format!("{at}.endPort"),
                    &end.into(),
                    "may not be specified when `port` is not specified",
                );
            }
        }
    }
}

fn policy_peer(report: &mut Report, at: &str, peer: &Value) {
    let block = peer.get("ipBlock").filter(|block| !block.is_null());
    let selectors =
        ["podSelector", "namespaceSelector"].map(|field| (field, peer.get(field).filter(|s| !s.is_null())));
    let selecting = selectors.iter().filter(|(_, selector)| selector.is_some()).count();
    for (field, value) in selectors.iter().filter(|(_, value)| value.is_some()) {
        selector(report, &format!("{at}.{field}"), *value);
    }
    match block {
        None if selecting == 0 => report.required(at, "must specify a peer"),
        None => {}
        Some(_) if selecting > 0 => report.forbidden(at, "may not specify both ipBlock and another peer"),
        Some(block) => ip_block(report, &format!("{at}.ipBlock"), block),
    }
}

fn ip_block(report: &mut Report, at: &str, block: &Value) {
    let cidr = text(block, "/cidr");
    let whole = match (cidr, network(cidr)) {
        ("", _) => return report.required(format!("{at}.cidr"), ""),
        (_, None) => return report.invalid(format!("{at}.cidr"), &cidr.into(), CIDR),
        (_, Some(whole)) => whole,
    };
    for (i, except) in list(block, "/except").iter().enumerate() {
        let at = format!("{at}.except[{i}]");
        match except.as_str().and_then(network) {
            None => report.invalid(at, except, CIDR),
            Some(part) if part.1 <= whole.1 || prefix(part.0, whole.1) != prefix(whole.0, whole.1) => {
                report.invalid(at, except, "must be a strict subset of `cidr`");
            }
            Some(_) => {}
        }
    }
}

const CIDR: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";

/// An address and how many bits of it count.
fn network(text: &str) -> Option<(IpAddr, u8)> {
    let (address, length) = text.split_once('/')?;
    let (address, length): (IpAddr, u8) = (address.parse().ok()?, length.parse().ok()?);
    (length <= if address.is_ipv4() { 32 } else { 128 }).then_some((address, length))
}

/// The family and the first bits of an address.
fn prefix(address: IpAddr, length: u8) -> (bool, u128) {
    let (bits, width) = match address {
        IpAddr::V4(v4) => (u128::from(u32::from(v4)), 32),
        IpAddr::V6(v6) => (u128::from(v6), 128),
    };
    (address.is_ipv4(), bits.checked_shr(u32::from(width - length)).unwrap_or(0))
}

fn selector(report: &mut Report, at: &str, selector: Option<&Value>) {
    let selector = selector.unwrap_or(&Value::Null);
    if let Err(error) = LabelSelector::from_value(selector) {
        report.invalid(at, selector, &error.to_string());
    }
}
