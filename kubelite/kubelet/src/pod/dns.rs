//! A pod's resolv.conf. Pure.

use super::spec;
use crate::Config;
use crate::runtime::Dns;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

/// resolv.conf by dnsPolicy, with dnsConfig merged in.
pub(super) fn settings(config: &Config, pod: &Pod, node: &Dns) -> Dns {
    let spec = spec::of(pod);
    let host = spec::host_network(pod);
    let mut dns = match (spec.dns_policy.as_deref().unwrap_or("ClusterFirst"), config.cluster_dns) {
        ("None", _) => Dns::default(),
        ("ClusterFirstWithHostNet", Some(server)) => cluster_dns(config, pod, server, node),
        ("ClusterFirst", Some(server)) if !host => cluster_dns(config, pod, server, node),
        _ => node.clone(),
    };
    if let Some(more) = &spec.dns_config {
        add_missing(&mut dns.servers, more.nameservers.iter().flatten());
        add_missing(&mut dns.searches, more.searches.iter().flatten());
        for option in more.options.iter().flatten() {
            let Some(name) = &option.name else { continue };
            dns.options.retain(|o| o.split(':').next() != Some(name));
            dns.options.push(option.value.as_ref().map_or_else(|| name.clone(), |v| format!("{name}:{v}")));
        }
    }
    dns
}

fn cluster_dns(config: &Config, pod: &Pod, server: std::net::IpAddr, node: &Dns) -> Dns {
    let domain = &config.cluster_domain;
    let namespace = pod.namespace().unwrap_or_default();
    let mut searches = vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
    add_missing(&mut searches, node.searches.iter());
    Dns { servers: vec![server.to_string()], searches, options: vec!["ndots:5".into()] }
}

fn add_missing<'a>(list: &mut Vec<String>, more: impl Iterator<Item = &'a String>) {
    for item in more {
        if !list.contains(item) {
            list.push(item.clone());
        }
    }
}

/// The node's resolv.conf as DNS settings.
pub(super) fn parse_resolv_conf(text: &str) -> Dns {
    let mut dns = Dns::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let key = words.next();
        let values: Vec<String> = words.map(str::to_string).collect();
        match key {
            Some("nameserver") => dns.servers.extend(values.into_iter().take(1)),
            Some("search") => dns.searches = values,
            Some("options") => dns.options = values,
            _ => {}
        }
    }
    dns
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn policies() {
        let node = parse_resolv_conf("nameserver 192.0.2.53\nsearch example.org\noptions rotate\n");
        let config = crate::config::tests::config();
        let cases = [
            (
                json!({}),
                "10.96.0.10 | ns.svc.cluster.local svc.cluster.local cluster.local example.org | ndots:5",
            ),
            (json!({ "hostNetwork": true }), "192.0.2.53 | example.org | rotate"),
            (json!({ "dnsPolicy": "Default" }), "192.0.2.53 | example.org | rotate"),
            (
                json!({ "hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet" }),
                "10.96.0.10 | ns.svc.cluster.local svc.cluster.local cluster.local example.org | ndots:5",
            ),
            (
                json!({ "dnsPolicy": "None", "dnsConfig": { "nameservers": ["192.0.2.1"], "searches": ["a"],
                    "options": [{ "name": "ndots", "value": "2" }, { "name": "edns0" }] } }),
                "192.0.2.1 | a | ndots:2 edns0",
            ),
            (
                json!({ "dnsConfig": { "options": [{ "name": "ndots", "value": "2" }] } }),
                "10.96.0.10 | ns.svc.cluster.local svc.cluster.local cluster.local example.org | ndots:2",
            ),
        ];
        for (spec, expected) in cases {
            let mut value = json!({ "metadata": { "name": "p", "namespace": "ns" }, "spec": spec });
            value["spec"]["containers"] = json!([]);
            let pod: Pod = serde_json::from_value(value).unwrap();
            let dns = settings(&config, &pod, &node);
            let text = [dns.servers, dns.searches, dns.options].map(|list| list.join(" ")).join(" | ");
            assert_eq!(text, expected);
        }
    }
}
