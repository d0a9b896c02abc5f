/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Namespaces: user.max_*_namespaces at each level, and how deep they may lie. */
#ifndef FORK_TRACE_LIMITS_NAMESPACES_H
#define FORK_TRACE_LIMITS_NAMESPACES_H

#include "../port.h"
#include "../reading.h"
#include "../refusal.h"
#include "../uapi.h"
#include "../wire.h"

#define NAMESPACE_DEPTH 32 /* create_user_ns, create_pid_namespace */

ft_inline int read_ns_count(struct ucounts *ucounts, __u64 type, long *count)
{
	int count_v513 = 0;

	if (bpf_core_field_size(ucounts->ucount[0]) == sizeof(*count))
		return bpf_probe_read_kernel(count, sizeof(*count),
					     (void *)&ucounts->ucount + type * sizeof(*count));
	if (bpf_probe_read_kernel(&count_v513, sizeof(count_v513),
				  (void *)&ucounts->ucount + type * sizeof(count_v513)))
		return -1;
	*count = count_v513;
	return 0;
}

ft_inline int read_ns_max(struct user_namespace *ns, __u64 type, long *max)
{
	int max_v513 = 0;

	if (bpf_core_field_size(ns->ucount_max[0]) == sizeof(*max))
		return bpf_probe_read_kernel(max, sizeof(*max),
					     (void *)&ns->ucount_max + type * sizeof(*max));
	if (bpf_probe_read_kernel(&max_v513, sizeof(max_v513),
				  (void *)&ns->ucount_max + type * sizeof(max_v513)))
		return -1;
	*max = max_v513;
	return 0;
}

#define NS_IS_FULL 1 /* no address */

/* One level of read_ns_limit. Returns the one above; 0: this was the last; NS_IS_FULL. */
ft_global __u64 ns_count_level(__u64 address, __u64 type)
{
	struct ucounts *ucounts = (struct ucounts *)address;
	struct ft_refusal *refusal = port_refusal();
	struct user_namespace *ns;
	long count = 0, max = 0;

	if (is_blind(FT_READER_NAMESPACES))
		return 0;
	ns = BPF_CORE_READ(ucounts, ns);
	if (!refusal || read_ns_count(ucounts, type, &count) || read_ns_max(ns, type, &max))
		return 0;
	/* Namespaces end at any time: the last of them may have done so since the test. */
	if (count + (max >> 3) + 1 < max)
		return (__u64)BPF_CORE_READ(ns, ucounts);
	ft_number(refusal, FT_NUMBER_NS_COUNT, count);
	ft_number(refusal, FT_NUMBER_NS_MAX, max);
	ft_number(refusal, FT_NUMBER_NS_LEVEL, BPF_CORE_READ(ns, level));
	ft_number(refusal, FT_NUMBER_NS_UID, BPF_CORE_READ(ucounts, uid.val));
	return count < max ? (__u64)BPF_CORE_READ(ns, ucounts) : NS_IS_FULL;
}

/* kernel/ucount.c: UCOUNTS_HASHTABLE_BITS; include/linux/hash.h: GOLDEN_RATIO_64 */
#define UCOUNTS_BITS 10
#define UCOUNTS_HASH 0x61C8864680B583EBULL
#define UCOUNTS_CHAIN 32 /* so many users of one hash; on average there is less than one */
#define UCOUNTS_UNREAD 1 /* no address */

/*
 * What is counted for a user in a user namespace, which not every task has at hand:
 * kernel/ucount.c, find_ucounts. Returns its address; 0: nothing is counted yet;
 * UCOUNTS_UNREAD.
 */
ft_global __u64 find_ucounts(__u64 ns, __u32 uid)
{
	__u64 node = 0, table = port_config()->ucounts_hashtable;
	struct ucounts *ucounts;
	int i;

	if (!table || !has_field(ucounts, node))
		return UCOUNTS_UNREAD;
	table += (((uid + ns) * UCOUNTS_HASH) >> (64 - UCOUNTS_BITS)) * sizeof(node);
	if (bpf_probe_read_kernel(&node, sizeof(node), (void *)table))
		return UCOUNTS_UNREAD;
	for (i = 0; i < UCOUNTS_CHAIN; i++) {
		/* Where the list may change meanwhile, its end is an odd number. */
		if (!node || node & 1)
			return 0;
		ucounts = (struct ucounts *)(node - bpf_core_field_offset(struct ucounts, node));
		if ((__u64)BPF_CORE_READ(ucounts, ns) == ns &&
		    BPF_CORE_READ(ucounts, uid.val) == uid)
			return (__u64)ucounts;
		if (bpf_probe_read_kernel(&node, sizeof(node), (void *)node))
			return UCOUNTS_UNREAD;
	}
	return UCOUNTS_UNREAD;
}

/*
 * kernel/ucount.c, inc_ucount: counted for the caller's euid in the namespace
 * that will own the new one, then for each owner up to the initial namespace.
 * The first of these counts is found through the caller's credentials, which
 * have it since v5.14, or in the kernel's table of them.
 */
enum ns_room {
	NS_UNREAD = -1, /* the first count could not be read; the others have room */
	NS_ROOM = 0,
	NS_FULL = 1,
	NS_NEAR = 2,
};

ft_global int read_ns_limit(__u64 owner_address, __u64 type)
{
	struct user_namespace *owner = (struct user_namespace *)owner_address;
	struct ft_refusal *refusal = port_refusal();
	struct ucounts *ucounts = 0;
	const struct cred *cred;
	int i, is_known = 0;
	__u64 address;
	long max = -1;

	if (!refusal || is_blind(FT_READER_NAMESPACES))
		return NS_UNREAD;
	cred = BPF_CORE_READ(current_task(), cred);
	/* One that this very call made: nothing else is counted in it. */
	if (BPF_CORE_READ(cred, user_ns) != owner) {
		ucounts = BPF_CORE_READ(owner, ucounts);
		is_known = 1;
		goto walk;
	}
	if (has_field(cred, ucounts))
		ucounts = BPF_CORE_READ(cred, optional(cred, ucounts));
	if (ucounts && BPF_CORE_READ(ucounts, ns) == owner &&
	    BPF_CORE_READ(ucounts, uid.val) == BPF_CORE_READ(cred, euid.val)) {
		is_known = 1;
	} else {
		address = find_ucounts((__u64)owner, BPF_CORE_READ(cred, euid.val));
		if (address > UCOUNTS_UNREAD) {
			ucounts = (struct ucounts *)address;
			is_known = 1;
			goto walk;
		}
		/* With nothing counted yet there is room, unless the limit is 0. */
		is_known = !address;
		if (!read_ns_max(owner, type, &max)) {
			/* Of the own level only the limit; a limit of 0 is reached whatever the count. */
			ft_number(refusal, FT_NUMBER_NS_MAX, max);
			ft_number(refusal, FT_NUMBER_NS_LEVEL, BPF_CORE_READ(owner, level));
			if (max == 0) {
				ft_number(refusal, FT_NUMBER_NS_COUNT, 0);
				return NS_FULL;
			}
		}
		ucounts = BPF_CORE_READ(owner, ucounts);
	}
walk:
	address = (__u64)ucounts;
	for (i = 0; i < USERNS_LEVELS && address; i++) {
		address = ns_count_level(address, type);
		if (address == NS_IS_FULL)
			return NS_FULL;
	}
	if (has_number(refusal, FT_NUMBER_NS_COUNT))
		return NS_NEAR;
	return is_known ? NS_ROOM : NS_UNREAD;
}

/* Is one of the counts that this call asks full? Where one cannot be read, `unread` says so. */
ft_inline int judge_ns_type(struct ft_refusal *refusal, __u64 flag, __u64 type, int *unread)
{
	int found;

	if (!(refusal->flags & flag))
		return 0;
	found = read_ns_limit((__u64)BPF_CORE_READ(current_task(), cred, user_ns), type);
	*unread |= found == NS_UNREAD;
	return found == NS_FULL;
}

ft_global int judge_namespaces(__u64 watched)
{
	struct task_struct *task = current_task();
	struct ft_refusal *refusal = port_refusal();
	int level, unread = 0;
	__u64 flags;

	if (!refusal)
		return 0;
	flags = refusal->flags;
	if (is_moved(refusal, !is_blind(FT_READER_NAMESPACES) && has_field(pid_namespace, level),
		     FT_MOVED_PID_NAMESPACE))
		return 0;
	level = BPF_CORE_READ(task, cred, user_ns, level);
	if (!(flags & FT_CLONE_NEWUSER) || level <= NAMESPACE_DEPTH)
		level = BPF_CORE_READ(task, nsproxy, pid_ns_for_children, level);
	if ((flags & FT_CLONE_NEWUSER && level > NAMESPACE_DEPTH) ||
	    (flags & FT_CLONE_NEWPID && level >= NAMESPACE_DEPTH)) {
		ft_number(refusal, FT_NUMBER_NS_LEVEL, level);
		candidate(refusal, FT_CANDIDATE_NS_DEPTH);
		return 0;
	}
#define NS_TYPE(flag, name)                     \
	judge_ns_type(refusal, FT_CLONE_##flag, \
		      bpf_core_enum_value(enum ucount_type, UCOUNT_##name##_NAMESPACES), &unread)
	if (NS_TYPE(NEWUSER, USER) || NS_TYPE(NEWNS, MNT) || NS_TYPE(NEWUTS, UTS) ||
	    NS_TYPE(NEWIPC, IPC) || NS_TYPE(NEWPID, PID) || NS_TYPE(NEWCGROUP, CGROUP) ||
	    NS_TYPE(NEWNET, NET) || NS_TYPE(NEWTIME, TIME))
		candidate(refusal, FT_CANDIDATE_NS_LIMIT);
	else if (has_number(refusal, FT_NUMBER_NS_COUNT))
		refusal->detail = FT_DETAIL_NS_NEAR;
	else if (!unread)
		refusal->detail = FT_DETAIL_NS_ROOM;
#undef NS_TYPE
	return 0;
}

#endif
