// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// Makes a veth hand its frames over as a network card does, for the bench: with a program in its driver, each frame gets a buffer of its
// own. flanneld has no use for it.

#include <linux/bpf.h>

__attribute__((section("xdp.frags"), used)) int card(struct xdp_md *xdp)
{
	(void)xdp;
	return XDP_PASS;
}

char licence[] __attribute__((section("license"), used)) = "Dual BSD/GPL";
