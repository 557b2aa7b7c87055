//! Services: each that wants one gets an address of the service network, and a node port, that no other has.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kubelite_api::object;
use kubelite_api::status::{ApiError, FieldError};
use parking_lot::Mutex;
use rand::RngExt;
use serde_json::{Value, json};

use super::{Part, Strategy, keep_other_part};
use crate::cache::Caches;
use crate::resources;

/// How long an address is held for a service that has not reached the cache yet.
const HELD: Duration = Duration::from_secs(60);
const TRIES: usize = 64;

/// Hands out service addresses and node ports. What is taken is read from the cache, so nothing can leak.
pub struct Allocator {
    caches: Arc<Caches>,
    network: (Ipv4Addr, u8),
    node_ports: std::ops::RangeInclusive<u16>,
    held: Mutex<BTreeMap<String, Instant>>,
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

    fn address(&self, wanted: Option<&str>, service: &str) -> Result<String, ApiError> {
        let size = 1u32 << (32 - u32::from(self.network.1.clamp(8, 30)));
        let base = u32::from(self.network.0) & !(size - 1);
        if let Some(text) = wanted {
            let inside = text.parse::<Ipv4Addr>().is_ok_and(|ip| u32::from(ip) & !(size - 1) == base);
            return if inside && self.hold(text, |s| address_of(s) == text) {
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
            .find(|ip| self.hold(ip, |s| address_of(s) == *ip));
        free.ok_or_else(|| ApiError::internal("failed to allocate a serviceIP: range is full"))
    }

    fn port(&self, wanted: Option<u64>, service: &str) -> Result<u16, ApiError> {
        let taken = |port: u16| move |s: &Value| ports_of(s).any(|p| p == u64::from(port));
        let key = |port: u16| format!("port {port}");
        if let Some(number) = wanted {
            let port = u16::try_from(number).ok().filter(|p| self.node_ports.contains(p));
            return port.filter(|p| self.hold(&key(*p), taken(*p))).ok_or_else(|| {
                let why = if port.is_some() {
                    "provided port is already allocated".to_owned()
                } else {
                    format!(
                        "provided port is not in the valid range. The range of valid ports is {}-{}",
                        self.node_ports.start(),
                        self.node_ports.end()
                    )
                };
                invalid(service, "spec.ports[0].nodePort", &format!("Invalid value: {number}: {why}"))
            });
        }
        let random = std::iter::repeat_with(|| rand::rng().random_range(self.node_ports.clone())).take(TRIES);
        let free = random.chain(self.node_ports.clone()).find(|port| self.hold(&key(*port), taken(*port)));
        free.ok_or_else(|| ApiError::internal("failed to allocate a nodePort: range is full"))
    }

    /// Holds a value if no service and no other holder has it.
    fn hold(&self, value: &str, has: impl Fn(&Value) -> bool) -> bool {
        let mut held = self.held.lock();
        held.retain(|_, since| since.elapsed() < HELD);
        if held.contains_key(value) {
            return false;
        }
        let services = resources::by_plural("services").map(|r| self.caches.of(r).list(&r.key_prefix()));
        if services.into_iter().flatten().any(|entry| has(&entry.value())) {
            return false;
        }
        held.insert(value.to_owned(), Instant::now());
        true
    }
}

fn address_of(service: &Value) -> &str {
    service.pointer("/spec/clusterIP").and_then(Value::as_str).unwrap_or_default()
}

fn ports_of(service: &Value) -> impl Iterator<Item = u64> {
    let ports = service.pointer("/spec/ports").and_then(Value::as_array).into_iter().flatten();
    ports.filter_map(|port| port["nodePort"].as_u64())
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
    fn allocate(allocator: &Allocator, service: &mut Value, old: Option<&Value>) -> Result<(), ApiError> {
        let kind = service["spec"]["type"].as_str().unwrap_or("ClusterIP").to_owned();
        let name = object::name(service).to_owned();
        if kind == "ExternalName" {
            if let Some(spec) = service["spec"].as_object_mut() {
                spec.retain(|field, _| !matches!(field.as_str(), "clusterIP" | "clusterIPs"));
            }
            return Ok(());
        }
        let had = old.map(address_of).filter(|ip| !ip.is_empty());
        let wanted = Some(address_of(service)).filter(|ip| !ip.is_empty()).map(str::to_owned);
        let address = match (wanted, had) {
            (Some(ip), _) if ip == "None" => ip,
            (Some(ip), Some(had)) if ip == had => ip,
            (None, Some(had)) => had.to_owned(),
            (wanted, _) => allocator.address(wanted.as_deref(), &name)?,
        };
        let spec = &mut service["spec"];
        spec["clusterIP"] = json!(address);
        spec["clusterIPs"] = json!([address]);
        for (field, value) in [("ipFamilies", json!(["IPv4"])), ("ipFamilyPolicy", json!("SingleStack"))] {
            if spec[field].is_null() {
                spec[field] = value;
            }
        }
        if matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
            Self::node_ports(allocator, service, old, &name)?;
        }
        Ok(())
    }

    fn node_ports(
        allocator: &Allocator,
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
                (wanted, _) => json!(allocator.port(wanted, name)?),
            };
        }
        Ok(())
    }
}

impl Strategy for Service {
    fn prepare_create(&self, allocator: &Allocator, object: &mut Value) -> Result<(), ApiError> {
        object["status"] = json!({"loadBalancer": {}});
        Service::allocate(allocator, object, None)
    }

    fn prepare_update(
        &self,
        allocator: &Allocator,
        part: Part,
        object: &mut Value,
        old: &Value,
    ) -> Result<(), ApiError> {
        keep_other_part(part, object, old);
        if part == Part::Main { Service::allocate(allocator, object, Some(old)) } else { Ok(()) }
    }
}
