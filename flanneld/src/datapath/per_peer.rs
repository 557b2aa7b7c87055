//! Each peer's numbers at /metrics, read when they are asked for: nothing is kept per peer but what the data path counts.

use std::net::IpAddr;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;

use crate::route::traffic::{Count, Ledger};

/// Peers with numbers of their own; those behind, in the order of their addresses, are summed up as `other`.
const MOST_LABELS: usize = 4096;

/// Shown at /metrics.
#[derive(Debug)]
pub(super) struct PerPeer(pub(super) Ledger);

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Label {
    peer: String,
    direction: &'static str,
}

/// What is told of a peer: out and in.
type Row = (String, [Count; 2]);

impl Collector for PerPeer {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let all = self.0.all();
        let numbers = all.iter().map(|(peer, traffic)| (*peer, [traffic.out.get(), traffic.into.get()]));
        let rows = rows(numbers, MOST_LABELS);
        let (name, help) = ("flannel_peer_packets", "Packets to and from each peer's flanneld");
        family(&mut encoder, name, help, &rows, |count| count.packets)?;
        let (name, help) = ("flannel_peer_bytes", "Their bytes, without outer headers");
        family(&mut encoder, name, help, &rows, |count| count.bytes)
    }
}

fn family(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    rows: &[Row],
    number: impl Fn(&Count) -> u64,
) -> std::fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (peer, counts) in rows {
        for (direction, count) in ["out", "in"].into_iter().zip(counts) {
            let label = Label { peer: peer.clone(), direction };
            ConstCounter::new(number(count)).encode(family.encode_family(&label)?)?;
        }
    }
    Ok(())
}

fn rows(peers: impl Iterator<Item = (IpAddr, [Count; 2])>, most: usize) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for (peer, counts) in peers {
        if rows.len() < most {
            rows.push((peer.to_string(), counts));
            continue;
        }
        if rows.len() == most {
            rows.push(("other".to_owned(), Default::default()));
        }
        if let Some((_, sums)) = rows.last_mut() {
            for (sum, count) in sums.iter_mut().zip(counts) {
                sum.packets += count.packets;
                sum.bytes += count.bytes;
            }
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    #[test]
    fn four_thousand_peers_have_their_numbers_and_more_are_summed_up() {
        let ledger = Ledger::default();
        for n in 0..4200_u32 {
            ledger
                .of(std::net::Ipv4Addr::from(0xc612_0000 + n).into())
                .out
                .add(Count { packets: 2, bytes: 100 });
        }
        let mut registry = Registry::default();
        registry.register_collector(Box::new(PerPeer(ledger)));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        let count = |start: &str| text.lines().filter(|line| line.starts_with(start)).count();
        assert_eq!((count("flannel_peer_packets_total{"), count("flannel_peer_bytes_total{")), (8194, 8194));
        for line in [
            r#"flannel_peer_packets_total{peer="198.18.0.9",direction="out"} 2"#,
            r#"flannel_peer_bytes_total{peer="198.18.15.255",direction="in"} 0"#,
            r#"flannel_peer_packets_total{peer="other",direction="out"} 208"#,
            r#"flannel_peer_bytes_total{peer="other",direction="out"} 10400"#,
        ] {
            assert!(text.contains(line), "{line}");
        }
    }
}
