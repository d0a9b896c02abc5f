/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Is one mapping of the caller larger than so many bytes? The overcommit rule of mode 0 asks
 * it of each that fork copies: by the time user space could look, the caller may be gone.
 * Nothing is locked, so another thread can lead the walk astray; it ends all the same.
 */
#ifndef FORK_TRACE_LIMITS_MAPPINGS_H
#define FORK_TRACE_LIMITS_MAPPINGS_H

#include "../port.h"
#include "../reading.h"
#include "../refusal.h"
#include "../wire.h"

#define MAPPINGS_LOOKED_AT 256
#define MAPPINGS_END 0 /* all have been looked at, or one was found */
#define MAPPINGS_UNREAD 1 /* nothing stands at this address */
#define VM_DONTCOPY 0x00020000
#define VM_ACCOUNT 0x00100000

#ifndef FT_INLINED_WHOLE
/* mm/mmap.c, dup_mmap: one that is not copied is not asked for. */
ft_inline void look_at_mapping(struct ft_refusal *refusal, __u64 address, __u64 bytes)
{
	struct vm_area_struct *vma = (struct vm_area_struct *)address;
	__u64 flags = BPF_CORE_READ(vma, vm_flags);
	__u64 size = BPF_CORE_READ(vma, vm_end) - BPF_CORE_READ(vma, vm_start);

	if (size > bytes && flags & VM_ACCOUNT && !(flags & VM_DONTCOPY))
		ft_number(refusal, FT_NUMBER_PAGES_ASKED, pages_of(size));
}

/*
 * Until v6.0 they stand in a list. Linux commit 763ecb035029 ("mm: remove the vma linked list").
 * Returns the one after this.
 */
ft_global __u64 mapping_after(__u64 address, __u64 bytes)
{
	struct vm_area_struct *vma = (struct vm_area_struct *)address;
	struct ft_refusal *refusal = port_refusal();

	if (!refusal || is_blind(FT_READER_MEMORY) || !has_field(vm_area_struct, vm_next))
		return MAPPINGS_UNREAD;
	look_at_mapping(refusal, address, bytes);
	return has_number(refusal, FT_NUMBER_PAGES_ASKED) ? MAPPINGS_END
							  : (__u64)BPF_CORE_READ(vma, vm_next);
}

/* include/linux/maple_tree.h, lib/maple_tree.c: what a pointer to a node holds beside it. */
#define MAPLE_NODE_BITS 0xff
#define MAPLE_TYPE(entry) ((entry) >> 3 & 0xf)
#define is_maple_root(entry) (((entry)&3) == 2 && (entry) > 4096)
#define MAPLE_HEIGHT 6
#define MAPLE_SLOTS 16

/* Which slot of a node has an address: the first whose range does not end before; the last has no end. */
ft_global __u32 maple_slot(__u64 pivots, __u32 count, __u64 at)
{
	__u64 end = 0;
	__u32 slot;

	for (slot = 0; slot < MAPLE_SLOTS - 1 && slot < count; slot++) {
		if (bpf_probe_read_kernel(&end, sizeof(end), (void *)(pivots + slot * 8)) ||
		    end >= at || (slot && !end))
			break;
	}
	return slot;
}

/*
 * Since then, in a tree by address, whose nodes say where the ranges of their slots end.
 * Returns where to go on from `at`: behind the mapping or the gap there, and behind a whole
 * branch if that is too small to have one so large.
 */
ft_global __u64 mapping_behind(__u64 at, __u64 bytes)
{
	struct ft_refusal *refusal = port_refusal();
	__u64 entry, node, type, pivots, slots, end;
	__u64 first = 0, last = ~0ULL;
	__u32 depth, slot, count;

	if (!refusal || is_blind(FT_READER_MEMORY) || !has_field(mm_struct, mm_mt) ||
	    !has_field(maple_range_64, slot) || !has_field(maple_arange_64, slot) ||
	    !has_value(maple_type, maple_leaf_64) || !has_value(maple_type, maple_arange_64))
		return MAPPINGS_UNREAD;
	entry = (__u64)BPF_CORE_READ(current_task(), mm, mm_mt.ma_root);
	/* A tree of one mapping alone has no node. */
	if (!is_maple_root(entry))
		return MAPPINGS_UNREAD;
	for (depth = 0; depth < MAPLE_HEIGHT; depth++) {
		type = MAPLE_TYPE(entry);
		node = entry & ~(__u64)MAPLE_NODE_BITS;
		if (type == bpf_core_enum_value(enum maple_type, maple_arange_64)) {
			pivots = node + bpf_core_field_offset(struct maple_arange_64, pivot);
			count = bpf_core_field_size(((struct maple_arange_64 *)0)->pivot) / 8;
			slots = node + bpf_core_field_offset(struct maple_arange_64, slot);
		} else {
			pivots = node + bpf_core_field_offset(struct maple_range_64, pivot);
			count = bpf_core_field_size(((struct maple_range_64 *)0)->pivot) / 8;
			slots = node + bpf_core_field_offset(struct maple_range_64, slot);
		}
		slot = maple_slot(pivots, count, at);
		if (slot &&
		    !bpf_probe_read_kernel(&end, sizeof(end), (void *)(pivots + slot * 8 - 8)))
			first = end + 1;
		/* The last range of a node ends where the node does. */
		if (slot < count &&
		    !bpf_probe_read_kernel(&end, sizeof(end), (void *)(pivots + slot * 8)) && end)
			last = end;
		if (bpf_probe_read_kernel(&entry, sizeof(entry), (void *)(slots + slot * 8)))
			return MAPPINGS_UNREAD;
		if (!entry || last - first < bytes)
			return last + 1;
		if (type == bpf_core_enum_value(enum maple_type, maple_leaf_64)) {
			look_at_mapping(refusal, entry, bytes);
			return has_number(refusal, FT_NUMBER_PAGES_ASKED) ? MAPPINGS_END : last + 1;
		}
	}
	return MAPPINGS_UNREAD;
}
#endif

/*
 * Returns 0 if none is; else one is, which is told as what was asked for, or it could not be
 * found out.
 */
ft_inline int can_have_mapping_above(struct ft_refusal *refusal, __u64 bytes)
{
#ifndef FT_INLINED_WHOLE
	__u64 at = 0;
	int i;

	if (is_blind(FT_READER_MEMORY))
		return 1;
	if (has_field(mm_struct, mmap)) {
		at = (__u64)BPF_CORE_READ(current_task(), mm, mmap);
		for (i = 0; i < MAPPINGS_LOOKED_AT && at > MAPPINGS_UNREAD; i++)
			at = mapping_after(at, bytes);
	} else {
		at = mapping_behind(0, bytes);
		for (i = 0; i < MAPPINGS_LOOKED_AT && at > MAPPINGS_UNREAD; i++)
			at = mapping_behind(at, bytes);
	}
	return at != MAPPINGS_END || has_number(refusal, FT_NUMBER_PAGES_ASKED);
#else
	return 1;
#endif
}

#endif
