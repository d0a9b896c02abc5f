// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The kernel's own symbols that begin like one of those wanted, without the text
 * of all: /proc/kallsyms makes 4 to 12 MB of it, line by line. Since Linux v6.0
 * ("bpf: add a ksym BPF iterator") programs can go through them. Before that,
 * there is only the text.
 */
#include "kernel_types.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#define PREFIX_BYTES 8 /* with the zero at its end */

char LICENSE[] SEC("license") = "GPL";

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct bpf_iter_meta {
	struct seq_file *seq;
};

struct kallsym_iter {
	unsigned long value;
	char name[512];
	char module_name[56];
	int show_value;
};

#pragma clang attribute pop

struct found {
	__u64 address; /* 0: not shown to this process */
	char name[64];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, char[PREFIX_BYTES]);
	__type(value, __u8);
} prefixes SEC(".maps");

__u64 last; /* told, and the one above it not yet */

SEC("iter/ksym")
int find_symbols(__u64 *ctx)
{
	struct bpf_iter_meta *meta = (struct bpf_iter_meta *)ctx[0];
	struct kallsym_iter *symbol = (struct kallsym_iter *)ctx[1];
	char prefix[PREFIX_BYTES] = {};
	struct found found = {};
	__u64 address;
	int is_wanted;

	if (!symbol)
		return 0;
	bpf_probe_read_kernel_str(prefix, sizeof(prefix), symbol->name);
	address = symbol->value;
	is_wanted = !!bpf_map_lookup_elem(&prefixes, prefix);
	/* The one above tells where a function ends. */
	if (!is_wanted && !(last && address > last))
		return 0;
	if (BPF_CORE_READ(symbol, module_name[0])) {
		last = 0;
		return 0;
	}
	found.address = symbol->show_value ? address : 0;
	bpf_probe_read_kernel_str(found.name, sizeof(found.name), symbol->name);
	/* A symbol for which the buffer has no room comes again (kernel/bpf/bpf_iter.c,
	 * bpf_seq_read): it has to find `last` as it was. */
	if (!bpf_seq_write(meta->seq, &found, sizeof(found)))
		last = is_wanted ? address : 0;
	return 0;
}
