// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The CO-RE shell: maps, port and entry points for libbpf. One object for every
 * kernel with BTF; what differs between kernels is asked of the running one.
 */
#include "kernel_types.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#define ft_inline static __always_inline
#include "counters.h"
#include "judge.h"
#include "maker.h"
#include "steps.h"

char LICENSE[] SEC("license") = "GPL";

/* Brings the types into this object's BTF, where tests/test_abi.py reads them. */
const struct ft_event *ft_unused_event __attribute__((unused));
const struct ft_tally *ft_unused_tally __attribute__((unused));
const struct ft_config *ft_unused_config __attribute__((unused));
const struct ft_stack *ft_unused_stack __attribute__((unused));
const struct ft_level *ft_unused_level __attribute__((unused));
const enum ft_maker_kind *ft_unused_maker_kind __attribute__((unused));
const enum ft_level_kind *ft_unused_level_kind __attribute__((unused));
const enum ft_moved *ft_unused_moved __attribute__((unused));
const enum ft_candidate *ft_unused_candidate __attribute__((unused));
const enum ft_step *ft_unused_step __attribute__((unused));
const enum ft_detail *ft_unused_detail __attribute__((unused));
const enum ft_syscall *ft_unused_syscall __attribute__((unused));
const enum ft_number *ft_unused_number __attribute__((unused));
const enum ft_stat *ft_unused_stat __attribute__((unused));
const enum ft_reader *ft_unused_reader __attribute__((unused));
const struct ft_big_fork *ft_unused_big_fork __attribute__((unused));
const struct ft_huge_death *ft_unused_huge_death __attribute__((unused));
const struct ft_death *ft_unused_death __attribute__((unused));
const enum ft_phase *ft_unused_phase __attribute__((unused));

/* Maps. All of them are preallocated: during the incident there may be no memory. */

#define EVENTS_SHIFT 21

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries,
	       1 << EVENTS_SHIFT); /* 900 samples; the reader looks ten times a second */
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, FT_KINDS);
	__type(key, __u32);
	__type(value, struct ft_kind);
} kinds SEC(".maps");

/* Threads between a step's refusal and the end of its copy_process. */
struct {
	/*
	 * The longest unused goes first: some are never taken, where a program was left out. One that was
	 * taken stays, closed: who was refused once is mostly refused again, and to make it anew would be
	 * a quarter of what a failure costs.
	 */
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 2048);
	__type(key, __u32);
	__type(value, struct ft_refusal);
} refusals SEC(".maps");

/* Threads whose last call was a clone3 that was answered ENOSYS. One that ended since is evicted. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, struct ft_pending);
} pending_calls SEC(".maps");

/* The last stack that each thread mapped for another; what is evicted is not counted, never wrong. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, struct ft_stack_range);
} stacks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192); /* twice as many as can be followed to their return */
	__type(key, __u32); /* thread */
	__type(value, struct ft_attempt);
} attempts SEC(".maps");

/* Of which failure a mark is: between the programs of one call nobody sleeps. */
struct mark {
	__u64 sleeps; /* how often the thread had slept */
	__s64 error;
};

/* Threads whose failed copy_process one of two programs has counted; see ft_was_copy_counted. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, __u32);
	__type(value, struct mark);
} marks SEC(".maps");

/* Of threads whose copy_process fails right now, where the kernel makes the task. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, struct ft_maker);
} makers SEC(".maps");

/* How many of them there are. */
volatile __s32 maker_count SEC(".data.maker_count") = 0;

ft_inline struct ft_maker *port_maker(void)
{
	__u32 thread = bpf_get_current_pid_tgid();

	return maker_count > 0 ? bpf_map_lookup_elem(&makers, &thread) : 0;
}

ft_inline struct ft_attempt *port_attempt(void)
{
	__u32 thread = bpf_get_current_pid_tgid();

	return bpf_map_lookup_elem(&attempts, &thread);
}

ft_inline void port_attempt_drop(void)
{
	__u32 thread = bpf_get_current_pid_tgid();

	bpf_map_delete_elem(&attempts, &thread);
}

/* Too large for the 512-byte stack of a program. */
static const struct ft_refusal no_refusal;

ft_inline struct ft_refusal *port_refusal(void)
{
	__u32 thread = bpf_get_current_pid_tgid();
	struct ft_refusal *refusal = bpf_map_lookup_elem(&refusals, &thread);

	return refusal && refusal->is_open ? refusal : 0;
}

/* The port. */

ft_inline ft_u64 port_now_ns(void)
{
	return bpf_ktime_get_ns();
}

ft_inline void port_copy(void *to, const void *from, ft_u32 bytes)
{
	bpf_probe_read_kernel(to, bytes, from);
}

ft_inline struct ft_refusal *port_refusal_open(void)
{
	__u32 thread = bpf_get_current_pid_tgid();
	struct ft_refusal *refusal = bpf_map_lookup_elem(&refusals, &thread);

	if (refusal) {
		/* Levels are counted, and frames read as many as were found. */
		__builtin_memset(refusal, 0, __builtin_offsetof(struct ft_refusal, level));
	} else {
		if (bpf_map_update_elem(&refusals, &thread, &no_refusal, BPF_ANY))
			return 0;
		refusal = bpf_map_lookup_elem(&refusals, &thread);
		if (!refusal)
			return 0;
	}
	refusal->is_open = 1;
	return refusal;
}

ft_inline void port_refusal_drop(void)
{
	__u32 thread = bpf_get_current_pid_tgid();
	struct ft_refusal *refusal = bpf_map_lookup_elem(&refusals, &thread);

	if (refusal)
		refusal->is_open = 0;
}

ft_inline void port_refusal_close(struct ft_refusal *refusal)
{
	refusal->is_open = 0;
}

ft_inline struct ft_kind *port_kind(ft_u32 number)
{
	return bpf_map_lookup_elem(&kinds, &number);
}

ft_inline ft_u32 port_crowding(void)
{
	return bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA) >> (EVENTS_SHIFT - 3);
}

ft_inline struct ft_event *port_event(void)
{
	return bpf_ringbuf_reserve(&events, sizeof(struct ft_event), 0);
}

static const struct ft_event no_event;

ft_inline void port_event_clear(struct ft_event *event)
{
	port_copy(event, &no_event, sizeof(*event));
}

ft_inline int port_event_send(void *ctx, struct ft_event *event, int wake)
{
	bpf_ringbuf_submit(event, wake ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP);
	return 0;
}

#include "user_stack.h"

ft_inline void port_send_stack(__u64 time_ns)
{
	if (config.stack_bytes)
		send_stack(time_ns);
}

ft_inline int port_call_note(enum ft_call call)
{
	__u32 thread = bpf_get_current_pid_tgid(), value = call;

	return !bpf_map_update_elem(&calls, &thread, &value, BPF_ANY);
}

ft_inline int port_is_counted(void)
{
	__u32 thread = bpf_get_current_pid_tgid();
	__u32 *value = bpf_map_lookup_elem(&calls, &thread);

	return value && *value == FT_CALL_COUNTED;
}

ft_inline int port_pending_note(const struct ft_pending *pending)
{
	__u32 thread = bpf_get_current_pid_tgid();

	if (bpf_map_update_elem(&pending_calls, &thread, pending, BPF_ANY))
		return 0;
	__sync_fetch_and_add(&pending_count, 1);
	return 1;
}

ft_inline int port_pending_take(struct ft_pending *pending)
{
	__u32 thread = bpf_get_current_pid_tgid();
	struct ft_pending *found = bpf_map_lookup_elem(&pending_calls, &thread);

	if (!found)
		return 0;
	*pending = *found;
	if (!bpf_map_delete_elem(&pending_calls, &thread))
		__sync_fetch_and_add(&pending_count, -1);
	return 1;
}

ft_inline __u64 sleeps(void)
{
	return is_blind(FT_READER_MARK) ? 0 : BPF_CORE_READ(current_task(), nvcsw);
}

ft_inline int port_mark(ft_s32 error)
{
	struct mark mark = { .sleeps = sleeps(), .error = error };
	__u32 thread = bpf_get_current_pid_tgid();

	return !bpf_map_update_elem(&marks, &thread, &mark, BPF_ANY);
}

ft_inline int port_mark_take(ft_s32 error)
{
	__u32 thread = bpf_get_current_pid_tgid();
	struct mark *mark = bpf_map_lookup_elem(&marks, &thread);
	int is_of_this;

	if (!mark)
		return 0;
	is_of_this = mark->error == error && mark->sleeps == sleeps();
	bpf_map_delete_elem(&marks, &thread);
	return is_of_this;
}

/* Nobody waits for this thread's return from anywhere: the kernel had no room to follow it. */
ft_inline int port_is_unreturned(void)
{
	return !is_blind(FT_READER_MARK) && has_field(task_struct, rethooks) &&
	       !BPF_CORE_READ(current_task(), rethooks.first);
}

ft_inline struct ft_stack_range *port_stack(void)
{
	__u32 thread = bpf_get_current_pid_tgid();

	return bpf_map_lookup_elem(&stacks, &thread);
}

ft_inline void port_stack_note(const struct ft_stack_range *range)
{
	__u32 thread = bpf_get_current_pid_tgid();

	bpf_map_update_elem(&stacks, &thread, range, BPF_ANY);
}

/*
 * Entry points, in two ways. A fexit context holds the arguments and then the
 * return value. A kprobe's holds the registers: at a return, only the value.
 * Each is read at its own width (slots.h). Functions that return a pointer carry the error
 * as the pointer's value, or NULL.
 */

/* Once in a program, before it calls anything: v5.10 lets no address within the context be kept. */
#if defined(__TARGET_ARCH_x86)
#define RETURNED(context) ((context)->ax)
#define PASSED_0(context) ((context)->di)
#define PASSED_1(context) ((context)->si)
#define PASSED_2(context) ((context)->dx)
#define PASSED_3(context) ((context)->cx)
#elif defined(__TARGET_ARCH_arm64)
#define RETURNED(context) ((context)->regs[0])
#define PASSED_0(context) ((context)->regs[0])
#define PASSED_1(context) ((context)->regs[1])
#define PASSED_2(context) ((context)->regs[2])
#define PASSED_3(context) ((context)->regs[3])
#endif

#define PROGRAM(place) SEC(place)
#include "programs.h"
#include "late.h"

/* Find out who in the kernel makes the task of these arguments. Only ever run on the error path. */
ft_global int note_maker(__u64 args)
{
	__u32 thread = bpf_get_current_pid_tgid();
	struct ft_maker maker = {};

	if (is_blind(FT_READER_CLONE_ARGS) || is_blind(FT_READER_CALL) ||
	    is_blind(FT_READER_SAMPLE))
		return 0;
	if (args && read_maker(&maker, (struct kernel_clone_args *)args))
		if (!bpf_map_update_elem(&makers, &thread, &maker, BPF_NOEXIST))
			__sync_fetch_and_add(&maker_count, 1);
	return 0;
}

ft_inline void forget_maker(void)
{
	__u32 thread = bpf_get_current_pid_tgid();

	if (port_maker() && !bpf_map_delete_elem(&makers, &thread))
		__sync_fetch_and_add(&maker_count, -1);
}

/* Does a system call ask for it, and nobody in the kernel? In fexit, whose arguments are loaded directly. */
ft_inline int is_of_a_call(struct kernel_clone_args *args)
{
	if (is_blind(FT_READER_CLONE_ARGS) || !has_field(kernel_clone_args, fn) || args->fn)
		return 0;
	if (has_field(kernel_clone_args, io_thread) && BPF_CORE_READ_BITFIELD(args, io_thread))
		return 0;
	if (has_field(kernel_clone_args, user_worker) && BPF_CORE_READ_BITFIELD(args, user_worker))
		return 0;
	return !is_kernel_thread();
}

/* Apart from who loads the argument as well: v5.10 lets no address within the context be kept. */
ft_outline int note_maker_of(__u64 *ctx)
{
	return note_maker(number_in(&ctx[3]));
}

/* struct task_struct *copy_process(struct pid *, int trace, int node, struct kernel_clone_args *) */
ft_inline int copied(__u64 *ctx, int is_second)
{
	int error;

	if (!IS_ERR_VALUE(ctx[4])) {
		ft_on_copied();
		if (!is_second && is_big_fork(ctx))
			note_big_fork(number_in(&ctx[4]));
		return 0;
	}
	error = error_in(&ctx[4]);
	if (ft_was_copy_counted(error, is_second))
		return 0;
	if (!is_of_a_call((struct kernel_clone_args *)ctx[3]))
		note_maker_of(ctx);
	ft_on_copy_process(ctx, error, flags_of_args((struct kernel_clone_args *)ctx[3]));
	forget_maker();
	return 0;
}

SEC("fexit/copy_process")
int fexit_copy_process(__u64 *ctx)
{
	return copied(ctx, 0);
}

/* For kernels that preempt a task in a program, and leave that one out meanwhile. */
SEC("fexit/copy_process")
int fexit_copy_process_again(__u64 *ctx)
{
	return copied(ctx, 1);
}

/*
 * The same, with preemption off, and without the arguments: the flags are those of
 * the system call. Of a task that the kernel makes by itself they stay unknown, but
 * for CLONE_VM: it copies no address space.
 */
SEC("kretprobe/copy_process")
int kretprobe_copy_process_again(struct pt_regs *ctx)
{
	__u64 result = RETURNED(ctx);

	if (!IS_ERR_VALUE(result) || ft_was_copy_counted_before(INT_IN(result)))
		return 0;
	ft_on_copy_process(ctx, INT_IN(result),
			   is_fork_call() ? flags_of_call() : FT_FLAGS_UNKNOWN | FT_CLONE_VM);
	return 0;
}

SEC("kprobe/copy_process")
int kprobe_copy_process(struct pt_regs *ctx)
{
	struct ft_attempt attempt = { .args = PASSED_3(ctx) };
	__u32 thread = bpf_get_current_pid_tgid();

	/* From now on every program is in place: what is noted will be seen to return. */
	if (port_phase() == FT_PHASE_OFF)
		return 0;
	if (!bpf_map_update_elem(&attempts, &thread, &attempt, BPF_NOEXIST))
		return 0;
	if (!bpf_map_lookup_elem(&attempts, &thread)) {
		port_stat(FT_STAT_UNTRACKED);
		return 0;
	}
	/* Its last fork has ended, and nobody saw how: the kernel had no room to follow it. */
	port_stat(FT_STAT_UNRETURNED);
	port_refusal_drop();
	bpf_map_update_elem(&attempts, &thread, &attempt, BPF_ANY);
	return 0;
}

SEC("kretprobe/copy_process")
int kretprobe_copy_process(struct pt_regs *ctx)
{
	__u32 thread = bpf_get_current_pid_tgid();
	struct ft_attempt *attempt = port_attempt();
	__u64 result = RETURNED(ctx);

	if (IS_ERR_VALUE(result)) {
		if (attempt)
			note_maker(attempt->args);
		ft_on_copy_process(ctx, INT_IN(result), flags_of_attempt(attempt));
		forget_maker();
	} else {
		ft_on_copied();
	}
	bpf_map_delete_elem(&attempts, &thread);
	return 0;
}

#define ERROR_AT_INT(slot) INT_IN(*(slot))
#define ERROR_AT_ERR_PTR(slot) error_in(slot)
#define ERROR_AT_PTR(slot) (-FT_ENOMEM)
#define SLOT_ARG_1 1
#define SLOT_ARG_2 2

/* The return value follows the arguments: its slot is their number. */
#define EXIT_SHELL(name, function, slot, returns, step, of, saves, callers)
#define EXIT_OUTER(name, function, slot, returns, step, of, saves, callers) \
	EXIT_STEP(name, function, slot, returns, step, FT_STEP_##of, callers)
#define EXIT_PLAIN(name, function, slot, returns, step, of, saves, callers) \
	EXIT_STEP(name, function, slot, returns, step, step, callers)
#define EXIT_STEP(name, function, slot, returns, step, last, callers)             \
	SEC("fexit/" function)                                                    \
	int fexit_##name(__u64 *ctx)                                              \
	{                                                                         \
		if (REFUSED_##returns(ctx[slot]) && IS_FORK_BY_##callers(ctx))    \
			step_refused(step, ERROR_AT_##returns(&ctx[slot]), last); \
		return 0;                                                         \
	}

/* struct X_namespace *copy_X(flags, ...): which argument is the owning user namespace differs. */
#define EXIT_NAMESPACE(name, function, slot, returns, step, of, saves, callers)               \
	SEC("fexit/" function)                                                                \
	int fexit_##name(__u64 *ctx)                                                          \
	{                                                                                     \
		__u64 type = bpf_core_enum_value(enum ucount_type, UCOUNT_##of##_NAMESPACES); \
                                                                                              \
		if (!IS_ERR_VALUE(ctx[slot]))                                                 \
			return 0;                                                             \
		if (!IS_FORK_BY_##callers(ctx))                                               \
			return unshare_refused(step, error_in(&ctx[slot]),                    \
					       number_in(&ctx[SLOT_##saves]), type);          \
		namespace_refused(step, error_in(&ctx[slot]), number_in(&ctx[SLOT_##saves]),  \
				  type);                                                      \
		return 0;                                                                     \
	}

/* What to do about a refusal is apart: whoever returns without one shall not even save registers for it. */
#define EXIT_OWN(name, function, slot, returns, step, of, saves, callers)   \
	SEC("fexit/" function)                                              \
	int fexit_##name(__u64 *ctx)                                        \
	{                                                                   \
		return REFUSED_##returns(ctx[slot]) ? exit_##name(ctx) : 0; \
	}

#define EXIT_EACH(name, function, slot, returns, step, of, saves, callers) \
	SEC("fexit/" function)                                             \
	int fexit_##name(__u64 *ctx)                                       \
	{                                                                  \
		return exit_##name(ctx);                                   \
	}

ft_outline int exit_copy_clone_args(__u64 *ctx)
{
	return on_clone_args_return(ctx, LONG_IN(ctx[3]));
}

ft_outline int exit_capable(__u64 *ctx)
{
	return on_capable(ctx, INT_IN(ctx[0]), !REFUSED_FALSE(ctx[1]));
}

ft_outline int exit_dup_fd(__u64 *ctx)
{
	return on_dup_fd(ctx, error_in(&ctx[2]), (struct files_struct *)ctx[0]);
}

ft_outline int exit_dup_fd_510(__u64 *ctx)
{
	int *errorp = 0;
	int error = 0;

	/* Not ctx[2] itself: v5.10 lets no program load an argument of type int *. */
	bpf_probe_read_kernel(&errorp, sizeof(errorp), &ctx[2]);
	if (bpf_probe_read_kernel(&error, sizeof(error), errorp))
		return 0;
	return on_dup_fd(ctx, error, (struct files_struct *)ctx[0]);
}

/* int __vm_enough_memory(struct mm_struct *, long pages, int cap_sys_admin) */
ft_outline int exit_vm_enough_memory(__u64 *ctx)
{
	return on_vm_enough_memory(ctx, INT_IN(ctx[3]), (struct mm_struct *)ctx[0], LONG_IN(ctx[1]),
				   INT_IN(ctx[2]));
}

ft_outline int exit_alloc_pid(__u64 *ctx)
{
	return on_alloc_pid(error_in(&ctx[3]), number_in(&ctx[0]));
}

ft_outline int exit_cgroup_can_fork(__u64 *ctx)
{
	return on_cgroup_can_fork(INT_IN(ctx[2]), (struct kernel_clone_args *)ctx[1]);
}

ft_outline int exit_mem_cgroup_out_of_memory(__u64 *ctx)
{
	return on_memory_cgroup(ctx, number_in(&ctx[0]));
}

ft_outline int exit_create_user_ns(__u64 *ctx)
{
	return on_create_user_ns(ctx, INT_IN(ctx[1]), (struct cred *)ctx[0]);
}

/* unsigned long vm_mmap_pgoff(struct file *, addr, len, prot, flag, pgoff) */
ft_inline int exit_vm_mmap_pgoff(__u64 *ctx)
{
	/* Nearly all mmaps that succeed are of no interest: leave at once. */
	if (!(LONG_IN(ctx[4]) & MAP_STACK) && !IS_ERR_VALUE(ctx[6]))
		return 0;
	on_mmap(ctx, LONG_IN(ctx[2]), LONG_IN(ctx[3]), LONG_IN(ctx[4]), LONG_IN(ctx[6]));
	return 0;
}

/* int do_mprotect_pkey(unsigned long start, size_t len, unsigned long prot, int pkey) */
ft_outline int exit_do_mprotect_pkey(__u64 *ctx)
{
	on_mprotect(ctx, LONG_IN(ctx[0]), LONG_IN(ctx[1]), LONG_IN(ctx[2]), INT_IN(ctx[4]));
	return 0;
}

/* long __x64_sys_mprotect(const struct pt_regs *) */
ft_outline int exit_x64_sys_mprotect(__u64 *ctx)
{
	return on_mprotect_return(ctx, LONG_IN(ctx[1]));
}

ft_outline int exit_arm64_sys_mprotect(__u64 *ctx)
{
	return on_mprotect_return(ctx, LONG_IN(ctx[1]));
}

#define PROBE(step, name, function, parameters, returns, body, of, saves, callers, stage)     \
	EXIT_##body(name, #function, parameters, returns, FT_STEP_##step, of, saves, callers) \
		SAVE_##saves(name, #function, FT_STEP_##step)                                 \
			RETURN_##body(name, #function, returns, FT_STEP_##step, of, callers)
#include "probes.def"

/* What the functions above refused to unshare. */
SEC("fexit/unshare_nsproxy_namespaces")
int fexit_unshare_namespaces(__u64 *ctx)
{
	return REFUSED_INT(ctx[4]) ? on_unshare_return(ctx, INT_IN(ctx[4])) : 0;
}

SEC("fexit/unshare_userns")
int fexit_unshare_userns(__u64 *ctx)
{
	return REFUSED_INT(ctx[2]) ? on_unshare_return(ctx, INT_IN(ctx[2])) : 0;
}

SEC("kretprobe/unshare_nsproxy_namespaces")
int kretprobe_unshare_namespaces(struct pt_regs *ctx)
{
	__u64 result = RETURNED(ctx);

	return REFUSED_INT(result) ? on_unshare_return(ctx, INT_IN(result)) : 0;
}

SEC("kretprobe/unshare_userns")
int kretprobe_unshare_userns(struct pt_regs *ctx)
{
	__u64 result = RETURNED(ctx);

	return REFUSED_INT(result) ? on_unshare_return(ctx, INT_IN(result)) : 0;
}

/*
 * What RLIMIT_NPROC refuses to execve, in each way to call it. A 32-bit call's program goes on to
 * that of the machine's own, which tells: in full it would have to be verified once more.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} execve_tells SEC(".maps");

ft_outline int exit_execve(__u64 *ctx)
{
	return on_execve_return(ctx, LONG_IN(ctx[1]));
}

#define EXECVE(function)                                                            \
	SEC("fexit/" #function)                                                     \
	int fexit_##function(__u64 *ctx)                                            \
	{                                                                           \
		return (__s64)LONG_IN(ctx[1]) == -FT_EAGAIN ? exit_execve(ctx) : 0; \
	}                                                                           \
	SEC("kretprobe/" #function)                                                 \
	int kretprobe_##function(struct pt_regs *ctx)                               \
	{                                                                           \
		return on_execve_return(ctx, RETURNED(ctx));                        \
	}
#define EXECVE_32(function)                                   \
	SEC("fexit/" #function)                               \
	int fexit_##function(__u64 *ctx)                      \
	{                                                     \
		if (is_exec_over_nproc(LONG_IN(ctx[1])))      \
			bpf_tail_call(ctx, &execve_tells, 0); \
		return 0;                                     \
	}                                                     \
	SEC("kretprobe/" #function)                           \
	int kretprobe_##function(struct pt_regs *ctx)         \
	{                                                     \
		if (is_exec_over_nproc(RETURNED(ctx)))        \
			bpf_tail_call(ctx, &execve_tells, 0); \
		return 0;                                     \
	}

EXECVE(__x64_sys_execve)
EXECVE(__x64_sys_execveat)
EXECVE_32(__ia32_compat_sys_execve)
EXECVE_32(__ia32_compat_sys_execveat)
EXECVE(__arm64_sys_execve)
EXECVE(__arm64_sys_execveat)
EXECVE_32(__arm64_compat_sys_execve)
EXECVE_32(__arm64_compat_sys_execveat)

/* TRACE_EVENT_FN(sys_enter, struct pt_regs *regs, long id), include/trace/events/syscalls.h */
SEC("raw_tp/sys_enter")
int raw_sys_enter(__u64 *ctx)
{
	on_sys_enter(ctx, (struct pt_regs *)ctx[0], LONG_IN(ctx[1]));
	return 0;
}

/* TRACE_EVENT_FN(sys_exit, struct pt_regs *regs, long ret) */
SEC("raw_tp/sys_exit")
int raw_sys_exit(__u64 *ctx)
{
	on_sys_exit(ctx, (struct pt_regs *)ctx[0], LONG_IN(ctx[1]), 0);
	return 0;
}

/* The same once more, attached after them, for kernels that preempt: see ft_was_counted. */
SEC("raw_tp/sys_enter")
int raw_sys_enter_again(__u64 *ctx)
{
	on_sys_enter(ctx, (struct pt_regs *)ctx[0], LONG_IN(ctx[1]));
	return 0;
}

SEC("raw_tp/sys_exit")
int raw_sys_exit_again(__u64 *ctx)
{
	on_sys_exit(ctx, (struct pt_regs *)ctx[0], LONG_IN(ctx[1]), 1);
	return 0;
}

/* What becomes of a fork that went through. */

SEC("fentry/oom_kill_process")
int fentry_oom_kill_process(__u64 *ctx)
{
	return on_oom(ctx, number_in(&ctx[0]));
}

/* void __oom_kill_process(struct task_struct *victim, const char *message) */
SEC("fentry/__oom_kill_process")
int fentry_oom_kill(__u64 *ctx)
{
	return on_kill(ctx, number_in(&ctx[0]));
}

SEC("kprobe/oom_kill_process")
int kprobe_oom_kill_process(struct pt_regs *ctx)
{
	return on_oom(ctx, PASSED_0(ctx));
}

SEC("kprobe/__oom_kill_process")
int kprobe_oom_kill(struct pt_regs *ctx)
{
	return on_kill(ctx, PASSED_0(ctx));
}

SEC("fexit/hugetlb_fault")
int fexit_hugetlb_fault(__u64 *ctx)
{
	return on_huge_fault(number_in(&ctx[1]), INT_IN(ctx[3]), INT_IN(ctx[4]));
}

SEC("kprobe/hugetlb_fault")
int kprobe_hugetlb_fault(struct pt_regs *ctx)
{
	struct huge_fault fault = { .vma = PASSED_1(ctx), .flags = PASSED_3(ctx) };
	__u32 thread = bpf_get_current_pid_tgid();

	bpf_map_update_elem(&huge_faults, &thread, &fault, BPF_ANY);
	return 0;
}

SEC("kretprobe/hugetlb_fault")
int kretprobe_hugetlb_fault(struct pt_regs *ctx)
{
	__u32 thread = bpf_get_current_pid_tgid();
	struct huge_fault *fault = bpf_map_lookup_elem(&huge_faults, &thread);
	__u32 result = RETURNED(ctx);

	return fault ? on_huge_fault(fault->vma, fault->flags, result) : 0;
}

SEC("raw_tp/mark_victim")
int raw_mark_victim(__u64 *ctx)
{
	return on_mark_victim(ctx, LONG_IN(ctx[0]));
}
