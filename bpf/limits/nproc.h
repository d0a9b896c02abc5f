/* SPDX-License-Identifier: GPL-2.0-or-later */
/* RLIMIT_NPROC: the tasks of one user. */
#ifndef FORK_TRACE_LIMITS_NPROC_H
#define FORK_TRACE_LIMITS_NPROC_H

#include "../port.h"
#include "../reading.h"
#include "../refusal.h"
#include "../wire.h"

#define RLIMIT_NPROC 6
#define CAP_SYS_RESOURCE 24

/*
 * kernel/fork.c, copy_process: init's user and the two capabilities, in the
 * initial user namespace, are exempt from RLIMIT_NPROC.
 */
ft_inline int is_exempt_from_nproc(void)
{
	if (CURRENT_READ(cred, user, uid.val) == 0)
		return 1;
	if (CURRENT_READ(cred, user_ns, level) != 0)
		return 0;
	return !!(capabilities_of(CURRENT_READ(cred)) &
		  (1ULL << CAP_SYS_ADMIN | 1ULL << CAP_SYS_RESOURCE));
}

/* Where the count of tasks stands in struct ucounts: since v6.0 apart, from v5.14 among ucount[]. */
ft_inline int has_nproc_ucounts(void)
{
	return has_field(ucounts, rlimit) ||
	       has_value(ucount_type___v60, UCOUNT_RLIMIT_NPROC___v60);
}

/*
 * The other kernels do not have this value, and libbpf makes asking for it a bad
 * instruction: in a function of its own clang cannot move it before the test.
 */
ft_outline __u64 nproc_index_v60(void)
{
	return bpf_core_enum_value(enum ucount_type___v60, UCOUNT_RLIMIT_NPROC___v60);
}

ft_inline int read_nproc_count(struct ucounts *ucounts, long *tasks)
{
	if (has_field(ucounts, rlimit))
		return bpf_probe_read_kernel(
			tasks, sizeof(*tasks),
			(void *)&ucounts->optional(ucounts, rlimit) +
				bpf_core_enum_value(enum rlimit_type, UCOUNT_RLIMIT_NPROC) *
					sizeof(*tasks));
	return bpf_probe_read_kernel(tasks, sizeof(*tasks),
				     (void *)&ucounts->ucount + nproc_index_v60() * sizeof(*tasks));
}

ft_inline int read_nproc_limit(struct user_namespace *ns, long *limit)
{
	if (has_field(user_namespace, rlimit_max))
		return bpf_probe_read_kernel(
			limit, sizeof(*limit),
			(void *)&ns->optional(user_namespace, rlimit_max) +
				bpf_core_enum_value(enum rlimit_type, UCOUNT_RLIMIT_NPROC) *
					sizeof(*limit));
	return bpf_probe_read_kernel(limit, sizeof(*limit),
				     (void *)&ns->ucount_max + nproc_index_v60() * sizeof(*limit));
}

/* Whom a count has in it that the test is not about, or is: a sum of these. */
#define NPROC_CHARGED 1 /* copy_creds' own charge for the new task */
#define NPROC_OF_CALLER 2 /* no new task: execve asks whether the caller is one too many */

/*
 * One level of read_nproc_ucounts: the one above the namespace `below`, or the
 * first, whose count and limit are given. Returns its namespace; 0: the last.
 */
ft_global __u64 nproc_level(__u64 below, __u64 first, __u64 rlimit, __u32 charged)
{
	struct user_namespace *ns = (struct user_namespace *)below;
	struct ucounts *ucounts = (struct ucounts *)first;
	struct ft_refusal *refusal = port_refusal();
	long limit = rlimit > 0x7fffffffffffffffULL ? 0x7fffffffffffffffLL : (long)rlimit;
	long tasks = 0;
	__u32 level, uid;

	if (is_blind(FT_READER_NPROC) || !refusal || !has_nproc_ucounts() ||
	    !has_field(ucounts, ns) || !has_field(ucounts, uid))
		return 0;
	if (ns) {
		if (read_nproc_limit(ns, &limit))
			return 0;
		ucounts = BPF_CORE_READ(ns, ucounts);
	}
	if (!ucounts || read_nproc_count(ucounts, &tasks))
		return 0;
	tasks -= charged & NPROC_CHARGED;
	ns = BPF_CORE_READ(ucounts, ns);
	level = BPF_CORE_READ(ns, level);
	uid = BPF_CORE_READ(ucounts, uid.val);
	ft_level(refusal, FT_LEVEL_NPROC, level, uid, tasks, limit);
	if (!has_number(refusal, FT_NUMBER_NPROC) && tasks + !(charged & NPROC_OF_CALLER) > limit) {
		ft_number(refusal, FT_NUMBER_NPROC, tasks);
		ft_number(refusal, FT_NUMBER_NPROC_LIMIT, limit);
		ft_number(refusal, FT_NUMBER_NPROC_LEVEL, level);
		/* Above the caller's own level it is the namespace's creator who is counted. */
		ft_number(refusal, FT_NUMBER_NPROC_UID, uid);
	}
	/* The initial one has none above it. */
	return level ? (__u64)ns : 0;
}

/*
 * kernel/ucount.c, is_rlimit_overlimit: the counts of one uid are compared
 * level by level, up the user namespaces. `charged`: NPROC_*. Returns 1 if some level is over.
 */
ft_inline int read_nproc_ucounts(struct ft_refusal *refusal, __u64 ucounts, __u64 rlimit,
				 int charged)
{
	__u64 ns = 0;
	int i;

	if (is_moved(refusal,
		     !is_blind(FT_READER_NPROC) && has_field(ucounts, ns) &&
			     has_field(ucounts, uid),
		     FT_MOVED_UCOUNTS))
		return 0;
	for (i = 0; i < USERNS_LEVELS; i++) {
		ns = nproc_level(ns, ucounts, rlimit, charged);
		if (!ns)
			break;
	}
	return has_number(refusal, FT_NUMBER_NPROC);
}

ft_inline int read_nproc(struct ft_refusal *refusal, __u32 charged)
{
	struct task_struct *task = current_task();
	struct user_struct___v513 *user;
	const struct cred *cred;
	int tasks = 0;
	__u64 rlimit;

	if (is_moved(refusal, !is_blind(FT_READER_NPROC), FT_MOVED_UCOUNTS))
		return 0;
	cred = BPF_CORE_READ(task, cred);
	rlimit = BPF_CORE_READ(task, signal, rlim[RLIMIT_NPROC].rlim_cur);

	if (has_nproc_ucounts()) {
		if (!read_nproc_ucounts(refusal,
					(__u64)BPF_CORE_READ(cred, optional(cred, ucounts)), rlimit,
					charged))
			return 0;
		return !is_exempt_from_nproc();
	}
	user = (struct user_struct___v513 *)BPF_CORE_READ(cred, user);
	if (!has_field(user_struct___v513, processes))
		return 0;
	if (bpf_core_read(&tasks, sizeof(tasks), &user->optional(user_struct___v513, processes)))
		return 0;
	ft_number(refusal, FT_NUMBER_NPROC, tasks);
	ft_number(refusal, FT_NUMBER_NPROC_LIMIT, rlimit);
	ft_number(refusal, FT_NUMBER_NPROC_LEVEL, 0);
	return (__u64)tasks >= rlimit && !is_exempt_from_nproc();
}

/* Would it refuse one more? */
ft_inline void judge_nproc(struct ft_refusal *refusal, __u64 watched)
{
	if (is_watched(watched, FT_STEP_RLIMIT_NPROC))
		return;
	if (read_nproc(refusal, 0))
		candidate(refusal, FT_CANDIDATE_NPROC);
	else if (was_moved(refusal, FT_MOVED_UCOUNTS) ||
		 (!has_nproc_ucounts() && !has_field(user_struct___v513, processes)))
		candidate(refusal, FT_CANDIDATE_NPROC_UNKNOWN);
}

#endif
