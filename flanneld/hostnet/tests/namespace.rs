//! Links, addresses, routes and rules in a namespace of the test's own. Needs root.

#![allow(clippy::unwrap_used)] // Helpers of tests are tests too.

use hostnet::neighbour::Table;
use hostnet::netns::{Named, run_in};
use hostnet::{Changes, Kind, Neighbour, Netlink, Route, nft, sysctl};
use ipnetwork::IpNetwork;
use rtnetlink::LinkVxlan;

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
fn an_address_can_be_used_at_once() {
    inside("dad", async || {
        let netlink = Netlink::connect().unwrap();
        netlink.add_veth("left", "right", 1500).await.unwrap();
        let [left, right] = ["left", "right"].map(|name| netlink.link_by_name(name));
        for link in [left.await.unwrap().unwrap(), right.await.unwrap().unwrap()] {
            netlink.set_up(link.index, true).await.unwrap();
            let net = IpNetwork::new(format!("fd00:9::{}", link.index).parse().unwrap(), 64).unwrap();
            netlink.add_address(link.index, net).await.unwrap();
            // While the kernel looks for a duplicate, it knows no such address.
            std::net::UdpSocket::bind((net.ip(), 0)).unwrap();
        }
    });
}

#[test]
fn one_address_replaces_the_others() {
    inside("address", async || {
        let netlink = Netlink::connect().unwrap();
        netlink.add_bridge("cni0").await.unwrap();
        let index = netlink.link_by_name("cni0").await.unwrap().unwrap().index;
        for text in ["10.9.1.1/24", "10.9.1.9/24", "10.8.1.1/24", "fd00:9::1/64"] {
            netlink.add_address(index, net(text)).await.unwrap();
        }
        for _ in 0..2 {
            netlink.replace_address(index, net("10.9.1.7/24")).await.unwrap();
            let present = netlink.addresses(Some(index)).await.unwrap();
            let mut left: Vec<_> =
                present.iter().map(|a| a.net).filter(|net| !net.to_string().starts_with("fe80")).collect();
            left.sort();
            assert_eq!(left, [net("10.9.1.7/24"), net("fd00:9::1/64")]);
        }
    });
}

/// What a VXLAN backend does for a peer, and takes back.
#[test]
fn neighbours_of_a_vxlan() {
    inside("vxlan", async || {
        let (connection, handle, _) = rtnetlink::new_connection().unwrap();
        tokio::spawn(connection);
        let vxlan = LinkVxlan::new("vxlan1", 1).port(8472).learning(false).up().build();
        handle.link().add(vxlan).execute().await.unwrap();
        let netlink = Netlink::connect().unwrap();
        let index = netlink.link_by_name("vxlan1").await.unwrap().unwrap().index;
        let entry = |table, ip: &str, last| Neighbour {
            table,
            index,
            ip: ip.parse().unwrap(),
            mac: [2, 0, 0, 0, 0, last],
            permanent: true,
        };
        let of = async |table| netlink.neighbours(index, table).await.unwrap();
        for (table, ips) in
            [(Table::Neighbours, ["10.9.1.0", "fd00:9::7"]), (Table::Forwarding, ["192.0.2.7", "192.0.2.8"])]
        {
            let [mut one, two] = [entry(table, ips[0], 1), entry(table, ips[1], 2)];
            for neighbour in [&one, &two, &two] {
                netlink.replace_neighbour(neighbour).await.unwrap();
            }
            let listed: Vec<_> =
                of(table).await.into_iter().filter(|n| n.permanent && !n.ip.is_multicast()).collect();
            assert_eq!(listed.len(), 2, "{listed:?}");
            assert!(listed.contains(&one) && listed.contains(&two), "{listed:?}");
            match table {
                Table::Neighbours => one.mac[5] = 9,
                Table::Forwarding => one.ip = "192.0.2.9".parse().unwrap(),
            }
            netlink.replace_neighbour(&one).await.unwrap();
            assert!(of(table).await.contains(&one), "the peer has moved");
            for neighbour in [&one, &one, &two] {
                netlink.delete_neighbour(neighbour).await.unwrap();
            }
            assert!(!of(table).await.iter().any(|n| *n == one || *n == two));
        }
    });
}

#[test]
fn rules_come_whole_or_not_at_all() {
    inside("nft", async || {
        nft::apply("table ip kept { }").unwrap();
        let refused = nft::apply("delete table ip kept\ntable ip half { nonsense }").unwrap_err();
        assert!(refused.to_string().contains("refused"), "{refused}");
        assert!(
            nft::has_table(nft::Family::Ip, "kept").unwrap()
                && !nft::has_table(nft::Family::Ip, "half").unwrap()
        );
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

/// Every way to take rules away shows, and nothing that others do.
#[test]
fn a_tables_fingerprint_changes_with_the_table_only() {
    inside("fingerprint", async || {
        let print = || nft::fingerprint(nft::Family::Ip, "mine").unwrap();
        assert_eq!(print(), None);
        let quiet = nft::generation().unwrap();
        assert_eq!(nft::generation().unwrap(), quiet);
        let rules: String =
            (0..500).map(|n| format!("ip daddr 10.9.{}.{} accept\n", n / 250, n % 250)).collect();
        let mine =
            format!("table ip mine {{ chain c {{ type filter hook forward priority 0;\n{rules} }}\n}}\n");
        nft::apply(&mine).unwrap();
        assert_ne!(nft::generation().unwrap(), quiet);
        let right = print().unwrap();

        let others = "table ip other {\n chain c { ip daddr 10.9.9.9 accept; }\n}\ntable inet mine {\n chain c { accept; }\n}\n";
        let before = nft::generation().unwrap();
        nft::apply(others).unwrap();
        assert_ne!(nft::generation().unwrap(), before);
        assert_eq!(print(), Some(right));

        for damage in ["flush table ip mine", "add rule ip mine c drop", "flush ruleset"] {
            nft::apply(&format!("delete table ip mine\n{mine}")).unwrap();
            let right = print().unwrap();
            nft::apply(damage).unwrap();
            assert_ne!(print(), Some(right), "{damage}");
        }
        assert_eq!(print(), None);
    });
}

#[test]
fn changes_of_links_addresses_and_routes_are_heard() {
    inside("changes", async || {
        let netlink = Netlink::connect().unwrap();
        let changes = Changes::listen().unwrap();
        assert!(!changes.any(&[]));
        netlink.add_bridge("br0").await.unwrap();
        assert!(changes.any(&[]) && !changes.any(&[]), "told once");
        let bridge = netlink.link_by_name("br0").await.unwrap().unwrap().index;
        assert!(!changes.any(&[]), "a question is no change");
        netlink.add_address(bridge, net("10.9.1.1/24")).await.unwrap();
        assert!(changes.any(&[]));
        let route = Route { oif: Some(bridge), ..Route::to(net("10.8.0.0/16")) };
        netlink.set_up(bridge, true).await.unwrap();
        netlink.replace_route(&route).await.unwrap();
        assert!(changes.any(&[]));
        netlink.delete_route(&route).await.unwrap();
        assert!(changes.any(&[]));
        // Of neighbours only those of the link that is asked for.
        let entry = Neighbour {
            table: Table::Neighbours,
            index: bridge,
            ip: "10.9.1.2".parse().unwrap(),
            mac: [2; 6],
            permanent: true,
        };
        for (links, heard) in [(&[][..], false), (&[bridge + 1], false), (&[bridge + 1, bridge], true)] {
            netlink.replace_neighbour(&entry).await.unwrap();
            netlink.delete_neighbour(&entry).await.unwrap();
            assert_eq!(changes.any(links), heard, "{links:?}");
        }
        // More than the socket holds is a change too.
        for _ in 0..2000 {
            netlink.replace_route(&route).await.unwrap();
        }
        assert!(changes.any(&[]) && !changes.any(&[]));
    });
}
