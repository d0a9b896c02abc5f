/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The limits of cgroups: pids.max, and memory.max with what kernel memory is charged to. */
#ifndef FORK_TRACE_LIMITS_CGROUP_H
#define FORK_TRACE_LIMITS_CGROUP_H

#include "../caller.h"
#include "../port.h"
#include "../reading.h"
#include "../refusal.h"
#include "../wire.h"

/* A cgroup this near its memory.max refuses the next batch (MEMCG_CHARGE_BATCH). */
#define MEMCG_BATCH 64
#define MEMCG_NO_LIMIT (1ULL << 50) /* PAGE_COUNTER_MAX is LONG_MAX in pages */

ft_outline __u64 memory_index(void)
{
	return bpf_core_enum_value(enum cgroup_subsys_id, memory_cgrp_id);
}

/*
 * CLONE_INTO_CGROUP: the pids cgroup that the child would be charged to, by the
 * descriptor that the caller gave (kernfs directories keep their node in
 * i_private). Where the controller is not enabled, the nearest one above counts.
 */
ft_inline struct cgroup_subsys_state *pids_css_at(unsigned int fd)
{
	struct cgroup_subsys_state *css = 0, *self;
	struct kernfs_node *node;
	struct cgroup *cgroup;
	struct file *file = 0;
	struct file **table;
	__u64 id;
	int i;

	if (is_blind(FT_READER_PIDS_CGROUP) || is_blind(FT_READER_DESCRIPTORS))
		return 0;
	table = BPF_CORE_READ(current_task(), files, fdt, fd);
	if (!has_value(cgroup_subsys_id, pids_cgrp_id))
		return 0;
	id = pids_index();
	if (fd >= BPF_CORE_READ(current_task(), files, fdt, max_fds) ||
	    bpf_probe_read_kernel(&file, sizeof(file), table + fd) || !file)
		return 0;
	node = BPF_CORE_READ(file, f_inode, i_private);
	cgroup = BPF_CORE_READ(node, priv);
	for (i = 0; i < CGROUP_LEVELS && cgroup; i++) {
		bpf_probe_read_kernel(&css, sizeof(css),
				      (void *)&cgroup->subsys + id * sizeof(css));
		if (css)
			return css;
		self = BPF_CORE_READ(cgroup, self.parent);
		cgroup = BPF_CORE_READ(self, cgroup);
	}
	return 0;
}

/*
 * With CLONE_INTO_CGROUP another cgroup is charged: one in v2, as the descriptor is.
 * A pids controller in a v1 hierarchy charges the caller's own there all the same
 * (kernel/cgroup/cgroup.c, find_css_set).
 */
ft_inline struct cgroup_subsys_state *pids_css_into(unsigned int fd)
{
	struct cgroup_subsys_state *own = pids_css();

	if (own && BPF_CORE_READ(own, cgroup, root, hierarchy_id))
		return own;
	return pids_css_at(fd);
}

/* One level of read_pids_cgroup, so many up. Returns the one above; 0: this was the last. */
ft_global __u64 pids_level(__u64 address, __u32 up)
{
	struct cgroup_subsys_state *css = (struct cgroup_subsys_state *)address, *parent = 0;
	struct pids_cgroup *pids = (struct pids_cgroup *)css;
	struct ft_refusal *refusal = port_refusal();
	__s64 counter, limit;
	__u64 id;

	if (is_blind(FT_READER_PIDS_CGROUP) || !refusal || !has_field(pids_cgroup, counter) ||
	    !has_field(pids_cgroup, limit))
		return 0;
	if (bpf_core_read(&parent, sizeof(parent), &css->parent) || !parent)
		return 0;
	if (bpf_core_read(&counter, sizeof(counter), &pids->counter.counter) ||
	    bpf_core_read(&limit, sizeof(limit), &pids->limit.counter))
		return 0;
	id = BPF_CORE_READ(css, cgroup, kn, id);
	ft_level(refusal, FT_LEVEL_PIDS_CGROUP, up, id, counter, limit);
	if (!has_number(refusal, FT_NUMBER_PIDS_CURRENT) && counter + 1 > limit) {
		ft_number(refusal, FT_NUMBER_PIDS_CURRENT, counter);
		ft_number(refusal, FT_NUMBER_PIDS_LIMIT, limit);
		ft_number(refusal, FT_NUMBER_PIDS_CGROUP, id);
		ft_number(refusal, FT_NUMBER_PIDS_HIERARCHY,
			  BPF_CORE_READ(css, cgroup, root, hierarchy_id));
		ft_number(refusal, FT_NUMBER_PIDS_LEVELS_UP, up);
	}
	return (__u64)parent;
}

/*
 * kernel/cgroup/pids.c, pids_try_charge: charged from the task's own cgroup
 * upwards; the first level over its limit refuses. The charge has been undone
 * by now, so that level shows counter + 1 > limit. The root has no limit.
 */
ft_inline int read_pids_cgroup(struct ft_refusal *refusal, struct cgroup_subsys_state *css)
{
	__u64 address = (__u64)css;
	int i;

	if (is_moved(refusal,
		     !is_blind(FT_READER_PIDS_CGROUP) && has_field(pids_cgroup, counter) &&
			     has_field(pids_cgroup, limit),
		     FT_MOVED_PIDS_CGROUP))
		return 0;
	for (i = 0; i < CGROUP_LEVELS && address; i++)
		address = pids_level(address, i);
	return has_number(refusal, FT_NUMBER_PIDS_CURRENT);
}

/* Is there no room for `near` pages more in this counter? Reads it if so, or if it is the first one read. */
ft_inline int read_page_counter(struct page_counter *counter, __u64 *usage, __u64 *max, __u64 near,
				int is_first)
{
	__u64 own_usage = 0, own_max = 0;
	int is_near;

	if (bpf_core_read(&own_usage, sizeof(own_usage), &counter->usage.counter) ||
	    bpf_core_read(&own_max, sizeof(own_max), &counter->max))
		return -1;
	is_near = own_usage + near > own_max;
	if (is_near || is_first) {
		*usage = own_usage;
		*max = own_max;
	}
	return is_near;
}

/*
 * mm/memcontrol.c of v1: memory with swap is asked before memory, and that of the kernel,
 * where it has a limit, before both. Returns which of them is near its limit; 0: neither.
 */
ft_inline int read_counters_of_v1(struct mem_cgroup *memcg, __u64 *usage, __u64 *max, __u64 near)
{
#ifdef FT_INLINED_WHOLE /* too much to verify at each of the levels */
	return FT_MEMCG_MEMORY;
#endif
	if (!BPF_CORE_READ(memcg, css.cgroup, root, hierarchy_id))
		return FT_MEMCG_MEMORY;
	if (has_field(mem_cgroup, kmem) &&
	    read_page_counter(&memcg->optional(mem_cgroup, kmem), usage, max, near, 0) == 1)
		return FT_MEMCG_KMEM;
	if (has_field(mem_cgroup, memsw) &&
	    read_page_counter(&memcg->optional(mem_cgroup, memsw), usage, max, near, 0) == 1)
		return FT_MEMCG_MEMSW;
	return FT_MEMCG_MEMORY;
}

/* One level of read_memory_cgroup, so many up. Returns the one above; 0: this was the last. */
ft_global __u64 memory_level(__u64 address, __u32 up, __u64 over, __u64 near)
{
	struct cgroup_subsys_state *css = (struct cgroup_subsys_state *)address, *parent = 0;
	struct mem_cgroup *memcg = (struct mem_cgroup *)css;
	struct ft_refusal *refusal = port_refusal();
	__u64 usage = 0, max = 0, id;
	int is_near, counter;

	if (is_blind(FT_READER_MEMORY_CGROUP) || !refusal || !has_field(mem_cgroup, memory) ||
	    !has_field(page_counter, usage) || !has_field(page_counter, max))
		return 0;
	if (bpf_core_read(&parent, sizeof(parent), &css->parent) || !parent)
		return 0;
	is_near = read_page_counter(&memcg->memory, &usage, &max, near, 1);
	if (is_near < 0)
		return 0;
	counter = read_counters_of_v1(memcg, &usage, &max, near);
	id = BPF_CORE_READ(css, cgroup, kn, id);
	ft_level(refusal, FT_LEVEL_MEMORY_CGROUP, up, id, usage, max);
	if (max < MEMCG_NO_LIMIT)
		candidate(refusal, FT_CANDIDATE_MEMCG_LIMITED);
	if (!has_number(refusal, FT_NUMBER_MEMCG_PAGES) &&
	    (over ? address == over : is_near || counter != FT_MEMCG_MEMORY)) {
		ft_number(refusal, FT_NUMBER_MEMCG_PAGES, usage);
		ft_number(refusal, FT_NUMBER_MEMCG_MAX, max);
		ft_number(refusal, FT_NUMBER_MEMCG_CGROUP, id);
		ft_number(refusal, FT_NUMBER_MEMCG_HIERARCHY,
			  BPF_CORE_READ(css, cgroup, root, hierarchy_id));
		ft_number(refusal, FT_NUMBER_MEMCG_LEVELS_UP, up);
		ft_number(refusal, FT_NUMBER_MEMCG_COUNTER, counter);
	}
	return (__u64)parent;
}

/*
 * mm/memcontrol.c, try_charge: up the tree, the first level that its usage
 * would pass refuses. `over` is that one where the kernel told us; otherwise it
 * is the first that has no room for another batch, and for what this fork had
 * been charged and has given back: the copies of the page tables are most of it.
 */
ft_inline int read_memory_cgroup(struct ft_refusal *refusal, __u64 over)
{
	__u64 address, near = MEMCG_BATCH;
#ifndef FT_INLINED_WHOLE
	struct mm_struct *mm;
	__u64 tables = 0;
#endif
	int i;

	if (is_moved(refusal,
		     !is_blind(FT_READER_MEMORY_CGROUP) && has_field(mem_cgroup, memory) &&
			     has_field(page_counter, usage) && has_field(page_counter, max) &&
			     has_value(cgroup_subsys_id, memory_cgrp_id),
		     FT_MOVED_MEM_CGROUP))
		return 0;
#ifndef FT_INLINED_WHOLE /* too much to verify in one program */
	if (!over && !(refusal->flags & FT_CLONE_VM) && !is_blind(FT_READER_MEMORY) &&
	    has_field(mm_struct, pgtables_bytes)) {
		mm = BPF_CORE_READ(current_task(), mm);
		if (!bpf_core_read(&tables, sizeof(tables), &mm->pgtables_bytes.counter))
			near += tables >> port_config()->page_shift;
	}
#endif
	address = (__u64)css_of(memory_index());
	for (i = 0; i < CGROUP_LEVELS && address; i++)
		address = memory_level(address, i, over, near);
	return has_number(refusal, FT_NUMBER_MEMCG_PAGES);
}

ft_inline void judge_pids_cgroup(struct ft_refusal *refusal, __u64 watched)
{
	struct cgroup_subsys_state *css = 0;
	int fd = -1;

	if (!is_watched(watched, FT_STEP_CGROUP_CAN_FORK)) {
		if (!(refusal->flags & FT_CLONE_INTO_CGROUP))
			css = pids_css();
		else if (!cgroup_of_call(&fd))
			css = pids_css_into(fd);
		if (css && read_pids_cgroup(refusal, css))
			candidate(refusal, FT_CANDIDATE_PIDS_CGROUP);
	}
	if (was_moved(refusal, FT_MOVED_PIDS_CGROUP))
		candidate(refusal, FT_CANDIDATE_PIDS_UNKNOWN);
}

/* No program watches a charge that fails without a kill. */
ft_inline void judge_charge(struct ft_refusal *refusal)
{
	if (read_memory_cgroup(refusal, 0))
		candidate(refusal, FT_CANDIDATE_MEMCG);
}

#endif
