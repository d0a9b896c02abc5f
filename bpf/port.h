/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The port: all that the logic and the readers of the kernel ask of a shell, and
 * what the shell keeps for them between two programs. Each shell defines it as
 * functions in its own file: bcc rewrites the access to maps only there.
 */
#ifndef FORK_TRACE_PORT_H
#define FORK_TRACE_PORT_H

#include "settings.h"
#include "wire.h"

#ifndef ft_inline
#define ft_inline static inline __attribute__((always_inline))
#endif
/* A function of its own: of what several programs do, one copy each is enough. */
#ifndef ft_outline
#define ft_outline static __attribute__((noinline))
#endif

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

/* Volatile where user space sets them after the compilation. */
#ifndef ft_settings
#define ft_settings const volatile struct ft_config
#endif

#define FT_NS_PER_S 1000000000ULL

/* A refusal seen inside an open copy_process, kept until that call returns. */
struct ft_refusal {
	ft_u64 have;
	ft_u64 number[FT_NUMBER_COUNT];
	ft_s32 error;
	ft_u8 step;
	ft_u8 detail;
	ft_u8 bits; /* FT_BIT_MEMCG */
	ft_u8 is_of_stack; /* in mmap or mprotect, which may be about a stack, or unshare: no copy_process follows; or half of a test */
	ft_u32 level_count;
	ft_u32 is_open; /* scratch of a shell that keeps it beyond its call */
	ft_u32 is_outer; /* its step hands on what one inside it refused: that one may have been missed */
	ft_u64 candidates;
	ft_u64 flags; /* scratch: the CLONE_* flags while the state is judged */
	struct ft_level level[FT_LEVELS];
	ft_u64 kernel_frame[FT_KERNEL_FRAMES]; /* scratch: was copy_process among the callers? */
};

/*
 * The kprobe attach mode: a program at a return sees no arguments any more, and no
 * kernel stack beyond the trampoline that brought it there. So one on the entry
 * of copy_process notes each fork under way, and others keep the arguments that
 * are told if their function refuses. Each note is new, so that nothing older
 * than its fork is in it.
 */
struct ft_attempt {
	ft_u64 args; /* struct kernel_clone_args * */
	ft_u64 memory_cgroup; /* of mem_cgroup_out_of_memory, which can be called in all others */
	ft_u64 saved[2]; /* arguments of the function that was entered last */
	ft_u32 saved_by; /* enum ft_step: which one that is */
	ft_s32 capability; /* that `capable` is asked for, which can be called in all others too */
};

/* The stack that a thread has mapped for another. */
struct ft_stack_range {
	ft_u64 start;
	ft_u64 bytes;
	ft_u64 time_ns; /* when it was mapped */
};

/* Monotonic time. */
ft_inline ft_u64 port_now_ns(void);
/* An empty refusal for this thread, in place of any older one; 0: no room. */
ft_inline struct ft_refusal *port_refusal_open(void);
/* The refusal of this thread, or 0. */
ft_inline struct ft_refusal *port_refusal(void);
ft_inline void port_refusal_drop(void);
/* The same for who has it at hand. */
ft_inline void port_refusal_close(struct ft_refusal *refusal);
/* One more or less refusal is kept that says that a memory cgroup refused a charge. */
ft_inline void port_charge_marked(int by);
/* May there be any? So that a fork that succeeds looks for one only then. */
ft_inline int port_has_charge_marks(void);
ft_inline struct ft_tally *port_tally(const struct ft_key *key); /* 0: there is none */
ft_inline int port_tally_make(const struct ft_key *key); /* an empty one; 0: it was not made */
ft_inline ft_u32 port_tally_room(void); /* for how many there is room in all */
/* How many keys of a generation share that number, below FT_SHARES; 0 is all of them. */
ft_inline ft_u64 *port_share(ft_u32 generation, ft_u32 number);
/* User space moves it on, waits for the programs under way, then takes the other one's keys. */
ft_inline ft_u32 port_generation(void); /* 0 or 1 */
ft_inline struct ft_kind *port_kind(ft_u32 number); /* below FT_KINDS */
ft_inline void port_add(ft_u64 *counter); /* one, atomically */
/* Count under the step alone, for keys that found no room. */
ft_inline void port_fold(ft_u8 step);
ft_inline void port_stat(enum ft_stat stat);
/* How many eighths of the buffer for events wait for the reader; 0 where that is not told. */
ft_inline ft_u32 port_crowding(void);
/* Memory for one event, not zeroed; 0: the buffer is full. */
ft_inline struct ft_event *port_event(void);
/* Where it matters not by a store for each word: of those there would be hundreds in each program. */
ft_inline void port_event_clear(struct ft_event *event);
ft_inline void port_copy(void *to, const void *from, ft_u32 bytes);
/* Returns 0 if it was sent. */
ft_inline int port_event_send(void *ctx, struct ft_event *event, int wake);
/* Fill comm, uid, cgroup and syscall: who asked. */
ft_inline void port_who(struct ft_key *key);
/* Fill pid, tid, parent, user stack and maker: the rest of who asked. */
ft_inline void port_sample(void *ctx, struct ft_event *event);
/* Who in the kernel makes the task of this thread's copy_process; 0: a system call, or not known. */
ft_inline struct ft_maker *port_maker(void);
ft_inline int port_is_filtered_out(const struct ft_key *key);
/* Is SIGKILL pending for this thread or its group exiting? */
ft_inline int port_is_dying(void);
/*
 * Judge the state at this instant: which tests that no program watches would
 * refuse a fork with these `flags` (refusal->flags) with this error? Fills
 * refusal->candidates, detail, numbers and levels. Reads nothing that `watched` (bit
 * n: enum ft_step) has told already.
 */
ft_inline void port_judge(struct ft_refusal *refusal, ft_s32 error, ft_u64 watched);
/* Only whether this thread's memory cgroups are near their limits, for the refusal that is kept. */
ft_inline void port_judge_memory_cgroup(void);
/*
 * Which rules on its arguments does this thread's clone or clone3 break that answer with this
 * error? Told as a number of the refusal that is kept.
 */
ft_inline void port_judge_arguments(ft_s32 error);
/* Calls of the fork family under way, for what never reaches copy_process. */
enum ft_call {
	FT_CALL_NONE = 0,
	FT_CALL_ENTERED = 1,
	FT_CALL_REACHED = 2,
	FT_CALL_COUNTED = 3
};
/* Note how far this thread's call has come; 0: no room. */
ft_inline int port_call_note(enum ft_call call);
ft_inline enum ft_call port_call_take(void); /* and forget it */
/*
 * Leave a mark for the other of two programs that see this thread's copy_process fail
 * with this error; 0: no room.
 */
ft_inline int port_mark(ft_s32 error);
/* Was there one, and not for certain of an earlier failure? It is gone now. */
ft_inline int port_mark_take(ft_s32 error);
/* Is it certain that no program at copy_process' return will see this call? */
ft_inline int port_is_unreturned(void);
#ifndef FT_INLINED_WHOLE
/* A clone3 that was answered ENOSYS: whether that is a failure, the thread's next call tells. */
struct ft_pending {
	struct ft_key key;
	ft_u64 flags;
};

/* May any thread have one? So that a system call looks for it only then. */
/* Has the first program seen to this call, which is not over? */
ft_inline int port_is_counted(void);
ft_inline int port_has_pending(void);
ft_inline int port_pending_note(const struct ft_pending *pending); /* 0: no room */
ft_inline int port_pending_take(struct ft_pending *pending); /* and forget it; 0: there is none */
#endif
/* Is this thread under a seccomp filter, or traced? Both can answer in the kernel's place. */
ft_inline int port_is_supervised(void);
ft_inline ft_settings *port_config(void);
ft_inline enum ft_phase port_phase(void);

/* Is one who reads the kernel to explain a failure switched off? */
ft_inline int is_blind(enum ft_reader reader)
{
	return !!(port_config()->blind & 1U << reader);
}

/* The fork that a program on copy_process' entry has noted for this thread, or 0. */
ft_inline struct ft_attempt *port_attempt(void);
ft_inline void port_attempt_drop(void);
/* Send what the user stack is unwound from, beside the sample of that time; or nothing. */
ft_inline void port_send_stack(ft_u64 time_ns);
/* The last stack that this thread mapped for another, or 0. */
ft_inline struct ft_stack_range *port_stack(void);
ft_inline void port_stack_note(const struct ft_stack_range *range);

#endif
