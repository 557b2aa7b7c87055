//! Routes, of both families.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures::TryStreamExt;
use ipnetwork::IpNetwork;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteProtocol,
    RouteScope, RouteType,
};
use nix::errno::Errno;
use rtnetlink::RouteMessageBuilder;

use crate::error::{during, unless};
use crate::{Error, Netlink, Result};

/// What a route does with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Kind {
    /// Sends it on.
    #[default]
    Unicast,
    /// Drops it silently.
    Blackhole,
    /// Drops it and tells the sender.
    Unreachable,
    /// Anything else: local, broadcast, multicast.
    Other,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// To where; a prefix length of 0 is the default route.
    pub dst: IpNetwork,
    /// Via which neighbour.
    pub gateway: Option<IpAddr>,
    /// Out of which link.
    pub oif: Option<u32>,
    /// The source address that own packets get.
    pub src: Option<IpAddr>,
    /// Lower wins; see [`Route::priority`].
    pub metric: Option<u32>,
    /// The largest packet that this way takes.
    pub mtu: Option<u32>,
    /// The routing table; 254 is the main one.
    pub table: u32,
    /// What it does.
    pub kind: Kind,
    /// Whether the destination is on the link itself.
    pub link_scope: bool,
    /// Whether the gateway counts as being on the link, whatever its address says.
    pub onlink: bool,
    /// Whether the kernel made it for an address of a link.
    pub by_kernel: bool,
}

/// `IP6_RT_PRIO_USER` of the kernel.
const IPV6_METRIC: u32 = 1024;
/// The main routing table.
pub const MAIN: u32 = RouteHeader::RT_TABLE_MAIN as u32;

impl Route {
    /// A route in the main table; the rest is for the caller to set.
    pub fn to(dst: IpNetwork) -> Route {
        Route {
            dst,
            gateway: None,
            oif: None,
            src: None,
            metric: None,
            mtu: None,
            table: MAIN,
            kind: Kind::Unicast,
            link_scope: false,
            onlink: false,
            by_kernel: false,
        }
    }

    /// Its metric; the kernel gives IPv6 routes one of its own where none is said.
    pub fn priority(&self) -> u32 {
        self.metric.unwrap_or(if self.dst.is_ipv6() { IPV6_METRIC } else { 0 })
    }

    fn message(&self) -> Result<RouteMessage> {
        let bad = |e: &dyn std::fmt::Display| Error::Protocol {
            action: format!("make a route to {}", self.dst),
            text: e.to_string(),
        };
        let mut builder = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(self.dst.network(), self.dst.prefix())
            .map_err(|e| bad(&e))?
            .table_id(self.table)
            .protocol(RouteProtocol::Boot)
            .scope(if self.link_scope { RouteScope::Link } else { RouteScope::Universe })
            .kind(match self.kind {
                Kind::Unicast | Kind::Other => RouteType::Unicast,
                Kind::Blackhole => RouteType::BlackHole,
                Kind::Unreachable => RouteType::Unreachable,
            });
        if let Some(gateway) = self.gateway {
            builder = builder.gateway(gateway).map_err(|e| bad(&e))?;
        }
        if let Some(src) = self.src {
            builder = builder.pref_source(src).map_err(|e| bad(&e))?;
        }
        if let Some(oif) = self.oif {
            builder = builder.output_interface(oif);
        }
        if let Some(metric) = self.metric {
            builder = builder.priority(metric);
        }
        let mut message = builder.build();
        message.header.flags.set(RouteFlags::Onlink, self.onlink);
        if let Some(mtu) = self.mtu {
            message.attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)]));
        }
        Ok(message)
    }

    fn parse(message: &RouteMessage) -> Option<Route> {
        let v4 = match message.header.address_family {
            AddressFamily::Inet => true,
            AddressFamily::Inet6 => false,
            _ => return None,
        };
        let any = if v4 { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
        let mut route = Route::to(IpNetwork::new(any, message.header.destination_prefix_length).ok()?);
        route.table = u32::from(message.header.table);
        route.link_scope = message.header.scope == RouteScope::Link;
        route.by_kernel = message.header.protocol == RouteProtocol::Kernel;
        route.onlink = message.header.flags.contains(RouteFlags::Onlink);
        route.kind = match message.header.kind {
            RouteType::Unicast => Kind::Unicast,
            RouteType::BlackHole => Kind::Blackhole,
            RouteType::Unreachable => Kind::Unreachable,
            _ => Kind::Other,
        };
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(ip) => {
                    route.dst = IpNetwork::new(address(ip)?, route.dst.prefix()).ok()?;
                }
                RouteAttribute::Gateway(ip) => route.gateway = address(ip),
                RouteAttribute::PrefSource(ip) => route.src = address(ip),
                RouteAttribute::Oif(index) => route.oif = Some(*index),
                RouteAttribute::Priority(metric) => route.metric = Some(*metric),
                RouteAttribute::Table(table) => route.table = *table,
                RouteAttribute::Metrics(metrics) => {
                    route.mtu = metrics
                        .iter()
                        .find_map(|m| if let RouteMetric::Mtu(mtu) = m { Some(*mtu) } else { None });
                }
                _ => {}
            }
        }
        Some(route)
    }
}

fn address(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some(IpAddr::V4(*ip)),
        RouteAddress::Inet6(ip) => Some(IpAddr::V6(*ip)),
        _ => None,
    }
}

impl Netlink {
    /// All routes of both families, in all tables.
    pub async fn routes(&self) -> Result<Vec<Route>> {
        let mut routes = Vec::new();
        for family in
            [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()]
        {
            let listed: Vec<RouteMessage> = self
                .handle
                .route()
                .get(family)
                .execute()
                .try_collect()
                .await
                .map_err(during(|| "list the routes".into()))?;
            routes.extend(listed.iter().filter_map(Route::parse));
        }
        Ok(routes)
    }

    /// Sets a route, in place of one to the same destination with the same metric.
    pub async fn replace_route(&self, route: &Route) -> Result<()> {
        let set = self.handle.route().add(route.message()?).replace().execute().await;
        set.map_err(during(|| format!("set the route to {}", route.dst)))
    }

    /// Deletes a route; one that is gone is fine.
    pub async fn delete_route(&self, route: &Route) -> Result<()> {
        let deleted = self.handle.route().del(route.message()?).execute().await;
        unless(
            deleted.map_err(during(|| format!("delete the route to {}", route.dst))),
            &[Errno::ESRCH, Errno::ENODEV],
        )
    }

    /// The default routes of both families, the one that the kernel takes first.
    pub async fn default_routes(&self) -> Result<Vec<Route>> {
        let mut routes = self.routes().await?;
        routes.retain(|r| r.dst.prefix() == 0 && r.table == MAIN && r.kind == Kind::Unicast);
        routes.sort_by_key(Route::priority);
        Ok(routes)
    }

    /// The way that the kernel would take to an address (`ip route get`).
    pub async fn route_to(&self, ip: IpAddr) -> Result<Route> {
        let mut asked = Route::to(IpNetwork::from(ip)).message()?;
        asked.header.table = RouteHeader::RT_TABLE_UNSPEC;
        asked.header.protocol = RouteProtocol::Unspec;
        asked.header.kind = RouteType::Unspec;
        let answer = self.handle.route().get(asked).execute().try_next().await;
        let message = answer.map_err(during(|| format!("find the way to {ip}")))?;
        let none = || Error::Refused { action: format!("find the way to {ip}"), errno: Errno::ENETUNREACH };
        message.as_ref().and_then(Route::parse).ok_or_else(none)
    }
}
