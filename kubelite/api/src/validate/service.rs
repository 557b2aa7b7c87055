//! Services and their endpoints.

use std::net::IpAddr;

use serde_json::Value;

use super::meta;
use super::report::{Report, list, text};
use crate::names;

pub(super) fn service(report: &mut Report, new: &Value, old: Option<&Value>) {
    let kind = text(new, "/spec/type");
    let kinds = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
    report.one_of("spec.type", kind, &kinds);
    report.one_of("spec.sessionAffinity", text(new, "/spec/sessionAffinity"), &["ClientIP", "None"]);
    meta::labels(report, new, "/spec/selector", "spec.selector");
    let headless = text(new, "/spec/clusterIP") == "None";
    if kind == "ExternalName" {
        let name = text(new, "/spec/externalName").trim_end_matches('.');
        if name.is_empty() {
            report.required("spec.externalName", "");
        } else {
            report.each("spec.externalName", name, &names::dns1123_subdomain(name));
        }
    } else if list(new, "/spec/ports").is_empty() && !headless {
        report.required("spec.ports", "");
    }
    if headless && matches!(kind, "NodePort" | "LoadBalancer") {
        let detail = format!("may not be set to 'None' for {kind} services");
        report.invalid("spec.clusterIPs[0]", &"None".into(), &detail);
    }
    let ip = text(new, "/spec/clusterIP");
    if !ip.is_empty() && !headless && ip.parse::<IpAddr>().is_err() {
        report.invalid(
            "spec.clusterIPs[0]",
            &ip.into(),
            "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        );
    }
    ports(report, new, kind);
    if let Some(old) = old {
        let was = text(old, "/spec/clusterIP");
        if !was.is_empty() && was != ip && kind != "ExternalName" && text(old, "/spec/type") != "ExternalName"
        {
            report.invalid("spec.clusterIPs[0]", &serde_json::json!([ip]), "may not change once set");
        }
    }
}

fn ports(report: &mut Report, service: &Value, kind: &str) {
    let all = list(service, "/spec/ports");
    let (mut seen, mut used) = (Vec::new(), Vec::new());
    for (i, port) in all.iter().enumerate() {
        let (at, name) = (format!("spec.ports[{i}]"), text(port, "/name"));
        if name.is_empty() {
            if all.len() > 1 {
                report.required(format!("{at}.name"), "");
            }
        } else {
            report.each(&format!("{at}.name"), name, &names::dns1123_label(name));
            if seen.contains(&name) {
                report.duplicate(format!("{at}.name"), &name.into());
            }
        }
        seen.push(name);
        let (number, protocol) =
            (port.get("port").and_then(Value::as_i64).unwrap_or(0), text(port, "/protocol"));
        port_number(report, &format!("{at}.port"), number);
        report.one_of(format!("{at}.protocol"), protocol, &["SCTP", "TCP", "UDP"]);
        match port.get("targetPort") {
            Some(Value::String(name)) => {
                report.each(&format!("{at}.targetPort"), name, &names::port_name(name));
            }
            Some(Value::Number(target)) => {
                port_number(report, &format!("{at}.targetPort"), target.as_i64().unwrap_or(0));
            }
            _ => {}
        }
        if kind == "ClusterIP" && port.get("nodePort").is_some_and(|node| *node != 0) {
            report.forbidden(format!("{at}.nodePort"), "may not be used when `type` is 'ClusterIP'");
        }
        if used.contains(&(number, protocol)) {
            report.duplicate(&at, &serde_json::json!({"port": number, "protocol": protocol}));
        }
        used.push((number, protocol));
    }
}

fn port_number(report: &mut Report, field: &str, number: i64) {
    for problem in names::port_number(number) {
        report.invalid(field, &number.into(), &problem);
    }
}

/// An address that traffic may be sent to: neither this host nor this link only.
fn address(report: &mut Report, field: &str, ip: &str) {
    let Ok(parsed) = ip.parse::<IpAddr>() else {
        report.invalid(field, &ip.into(), "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
        return;
    };
    let (link_local, link_multicast) = match parsed {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets().starts_with(&[224, 0, 0])),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), v6.segments().first() == Some(&0xff02)),
    };
    for (bad, detail) in [
        (parsed.is_unspecified(), format!("may not be unspecified ({ip})")),
        (parsed.is_loopback(), "may not be in the loopback range (127.0.0.0/8, ::1/128)".to_owned()),
        (link_local, "may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned()),
        (link_multicast, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".to_owned()),
    ] {
        if bad {
            report.invalid(field, &ip.into(), &detail);
        }
    }
}

pub(super) fn endpoints(report: &mut Report, new: &Value, _: Option<&Value>) {
    for (i, subset) in list(new, "/subsets").iter().enumerate() {
        let at = format!("subsets[{i}]");
        if list(subset, "/addresses").is_empty() && list(subset, "/notReadyAddresses").is_empty() {
            report.required(&at, "must specify `addresses` or `notReadyAddresses`");
        }
        for field in ["addresses", "notReadyAddresses"] {
            for (j, item) in list(subset, &format!("/{field}")).iter().enumerate() {
                address(report, &format!("{at}.{field}[{j}].ip"), text(item, "/ip"));
            }
        }
        let ports = list(subset, "/ports");
        for (j, port) in ports.iter().enumerate() {
            let at = format!("{at}.ports[{j}]");
            if ports.len() > 1 && text(port, "/name").is_empty() {
                report.required(format!("{at}.name"), "");
            }
            port_number(report, &format!("{at}.port"), port.get("port").and_then(Value::as_i64).unwrap_or(0));
            report.one_of(format!("{at}.protocol"), text(port, "/protocol"), &["SCTP", "TCP", "UDP"]);
        }
    }
}

pub(super) fn endpoint_slice(report: &mut Report, new: &Value, old: Option<&Value>) {
    /// The most endpoints of one slice.
    const MAX_ENDPOINTS: usize = 1000;
    let family = text(new, "/addressType");
    if family.is_empty() {
        report.required("addressType", "");
    } else {
        report.one_of("addressType", family, &["FQDN", "IPv4", "IPv6"]);
    }
    let endpoints = list(new, "/endpoints");
    if endpoints.len() > MAX_ENDPOINTS {
        report.too_long("endpoints", MAX_ENDPOINTS);
    }
    for (i, endpoint) in endpoints.iter().enumerate() {
        let at = format!("endpoints[{i}].addresses");
        let addresses = list(endpoint, "/addresses");
        if addresses.is_empty() {
            report.required(&at, "must contain at least 1 address");
        }
        for (j, item) in addresses.iter().filter_map(Value::as_str).enumerate() {
            let field = format!("{at}[{j}]");
            match (family, item.parse::<IpAddr>()) {
                ("IPv4", Ok(IpAddr::V6(_))) => {
                    report.invalid(&field, &item.into(), "must be an IPv4 address");
                }
                ("IPv6", Ok(IpAddr::V4(_))) => {
                    report.invalid(&field, &item.into(), "must be an IPv6 address");
                }
                ("FQDN", _) => report.each(&field, item, &names::dns1123_subdomain(item)),
                _ => address(report, &field, item),
            }
        }
    }
    if let Some(old) = old {
        report.immutable("addressType", new.get("addressType"), old.get("addressType"));
    }
}
