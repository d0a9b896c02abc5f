/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The programs on a function's entry and at its return, as either shell makes them of a
 * line in probes.def. A shell defines PROGRAM, RETURNED and PASSED_0 to PASSED_2 before.
 *
 * At a return there is the value and no argument, each to be read at its own width (slots.h).
 * Functions that return a pointer carry the error as the pointer's value, or NULL.
 */
#ifndef FORK_TRACE_PROGRAMS_H
#define FORK_TRACE_PROGRAMS_H

#include "steps.h"

/* What is saved on the entry. */

#define ENTRY(name, function, body)            \
	PROGRAM("kprobe/" function)            \
	int kprobe_##name(struct pt_regs *ctx) \
	{                                      \
		return body;                   \
	}

#define SAVE_NONE(name, function, step)
#define SAVE_ATTEMPT(name, function, step) /* by the shell */
#define SAVE_ARG_0(name, function, step) ENTRY(name, function, save_args(step, PASSED_0(ctx), 0))
#define SAVE_ARG_1(name, function, step) ENTRY(name, function, save_args(step, PASSED_1(ctx), 0))
#define SAVE_ARG_2(name, function, step) ENTRY(name, function, save_args(step, PASSED_2(ctx), 0))
#define SAVE_ARGS_1_2(name, function, step) \
	ENTRY(name, function, save_args(step, PASSED_1(ctx), PASSED_2(ctx)))
#define SAVE_CHARGE(name, function, step) ENTRY(name, function, save_memory_cgroup(PASSED_0(ctx)))
#define SAVE_CAPABILITY(name, function, step) ENTRY(name, function, save_capability(PASSED_0(ctx)))

/* What is told at the return. */

/* Must it be asked who called the function? By the column `callers` of probes.def. */
#define IS_FORK_BY_FORK(ctx) 1
#define IS_FORK_BY_OTHERS(ctx) is_inside_fork(ctx)

#define RETURN_SHELL(name, function, returns, step, of, callers)
#define RETURN_OUTER(name, function, returns, step, of, callers) \
	RETURN_STEP(name, function, returns, step, FT_STEP_##of, callers)
#define RETURN_PLAIN(name, function, returns, step, of, callers) \
	RETURN_STEP(name, function, returns, step, step, callers)
#define RETURN_STEP(name, function, returns, step, last, callers)           \
	PROGRAM("kretprobe/" function)                                      \
	int kretprobe_##name(struct pt_regs *ctx)                           \
	{                                                                   \
		__u64 result = RETURNED(ctx);                               \
                                                                            \
		if (REFUSED_##returns(result) && IS_FORK_BY_##callers(ctx)) \
			step_refused(step, ERROR_##returns(result), last);  \
		return 0;                                                   \
	}

#define RETURN_NAMESPACE(name, function, returns, step, of, callers)                      \
	PROGRAM("kretprobe/" function)                                                    \
	int kretprobe_##name(struct pt_regs *ctx)                                         \
	{                                                                                 \
		return on_namespace_return(                                               \
			ctx, step, RETURNED(ctx),                                         \
			bpf_core_enum_value(enum ucount_type, UCOUNT_##of##_NAMESPACES)); \
	}

#define RETURN_OWN(name, function, returns, step, of, callers) \
	PROGRAM("kretprobe/" function)                         \
	int kretprobe_##name(struct pt_regs *ctx)              \
	{                                                      \
		return on_##of##_return(ctx, RETURNED(ctx));   \
	}

#define RETURN_EACH RETURN_OWN

#endif
