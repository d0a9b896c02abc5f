/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Judging: which tests would refuse, at the return of a call that no watched step
 * explains. One function for each errno, over the limits that answer with it.
 */
#ifndef FORK_TRACE_JUDGE_H
#define FORK_TRACE_JUDGE_H

#include "limits/cgroup.h"
#include "limits/fds.h"
#include "limits/memory.h"
#include "limits/namespaces.h"
#include "limits/nproc.h"
#include "limits/pidns.h"
#include "logic.h"
#include "port.h"
#include "reading.h"
#include "refusal.h"
#include "uapi.h"
#include "wire.h"

#define SIGNAL_UNKILLABLE 0x00000040
#define THREADS_SLACK 64 /* so many may have ended since the test */

ft_global int judge_eagain(__u64 watched)
{
	struct task_struct *task = current_task();
	struct ft_refusal *refusal = port_refusal();
	int prio = 0, users = 0, in_exec = 0;

	if (!refusal)
		return 0;
	judge_nproc(refusal, watched);
	number_int_at(refusal, FT_NUMBER_NR_THREADS, port_config()->nr_threads);
	number_int_at(refusal, FT_NUMBER_MAX_THREADS, port_config()->max_threads);
	if (!has_number(refusal, FT_NUMBER_NR_THREADS) ||
	    !has_number(refusal, FT_NUMBER_MAX_THREADS))
		candidate(refusal, FT_CANDIDATE_THREADS_UNKNOWN);
	else if ((int)number_of(refusal, FT_NUMBER_NR_THREADS) >=
		 (int)number_of(refusal, FT_NUMBER_MAX_THREADS))
		candidate(refusal, FT_CANDIDATE_THREADS);
	else if ((int)number_of(refusal, FT_NUMBER_NR_THREADS) + THREADS_SLACK >=
		 (int)number_of(refusal, FT_NUMBER_MAX_THREADS))
		candidate(refusal, FT_CANDIDATE_THREADS_NEAR);
	/*
	 * kernel/sched/core.c, sched_fork: dl_prio() is a priority below 0. That of
	 * whoever waits for a lock of ours, which `prio` can be, is not handed down.
	 */
	if (!is_blind(FT_READER_SCHED)) {
		bpf_core_read(&prio, sizeof(prio), &task->normal_prio);
		if (!is_watched(watched, FT_STEP_SCHED_FORK) && prio < 0 &&
		    !BPF_CORE_READ_BITFIELD_PROBED(task, sched_reset_on_fork)) {
			candidate(refusal, FT_CANDIDATE_DEADLINE);
			ft_number(refusal, FT_NUMBER_POLICY, BPF_CORE_READ(task, policy));
		}
	}
	if (refusal->flags & FT_CLONE_FS &&
	    !is_moved(refusal,
		      !is_blind(FT_READER_FS) && has_field(fs_struct, users) &&
			      has_field(fs_struct, in_exec),
		      FT_MOVED_FS_STRUCT)) {
		users = BPF_CORE_READ(task, fs, users);
		in_exec = BPF_CORE_READ(task, fs, in_exec);
		if (in_exec)
			candidate(refusal, FT_CANDIDATE_IN_EXEC);
		if (users > 1)
			candidate(refusal, FT_CANDIDATE_SHARES_FS);
	}
	return 0;
}

ft_global int judge_pids(__u64 watched)
{
	struct task_struct *task = current_task();
	struct ft_refusal *refusal = port_refusal();

	if (!refusal)
		return 0;
	judge_pid_max(refusal, task, watched);
	judge_pids_cgroup(refusal, watched);
	judge_pidns_dead(refusal, task);
	return 0;
}

ft_global int judge_memory(__u64 watched)
{
	struct task_struct *task = current_task();
	struct ft_refusal *refusal = port_refusal();

	if (!refusal)
		return 0;
	judge_charge(refusal);
	judge_commit(refusal, task, watched);
	return 0;
}

ft_global int judge_memory_cgroup(__u64 unused)
{
	struct ft_refusal *refusal = port_refusal();

	if (refusal)
		judge_charge(refusal);
	return 0;
}

ft_global int judge_descriptors(__u64 watched)
{
	struct task_struct *task = current_task();
	struct ft_refusal *refusal = port_refusal();

	if (refusal)
		judge_fds(refusal, task, watched);
	return 0;
}

ft_global int judge_flags(__u64 watched)
{
	struct task_struct *task = current_task();
	struct ft_refusal *refusal = port_refusal();
	struct pid_namespace *active = 0;
	const struct cred *cred;
	__u32 rules, value = 1;
	__u64 level, flags;
	struct pid *pid;

	if (!refusal)
		return 0;
	flags = refusal->flags;
	rules = ft_flag_rules(flags);
	/* An init may have no siblings: kernel/fork.c, SIGNAL_UNKILLABLE. */
	if (flags & FT_CLONE_PARENT && !is_blind(FT_READER_FLAGS) &&
	    BPF_CORE_READ(task, signal, flags) & SIGNAL_UNKILLABLE)
		rules |= 128;
	if (rules) {
		ft_number(refusal, FT_NUMBER_FLAG_RULES, rules);
		candidate(refusal, FT_CANDIDATE_FLAGS);
	}
	if (is_moved(refusal, !is_blind(FT_READER_FLAGS), FT_MOVED_NSPROXY))
		return 0;
	cred = BPF_CORE_READ(task, cred);
	pid = BPF_CORE_READ(task, thread_pid);
	level = BPF_CORE_READ(pid, level);
	bpf_probe_read_kernel(&active, sizeof(active),
			      (void *)&pid->numbers + level * bpf_core_type_size(struct upid) +
				      bpf_core_field_offset(struct upid, ns));
	/* kernel/fork.c for a thread; kernel/pid_namespace.c, copy_pid_ns, for another namespace. */
	if (flags & (FT_CLONE_THREAD | FT_CLONE_NEWPID) && active &&
	    active != BPF_CORE_READ(task, nsproxy, pid_ns_for_children))
		candidate(refusal, FT_CANDIDATE_UNSHARED);
	/* Until v5.17: a task that shares memory could not enter another time namespace. */
	if (flags & (FT_CLONE_THREAD | FT_CLONE_VM) &&
	    !is_moved(refusal, has_field(nsproxy, time_ns_for_children), FT_MOVED_NSPROXY) &&
	    BPF_CORE_READ(task, nsproxy, optional(nsproxy, time_ns)) !=
		    BPF_CORE_READ(task, nsproxy, optional(nsproxy, time_ns_for_children)))
		candidate(refusal, FT_CANDIDATE_UNSHARED);
	/* ns_capable: in the caller's own user namespace. */
	if (flags & FT_CLONE_NEW_ANY && !(flags & FT_CLONE_NEWUSER) &&
	    !(capabilities_of(cred) & 1ULL << CAP_SYS_ADMIN))
		candidate(refusal, FT_CANDIDATE_NS_DENIED);
	/* capable: root of a container with a user namespace has it not. */
	if (flags & FT_CLONE_NEWUSER && port_config()->unprivileged_userns_clone &&
	    !has_sys_admin(cred) &&
	    !bpf_probe_read_kernel(&value, sizeof(value),
				   (void *)port_config()->unprivileged_userns_clone) &&
	    !value)
		candidate(refusal, FT_CANDIDATE_USERNS_SYSCTL);
	return 0;
}

/* The port, as far as it judges. */

ft_inline void port_judge_memory_cgroup(void)
{
	judge_memory_cgroup(0);
}

ft_inline void port_judge(struct ft_refusal *refusal, ft_s32 error, ft_u64 watched)
{
	if (error == -FT_EAGAIN) {
		judge_eagain(watched);
		judge_pids(watched);
	} else if (error == -FT_ENOMEM) {
		judge_pids(watched | 1ULL << FT_STEP_ALLOC_PID | 1ULL << FT_STEP_CGROUP_CAN_FORK);
		judge_memory(watched);
	} else if (error == -FT_EMFILE) {
		judge_descriptors(watched);
	} else if (error == -FT_ENOSPC) {
		judge_namespaces(watched);
	} else {
		judge_flags(watched);
	}
}

#endif
