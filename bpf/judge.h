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
#define LOWEST_ADDRESS 4096 /* vm.mmap_min_addr is above it */
#define USER_ADDRESS_BITS 56 /* at most: x86-64 with five levels of page tables */

/* The compiler leaves out what a function does not use; the verifier wants each argument set. */
ft_inline void is_passed(__u64 argument)
{
	__asm__ volatile("" : : "r"(argument));
}

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

/* The flags that this kernel knows. */
ft_inline __u64 known_flags(void)
{
	__u64 flags = 0xffffffffULL | FT_CLONE_CLEAR_SIGHAND;

	if (has_field(kernel_clone_args, cgroup))
		flags |= FT_CLONE_INTO_CGROUP;
	if (has_field(signal_struct, autoreap))
		flags |= FT_CLONE_AUTOREAP | FT_CLONE_NNP | FT_CLONE_PIDFD_AUTOKILL |
			 FT_CLONE_EMPTY_MNTNS;
	return flags;
}

/* include/uapi/linux/sched.h, struct clone_args: eleven words in three versions. */
struct clone_words {
	__u64 flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls;
	__u64 set_tid, set_tid_size;
	__u64 cgroup;
};

#define CLONE_ARGS_SIZE_VER0 64
#define CLONE_ARGS_SIZE_VER1 80
#define MOST_TIDS 32 /* MAX_PID_NS_LEVEL */
#define LAST_SIGNAL 64 /* _NSIG */

/* As much of them as the caller gives; returns 0 if they could be read. */
ft_inline int read_clone_words(struct clone_words *words, __u64 address, __u64 size)
{
	if (bpf_probe_read_user(words, CLONE_ARGS_SIZE_VER0, (void *)address))
		return -1;
	if (size >= CLONE_ARGS_SIZE_VER1 &&
	    bpf_probe_read_user(&words->set_tid, CLONE_ARGS_SIZE_VER1 - CLONE_ARGS_SIZE_VER0,
				(void *)(address + CLONE_ARGS_SIZE_VER0)))
		return -1;
	if (size >= CLONE_ARGS_CGROUP_END &&
	    bpf_probe_read_user(&words->cgroup, CLONE_ARGS_CGROUP_END - CLONE_ARGS_SIZE_VER1,
				(void *)(address + CLONE_ARGS_SIZE_VER1)))
		return -1;
	return 0;
}

/*
 * Rules are gathered in the number itself: what is kept in memory the verifier does not know,
 * and so it need not walk every way in which they can be broken together.
 */
ft_inline void break_rule(struct ft_refusal *refusal, enum ft_rule rule)
{
	refusal->number[FT_NUMBER_FLAG_RULES] |= ft_rule(rule);
}

/* Of those that were gathered only these; true if any is left, which is told then. */
ft_inline int keep_rules(struct ft_refusal *refusal, __u64 of)
{
	__u64 rules = refusal->number[FT_NUMBER_FLAG_RULES] & of;

	refusal->number[FT_NUMBER_FLAG_RULES] = rules;
	if (!rules)
		return 0;
	refusal->have |= 1ULL << FT_NUMBER_FLAG_RULES;
	return 1;
}

/* kernel/fork.c, clone3_args_valid and kernel_clone. */
ft_inline void break_rules_of_words(struct ft_refusal *refusal, const struct clone_words *words)
{
	__u64 flags = words->flags;

	if (flags & ~known_flags())
		break_rule(refusal, FT_RULE_FLAG_UNKNOWN);
	if (flags & FT_CLONE_DETACHED)
		break_rule(refusal, FT_RULE_DETACHED);
	if (flags & FT_CSIGNAL & ~FT_CLONE_NEWTIME)
		break_rule(refusal, FT_RULE_FLAG_SIGNAL);
	if (flags & FT_CLONE_SIGHAND && flags & FT_CLONE_CLEAR_SIGHAND)
		break_rule(refusal, FT_RULE_CLEAR_SIGHAND);
	if (flags & (FT_CLONE_THREAD | FT_CLONE_PARENT) && words->exit_signal)
		break_rule(refusal, FT_RULE_THREAD_SIGNAL);
	if (words->stack && !words->stack_size)
		break_rule(refusal, FT_RULE_STACK_SIZE);
	if (!words->stack && words->stack_size)
		break_rule(refusal, FT_RULE_STACK);
	if (words->exit_signal > LAST_SIGNAL)
		break_rule(refusal, FT_RULE_SIGNAL);
	if (flags & FT_CLONE_PIDFD && flags & FT_CLONE_PARENT_SETTID &&
	    words->pidfd == words->parent_tid)
		break_rule(refusal, FT_RULE_PIDFD_SETTID);
}

/* kernel/fork.c, copy_clone_args_from_user, and what follows it. */
ft_inline void break_rules_of_clone3(struct ft_refusal *refusal, __u64 address, __u64 size)
{
	struct clone_words words = {};
	__u32 tid;

	if (size < CLONE_ARGS_SIZE_VER0) {
		break_rule(refusal, FT_RULE_SIZE_SMALL);
		return;
	}
	if (size > 1ULL << port_config()->page_shift) {
		break_rule(refusal, FT_RULE_SIZE_LARGE);
		return;
	}
	if (read_clone_words(&words, address, size)) {
		break_rule(refusal, FT_RULE_ARGS_FAULT);
		return;
	}
	break_rules_of_words(refusal, &words);
	/* Whatever is told by an errno of its own: the kernel says which it was. */
	if (size > CLONE_ARGS_CGROUP_END)
		break_rule(refusal, FT_RULE_SIZE_UNKNOWN);
	if (words.set_tid_size > MOST_TIDS || !words.set_tid != !words.set_tid_size)
		break_rule(refusal, FT_RULE_SET_TID);
	else if (words.set_tid && bpf_probe_read_user(&tid, sizeof(tid), (void *)words.set_tid))
		break_rule(refusal, FT_RULE_SET_TID_FAULT);
	if (words.flags & FT_CLONE_INTO_CGROUP &&
	    (words.cgroup > 0x7fffffff || size < CLONE_ARGS_CGROUP_END))
		break_rule(refusal, FT_RULE_CGROUP);
}

/* The same for clone, whose pidfd goes where the child's number would. */
ft_inline void break_rules_of_clone(struct ft_refusal *refusal, __u64 flags)
{
	/* Since Linux v7.1 or so; before that, only clone3 asked. */
	if ((flags & FT_CSIGNAL) > LAST_SIGNAL && has_field(signal_struct, autoreap))
		break_rule(refusal, FT_RULE_SIGNAL);
	if (flags & FT_CLONE_PIDFD && flags & FT_CLONE_PARENT_SETTID)
		break_rule(refusal, FT_RULE_PIDFD_SETTID);
}

/* Returns 1 if one is broken. */
ft_global int judge_arguments(__s32 error)
{
	struct ft_refusal *refusal = port_refusal();
	struct pt_regs *regs = call_registers();
	long number = syscall_number_in(regs);
	__u8 call = call_of(number);

	if (!refusal)
		return 0;
	if (call == FT_SYSCALL_CLONE3)
		break_rules_of_clone3(refusal, ARGUMENT_0(regs, number), ARGUMENT_1(regs, number));
	else if (call == FT_SYSCALL_CLONE)
		break_rules_of_clone(refusal, ARGUMENT_0(regs, number));
	return keep_rules(refusal, ft_rules_of(error));
}

/* The exit signal that a clone3 asked for; 0: none, or it could not be read. */
ft_inline __u64 exit_signal_of_call(void)
{
	struct pt_regs *regs = call_registers();
	long number = syscall_number_in(regs);
	struct clone_words words = {};

	if (call_of(number) == FT_SYSCALL_CLONE3)
		read_clone_words(&words, ARGUMENT_0(regs, number), CLONE_ARGS_SIZE_VER0);
	return words.exit_signal;
}

/* copy_process' rules that depend on more than the flags. */
ft_inline void break_rules_of_state(struct ft_refusal *refusal, struct task_struct *task,
				    __u64 flags)
{
	struct signal_struct *signal = BPF_CORE_READ(task, signal);

	/* An init may have no siblings: kernel/fork.c, SIGNAL_UNKILLABLE. */
	if (flags & FT_CLONE_PARENT && BPF_CORE_READ(signal, flags) & SIGNAL_UNKILLABLE)
		break_rule(refusal, FT_RULE_PARENT_INIT);
	/*
	 * Until Linux commit 83b290c9e3b5 ("pidfd: clone: allow CLONE_THREAD | CLONE_PIDFD
	 * together") (in v6.9), which came with the file system of pidfds.
	 */
	if (flags & FT_CLONE_PIDFD && flags & FT_CLONE_THREAD && !has_field(pid, stashed))
		break_rule(refusal, FT_RULE_PIDFD_THREAD);
	if (!has_field(signal_struct, autoreap))
		return;
	if (flags & FT_CLONE_PARENT && is_autoreaped(signal))
		break_rule(refusal, FT_RULE_PARENT_AUTOREAPED);
	if (flags & FT_CLONE_AUTOREAP && exit_signal_of_call())
		break_rule(refusal, FT_RULE_AUTOREAP_SIGNAL);
	/* ns_capable: in the caller's own user namespace. */
	if (flags & FT_CLONE_PIDFD_AUTOKILL && !(flags & FT_CLONE_NNP) &&
	    !(capabilities_of(BPF_CORE_READ(task, cred)) & 1ULL << CAP_SYS_ADMIN))
		break_rule(refusal, FT_RULE_AUTOKILL_ADMIN);
}

/* Returns 1 if one is broken. */
ft_global int judge_rules(__s32 error)
{
	struct ft_refusal *refusal = port_refusal();
	__u64 flags;

	if (!refusal)
		return 0;
	flags = refusal->flags;
	refusal->number[FT_NUMBER_FLAG_RULES] |= ft_flag_rules(flags);
	if (!is_blind(FT_READER_FLAGS))
		break_rules_of_state(refusal, current_task(), flags);
	return keep_rules(refusal, ft_rules_of(error));
}

ft_global int judge_flags(__u64 watched)
{
	struct task_struct *task = current_task();
	struct ft_refusal *refusal = port_refusal();
	struct pid_namespace *active = 0;
	const struct cred *cred;
	__u64 level, flags;
	struct pid *pid;
	__u32 value = 1;

	if (!refusal)
		return 0;
	flags = refusal->flags;
	/* Where copy_process was not seen, the rules on arguments come before its own. */
	if ((port_config()->is_by_syscall && judge_arguments(refusal->error)) ||
	    judge_rules(refusal->error))
		candidate(refusal, FT_CANDIDATE_FLAGS);
	is_passed(watched);
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

/* kernel/fork.c, copy_process: put_user of the pidfd. A page that cannot be had fails as a bad address does. */
ft_global int judge_pidfd_pointer(__u64 unused)
{
	struct ft_refusal *refusal = port_refusal();
	struct pt_regs *regs = call_registers();
	long number = syscall_number_in(regs);
	__u64 address = 0;
	char byte;

	is_passed(unused);
	if (!refusal || !(refusal->flags & FT_CLONE_PIDFD))
		return 0;
	if (call_of(number) == FT_SYSCALL_CLONE)
		address = ARGUMENT_2(regs);
	/* struct clone_args: its second word */
	else if (call_of(number) != FT_SYSCALL_CLONE3 ||
		 bpf_probe_read_user(&address, sizeof(address),
				     (void *)(ARGUMENT_0(regs, number) + 8)))
		return 0;
	if (!bpf_probe_read_user(&byte, sizeof(byte), (void *)address))
		refusal->detail = FT_DETAIL_POINTER_MAPPED;
	else if (address < LOWEST_ADDRESS || address >> USER_ADDRESS_BITS)
		refusal->detail = FT_DETAIL_POINTER_BAD;
	if (refusal->detail != FT_DETAIL_POINTER_BAD)
		judge_charge(refusal);
	return 0;
}

/* The port, as far as it judges. */

ft_inline void port_judge_memory_cgroup(void)
{
	judge_memory_cgroup(0);
}

ft_inline void port_judge_arguments(ft_s32 error)
{
#ifndef FT_INLINED_WHOLE
	judge_arguments(error);
#endif
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
#ifndef FT_INLINED_WHOLE /* too much to verify in one program; each kind has a step that tells */
	} else if (error == -FT_ENOSPC) {
		judge_namespaces(watched);
#endif
	} else {
		if (refusal->flags & FT_CLONE_NEWNET)
			refusal->detail = FT_DETAIL_NEW_NET;
#ifndef FT_INLINED_WHOLE /* too much to verify in one program */
		if (error == -FT_EFAULT)
			judge_pidfd_pointer(0);
		if (error == -FT_EEXIST && asks_tid_of_call())
			candidate(refusal, FT_CANDIDATE_ASKED_TID);
#endif
		judge_flags(watched);
	}
}

#endif
