//! Services: each that wants one gets an address of the service network, and a node port, that no other has.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use kubelite_api::object;
use kubelite_api::status::{ApiError, FieldError};
use parking_lot::Mutex;
use rand::RngExt;
use serde_json::{Value, json};

use super::{Part, Strategy, keep_other_part};
use crate::cache::Caches;
use crate::resources;

/// How many random candidates are tried before all are looked at in order.
const TRIES: usize = 64;

/// What a service has only with an address of its own.
const ADDRESSED: [&str; 4] = ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"];
/// What a service has only if it is reached at its nodes.
const REACHED_AT_NODES: [&str; 3] =
    ["externalTrafficPolicy", "healthCheckNodePort", "allocateLoadBalancerNodePorts"];

/// Hands out service addresses and node ports. What is taken is read from the cache, so nothing can leak.
pub struct Allocator {
    caches: Arc<Caches>,
    network: (Ipv4Addr, u8),
    node_ports: std::ops::RangeInclusive<u16>,
    held: Mutex<BTreeSet<String>>,
}

impl Allocator {
    /// For this service network (address and prefix length) and these ports.
    pub fn new(
        caches: Arc<Caches>,
        network: (Ipv4Addr, u8),
        node_ports: std::ops::RangeInclusive<u16>,
    ) -> Self {
        Allocator { caches, network, node_ports, held: Mutex::default() }
    }

    /// For one request.
    pub fn claims(&self) -> Claims<'_> {
        Claims { allocator: self, taken: Mutex::default() }
    }

    /// Whether a value is free; then it is held until the [`Claims`] end.
    fn hold(&self, value: &str, has: impl Fn(&Value) -> bool) -> bool {
        let mut held = self.held.lock();
        if held.contains(value) {
            return false;
        }
        let services = resources::by_plural("services").map(|r| self.caches.of(r).list(&r.key_prefix()));
        if services.into_iter().flatten().any(|entry| has(&entry.value())) {
            return false;
        }
        held.insert(value.to_owned())
    }
}

/// What one request took that the cache does not show yet. It is given back when the request is over: by then the cache
/// shows the service that has it, or there is no such service.
pub struct Claims<'a> {
    allocator: &'a Allocator,
    taken: Mutex<Vec<String>>,
}

impl Drop for Claims<'_> {
    fn drop(&mut self) {
        let mut held = self.allocator.held.lock();
        for value in self.taken.get_mut().iter() {
            held.remove(value);
        }
    }
}

impl Claims<'_> {
    fn take(&self, value: &str, has: impl Fn(&Value) -> bool) -> bool {
        let free = self.allocator.hold(value, has);
        if free {
            self.taken.lock().push(value.to_owned());
        }
        free
    }

    fn address(&self, wanted: Option<&str>, service: &str) -> Result<String, ApiError> {
        let (network, length) = self.allocator.network;
        let size = 1u32 << (32 - u32::from(length.clamp(8, 30)));
        let base = u32::from(network) & !(size - 1);
        if let Some(text) = wanted {
            let inside = text.parse::<Ipv4Addr>().is_ok_and(|ip| u32::from(ip) & !(size - 1) == base);
            return if inside && self.take(text, |s| address_of(s) == text) {
                Ok(text.to_owned())
            } else {
                let why = if inside {
                    "provided IP is already allocated"
                } else {
                    "provided IP is not in the valid range"
                };
                Err(invalid(
                    service,
                    "spec.clusterIPs",
                    &format!("Invalid value: [\"{text}\"]: failed to allocate IP {text}: {why}"),
                ))
            };
        }
        // The first sixteenth is left for addresses that are chosen by hand, as upstream's KEP-3070 has it.
        let low = (size / 16).clamp(2, 256);
        let random = std::iter::repeat_with(|| rand::rng().random_range(low..size - 1)).take(TRIES);
        let candidates = random.chain(low..size - 1).chain(1..low);
        let free = candidates
            .map(|offset| Ipv4Addr::from(base + offset).to_string())
            .find(|ip| self.take(ip, |s| address_of(s) == *ip));
        free.ok_or_else(|| ApiError::internal("failed to allocate a serviceIP: range is full"))
    }

    fn port(&self, wanted: Option<u64>, service: &str) -> Result<u16, ApiError> {
        let range = &self.allocator.node_ports;
        let taken = |port: u16| move |s: &Value| ports_of(s).any(|p| p == u64::from(port));
        let key = |port: u16| format!("port {port}");
        if let Some(number) = wanted {
            let port = u16::try_from(number).ok().filter(|p| range.contains(p));
            // A service may name one port twice, for two protocols.
            let mine = |p: &u16| self.taken.lock().contains(&key(*p));
            return port.filter(|p| mine(p) || self.take(&key(*p), taken(*p))).ok_or_else(|| {
                let why = if port.is_some() {
                    "provided port is already allocated".to_owned()
                } else {
                    format!(
                        "provided port is not in the valid range. The range of valid ports is {}-{}",
                        range.start(),
                        range.end()
                    )
                };
                invalid(service, "spec.ports[0].nodePort", &format!("Invalid value: {number}: {why}"))
            });
        }
        let random = std::iter::repeat_with(|| rand::rng().random_range(range.clone())).take(TRIES);
        let free = random.chain(range.clone()).find(|port| self.take(&key(*port), taken(*port)));
        free.ok_or_else(|| ApiError::internal("failed to allocate a nodePort: range is full"))
    }
}

fn address_of(service: &Value) -> &str {
    service.pointer("/spec/clusterIP").and_then(Value::as_str).unwrap_or_default()
}

fn ports_of(service: &Value) -> impl Iterator<Item = u64> {
    let ports = service.pointer("/spec/ports").and_then(Value::as_array).into_iter().flatten();
    ports.filter_map(|port| port["nodePort"].as_u64())
}

fn has_node_ports(kind: &str) -> bool {
    matches!(kind, "NodePort" | "LoadBalancer")
}

/// A service that was reached at its nodes and no longer is keeps nothing of that, unless the client sets it anew.
fn forget_node_ports(service: &mut Value, old: Option<&Value>) {
    let Some(old) = old.filter(|o| has_node_ports(o["spec"]["type"].as_str().unwrap_or_default())) else {
        return;
    };
    let before: Vec<u64> = ports_of(old).collect();
    let ports = service.pointer_mut("/spec/ports").and_then(Value::as_array_mut).into_iter().flatten();
    for port in ports.filter_map(Value::as_object_mut) {
        if port.get("nodePort").and_then(Value::as_u64).is_some_and(|p| before.contains(&p)) {
            port.remove("nodePort");
        }
    }
    let Some(spec) = service["spec"].as_object_mut() else { return };
    spec.retain(|field, value| !REACHED_AT_NODES.contains(&field.as_str()) || old["spec"][field] != *value);
}

fn invalid(service: &str, field: &str, message: &str) -> ApiError {
    let error =
        FieldError { reason: "FieldValueInvalid", field: field.to_owned(), message: message.to_owned() };
    ApiError::invalid("Service", service, &[error])
}

/// The strategy of services.
pub struct Service;

impl Service {
    /// Fills in address and ports; what `old` had stays.
    fn allocate(claims: &Claims<'_>, service: &mut Value, old: Option<&Value>) -> Result<(), ApiError> {
        let kind = service["spec"]["type"].as_str().unwrap_or("ClusterIP").to_owned();
        let name = object::name(service).to_owned();
        if !has_node_ports(&kind) {
            forget_node_ports(service, old);
        }
        if kind == "ExternalName" {
            if let Some(spec) = service["spec"].as_object_mut() {
                spec.retain(|field, _| !ADDRESSED.contains(&field.as_str()));
            }
            return Ok(());
        }
        let had = old.map(address_of).filter(|ip| !ip.is_empty());
        let wanted = Some(address_of(service)).filter(|ip| !ip.is_empty()).map(str::to_owned);
        let address = match (wanted, had) {
            (Some(ip), _) if ip == "None" => ip,
            (Some(ip), Some(had)) if ip == had => ip,
            (None, Some(had)) => had.to_owned(),
            (wanted, _) => claims.address(wanted.as_deref(), &name)?,
        };
        let spec = &mut service["spec"];
        spec["clusterIP"] = json!(address);
        spec["clusterIPs"] = json!([address]);
        for (field, value) in [("ipFamilies", json!(["IPv4"])), ("ipFamilyPolicy", json!("SingleStack"))] {
            if spec[field].is_null() {
                spec[field] = value;
            }
        }
        if has_node_ports(&kind) {
            Self::node_ports(claims, service, old, &name)?;
        }
        Ok(())
    }

    fn node_ports(
        claims: &Claims<'_>,
        service: &mut Value,
        old: Option<&Value>,
        name: &str,
    ) -> Result<(), ApiError> {
        let before: Vec<Value> = old.and_then(|o| o["spec"]["ports"].as_array()).cloned().unwrap_or_default();
        let same = |a: &Value, b: &Value| a["port"] == b["port"] && a["protocol"] == b["protocol"];
        for port in service["spec"]["ports"].as_array_mut().into_iter().flatten() {
            let had = before.iter().find(|b| same(b, port)).and_then(|b| b["nodePort"].as_u64());
            let wanted = port["nodePort"].as_u64().filter(|p| *p > 0);
            let known = wanted.is_some_and(|w| before.iter().any(|b| b["nodePort"].as_u64() == Some(w)));
            port["nodePort"] = match (wanted, had) {
                (Some(number), _) if known => json!(number),
                (None, Some(had)) => json!(had),
                (wanted, _) => json!(claims.port(wanted, name)?),
            };
        }
        Ok(())
    }
}

impl Strategy for Service {
    fn prepare_create(&self, claims: &Claims<'_>, object: &mut Value) -> Result<(), ApiError> {
        object["status"] = json!({"loadBalancer": {}});
        Service::allocate(claims, object, None)
    }

    fn prepare_update(
        &self,
        claims: &Claims<'_>,
        part: Part,
        object: &mut Value,
        old: &Value,
    ) -> Result<(), ApiError> {
        keep_other_part(part, object, old);
        if part == Part::Main { Service::allocate(claims, object, Some(old)) } else { Ok(()) }
    }
}
