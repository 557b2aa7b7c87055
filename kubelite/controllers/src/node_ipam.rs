//! Gives each node a part of the pods' network (`spec.podCIDR`), for network plugins that take it from there. Upstream's range allocator:
//! the next free one behind the last that was given, so that a part that was given back rests for a while.

use crate::context::{Context, is_status};
use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use kubelite_informer::{EventType, Key, Queue, Recorder};
use parking_lot::Mutex;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

/// Between two tries while all parts are given out.
const FULL: Duration = Duration::from_secs(10);
/// One node at a time: what is free depends on what the one before got.
const ONE: usize = 1;

/// What is given out: the pods' network, in parts of this prefix length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeCidrs {
    network: IpNetwork,
    mask: u8,
}

impl NodeCidrs {
    /// Of a network, in parts of this prefix length.
    ///
    /// # Errors
    /// If the network is smaller than one part, or has more than 2¹⁶ (as upstream).
    pub fn new(network: IpNetwork, mask: u8) -> anyhow::Result<NodeCidrs> {
        let longest = if network.is_ipv4() { 32 } else { 128 };
        anyhow::ensure!(
            mask <= longest && (network.prefix()..=network.prefix().saturating_add(16)).contains(&mask),
            "--node-cidr-mask-size {mask} does not divide {network}: it must be between {} and {}",
            network.prefix(),
            longest.min(network.prefix().saturating_add(16))
        );
        Ok(NodeCidrs { network, mask })
    }

    /// The next free part behind `last`, from the beginning again behind the end; none if all are taken. Pure.
    fn next_free(&self, taken: &[IpNetwork], last: Option<IpNetwork>) -> Option<IpNetwork> {
        let count = 1_u128 << (self.mask - self.network.prefix());
        let place = |net: IpNetwork| (0..count).find(|n| self.part(*n) == Some(net));
        let first = last.and_then(place).map_or(0, |n| n + 1);
        let mut parts = (0..count).filter_map(|n| self.part((first + n) % count));
        parts.find(|part| !taken.iter().any(|other| overlap(*part, *other)))
    }

    fn part(&self, n: u128) -> Option<IpNetwork> {
        let ip: IpAddr = match self.network.network() {
            IpAddr::V4(ip) => {
                let offset = u32::try_from(n << (32 - self.mask)).ok()?;
                Ipv4Addr::from(u32::from(ip).checked_add(offset)?).into()
            }
            IpAddr::V6(ip) => {
                Ipv6Addr::from(u128::from(ip).checked_add(n.checked_shl(u32::from(128 - self.mask))?)?).into()
            }
        };
        IpNetwork::new(ip, self.mask).ok()
    }
}

fn overlap(a: IpNetwork, b: IpNetwork) -> bool {
    a.contains(b.network()) || b.contains(a.network())
}

/// Subscribes the controller, and runs it.
pub(crate) fn run(ctx: Context, cidrs: NodeCidrs) -> impl Future<Output = ()> + Send {
    let queue = Queue::new();
    let waiting = queue.clone();
    ctx.caches.nodes.on_change(move |change| {
        let bare = change.new.filter(|node| cidr_of(node).is_none());
        bare.into_iter().for_each(|node| waiting.add(node.name_any()));
    });
    async move {
        ctx.caches.synced().await;
        let (recorder, shutdown) = (ctx.recorder("cidrAllocator"), ctx.shutdown.clone());
        let last = Arc::new(Mutex::new(None));
        queue
            .run(ONE, shutdown, move |name| {
                reconcile(ctx.clone(), recorder.clone(), cidrs, last.clone(), name)
            })
            .await;
    }
}

async fn reconcile(
    ctx: Context,
    recorder: Recorder,
    cidrs: NodeCidrs,
    last: Arc<Mutex<Option<IpNetwork>>>,
    name: String,
) -> kube::Result<Option<Duration>> {
    let Some(node) = ctx.caches.nodes.get(&Key::new("", &name)).filter(|node| cidr_of(node).is_none()) else {
        return Ok(None);
    };
    let taken: Vec<IpNetwork> = ctx.caches.nodes.all().iter().flat_map(|node| cidrs_of(node)).collect();
    let Some(cidr) = cidrs.next_free(&taken, *last.lock()) else {
        let text = format!("Node {name} status is now: CIDRNotAvailable");
        recorder.record(&*node, EventType::Normal, "CIDRNotAvailable", text);
        return Ok(Some(FULL));
    };
    let text = cidr.to_string();
    let patch = serde_json::json!({"metadata": {"uid": node.uid()},
        "spec": {"podCIDR": text, "podCIDRs": [text]}});
    let api: Api<Node> = Api::all(ctx.client.clone());
    match api.patch(&name, &PatchParams::default(), &Patch::Strategic(patch)).await {
        Ok(written) => ctx.caches.nodes.written(written),
        // Gone, or another one of the same name by now: that one is told of, too.
        Err(error) if is_status(&error, 404) || is_status(&error, 409) => return Ok(None),
        Err(error) => return Err(error),
    }
    *last.lock() = Some(cidr);
    Ok(None)
}

fn cidr_of(node: &Node) -> Option<&str> {
    node.spec.as_ref()?.pod_cidr.as_deref().filter(|cidr| !cidr.is_empty())
}

fn cidrs_of(node: &Node) -> Vec<IpNetwork> {
    let more = node.spec.iter().flat_map(|spec| spec.pod_cidrs.iter().flatten().map(String::as_str));
    cidr_of(node).into_iter().chain(more).filter_map(|cidr| cidr.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNetwork {
        text.parse().unwrap()
    }

    #[test]
    fn the_next_free_part_is_given() {
        for (network, mask, taken, last, expected) in [
            ("10.42.0.0/16", 24, &[][..], None, Some("10.42.0.0/24")),
            ("10.42.0.0/16", 24, &["10.42.0.0/24"], None, Some("10.42.1.0/24")),
            ("10.42.0.0/16", 24, &["10.42.0.0/23"], None, Some("10.42.2.0/24")),
            ("10.42.0.0/16", 24, &[], Some("10.42.7.0/24"), Some("10.42.8.0/24")),
            ("10.42.0.0/16", 24, &[], Some("10.42.255.0/24"), Some("10.42.0.0/24")),
            ("10.42.0.0/23", 24, &["10.42.0.0/24", "10.42.1.0/24"], None, None),
            ("10.42.0.0/23", 24, &["10.42.0.0/24"], Some("10.42.0.0/24"), Some("10.42.1.0/24")),
            ("10.42.0.0/23", 24, &["10.42.0.0/24"], Some("10.42.1.0/24"), Some("10.42.1.0/24")),
            ("10.42.0.0/24", 24, &[], None, Some("10.42.0.0/24")),
            ("0.0.0.0/8", 24, &["0.0.0.0/24"], None, Some("0.0.1.0/24")),
            ("fd00:42::/48", 64, &["fd00:42::/64"], None, Some("fd00:42:0:1::/64")),
        ] {
            let cidrs = NodeCidrs::new(net(network), mask).unwrap();
            let taken: Vec<IpNetwork> = taken.iter().map(|text| net(text)).collect();
            assert_eq!(
                cidrs.next_free(&taken, last.map(net)),
                expected.map(net),
                "{network} {taken:?} {last:?}"
            );
        }
    }

    #[test]
    fn parts_that_do_not_divide_the_network_are_refused() {
        for (network, mask) in
            [("10.42.0.0/16", 15), ("10.42.0.0/16", 33), ("10.0.0.0/4", 24), ("fd00::/48", 65)]
        {
            assert!(NodeCidrs::new(net(network), mask).is_err(), "{network} {mask}");
        }
    }
}
