//! The variables by which containers find services, in the two old styles. Pure.

use k8s_openapi::api::core::v1::{Service, ServicePort};
use kube::ResourceExt;

/// The variables of one service; none if it has no cluster IP of its own.
pub(super) fn variables(service: &Service) -> Vec<(String, String)> {
    let spec = service.spec.clone().unwrap_or_default();
    let ip = spec.cluster_ip.filter(|ip| !ip.is_empty() && ip != "None");
    let (Some(ip), ports) = (ip, spec.ports.unwrap_or_default()) else { return vec![] };
    let Some(first) = ports.first() else { return vec![] };
    let name = upper(&service.name_any());
    let mut list = vec![
        (format!("{name}_SERVICE_HOST"), ip.clone()),
        (format!("{name}_SERVICE_PORT"), first.port.to_string()),
    ];
    let named = ports.iter().filter_map(|p| Some((p.name.as_deref().filter(|n| !n.is_empty())?, p.port)));
    list.extend(
        named.map(|(port, number)| (format!("{name}_SERVICE_PORT_{}", upper(port)), number.to_string())),
    );
    list.push((format!("{name}_PORT"), url(first, &ip)));
    for port in &ports {
        let protocol = protocol(port);
        let prefix = format!("{name}_PORT_{}_{}", port.port, protocol.to_uppercase());
        list.extend([
            (prefix.clone(), url(port, &ip)),
            (format!("{prefix}_PROTO"), protocol),
            (format!("{prefix}_PORT"), port.port.to_string()),
            (format!("{prefix}_ADDR"), ip.clone()),
        ]);
    }
    list
}

fn upper(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}

fn protocol(port: &ServicePort) -> String {
    port.protocol.as_deref().unwrap_or("TCP").to_lowercase()
}

fn url(port: &ServicePort, ip: &str) -> String {
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_string() };
    format!("{}://{host}:{}", protocol(port), port.port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn variables_of_services() {
        let service = |ip: &str, ports: serde_json::Value| -> Service {
            let spec = json!({ "clusterIP": ip, "ports": ports });
            serde_json::from_value(json!({ "metadata": { "name": "my-dns" }, "spec": spec })).unwrap()
        };
        let ports = json!([{ "name": "dns-udp", "protocol": "UDP", "port": 53 }, { "name": "", "port": 80 }]);
        let text: Vec<String> = variables(&service("10.0.0.10", ports.clone()))
            .into_iter()
            .map(|(k, v)| format!("{k}={v}"))
            .collect();
        let expected = [
            "MY_DNS_SERVICE_HOST=10.0.0.10",
            "MY_DNS_SERVICE_PORT=53",
            "MY_DNS_SERVICE_PORT_DNS_UDP=53",
            "MY_DNS_PORT=udp://10.0.0.10:53",
            "MY_DNS_PORT_53_UDP=udp://10.0.0.10:53",
            "MY_DNS_PORT_53_UDP_PROTO=udp",
            "MY_DNS_PORT_53_UDP_PORT=53",
            "MY_DNS_PORT_53_UDP_ADDR=10.0.0.10",
            "MY_DNS_PORT_80_TCP=tcp://10.0.0.10:80",
            "MY_DNS_PORT_80_TCP_PROTO=tcp",
            "MY_DNS_PORT_80_TCP_PORT=80",
            "MY_DNS_PORT_80_TCP_ADDR=10.0.0.10",
        ];
        assert_eq!(text, expected);
        assert!(variables(&service("None", ports)).is_empty());
    }
}
