/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The kernel's state at the instant of a refusal, read into a struct ft_refusal:
 * numbers, levels, and which tests would refuse; and who asked. Only ever run on
 * the error path. Written for CO-RE; kernel_headers.h answers in its place where
 * the kernel has no BTF. Needs `config` and port_refusal() of the shell that
 * includes it, and none of its maps.
 */
#ifndef FORK_TRACE_KERNEL_STATE_H
#define FORK_TRACE_KERNEL_STATE_H

/*
 * A function that the verifier walks once for each program, and not at each
 * call. Before v5.12 it takes numbers only, so each looks up the refusal anew.
 * It is walked where nobody calls it as well: a test for a field that can be
 * missing has to be inside. One level of a hierarchy is such a function: the
 * verifier walks every round of a loop, at each start of the tool.
 */
#ifndef ft_global
#define ft_global __attribute__((noinline))
#endif

#define PF_KTHREAD 0x00200000 /* include/linux/sched.h */
#define SIGKILL_BIT (1UL << 8)
#define SIGNAL_GROUP_EXIT 0x00000004 /* include/linux/sched/signal.h */
#define SIGNAL_UNKILLABLE 0x00000040
#define RLIMIT_DATA 2 /* include/uapi/asm-generic/resource.h */
#define RLIMIT_NPROC 6
#define RLIMIT_NOFILE 7
#define RLIMIT_AS 9
#define PIDNS_ADDING (1U << 31) /* include/linux/pid_namespace.h */
#define RESERVED_PIDS 300 /* kernel/pid.c: not given again once the numbers have wrapped */
#define THREADS_SLACK 64 /* so many may have ended since the test */
#define NAMESPACE_DEPTH 32 /* create_user_ns, create_pid_namespace */
#define SECCOMP_MODE_FILTER 2 /* include/uapi/linux/seccomp.h */
#define CAP_SYS_ADMIN 21
#define CAP_SYS_RESOURCE 24
#define USERNS_LEVELS 34 /* create_user_ns: parent level at most 32 */
#define CGROUP_LEVELS 32
#define PIDNS_LEVELS 33 /* MAX_PID_NS_LEVEL and the initial one */
#define WHOLE_STACK_FRAMES 8 /* from a step's refusal to the system call's entry there are more */
#define FD_CHUNK_WORDS 16
/* Up to 262,144 descriptors; of a larger table the number stays unread. */
#define FD_CHUNKS 256
/* A cgroup this near its memory.max refuses the next batch (MEMCG_CHARGE_BATCH). */
#define MEMCG_BATCH 64
#define MEMCG_NO_LIMIT (1ULL << 50) /* PAGE_COUNTER_MAX is LONG_MAX in pages */

/* clone and its kin, and what maps a stack; a 32-bit call has numbers of its own. */
#if defined(__TARGET_ARCH_x86)
#define NR_CLONE 56
#define NR_FORK 57
#define NR_VFORK 58
#define NR_MMAP 9
#define NR_MPROTECT 10
#define NR_PKEY_MPROTECT 329
#elif defined(__TARGET_ARCH_arm64)
#define NR_CLONE 220
#define NR_FORK (-2) /* has neither */
#define NR_VFORK (-2)
#define NR_MMAP 222
#define NR_MPROTECT 226
#define NR_PKEY_MPROTECT 288
#endif
#define NR_CLONE3 435 /* the same on every architecture */
#define COMPAT_NR_FORK 2
#define COMPAT_NR_CLONE 120
#define COMPAT_NR_VFORK 190

/* The fork that a program on copy_process' entry has noted for this thread, or 0. */
ft_inline struct ft_attempt *port_attempt(void);
/* Send what the user stack is unwound from, beside the sample of that time; or nothing. */
ft_inline void port_send_stack(__u64 time_ns);

ft_inline struct task_struct *current_task(void)
{
	return (struct task_struct *)bpf_get_current_task();
}

ft_inline void number_int_at(struct ft_refusal *refusal, enum ft_number number, __u64 address)
{
	__u32 value = 0;

	if (address && !bpf_probe_read_kernel(&value, sizeof(value), (void *)address))
		ft_number(refusal, number, value);
}

ft_inline void number_long_at(struct ft_refusal *refusal, enum ft_number number, __u64 address)
{
	__u64 value = 0;

	if (address && !bpf_probe_read_kernel(&value, sizeof(value), (void *)address))
		ft_number(refusal, number, value);
}

ft_inline __u64 number_of(const struct ft_refusal *refusal, enum ft_number number)
{
	return refusal->number[number];
}

ft_inline int has_number(const struct ft_refusal *refusal, enum ft_number number)
{
	return !!(refusal->have & 1ULL << number);
}

/*
 * A field that is not there makes libbpf turn the instructions that read it into
 * bad ones: behind a test that is known at load time nobody gets to see them.
 */
ft_inline int is_moved(struct ft_refusal *refusal, int exists, enum ft_moved which)
{
	if (exists)
		return 0;
	ft_number(refusal, FT_NUMBER_MOVED, refusal->number[FT_NUMBER_MOVED] | 1ULL << which);
	return 1;
}

ft_inline int was_moved(const struct ft_refusal *refusal, enum ft_moved which)
{
	return !!(refusal->number[FT_NUMBER_MOVED] & 1ULL << which);
}

ft_inline __u64 pages_of(__u64 bytes)
{
	return (bytes + (1ULL << config.page_shift) - 1) >> config.page_shift;
}

ft_inline void fit(struct ft_refusal *refusal, enum ft_fit which)
{
	refusal->fits |= 1U << which;
}

ft_inline int is_watched(__u64 watched, enum ft_step step)
{
	return !!(watched & 1ULL << step);
}

/* Who asked. */

#if defined(__TARGET_ARCH_x86)
#define REGISTERS_READ 21
#else
#define REGISTERS_READ FT_REGISTERS
#endif

#define COMPAT_CALL (1L << 32) /* a 32-bit call: its numbers are others */

/* By the registers with which the system call began; -1: not to be told. */
ft_inline long syscall_number_in(struct pt_regs *regs)
{
#if defined(__TARGET_ARCH_x86)
	unsigned int status = 0;
	long number = -1;

	if (bpf_core_read(&number, sizeof(number), &regs->orig_ax))
		return -1;
	number &= ~0x40000000L; /* __X32_SYSCALL_BIT */
	bpf_core_read(&status, sizeof(status), &current_task()->thread_info.status);
	if (status & 2) /* TS_COMPAT */
		number |= COMPAT_CALL;
	return number;
#elif defined(__TARGET_ARCH_arm64)
	unsigned long flags = 0;
	int number = -1;

	if (bpf_core_read(&number, sizeof(number), &regs->syscallno) || number < 0)
		return -1;
	bpf_core_read(&flags, sizeof(flags), &current_task()->thread_info.flags);
	/* TIF_32BIT, arch/arm64/include/asm/thread_info.h; its fork, vfork and clone are i386's. */
	return flags & 1UL << 22 ? number | COMPAT_CALL : number;
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
	return BPF_CORE_READ(current_task(), stack) + KERNEL_STACK_BYTES -
	       bpf_core_type_size(struct pt_regs);
}

ft_outline long syscall_number(void)
{
	return syscall_number_in(call_registers());
}

#if defined(__TARGET_ARCH_x86)
/* A 32-bit call has its arguments in other registers: arch/x86/include/asm/syscall.h */
#define ARGUMENT_0(regs, number)                                                                \
	((number)&COMPAT_CALL ? (__u32)BPF_CORE_READ(regs, bx) : BPF_CORE_READ(regs, di))
#define ARGUMENT_1(regs, number)                                                                \
	((number)&COMPAT_CALL ? (__u32)BPF_CORE_READ(regs, cx) : BPF_CORE_READ(regs, si))
#define ARGUMENT_2(regs) BPF_CORE_READ(regs, dx)
#define ARGUMENT_3(regs) BPF_CORE_READ(regs, r10)
#elif defined(__TARGET_ARCH_arm64)
#define ARGUMENT_0(regs, number) BPF_CORE_READ(regs, orig_x0)
#define ARGUMENT_1(regs, number) BPF_CORE_READ(regs, regs[1])
#define ARGUMENT_2(regs) BPF_CORE_READ(regs, regs[2])
#define ARGUMENT_3(regs) BPF_CORE_READ(regs, regs[3])
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

ft_inline __u8 syscall_of(struct task_struct *task)
{
	unsigned int flags = 0;
	long number;

	bpf_core_read(&flags, sizeof(flags), &task->flags);
	if (flags & PF_KTHREAD)
		return FT_SYSCALL_KERNEL;
	number = syscall_number();
	return number < 0 ? FT_SYSCALL_UNKNOWN : call_of(number);
}

ft_inline int is_fork_call(void)
{
	__u8 syscall = syscall_of(current_task());

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

/* Does a program on copy_process' entry tell that this thread is in it? -1: there is none. */
ft_inline int is_noted(void)
{
	return config.notes_attempts ? !!port_attempt() : -1;
}

/* Is this thread in copy_process? Where no program notes it: in a system call that leads there. */
ft_inline int is_forking(void)
{
	int told = is_noted();

	return told < 0 ? is_fork_call() : told;
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
	int is_fork, told = is_noted();
	long bytes;
	int i;

	if (told >= 0)
		return told;
	is_fork = is_fork_call();
	if (is_fork && !(may_be_a_fault && config.copy_process_start))
		return 1;
	if (!config.copy_process_start)
		return 0;
	bytes = bpf_get_stack(ctx, refusal->kernel_frame, sizeof(refusal->kernel_frame), 0);
	/* kernel.perf_event_max_stack can cut it short: then it proves nothing. */
	if (bytes < WHOLE_STACK_FRAMES * 8)
		return is_fork;
	for (i = 0; i < FT_KERNEL_FRAMES; i++) {
		if (i * 8 >= bytes)
			break;
		if (refusal->kernel_frame[i] >= config.copy_process_start &&
		    refusal->kernel_frame[i] < config.copy_process_end)
			return 1;
	}
	return 0;
}

ft_inline __u64 capabilities_of(const struct cred *cred)
{
	__u64 capabilities = 0;

	bpf_core_read(&capabilities, sizeof(capabilities), &cred->cap_effective);
	return capabilities;
}

/* capable(CAP_SYS_ADMIN): in the initial user namespace. */
ft_inline int has_sys_admin(const struct cred *cred)
{
	return BPF_CORE_READ(cred, user_ns, level) == 0 &&
	       capabilities_of(cred) & 1ULL << CAP_SYS_ADMIN;
}

/* RLIMIT_NPROC. */

/*
 * kernel/fork.c, copy_process: init's user and the two capabilities, in the
 * initial user namespace, are exempt from RLIMIT_NPROC.
 */
ft_inline int is_exempt_from_nproc(const struct cred *cred)
{
	if (BPF_CORE_READ(cred, user, uid.val) == 0)
		return 1;
	if (BPF_CORE_READ(cred, user_ns, level) != 0)
		return 0;
	return !!(capabilities_of(cred) & (1ULL << CAP_SYS_ADMIN | 1ULL << CAP_SYS_RESOURCE));
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
				bpf_core_enum_value(enum rlimit_type, UCOUNT_RLIMIT_NPROC) * sizeof(*tasks));
	return bpf_probe_read_kernel(
		tasks, sizeof(*tasks),
		(void *)&ucounts->ucount + nproc_index_v60() * sizeof(*tasks));
}

ft_inline int read_nproc_limit(struct user_namespace *ns, long *limit)
{
	if (has_field(user_namespace, rlimit_max))
		return bpf_probe_read_kernel(
			limit, sizeof(*limit),
			(void *)&ns->optional(user_namespace, rlimit_max) +
				bpf_core_enum_value(enum rlimit_type, UCOUNT_RLIMIT_NPROC) * sizeof(*limit));
	return bpf_probe_read_kernel(
		limit, sizeof(*limit),
		(void *)&ns->ucount_max + nproc_index_v60() * sizeof(*limit));
}

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

	if (!refusal || !has_nproc_ucounts() || !has_field(ucounts, ns) || !has_field(ucounts, uid))
		return 0;
	if (ns) {
		if (read_nproc_limit(ns, &limit))
			return 0;
		ucounts = BPF_CORE_READ(ns, ucounts);
	}
	if (!ucounts || read_nproc_count(ucounts, &tasks))
		return 0;
	tasks -= charged;
	ns = BPF_CORE_READ(ucounts, ns);
	level = BPF_CORE_READ(ns, level);
	uid = BPF_CORE_READ(ucounts, uid.val);
	ft_level(refusal, FT_LEVEL_NPROC, level, uid, tasks, limit);
	if (!has_number(refusal, FT_NUMBER_NPROC) && tasks + 1 > limit) {
		ft_number(refusal, FT_NUMBER_NPROC, tasks);
		ft_number(refusal, FT_NUMBER_NPROC_LIMIT, limit);
		ft_number(refusal, FT_NUMBER_NPROC_LEVEL, level);
		/* Above the caller's own level it is the namespace's creator who is counted. */
		ft_number(refusal, FT_NUMBER_NPROC_UID, uid);
	}
	return (__u64)ns;
}

/*
 * kernel/ucount.c, is_rlimit_overlimit: the counts of one uid are compared
 * level by level, up the user namespaces. `charged` is 1 while copy_creds' own
 * charge for the new task is still in them. Returns 1 if some level is over.
 */
ft_inline int read_nproc_ucounts(struct ft_refusal *refusal, __u64 ucounts, __u64 rlimit,
				 int charged)
{
	__u64 ns = 0;
	int i;

	if (is_moved(refusal,
		     has_field(ucounts, ns) && has_field(ucounts, uid),
		     FT_MOVED_UCOUNTS))
		return 0;
	for (i = 0; i < USERNS_LEVELS; i++) {
		ns = nproc_level(ns, ucounts, rlimit, charged);
		if (!ns)
			break;
	}
	return has_number(refusal, FT_NUMBER_NPROC);
}

ft_inline int read_nproc(struct ft_refusal *refusal)
{
	struct task_struct *task = current_task();
	const struct cred *cred = BPF_CORE_READ(task, cred);
	__u64 rlimit = BPF_CORE_READ(task, signal, rlim[RLIMIT_NPROC].rlim_cur);
	struct user_struct___v513 *user;
	int tasks = 0;

	if (has_nproc_ucounts()) {
		if (!read_nproc_ucounts(refusal, (__u64)BPF_CORE_READ(cred, optional(cred, ucounts)), rlimit,
					0))
			return 0;
		return !is_exempt_from_nproc(cred);
	}
	user = (struct user_struct___v513 *)BPF_CORE_READ(cred, user);
	if (!has_field(user_struct___v513, processes))
		return 0;
	if (bpf_core_read(&tasks, sizeof(tasks), &user->optional(user_struct___v513, processes)))
		return 0;
	ft_number(refusal, FT_NUMBER_NPROC, tasks);
	ft_number(refusal, FT_NUMBER_NPROC_LIMIT, rlimit);
	ft_number(refusal, FT_NUMBER_NPROC_LEVEL, 0);
	return (__u64)tasks >= rlimit && !is_exempt_from_nproc(cred);
}

/* Cgroups. */

ft_inline struct cgroup_subsys_state *css_of(__u64 subsystem)
{
	struct css_set *cset = BPF_CORE_READ(current_task(), cgroups);
	struct cgroup_subsys_state *css = 0;

	bpf_probe_read_kernel(&css, sizeof(css), (void *)&cset->subsys + subsystem * sizeof(css));
	return css;
}

/* Kernels without the controller lack the value; see nproc_index_v60. */
ft_outline __u64 pids_index(void)
{
	return bpf_core_enum_value(enum cgroup_subsys_id, pids_cgrp_id);
}

ft_outline __u64 memory_index(void)
{
	return bpf_core_enum_value(enum cgroup_subsys_id, memory_cgrp_id);
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
ft_inline struct cgroup_subsys_state *own_css(void)
{
	struct cgroup_subsys_state *css = pids_css();
	struct cgroup *dfl;

	if (css && BPF_CORE_READ(css, cgroup, root, hierarchy_id))
		return css;
	dfl = BPF_CORE_READ(current_task(), cgroups, dfl_cgrp);
	return __builtin_preserve_access_index(&dfl->self);
}

ft_inline int is_below_cgroup(__u64 id)
{
	struct cgroup_subsys_state *css = own_css();
	int i;

	for (i = 0; i < CGROUP_LEVELS && css; i++) {
		if (BPF_CORE_READ(css, cgroup, kn, id) == id)
			return 1;
		css = BPF_CORE_READ(css, parent);
	}
	return 0;
}

/*
 * The names from the task's own cgroup up to the root, which has none. A path that
 * finds no room is not told at all: half of one would be another cgroup's.
 */
ft_inline void read_cgroup_path(struct ft_event *event)
{
	struct cgroup_subsys_state *css = own_css(), *parent;
	__u32 used = 0;
	long bytes;
	int i;

	for (i = 0; i < CGROUP_LEVELS && css; i++) {
		parent = BPF_CORE_READ(css, parent);
		if (!parent) {
			event->cgroup_path_bytes = used;
			return;
		}
		if (used > FT_CGROUP_PATH_BYTES - FT_CGROUP_NAME_BYTES)
			return;
		bytes = bpf_probe_read_kernel_str(event->cgroup_path + used, FT_CGROUP_NAME_BYTES,
						  BPF_CORE_READ(css, cgroup, kn, name));
		if (bytes <= 1 || bytes >= FT_CGROUP_NAME_BYTES)
			return;
		used += bytes;
		css = parent;
	}
}

/*
 * CLONE_INTO_CGROUP: the pids cgroup that the child would be charged to, by the
 * descriptor that the caller gave (kernfs directories keep their node in
 * i_private). Where the controller is not enabled, the nearest one above counts.
 */
ft_inline struct cgroup_subsys_state *pids_css_at(unsigned int fd)
{
	struct cgroup_subsys_state *css = 0, *self;
	struct file **table = BPF_CORE_READ(current_task(), files, fdt, fd);
	struct file *file = 0;
	struct kernfs_node *node;
	struct cgroup *cgroup;
	__u64 id;
	int i;

	if (!has_value(cgroup_subsys_id, pids_cgrp_id))
		return 0;
	id = pids_index();
	if (fd >= BPF_CORE_READ(current_task(), files, fdt, max_fds) ||
	    bpf_probe_read_kernel(&file, sizeof(file), table + fd) || !file)
		return 0;
	node = BPF_CORE_READ(file, f_inode, i_private);
	cgroup = BPF_CORE_READ(node, priv);
	for (i = 0; i < CGROUP_LEVELS && cgroup; i++) {
		bpf_probe_read_kernel(&css, sizeof(css), (void *)&cgroup->subsys + id * sizeof(css));
		if (css)
			return css;
		self = BPF_CORE_READ(cgroup, self.parent);
		cgroup = BPF_CORE_READ(self, cgroup);
	}
	return 0;
}

/* One level of read_pids_cgroup, so many up. Returns the one above; 0: this was the last. */
ft_global __u64 pids_level(__u64 address, __u32 up)
{
	struct cgroup_subsys_state *css = (struct cgroup_subsys_state *)address, *parent = 0;
	struct pids_cgroup *pids = (struct pids_cgroup *)css;
	struct ft_refusal *refusal = port_refusal();
	__s64 counter, limit;
	__u64 id;

	if (!refusal || !has_field(pids_cgroup, counter) || !has_field(pids_cgroup, limit))
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
		     has_field(pids_cgroup, counter) && has_field(pids_cgroup, limit),
		     FT_MOVED_PIDS_CGROUP))
		return 0;
	for (i = 0; i < CGROUP_LEVELS && address; i++)
		address = pids_level(address, i);
	return has_number(refusal, FT_NUMBER_PIDS_CURRENT);
}

/* One level of read_memory_cgroup, so many up. Returns the one above; 0: this was the last. */
ft_global __u64 memory_level(__u64 address, __u32 up, __u64 over)
{
	struct cgroup_subsys_state *css = (struct cgroup_subsys_state *)address, *parent = 0;
	struct mem_cgroup *memcg = (struct mem_cgroup *)css;
	struct ft_refusal *refusal = port_refusal();
	__u64 usage = 0, max = 0, id;

	if (!refusal || !has_field(mem_cgroup, memory) || !has_field(page_counter, usage) ||
	    !has_field(page_counter, max))
		return 0;
	if (bpf_core_read(&parent, sizeof(parent), &css->parent) || !parent)
		return 0;
	if (bpf_core_read(&usage, sizeof(usage), &memcg->memory.usage.counter) ||
	    bpf_core_read(&max, sizeof(max), &memcg->memory.max))
		return 0;
	id = BPF_CORE_READ(css, cgroup, kn, id);
	ft_level(refusal, FT_LEVEL_MEMORY_CGROUP, up, id, usage, max);
	if (max < MEMCG_NO_LIMIT)
		fit(refusal, FT_FIT_MEMCG_LIMITED);
	if (!has_number(refusal, FT_NUMBER_MEMCG_PAGES) &&
	    (over ? address == over : usage + MEMCG_BATCH > max)) {
		ft_number(refusal, FT_NUMBER_MEMCG_PAGES, usage);
		ft_number(refusal, FT_NUMBER_MEMCG_MAX, max);
		ft_number(refusal, FT_NUMBER_MEMCG_CGROUP, id);
		ft_number(refusal, FT_NUMBER_MEMCG_HIERARCHY,
			  BPF_CORE_READ(css, cgroup, root, hierarchy_id));
		ft_number(refusal, FT_NUMBER_MEMCG_LEVELS_UP, up);
	}
	return (__u64)parent;
}

/*
 * mm/memcontrol.c, try_charge: up the tree, the first level that its usage
 * would pass refuses. `over` is that one where the kernel told us; otherwise it
 * is the first that has no room for another batch.
 */
ft_inline int read_memory_cgroup(struct ft_refusal *refusal, __u64 over)
{
	__u64 address;
	int i;

	if (is_moved(refusal,
		     has_field(mem_cgroup, memory) && has_field(page_counter, usage) &&
			     has_field(page_counter, max) &&
			     has_value(cgroup_subsys_id, memory_cgrp_id),
		     FT_MOVED_MEM_CGROUP))
		return 0;
	address = (__u64)css_of(memory_index());
	for (i = 0; i < CGROUP_LEVELS && address; i++)
		address = memory_level(address, i, over);
	return has_number(refusal, FT_NUMBER_MEMCG_PAGES);
}

/* Descriptors. */

/* Is a descriptor open in this chunk of a table? -1: unread. */
ft_global int has_open(__u64 address)
{
	unsigned long chunk[FD_CHUNK_WORDS], word;

	if (bpf_probe_read_kernel(chunk, sizeof(chunk), (void *)address))
		return -1;
	word = chunk[0] | chunk[1] | chunk[2] | chunk[3] | chunk[4] | chunk[5] | chunk[6] | chunk[7] |
	       chunk[8] | chunk[9] | chunk[10] | chunk[11] | chunk[12] | chunk[13] | chunk[14] |
	       chunk[15];
	return !!word;
}

/*
 * fs/file.c: the child's table must reach the word of the parent's highest open
 * descriptor. Empty chunks are skipped from the top, then the words of one are
 * looked at; in one loop over all words the verifier would see too many jumps.
 */
ft_inline void read_fd_table(struct ft_refusal *refusal, struct files_struct *files)
{
	unsigned long *open_fds, word;
	unsigned int max_fds = 0;
	struct fdtable *fdt;
	__u64 words;
	int i, found;

	if (is_moved(refusal,
		     has_field(fdtable, max_fds) && has_field(fdtable, open_fds),
		     FT_MOVED_FDTABLE))
		return;
	fdt = BPF_CORE_READ(files, fdt);
	open_fds = BPF_CORE_READ(fdt, open_fds);
	number_int_at(refusal, FT_NUMBER_NR_OPEN, config.sysctl_nr_open);
	if (bpf_core_read(&max_fds, sizeof(max_fds), &fdt->max_fds))
		return;
	words = max_fds / 64;
	for (i = 0; i < FD_CHUNKS && words >= FD_CHUNK_WORDS; i++) {
		found = has_open((__u64)(open_fds + words - FD_CHUNK_WORDS));
		if (found < 0)
			return;
		if (found)
			break;
		words -= FD_CHUNK_WORDS;
	}
	for (i = 0; i < FD_CHUNK_WORDS && words; i++) {
		if (bpf_probe_read_kernel(&word, sizeof(word), open_fds + words - 1))
			return;
		if (word) {
			ft_number(refusal, FT_NUMBER_FD_SLOTS, words * 64);
			return;
		}
		words--;
	}
}

/* Memory. */

/* mm/util.c, __vm_enough_memory: what it compares, by the same approximate counter. */
ft_inline void read_commit_rule(struct ft_refusal *refusal, struct mm_struct *mm)
{
	struct percpu_counter *committed = (struct percpu_counter *)config.vm_committed_as;
	__s64 count = 0;
	__u64 total = 0;

	number_int_at(refusal, FT_NUMBER_OVERCOMMIT_MEMORY, config.sysctl_overcommit_memory);
	number_int_at(refusal, FT_NUMBER_OVERCOMMIT_RATIO, config.sysctl_overcommit_ratio);
	number_long_at(refusal, FT_NUMBER_OVERCOMMIT_KBYTES, config.sysctl_overcommit_kbytes);
	number_long_at(refusal, FT_NUMBER_ADMIN_RESERVE_KBYTES, config.sysctl_admin_reserve_kbytes);
	number_long_at(refusal, FT_NUMBER_USER_RESERVE_KBYTES, config.sysctl_user_reserve_kbytes);
	number_long_at(refusal, FT_NUMBER_PAGES_RAM, config.totalram_pages);
	number_long_at(refusal, FT_NUMBER_PAGES_SWAP, config.total_swap_pages);
	/* The charge for `pages` has been undone by now. */
	if (committed && !bpf_core_read(&count, sizeof(count), &committed->count))
		ft_number(refusal, FT_NUMBER_PAGES_COMMITTED, count);
	if (refusal->have & 1ULL << FT_NUMBER_OVERCOMMIT_MEMORY)
		refusal->detail = FT_DETAIL_OVERCOMMIT_GUESS +
				  refusal->number[FT_NUMBER_OVERCOMMIT_MEMORY] % 3;
	if (is_moved(refusal,
		     has_field(mm_struct, total_vm) && has_field(mm_struct, data_vm) &&
			     has_field(mm_struct, stack_vm),
		     FT_MOVED_MM_STRUCT))
		return;
	if (!bpf_core_read(&total, sizeof(total), &mm->total_vm))
		ft_number(refusal, FT_NUMBER_MM_TOTAL_PAGES, total);
	/* private, writable mappings and stacks: about what fork has to ask for */
	if (!bpf_core_read(&total, sizeof(total), &mm->data_vm))
		ft_number(refusal, FT_NUMBER_DATA_PAGES, total + BPF_CORE_READ(mm, stack_vm));
}

ft_inline void read_overcommit(struct ft_refusal *refusal, struct mm_struct *mm, __u64 pages,
			       int cap_sys_admin)
{
	ft_number(refusal, FT_NUMBER_PAGES_ASKED, pages);
	ft_number(refusal, FT_NUMBER_CAP_SYS_ADMIN, !!cap_sys_admin);
	read_commit_rule(refusal, mm);
}

/* mm/util.c, __vm_enough_memory, mode 2: kept for root, and for others than this process. */
ft_inline __u64 commit_reserve(const struct ft_refusal *refusal)
{
	__u64 user = number_of(refusal, FT_NUMBER_USER_RESERVE_KBYTES) >> (config.page_shift - 10);
	__u64 admin = number_of(refusal, FT_NUMBER_ADMIN_RESERVE_KBYTES) >> (config.page_shift - 10);
	__u64 share = number_of(refusal, FT_NUMBER_MM_TOTAL_PAGES) / 32;

	return (share < user ? share : user) +
	       (number_of(refusal, FT_NUMBER_CAP_SYS_ADMIN) ? 0 : admin);
}

/*
 * Would the rule in force refuse a copy of this address space? An estimate: the
 * accountable pages are data_vm and stack_vm together, and hugetlb pools are
 * left in. A number that could not be read is 0 here.
 */
ft_inline int would_overcommit(struct ft_refusal *refusal)
{
	__u64 ram = number_of(refusal, FT_NUMBER_PAGES_RAM);
	__u64 swap = number_of(refusal, FT_NUMBER_PAGES_SWAP);
	__u64 data = number_of(refusal, FT_NUMBER_DATA_PAGES);
	__u64 kbytes = number_of(refusal, FT_NUMBER_OVERCOMMIT_KBYTES);
	__u64 mode = number_of(refusal, FT_NUMBER_OVERCOMMIT_MEMORY);
	__u64 limit = kbytes ? kbytes >> (config.page_shift - 10) :
			       ram * number_of(refusal, FT_NUMBER_OVERCOMMIT_RATIO) / 100;

	if (mode == 0)
		return data > ram + swap;
	if (mode == 2)
		return number_of(refusal, FT_NUMBER_PAGES_COMMITTED) + data +
			       commit_reserve(refusal) >
		       limit + swap;
	return 0;
}

/* Pid namespaces. */

/*
 * Since Linux commit 7863dcc72d0f ("pid: allow pid_max to be set per pid
 * namespace") (in v6.14), each namespace has its own. Before that, there was
 * one variable for all.
 */
ft_inline int pid_max_of(struct pid_namespace *ns, int *pid_max)
{
	if (has_field(pid_namespace, pid_max))
		return bpf_core_read(pid_max, sizeof(*pid_max), &ns->optional(pid_namespace, pid_max));
	if (!config.pid_max)
		return -1;
	return bpf_probe_read_kernel(pid_max, sizeof(*pid_max), (void *)config.pid_max);
}

ft_inline int pids_left(__u32 allocated, int pid_max)
{
	return pid_max ? pid_max - (int)allocated : 0x7ffffffe;
}

/* Of the level that is told so far. */
ft_inline int least_pids_left(const struct ft_refusal *refusal)
{
	return has_number(refusal, FT_NUMBER_PIDNS_PIDS) ?
		       pids_left(number_of(refusal, FT_NUMBER_PIDNS_PIDS),
				 number_of(refusal, FT_NUMBER_PID_MAX)) :
		       0x7fffffff;
}

/* One level of read_pid_namespace. Returns the one above; 0: this was the last. */
ft_global __u64 pid_level(__u64 address)
{
	struct pid_namespace *ns = (struct pid_namespace *)address;
	struct ft_refusal *refusal = port_refusal();
	unsigned int allocated = 0, level, inum;
	int pid_max = 0;

	if (!refusal || !has_field(pid_namespace, pid_allocated) ||
	    !has_field(pid_namespace, parent) || !has_field(pid_namespace, level))
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
		     has_field(pid_namespace, pid_allocated) && has_field(pid_namespace, parent) &&
			     has_field(pid_namespace, level),
		     FT_MOVED_PID_NAMESPACE))
		return 0;
	if (!bpf_core_read(&allocated, sizeof(allocated), &ns->pid_allocated))
		refusal->detail = allocated & PIDNS_ADDING ? FT_DETAIL_PIDNS_ALIVE : FT_DETAIL_PIDNS_DEAD;
	for (i = 0; i < PIDNS_LEVELS && address; i++)
		address = pid_level(address);
	return least_pids_left(refusal) <= RESERVED_PIDS;
}

/* Namespaces and their counts. */

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
	struct user_namespace *ns = BPF_CORE_READ(ucounts, ns);
	struct ft_refusal *refusal = port_refusal();
	long count = 0, max = 0;

	if (!refusal || read_ns_count(ucounts, type, &count) || read_ns_max(ns, type, &max))
		return 0;
	if (count < max)
		return (__u64)BPF_CORE_READ(ns, ucounts);
	ft_number(refusal, FT_NUMBER_NS_COUNT, count);
	ft_number(refusal, FT_NUMBER_NS_MAX, max);
	ft_number(refusal, FT_NUMBER_NS_LEVEL, BPF_CORE_READ(ns, level));
	ft_number(refusal, FT_NUMBER_NS_UID, BPF_CORE_READ(ucounts, uid.val));
	return NS_IS_FULL;
}

/*
 * kernel/ucount.c, inc_ucount: counted for the caller's euid in the namespace
 * that will own the new one, then for each owner up to the initial namespace.
 * The first of these counts is found through the caller's credentials, which
 * have it since v5.14, if they belong to that namespace. Returns 1 if a level
 * is full; 0 if none is; -1 if the first count could not be read.
 */
ft_global int read_ns_limit(__u64 owner_address, __u64 type)
{
	struct user_namespace *owner = (struct user_namespace *)owner_address;
	const struct cred *cred = BPF_CORE_READ(current_task(), cred);
	struct ft_refusal *refusal = port_refusal();
	struct ucounts *ucounts = 0;
	int i, is_known = 0;
	__u64 address;
	long max = -1;

	if (!refusal)
		return -1;
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
		if (!read_ns_max(owner, type, &max)) {
			/* Of the own level only the limit; a limit of 0 is reached whatever the count. */
			ft_number(refusal, FT_NUMBER_NS_MAX, max);
			ft_number(refusal, FT_NUMBER_NS_LEVEL, BPF_CORE_READ(owner, level));
			if (max == 0) {
				ft_number(refusal, FT_NUMBER_NS_COUNT, 0);
				return 1;
			}
		}
		ucounts = BPF_CORE_READ(owner, ucounts);
	}
walk:
	address = (__u64)ucounts;
	for (i = 0; i < USERNS_LEVELS && address; i++) {
		address = ns_count_level(address, type);
		if (address == NS_IS_FULL)
			return 1;
	}
	return is_known ? 0 : -1;
}

/* Judging: which tests would refuse, at the return of a call that no watched step explains. */

ft_global int judge_eagain(__u64 watched)
{
	struct task_struct *task = current_task();
	struct ft_refusal *refusal = port_refusal();
	int prio = 0, users = 0, in_exec = 0;

	if (!refusal)
		return 0;
	if (!is_watched(watched, FT_STEP_RLIMIT_NPROC)) {
		if (read_nproc(refusal))
			fit(refusal, FT_FIT_NPROC);
		else if (!has_nproc_ucounts() &&
			 !has_field(user_struct___v513, processes))
			fit(refusal, FT_FIT_NPROC_UNKNOWN);
	}
	number_int_at(refusal, FT_NUMBER_NR_THREADS, config.nr_threads);
	number_int_at(refusal, FT_NUMBER_MAX_THREADS, config.max_threads);
	if (!has_number(refusal, FT_NUMBER_NR_THREADS) || !has_number(refusal, FT_NUMBER_MAX_THREADS))
		fit(refusal, FT_FIT_THREADS_UNKNOWN);
	else if ((int)number_of(refusal, FT_NUMBER_NR_THREADS) >=
		 (int)number_of(refusal, FT_NUMBER_MAX_THREADS))
		fit(refusal, FT_FIT_THREADS);
	else if ((int)number_of(refusal, FT_NUMBER_NR_THREADS) + THREADS_SLACK >=
		 (int)number_of(refusal, FT_NUMBER_MAX_THREADS))
		fit(refusal, FT_FIT_THREADS_NEAR);
	/* kernel/sched/core.c, sched_fork: dl_prio() is a priority below 0. */
	bpf_core_read(&prio, sizeof(prio), &task->prio);
	if (!is_watched(watched, FT_STEP_SCHED_FORK) && prio < 0 &&
	    !BPF_CORE_READ_BITFIELD_PROBED(task, sched_reset_on_fork)) {
		fit(refusal, FT_FIT_DEADLINE);
		ft_number(refusal, FT_NUMBER_POLICY, BPF_CORE_READ(task, policy));
	}
	if (refusal->flags & FT_CLONE_FS &&
	    !is_moved(refusal,
		      has_field(fs_struct, users) &&
			      has_field(fs_struct, in_exec),
		      FT_MOVED_FS_STRUCT)) {
		users = BPF_CORE_READ(task, fs, users);
		in_exec = BPF_CORE_READ(task, fs, in_exec);
		if (in_exec)
			fit(refusal, FT_FIT_IN_EXEC);
		if (users > 1)
			fit(refusal, FT_FIT_SHARES_FS);
	}
	return 0;
}

ft_global int judge_pids(__u64 watched)
{
	struct task_struct *task = current_task();
	struct ft_refusal *refusal = port_refusal();
	struct pid_namespace *ns;
	int is_dead;

	if (!refusal)
		return 0;
	if (!is_watched(watched, FT_STEP_ALLOC_PID)) {
		if (read_pid_namespace(
			    refusal, (__u64)BPF_CORE_READ(task, nsproxy, pid_ns_for_children)))
			fit(refusal, FT_FIT_PID_MAX);
	}
	if (!is_watched(watched, FT_STEP_CGROUP_CAN_FORK) && read_pids_cgroup(refusal, pids_css()))
		fit(refusal, FT_FIT_PIDS_CGROUP);
	if (was_moved(refusal, FT_MOVED_PIDS_CGROUP))
		fit(refusal, FT_FIT_PIDS_UNKNOWN);
	if (is_moved(refusal, has_field(pid_namespace, pid_allocated),
		     FT_MOVED_PID_NAMESPACE)) {
		fit(refusal, FT_FIT_PIDNS_UNKNOWN);
		return 0;
	}
	is_dead = !(BPF_CORE_READ(task, nsproxy, pid_ns_for_children, pid_allocated) & PIDNS_ADDING);
	if (is_dead) {
		fit(refusal, FT_FIT_PIDNS_DEAD);
		ns = BPF_CORE_READ(task, nsproxy, pid_ns_for_children);
		ft_number(refusal, FT_NUMBER_PIDNS_PIDS, BPF_CORE_READ(ns, pid_allocated));
		ft_number(refusal, FT_NUMBER_PIDNS_LEVEL, BPF_CORE_READ(ns, level));
		ft_number(refusal, FT_NUMBER_PIDNS_INUM, BPF_CORE_READ(ns, ns.inum));
	}
	return 0;
}

ft_global int judge_memory(__u64 watched)
{
	struct task_struct *task = current_task();
	struct ft_refusal *refusal = port_refusal();

	if (!refusal)
		return 0;
	if (read_memory_cgroup(refusal, 0))
		fit(refusal, FT_FIT_MEMCG);
	if (is_watched(watched, FT_STEP_VM_ENOUGH_MEMORY) || refusal->flags & FT_CLONE_VM)
		return 0;
	read_commit_rule(refusal, BPF_CORE_READ(task, mm));
	ft_number(refusal, FT_NUMBER_CAP_SYS_ADMIN, has_sys_admin(BPF_CORE_READ(task, cred)));
	if (!has_number(refusal, FT_NUMBER_OVERCOMMIT_MEMORY) ||
	    !has_number(refusal, FT_NUMBER_PAGES_COMMITTED) ||
	    !has_number(refusal, FT_NUMBER_DATA_PAGES) ||
	    !has_number(refusal, FT_NUMBER_PAGES_RAM))
		fit(refusal, FT_FIT_OVERCOMMIT_UNKNOWN);
	else if (would_overcommit(refusal))
		fit(refusal, FT_FIT_OVERCOMMIT);
	return 0;
}

ft_global int judge_memory_cgroup(__u64 unused)
{
	struct ft_refusal *refusal = port_refusal();

	if (refusal && read_memory_cgroup(refusal, 0))
		fit(refusal, FT_FIT_MEMCG);
	return 0;
}

ft_global int judge_descriptors(__u64 watched)
{
	struct task_struct *task = current_task();
	struct ft_refusal *refusal = port_refusal();

	if (!refusal)
		return 0;
	if (refusal->flags & FT_CLONE_PIDFD)
		ft_number(refusal, FT_NUMBER_NOFILE_LIMIT,
			  BPF_CORE_READ(task, signal, rlim[RLIMIT_NOFILE].rlim_cur));
	if (is_watched(watched, FT_STEP_DUP_FD))
		return 0;
	read_fd_table(refusal, BPF_CORE_READ(task, files));
	/* fs/file.c, alloc_fdtable: cut down to whole words of the limit. */
	if (has_number(refusal, FT_NUMBER_FD_SLOTS) && has_number(refusal, FT_NUMBER_NR_OPEN) &&
	    number_of(refusal, FT_NUMBER_FD_SLOTS) > (number_of(refusal, FT_NUMBER_NR_OPEN) & ~63ULL))
		fit(refusal, FT_FIT_FD_TABLE);
	return 0;
}

ft_global int judge_flags(__u64 watched)
{
	struct task_struct *task = current_task();
	struct ft_refusal *refusal = port_refusal();
	const struct cred *cred = BPF_CORE_READ(task, cred);
	struct pid_namespace *active = 0;
	struct pid *pid = BPF_CORE_READ(task, thread_pid);
	__u32 rules, value = 1;
	__u64 level, flags;

	if (!refusal)
		return 0;
	flags = refusal->flags;
	rules = ft_flag_rules(flags);
	/* An init may have no siblings: kernel/fork.c, SIGNAL_UNKILLABLE. */
	if (flags & FT_CLONE_PARENT && BPF_CORE_READ(task, signal, flags) & SIGNAL_UNKILLABLE)
		rules |= 128;
	if (rules) {
		ft_number(refusal, FT_NUMBER_FLAG_RULES, rules);
		fit(refusal, FT_FIT_FLAGS);
	}
	level = BPF_CORE_READ(pid, level);
	bpf_probe_read_kernel(&active, sizeof(active),
			      (void *)&pid->numbers + level * bpf_core_type_size(struct upid) +
				      bpf_core_field_offset(struct upid, ns));
	/* kernel/fork.c for a thread; kernel/pid_namespace.c, copy_pid_ns, for another namespace. */
	if (flags & (FT_CLONE_THREAD | FT_CLONE_NEWPID) && active &&
	    active != BPF_CORE_READ(task, nsproxy, pid_ns_for_children))
		fit(refusal, FT_FIT_UNSHARED);
	/* Until v5.17: a task that shares memory could not enter another time namespace. */
	if (flags & (FT_CLONE_THREAD | FT_CLONE_VM) &&
	    !is_moved(refusal, has_field(nsproxy, time_ns_for_children),
		      FT_MOVED_NSPROXY) &&
	    BPF_CORE_READ(task, nsproxy, optional(nsproxy, time_ns)) !=
		    BPF_CORE_READ(task, nsproxy, optional(nsproxy, time_ns_for_children)))
		fit(refusal, FT_FIT_UNSHARED);
	/* ns_capable: in the caller's own user namespace. */
	if (flags & FT_CLONE_NEW_ANY && !(flags & FT_CLONE_NEWUSER) &&
	    !(capabilities_of(cred) & 1ULL << CAP_SYS_ADMIN))
		fit(refusal, FT_FIT_NS_DENIED);
	/* capable: root of a container with a user namespace has it not. */
	if (flags & FT_CLONE_NEWUSER && config.unprivileged_userns_clone && !has_sys_admin(cred) &&
	    !bpf_probe_read_kernel(&value, sizeof(value),
				   (void *)config.unprivileged_userns_clone) &&
	    !value)
		fit(refusal, FT_FIT_USERNS_SYSCTL);
	return 0;
}

ft_inline int judge_ns_type(struct ft_refusal *refusal, __u64 flag, __u64 type)
{
	if (!(refusal->flags & flag))
		return 0;
	return read_ns_limit((__u64)BPF_CORE_READ(current_task(), cred, user_ns), type) == 1;
}

ft_global int judge_namespaces(__u64 watched)
{
	struct task_struct *task = current_task();
	struct ft_refusal *refusal = port_refusal();
	__u64 flags;
	int level;

	if (!refusal)
		return 0;
	flags = refusal->flags;
	if (is_moved(refusal, has_field(pid_namespace, level),
		     FT_MOVED_PID_NAMESPACE))
		return 0;
	level = BPF_CORE_READ(task, cred, user_ns, level);
	if (!(flags & FT_CLONE_NEWUSER) || level <= NAMESPACE_DEPTH)
		level = BPF_CORE_READ(task, nsproxy, pid_ns_for_children, level);
	if ((flags & FT_CLONE_NEWUSER && level > NAMESPACE_DEPTH) ||
	    (flags & FT_CLONE_NEWPID && level >= NAMESPACE_DEPTH)) {
		ft_number(refusal, FT_NUMBER_NS_LEVEL, level);
		fit(refusal, FT_FIT_NS_DEPTH);
		return 0;
	}
#define NS_TYPE(flag, name)                                                                     \
	judge_ns_type(refusal, FT_CLONE_##flag,                                                 \
		      bpf_core_enum_value(enum ucount_type, UCOUNT_##name##_NAMESPACES))
	if (NS_TYPE(NEWUSER, USER) || NS_TYPE(NEWNS, MNT) || NS_TYPE(NEWUTS, UTS) ||
	    NS_TYPE(NEWIPC, IPC) || NS_TYPE(NEWPID, PID) || NS_TYPE(NEWCGROUP, CGROUP) ||
	    NS_TYPE(NEWNET, NET) || NS_TYPE(NEWTIME, TIME))
		fit(refusal, FT_FIT_NS_LIMIT);
#undef NS_TYPE
	return 0;
}

/* The port, as far as it reads the kernel: the same in every shell that has one. */

ft_inline void port_who(struct ft_key *key)
{
	bpf_get_current_comm(key->comm, sizeof(key->comm));
	key->uid = bpf_get_current_uid_gid();
	key->cgroup = BPF_CORE_READ(own_css(), cgroup, kn, id);
	key->syscall = syscall_of(current_task());
}

ft_inline void port_sample(void *ctx, struct ft_event *event)
{
	struct task_struct *parent = BPF_CORE_READ(current_task(), real_parent);
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	long bytes;

	event->pid = pid_tgid >> 32;
	event->tid = pid_tgid;
	event->ppid = BPF_CORE_READ(parent, tgid);
	bpf_core_read(event->parent_comm, sizeof(event->parent_comm), &parent->comm);
	read_cgroup_path(event);
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

	if (!config.filter)
		return 0;
	if (config.filter & FT_FILTER_PID && config.filter_pid != bpf_get_current_pid_tgid() >> 32)
		return 1;
	if (config.filter & FT_FILTER_UID && config.filter_uid != key->uid)
		return 1;
	if (config.filter & FT_FILTER_CGROUP && !is_below_cgroup(config.filter_cgroup))
		return 1;
	if (config.filter & FT_FILTER_COMM) {
		for (i = 0; i < FT_COMM_BYTES; i++) {
			if (key->comm[i] != config.filter_comm[i])
				return 1;
			if (!key->comm[i])
				break;
		}
	}
	return 0;
}

ft_inline int port_is_dying(void)
{
	struct task_struct *task = current_task();

	if (BPF_CORE_READ(task, pending.signal.sig[0]) & SIGKILL_BIT)
		return 1;
	return !!(BPF_CORE_READ(task, signal, flags) & SIGNAL_GROUP_EXIT);
}

ft_inline int port_is_supervised(void)
{
	struct task_struct *task = current_task();

	/* Without CONFIG_SECCOMP the structure is empty. */
	if (has_field(seccomp, mode) &&
	    BPF_CORE_READ(task, seccomp_mode) == SECCOMP_MODE_FILTER)
		return 1;
	return !!BPF_CORE_READ(task, ptrace);
}

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
