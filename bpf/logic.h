/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The logic: which step a failed copy_process is blamed on, what is counted and
 * what is sampled. It owns no map, reads no kernel structure and knows no
 * loader; it reaches them through the port.
 *
 * A fork is blamed on a step only if that step refused inside the same call of
 * copy_process. No program runs at its entry, so a fork that succeeds pays for
 * nothing but the exits: the shell proves, on the error path only, that the
 * refusing function was called by copy_process, and from there on copy_process
 * cannot but fail and consume the mark.
 */
#ifndef FORK_TRACE_LOGIC_H
#define FORK_TRACE_LOGIC_H

#include "count.h"
#include "port.h"
#include "refusal.h"
#include "uapi.h"
#include "wire.h"

ft_inline ft_u64 ft_rule(enum ft_rule rule)
{
	return 1ULL << rule;
}

/* 1 if a flag of one bit is set; without a branch, whose paths the verifier would multiply. */
ft_inline ft_u64 ft_has(ft_u64 flags, ft_u64 flag)
{
	return !!(flags & flag);
}

/*
 * Which of copy_process' rules on flags does a call break? A bit for each, see FT_RULES.
 * Those that depend on the caller's state are the shell's.
 */
ft_inline ft_u64 ft_flag_rules(ft_u64 flags)
{
	ft_u64 fs = ft_has(flags, FT_CLONE_FS), thread = ft_has(flags, FT_CLONE_THREAD);
	ft_u64 sighand = ft_has(flags, FT_CLONE_SIGHAND), pidfd = ft_has(flags, FT_CLONE_PIDFD);
	ft_u64 newuser = ft_has(flags, FT_CLONE_NEWUSER), newpid = ft_has(flags, FT_CLONE_NEWPID);
	ft_u64 autoreap = ft_has(flags, FT_CLONE_AUTOREAP);
	ft_u64 autokill = ft_has(flags, FT_CLONE_PIDFD_AUTOKILL);

	return (ft_has(flags, FT_CLONE_NEWNS) & fs) << FT_RULE_NEWNS_FS |
	       (newuser & fs) << FT_RULE_NEWUSER_FS |
	       (thread & ~sighand) << FT_RULE_THREAD_SIGHAND |
	       (sighand & ~ft_has(flags, FT_CLONE_VM)) << FT_RULE_SIGHAND_VM |
	       (thread & (newuser | newpid)) << FT_RULE_THREAD_NEW |
	       (pidfd & ft_has(flags, FT_CLONE_DETACHED)) << FT_RULE_PIDFD_DETACHED |
	       (ft_has(flags, FT_CLONE_NEWIPC) & ft_has(flags, FT_CLONE_SYSVSEM))
		       << FT_RULE_NEWIPC_SYSVSEM |
	       (autoreap & thread) << FT_RULE_AUTOREAP_THREAD |
	       (autoreap & ft_has(flags, FT_CLONE_PARENT)) << FT_RULE_AUTOREAP_PARENT |
	       (ft_has(flags, FT_CLONE_NNP) & thread) << FT_RULE_NNP_THREAD |
	       (autokill & ~pidfd) << FT_RULE_AUTOKILL_PIDFD |
	       (autokill & ~autoreap) << FT_RULE_AUTOKILL_AUTOREAP |
	       (autokill & thread) << FT_RULE_AUTOKILL_THREAD;
}

/* The rules that answer with this errno: all but a few with EINVAL. */
ft_inline ft_u64 ft_rules_of(ft_s32 error)
{
	ft_u64 too_big = ft_rule(FT_RULE_SIZE_LARGE) | ft_rule(FT_RULE_SIZE_UNKNOWN);
	ft_u64 fault = ft_rule(FT_RULE_ARGS_FAULT) | ft_rule(FT_RULE_SET_TID_FAULT);
	ft_u64 denied = ft_rule(FT_RULE_AUTOKILL_ADMIN);

	if (error == -FT_E2BIG)
		return too_big;
	if (error == -FT_EFAULT)
		return fault;
	if (error == -FT_EPERM)
		return denied;
	return error == -FT_EINVAL ? ~(too_big | fault | denied) : 0;
}

/* What the call asked for, as far as it decides between causes. */
ft_inline ft_u64 ft_asked(ft_u64 flags)
{
	ft_u64 candidates = 0;

	if (flags & FT_CLONE_NEWUSER)
		candidates |= 1ULL << FT_CANDIDATE_ASKED_NEWUSER;
	if (flags & FT_CLONE_NEW_ANY)
		candidates |= 1ULL << FT_CANDIDATE_ASKED_NAMESPACE;
	if (flags & FT_CLONE_PIDFD)
		candidates |= 1ULL << FT_CANDIDATE_ASKED_PIDFD;
	if (flags & FT_CLONE_INTO_CGROUP)
		candidates |= 1ULL << FT_CANDIDATE_ASKED_CGROUP;
	if (flags & FT_CLONE_SETTLS)
		candidates |= 1ULL << FT_CANDIDATE_ASKED_TLS;
	if (!(flags & FT_CLONE_VM))
		candidates |= 1ULL << FT_CANDIDATE_COPIES_MM;
	return candidates;
}

/*
 * A watched function refused inside copy_process. Returns where its numbers go,
 * or 0 if it cannot be kept: then copy_process' own return still counts it.
 */
ft_inline struct ft_refusal *ft_on_refusal(ft_u8 step, ft_s32 error)
{
	struct ft_refusal *refusal;

	if (port_phase() == FT_PHASE_OFF)
		return 0;
	refusal = port_has_charge_marks() ? port_refusal() : 0;
	/* A memory cgroup told that it is to blame; now we see whom it refused. */
	if (refusal && refusal->bits & FT_BIT_MEMCG && refusal->step == FT_STEP_COPY_PROCESS &&
	    error == -FT_ENOMEM) {
		refusal->step = step;
		return refusal;
	}
	refusal = port_refusal_open();
	if (!refusal) {
		port_stat(FT_STAT_UNTRACKED);
		return 0;
	}
	refusal->step = step;
	refusal->error = error;
	return refusal;
}

/*
 * The same for a function that hands on what one inside it refused: those have
 * the numbers after its own, up to `last_inner`, and have told more already.
 */
ft_inline struct ft_refusal *ft_on_outer_refusal(ft_u8 step, ft_u8 last_inner, ft_s32 error)
{
	struct ft_refusal *refusal = port_refusal();

	if (refusal && refusal->step > step && refusal->step <= last_inner)
		return 0;
	refusal = ft_on_refusal(step, error);
	if (refusal)
		refusal->is_outer = last_inner > step;
	return refusal;
}

/* A memory cgroup had no room for a charge inside copy_process, and nothing to kill. */
ft_inline struct ft_refusal *ft_on_charge_refused(void)
{
	struct ft_refusal *refusal = port_refusal();
	int was_marked = refusal && refusal->bits & FT_BIT_MEMCG;

	refusal = port_refusal_open();
	if (!refusal) {
		if (was_marked)
			port_charge_marked(-1);
		return 0;
	}
	if (!was_marked)
		port_charge_marked(1);
	refusal->step = FT_STEP_COPY_PROCESS;
	refusal->error = -FT_ENOMEM;
	refusal->bits = FT_BIT_MEMCG;
	return refusal;
}

/* Can this refusal be the one that copy_process returns as `error`? */
ft_inline int ft_is_of(const struct ft_refusal *refusal, ft_s32 error)
{
	if (refusal->error == error)
		return 1;
	/* kernel/fork.c, copy_mm: whatever dup_mm met inside is -ENOMEM outside. */
	return error == -FT_ENOMEM && refusal->step >= FT_STEP_MM_INIT &&
	       refusal->step <= FT_STEP_LDT_DUP_CONTEXT;
}

/* The steps that have a program by now: what is silent there has let the fork pass. */
ft_inline ft_u64 ft_watched(enum ft_phase phase)
{
#ifndef FT_INLINED_WHOLE
	if (phase == FT_PHASE_ALONE)
		return 0;
#endif
	return phase == FT_PHASE_DETAILED ? port_config()->watched_in_detail
					  : port_config()->watched;
}

/*
 * No watched function told why, or only one around it: which tests would refuse, at this
 * instant? That a program was silent proves nothing here: it can have been left out, or its
 * function be part of another. What its silence is worth, user space knows.
 */
ft_inline void ft_judge(struct ft_refusal *refusal, ft_s32 error, ft_u64 flags, enum ft_phase phase,
			ft_u64 watched)
{
	refusal->flags = flags;
	refusal->candidates = ft_asked(flags);
#ifndef FT_INLINED_WHOLE
	if (phase == FT_PHASE_ALONE)
		refusal->bits |= FT_BIT_ALONE;
#endif
	if (phase == FT_PHASE_DETAILED)
		refusal->bits |= FT_BIT_DETAILED;
	port_judge(refusal, error, watched);
}

ft_inline void ft_sample(void *ctx, const struct ft_key *key, struct ft_tally *tally,
			 const struct ft_refusal *refusal, ft_u64 flags, ft_u64 now_ns, int wake)
{
	struct ft_event *event = port_event();

	if (!event)
		goto lost;
	port_event_clear(event);
	event->time_ns = now_ns;
	event->key = *key;
	event->flags = flags;
	if (refusal) {
		event->have = refusal->have;
		event->level_count = refusal->level_count;
		port_copy(event->number, refusal->number, sizeof(event->number));
		port_copy(event->level, refusal->level, sizeof(event->level));
	}
	port_sample(ctx, event);
	if (port_event_send(ctx, event, wake))
		goto lost;
	port_stat(FT_STAT_SAMPLED);
	return;
lost:
	port_add(&tally->unsampled);
	port_stat(FT_STAT_LOST);
}

ft_inline ft_u32 ft_kind_of(const struct ft_key *key)
{
	ft_u64 mixed = ft_mix(ft_mix(port_config()->seed, key->cgroup), key->uid);

	return ft_mix(mixed, key->step ^ (ft_u64)(ft_u32)key->error << 8) >> 54;
}

/*
 * Is this one sampled? Each key has its rate. All of a kind together have twice
 * that, after a burst of eight seconds' worth of one key: the reader's work is
 * bounded, however many commands storm. One that was never sampled may take as
 * much again: a quiet command fails once, in the midst of the others' storm, and
 * is seen. Others count at the same time; the limits are as near as that allows.
 *
 * A reader that gets too little of a CPU sets the pace: half of the buffer is for
 * keys without a sample, and a quarter for kinds that have sent none for a second.
 */
ft_inline int ft_is_sampled(const struct ft_key *key, struct ft_tally *tally, ft_u64 now_ns,
			    int *is_first)
{
	ft_u64 each = port_config()->samples_per_second, most = each;
	struct ft_kind *kind = port_kind(ft_kind_of(key));
	int is_new = tally->unsampled + 1 >= tally->count;
	ft_u64 paid_ns, cost_ns;

	if (!kind || !each)
		return 0;
	cost_ns = FT_NS_PER_S / (2 * each);
	/* Of an owner's others one is enough to go on. */
	if (key->comm[FT_COMM_MARK] & FT_MARK_OTHERS)
		most = 1;
	if (now_ns - tally->window_ns >= FT_NS_PER_S) {
		tally->window_ns = now_ns;
		tally->in_window = 0;
	}
	paid_ns = kind->paid_until_ns;
	if (paid_ns < now_ns)
		paid_ns = now_ns;
	if (kind->paid_until_ns + FT_NS_PER_S > now_ns && port_crowding() >= (is_new ? 6 : 4))
		return 0;
	if (tally->in_window >= most || paid_ns + cost_ns - now_ns > (is_new ? 8 : 4) * FT_NS_PER_S)
		return 0;
	/* Wake the reader for the first of a burst only; it looks by itself soon after. */
	*is_first = paid_ns == now_ns;
	tally->in_window++;
	kind->paid_until_ns = paid_ns + cost_ns;
	return 1;
}

/* Count one failure exactly, and sample it within the rate limits. */
ft_outline int ft_count(void *ctx, struct ft_key *key, const struct ft_refusal *refusal,
			ft_s32 error, ft_u64 flags)
{
	struct ft_tally *tally;
	int is_first = 0;
	ft_u64 now_ns;

	key->error = error;
	if (refusal) {
		key->step = refusal->step;
		key->detail = refusal->detail;
		key->bits |= refusal->bits;
		key->candidates = refusal->candidates;
	} else if (key->step == FT_STEP_COPY_PROCESS) {
		key->candidates = 1ULL << FT_CANDIDATE_UNJUDGED;
	}
	if (flags & FT_CLONE_THREAD)
		key->bits |= FT_BIT_THREAD;
#ifndef FT_INLINED_WHOLE
	if ((flags & FT_FLAGS_UNKNOWN) == FT_FLAGS_UNKNOWN)
		key->bits |= FT_BIT_FLAGS_UNKNOWN;
#endif

	tally = ft_count_exactly(key);
	if (!tally)
		return 0;
	now_ns = port_now_ns();
	if (!ft_is_sampled(key, tally, now_ns, &is_first)) {
		port_add(&tally->unsampled);
		port_stat(FT_STAT_RATE_LIMITED);
		return 0;
	}
	ft_sample(ctx, key, tally, refusal, flags, now_ns, is_first);
	return 0;
}

ft_inline void ft_forget(struct ft_refusal *refusal)
{
	if (!refusal)
		return;
	if (refusal->bits & FT_BIT_MEMCG)
		port_charge_marked(-1);
	port_refusal_close(refusal);
}

ft_inline void ft_forget_refusal(void)
{
	ft_forget(port_refusal());
}

/* copy_process returned `error`, for a call with the CLONE_* `flags`. */
ft_inline void ft_on_copy_process(void *ctx, ft_s32 error, ft_u64 flags)
{
	struct ft_refusal *kept = port_refusal(), *refusal = kept;
	enum ft_phase phase = port_phase(); /* once: it can move meanwhile */
	struct ft_key key = {};
	int judges = 0;

	/*
	 * Whatever becomes of it here, the system call's exit must not count it
	 * again. Of a worker that the kernel makes no such exit follows: its note
	 * would stay, and hide a later call that a filter answers.
	 */
	if (port_config()->watches_early) {
		port_who(&key);
		if (key.syscall != FT_SYSCALL_KERNEL)
			port_call_note(FT_CALL_REACHED);
	}
	if (!ft_is_failure(error, &key))
		goto out;
	/* Left over from an mmap that came through after all: it tells nothing of this call. */
	if (refusal && refusal->is_of_stack)
		refusal = 0;
	if (refusal && !ft_is_of(refusal, error)) {
		/* Cannot happen by the kernel's source; if it does, blame nobody. */
		port_stat(FT_STAT_MISMATCH);
		refusal = 0;
	}
	if (refusal && refusal->step != FT_STEP_COPY_PROCESS) {
		key.bits |= FT_BIT_OBSERVED;
#ifndef FT_INLINED_WHOLE /* too much to verify in one program */
		judges = refusal->is_outer && !refusal->bits;
#endif
	} else if (!refusal) {
		refusal = port_refusal_open(); /* its step is copy_process, which is 0 */
		if (refusal)
			refusal->error = error;
		judges = 1;
	}
	if (refusal)
		refusal->flags = flags;
	if (refusal && judges)
		ft_judge(refusal, error, flags, phase, ft_watched(phase));
	else if (refusal && error == -FT_ENOMEM && !refusal->bits && !refusal->detail)
		/* A charge that is not worth a kill fails without a word: was there room? */
		port_judge_memory_cgroup();
	ft_count(ctx, &key, refusal, error, flags);
out:
	ft_forget(refusal ? refusal : kept);
}

/*
 * copy_process succeeded. A charge that a memory cgroup had no room for is made all the same
 * with __GFP_NOFAIL, and for every kernel allocation up to v5.13 (mm/memcontrol.c, try_charge):
 * the mark of it must not tell the next failure.
 */
ft_inline void ft_on_copied(void)
{
	struct ft_refusal *refusal;

	if (!port_has_charge_marks())
		return;
	refusal = port_refusal();
	if (refusal && refusal->bits & FT_BIT_MEMCG)
		ft_forget_refusal();
}

#ifndef FT_INLINED_WHOLE
/*
 * A clone3 answered with ENOSYS, by a kernel without it or by a filter, is no failure if the
 * caller then makes its task another way: glibc, crun and others go on to clone at once. So it
 * waits for the thread's next system call; 0: it found no room, and is counted now.
 */
ft_inline int ft_waits_for_fallback(const struct ft_key *key, const struct ft_refusal *refusal,
				    ft_s32 error, ft_u64 flags)
{
	struct ft_pending pending = { .key = *key, .flags = flags };

	if (error != -FT_ENOSYS || key->syscall != FT_SYSCALL_CLONE3)
		return 0;
	if (refusal) {
		pending.key.step = refusal->step;
		pending.key.candidates = refusal->candidates;
	}
	pending.key.bits |= FT_BIT_LATE;
	return port_pending_note(&pending);
}

/*
 * Does the exit of a call end what waits since an earlier one? The second program comes after the same
 * call as the first, whose own wait it must not end; an earlier one's it does, if the first was left out.
 */
ft_inline int ft_ends_wait(int is_second)
{
	return port_has_pending() && !(is_second && port_is_counted());
}

/*
 * This thread's next system call: `syscall` of enum ft_syscall. Another of the fork family is the
 * fallback, which tells its own end. After anything else, clone3 once more included, the ENOSYS
 * was the answer.
 */
ft_outline int ft_on_next_call(void *ctx, ft_u8 syscall)
{
	struct ft_pending pending = {};

	if (!port_pending_take(&pending))
		return 0;
	if (syscall == FT_SYSCALL_FORK || syscall == FT_SYSCALL_VFORK ||
	    syscall == FT_SYSCALL_CLONE)
		return 0;
	if (!port_config()->is_by_syscall)
		port_stat(FT_STAT_BEFORE_FORK);
	ft_count(ctx, &pending.key, 0, -FT_ENOSYS, pending.flags);
	return 0;
}
#endif

/*
 * Has this thread's copy_process begun, and no program seen its end? The kernel passes over the
 * kprobes of a processor where a look at a map was preempted (kernel/trace/bpf_trace.c,
 * trace_call_bpf). What a step told is still there.
 */
ft_inline int ft_is_unreturned(void)
{
	return port_config()->notes_attempts && port_attempt();
}

/* A system call of the fork family begins; it gets here past seccomp and ptrace. */
ft_inline void ft_on_call_enter(void)
{
	if (ft_is_unreturned()) {
		/* An earlier one's, which this one must not be taken for. */
		port_stat(FT_STAT_UNRETURNED);
		ft_forget_refusal();
		port_attempt_drop();
	}
	if (port_phase() != FT_PHASE_OFF && !port_call_note(FT_CALL_ENTERED))
		port_stat(FT_STAT_UNTRACKED);
}

/*
 * Where a task can be preempted in the middle of a program, the kernel leaves that
 * program out, as a recursion, for whoever runs there next. A second one on the same
 * exit sees to what the first one did not count. Is this failure counted? `call` is how
 * far its call had come.
 */
ft_inline int ft_was_counted(enum ft_call call, int is_second)
{
	if (!port_config()->watches_twice)
		return 0;
	if (is_second)
		return call == FT_CALL_COUNTED;
	return !port_call_note(FT_CALL_COUNTED);
}

/*
 * The same of copy_process, whose two fexit programs run in either order: the one
 * that runs first leaves a mark for the other. A mark that stays, for the other was
 * left out, only makes the second one tell the next failure.
 *
 * Where the second one is at the return, only the first leaves marks, and none that
 * nobody would take. Without room for one the failure is left to the second. A failure
 * that is not counted yet is marked as well: the counting may begin between the two,
 * and the second would find that no step refused.
 */
ft_inline int ft_was_copy_counted(ft_s32 error, int is_second)
{
	if (!port_config()->copies_twice)
		return 0;
	if (port_config()->copies_again_at_return) {
		if (port_phase() == FT_PHASE_OFF || port_is_unreturned())
			return 0;
		return !port_mark(error);
	}
	if (port_mark_take(error))
		return 1;
	return !port_mark(error) && is_second;
}

/*
 * The second program at copy_process' return, by kretprobe, which runs with
 * preemption off: did the first one tell this failure? It always comes first, for
 * the trampoline that calls it returns to where the kretprobe waits. A mark stays if
 * the kretprobe was left out, and must not hide a later failure that the first one
 * was left out of: what a step of that one kept is still there, as whoever tells a
 * failure takes it; else port_mark_take knows an older mark by itself, or nearly so.
 */
ft_inline int ft_was_copy_counted_before(ft_s32 error)
{
	struct ft_refusal *refusal = port_refusal();
	int is_marked = port_mark_take(error);

	return is_marked && !(refusal && !refusal->is_of_stack);
}

/* No step has told: what does the state show? 0: no room. */
ft_inline struct ft_refusal *ft_judged_by_call(ft_s32 error, ft_u64 flags, int asks_tid)
{
	struct ft_refusal *refusal = port_refusal_open();

	if (!refusal)
		return 0;
	refusal->error = error; /* its step is copy_process, which is 0 */
	ft_judge(refusal, error, flags, FT_PHASE_COUNTING, 0);
	if (asks_tid)
		refusal->candidates |= 1ULL << FT_CANDIDATE_ASKED_TID;
	return refusal;
}

/*
 * It ends with `result`. Under the upper attach modes only what never reached
 * copy_process is counted here; in the tracepoint attach mode every failure is.
 * `asks_tid`: clone3 was given set_tid.
 */
ft_inline void ft_on_call_exit(void *ctx, ft_s64 result, ft_u64 flags, int asks_tid, int is_second)
{
	enum ft_call call = port_call_take();
	ft_s32 error = (ft_s32)result;
	int is_unreturned = 0;
	struct ft_refusal *refusal;
	struct ft_key key = {};

	if (result >= 0 || result < -4095 || ft_was_counted(call, is_second))
		return;
	if (call == FT_CALL_REACHED)
		return;
	/* Of the restarted calls copy_process has counted its own. */
	if (error <= -FT_ERESTARTSYS && error >= -FT_ERESTART_RESTARTBLOCK &&
	    !port_config()->is_by_syscall)
		return;
	refusal = port_refusal();
	is_unreturned = ft_is_unreturned();
	if (!ft_is_failure(error, &key))
		goto out;
	/* FT_CALL_COUNTED is of an earlier call, which the second program was left out of. */
	if (is_unreturned && refusal && refusal->step != FT_STEP_COPY_PROCESS &&
	    !refusal->is_of_stack && ft_is_of(refusal, error)) {
		key.bits |= FT_BIT_OBSERVED;
	} else if (is_unreturned) {
		refusal = ft_judged_by_call(error, flags, asks_tid);
	} else if (call != FT_CALL_ENTERED && port_is_supervised()) {
		/* It ended without having begun: a filter or a tracer answered in its place. */
		key.step = FT_STEP_SECCOMP;
		refusal = 0;
	} else if (port_config()->is_by_syscall) {
		refusal = ft_judged_by_call(error, flags, asks_tid);
	} else if (call != FT_CALL_ENTERED) {
		/* It began before we did, or found no room: copy_process may have counted it. */
		port_stat(FT_STAT_UNTRACKED);
		goto out;
	} else if (refusal && refusal->step == FT_STEP_CLONE_ARGS) {
		key.bits |= FT_BIT_OBSERVED;
		port_judge_arguments(error);
	} else {
		key.step = FT_STEP_KERNEL_CLONE;
		refusal = port_refusal_open();
		if (refusal) {
			refusal->step = key.step;
			port_judge_arguments(error);
		}
	}
#ifndef FT_INLINED_WHOLE
	if (ft_waits_for_fallback(&key, refusal, error, flags))
		goto out;
#endif
	if (!port_config()->is_by_syscall && !is_unreturned)
		port_stat(FT_STAT_BEFORE_FORK);
	ft_count(ctx, &key, refusal, error, flags);
out:
	if (is_unreturned)
		port_attempt_drop();
	if (refusal || port_refusal())
		port_refusal_drop();
}

/*
 * Another system call than those of the fork family was refused: `syscall` of enum ft_syscall,
 * `bits` of FT_BIT_*. `refusal` has the numbers and names the limit, or is 0.
 */
ft_inline void ft_on_other_call(void *ctx, ft_u8 syscall, ft_u8 step, ft_u8 bits, ft_s32 error,
				ft_u64 flags, struct ft_refusal *refusal)
{
	struct ft_key key = {};

	if (!ft_is_failure(error, &key))
		return;
	key.syscall = syscall;
	key.bits |= bits;
	key.step = step;
	if (refusal)
		refusal->step = step;
	if (!port_config()->is_by_syscall)
		port_stat(FT_STAT_BEFORE_FORK);
	ft_count(ctx, &key, refusal, error, flags);
}

/* The stack of a thread could not be had: mmap, or the mprotect that makes it usable, failed. */
ft_inline void ft_on_stack_refused(void *ctx, ft_u8 step, ft_s32 error, struct ft_refusal *refusal)
{
	ft_on_other_call(ctx, step == FT_STEP_MMAP ? FT_SYSCALL_MMAP : FT_SYSCALL_MPROTECT, step,
			 FT_BIT_THREAD | FT_BIT_OBSERVED, error, 0, refusal);
}

#endif
