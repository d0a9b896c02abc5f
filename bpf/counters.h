/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the two objects that count failed forks have in common: counting.bpf.c counts from the first
 * moment on, and fork_trace.bpf.c goes on in the same maps. And the port, as far as it reaches these.
 */
#ifndef FORK_TRACE_COUNTERS_H
#define FORK_TRACE_COUNTERS_H

#include "port.h"
#include "wire.h"

/* Set by user space before the load; see fork_trace/probes/libbpf.py. */
const volatile struct ft_config config SEC(".rodata.config") = {};

/* enum ft_phase; user space writes it while the programs run. */
volatile __u32 phase SEC(".data.phase") = FT_PHASE_OFF;

/* 0 or 1: of the keys that are made now; user space moves it, see port_generation. */
volatile __u32 generation SEC(".data.generation") = 0;

/* Refusals that say that a memory cgroup refused a charge, at most. */
volatile __s32 charge_marks SEC(".data.charge_marks") = 0;

/* How many of fork_trace.bpf.c's pending_calls there are, or more. */
volatile __s32 pending_count SEC(".data.pending_count") = 0;

/* Maps. All of them are preallocated: during the incident there may be no memory. */

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, FT_TALLIES); /* user space takes them out now and then */
	__type(key, struct ft_key);
	__type(value, struct ft_tally);
} tallies SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2 * FT_SHARES); /* of generation 0, then of 1 */
	__type(key, __u32);
	__type(value, __u64);
} shares SEC(".maps");

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
} overflowed SEC(".maps");

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

static const struct ft_tally no_tally;

ft_inline ft_settings *port_config(void)
{
	return &config;
}

ft_inline enum ft_phase port_phase(void)
{
	return phase;
}

ft_inline void port_charge_marked(int by)
{
	__sync_fetch_and_add(&charge_marks, by);
}

ft_inline int port_has_charge_marks(void)
{
	return charge_marks > 0;
}

ft_inline int port_has_pending(void)
{
	return pending_count > 0;
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

ft_inline struct ft_tally *port_tally(const struct ft_key *key)
{
	return bpf_map_lookup_elem(&tallies, key);
}

ft_inline int port_tally_make(const struct ft_key *key)
{
	return !bpf_map_update_elem(&tallies, key, &no_tally, BPF_NOEXIST);
}

ft_inline ft_u32 port_tally_room(void)
{
	return FT_TALLIES;
}

ft_inline ft_u64 *port_share(ft_u32 of, ft_u32 number)
{
	__u32 index = (of ? FT_SHARES : 0) + number;

	return bpf_map_lookup_elem(&shares, &index);
}

ft_inline ft_u32 port_generation(void)
{
	return generation & 1;
}

ft_inline void port_add(ft_u64 *counter)
{
	__sync_fetch_and_add(counter, 1);
}

ft_inline void port_fold(ft_u8 step)
{
	__u32 index = step;
	__u64 *count = bpf_map_lookup_elem(&overflowed, &index);

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

#endif
