// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Counts failed forks from the first moment on: what is attached first, as it is loaded with an
 * eighth of the instructions that all programs take. The program of fork_trace.bpf.c that does the same,
 * and explains, takes its place by a tail call as soon as it is loaded: for each fork it is
 * either the one or the other.
 */
#include "kernel_types.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#define ft_inline static __always_inline
#define ft_outline static __attribute__((noinline, unused))
#include "caller.h"
#include "count.h"
#include "counters.h"
#include "slots.h"
#include "without_refusals.h"

char LICENSE[] SEC("license") = "GPL";

/* Of fork_trace.bpf.c: fexit_copy_process or raw_sys_exit, once it is there. */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} successor SEC(".maps");

ft_inline void port_send_stack(__u64 time_ns)
{
}

/* Count it under who asked; nobody looks why it failed. */
ft_inline void count_unjudged(__s32 error, __u64 flags)
{
	struct ft_key key = {};
	struct ft_tally *tally;

	if (!ft_is_failure(error, &key))
		return;
	key.error = error;
	key.candidates = 1ULL << FT_CANDIDATE_UNJUDGED;
	if (flags & FT_CLONE_THREAD)
		key.bits |= FT_BIT_THREAD;
	tally = ft_count_exactly(&key);
	if (!tally)
		return;
	port_add(&tally->unsampled);
	port_stat(FT_STAT_EARLY);
}

/* Apart from those that succeed, which shall not even save registers for it. */
ft_outline int count_copy(__u64 *ctx)
{
	count_unjudged(error_in(&ctx[4]), flags_of_args((struct kernel_clone_args *)ctx[3]));
	return 0;
}

SEC("fexit/copy_process")
int count_copy_process(__u64 *ctx)
{
	__u64 result = ctx[4];

	if (!IS_ERR_VALUE(result) && !port_has_charge_marks())
		return 0;
	bpf_tail_call(ctx, &successor, 0);
	return IS_ERR_VALUE(ctx[4]) ? count_copy(ctx) : 0;
}

/*
 * In the tracepoint attach mode. A clone3 that is answered ENOSYS is left out: most who are go on to
 * clone, and the successor alone waits for that. Of other calls it knows nothing.
 */
SEC("raw_tp/sys_exit")
int count_sys_exit(__u64 *ctx)
{
	struct pt_regs *regs = (struct pt_regs *)ctx[0];
	__s64 result = LONG_IN(ctx[1]);
	long number = bare_number_in(regs);
	__u64 set_tid_size;
	__u8 call;

	if (!is_watched_call(number) && !port_has_pending() && result != -FT_EAGAIN &&
	    result != -FT_ENOSPC)
		return 0;
	bpf_tail_call(ctx, &successor, 0);
	if (is_untaken_x32(number, result))
		return 0;
	number = syscall_number_in(regs);
	call = call_of(number);
	if (call == FT_SYSCALL_KERNEL)
		return 0;
	/* raw_sys_enter is there a moment before the successor: nobody else takes what it notes. */
	port_call_take();
	if (IS_ERR_VALUE(result) && !(call == FT_SYSCALL_CLONE3 && result == -FT_ENOSYS))
		count_unjudged(INT_IN(result), flags_in(regs, number, &set_tid_size));
	return 0;
}
