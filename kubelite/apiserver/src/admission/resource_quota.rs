//! ResourceQuota: a namespace does not get more objects, CPU, memory or storage than it was given.
//!
//! What is used is counted from the cache, at the moment of the question, under one lock; what was let through and is not
//! in the cache yet counts too, for a moment. `status.used` is the quota controller's to write.

mod usage;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use kubelite_api::quantity::Quantity;
use kubelite_api::status::ApiError;
use parking_lot::Mutex;
use serde_json::Value;

use crate::admission::{Admission, Attributes, Operation, quantity};
use crate::auth::Objects;

/// How long something that was let through counts although the cache does not show it.
const GRACE: Duration = Duration::from_secs(1);
/// Remembered admissions; above it creations under quotas wait for nobody, they are refused.
const MAX_PENDING: usize = 10_000;

/// Amounts by the names of quotas: `pods`, `requests.cpu`, `count/jobs.batch`.
type Amounts = BTreeMap<String, Quantity>;

/// An object that was let through.
struct Pending {
    since: Instant,
    resource: String,
    namespace: String,
    object: Value,
}

/// The check over the cached quotas and objects.
pub struct ResourceQuota {
    objects: Arc<dyn Objects>,
    pending: Mutex<VecDeque<Pending>>,
}

impl ResourceQuota {
    /// Judges by these objects.
    pub fn new(objects: Arc<dyn Objects>) -> Self {
        ResourceQuota { objects, pending: Mutex::default() }
    }

    fn judge(&self, attributes: &Attributes<'_>, object: &Value, now: Instant) -> Result<(), String> {
        let (group, resource) = (attributes.request.group.as_str(), attributes.request.resource.as_str());
        let namespace = attributes.request.namespace.as_str();
        let wanted = usage::of(group, resource, object);
        let quotas = self.objects.list("resourcequotas", namespace);
        let concerned: Vec<&Value> = quotas
            .iter()
            .map(AsRef::as_ref)
            .filter(|quota| usage::in_scope(quota, resource, object))
            .filter(|quota| resource == "pods" || hard(quota).keys().any(|name| wanted.contains_key(name)))
            .collect();
        if concerned.is_empty() {
            return Ok(());
        }
        let mut pending = self.pending.lock();
        pending.retain(|p| now.duration_since(p.since) < GRACE && !self.visible(p));
        let existing = self.objects.list(resource, namespace);
        let waiting = pending.iter().filter(|p| p.resource == resource && p.namespace == namespace);
        let all: Vec<&Value> = existing.iter().map(AsRef::as_ref).chain(waiting.map(|p| &p.object)).collect();
        for quota in concerned {
            let counted = all.iter().filter(|o| usage::in_scope(quota, resource, o));
            let used = counted.fold(Amounts::new(), |sum, o| add(sum, &usage::of(group, resource, o)));
            exceeds(quota, resource, object, &wanted, &used)?;
        }
        if attributes.dry_run {
            return Ok(());
        }
        if pending.len() >= MAX_PENDING {
            return Err("too many creations at once under resource quotas, try again in a second".to_owned());
        }
        let (resource, namespace) = (resource.to_owned(), namespace.to_owned());
        pending.push_back(Pending { since: now, resource, namespace, object: object.clone() });
        Ok(())
    }

    /// Whether the cache shows it by now.
    fn visible(&self, pending: &Pending) -> bool {
        let name = pending.object["metadata"]["name"].as_str().unwrap_or_default();
        self.objects.get(&pending.resource, &pending.namespace, name).is_some()
    }
}

#[async_trait]
impl Admission for ResourceQuota {
    fn name(&self) -> &'static str {
        "ResourceQuota"
    }

    async fn admit(&self, attributes: &Attributes<'_>, object: &mut Value) -> Result<(), ApiError> {
        let request = attributes.request;
        let plain = request.subresource.is_empty() && !request.namespace.is_empty();
        if attributes.operation != Operation::Create || !plain || request.resource == "namespaces" {
            return Ok(());
        }
        self.judge(attributes, object, Instant::now()).map_err(|why| attributes.forbid(object, &why))
    }
}

fn hard(quota: &Value) -> Amounts {
    let map = quota["spec"]["hard"].as_object().into_iter().flatten();
    map.filter_map(|(name, value)| Some((name.clone(), quantity(value)?))).collect()
}

fn add(mut sum: Amounts, more: &Amounts) -> Amounts {
    for (name, amount) in more {
        let total = sum.get(name).map_or(*amount, |old| old.add(*amount));
        sum.insert(name.clone(), total);
    }
    sum
}

/// Upstream's two refusals: an amount is not named, or too much.
fn exceeds(
    quota: &Value,
    resource: &str,
    object: &Value,
    wanted: &Amounts,
    used: &Amounts,
) -> Result<(), String> {
    let name = quota["metadata"]["name"].as_str().unwrap_or_default();
    let hard = hard(quota);
    if resource == "pods" {
        let missing: Vec<String> =
            hard.keys().filter_map(|amount| usage::unspecified(object, amount)).collect();
        if !missing.is_empty() {
            return Err(format!("failed quota: {name}: must specify {}", missing.join("; ")));
        }
    }
    let zero = Quantity::from_milli(0);
    let over: Vec<&String> = wanted
        .iter()
        .filter(|(amount, want)| {
            let total = used.get(*amount).copied().unwrap_or(zero).add(**want);
            !want.is_zero() && hard.get(*amount).is_some_and(|most| total > *most)
        })
        .map(|(amount, _)| amount)
        .collect();
    if over.is_empty() {
        return Ok(());
    }
    let show = |amounts: &Amounts| {
        let one = |n: &&String| format!("{n}={}", amounts.get(*n).copied().unwrap_or(zero));
        over.iter().map(one).collect::<Vec<_>>().join(",")
    };
    Err(format!(
        "exceeded quota: {name}, requested: {}, used: {}, limited: {}",
        show(wanted),
        show(used),
        show(&hard)
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::auth::testing::{Memory, object};
    use crate::request::{RequestInfo, UserInfo};

    async fn create(
        quota: &ResourceQuota,
        group: &str,
        resource: &str,
        object: &Value,
    ) -> Result<(), String> {
        let request = RequestInfo {
            is_resource: true,
            group: group.into(),
            resource: resource.into(),
            namespace: "ns".into(),
            ..RequestInfo::default()
        };
        let user = UserInfo::new("u", &[]);
        let attributes = Attributes {
            user: &user,
            request: &request,
            operation: Operation::Create,
            old: None,
            dry_run: false,
        };
        quota.admit(&attributes, &mut object.clone()).await.map_err(|e| e.message)
    }

    fn pod(name: &str, cpu: &str) -> Value {
        let resources = if cpu.is_empty() { json!({}) } else { json!({"requests": {"cpu": cpu}}) };
        object("ns", name, json!({"spec": {"containers": [{"name": "c", "resources": resources}]}}))
    }

    fn quota(spec: &Value) -> Memory {
        let hard = object("ns", "q", json!({"spec": spec}));
        Memory::default().and("resourcequotas", hard)
    }

    #[tokio::test]
    async fn cpu_is_counted_with_what_is_on_its_way() {
        let mut done = pod("done", "9");
        done["status"] = json!({"phase": "Succeeded"});
        let memory =
            quota(&json!({"hard": {"requests.cpu": "1"}})).and("pods", pod("a", "300m")).and("pods", done);
        let quota = ResourceQuota::new(memory.shared());
        assert_eq!(create(&quota, "", "pods", &pod("b", "500m")).await, Ok(()));
        assert_eq!(
            create(&quota, "", "pods", &pod("c", "500m")).await.unwrap_err(),
            "pods \"c\" is forbidden: exceeded quota: q, requested: requests.cpu=500m, used: requests.cpu=800m, \
             limited: requests.cpu=1"
        );
        assert_eq!(
            create(&quota, "", "pods", &pod("d", "")).await.unwrap_err(),
            "pods \"d\" is forbidden: failed quota: q: must specify requests.cpu for: c"
        );
    }

    #[tokio::test]
    async fn objects_are_counted_by_group() {
        let memory =
            quota(&json!({"hard": {"count/jobs.batch": "0", "configmaps": "1", "services.nodeports": "1"}}));
        let quota = ResourceQuota::new(memory.and("configmaps", object("ns", "a", json!({}))).shared());
        assert!(create(&quota, "batch", "jobs", &object("ns", "j", json!({}))).await.is_err());
        assert!(create(&quota, "", "configmaps", &object("ns", "b", json!({}))).await.is_err());
        assert!(create(&quota, "", "secrets", &object("ns", "s", json!({}))).await.is_ok());
        let service = |ports: Value| object("ns", "s", json!({"spec": {"type": "NodePort", "ports": ports}}));
        assert!(create(&quota, "", "services", &service(json!([{}, {}]))).await.is_err());
        assert!(create(&quota, "", "services", &service(json!([{}]))).await.is_ok());
    }

    #[tokio::test]
    async fn scopes_choose_the_pods() {
        let memory = quota(&json!({"hard": {"pods": "0"}, "scopes": ["BestEffort", "NotTerminating"]}));
        let quota = ResourceQuota::new(memory.shared());
        assert!(create(&quota, "", "pods", &pod("a", "")).await.is_err());
        assert!(create(&quota, "", "pods", &pod("b", "1")).await.is_ok());
        let mut ending = pod("c", "");
        ending["spec"]["activeDeadlineSeconds"] = json!(5);
        assert!(create(&quota, "", "pods", &ending).await.is_ok());
    }
}
