/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Who asked: the system call and its arguments, the place in the kernel, the
 * cgroup. Only ever run on the error path.
 */
#ifndef FORK_TRACE_CALLER_H
#define FORK_TRACE_CALLER_H

#include "port.h"
#include "reading.h"
#include "uapi.h"
#include "wire.h"

#define PF_KTHREAD 0x00200000 /* include/linux/sched.h */
#define PF_NPROC_EXCEEDED 0x00001000
#define SIGKILL_BIT (1UL << 8)
#define SIGNAL_GROUP_EXIT 0x00000004 /* include/linux/sched/signal.h */
#define SECCOMP_MODE_FILTER 2 /* include/uapi/linux/seccomp.h */
#define CGROUP_LEVELS 32
#define WHOLE_STACK_FRAMES 8 /* from a step's refusal to the system call's entry there are more */
#define FRAME_BYTES 8

/* clone and its kin, and what maps a stack; a 32-bit call has numbers of its own. */
#if defined(__TARGET_ARCH_x86)
#define NR_CLONE 56
#define NR_FORK 57
#define NR_VFORK 58
#define NR_MMAP 9
#define NR_MPROTECT 10
#define NR_PKEY_MPROTECT 329
#define NR_EXECVE 59
#define NR_EXECVEAT 322
#define NR_UNSHARE 272
#elif defined(__TARGET_ARCH_arm64)
#define NR_CLONE 220
#define NR_FORK (-2) /* has neither */
#define NR_VFORK (-2)
#define NR_MMAP 222
#define NR_MPROTECT 226
#define NR_PKEY_MPROTECT 288
#define NR_EXECVE 221
#define NR_EXECVEAT 281
#define NR_UNSHARE 97
#endif
#define NR_CLONE3 435 /* the same on every architecture */
#define COMPAT_NR_FORK 2
#define COMPAT_NR_CLONE 120
#define COMPAT_NR_VFORK 190
#define COMPAT_NR_MMAP2 192
#define COMPAT_NR_MPROTECT 125
#define COMPAT_NR_PKEY_MPROTECT 380
#define COMPAT_NR_EXECVE 11
#if defined(__TARGET_ARCH_x86)
#define COMPAT_NR_EXECVEAT 358
#define COMPAT_NR_UNSHARE 310
#else
#define COMPAT_NR_EXECVEAT 387
#define COMPAT_NR_UNSHARE 337
#endif
/* arch/x86/entry/syscalls/syscall_64.tbl: of x32, execve and execveat have numbers of their own. */
#define X32_NR_EXECVE 520
#define X32_NR_EXECVEAT 545
#define X32_CALL_BIT 0x40000000L /* arch/x86/include/uapi/asm/unistd.h, __X32_SYSCALL_BIT */

#if defined(__TARGET_ARCH_x86)
#define REGISTERS_READ 21
#else
#define REGISTERS_READ FT_REGISTERS
#endif

#define COMPAT_CALL (1L << 32) /* a 32-bit call: its numbers are others */

/* A bare number, with COMPAT_CALL if this thread makes a 32-bit call. */
ft_inline long number_of_thread(long number)
{
#if defined(__TARGET_ARCH_x86)
	unsigned int status = is_blind(FT_READER_CALL) ? 0 : CURRENT_READ(thread_info.status);

	number &= ~X32_CALL_BIT;
	return status & 2 ? number | COMPAT_CALL : number; /* TS_COMPAT */
#elif defined(__TARGET_ARCH_arm64)
	unsigned long flags = is_blind(FT_READER_CALL) ? 0 : CURRENT_READ(thread_info.flags);

	/* TIF_32BIT, arch/arm64/include/asm/thread_info.h; its fork, vfork and clone are i386's. */
	return flags & 1UL << 22 ? number | COMPAT_CALL : number;
#endif
}

/* By the registers with which the system call began; -1: they do not say. */
ft_inline long syscall_number_in(struct pt_regs *regs)
{
#if defined(__TARGET_ARCH_x86)
	long number = -1;

	if (bpf_probe_read_kernel(&number, sizeof(number), &regs->orig_ax))
		return -1;
#elif defined(__TARGET_ARCH_arm64)
	int number = -1;

	if (bpf_core_read(&number, sizeof(number), &regs->syscallno) || number < 0)
		return -1;
#endif
	return number_of_thread(number);
}

/* Only the number, an i386 call's as it is: all that most exits of system calls are asked. */
ft_inline long bare_number_in(struct pt_regs *regs)
{
	long number = -1;

#if defined(__TARGET_ARCH_x86)
	bpf_probe_read_kernel(&number, sizeof(number), &regs->orig_ax);
#else
	number = syscall_number_in(regs) & ~COMPAT_CALL;
#endif
	return number;
}

/* Did the thread come into the kernel by itself, as it ran, and not by a system call? */
ft_inline int is_exception(struct pt_regs *regs)
{
#if defined(__TARGET_ARCH_x86)
	long number = 0;

	/* arch/x86/entry/entry_64.S: -1 instead of a system call's number. */
	return !bpf_probe_read_kernel(&number, sizeof(number), &regs->orig_ax) && number == -1;
#elif defined(__TARGET_ARCH_arm64)
	int number = 0;

	return !bpf_core_read(&number, sizeof(number), &regs->syscallno) && number == -1;
#endif
}

/* The registers with which this thread's system call began. */
ft_inline struct pt_regs *call_registers(void)
{
	/*
	 * Since Linux commit dd6e10fbd9fb ("bpf: Add bpf_task_pt_regs() helper")
	 * (in v5.15) the kernel tells where they are. Before that, they end the
	 * kernel stack, with no padding above them.
	 */
	if (has_value(bpf_func_id, BPF_FUNC_task_pt_regs))
		return (struct pt_regs *)bpf_task_pt_regs(bpf_get_current_task_btf());
	if (is_blind(FT_READER_CALL))
		return 0;
	return BPF_CORE_READ(current_task(), stack) + KERNEL_STACK_BYTES - pt_regs_bytes;
}

ft_outline long syscall_number(void)
{
#if defined(__TARGET_ARCH_x86)
	if (has_value(bpf_func_id, BPF_FUNC_task_pt_regs))
		return number_of_thread(call_registers()->orig_ax);
#endif
	return syscall_number_in(call_registers());
}

#if defined(__TARGET_ARCH_x86)
/* A 32-bit call has its arguments in other registers: arch/x86/include/asm/syscall.h */
#define ARGUMENT_0(regs, number) \
	((number)&COMPAT_CALL ? (__u32)register_of(regs, bx) : register_of(regs, di))
#define ARGUMENT_1(regs, number) \
	((number)&COMPAT_CALL ? (__u32)register_of(regs, cx) : register_of(regs, si))
#define ARGUMENT_2(regs) register_of(regs, dx)
#define ARGUMENT_3(regs, number) \
	((number)&COMPAT_CALL ? (__u32)register_of(regs, si) : register_of(regs, r10))
#elif defined(__TARGET_ARCH_arm64)
#define ARGUMENT_0(regs, number) register_of(regs, orig_x0)
#define ARGUMENT_1(regs, number) register_of(regs, regs[1])
#define ARGUMENT_2(regs) register_of(regs, regs[2])
#define ARGUMENT_3(regs, number) register_of(regs, regs[3])
#endif

/* Which of the fork family a number is; FT_SYSCALL_KERNEL: none of them. */
ft_inline __u8 call_of(long number)
{
	if (number == NR_CLONE3 || number == (COMPAT_CALL | NR_CLONE3))
		return FT_SYSCALL_CLONE3;
	if (number == NR_FORK || number == (COMPAT_CALL | COMPAT_NR_FORK))
		return FT_SYSCALL_FORK;
	if (number == NR_CLONE || number == (COMPAT_CALL | COMPAT_NR_CLONE))
		return FT_SYSCALL_CLONE;
	if (number == NR_VFORK || number == (COMPAT_CALL | COMPAT_NR_VFORK))
		return FT_SYSCALL_VFORK;
	/* In another system call the kernel made the task itself: io_uring's workers, for instance. */
	return FT_SYSCALL_KERNEL;
}

/* Most kernels take no x32 call: that none was made is no failed fork. */
ft_inline int is_untaken_x32(long number, __s64 result)
{
#if defined(__TARGET_ARCH_x86)
	return number & X32_CALL_BIT && result == -FT_ENOSYS;
#else
	return 0;
#endif
}

/*
 * Can the exit of a call with this bare number tell of a task, or of a stack for one? Every system
 * call of the host is asked: nearly all of them leave at once.
 */
ft_inline int is_watched_call(long number)
{
#if defined(__TARGET_ARCH_x86)
	number &= ~X32_CALL_BIT;
#endif
	if (number == NR_CLONE || number == NR_CLONE3 || number == NR_FORK || number == NR_VFORK ||
	    number == COMPAT_NR_FORK || number == COMPAT_NR_CLONE || number == COMPAT_NR_VFORK)
		return 1;
	return port_config()->is_by_syscall &&
	       (number == NR_MMAP || number == NR_MPROTECT || number == COMPAT_NR_MMAP2 ||
		number == COMPAT_NR_MPROTECT);
}

/* Does this number map memory, or change what may be done with it? */
ft_inline int is_mmap(long number)
{
	return number == NR_MMAP || number == (COMPAT_CALL | COMPAT_NR_MMAP2);
}

ft_inline int is_mprotect(long number)
{
	return number == NR_MPROTECT || number == (COMPAT_CALL | COMPAT_NR_MPROTECT);
}

ft_inline int is_pkey_mprotect(long number)
{
	return number == NR_PKEY_MPROTECT || number == (COMPAT_CALL | COMPAT_NR_PKEY_MPROTECT);
}

ft_inline unsigned int flags_of_thread(void)
{
	return is_blind(FT_READER_CALL) ? 0 : CURRENT_READ(flags);
}

ft_inline int is_execve(long number)
{
	return number == NR_EXECVE || number == NR_EXECVEAT || number == X32_NR_EXECVE ||
	       number == X32_NR_EXECVEAT || number == (COMPAT_CALL | COMPAT_NR_EXECVE) ||
	       number == (COMPAT_CALL | COMPAT_NR_EXECVEAT);
}

ft_inline int is_unshare(long number)
{
	return number == NR_UNSHARE || number == (COMPAT_CALL | COMPAT_NR_UNSHARE);
}

ft_inline __u8 syscall_of_thread(void)
{
	long number;

	if (flags_of_thread() & PF_KTHREAD)
		return FT_SYSCALL_KERNEL;
	number = syscall_number();
	return number < 0 ? FT_SYSCALL_UNKNOWN : call_of(number);
}

ft_inline int is_fork_call(void)
{
	__u8 syscall = syscall_of_thread();

	return syscall != FT_SYSCALL_UNKNOWN && syscall != FT_SYSCALL_KERNEL;
}

/* The CLONE_* flags that a call of the fork family was made with, and clone3's set_tid_size. */
ft_inline __u64 flags_in(struct pt_regs *regs, long number, __u64 *set_tid_size)
{
	__u8 call = call_of(number);
	__u64 flags = 0;

	if (call == FT_SYSCALL_CLONE) {
		/* The low byte is the exit signal; the upper half is not looked at. */
		flags = ARGUMENT_0(regs, number) & 0xffffff00ULL;
	} else if (call == FT_SYSCALL_CLONE3) {
		/* struct clone_args: the flags are its first word, set_tid_size its tenth */
		if (bpf_probe_read_user(&flags, sizeof(flags), (void *)ARGUMENT_0(regs, number)))
			flags = FT_FLAGS_UNKNOWN;
		if (ARGUMENT_1(regs, number) >= 80 &&
		    bpf_probe_read_user(set_tid_size, sizeof(*set_tid_size),
					(void *)(ARGUMENT_0(regs, number) + 72)))
			*set_tid_size = 0;
		/* kernel/fork.c, kernel_clone */
		if (flags != FT_FLAGS_UNKNOWN && flags & FT_CLONE_EMPTY_MNTNS)
			flags |= FT_CLONE_NEWNS;
	} else if (call == FT_SYSCALL_VFORK) {
		flags = 0x4100; /* CLONE_VFORK | CLONE_VM */
	}
	return flags;
}

ft_inline __u64 flags_of_call(void)
{
	struct pt_regs *regs = call_registers();
	__u64 set_tid_size = 0;

	return flags_in(regs, syscall_number_in(regs), &set_tid_size);
}

/*
 * The CLONE_* flags in copy_process' last argument. Where they cannot be read there, those of
 * the system call; of a task that the kernel makes by itself they stay unknown, but for
 * CLONE_VM: it copies no address space.
 */
ft_inline __u64 flags_of_args(struct kernel_clone_args *args)
{
	if (is_blind(FT_READER_CLONE_ARGS))
		return is_fork_call() ? flags_of_call() : FT_FLAGS_UNKNOWN | FT_CLONE_VM;
	return BPF_CORE_READ(args, flags);
}

/* include/uapi/linux/sched.h, struct clone_args: its descriptor of a cgroup, and where that ends */
#define CLONE_ARGS_CGROUP 80
#define CLONE_ARGS_CGROUP_END 88

/* The descriptor that a clone3 with CLONE_INTO_CGROUP was given; returns 0 if it could be read. */
ft_inline int cgroup_of_call(int *fd)
{
	struct pt_regs *regs = call_registers();
	long number = syscall_number_in(regs);
	__u64 value = 0;

	if (call_of(number) != FT_SYSCALL_CLONE3 ||
	    ARGUMENT_1(regs, number) < CLONE_ARGS_CGROUP_END)
		return -1;
	if (bpf_probe_read_user(&value, sizeof(value),
				(void *)(ARGUMENT_0(regs, number) + CLONE_ARGS_CGROUP)))
		return -1;
	*fd = value;
	return 0;
}

/* Was clone3 given set_tid? */
ft_outline int asks_tid_of_call(void)
{
	struct pt_regs *regs = call_registers();
	__u64 set_tid_size = 0;

	flags_in(regs, syscall_number_in(regs), &set_tid_size);
	return !!set_tid_size;
}

/* Does a program on copy_process' entry tell that this thread is in it? -1: there is none. */
ft_inline int is_noted(void)
{
	return port_config()->notes_attempts ? !!port_attempt() : -1;
}

/* Is copy_process among the callers, by so many bytes of the kernel stack in this thread's refusal? */
ft_global int is_copy_process_above(__u32 bytes)
{
	struct ft_refusal *refusal = port_refusal();
	__u32 i;

	if (!refusal)
		return 0;
	for (i = 0; i < FT_KERNEL_FRAMES; i++) {
		if (i * FRAME_BYTES >= bytes)
			break;
		if (refusal->kernel_frame[i] >= port_config()->copy_process_start &&
		    refusal->kernel_frame[i] < port_config()->copy_process_end)
			return 1;
	}
	return 0;
}

/*
 * Did copy_process call the function whose exit we are in? Only asked on the
 * error path. In a fork, vfork, clone or clone3 nothing but copy_process calls
 * the functions that are watched: the system call decides. __vm_enough_memory
 * can be asked there for a user stack that has to grow as well, and kernel
 * workers are made in any system call: then the kernel stack decides, if the
 * address range of copy_process is known.
 */
ft_inline int is_inside_copy_process(void *ctx, struct ft_refusal *refusal, int may_be_a_fault)
{
	int is_fork, noted = is_noted();
	long bytes;

	if (noted >= 0)
		return noted;
	is_fork = is_fork_call();
	if (is_fork && !(may_be_a_fault && port_config()->copy_process_start))
		return 1;
	if (!port_config()->copy_process_start)
		return 0;
	bytes = bpf_get_stack(ctx, refusal->kernel_frame, sizeof(refusal->kernel_frame), 0);
	if (bytes > 0 && is_copy_process_above(bytes))
		return 1;
	/* kernel.perf_event_max_stack can cut it short: then it proves nothing. */
	return is_fork && bytes < WHOLE_STACK_FRAMES * FRAME_BYTES;
}

/* The same for a function that has not opened a refusal by now. */
ft_inline int is_inside_fork(void *ctx)
{
	struct ft_refusal *refusal;
	int noted = is_noted();
	int is_inside, is_new;

	if (noted >= 0)
		return noted;
	if (port_phase() == FT_PHASE_OFF)
		return 0;
	if (is_fork_call())
		return 1;
	if (!port_config()->copy_process_start)
		return 0;
	/* A charge that was refused inside it has one open already, with room for the stack. */
	refusal = port_refusal();
	is_new = !refusal;
	if (is_new)
		refusal = port_refusal_open();
	if (!refusal)
		return 0;
	is_inside = is_inside_copy_process(ctx, refusal, 0);
	if (is_new && !is_inside)
		port_refusal_drop();
	return is_inside;
}

/* Its cgroup. */

ft_inline struct cgroup_subsys_state *css_of_task(struct task_struct *task, __u64 subsystem)
{
	struct cgroup_subsys_state *css = 0;
	struct css_set *cset;

	if (is_blind(FT_READER_CGROUP))
		return 0;
	cset = BPF_CORE_READ(task, cgroups);
	bpf_probe_read_kernel(&css, sizeof(css), (void *)&cset->subsys + subsystem * sizeof(css));
	return css;
}

ft_inline struct cgroup_subsys_state *css_of(__u64 subsystem)
{
	return css_of_task(current_task(), subsystem);
}

/* Kernels without the controller lack the value; see nproc_index_v60. */
ft_outline __u64 pids_index(void)
{
	return bpf_core_enum_value(enum cgroup_subsys_id, pids_cgrp_id);
}

ft_inline struct cgroup_subsys_state *pids_css(void)
{
	if (!has_value(cgroup_subsys_id, pids_cgrp_id))
		return 0;
	return css_of(pids_index());
}

/*
 * The cgroup that tells most about the task: on a host that has the pids
 * controller in a v1 hierarchy the one there, otherwise the one in v2.
 */
ft_inline struct cgroup_subsys_state *own_css_of(struct task_struct *task)
{
	struct cgroup_subsys_state *css = 0;
	struct cgroup *dfl;

	if (is_blind(FT_READER_CGROUP))
		return 0;
	if (has_value(cgroup_subsys_id, pids_cgrp_id))
		css = css_of_task(task, pids_index());
	if (css && BPF_CORE_READ(css, cgroup, root, hierarchy_id))
		return css;
	dfl = BPF_CORE_READ(task, cgroups, dfl_cgrp);
	return __builtin_preserve_access_index(&dfl->self);
}

ft_inline struct cgroup_subsys_state *own_css(void)
{
	return own_css_of(current_task());
}

/* Its id. Each failure is counted under it. */
ft_outline __u64 own_cgroup(void)
{
	struct cgroup_subsys_state *css = 0;
	struct css_set *cset;

	if (is_blind(FT_READER_CGROUP))
		return 0;
	if (!has_value(bpf_func_id, BPF_FUNC_get_current_task_btf))
		return BPF_CORE_READ(own_css(), cgroup, kn, id);
#ifndef FT_INLINED_WHOLE
	cset = bpf_get_current_task_btf()->cgroups;
	if (has_value(cgroup_subsys_id, pids_cgrp_id))
		css = *(struct cgroup_subsys_state **)((void *)&cset->subsys +
						       pids_index() * sizeof(css));
	if (css && css->cgroup->root->hierarchy_id)
		return css->cgroup->kn->id;
	return cset->dfl_cgrp->kn->id;
#endif
}

ft_inline int is_below_cgroup(__u64 id)
{
	struct cgroup_subsys_state *css = own_css();
	int i;

	if (is_blind(FT_READER_CGROUP))
		return 0;
	for (i = 0; i < CGROUP_LEVELS && css; i++) {
		if (BPF_CORE_READ(css, cgroup, kn, id) == id)
			return 1;
		css = BPF_CORE_READ(css, parent);
	}
	return 0;
}

/*
 * The names from a cgroup up to the root, which has none; returns how many bytes they
 * take. A path that finds no room is left out whole: half of one would be another cgroup's.
 */
ft_inline __u32 read_path(struct cgroup_subsys_state *css, char *path)
{
	struct cgroup_subsys_state *parent;
	__u32 used = 0;
	long bytes;
	int i;

	if (is_blind(FT_READER_CGROUP))
		return 0;
	for (i = 0; i < CGROUP_LEVELS && css; i++) {
		parent = BPF_CORE_READ(css, parent);
		if (!parent)
			return used;
		if (used > FT_CGROUP_PATH_BYTES - FT_CGROUP_NAME_BYTES)
			return 0;
		bytes = bpf_probe_read_kernel_str(path + used, FT_CGROUP_NAME_BYTES,
						  BPF_CORE_READ(css, cgroup, kn, name));
		if (bytes <= 1 || bytes >= FT_CGROUP_NAME_BYTES)
			return 0;
		used += bytes;
		css = parent;
	}
	return 0;
}

/* The port, as far as it asks who. */

/* Its real uid in the initial user namespace, as kuid_t has it and the helper works out for gids as well. */
ft_inline __u32 uid_of_thread(void)
{
#ifndef FT_INLINED_WHOLE
	if (has_value(bpf_func_id, BPF_FUNC_get_current_task_btf) && has_field(task_struct, cred) &&
	    has_field(cred, uid))
		return CURRENT_READ(cred, uid.val);
#endif
	return bpf_get_current_uid_gid();
}

ft_inline void port_who(struct ft_key *key)
{
	bpf_get_current_comm(key->comm, sizeof(key->comm));
	key->uid = uid_of_thread();
	key->cgroup = own_cgroup();
	/* io_uring can want a worker at the end of any system call, a fork included. */
	key->syscall = port_maker() ? FT_SYSCALL_KERNEL : syscall_of_thread();
}

ft_inline void port_sample(void *ctx, struct ft_event *event)
{
	struct task_struct *parent;
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	struct ft_maker *maker = port_maker();
	long bytes;

	if (maker)
		event->maker = *maker;
	event->pid = pid_tgid >> 32;
	event->tid = pid_tgid;
	if (!is_blind(FT_READER_SAMPLE)) {
		parent = BPF_CORE_READ(current_task(), real_parent);
		event->ppid = BPF_CORE_READ(parent, tgid);
		bpf_core_read(event->parent_comm, sizeof(event->parent_comm), &parent->comm);
		/* Who holds a pool is read later: a program that aborts has ended by then. */
		event->number[FT_NUMBER_OWN_THREADS] =
			BPF_CORE_READ(current_task(), signal, nr_threads);
		event->have |= 1ULL << FT_NUMBER_OWN_THREADS;
	}
	event->cgroup_path_bytes = read_path(own_css(), event->cgroup_path);
#ifndef FT_INLINED_WHOLE
	if (event->key.bits & FT_BIT_LATE)
		return;
#endif
	bytes = bpf_get_stack(ctx, event->user_frame, sizeof(event->user_frame), BPF_F_USER_STACK);
	if (bytes > 0)
		event->user_frame_count = bytes / 8;
	/* The same frames as build id and file offset: read now, for callers that exit at once. */
	bpf_get_stack(ctx, event->user_place, sizeof(event->user_place),
		      BPF_F_USER_STACK | BPF_F_USER_BUILD_ID);
	port_send_stack(event->time_ns);
}

ft_inline int port_is_filtered_out(const struct ft_key *key)
{
	int i;

	if (!port_config()->filter)
		return 0;
	if (port_config()->filter & FT_FILTER_PID &&
	    port_config()->filter_pid != bpf_get_current_pid_tgid() >> 32)
		return 1;
	if (port_config()->filter & FT_FILTER_UID && port_config()->filter_uid != key->uid)
		return 1;
	if (port_config()->filter & FT_FILTER_CGROUP &&
	    !is_below_cgroup(port_config()->filter_cgroup))
		return 1;
	if (port_config()->filter & FT_FILTER_COMM) {
#ifdef FT_INLINED_WHOLE /* its settings are constants, which no program can find by a number */
#pragma clang loop unroll(full)
#else
#pragma clang loop unroll(disable)
#endif
		for (i = 0; i < FT_COMM_BYTES; i++) {
			if (key->comm[i] != port_config()->filter_comm[i])
				return 1;
			if (!key->comm[i])
				break;
		}
	}
	return 0;
}

ft_inline int port_is_dying(void)
{
	if (is_blind(FT_READER_DYING))
		return 0;
	if (CURRENT_READ(pending.signal.sig[0]) & SIGKILL_BIT)
		return 1;
	return !!(CURRENT_READ(signal, flags) & SIGNAL_GROUP_EXIT);
}

ft_inline int port_is_supervised(void)
{
	struct task_struct *task = current_task();

	if (is_blind(FT_READER_SUPERVISED))
		return 0;
	/* Without CONFIG_SECCOMP the structure is empty. */
	if (has_field(seccomp, mode) && BPF_CORE_READ(task, seccomp_mode) == SECCOMP_MODE_FILTER)
		return 1;
	return !!BPF_CORE_READ(task, ptrace);
}

#endif
