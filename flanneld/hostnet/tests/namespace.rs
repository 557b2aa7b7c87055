//! Links, addresses, routes and rules in a namespace of the test's own. Needs root.

#![allow(clippy::unwrap_used)] // Helpers of tests are tests too.

use hostnet::netns::{Named, run_in};
use hostnet::{Kind, Netlink, Route, nft, sysctl};
use ipnetwork::IpNetwork;

fn net(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

fn inside<T: Send>(name: &str, work: impl AsyncFnOnce() -> T + Send) -> T {
    let namespace = Named::create(&format!("hostnet-{name}-{}", std::process::id())).unwrap();
    run_in(namespace.path(), || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(work())
    })
    .unwrap()
}

#[test]
fn a_bridge_with_a_port_an_address_and_a_route() {
    inside("bridge", async || {
        let netlink = Netlink::connect().unwrap();
        netlink.add_bridge("cni0").await.unwrap();
        netlink.add_bridge("cni0").await.unwrap();
        netlink.add_veth("left", "right", 1472).await.unwrap();
        let bridge = netlink.link_by_name("cni0").await.unwrap().unwrap();
        let left = netlink.link_by_name("left").await.unwrap().unwrap();
        assert_eq!(
            (bridge.kind.as_deref(), left.kind.as_deref(), left.mtu),
            (Some("bridge"), Some("veth"), 1472)
        );
        netlink.set_master(left.index, bridge.index).await.unwrap();
        netlink.set_hairpin(left.index, true).await.unwrap();
        netlink.set_up(bridge.index, true).await.unwrap();
        netlink.set_up(left.index, true).await.unwrap();
        let left = netlink.link_by_name("left").await.unwrap().unwrap();
        assert_eq!((left.master, left.up), (Some(bridge.index), true));

        for text in ["10.9.1.1/24", "fd00:9::1/64"] {
            netlink.add_address(bridge.index, net(text)).await.unwrap();
            netlink.add_address(bridge.index, net(text)).await.unwrap();
        }
        let found = netlink.addresses(Some(bridge.index)).await.unwrap();
        assert!(found.iter().any(|a| a.net == net("10.9.1.1/24")), "{found:?}");
        assert!(found.iter().any(|a| a.net == net("fd00:9::1/64")), "{found:?}");

        let mut route = Route::to(net("10.8.0.0/16"));
        route.gateway = Some("10.9.1.7".parse().unwrap());
        route.mtu = Some(1400);
        netlink.replace_route(&route).await.unwrap();
        netlink.replace_route(&route).await.unwrap();
        let found = netlink.routes().await.unwrap().into_iter().find(|r| r.dst == route.dst).unwrap();
        assert_eq!((found.gateway, found.mtu, found.oif), (route.gateway, route.mtu, Some(bridge.index)));
        assert_eq!(netlink.route_to("10.8.4.4".parse().unwrap()).await.unwrap().gateway, route.gateway);
        netlink.delete_route(&route).await.unwrap();
        netlink.delete_route(&route).await.unwrap();
        let refused = Route { kind: Kind::Unreachable, metric: Some(9000), ..Route::to(net("10.7.0.0/16")) };
        netlink.replace_route(&refused).await.unwrap();
        assert!(netlink.route_to("10.7.1.1".parse().unwrap()).await.is_err());

        netlink.delete_address(bridge.index, net("10.9.1.1/24")).await.unwrap();
        netlink.delete_address(bridge.index, net("10.9.1.1/24")).await.unwrap();
        netlink.delete_link(left.index).await.unwrap();
        netlink.delete_link(left.index).await.unwrap();
        assert!(netlink.link_by_name("right").await.unwrap().is_none());
    });
}

#[test]
fn rules_come_whole_or_not_at_all() {
    inside("nft", async || {
        nft::apply("table ip kept { }").unwrap();
        let refused = nft::apply("delete table ip kept\ntable ip half { nonsense }").unwrap_err();
        assert!(refused.to_string().contains("refused"), "{refused}");
        assert!(nft::has_table("ip", "kept").unwrap() && !nft::has_table("ip", "half").unwrap());
    });
}

#[test]
fn settings_are_those_of_the_namespace() {
    inside("sysctl", async || {
        sysctl::set("net/ipv4/ip_forward", "1").unwrap();
        assert_eq!(sysctl::get("net/ipv4/ip_forward").unwrap(), "1");
        assert!(
            sysctl::set("net/ipv4/no_such_setting", "1").unwrap_err().to_string().contains("no_such_setting")
        );
    });
}
