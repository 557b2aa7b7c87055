// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// The kernel's part of the udp backend: the common case of what src/datapath does in user space, in the same wire format. The kernel asks
// for a licence that is compatible with the GPL, so that this file has two.
//
//   pods ─► flannel0 ─ flannel_out: lookup, a hop less, outer headers, way ─► the interface to the other nodes ═►
//   pods ◄─ flannel0 ◄─ flannel_in ◄─ GRO ◄─ flannel_xdp: sender, source and destination checked, outer headers off ◄═
//
// What is not the common case goes on to where it would go without these programs, that is, to flanneld: a destination that nobody has, a
// peer that cannot take what a kernel sends, a next hop whose MAC is unknown, a packet that is too long for the way, fragments, options, the last hop,
// whatever does not add up. User space answers and counts it there.
//
// Two maps are the route table: `lease` has one element, the own lease and how long it is certainly ours, and `peers` the others' subnets.
// Control replaces an element as a whole. After the deadline the programs do nothing any more, whether flanneld lives or not.
//
// Compiled by `make bpf`; the object beside this file is what flanneld embeds, and a test compares both.

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <stdbool.h>
#include <stddef.h>

#define SECTION(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))
#define swap16(x) __builtin_bswap16(x)
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "network order is written down for little-endian machines"
#endif

// How maps are described to loaders that read BTF.
#define MAP_UINT(name, value) int(*name)[value]
#define MAP_TYPE(name, value) typeof(value) *name

static void *(*bpf_map_lookup_elem)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static __u64 (*bpf_ktime_get_coarse_ns)(void) = (void *)BPF_FUNC_ktime_get_coarse_ns;
static long (*bpf_redirect)(__u32 ifindex, __u64 flags) = (void *)BPF_FUNC_redirect;
static long (*bpf_redirect_neigh)(__u32 ifindex, struct bpf_redir_neigh *next, int plen, __u64 flags) = (void *)BPF_FUNC_redirect_neigh;
static long (*bpf_fib_lookup)(void *ctx, struct bpf_fib_lookup *params, int plen, __u32 flags) = (void *)BPF_FUNC_fib_lookup;
static long (*bpf_skb_adjust_room)(struct __sk_buff *skb, __s32 len, __u32 mode, __u64 flags) = (void *)BPF_FUNC_skb_adjust_room;
static long (*bpf_skb_change_head)(struct __sk_buff *skb, __u32 len, __u64 flags) = (void *)BPF_FUNC_skb_change_head;
static long (*bpf_xdp_adjust_head)(struct xdp_md *xdp, int delta) = (void *)BPF_FUNC_xdp_adjust_head;
static long (*bpf_xdp_adjust_meta)(struct xdp_md *xdp, int delta) = (void *)BPF_FUNC_xdp_adjust_meta;

// The outer IPv4 and UDP headers.
#define OUTER (sizeof(struct iphdr) + sizeof(struct udphdr))
#define OUTER_TTL 64
#define AF_INET 2
#define ECN 3
#define VERSION_IHL 0x45
#define FRAGMENT 0xff3f // 0x3fff in network order: offset, and more fragments
#define DONT_FRAGMENT 0x40
// In what flannel_xdp leaves for flannel_in; only the kernel can put something there.
#define MARK 0x666c616eU

// The own lease. Addresses and the port are in network order.
struct lease {
	__u32 network;
	__u32 mask;
	__u32 address; // the outer one
	__u32 underlay; // the interface to the other nodes
	__u32 device; // flannel0
	__u32 mtu; // the largest inner packet
	__u16 port;
	__u16 flags;
	__u32 unused;
	__u64 deadline; // by CLOCK_MONOTONIC, in nanoseconds; without an end: the largest number
};

// Every super-packet is cut before it reaches another kernel.
#define LEASE_SPLITS 1

// Another node's subnet.
struct peer {
	__u32 next_hop;
	__u32 flags;
};

// It takes what a kernel sends (its lease says partial-checksum).
#define PEER_TAKES 1
// The way there takes less than the interface: flanneld judges its packets, in both directions.
#define PEER_NARROW 2
// It takes over marks of congestion from the outer packet (its lease says ecn).
#define PEER_MARKS 4

// What was carried to and from a subnet; packets as they are on the wire, bytes without outer headers.
struct traffic {
	__u64 out_packets, out_bytes, in_packets, in_bytes;
};

// A packet's share of it, and the longest of the packets that it is on the wire.
struct amount {
	__u32 packets, bytes, longest;
};

// Why a packet was dropped here: the same as in src/datapath/counters.rs.
enum reason { TTL, SENDER, DESTINATION, CONGESTION, SEND_OUT, SEND_IN, REASONS };

// Elements are replaced under readers, who must see the old one or the new one: not those of a preallocated map, which are used again.
struct {
	MAP_UINT(type, BPF_MAP_TYPE_HASH);
	MAP_TYPE(key, __u32);
	MAP_TYPE(value, struct lease);
	MAP_UINT(max_entries, 1);
	MAP_UINT(map_flags, BPF_F_NO_PREALLOC);
} lease SECTION(".maps");

struct {
	MAP_UINT(type, BPF_MAP_TYPE_HASH);
	MAP_TYPE(key, __u32);
	MAP_TYPE(value, struct peer);
	MAP_UINT(max_entries, 16384);
	MAP_UINT(map_flags, BPF_F_NO_PREALLOC);
} peers SECTION(".maps");

struct {
	MAP_UINT(type, BPF_MAP_TYPE_PERCPU_HASH);
	MAP_TYPE(key, __u32);
	MAP_TYPE(value, struct traffic);
	MAP_UINT(max_entries, 16384);
	MAP_UINT(map_flags, BPF_F_NO_PREALLOC);
} traffic SECTION(".maps");

struct {
	MAP_UINT(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	MAP_TYPE(key, __u32);
	MAP_TYPE(value, __u64);
	MAP_UINT(max_entries, REASONS);
} drops SECTION(".maps");

INLINE void count_drop(__u32 reason)
{
	__u64 *count = bpf_map_lookup_elem(&drops, &reason);
	if (count)
		*count += 1;
}

INLINE struct lease *valid_lease(void)
{
	__u32 only = 0;
	struct lease *own = bpf_map_lookup_elem(&lease, &only);
	// Exact to a tick of the timer, and a tenth of the cost of the exact clock.
	return own && bpf_ktime_get_coarse_ns() < own->deadline ? own : NULL;
}

// One hop less. The checksum grows by what the word of TTL and protocol loses (RFC 1624).
INLINE void hop(struct iphdr *ip)
{
	__u32 sum = ip->check + 1;
	ip->check = sum + (sum >> 16);
	ip->ttl -= 1;
}

INLINE __u16 folded(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

// Another class of service: the low byte of the first word, as this machine reads it, is version and length.
INLINE void set_tos(struct iphdr *ip, __u8 tos)
{
	__u32 first = *(__u8 *)ip;
	ip->check = ~folded((__u16)~ip->check + (__u16) ~(first | ip->tos << 8) + (first | tos << 8));
	ip->tos = tos;
}

INLINE __u16 header_sum(const struct iphdr *ip)
{
	const __u16 *words = (const __u16 *)ip;
	__u32 sum = 0;
#pragma unroll
	for (int i = 0; i < 10; i++)
		sum += words[i];
	return ~folded(sum);
}

// The length of an inner packet's headers: how often they stand on the wire, a super-packet has to know.
INLINE __u32 headers(const struct iphdr *ip, const void *end)
{
	if (ip->protocol == IPPROTO_UDP)
		return sizeof(*ip) + sizeof(struct udphdr);
	const struct tcphdr *tcp = (const void *)(ip + 1);
	if (ip->protocol != IPPROTO_TCP || (const void *)(tcp + 1) > end)
		return 0;
	return sizeof(*ip) + tcp->doff * 4;
}

// Counts a packet as those that stand on the wire for it, or none that is not understood.
INLINE bool count(struct __sk_buff *skb, const struct iphdr *ip, const void *end, __u32 whole, struct amount *on_wire)
{
	on_wire->packets = 1;
	on_wire->bytes = on_wire->longest = whole;
	__u32 size = skb->gso_size;
	if (!size)
		return true;
	__u32 common = headers(ip, end);
	if (!common || whole <= common)
		return false;
	on_wire->packets = (whole - common + size - 1) / size;
	on_wire->bytes = whole + (on_wire->packets - 1) * common;
	on_wire->longest = size + common;
	return true;
}

// Out of the pods: at the egress of flannel0, where a packet has no link header yet.
SECTION("classifier")
int flannel_out(struct __sk_buff *skb)
{
	struct iphdr *ip = (void *)(long)skb->data;
	void *end = (void *)(long)skb->data_end;
	if (skb->protocol != swap16(ETH_P_IP) || (void *)(ip + 1) > end)
		return TC_ACT_UNSPEC;
	if (*(__u8 *)ip != VERSION_IHL || ip->frag_off & FRAGMENT || ip->ttl <= 1)
		return TC_ACT_UNSPEC;
	// Whatever else a kernel leaves unfinished (SCTP's checksum), nobody would finish.
	if (ip->protocol != IPPROTO_TCP && ip->protocol != IPPROTO_UDP && ip->protocol != IPPROTO_ICMP)
		return TC_ACT_UNSPEC;
	struct lease *own = valid_lease();
	if (!own)
		return TC_ACT_UNSPEC;
	__u32 subnet = ip->daddr & own->mask;
	struct peer *peer = bpf_map_lookup_elem(&peers, &subnet);
	if (!peer || (peer->flags & (PEER_TAKES | PEER_NARROW)) != PEER_TAKES)
		return TC_ACT_UNSPEC;

	__u32 whole = skb->len;
	struct amount on_wire;
	if (!count(skb, ip, end, whole, &on_wire))
		return TC_ACT_UNSPEC;
	// Of UDP, a receiver of the whole cannot tell where a datagram ends.
	if (on_wire.packets > 1 && ip->protocol == IPPROTO_UDP && !(own->flags & LEASE_SPLITS))
		return TC_ACT_UNSPEC;
	__u32 next_hop = peer->next_hop;
	// DSCP shows outside; ECN only where a mark comes home.
	__u8 tos = ip->tos & (peer->flags & PEER_MARKS ? 0xff : (__u8)~ECN);
	struct bpf_fib_lookup way = {
		.family = AF_INET,
		.l4_protocol = IPPROTO_UDP,
		.sport = own->port,
		.dport = own->port,
		.tot_len = on_wire.longest + OUTER,
		.ifindex = skb->ifindex,
		.ipv4_src = own->address,
		.ipv4_dst = next_hop,
	};
	// A next hop whose MAC is not known is no success: the kernel would let the packet wait for it, and send it by the route that it came by.
	if (on_wire.longest + OUTER > 0xffff || bpf_fib_lookup(skb, &way, sizeof(way), 0) != BPF_FIB_LKUP_RET_SUCCESS)
		return TC_ACT_UNSPEC;
	if (way.ifindex != own->underlay)
		return TC_ACT_UNSPEC;

	__u64 encapsulated = BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | BPF_F_ADJ_ROOM_ENCAP_L4_UDP | BPF_F_ADJ_ROOM_FIXED_GSO;
	if (bpf_skb_adjust_room(skb, OUTER, BPF_ADJ_ROOM_MAC, encapsulated))
		return TC_ACT_UNSPEC;
	if (bpf_skb_change_head(skb, ETH_HLEN, 0))
		goto failed;
	struct ethhdr *link = (void *)(long)skb->data;
	struct iphdr *outer = (void *)(link + 1);
	struct udphdr *udp = (void *)(outer + 1);
	struct iphdr *inner = (void *)(udp + 1);
	if ((void *)(inner + 1) > (void *)(long)skb->data_end)
		goto failed;
	hop(inner);
	*(__u8 *)outer = VERSION_IHL;
	outer->tos = tos;
	outer->tot_len = swap16(whole + OUTER);
	outer->id = 0;
	outer->frag_off = DONT_FRAGMENT;
	outer->ttl = OUTER_TTL;
	outer->protocol = IPPROTO_UDP;
	outer->check = 0;
	outer->saddr = own->address;
	outer->daddr = next_hop;
	outer->check = header_sum(outer);
	udp->source = own->port;
	udp->dest = own->port;
	udp->len = swap16(whole + sizeof(*udp));
	// None: the inner one covers what matters, and the kernel would have to sum up what a card does not.
	udp->check = 0;
	struct traffic *carried = bpf_map_lookup_elem(&traffic, &subnet);
	if (carried) {
		carried->out_packets += on_wire.packets;
		carried->out_bytes += on_wire.bytes;
	}
	// That writes the link header, and finds out, as any packet does, if the next hop's MAC has changed.
	struct bpf_redir_neigh next = { .nh_family = AF_INET, .ipv4_nh = way.ipv4_dst };
	return bpf_redirect_neigh(way.ifindex, &next, sizeof(next), 0);
failed:
	count_drop(SEND_OUT);
	return TC_ACT_SHOT;
}

enum verdict { PASS, TAKE, DROP };

// Judges what comes from another node; it goes on with a hop less.
INLINE enum verdict judge(struct iphdr *outer, struct lease *own)
{
	struct udphdr *udp = (void *)(outer + 1);
	struct iphdr *inner = (void *)(udp + 1);
	__u32 total = swap16(outer->tot_len), inside = swap16(inner->tot_len), header = (*(__u8 *)inner & 0xf) * 4;
	if (swap16(udp->len) + sizeof(*outer) != total || inside + OUTER != total)
		return PASS;
	if (*(__u8 *)inner >> 4 != 4 || header < sizeof(*inner) || header > inside || inside > own->mtu)
		return PASS;
	__u32 subnet = inner->saddr & own->mask;
	struct peer *peer = bpf_map_lookup_elem(&peers, &subnet);
	__u32 reason;
	if (peer && peer->flags & PEER_NARROW && peer->next_hop == outer->saddr)
		return PASS;
	__u8 mark = outer->tos & ECN, tos = inner->tos;
	if (!peer || peer->next_hop != outer->saddr || udp->source != own->port)
		reason = SENDER;
	else if ((inner->daddr & own->mask) != own->network)
		reason = DESTINATION;
	else if (inner->ttl <= 1)
		reason = TTL;
	else if (mark == 3 && !(tos & ECN))
		reason = CONGESTION;
	else {
		// RFC 6040, figure 4.
		if (mark == 3 && (tos & ECN) != 3)
			set_tos(inner, tos | 3);
		else if (mark == 1 && (tos & ECN) == 2)
			set_tos(inner, (tos & ~ECN) | 1);
		hop(inner);
		return TAKE;
	}
	count_drop(reason);
	return DROP;
}

// In to the pods: in the driver of the interface, before anything was made of the frame. What it lets through goes through the driver's GRO
// as what it is inside, and bears a mark.
SECTION("xdp.frags")
int flannel_xdp(struct xdp_md *xdp)
{
	struct ethhdr *link = (void *)(long)xdp->data;
	struct iphdr *outer = (void *)(link + 1);
	struct udphdr *udp = (void *)(outer + 1);
	struct iphdr *inner = (void *)(udp + 1);
	if ((void *)(inner + 1) > (void *)(long)xdp->data_end || link->h_proto != swap16(ETH_P_IP))
		return XDP_PASS;
	if (*(__u8 *)outer != VERSION_IHL || outer->protocol != IPPROTO_UDP || outer->frag_off & FRAGMENT)
		return XDP_PASS;
	struct lease *own = valid_lease();
	if (!own || udp->dest != own->port || outer->daddr != own->address)
		return XDP_PASS;
	struct ethhdr head;
	__builtin_memcpy(&head, link, sizeof(head));
	// So says a driver that has no room for a mark: everything is left to flanneld.
	if ((void *)(long)xdp->data_meta > (void *)link)
		return XDP_PASS;
	switch (judge(outer, own)) {
	case PASS:
		return XDP_PASS;
	case DROP:
		return XDP_DROP;
	case TAKE:
		break;
	}
	// The mark comes last: what stands before a frame would have to be moved with its beginning.
	if (bpf_xdp_adjust_head(xdp, OUTER) || bpf_xdp_adjust_meta(xdp, -(int)sizeof(__u32)))
		goto failed;
	link = (void *)(long)xdp->data;
	__u32 *mark = (void *)(long)xdp->data_meta;
	if ((void *)(link + 1) > (void *)(long)xdp->data_end || (void *)(mark + 1) > (void *)link)
		goto failed;
	*mark = MARK;
	__builtin_memcpy(link, &head, sizeof(head));
	return XDP_PASS;
failed:
	count_drop(SEND_IN);
	return XDP_DROP;
}

// What flannel_xdp let through, joined by GRO, comes out of flannel0, as if flanneld had written it there: rules and the check of the
// reverse path see the device that they know. This one may not write to packets: the kernel would copy one that somebody captures, and the
// mark would be lost.
SECTION("classifier")
int flannel_in(struct __sk_buff *skb)
{
	__u32 only = 0;
	struct ethhdr *link = (void *)(long)skb->data;
	struct iphdr *ip = (void *)(link + 1);
	void *end = (void *)(long)skb->data_end;
	__u32 *mark = (void *)(long)skb->data_meta;
	if ((void *)(mark + 1) > (void *)link || *mark != MARK)
		return TC_ACT_UNSPEC;
	struct lease *own = bpf_map_lookup_elem(&lease, &only);
	if (!own || (void *)(ip + 1) > end)
		return TC_ACT_SHOT;
	// Here, since that is once for many packets.
	__u32 subnet = ip->saddr & own->mask;
	struct traffic *carried = bpf_map_lookup_elem(&traffic, &subnet);
	struct amount on_wire;
	count(skb, ip, end, skb->len - ETH_HLEN, &on_wire);
	if (carried) {
		carried->in_packets += on_wire.packets;
		carried->in_bytes += on_wire.bytes;
	}
	return bpf_redirect(own->device, BPF_F_INGRESS);
}

char licence[] SECTION("license") = "Dual BSD/GPL";
