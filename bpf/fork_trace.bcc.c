// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The bcc shell: maps, port and entry points, compiled on the host against its
 * kernel headers. bcc rewrites the access to maps in this file alone, so all of
 * it is here, and every pointer into the kernel is followed in the headers.
 */
#include "kernel_headers.h"

/* Given at the compilation, see fork_trace/probes/bcc.py: no kernel memory is spent on them. */
#define ft_settings const struct ft_config
/*
 * The verifier knows no functions here and takes every path: what cannot happen is left out.
 * A kprobe has kept the flags of each attempt, and there is no FT_PHASE_ALONE.
 */
#define FT_INLINED_WHOLE
#include "judge.h"
#include "steps.h"

static const struct ft_config config = { FT_CONFIG };

/* Maps. All of them are preallocated: during the incident there may be no memory. */

#if FT_RINGBUF
BPF_RINGBUF_OUTPUT(events, 512); /* pages, of 4 KiB mostly: 900 samples */
#else
BPF_PERF_OUTPUT(events);
BPF_PERCPU_ARRAY(scratch, struct ft_event, 1);
#endif
BPF_HASH(tallies, struct ft_key, struct ft_tally, FT_TALLIES);
BPF_ARRAY(shares, u64, 2 * FT_SHARES); /* of generation 0, then of 1 */
BPF_ARRAY(generation, u32, 1);
BPF_ARRAY(kinds, struct ft_kind, FT_KINDS);
BPF_TABLE("lru_hash", u32, struct ft_refusal, refusals, 1024);
BPF_TABLE("lru_hash", u32, struct ft_attempt, attempts, 8192);
BPF_ARRAY(charge_marks, int, 1);
BPF_ARRAY(stats, u64, FT_STAT_COUNT);
BPF_ARRAY(overflowed, u64, 64);
BPF_HASH(calls, u32, u32, 8192);
BPF_TABLE("lru_hash", u32, struct ft_stack_range, stacks, 1024);
BPF_ARRAY(phase, u32, 1);
BPF_ARRAY(empty, struct ft_refusal, 1); /* never written: too large for a program's stack */

ft_inline struct ft_refusal *port_refusal(void)
{
	u32 thread = bpf_get_current_pid_tgid();

	return refusals.lookup(&thread);
}

ft_inline struct ft_attempt *port_attempt(void)
{
	u32 thread = bpf_get_current_pid_tgid();

	return attempts.lookup(&thread);
}

ft_inline void port_attempt_drop(void)
{
	u32 thread = bpf_get_current_pid_tgid();

	attempts.delete(&thread);
}

/* The port. */

/* Only the frames that the kernel finds: what bcc runs on has rarely memory for more. */
ft_inline void port_send_stack(__u64 time_ns)
{
}

/* Kernels without BTF: what it looks like there is not known. */
ft_inline struct ft_maker *port_maker(void)
{
	return 0;
}

ft_inline ft_settings *port_config(void)
{
	return &config;
}

ft_inline enum ft_phase port_phase(void)
{
	int index = 0;
	u32 *value = phase.lookup(&index);

	return value ? *value : FT_PHASE_OFF;
}

ft_inline ft_u64 port_now_ns(void)
{
	return bpf_ktime_get_ns();
}

ft_inline struct ft_refusal *port_refusal_open(void)
{
	u32 thread = bpf_get_current_pid_tgid();
	int index = 0;
	struct ft_refusal *none = empty.lookup(&index);

	if (!none || refusals.update(&thread, none))
		return 0;
	return refusals.lookup(&thread);
}

ft_inline void port_refusal_drop(void)
{
	u32 thread = bpf_get_current_pid_tgid();

	refusals.delete(&thread);
}

ft_inline void port_refusal_close(struct ft_refusal *refusal)
{
	port_refusal_drop();
}

ft_inline void port_charge_marked(int by)
{
	int index = 0;
	int *marks = charge_marks.lookup(&index);

	if (marks)
		__sync_fetch_and_add(marks, by);
}

ft_inline int port_has_charge_marks(void)
{
	int index = 0;
	int *marks = charge_marks.lookup(&index);

	return marks && *marks > 0;
}

ft_inline struct ft_tally *port_tally(const struct ft_key *key)
{
	struct ft_key own = *key;

	return tallies.lookup(&own);
}

ft_inline int port_tally_make(const struct ft_key *key)
{
	struct ft_key own = *key;
	struct ft_tally none = {};

	return !tallies.insert(&own, &none);
}

ft_inline ft_u32 port_tally_room(void)
{
	return FT_TALLIES;
}

ft_inline ft_u64 *port_share(ft_u32 of, ft_u32 number)
{
	int index = (of ? FT_SHARES : 0) + number;

	return shares.lookup(&index);
}

ft_inline ft_u32 port_generation(void)
{
	int index = 0;
	u32 *value = generation.lookup(&index);

	return value ? *value & 1 : 0;
}

ft_inline ft_u32 port_crowding(void)
{
	return 0;
}

/* Kprobes run with preemption off: nobody tells anything twice. */
ft_inline int port_mark(ft_s32 error)
{
	return 0;
}

ft_inline int port_mark_take(ft_s32 error)
{
	return 0;
}

ft_inline int port_is_unreturned(void)
{
	return 0;
}

ft_inline struct ft_kind *port_kind(ft_u32 number)
{
	int index = number;

	return kinds.lookup(&index);
}

ft_inline void port_add(ft_u64 *counter)
{
	__sync_fetch_and_add(counter, 1);
}

ft_inline void port_fold(ft_u8 step)
{
	int index = step;
	u64 *count = overflowed.lookup(&index);

	if (count)
		__sync_fetch_and_add(count, 1);
}

ft_inline void port_stat(enum ft_stat stat)
{
	int index = stat;
	u64 *count = stats.lookup(&index);

	if (count)
		__sync_fetch_and_add(count, 1);
}

ft_inline struct ft_event *port_event(void)
{
#if FT_RINGBUF
	return events.ringbuf_reserve(sizeof(struct ft_event));
#else
	int index = 0;

	return scratch.lookup(&index);
#endif
}

/* In parts: clang for BPF expands no memset of over 1,024 bytes, and merges neighbours. */
ft_inline void port_event_clear(struct ft_event *event)
{
	__builtin_memset(event, 0, __builtin_offsetof(struct ft_event, user_place));
	__asm__ volatile("" : : : "memory");
	__builtin_memset(event->user_place, 0, sizeof(event->user_place) + sizeof(event->level));
	__asm__ volatile("" : : : "memory");
	__builtin_memset(event->cgroup_path, 0, sizeof(event->cgroup_path));
	__asm__ volatile("" : : : "memory");
	__builtin_memset(&event->maker, 0, sizeof(event->maker));
}

ft_inline void port_copy(void *to, const void *from, ft_u32 bytes)
{
	__builtin_memcpy(to, from, bytes);
}

ft_inline int port_event_send(void *ctx, struct ft_event *event, int wake)
{
#if FT_RINGBUF
	events.ringbuf_submit(event, wake ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP);
	return 0;
#else
	return events.perf_submit(ctx, event, sizeof(*event));
#endif
}

ft_inline int port_call_note(enum ft_call call)
{
	u32 thread = bpf_get_current_pid_tgid(), value = call;

	return !calls.update(&thread, &value);
}

ft_inline enum ft_call port_call_take(void)
{
	u32 thread = bpf_get_current_pid_tgid();
	u32 *value = calls.lookup(&thread);
	enum ft_call call;

	if (!value)
		return FT_CALL_NONE;
	call = *value;
	calls.delete(&thread);
	return call;
}

ft_inline struct ft_stack_range *port_stack(void)
{
	u32 thread = bpf_get_current_pid_tgid();

	return stacks.lookup(&thread);
}

ft_inline void port_stack_note(const struct ft_stack_range *range)
{
	u32 thread = bpf_get_current_pid_tgid();
	struct ft_stack_range own = *range;

	stacks.update(&thread, &own);
}

/*
 * Entry points, by the names of fork_trace/probes/plan.py: what is made of probes.def, and
 * what stands here.
 */

#define PROGRAM(place)
#define RETURNED(context) PT_REGS_RC(context)
#define PASSED_0(context) PT_REGS_PARM1(context)
#define PASSED_1(context) PT_REGS_PARM2(context)
#define PASSED_2(context) PT_REGS_PARM3(context)
#include "programs.h"

/* struct task_struct *copy_process(struct pid *, int trace, int node, struct kernel_clone_args *) */
int kprobe_copy_process(struct pt_regs *ctx)
{
	struct ft_attempt attempt = { .args = PT_REGS_PARM4(ctx) };
	u32 thread = bpf_get_current_pid_tgid();

	/* From now on every program is in place: what is noted will be seen to return. */
	if (port_phase() == FT_PHASE_OFF)
		return 0;
	if (!attempts.insert(&thread, &attempt))
		return 0;
	if (!attempts.lookup(&thread)) {
		port_stat(FT_STAT_UNTRACKED);
		return 0;
	}
	/* Its last fork has ended, and nobody saw how: the kernel had no room to follow it. */
	port_stat(FT_STAT_UNRETURNED);
	port_refusal_drop();
	attempts.update(&thread, &attempt);
	return 0;
}

int kretprobe_copy_process(struct pt_regs *ctx)
{
	u32 thread = bpf_get_current_pid_tgid();
	u64 result = RETURNED(ctx);
	struct ft_attempt *attempt;

	if (IS_ERR_VALUE(result)) {
		attempt = attempts.lookup(&thread);
		ft_on_copy_process(ctx, INT_IN(result), flags_of_attempt(attempt));
	} else {
		ft_on_copied();
	}
	attempts.delete(&thread);
	return 0;
}

/*
 * bcc.py puts the table in the place of these lines: bcc makes programs of this file's
 * functions alone, and of one in a line.
 */
#define PROBE(step, name, function, parameters, returns, body, of, saves, callers, stage) \
	SAVE_##saves(name, #function, FT_STEP_##step)
#include "probes.def"
#define PROBE(step, name, function, parameters, returns, body, of, saves, callers, stage) \
	RETURN_##body(name, #function, returns, FT_STEP_##step, of, callers)
#include "probes.def"

int raw_sys_enter(struct bpf_raw_tracepoint_args *ctx)
{
	on_sys_enter(ctx, (struct pt_regs *)ctx->args[0], ctx->args[1]);
	return 0;
}

int raw_sys_exit(struct bpf_raw_tracepoint_args *ctx)
{
	on_sys_exit(ctx, (struct pt_regs *)ctx->args[0], ctx->args[1], 0);
	return 0;
}
