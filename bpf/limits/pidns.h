/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Pid namespaces: the numbers that each has, and whether it still gives any. */
#ifndef FORK_TRACE_LIMITS_PIDNS_H
#define FORK_TRACE_LIMITS_PIDNS_H

#include "../port.h"
#include "../reading.h"
#include "../refusal.h"
#include "../wire.h"

#define PIDNS_ADDING (1U << 31) /* include/linux/pid_namespace.h */
#define RESERVED_PIDS 300 /* kernel/pid.c: not given again once the numbers have wrapped */
#define PIDNS_LEVELS 33 /* MAX_PID_NS_LEVEL and the initial one */

/*
 * Since Linux commit 7863dcc72d0f ("pid: allow pid_max to be set per pid
 * namespace") (in v6.14), each namespace has its own. Before that, there was
 * one variable for all.
 */
ft_inline int pid_max_of(struct pid_namespace *ns, int *pid_max)
{
	if (has_field(pid_namespace, pid_max))
		return bpf_core_read(pid_max, sizeof(*pid_max),
				     &ns->optional(pid_namespace, pid_max));
	if (!port_config()->pid_max)
		return -1;
	return bpf_probe_read_kernel(pid_max, sizeof(*pid_max), (void *)port_config()->pid_max);
}

ft_inline int pids_left(__u32 allocated, int pid_max)
{
	return pid_max ? pid_max - (int)allocated : 0x7ffffffe;
}

/* Of the level that is told so far. */
ft_inline int least_pids_left(const struct ft_refusal *refusal)
{
	return has_number(refusal, FT_NUMBER_PIDNS_PIDS)
		       ? pids_left(number_of(refusal, FT_NUMBER_PIDNS_PIDS),
				   number_of(refusal, FT_NUMBER_PID_MAX))
		       : 0x7fffffff;
}

/* One level of read_pid_namespace. Returns the one above; 0: this was the last. */
ft_global __u64 pid_level(__u64 address)
{
	struct pid_namespace *ns = (struct pid_namespace *)address;
	struct ft_refusal *refusal = port_refusal();
	unsigned int allocated = 0, level, inum;
	int pid_max = 0;

	if (is_blind(FT_READER_PID_NAMESPACE) || !refusal ||
	    !has_field(pid_namespace, pid_allocated) || !has_field(pid_namespace, parent) ||
	    !has_field(pid_namespace, level))
		return 0;
	if (bpf_core_read(&allocated, sizeof(allocated), &ns->pid_allocated))
		return 0;
	allocated &= ~PIDNS_ADDING;
	if (pid_max_of(ns, &pid_max))
		pid_max = 0;
	level = BPF_CORE_READ(ns, level);
	inum = BPF_CORE_READ(ns, ns.inum);
	ft_level(refusal, FT_LEVEL_PID_NAMESPACE, level, inum, allocated, pid_max);
	if (pids_left(allocated, pid_max) < least_pids_left(refusal)) {
		ft_number(refusal, FT_NUMBER_PIDNS_PIDS, allocated);
		ft_number(refusal, FT_NUMBER_PIDNS_LEVEL, level);
		ft_number(refusal, FT_NUMBER_PIDNS_INUM, inum);
		if (pid_max)
			ft_number(refusal, FT_NUMBER_PID_MAX, pid_max);
	}
	/* Of a dead namespace the caller's own level is the one that matters. */
	if (refusal->detail == FT_DETAIL_PIDNS_DEAD)
		return 0;
	return (__u64)BPF_CORE_READ(ns, parent);
}

/*
 * kernel/pid.c, alloc_pid: a number is needed at every level up to the initial
 * namespace, and any of them can be the one without. Which one it was cannot be
 * seen; the one with the fewest numbers left is told. Returns 1 if it can be full.
 */
ft_inline int read_pid_namespace(struct ft_refusal *refusal, __u64 address)
{
	struct pid_namespace *ns = (struct pid_namespace *)address;
	unsigned int allocated = 0;
	int i;

	if (is_moved(refusal,
		     !is_blind(FT_READER_PID_NAMESPACE) &&
			     has_field(pid_namespace, pid_allocated) &&
			     has_field(pid_namespace, parent) && has_field(pid_namespace, level),
		     FT_MOVED_PID_NAMESPACE))
		return 0;
	if (!bpf_core_read(&allocated, sizeof(allocated), &ns->pid_allocated))
		refusal->detail =
			allocated & PIDNS_ADDING ? FT_DETAIL_PIDNS_ALIVE : FT_DETAIL_PIDNS_DEAD;
	for (i = 0; i < PIDNS_LEVELS && address; i++)
		address = pid_level(address);
	return least_pids_left(refusal) <= RESERVED_PIDS;
}

ft_inline void judge_pid_max(struct ft_refusal *refusal, struct task_struct *task, __u64 watched)
{
	__u64 ns = 0;

	if (is_watched(watched, FT_STEP_ALLOC_PID))
		return;
	if (!is_blind(FT_READER_PID_NAMESPACE))
		ns = (__u64)BPF_CORE_READ(task, nsproxy, pid_ns_for_children);
	if (read_pid_namespace(refusal, ns))
		candidate(refusal, FT_CANDIDATE_PID_MAX);
}

/* Once its init has exited it gives no number any more. */
ft_inline void judge_pidns_dead(struct ft_refusal *refusal, struct task_struct *task)
{
	struct pid_namespace *ns;
	int is_dead;

	if (is_moved(refusal,
		     !is_blind(FT_READER_PID_NAMESPACE) && has_field(pid_namespace, pid_allocated),
		     FT_MOVED_PID_NAMESPACE)) {
		candidate(refusal, FT_CANDIDATE_PIDNS_UNKNOWN);
		return;
	}
	is_dead =
		!(BPF_CORE_READ(task, nsproxy, pid_ns_for_children, pid_allocated) & PIDNS_ADDING);
	if (is_dead) {
		candidate(refusal, FT_CANDIDATE_PIDNS_DEAD);
		ns = BPF_CORE_READ(task, nsproxy, pid_ns_for_children);
		ft_number(refusal, FT_NUMBER_PIDNS_PIDS, BPF_CORE_READ(ns, pid_allocated));
		ft_number(refusal, FT_NUMBER_PIDNS_LEVEL, BPF_CORE_READ(ns, level));
		ft_number(refusal, FT_NUMBER_PIDNS_INUM, BPF_CORE_READ(ns, ns.inum));
	}
}

#endif
