//! The container's side: what is done inside its network namespace, on a thread that enters it and ends there.

use std::path::Path;

use hostnet::{Address, Link, Netlink, Route, netns};

use crate::error::Error;
use crate::host::{delete_link, enable_ipv6, link, refuse_routers};
use crate::plan::Plan;

/// What stands in a container's namespace, for CHECK.
#[derive(Debug)]
pub struct Observed {
    /// The interface, if it is there.
    pub link: Option<Link>,
    /// Its addresses.
    pub addresses: Vec<Address>,
    /// The routes out of it.
    pub routes: Vec<Route>,
}

/// Gives the container's interface its addresses and routes.
pub fn configure(namespace: &Path, plan: &Plan) -> Result<Link, Error> {
    enter(namespace, async |netlink| {
        let name = &plan.veth.container;
        let step = || format!("set up {name} in the container");
        let missing = || Error::damaged(name, "the container has no such interface");
        let inner = link(netlink, name).await?.ok_or_else(missing)?;
        refuse_routers(name)?;
        if plan.addresses.iter().any(ipnetwork::IpNetwork::is_ipv6) {
            enable_ipv6("lo")?;
            enable_ipv6(name)?;
        }
        for address in &plan.addresses {
            netlink.add_address(inner.index, *address).await.map_err(Error::kernel(step()))?;
        }
        netlink.set_up(inner.index, true).await.map_err(Error::kernel(step()))?;
        for route in &plan.routes {
            let route = Route { gateway: route.gw, oif: Some(inner.index), ..Route::to(route.dst) };
            netlink.replace_route(&route).await.map_err(Error::kernel(step()))?;
        }
        Ok(inner)
    })
}

/// Deletes the container's interface. That the namespace is gone, or is none any more, is fine: the interface went with it.
pub fn delete_interface(namespace: &Path, name: &str) -> Result<(), Error> {
    match enter(namespace, async |netlink| match link(netlink, name).await? {
        Some(found) if found.kind.as_deref() == Some("veth") => delete_link(netlink, name).await,
        _ => Ok(()),
    }) {
        Err(Error::Namespace { .. }) => Ok(()),
        result => result,
    }
}

/// Looks at the container's interface.
pub fn observe(namespace: &Path, name: &str) -> Result<Observed, Error> {
    enter(namespace, async |netlink| {
        let step = || format!("look at {name} in the container");
        let Some(link) = link(netlink, name).await? else {
            return Ok(Observed { link: None, addresses: Vec::new(), routes: Vec::new() });
        };
        let addresses = netlink.addresses(Some(link.index)).await.map_err(Error::kernel(step()))?;
        let mut routes = netlink.routes().await.map_err(Error::kernel(step()))?;
        routes.retain(|route| route.oif == Some(link.index));
        Ok(Observed { link: Some(link), addresses, routes })
    })
}

/// Sets `lo` up, or down again, and returns it with its addresses.
pub fn set_loopback(namespace: &Path, up: bool) -> Result<Observed, Error> {
    enter(namespace, async |netlink| {
        let step = "set up lo in the container";
        let lo = link(netlink, "lo").await?.ok_or_else(|| Error::damaged("lo", "the container has none"))?;
        netlink.set_up(lo.index, up).await.map_err(Error::kernel(step))?;
        let addresses = netlink.addresses(Some(lo.index)).await.map_err(Error::kernel(step))?;
        Ok(Observed { link: Some(lo), addresses, routes: Vec::new() })
    })
}

/// Runs `work` in the namespace, with netlink there and a small runtime of its own.
fn enter<T: Send>(
    namespace: &Path,
    work: impl AsyncFnOnce(&Netlink) -> Result<T, Error> + Send,
) -> Result<T, Error> {
    let inside = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
        let runtime = runtime.map_err(Error::kernel("start the runtime"))?;
        runtime.block_on(async {
            let netlink = Netlink::connect().map_err(Error::kernel("talk to the kernel in the container"))?;
            work(&netlink).await
        })
    };
    netns::run_in(namespace, inside).map_err(|error| Error::Namespace {
        path: namespace.to_owned(),
        problem: format!("{:#}", anyhow::Error::from(error)),
    })?
}
