// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The CO-RE shell: maps, port and entry points for libbpf. One object for every
 * kernel with BTF; what differs between kernels is asked of the running one.
 */
#include "kernel_types.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#define ft_inline static __always_inline
#include "fork_trace_logic.h"

char LICENSE[] SEC("license") = "GPL";

/* Set by user space before the load; see fork_trace/backends/libbpf.py. */
const volatile struct ft_config config SEC(".rodata.config") = {};

/* enum ft_phase; user space writes it while the programs run. */
volatile __u32 phase SEC(".data.phase") = FT_PHASE_OFF;

/* Brings the types into this object's BTF, where tests/test_abi.py reads them. */
const struct ft_event *ft_unused_event __attribute__((unused));
const struct ft_tally *ft_unused_tally __attribute__((unused));
const struct ft_config *ft_unused_config __attribute__((unused));
const struct ft_stack *ft_unused_stack __attribute__((unused));
const struct ft_level *ft_unused_level __attribute__((unused));
const enum ft_level_kind *ft_unused_level_kind __attribute__((unused));
const enum ft_moved *ft_unused_moved __attribute__((unused));
const enum ft_fit *ft_unused_fit __attribute__((unused));
const enum ft_step *ft_unused_step __attribute__((unused));
const enum ft_detail *ft_unused_detail __attribute__((unused));
const enum ft_syscall *ft_unused_syscall __attribute__((unused));
const enum ft_number *ft_unused_number __attribute__((unused));
const enum ft_stat *ft_unused_stat __attribute__((unused));
const enum ft_phase *ft_unused_phase __attribute__((unused));

/* Maps. All of them are preallocated: during the incident there may be no memory. */

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 21); /* 1,300 samples; the reader looks ten times a second */
} events SEC(".maps");

/* What is unwound, apart from the samples: it may be lost, they should not. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 22); /* 430 stacks of the default size */
} user_stacks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192); /* distinct keys of one run; more are folded and said so */
	__type(key, struct ft_key);
	__type(value, struct ft_tally);
} tallies SEC(".maps");

/* Threads between a step's refusal and the end of its copy_process. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, struct ft_refusal);
} refusals SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, FT_STAT_COUNT);
	__type(key, __u32);
	__type(value, __u64);
} stats SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 64); /* by enum ft_step */
	__type(key, __u32);
	__type(value, __u64);
} folded SEC(".maps");

/*
 * Calls of the fork family under way: a vfork waits in here until its child has
 * run another program. Only used where a system call's exit is watched.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, __u32);
	__type(value, __u32); /* enum ft_call */
} calls SEC(".maps");

/* The last stack that each thread mapped for another; what is evicted is not told, never wrong. */
struct stack_range {
	__u64 start;
	__u64 bytes;
	__u64 time_ns; /* when it was mapped */
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, struct stack_range);
} stacks SEC(".maps");

/* Too large for the 512-byte stack of a program. */
static const struct ft_refusal no_refusal;
static const struct ft_tally no_tally;


ft_inline struct ft_refusal *port_refusal(void)
{
	__u32 thread = bpf_get_current_pid_tgid();

	return bpf_map_lookup_elem(&refusals, &thread);
}

#include "kernel_state.h"

/* The port. */

ft_inline const volatile struct ft_config *port_config(void)
{
	return &config;
}

ft_inline enum ft_phase port_phase(void)
{
	return phase;
}

ft_inline ft_u64 port_now_ns(void)
{
	return bpf_ktime_get_ns();
}

ft_inline struct ft_refusal *port_refusal_open(void)
{
	__u32 thread = bpf_get_current_pid_tgid();

	if (bpf_map_update_elem(&refusals, &thread, &no_refusal, BPF_ANY))
		return 0;
	return bpf_map_lookup_elem(&refusals, &thread);
}

ft_inline void port_refusal_drop(void)
{
	__u32 thread = bpf_get_current_pid_tgid();

	bpf_map_delete_elem(&refusals, &thread);
}

ft_inline struct ft_tally *port_tally(const struct ft_key *key)
{
	struct ft_tally *tally = bpf_map_lookup_elem(&tallies, key);

	if (tally)
		return tally;
	bpf_map_update_elem(&tallies, key, &no_tally, BPF_NOEXIST);
	return bpf_map_lookup_elem(&tallies, key);
}

ft_inline void port_add(ft_u64 *counter)
{
	__sync_fetch_and_add(counter, 1);
}

ft_inline void port_fold(ft_u8 step)
{
	__u32 index = step;
	__u64 *count = bpf_map_lookup_elem(&folded, &index);

	if (count)
		__sync_fetch_and_add(count, 1);
}

ft_inline void port_stat(enum ft_stat stat)
{
	__u32 index = stat;
	__u64 *count = bpf_map_lookup_elem(&stats, &index);

	if (count)
		__sync_fetch_and_add(count, 1);
}

ft_inline struct ft_event *port_event(void)
{
	return bpf_ringbuf_reserve(&events, sizeof(struct ft_event), 0);
}

ft_inline void port_event_send(struct ft_event *event, int wake)
{
	bpf_ringbuf_submit(event, wake ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP);
}

ft_inline void port_who(struct ft_key *key)
{
	bpf_get_current_comm(key->comm, sizeof(key->comm));
	key->uid = bpf_get_current_uid_gid();
	key->cgroup = BPF_CORE_READ(own_css(), cgroup, kn, id);
	key->syscall = syscall_of(current_task());
}

/* The program's file, for when the process is gone: inode and path, as far as they go. */
ft_inline void read_program(struct ft_stack *stack, struct mm_struct *mm)
{
	struct dentry *dentry, *parent;
	struct file *exe;
	__u32 i;

	if (!bpf_core_field_exists(mm->end_code) || !bpf_core_field_exists(mm->exe_file) ||
	    !bpf_core_field_exists(struct file, f_path))
		return;
	stack->code_end = BPF_CORE_READ(mm, end_code);
	exe = BPF_CORE_READ(mm, exe_file);
	stack->exe_inode = BPF_CORE_READ(exe, f_inode, i_ino);
	stack->exe_device = BPF_CORE_READ(exe, f_inode, i_sb, s_dev);
	dentry = BPF_CORE_READ(exe, f_path.dentry);
	for (i = 0; i < FT_EXE_PARTS; i++) {
		parent = BPF_CORE_READ(dentry, d_parent);
		if (!dentry || parent == dentry)
			break;
		bpf_probe_read_kernel_str(stack->part[i], FT_EXE_PART_BYTES,
					  BPF_CORE_READ(dentry, d_name.name));
		dentry = parent;
	}
	stack->part_count = i;
}

ft_inline void read_arguments(struct ft_stack *stack, struct mm_struct *mm)
{
	__u64 start, bytes;

	if (!bpf_core_field_exists(mm->arg_start) || !bpf_core_field_exists(mm->arg_end))
		return;
	start = BPF_CORE_READ(mm, arg_start);
	bytes = BPF_CORE_READ(mm, arg_end) - start;
	if (bytes > FT_ARGUMENT_BYTES)
		bytes = FT_ARGUMENT_BYTES;
	if (!bpf_probe_read_user(stack->argument, bytes, (void *)start))
		stack->argument_count = bytes;
}

/* Send what the user stack is unwound from. Of a task without one nothing is sent. */
ft_global int send_stack(__u64 time_ns)
{
	struct mm_struct *mm = BPF_CORE_READ(current_task(), mm);
	struct pt_regs *regs = user_registers();
	struct ft_stack *stack;
	__u32 bytes = config.stack_bytes;
	__u64 start = 0, failed;
	__u8 *slice;
	__u32 at;

	if (bytes > FT_STACK_BYTES_MAX)
		bytes = FT_STACK_BYTES_MAX;
	if (!mm || !regs || bpf_core_read(&start, sizeof(start), &regs->sp))
		return 0;
	stack = bpf_ringbuf_reserve(&user_stacks, sizeof(*stack) + bytes, 0);
	if (!stack) {
		port_stat(FT_STAT_STACKLESS);
		return 0;
	}
	__builtin_memset(stack, 0, __builtin_offsetof(struct ft_stack, part));
	stack->time_ns = time_ns;
	stack->tid = bpf_get_current_pid_tgid();
	bpf_probe_read_kernel(stack->registers, 8 * REGISTERS_READ, regs);
	read_program(stack, mm);
	read_arguments(stack, mm);
	start &= ~(FT_STACK_CHUNK - 1ULL);
	stack->start = start;
	slice = (__u8 *)(stack + 1);
	/*
	 * A page that was never touched, or was swapped out, cannot be had; the next
	 * one may. Without a branch inside, or clang moves half of it before the
	 * entry: v5.10 takes no loop whose way back is not a jump.
	 */
	for (at = 0; at < bytes; at += FT_STACK_CHUNK) {
		failed = bpf_probe_read_user(slice + at, FT_STACK_CHUNK, (void *)(start + at));
		stack->have[at / FT_STACK_CHUNK / 64] |= (failed >> 63 ^ 1)
							 << (at / FT_STACK_CHUNK % 64);
	}
	stack->byte_count = bytes;
	bpf_ringbuf_submit(stack, BPF_RB_NO_WAKEUP);
	return 0;
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
	bytes = bpf_get_stack(ctx, event->user_frame, sizeof(event->user_frame), BPF_F_USER_STACK);
	if (bytes > 0)
		event->user_frame_count = bytes / 8;
	/* The same frames as build id and file offset: read now, for callers that exit at once. */
	bpf_get_stack(ctx, event->user_place, sizeof(event->user_place),
		      BPF_F_USER_STACK | BPF_F_USER_BUILD_ID);
	if (config.stack_bytes)
		send_stack(event->time_ns);
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
	if (bpf_core_field_exists(task->seccomp.mode) &&
	    BPF_CORE_READ(task, seccomp.mode) == SECCOMP_MODE_FILTER)
		return 1;
	return !!BPF_CORE_READ(task, ptrace);
}

ft_inline int port_call_note(enum ft_call call)
{
	__u32 thread = bpf_get_current_pid_tgid(), value = call;

	return !bpf_map_update_elem(&calls, &thread, &value, BPF_ANY);
}

ft_inline enum ft_call port_call_take(void)
{
	__u32 thread = bpf_get_current_pid_tgid();
	__u32 *value = bpf_map_lookup_elem(&calls, &thread);
	enum ft_call call;

	if (!value)
		return FT_CALL_NONE;
	call = *value;
	bpf_map_delete_elem(&calls, &thread);
	return call;
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

/*
 * Entry points. A fexit context holds the arguments and then the return value.
 * Functions that return int leave the upper half of it undefined; those that
 * return a pointer carry the error as the pointer's value, or NULL.
 */

#define IS_ERR_VALUE(value) ((__u64)(value) >= (__u64)-4095)

/*
 * The error in a returned pointer. The verifier types that slot as a pointer and
 * forbids arithmetic on it, casts included; read as memory it is a number.
 */
ft_inline int error_in(const __u64 *slot)
{
	__u64 value = 0;

	bpf_probe_read_kernel(&value, sizeof(value), slot);
	return (int)value;
}

/* struct task_struct *copy_process(struct pid *, int trace, int node, struct kernel_clone_args *) */
SEC("fexit/copy_process")
int fexit_copy_process(__u64 *ctx)
{
	struct kernel_clone_args *args;

	if (!IS_ERR_VALUE(ctx[4]))
		return 0;
	args = (struct kernel_clone_args *)ctx[3];
	ft_on_copy_process(ctx, error_in(&ctx[4]), BPF_CORE_READ(args, flags));
	return 0;
}

/*
 * Steps whose numbers, if any, are read where it is judged. In a fork, vfork,
 * clone or clone3 only copy_process calls them; a worker that the kernel makes
 * in another system call is counted, but its step is not told.
 */
ft_global int step_refused(__u32 step, __s32 error, __u32 last_inner)
{
	struct ft_refusal *refusal;

	if (!is_fork_call())
		return 0;
	refusal = ft_on_outer_refusal(step, last_inner, error);
	if (refusal && step == FT_STEP_PIDFD_PREPARE)
		ft_number(refusal, FT_NUMBER_NOFILE_LIMIT,
			  BPF_CORE_READ(current_task(), signal, rlim[RLIMIT_NOFILE].rlim_cur));
	return 0;
}

#define STEP_OUTER(program, function, slot, STEP, LAST)                                          \
	SEC("fexit/" function)                                                                   \
	int program(__u64 *ctx)                                                                  \
	{                                                                                        \
		if ((int)ctx[slot] < 0)                                                          \
			step_refused(FT_STEP_##STEP, (int)ctx[slot], FT_STEP_##LAST);            \
		return 0;                                                                        \
	}

#define STEP_INT(program, function, slot, STEP) STEP_OUTER(program, function, slot, STEP, STEP)

#define STEP_ERR_PTR(program, function, slot, STEP)                                              \
	SEC("fexit/" function)                                                                   \
	int program(__u64 *ctx)                                                                  \
	{                                                                                        \
		if (IS_ERR_VALUE(ctx[slot]))                                                     \
			step_refused(FT_STEP_##STEP, error_in(&ctx[slot]), FT_STEP_##STEP);      \
		return 0;                                                                        \
	}

#define STEP_NULL(program, function, slot, STEP)                                                 \
	SEC("fexit/" function)                                                                   \
	int program(__u64 *ctx)                                                                  \
	{                                                                                        \
		if (!ctx[slot])                                                                  \
			step_refused(FT_STEP_##STEP, -FT_ENOMEM, FT_STEP_##STEP);                \
		return 0;                                                                        \
	}

/* No copy_process follows: only the system call's exit, where that is watched, takes the mark. */
SEC("fexit/copy_clone_args_from_user")
int fexit_copy_clone_args(__u64 *ctx)
{
	if ((int)ctx[3] < 0 && config.watches_early)
		step_refused(FT_STEP_CLONE_ARGS, (int)ctx[3], FT_STEP_CLONE_ARGS);
	return 0;
}

/* Not called by an ordinary fork: attached from the start, and free until they are. */
STEP_INT(fexit_set_cred_ucounts, "set_cred_ucounts", 1, SET_CRED_UCOUNTS)
STEP_INT(fexit_io_uring_fork, "__io_uring_fork", 1, IO_URING_FORK)
STEP_ERR_PTR(fexit_shstk, "shstk_alloc_thread_stack", 3, SHSTK_ALLOC_THREAD_STACK)
STEP_INT(fexit_pidfd_prepare, "pidfd_prepare", 3, PIDFD_PREPARE)
STEP_INT(fexit_pidfd_prepare_510, "__pidfd_prepare", 3, PIDFD_PREPARE)
STEP_INT(fexit_ldt_dup_context, "ldt_dup_context", 2, LDT_DUP_CONTEXT)

/* Called by every fork, or by each of its mappings: attached at the first failure unexplained. */
STEP_INT(fexit_task_exec_state_copy, "task_exec_state_copy", 1, TASK_EXEC_STATE_COPY)
STEP_OUTER(fexit_copy_creds, "copy_creds", 2, COPY_CREDS, SET_CRED_UCOUNTS)
STEP_ERR_PTR(fexit_mpol_dup, "__mpol_dup", 1, MPOL_DUP)
STEP_INT(fexit_sched_fork, "sched_fork", 2, SCHED_FORK)
STEP_INT(fexit_perf_event_init_task, "perf_event_init_task", 2, PERF_EVENT_INIT_TASK)
STEP_INT(fexit_audit_alloc, "audit_alloc", 1, AUDIT_ALLOC)
STEP_INT(fexit_security_task_alloc, "security_task_alloc", 2, SECURITY_TASK_ALLOC)
STEP_INT(fexit_copy_semundo, "copy_semundo", 2, COPY_SEMUNDO)
STEP_NULL(fexit_copy_fs_struct, "copy_fs_struct", 1, COPY_FS_STRUCT)
STEP_NULL(fexit_mm_init, "mm_init", 2, MM_INIT)
STEP_NULL(fexit_mm_init_61, "mm_init", 3, MM_INIT)
STEP_OUTER(fexit_dup_mmap, "dup_mmap", 2, DUP_MMAP, LDT_DUP_CONTEXT)
STEP_NULL(fexit_vm_area_dup, "vm_area_dup", 1, VM_AREA_DUP)
STEP_INT(fexit_vma_dup_policy, "vma_dup_policy", 2, VMA_DUP_POLICY)
STEP_INT(fexit_dup_userfaultfd, "dup_userfaultfd", 2, DUP_USERFAULTFD)
STEP_INT(fexit_anon_vma_fork, "anon_vma_fork", 2, ANON_VMA_FORK)
STEP_INT(fexit_copy_page_range, "copy_page_range", 2, COPY_PAGE_RANGE)
STEP_OUTER(fexit_copy_namespaces, "copy_namespaces", 2, COPY_NAMESPACES, COPY_TIME_NS)
STEP_INT(fexit_copy_io, "__copy_io", 2, COPY_IO)
STEP_OUTER(fexit_copy_thread, "copy_thread", 2, COPY_THREAD, SHSTK_ALLOC_THREAD_STACK)
STEP_OUTER(fexit_copy_thread_510, "copy_thread", 5, COPY_THREAD, SHSTK_ALLOC_THREAD_STACK)
STEP_INT(fexit_sched_cgroup_fork, "sched_cgroup_fork", 2, SCHED_CGROUP_FORK)
STEP_INT(fexit_futex_hash, "futex_hash_allocate_default", 0, FUTEX_HASH)

/* bool is_rlimit_overlimit(struct ucounts *, enum rlimit_type, unsigned long rlimit) */
ft_inline int on_overlimit(__u64 *ctx)
{
	struct ft_refusal *refusal;

	/* It says "over" for root as well, who is let through just after. */
	if (is_exempt_from_nproc(BPF_CORE_READ(current_task(), cred)))
		return 0;
	refusal = ft_on_refusal(FT_STEP_RLIMIT_NPROC, -FT_EAGAIN);
	if (!refusal)
		return 0;
	/* execve asks too, after a set*uid. */
	if (!is_inside_copy_process(ctx, refusal, 0)) {
		port_refusal_drop();
		return 0;
	}
	read_nproc_ucounts(refusal, (struct ucounts *)ctx[0], ctx[2], 1);
	return 0;
}

SEC("fexit/is_rlimit_overlimit")
int fexit_is_rlimit_overlimit(__u64 *ctx)
{
	if (!(__u8)ctx[3] || ctx[1] != bpf_core_enum_value(enum rlimit_type, UCOUNT_RLIMIT_NPROC))
		return 0;
	return on_overlimit(ctx);
}

/*
 * Since Linux commit 25bc65d8ddfc ("rlimit: Fix RLIMIT_NPROC enforcement failure
 * caused by capability calls in set_user") the name and place of this test moved
 * several times; from v5.14 to v6.0 it was is_ucounts_overlimit(ucounts, type, max).
 */
SEC("fexit/is_ucounts_overlimit")
int fexit_is_ucounts_overlimit(__u64 *ctx)
{
	if (!(__u8)ctx[3] || ctx[1] != nproc_index_v60())
		return 0;
	return on_overlimit(ctx);
}

ft_inline int on_dup_fd(__u64 *ctx, int error)
{
	struct ft_refusal *refusal = ft_on_refusal(FT_STEP_DUP_FD, error);

	if (!refusal)
		return 0;
	/* unshare(CLONE_FILES) and close_range(CLOSE_RANGE_UNSHARE) call it as well. */
	if (!is_inside_copy_process(ctx, refusal, 0)) {
		port_refusal_drop();
		return 0;
	}
	read_fd_table(refusal, (struct files_struct *)ctx[0]);
	return 0;
}

/*
 * Since Linux commit 678379e1d4f7 ("close_range(): fix the logics in descriptor
 * table trimming") (in v6.12, and in older stable kernels), dup_fd takes two
 * arguments and returns the error as a pointer. Before that, it took (oldf,
 * max_fds, errorp) and returned NULL.
 */
SEC("fexit/dup_fd")
int fexit_dup_fd(__u64 *ctx)
{
	return IS_ERR_VALUE(ctx[2]) ? on_dup_fd(ctx, error_in(&ctx[2])) : 0;
}

SEC("fexit/dup_fd")
int fexit_dup_fd_510(__u64 *ctx)
{
	int *errorp = 0;
	int error = 0;

	if (ctx[3])
		return 0;
	/* Not ctx[2] itself: v5.10 lets no program load an argument of type int *. */
	bpf_probe_read_kernel(&errorp, sizeof(errorp), &ctx[2]);
	if (bpf_probe_read_kernel(&error, sizeof(error), errorp))
		return 0;
	return on_dup_fd(ctx, error);
}

/* Is the system call that this thread is in one that maps a stack? */
ft_inline int maps_memory(void)
{
	long number = syscall_number();

	return number == NR_MMAP || number == NR_MPROTECT || number == NR_PKEY_MPROTECT;
}

/* int __vm_enough_memory(struct mm_struct *, long pages, int cap_sys_admin) */
SEC("fexit/__vm_enough_memory")
int fexit_vm_enough_memory(__u64 *ctx)
{
	struct ft_refusal *refusal;

	if ((int)ctx[3] >= 0)
		return 0;
	refusal = ft_on_refusal(FT_STEP_VM_ENOUGH_MEMORY, (int)ctx[3]);
	if (!refusal)
		return 0;
	/*
	 * Most of its callers are mmap, mprotect and brk: no fork of theirs failed.
	 * The first two can be about a thread's stack; their own exits know.
	 */
	if (!is_inside_copy_process(ctx, refusal, 1)) {
		if (!is_watched(config.watched, FT_STEP_MMAP) || !maps_memory()) {
			port_refusal_drop();
			return 0;
		}
		refusal->is_of_stack = 1;
	}
	read_overcommit(refusal, (struct mm_struct *)ctx[0], ctx[1], (int)ctx[2]);
	return 0;
}

/* struct pid *alloc_pid(struct pid_namespace *, pid_t *set_tid, size_t); only copy_process calls it */
SEC("fexit/alloc_pid")
int fexit_alloc_pid(__u64 *ctx)
{
	struct ft_refusal *refusal;

	if (!IS_ERR_VALUE(ctx[3]))
		return 0;
	refusal = ft_on_refusal(FT_STEP_ALLOC_PID, error_in(&ctx[3]));
	if (refusal)
		read_pid_namespace(refusal, (struct pid_namespace *)ctx[0]);
	return 0;
}

/* int cgroup_can_fork(struct task_struct *, struct kernel_clone_args *); only copy_process calls it */
SEC("fexit/cgroup_can_fork")
int fexit_cgroup_can_fork(__u64 *ctx)
{
	struct kernel_clone_args *args;
	struct ft_refusal *refusal;

	if ((int)ctx[2] >= 0)
		return 0;
	refusal = ft_on_refusal(FT_STEP_CGROUP_CAN_FORK, (int)ctx[2]);
	if (!refusal || (int)ctx[2] != -FT_EAGAIN)
		return 0;
	args = (struct kernel_clone_args *)ctx[1];
	/* With CLONE_INTO_CGROUP another cgroup is charged. */
	if (BPF_CORE_READ(args, flags) & FT_CLONE_INTO_CGROUP)
		read_pids_cgroup(refusal, pids_css_at(BPF_CORE_READ(args, cgroup)));
	else
		read_pids_cgroup(refusal, pids_css());
	return 0;
}

/*
 * bool mem_cgroup_out_of_memory(struct mem_cgroup *, gfp_t, int order): what a
 * charge that found no room asks last. If nothing can be killed, it fails
 * (mm/memcontrol.c, try_charge); until then nobody pays for watching it.
 */
SEC("fexit/mem_cgroup_out_of_memory")
int fexit_mem_cgroup_out_of_memory(__u64 *ctx)
{
	struct ft_refusal *refusal;

	if (port_phase() == FT_PHASE_OFF || (__u8)ctx[3])
		return 0;
	refusal = port_refusal_open();
	if (!refusal)
		return 0;
	if (!is_inside_copy_process(ctx, refusal, 1)) {
		port_refusal_drop();
		return 0;
	}
	refusal->step = FT_STEP_COPY_PROCESS;
	refusal->error = -FT_ENOMEM;
	refusal->bits = FT_BIT_MEMCG;
	read_memory_cgroup(refusal, (struct mem_cgroup *)ctx[0]);
	return 0;
}

/* Namespaces. All of these are called by unshare as well, and none by a fork without CLONE_NEW*. */

ft_global int namespace_refused(__u32 step, __s32 error, __u64 owner_address, __u64 type)
{
	struct user_namespace *owner = (struct user_namespace *)owner_address;
	struct ft_refusal *refusal;
	__u32 level;
	int found;

	if (!is_fork_call())
		return 0;
	refusal = ft_on_refusal(step, error);
	if (!refusal || error != -FT_ENOSPC)
		return 0;
	if (is_moved(refusal, bpf_core_field_exists(struct pid_namespace, level),
		     FT_MOVED_PID_NAMESPACE))
		return 0;
	/* create_user_ns and create_pid_namespace look at the depth first. */
	level = step == FT_STEP_COPY_PID_NS ?
			BPF_CORE_READ(current_task(), nsproxy, pid_ns_for_children, level) :
			BPF_CORE_READ(owner, level);
	if ((step == FT_STEP_CREATE_USER_NS && level > NAMESPACE_DEPTH) ||
	    (step == FT_STEP_COPY_PID_NS && level >= NAMESPACE_DEPTH)) {
		refusal->detail = FT_DETAIL_NS_DEPTH;
		ft_number(refusal, FT_NUMBER_NS_LEVEL, level);
		return 0;
	}
	found = read_ns_limit(refusal, owner, type);
	refusal->detail = step == FT_STEP_COPY_MNT_NS && found == 0 ? FT_DETAIL_MOUNTS :
								      FT_DETAIL_NS_LIMIT;
	return 0;
}

/* int create_user_ns(struct cred *new): its owner is what new->user_ns is at first */
SEC("fexit/create_user_ns")
int fexit_create_user_ns(__u64 *ctx)
{
	if ((int)ctx[1] >= 0)
		return 0;
	namespace_refused(FT_STEP_CREATE_USER_NS, (int)ctx[1],
			  (__u64)BPF_CORE_READ((struct cred *)ctx[0], user_ns),
			  bpf_core_enum_value(enum ucount_type, UCOUNT_USER_NAMESPACES));
	return 0;
}

/* struct X_namespace *copy_X(flags, ...): which argument is the owning user namespace differs. */
#define STEP_NAMESPACE(program, function, slot, owner, STEP, TYPE)                               \
	SEC("fexit/" function)                                                                   \
	int program(__u64 *ctx)                                                                  \
	{                                                                                        \
		__u64 address = 0;                                                               \
                                                                                                 \
		if (!IS_ERR_VALUE(ctx[slot]))                                                    \
			return 0;                                                                \
		bpf_probe_read_kernel(&address, sizeof(address), &ctx[owner]);                   \
		namespace_refused(FT_STEP_##STEP, error_in(&ctx[slot]), address,                 \
				  bpf_core_enum_value(enum ucount_type,                          \
						      UCOUNT_##TYPE##_NAMESPACES));              \
		return 0;                                                                        \
	}

STEP_NAMESPACE(fexit_copy_mnt_ns, "copy_mnt_ns", 4, 2, COPY_MNT_NS, MNT)
STEP_NAMESPACE(fexit_copy_utsname, "copy_utsname", 3, 1, COPY_UTSNAME, UTS)
STEP_NAMESPACE(fexit_copy_ipcs, "copy_ipcs", 3, 1, COPY_IPCS, IPC)
STEP_NAMESPACE(fexit_copy_pid_ns, "copy_pid_ns", 3, 1, COPY_PID_NS, PID)
STEP_NAMESPACE(fexit_copy_cgroup_ns, "copy_cgroup_ns", 3, 1, COPY_CGROUP_NS, CGROUP)
STEP_NAMESPACE(fexit_copy_net_ns, "copy_net_ns", 3, 1, COPY_NET_NS, NET)
STEP_NAMESPACE(fexit_copy_time_ns, "copy_time_ns", 3, 1, COPY_TIME_NS, TIME)

/* Stacks of threads: what fails here never gets as far as clone. */

/* include/uapi/asm-generic/mman-common.h, mman.h */
#define PROT_WRITE 2
#define MAP_STACK 0x20000 /* glibc sets it */
#define MAP_FIXED_ANY (0x10 | 0x100000) /* who gives the place is not allocating a stack */
/* glibc calls mprotect right after mmap; later the range can be of something else. */
#define STACK_FRESH_NS FT_NS_PER_S

/* Can the overcommit rule have refused these pages? Asked where nobody watched it. */
ft_inline int may_be_overcommit(const struct ft_refusal *refusal, __u64 pages)
{
	__u64 mode = number_of(refusal, FT_NUMBER_OVERCOMMIT_MEMORY);

	if (!has_number(refusal, FT_NUMBER_OVERCOMMIT_MEMORY))
		return 1;
	if (mode == 0 && has_number(refusal, FT_NUMBER_PAGES_RAM) &&
	    has_number(refusal, FT_NUMBER_PAGES_SWAP))
		return pages > number_of(refusal, FT_NUMBER_PAGES_RAM) +
				       number_of(refusal, FT_NUMBER_PAGES_SWAP);
	return mode != 1;
}

/*
 * Which limit refused `bytes` of stack? Leaves the numbers in the refusal.
 * Source: mm/mmap.c, do_mmap and may_expand_vm; mm/mprotect.c, mprotect_fixup:
 * it asks for RLIMIT_DATA only, the address space was had already. What cannot
 * be written is charged to neither RLIMIT_DATA nor the overcommit rule.
 */
ft_global int judge_stack(__u64 bytes, __s32 error, __u32 step, __u32 is_writable)
{
	struct task_struct *task = current_task();
	struct ft_refusal *refusal = port_refusal();
	struct mm_struct *mm = BPF_CORE_READ(task, mm);
	__u64 pages = (bytes + (1ULL << config.page_shift) - 1) >> config.page_shift;
	__u64 total, data, address_space, data_limit;
	int count = 0;

	/* Of as many pages: not one left over from an earlier call. */
	if (refusal && refusal->is_of_stack && number_of(refusal, FT_NUMBER_PAGES_ASKED) == pages) {
		refusal->detail = FT_DETAIL_STACK_COMMIT;
		ft_number(refusal, FT_NUMBER_STACK_BYTES, bytes);
		return 0;
	}
	refusal = port_refusal_open();
	if (!refusal)
		return 0;
	ft_number(refusal, FT_NUMBER_STACK_BYTES, bytes);
	if (is_moved(refusal,
		     bpf_core_field_exists(mm->total_vm) && bpf_core_field_exists(mm->data_vm) &&
			     bpf_core_field_exists(mm->map_count),
		     FT_MOVED_MM_STRUCT))
		return 0;
	total = BPF_CORE_READ(mm, total_vm);
	data = BPF_CORE_READ(mm, data_vm);
	address_space = BPF_CORE_READ(task, signal, rlim[RLIMIT_AS].rlim_cur);
	data_limit = BPF_CORE_READ(task, signal, rlim[RLIMIT_DATA].rlim_cur);
	count = BPF_CORE_READ(mm, map_count);
	ft_number(refusal, FT_NUMBER_MM_TOTAL_PAGES, total);
	ft_number(refusal, FT_NUMBER_DATA_PAGES, data);
	ft_number(refusal, FT_NUMBER_ADDRESS_SPACE_LIMIT, address_space);
	ft_number(refusal, FT_NUMBER_DATA_LIMIT, data_limit);
	ft_number(refusal, FT_NUMBER_MAP_COUNT, count);
	if (config.sysctl_max_map_count)
		number_int_at(refusal, FT_NUMBER_MAX_MAP_COUNT, config.sysctl_max_map_count);
	else if (config.max_map_count)
		ft_number(refusal, FT_NUMBER_MAX_MAP_COUNT, config.max_map_count);
	if (error == -FT_EAGAIN)
		refusal->detail = FT_DETAIL_STACK_LOCKED;
	else if (error != -FT_ENOMEM)
		refusal->detail = FT_DETAIL_NONE;
	else if (has_number(refusal, FT_NUMBER_MAX_MAP_COUNT) &&
		 /* do_mmap lets one more pass than split_vma does */
		 count >= (int)number_of(refusal, FT_NUMBER_MAX_MAP_COUNT) + (step == FT_STEP_MMAP))
		refusal->detail = FT_DETAIL_STACK_MAPPINGS;
	else if (step == FT_STEP_MMAP && address_space != ~0ULL &&
		 total + pages > address_space >> config.page_shift)
		refusal->detail = FT_DETAIL_STACK_ADDRESS_SPACE;
	else if (is_writable && data_limit != ~0ULL &&
		 data + pages > data_limit >> config.page_shift)
		refusal->detail = FT_DETAIL_STACK_DATA;
	else if (is_writable && config.is_by_syscall) {
		/* Nobody watched the overcommit rule: what is left is it, if it can refuse. */
		read_commit_rule(refusal, mm);
		ft_number(refusal, FT_NUMBER_CAP_SYS_ADMIN, has_sys_admin(BPF_CORE_READ(task, cred)));
		ft_number(refusal, FT_NUMBER_PAGES_ASKED, pages);
		refusal->detail = may_be_overcommit(refusal, pages) ? FT_DETAIL_STACK_COMMIT :
								      FT_DETAIL_NONE;
	}
	return 0;
}

ft_inline void on_stack(void *ctx, ft_u8 step, __u64 bytes, __u64 prot, int error)
{
	if (port_phase() >= FT_PHASE_COUNTING) {
		judge_stack(bytes, error, step, !!(prot & PROT_WRITE));
		ft_on_stack_refused(ctx, step, error, port_refusal());
	}
	port_refusal_drop();
}

ft_inline void on_mmap(void *ctx, __u64 length, __u64 prot, __u64 flags, __s64 result)
{
	__u32 thread = bpf_get_current_pid_tgid();
	struct stack_range range;

	if (!(flags & MAP_STACK) || flags & MAP_FIXED_ANY) {
		if (IS_ERR_VALUE(result) && port_refusal())
			port_refusal_drop();
		return;
	}
	if (!IS_ERR_VALUE(result)) {
		range.start = result;
		range.bytes = (length + (1ULL << config.page_shift) - 1) >> config.page_shift
							<< config.page_shift;
		range.time_ns = port_now_ns();
		bpf_map_update_elem(&stacks, &thread, &range, BPF_ANY);
		return;
	}
	on_stack(ctx, FT_STEP_MMAP, length, prot, (int)result);
}

/* Is it the guard at the bottom of the stack that this thread has just mapped, or all above one? */
ft_inline int is_fresh_stack(const struct stack_range *range, __u64 start, __u64 length)
{
	__u64 mask = (1ULL << config.page_shift) - 1;
	__u64 end = range->start + range->bytes;

	if (port_now_ns() - range->time_ns > STACK_FRESH_NS || start < range->start || start >= end)
		return 0;
	return start == range->start || start + ((length + mask) & ~mask) == end;
}

ft_inline void on_mprotect(void *ctx, __u64 start, __u64 length, __u64 prot, int error)
{
	__u32 thread = bpf_get_current_pid_tgid();
	struct stack_range *range;

	if (error >= 0)
		return;
	range = bpf_map_lookup_elem(&stacks, &thread);
	/* glibc, nptl/allocatestack.c: it maps the whole, then opens all but the guard. */
	if (range && is_fresh_stack(range, start, length))
		on_stack(ctx, FT_STEP_MPROTECT, length, prot, error);
	else if (port_refusal())
		port_refusal_drop();
}

/* unsigned long vm_mmap_pgoff(struct file *, addr, len, prot, flag, pgoff) */
SEC("fexit/vm_mmap_pgoff")
int fexit_vm_mmap_pgoff(__u64 *ctx)
{
	/* Nearly all mmaps that succeed are of no interest: leave at once. */
	if (!(ctx[4] & MAP_STACK) && !IS_ERR_VALUE(ctx[6]))
		return 0;
	on_mmap(ctx, ctx[2], ctx[3], ctx[4], ctx[6]);
	return 0;
}

/* int do_mprotect_pkey(unsigned long start, size_t len, unsigned long prot, int pkey) */
SEC("fexit/do_mprotect_pkey")
int fexit_do_mprotect_pkey(__u64 *ctx)
{
	if ((int)ctx[4] < 0)
		on_mprotect(ctx, ctx[0], ctx[1], ctx[2], (int)ctx[4]);
	return 0;
}

/* System calls: the lowest rung, and beside the upper ones for what never reaches copy_process. */

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

/* TRACE_EVENT_FN(sys_enter, struct pt_regs *regs, long id), include/trace/events/syscalls.h */
SEC("raw_tp/sys_enter")
int raw_sys_enter(__u64 *ctx)
{
	long number = ctx[1];

	/* Every system call of the host comes here: nearly all of them leave at once. */
	if (number != NR_CLONE && number != NR_CLONE3 && number != NR_FORK && number != NR_VFORK &&
	    number != COMPAT_NR_FORK && number != COMPAT_NR_CLONE && number != COMPAT_NR_VFORK)
		return 0;
	if (call_of(syscall_number_in((struct pt_regs *)ctx[0])) != FT_SYSCALL_KERNEL)
		ft_on_call_enter();
	return 0;
}

/* TRACE_EVENT_FN(sys_exit, struct pt_regs *regs, long ret) */
SEC("raw_tp/sys_exit")
int raw_sys_exit(__u64 *ctx)
{
	struct pt_regs *regs = (struct pt_regs *)ctx[0];
	__s64 result = ctx[1];
	__u64 flags = 0, set_tid_size = 0;
	long number = -1;
	__u8 call;

	/* Every system call of the host comes here: nearly all of them leave at once. */
#if defined(__TARGET_ARCH_x86)
	bpf_core_read(&number, sizeof(number), &regs->orig_ax);
#else
	number = syscall_number_in(regs) & ~COMPAT_CALL;
#endif
	if (number != NR_CLONE && number != NR_CLONE3 && number != NR_FORK && number != NR_VFORK &&
	    number != NR_MMAP && number != NR_MPROTECT && number != COMPAT_NR_FORK &&
	    number != COMPAT_NR_CLONE && number != COMPAT_NR_VFORK)
		return 0;
	if ((number == NR_MMAP || number == NR_MPROTECT) && !config.is_by_syscall)
		return 0;
	number = syscall_number_in(regs);
	if (config.is_by_syscall) {
		if (number == NR_MMAP) {
			if (ARGUMENT_3(regs) & MAP_STACK)
				on_mmap(ctx, ARGUMENT_1(regs, number), ARGUMENT_2(regs),
					ARGUMENT_3(regs), result);
			return 0;
		}
		if (number == NR_MPROTECT) {
			if (IS_ERR_VALUE(result))
				on_mprotect(ctx, ARGUMENT_0(regs, number), ARGUMENT_1(regs, number),
					    ARGUMENT_2(regs), (int)result);
			return 0;
		}
	}
	call = call_of(number);
	if (call == FT_SYSCALL_KERNEL)
		return 0;
	if (IS_ERR_VALUE(result)) {
		if (call == FT_SYSCALL_CLONE) {
			/* The low byte is the exit signal; the upper half is not looked at. */
			flags = ARGUMENT_0(regs, number) & 0xffffff00ULL;
		} else if (call == FT_SYSCALL_CLONE3) {
			/* struct clone_args: the flags are its first word, set_tid_size its tenth */
			bpf_probe_read_user(&flags, sizeof(flags), (void *)ARGUMENT_0(regs, number));
			if (ARGUMENT_1(regs, number) >= 80 &&
			    bpf_probe_read_user(&set_tid_size, sizeof(set_tid_size),
						(void *)(ARGUMENT_0(regs, number) + 72)))
				set_tid_size = 0;
		} else if (call == FT_SYSCALL_VFORK) {
			flags = 0x4100; /* CLONE_VFORK | CLONE_VM */
		}
	}
	ft_on_call_exit(ctx, result, flags, !!set_tid_size);
	return 0;
}
