// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The third shell: the logic on a host of plain memory, for tests/unit/bpf/test_logic.py.
 * Its clock stands until it is set, and its maps are as full as they are told.
 */
#include <string.h>

#include "logic.h"
#include "slots.h"

#define HOST_THREADS 16
#define HOST_KEYS 8192
#define HOST_EVENTS 4096

ft_u64 host_now_ns;
ft_u32 host_thread; /* which of the threads below is running */
ft_u32 host_refusal_room; /* slots of the refusals map */
ft_u32 host_tally_room;
ft_u32 host_generation;
ft_u32 host_event_room;
ft_u32 host_is_dying;
ft_u32 host_is_filtered_out;
ft_u32 host_call_room; /* slots of the calls map */
ft_u32 host_is_supervised;
ft_u64 host_candidates; /* what the state shows when it is judged: bit n: enum ft_candidate */
ft_u32 host_detail; /* the same: enum ft_detail */
ft_u32 host_judge_count;
ft_s32 host_judged_error; /* as the state was judged last */
ft_u64 host_judged_flags;
ft_u64 host_judged_watched;
ft_u32 host_event_count;
ft_u32 host_wake_count;
ft_u32 host_tally_count;
struct ft_config host_config;
struct ft_key host_who;
ft_u64 host_stat[FT_STAT_COUNT];
ft_u64 host_overflowed[256];
struct ft_event host_event[HOST_EVENTS];
struct ft_key host_key[HOST_KEYS];
struct ft_tally host_tally[HOST_KEYS];
struct ft_kind host_kind[FT_KINDS];
ft_u32 host_crowding;
ft_u32 host_mark, host_mark_room, host_sleeps, host_is_unreturned;
ft_s32 host_mark_error;

static struct ft_refusal refusal_of[HOST_THREADS];
static int is_open[HOST_THREADS];
static enum ft_call call_of[HOST_THREADS];

ft_inline ft_settings *port_config(void)
{
	return &host_config;
}

ft_u32 host_phase = FT_PHASE_COUNTING;

ft_inline enum ft_phase port_phase(void)
{
	return host_phase;
}

ft_inline ft_u64 port_now_ns(void)
{
	return host_now_ns;
}

ft_u32 host_open_refusals(void)
{
	ft_u32 i, count = 0;

	for (i = 0; i < HOST_THREADS; i++)
		count += is_open[i];
	return count;
}

ft_inline struct ft_refusal *port_refusal(void)
{
	return is_open[host_thread] ? &refusal_of[host_thread] : 0;
}

/* As a hash map does: a key that is there is replaced even if the map is full. */
ft_inline struct ft_refusal *port_refusal_open(void)
{
	if (!is_open[host_thread] && host_open_refusals() >= host_refusal_room)
		return 0;
	is_open[host_thread] = 1;
	memset(&refusal_of[host_thread], 0, sizeof(refusal_of[0]));
	return &refusal_of[host_thread];
}

ft_inline void port_refusal_drop(void)
{
	is_open[host_thread] = 0;
}

ft_inline void port_refusal_close(struct ft_refusal *refusal)
{
	(void)refusal;
	port_refusal_drop();
}

ft_s32 host_charge_marks;

ft_inline void port_charge_marked(int by)
{
	host_charge_marks += by;
}

ft_inline int port_has_charge_marks(void)
{
	return host_charge_marks > 0;
}

static ft_u64 share_of[2][FT_SHARES];

ft_inline struct ft_tally *port_tally(const struct ft_key *key)
{
	ft_u32 i;

	for (i = 0; i < host_tally_count; i++) {
		if (!memcmp(&host_key[i], key, sizeof(*key)))
			return &host_tally[i];
	}
	return 0;
}

ft_inline int port_tally_make(const struct ft_key *key)
{
	if (host_tally_count >= host_tally_room || port_tally(key))
		return 0;
	memset(&host_tally[host_tally_count], 0, sizeof(host_tally[0]));
	host_key[host_tally_count++] = *key;
	return 1;
}

ft_inline ft_u32 port_tally_room(void)
{
	return host_tally_room;
}

ft_inline ft_u64 *port_share(ft_u32 generation, ft_u32 number)
{
	return &share_of[generation][number];
}

ft_inline ft_u32 port_generation(void)
{
	return host_generation;
}

/* As user space does: the generation moves on, and the keys of the last one are taken out. */
void host_harvest(void)
{
	ft_u32 old = host_generation, kept = 0, i;

	host_generation = !old;
	for (i = 0; i < host_tally_count; i++) {
		if ((host_key[i].comm[FT_COMM_MARK] & FT_MARK_GENERATION) == old)
			continue;
		host_key[kept] = host_key[i];
		host_tally[kept++] = host_tally[i];
	}
	host_tally_count = kept;
	memset(share_of[old], 0, sizeof(share_of[old]));
}

ft_inline ft_u32 port_crowding(void)
{
	return host_crowding;
}

/* How often the thread had slept, plus one; 0: no mark. */
ft_inline int port_mark(ft_s32 error)
{
	if (!host_mark_room)
		return 0;
	host_mark = host_sleeps + 1;
	host_mark_error = error;
	return 1;
}

ft_inline int port_mark_take(ft_s32 error)
{
	int was = host_mark == host_sleeps + 1 && host_mark_error == error;

	host_mark = 0;
	return was;
}

ft_inline int port_is_unreturned(void)
{
	return host_is_unreturned;
}

ft_inline struct ft_kind *port_kind(ft_u32 number)
{
	return &host_kind[number];
}

ft_inline void port_add(ft_u64 *counter)
{
	++*counter;
}

ft_inline void port_fold(ft_u8 step)
{
	host_overflowed[step]++;
}

ft_inline void port_stat(enum ft_stat stat)
{
	host_stat[stat]++;
}

/* Dirty, as the memory of a ring buffer is. */
ft_inline struct ft_event *port_event(void)
{
	if (host_event_count >= host_event_room || host_event_count >= HOST_EVENTS)
		return 0;
	memset(&host_event[host_event_count], 0xa5, sizeof(host_event[0]));
	return &host_event[host_event_count];
}

ft_inline void port_event_clear(struct ft_event *event)
{
	memset(event, 0, sizeof(*event));
}

ft_inline void port_copy(void *to, const void *from, ft_u32 bytes)
{
	memcpy(to, from, bytes);
}

ft_inline int port_event_send(void *ctx, struct ft_event *event, int wake)
{
	(void)ctx;
	(void)event;
	host_event_count++;
	host_wake_count += !!wake;
	return 0;
}

ft_inline void port_who(struct ft_key *key)
{
	*key = host_who;
}

ft_inline void port_sample(void *ctx, struct ft_event *event)
{
	(void)ctx;
	event->pid = 4000;
	event->tid = 4000 + host_thread;
}

/* Only the shells for kernels know one. */
ft_inline struct ft_maker *port_maker(void)
{
	return 0;
}

ft_inline int port_is_filtered_out(const struct ft_key *key)
{
	(void)key;
	return host_is_filtered_out;
}

ft_inline int port_is_dying(void)
{
	return host_is_dying;
}

ft_inline void port_judge_memory_cgroup(void)
{
}

ft_inline void port_judge_arguments(ft_s32 error)
{
	struct ft_refusal *refusal = port_refusal();

	if (refusal && ft_rules_of(error) & ft_rule(FT_RULE_SIGNAL))
		ft_number(refusal, FT_NUMBER_FLAG_RULES, ft_rule(FT_RULE_SIGNAL));
}

ft_inline void port_judge(struct ft_refusal *refusal, ft_s32 error, ft_u64 watched)
{
	host_judge_count++;
	host_judged_error = error;
	host_judged_flags = refusal->flags;
	host_judged_watched = watched;
	refusal->candidates |= host_candidates;
	refusal->detail = host_detail;
	ft_number(refusal, FT_NUMBER_NR_THREADS, 97);
	ft_level(refusal, FT_LEVEL_PIDS_CGROUP, 0, 23, 7, 7);
}

ft_u32 host_open_calls(void)
{
	ft_u32 i, count = 0;

	for (i = 0; i < HOST_THREADS; i++)
		count += call_of[i] != FT_CALL_NONE;
	return count;
}

/* As a hash map does: a thread that has a slot keeps it. */
ft_inline int port_call_note(enum ft_call call)
{
	if (call_of[host_thread] == FT_CALL_NONE && host_open_calls() >= host_call_room)
		return 0;
	call_of[host_thread] = call;
	return 1;
}

ft_inline enum ft_call port_call_take(void)
{
	enum ft_call call = call_of[host_thread];

	call_of[host_thread] = FT_CALL_NONE;
	return call;
}

ft_inline int port_is_counted(void)
{
	return call_of[host_thread] == FT_CALL_COUNTED;
}

ft_inline int port_is_supervised(void)
{
	return host_is_supervised;
}

static struct ft_pending pending_of[HOST_THREADS];
static int is_pending[HOST_THREADS];
ft_u32 host_pending_room;

ft_u32 host_open_pending(void)
{
	ft_u32 i, count = 0;

	for (i = 0; i < HOST_THREADS; i++)
		count += is_pending[i];
	return count;
}

ft_inline int port_has_pending(void)
{
	return host_open_pending() > 0;
}

ft_inline int port_pending_note(const struct ft_pending *pending)
{
	if (host_open_pending() >= host_pending_room)
		return 0;
	pending_of[host_thread] = *pending;
	is_pending[host_thread] = 1;
	return 1;
}

ft_inline int port_pending_take(struct ft_pending *pending)
{
	if (!is_pending[host_thread])
		return 0;
	*pending = pending_of[host_thread];
	is_pending[host_thread] = 0;
	return 1;
}

/* The rest of the port: nothing here reads a kernel. */

ft_u32 host_is_noted; /* a program on the entry of copy_process has noted this thread's */
static struct ft_attempt attempt;

ft_inline struct ft_attempt *port_attempt(void)
{
	return host_is_noted ? &attempt : 0;
}

ft_inline void port_attempt_drop(void)
{
	host_is_noted = 0;
}

ft_inline void port_send_stack(ft_u64 time_ns)
{
	(void)time_ns;
}

ft_inline struct ft_stack_range *port_stack(void)
{
	return 0;
}

ft_inline void port_stack_note(const struct ft_stack_range *range)
{
	(void)range;
}

/* What the tests call. */

void host_reset(void)
{
	host_phase = FT_PHASE_COUNTING;
	memset(&host_config, 0, sizeof(host_config));
	memset(&host_who, 0, sizeof(host_who));
	memset(host_stat, 0, sizeof(host_stat));
	memset(host_overflowed, 0, sizeof(host_overflowed));
	memset(host_tally, 0, sizeof(host_tally));
	memset(host_kind, 0, sizeof(host_kind));
	memset(share_of, 0, sizeof(share_of));
	host_generation = 0;
	host_mark = 0;
	host_mark_room = 1;
	host_sleeps = 0;
	host_crowding = 0;
	host_is_unreturned = host_is_noted = 0;
	memset(is_open, 0, sizeof(is_open));
	memset(call_of, 0, sizeof(call_of));
	memset(is_pending, 0, sizeof(is_pending));
	host_pending_room = HOST_THREADS;
	host_now_ns = 100 * FT_NS_PER_S;
	host_thread = 0;
	host_refusal_room = HOST_THREADS;
	host_tally_room = HOST_KEYS;
	host_event_room = HOST_EVENTS;
	host_call_room = HOST_THREADS;
	host_is_dying = host_is_filtered_out = host_is_supervised = 0;
	host_candidates = host_detail = host_judge_count = 0;
	host_judged_error = host_charge_marks = 0;
	host_judged_flags = host_judged_watched = 0;
	host_event_count = host_wake_count = host_tally_count = 0;
	host_config.samples_per_second = 50;
}

static int fill(struct ft_refusal *refusal, ft_u32 detail, ft_u32 number, ft_u64 value)
{
	if (!refusal)
		return 0;
	refusal->detail = detail;
	ft_number(refusal, number, value);
	return 1;
}

/* A watched function refuses; 0 if that could not be kept. */
int host_refuse(ft_u32 step, ft_s32 error, ft_u32 detail, ft_u32 number, ft_u64 value)
{
	return fill(ft_on_refusal(step, error), detail, number, value);
}

/* One that hands on what those inside it, up to `last_inner`, refused; 0 if it is not kept. */
int host_refuse_outer(ft_u32 step, ft_u32 last_inner, ft_s32 error, ft_u32 number, ft_u64 value)
{
	return fill(ft_on_outer_refusal(step, last_inner, error), 0, number, value);
}

/* A memory cgroup has nothing left to kill: what the CO-RE shell notes of it. */
int host_refuse_memory_cgroup(ft_u64 pages)
{
	return fill(ft_on_charge_refused(), 0, FT_NUMBER_MEMCG_PAGES, pages);
}

void host_copied(void)
{
	ft_on_copied();
}

void host_copy_process_of_two(ft_s32 error, ft_u64 flags, int is_second)
{
	if (!ft_was_copy_counted(error, is_second))
		ft_on_copy_process(0, error, flags);
}

void host_copy_process_returned(ft_s32 error, ft_u64 flags)
{
	if (!ft_was_copy_counted_before(error))
		ft_on_copy_process(0, error, flags);
}

void host_copy_process(ft_s32 error, ft_u64 flags)
{
	ft_on_copy_process(0, error, flags);
}

void host_call_enter(void)
{
	ft_on_call_enter();
}

void host_next_call(ft_u8 syscall)
{
	if (port_has_pending())
		ft_on_next_call(0, syscall);
}

void host_ends_wait(ft_u8 syscall, int is_second)
{
	if (ft_ends_wait(is_second))
		ft_on_next_call(0, syscall);
}

void host_call_exit(ft_s64 result, ft_u64 flags, int asks_tid, int is_second)
{
	ft_on_call_exit(0, result, flags, asks_tid, is_second);
}

/* As the CO-RE shell: the limit is read, the failure counted, what was kept dropped. */
void host_stack_refused(ft_u32 step, ft_s32 error, ft_u32 detail)
{
	struct ft_refusal *refusal = port_refusal_open();

	fill(refusal, detail, FT_NUMBER_STACK_BYTES, 8392704);
	ft_on_stack_refused(0, step, error, refusal);
	port_refusal_drop();
}

/* How many of `asked` levels are kept, and what the last of them is. */
ft_u32 host_levels(ft_u32 asked, ft_u64 *last)
{
	static struct ft_refusal refusal;
	ft_u32 i;

	memset(&refusal, 0, sizeof(refusal));
	for (i = 0; i < asked; i++)
		ft_level(&refusal, FT_LEVEL_NPROC, i, 100 + i, i, i);
	*last = refusal.level_count ? refusal.level[refusal.level_count - 1].id : 0;
	/* What lies behind the levels must be as it was. */
	for (i = 0; i < FT_KERNEL_FRAMES; i++)
		if (refusal.kernel_frame[i])
			return ~0U;
	return refusal.level_count;
}

/* What a slot holds, by enum { INT, ERR_PTR, PTR, TRUE, FALSE }: does it refuse, with which errno? */
int host_is_refused(ft_u32 returns, ft_u64 slot)
{
	switch (returns) {
	case 0:
		return REFUSED_INT(slot);
	case 1:
		return REFUSED_ERR_PTR(slot);
	case 2:
		return REFUSED_PTR(slot);
	case 3:
		return REFUSED_TRUE(slot);
	default:
		return REFUSED_FALSE(slot);
	}
}

ft_s32 host_error_in(ft_u32 returns, ft_u64 slot)
{
	switch (returns) {
	case 0:
		return ERROR_INT(slot);
	case 1:
		return ERROR_ERR_PTR(slot);
	default:
		return ERROR_PTR(slot);
	}
}

/* An argument of type int, and whether one of an enumeration is this value. */
ft_s64 host_int_in(ft_u64 slot)
{
	return INT_IN(slot);
}

int host_is_value(ft_u64 slot, ft_u64 value)
{
	return ENUM_IN(slot) == value;
}

ft_u64 host_flag_rules(ft_u64 flags)
{
	return ft_flag_rules(flags);
}

ft_u64 host_rules_of(ft_s32 error)
{
	return ft_rules_of(error);
}

ft_u64 host_asked(ft_u64 flags)
{
	return ft_asked(flags);
}

ft_u32 host_sizeof_event(void)
{
	return sizeof(struct ft_event);
}
