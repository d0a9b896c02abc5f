/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the watched places of the kernel tell: the bodies of the programs in
 * probes.def, over plain values. Each shell unpacks its own context and calls
 * them. They read the kernel and have no map; they reach theirs by the port.
 */
#ifndef FORK_TRACE_STEPS_H
#define FORK_TRACE_STEPS_H

#include "caller.h"
#include "limits/cgroup.h"
#include "limits/fds.h"
#include "limits/memory.h"
#include "limits/namespaces.h"
#include "limits/nproc.h"
#include "limits/pidns.h"
#include "limits/stack.h"
#include "logic.h"
#include "port.h"
#include "reading.h"
#include "refusal.h"
#include "slots.h"
#include "uapi.h"
#include "wire.h"

/* Arguments, saved from a function's entry to its return. */

ft_inline int save_args(enum ft_step step, __u64 first, __u64 second)
{
	struct ft_attempt *attempt = port_attempt();

	if (!attempt)
		return 0;
	attempt->saved[0] = first;
	attempt->saved[1] = second;
	attempt->saved_by = step;
	return 0;
}

/* What the function of this step was called with, inside this fork; 0: not saved. */
ft_inline const __u64 *saved_args(enum ft_step step)
{
	struct ft_attempt *attempt = port_attempt();

	return attempt && attempt->saved_by == step ? attempt->saved : 0;
}

/* The CLONE_* flags of this fork; of one that began before we did, or found no room, the call's. */
ft_inline __u64 flags_of_attempt(const struct ft_attempt *attempt)
{
	if (!attempt)
		return flags_of_call();
	return flags_of_args((struct kernel_clone_args *)attempt->args);
}

/* Steps. */

/*
 * Steps whose numbers, if any, are read where it is judged. What others call as
 * well asks is_inside_fork first; what only copy_process calls need not, so
 * that workers which the kernel makes in another system call are seen.
 */
ft_global int step_refused(__u32 step, __s32 error, __u32 last_inner)
{
	struct ft_refusal *refusal = ft_on_outer_refusal(step, last_inner, error);

	if (refusal && step == FT_STEP_PIDFD_PREPARE)
		read_nofile(refusal, current_task());
	return 0;
}

/* No copy_process follows: only the system call's exit, where that is watched, takes the mark. */
ft_inline int on_clone_args_return(void *ctx, __u64 result)
{
	int error = INT_IN(result);

	if (error < 0 && port_config()->watches_early && is_fork_call())
		ft_on_refusal(FT_STEP_CLONE_ARGS, error);
	return 0;
}

#ifndef FT_INLINED_WHOLE
/*
 * fs/exec.c, do_execveat_common: whoever went over RLIMIT_NPROC by changing its user may not start
 * a program, whatever its capabilities. The flag stays only if that is still so, and whatever
 * else refuses comes later.
 */
ft_inline int is_exec_over_nproc(__s64 result)
{
	return result == -FT_EAGAIN && flags_of_thread() & PF_NPROC_EXCEEDED;
}

ft_inline int exec_refused(void *ctx, ft_u8 bits)
{
	struct ft_refusal *refusal = port_refusal_open();

	if (refusal)
		read_nproc(refusal, NPROC_OF_CALLER);
	ft_on_other_call(ctx, FT_SYSCALL_EXECVE, FT_STEP_EXECVE, bits, -FT_EAGAIN, 0, refusal);
	port_refusal_drop();
	return 0;
}

/* long __x64_sys_execve(const struct pt_regs *) and the like: a filter has let this call pass. */
ft_inline int on_execve_return(void *ctx, __u64 result)
{
	return is_exec_over_nproc(result) ? exec_refused(ctx, FT_BIT_OBSERVED) : 0;
}
#endif

/*
 * bool capable(int cap). kernel/fork.c, copy_process: who is over RLIMIT_NPROC, is not init's user and
 * has neither CAP_SYS_RESOURCE nor, asked next, CAP_SYS_ADMIN, is refused. Others ask for the latter
 * in a fork too (kernel/perf, Debian's unprivileged_userns_clone): so the former must have been
 * refused just before. Until then the note tells nothing of this fork.
 */
ft_inline int on_capable(void *ctx, int capability, int is_granted)
{
	struct ft_refusal *refusal;

	if (capability == CAP_SYS_RESOURCE) {
		if (is_granted || !is_inside_fork(ctx))
			return 0;
		refusal = ft_on_refusal(FT_STEP_RLIMIT_NPROC, -FT_EAGAIN);
		if (refusal)
			refusal->is_of_stack = 1;
		return 0;
	}
	if (capability != CAP_SYS_ADMIN)
		return 0;
	refusal = port_refusal();
	if (!refusal || refusal->step != FT_STEP_RLIMIT_NPROC || !refusal->is_of_stack)
		return 0;
	if (is_granted) {
		port_refusal_drop();
		return 0;
	}
	if (!is_inside_fork(ctx))
		return 0;
	refusal->is_of_stack = 0;
	read_nproc(refusal, NPROC_CHARGED);
	return 0;
}

/* Apart from the others' arguments: they are still under way. Nothing is asked of it in its own. */
ft_inline int save_capability(__u64 capability)
{
	struct ft_attempt *attempt = port_attempt();

	if (attempt)
		attempt->capability = INT_IN(capability);
	return 0;
}

ft_inline int on_capable_return(void *ctx, __u64 result)
{
	struct ft_attempt *attempt = port_attempt();
	int capability;

	if (!attempt)
		return 0;
	capability = attempt->capability;
	/* Its next one may be passed over at the entry. */
	attempt->capability = 0;
	return on_capable(ctx, capability, !REFUSED_FALSE(result));
}

ft_inline int on_dup_fd(void *ctx, int error, struct files_struct *files)
{
	struct ft_refusal *refusal = ft_on_refusal(FT_STEP_DUP_FD, error);

	if (!refusal)
		return 0;
	/* unshare(CLONE_FILES) and close_range(CLOSE_RANGE_UNSHARE) call it as well. */
	if (!is_inside_copy_process(ctx, refusal, 0)) {
		port_refusal_drop();
		return 0;
	}
	read_fd_table(refusal, files);
	return 0;
}

/* copy_files hands it the caller's own table. */
ft_inline int on_dup_fd_return(void *ctx, __u64 result)
{
	if (!IS_ERR_VALUE(result))
		return 0;
	return on_dup_fd(ctx, INT_IN(result),
			 is_blind(FT_READER_DESCRIPTORS) ? 0
							 : BPF_CORE_READ(current_task(), files));
}

/* The form with `errorp`, which is what was saved. */
ft_inline int on_dup_fd_510_return(void *ctx, __u64 result)
{
	const __u64 *saved = result ? 0 : saved_args(FT_STEP_DUP_FD);
	int error = 0;

	if (!saved || bpf_probe_read_kernel(&error, sizeof(error), (void *)saved[0]))
		return 0;
	return on_dup_fd(ctx, error, BPF_CORE_READ(current_task(), files));
}

/* Is the system call that this thread is in one that maps a stack? */
ft_inline int maps_memory(void)
{
	long number = syscall_number();

	return is_mmap(number) || is_mprotect(number) || is_pkey_mprotect(number);
}

ft_inline int on_vm_enough_memory(void *ctx, int error, struct mm_struct *mm, __u64 pages,
				  int cap_sys_admin)
{
	struct ft_refusal *refusal = ft_on_refusal(FT_STEP_VM_ENOUGH_MEMORY, error);

	if (!refusal)
		return 0;
	/*
	 * Most of its callers are mmap, mprotect and brk: no fork of theirs failed.
	 * The first two can be about a thread's stack; their own exits know.
	 */
	if (!is_inside_copy_process(ctx, refusal, 1)) {
		if (!port_config()->watches_mmap || !maps_memory()) {
			port_refusal_drop();
			return 0;
		}
		refusal->is_of_stack = 1;
	}
	read_overcommit(refusal, mm, pages, cap_sys_admin);
	return 0;
}

/* The same at its return, where the arguments are those that its entry saved. */
ft_inline int on_vm_enough_memory_return(void *ctx, __u64 result)
{
	int cap_sys_admin, error = INT_IN(result);
	struct pt_regs *regs;
	const __u64 *saved;
	__u64 pages;

	if (error >= 0)
		return 0;
	saved = saved_args(FT_STEP_VM_ENOUGH_MEMORY);
	if (saved) {
		pages = saved[0];
		cap_sys_admin = INT_IN(saved[1]);
	} else {
		/* Outside of a fork only a thread's stack is told, which was asked for whole. */
		if (!maps_memory() || is_blind(FT_READER_MEMORY))
			return 0;
		regs = call_registers();
		pages = pages_of(ARGUMENT_1(regs, syscall_number_in(regs)));
		cap_sys_admin = has_sys_admin(BPF_CORE_READ(current_task(), cred));
	}
	return on_vm_enough_memory(
		ctx, error, is_blind(FT_READER_MEMORY) ? 0 : BPF_CORE_READ(current_task(), mm),
		pages, cap_sys_admin);
}

/* struct pid *alloc_pid(struct pid_namespace *, pid_t *set_tid, size_t); only copy_process calls it */
ft_inline int on_alloc_pid(int error, __u64 namespace)
{
	struct ft_refusal *refusal = ft_on_refusal(FT_STEP_ALLOC_PID, error);

	if (refusal && namespace)
		read_pid_namespace(refusal, namespace);
	return 0;
}

ft_inline int on_alloc_pid_return(void *ctx, __u64 result)
{
	const __u64 *saved;

	if (!IS_ERR_VALUE(result))
		return 0;
	saved = saved_args(FT_STEP_ALLOC_PID);
	return on_alloc_pid(INT_IN(result), saved ? saved[0] : 0);
}

/* int cgroup_can_fork(struct task_struct *, struct kernel_clone_args *); only copy_process calls it */
ft_inline int on_cgroup_can_fork(int error, struct kernel_clone_args *args)
{
	struct ft_refusal *refusal = ft_on_refusal(FT_STEP_CGROUP_CAN_FORK, error);

	/* Whose cgroup is charged is not known without the flags. */
	if (!refusal || error != -FT_EAGAIN || !args || is_blind(FT_READER_CLONE_ARGS))
		return 0;
	if (has_field(kernel_clone_args, cgroup) &&
	    BPF_CORE_READ(args, flags) & FT_CLONE_INTO_CGROUP)
		read_pids_cgroup(refusal, pids_css_into(BPF_CORE_READ(
						  args, optional(kernel_clone_args, cgroup))));
	else
		read_pids_cgroup(refusal, pids_css());
	return 0;
}

/* Its second argument is copy_process' last. */
ft_inline int on_cgroup_can_fork_return(void *ctx, __u64 result)
{
	struct ft_attempt *attempt;
	int error = INT_IN(result);

	if (error >= 0)
		return 0;
	attempt = port_attempt();
	return on_cgroup_can_fork(error, attempt ? (struct kernel_clone_args *)attempt->args : 0);
}

/*
 * bool mem_cgroup_out_of_memory(struct mem_cgroup *, gfp_t, int order): what a
 * charge that found no room asks last. If nothing can be killed, it fails
 * (mm/memcontrol.c, try_charge); until then nobody pays for watching it.
 */
ft_inline int on_memory_cgroup(void *ctx, __u64 cgroup)
{
	struct ft_refusal *refusal;

	if (port_phase() == FT_PHASE_OFF)
		return 0;
	refusal = ft_on_charge_refused();
	if (!refusal)
		return 0;
	if (!is_inside_copy_process(ctx, refusal, 1)) {
		ft_forget_refusal();
		return 0;
	}
	read_memory_cgroup(refusal, cgroup);
	return 0;
}

/* Apart from the others' arguments: they are still under way. */
ft_inline int save_memory_cgroup(__u64 cgroup)
{
	struct ft_attempt *attempt = port_attempt();

	if (attempt)
		attempt->memory_cgroup = cgroup;
	return 0;
}

ft_inline int on_memory_cgroup_return(void *ctx, __u64 result)
{
	struct ft_attempt *attempt = REFUSED_FALSE(result) ? port_attempt() : 0;

	return attempt && attempt->memory_cgroup ? on_memory_cgroup(ctx, attempt->memory_cgroup)
						 : 0;
}

/*
 * Namespaces. All of these are called by unshare as well, and none by a fork without CLONE_NEW*.
 * Who calls this has asked is_inside_fork.
 */

ft_global int namespace_refused(__u32 step, __s32 error, __u64 owner_address, __u64 type)
{
	struct user_namespace *owner = (struct user_namespace *)owner_address;
	struct ft_refusal *refusal;
	__u32 level;
	int found;

	refusal = ft_on_refusal(step, error);
	if (!refusal || error != -FT_ENOSPC)
		return 0;
	if (is_moved(refusal, !is_blind(FT_READER_NAMESPACES) && has_field(pid_namespace, level),
		     FT_MOVED_PID_NAMESPACE))
		return 0;
	/* create_user_ns and create_pid_namespace look at the depth first. */
	level = step == FT_STEP_COPY_PID_NS
			? BPF_CORE_READ(current_task(), nsproxy, pid_ns_for_children, level)
			: BPF_CORE_READ(owner, level);
	if ((step == FT_STEP_CREATE_USER_NS && level > NAMESPACE_DEPTH) ||
	    (step == FT_STEP_COPY_PID_NS && level >= NAMESPACE_DEPTH)) {
		refusal->detail = FT_DETAIL_NS_DEPTH;
		ft_number(refusal, FT_NUMBER_NS_LEVEL, level);
		return 0;
	}
	/* ENOSPC is also what inc_ucount answers for want of memory for a count: alloc_ucounts. */
	found = read_ns_limit(owner_address, type);
	if (found == NS_NEAR)
		refusal->detail = FT_DETAIL_NS_NEAR;
	else if (found != NS_UNREAD)
		refusal->detail = found == NS_FULL ? FT_DETAIL_NS_LIMIT : FT_DETAIL_NS_ROOM;
	return 0;
}

#ifndef FT_INLINED_WHOLE
/* The CLONE_* flags of an unshare; 0: this thread is in no such call. */
ft_inline __u64 flags_of_unshare(void)
{
	struct pt_regs *regs = call_registers();
	long number = syscall_number_in(regs);

	return is_unshare(number) ? ARGUMENT_0(regs, number) : 0;
}

/*
 * unshare makes namespaces by the same functions, and meets the same limits. setns enters those
 * that are there. Of other errnos unshare has tests of its own, which nobody watches.
 */
ft_inline int unshare_refused(__u32 step, __s32 error, __u64 owner, __u64 type)
{
	struct ft_refusal *refusal;

	if (error != -FT_ENOSPC || !flags_of_unshare())
		return 0;
	namespace_refused(step, error, owner, type);
	/* It is counted by one of two programs, not by each of these: each is verified anew. */
	refusal = port_refusal();
	if (refusal)
		refusal->is_of_stack = 1;
	return 0;
}

/* int unshare_userns(...) and unshare_nsproxy_namespaces(...): only unshare calls them. */
ft_inline int on_unshare_return(void *ctx, int error)
{
	struct ft_refusal *refusal = error == -FT_ENOSPC ? port_refusal() : 0;
	__u64 flags = refusal ? flags_of_unshare() : 0;

	if (!flags || !refusal->is_of_stack || refusal->error != error)
		return 0;
	ft_on_other_call(ctx, FT_SYSCALL_UNSHARE, refusal->step, FT_BIT_OBSERVED, error, flags,
			 refusal);
	port_refusal_drop();
	return 0;
}

/*
 * The same at a return, which has no arguments: none are kept outside of a fork. A user namespace
 * that this call made has counted nothing yet: its limits are those of the caller's own and up.
 */
ft_inline int unshare_refused_at_return(__u32 step, __s32 error, __u64 type)
{
	if (is_blind(FT_READER_NAMESPACES))
		return 0;
	return unshare_refused(step, error, (__u64)BPF_CORE_READ(current_task(), cred, user_ns),
			       type);
}
#else
#define unshare_refused(...) 0
#define unshare_refused_at_return(...) 0
#endif

/* int create_user_ns(struct cred *new): its owner is what new->user_ns is at first */
ft_inline int on_create_user_ns(void *ctx, int error, struct cred *new)
{
	__u64 type = bpf_core_enum_value(enum ucount_type, UCOUNT_USER_NAMESPACES);
	__u64 owner = (__u64)BPF_CORE_READ(new, user_ns);

	if (!is_inside_fork(ctx))
		return unshare_refused(FT_STEP_CREATE_USER_NS, error, owner, type);
	namespace_refused(FT_STEP_CREATE_USER_NS, error, owner, type);
	return 0;
}

ft_inline int on_create_user_ns_return(void *ctx, __u64 result)
{
	int error = INT_IN(result);
	const __u64 *saved = error < 0 ? saved_args(FT_STEP_CREATE_USER_NS) : 0;

	if (error < 0 && !saved)
		return unshare_refused_at_return(
			FT_STEP_CREATE_USER_NS, error,
			bpf_core_enum_value(enum ucount_type, UCOUNT_USER_NAMESPACES));
	return saved ? on_create_user_ns(ctx, error, (struct cred *)saved[0]) : 0;
}

/* The owning user namespace is what was saved. */
ft_inline int on_namespace_return(void *ctx, enum ft_step step, __u64 result, __u64 type)
{
	const __u64 *saved = IS_ERR_VALUE(result) ? saved_args(step) : 0;

	if (IS_ERR_VALUE(result) && !saved)
		return unshare_refused_at_return(step, INT_IN(result), type);
	return saved && is_inside_fork(ctx)
		       ? namespace_refused(step, INT_IN(result), saved[0], type)
		       : 0;
}

/* Stacks of threads: what fails here never gets as far as clone. */

/* include/uapi/asm-generic/mman-common.h, mman.h */
#define PROT_WRITE 2
#define MAP_STACK 0x20000 /* glibc sets it */
#define MAP_FIXED_ANY (0x10 | 0x100000) /* who gives the place is not allocating a stack */
/* glibc calls mprotect right after mmap; later the range can be of something else. */
#define STACK_FRESH_NS FT_NS_PER_S

#ifndef FT_INLINED_WHOLE
/*
 * musl maps the stack of a thread without MAP_STACK: as memory that nothing may touch, of which it
 * then opens all but the guard (src/thread/pthread_create.c). That others map so as well; so it must
 * be musl's program, by what its thread pointer leads to, and more than musl itself reserves so
 * (src/malloc/mallocng/malloc.c, alloc_meta: two pages). Asked of calls that fail only.
 */
#define MAP_PRIVATE_ANONYMOUS 0x22
#define MUSL_RESERVES_PAGES 2

/*
 * src/internal/pthread_impl.h, struct pthread since v1.1.22: itself, dtv, and its neighbours in the
 * ring of threads. glibc has a counter in the place of the next one.
 */
ft_inline int is_of_musl(void)
{
#if defined(__TARGET_ARCH_x86)
	struct task_struct *task = current_task();
	__u64 pointer = 0, words[4] = {}, previous = 0;

	if (is_blind(FT_READER_STACK) || !bpf_core_field_exists(task->thread.fsbase))
		return 0;
	bpf_core_read(&pointer, sizeof(pointer), &task->thread.fsbase);
	if (!pointer || bpf_probe_read_user(words, sizeof(words), (void *)pointer))
		return 0;
	if (words[0] != pointer ||
	    bpf_probe_read_user(&previous, sizeof(previous), (void *)(words[3] + 16)))
		return 0;
	return previous == pointer;
#else
	return 0;
#endif
}

ft_inline int is_stack_of_musl(__u64 length, __u64 prot, __u64 flags)
{
	return flags == MAP_PRIVATE_ANONYMOUS && !prot &&
	       length > (__u64)MUSL_RESERVES_PAGES << port_config()->page_shift && is_of_musl();
}

/* Memory that could not be touched so far, above a guard. */
ft_inline int is_stack_of_musl_opened(__u64 start, __u64 length, __u64 prot)
{
	char byte;

	return prot & PROT_WRITE &&
	       length > (__u64)MUSL_RESERVES_PAGES << port_config()->page_shift &&
	       bpf_probe_read_user(&byte, sizeof(byte), (void *)start) &&
	       bpf_probe_read_user(&byte, sizeof(byte), (void *)(start - 1)) && is_of_musl();
}
#else
#define is_stack_of_musl(...) 0
#define is_stack_of_musl_opened(...) 0
#endif

ft_inline void on_stack(void *ctx, ft_u8 step, __u64 bytes, __u64 prot, int error)
{
	if (port_phase() >= FT_PHASE_COUNTING) {
		judge_stack(bytes, error, step, !!(prot & PROT_WRITE));
		ft_on_stack_refused(ctx, step, error, port_refusal());
	}
	port_refusal_drop();
}

ft_outline void on_mmap(void *ctx, __u64 length, __u64 prot, __u64 flags, __s64 result)
{
	struct ft_stack_range range = {};

	if ((!(flags & MAP_STACK) || flags & MAP_FIXED_ANY) &&
	    !(IS_ERR_VALUE(result) && is_stack_of_musl(length, prot, flags))) {
		if (IS_ERR_VALUE(result) && port_refusal())
			port_refusal_drop();
		return;
	}
	if (!IS_ERR_VALUE(result)) {
		range.start = result;
		range.bytes = pages_of(length) << port_config()->page_shift;
		range.time_ns = port_now_ns();
		port_stack_note(&range);
		return;
	}
	on_stack(ctx, FT_STEP_MMAP, length, prot, INT_IN(result));
}

/* Is it the guard at the bottom of the stack that this thread has just mapped, or all above one? */
ft_inline int is_fresh_stack(const struct ft_stack_range *range, __u64 start, __u64 length)
{
	__u64 mask = (1ULL << port_config()->page_shift) - 1;
	__u64 end = range->start + range->bytes;

	if (port_now_ns() - range->time_ns > STACK_FRESH_NS || start < range->start || start >= end)
		return 0;
	return start == range->start || start + ((length + mask) & ~mask) == end;
}

ft_inline void on_mprotect(void *ctx, __u64 start, __u64 length, __u64 prot, int error)
{
	struct ft_stack_range *range;

	if (error >= 0)
		return;
	range = port_stack();
	/* glibc, nptl/allocatestack.c: it maps the whole, then opens all but the guard. */
	if ((range && is_fresh_stack(range, start, length)) ||
	    is_stack_of_musl_opened(start, length, prot))
		on_stack(ctx, FT_STEP_MPROTECT, length, prot, error);
	else if (port_refusal())
		port_refusal_drop();
}

/*
 * Every mmap of the host ends here, so no other program keeps its arguments: a
 * stack is mapped by a system call, which has them.
 */
ft_inline int on_mmap_return(void *ctx, __u64 result)
{
	struct pt_regs *regs = call_registers();
	long number = syscall_number_in(regs);
	__u64 flags;

	flags = ARGUMENT_3(regs, number);
	if (!(flags & MAP_STACK) && !IS_ERR_VALUE(result))
		return 0;
	if (is_mmap(number))
		on_mmap(ctx, ARGUMENT_1(regs, number), ARGUMENT_2(regs), flags, result);
	return 0;
}

ft_inline int on_mprotect_return(void *ctx, __u64 result)
{
	int error = INT_IN(result);
	struct pt_regs *regs;
	long number;

	if (error >= 0)
		return 0;
	regs = call_registers();
	number = syscall_number_in(regs);
	if (is_mprotect(number) || is_pkey_mprotect(number))
		on_mprotect(ctx, ARGUMENT_0(regs, number), ARGUMENT_1(regs, number),
			    ARGUMENT_2(regs), error);
	return 0;
}

/* System calls: the lowest attach mode, and beside the upper ones for what never reaches copy_process. */

ft_inline void on_sys_enter(void *ctx, struct pt_regs *regs, long number)
{
#ifndef FT_INLINED_WHOLE
	if (port_has_pending())
		ft_on_next_call(ctx, call_of(syscall_number_in(regs)));
#endif
#if defined(__TARGET_ARCH_x86)
	number &= ~X32_CALL_BIT;
#endif
	/* Every system call of the host comes here: nearly all of them leave at once. */
	if (number != NR_CLONE && number != NR_CLONE3 && number != NR_FORK && number != NR_VFORK &&
	    number != COMPAT_NR_FORK && number != COMPAT_NR_CLONE && number != COMPAT_NR_VFORK)
		return;
	if (call_of(syscall_number_in(regs)) != FT_SYSCALL_KERNEL)
		ft_on_call_enter();
}

#ifndef FT_INLINED_WHOLE
/* Calls that make no task, as far as their exit alone tells of them. */
ft_inline void on_other_exit(void *ctx, struct pt_regs *regs, long number, __s64 result,
			     int is_second)
{
	struct ft_refusal *refusal;

	if (port_config()->watches_exec && is_execve(number) && is_exec_over_nproc(result)) {
		if (!ft_was_counted(port_call_take(), is_second))
			exec_refused(ctx, 0);
		return;
	}
	if (result != -FT_ENOSPC || !port_config()->is_by_syscall || !is_unshare(number) ||
	    ft_was_counted(port_call_take(), is_second))
		return;
	refusal = port_refusal_open();
	if (refusal) {
		refusal->error = INT_IN(result);
		ft_judge(refusal, INT_IN(result), ARGUMENT_0(regs, number), FT_PHASE_COUNTING, 0);
	}
	ft_on_other_call(ctx, FT_SYSCALL_UNSHARE, FT_STEP_COPY_PROCESS, 0, INT_IN(result),
			 ARGUMENT_0(regs, number), refusal);
	port_refusal_drop();
}
#endif

ft_inline void on_sys_exit(void *ctx, struct pt_regs *regs, __s64 result, int is_second)
{
	__u64 flags = 0, set_tid_size = 0;
	long number;
	__u8 call;

#ifndef FT_INLINED_WHOLE
	/* One that a filter answered did not begin. */
	if (ft_ends_wait(is_second))
		ft_on_next_call(ctx, call_of(syscall_number_in(regs)));
#endif
	number = bare_number_in(regs);
	if (is_untaken_x32(number, result))
		return;
#ifndef FT_INLINED_WHOLE
	if (result == -FT_EAGAIN || result == -FT_ENOSPC)
		on_other_exit(ctx, regs, syscall_number_in(regs), result, is_second);
#endif
	if (!is_watched_call(number))
		return;
	number = syscall_number_in(regs);
	if (port_config()->is_by_syscall) {
		if (is_mmap(number)) {
			if ((ARGUMENT_3(regs, number) & MAP_STACK || IS_ERR_VALUE(result)) &&
			    !(IS_ERR_VALUE(result) && ft_was_counted(port_call_take(), is_second)))
				on_mmap(ctx, ARGUMENT_1(regs, number), ARGUMENT_2(regs),
					ARGUMENT_3(regs, number), result);
			return;
		}
		if (is_mprotect(number)) {
			if (IS_ERR_VALUE(result) && !ft_was_counted(port_call_take(), is_second))
				on_mprotect(ctx, ARGUMENT_0(regs, number), ARGUMENT_1(regs, number),
					    ARGUMENT_2(regs), INT_IN(result));
			return;
		}
	}
	call = call_of(number);
	if (call == FT_SYSCALL_KERNEL)
		return;
	if (IS_ERR_VALUE(result))
		flags = flags_in(regs, number, &set_tid_size);
	ft_on_call_exit(ctx, result, flags, !!set_tid_size, is_second);
}

#endif
