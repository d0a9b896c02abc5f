/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which errors are failed forks, and how each is counted exactly: under who asked, as far as
 * there is room. Why it failed is for others (logic.h).
 */
#ifndef FORK_TRACE_COUNT_H
#define FORK_TRACE_COUNT_H

#include "port.h"
#include "uapi.h"
#include "wire.h"

ft_inline ft_u64 ft_mix(ft_u64 mixed, ft_u64 value)
{
	return (mixed ^ value) * 0x9e3779b97f4a7c15ULL;
}

/* The numbers of a key's owners among the shares: its user in its cgroup, each of the two. */
enum ft_owner {
	FT_OWNER_BOTH,
	FT_OWNER_USER,
	FT_OWNER_CGROUP,
	FT_OWNER_COUNT
};

ft_inline ft_u32 ft_owner(const struct ft_key *key, enum ft_owner owner)
{
	ft_u64 mixed = ft_mix(port_config()->seed, owner + 1);

	mixed = ft_mix(mixed, owner == FT_OWNER_CGROUP ? 0 : key->uid);
	mixed = ft_mix(mixed ^ mixed >> 32, owner == FT_OWNER_USER ? 0 : key->cgroup);
	return 1 + (mixed >> 32) % (FT_SHARES - 1);
}

/* Has this owner fewer keys than `times` as many as are free? */
ft_inline int ft_has_room(const struct ft_key *key, ft_u32 generation, enum ft_owner owner,
			  ft_u64 free, ft_u32 times)
{
	ft_u64 *share = port_share(generation, ft_owner(key, owner));

	return share && *share < free * times;
}

/*
 * The tally of a key, made if its owners may have one more. Nobody gets all that is left:
 * one user in one cgroup has at most as many keys as are free after that, half of the
 * table if nobody else has any; a user in all cgroups, or a cgroup with all its users
 * (root's containers, a user with many of either) eight times as many. So whoever comes
 * last finds room. `times`: twice that for what is told of an owner's others.
 * Those who count at the same time may go over it by as many as there are of them.
 */
ft_outline struct ft_tally *ft_tally_of(const struct ft_key *key, ft_u32 generation, ft_u32 times)
{
	struct ft_tally *tally = port_tally(key);
	ft_u64 *all = port_share(generation, 0), *others = port_share(!generation, 0);
	ft_u64 room = port_tally_room(), used;
	ft_u64 *share;

	if (tally || !all || !others)
		return tally;
	used = *all + *others;
	if (used >= room || !ft_has_room(key, generation, FT_OWNER_BOTH, room - used, times) ||
	    !ft_has_room(key, generation, FT_OWNER_USER, room - used, 8 * times) ||
	    !ft_has_room(key, generation, FT_OWNER_CGROUP, room - used, 8 * times))
		return 0;
	if (port_tally_make(key)) {
		port_add(all);
		if ((share = port_share(generation, ft_owner(key, FT_OWNER_BOTH))))
			port_add(share);
		if ((share = port_share(generation, ft_owner(key, FT_OWNER_USER))))
			port_add(share);
		if ((share = port_share(generation, ft_owner(key, FT_OWNER_CGROUP))))
			port_add(share);
	}
	return port_tally(key);
}

/*
 * Count one failure exactly, under its key or that of its owner's others (see ft_tally_of).
 * 0: neither has room, and it is counted under its step alone.
 */
ft_inline struct ft_tally *ft_count_exactly(struct ft_key *key)
{
	ft_u32 generation = port_generation(); /* once: it can move meanwhile */
	char comm[FT_COMM_BYTES];
	struct ft_tally *tally;
	ft_u8 syscall;

	port_stat(FT_STAT_FAILURES);
	key->comm[FT_COMM_MARK] = generation;
	tally = ft_tally_of(key, generation, 1);
	if (!tally) {
		__builtin_memcpy(comm, key->comm, sizeof(comm));
		syscall = key->syscall;
		__builtin_memset(key->comm, 0, sizeof(key->comm));
		key->comm[FT_COMM_MARK] = generation | FT_MARK_OTHERS;
		key->syscall = FT_SYSCALL_UNKNOWN;
		tally = ft_tally_of(key, generation, 2);
		__builtin_memcpy(key->comm, comm, FT_COMM_MARK);
		key->syscall = syscall;
	}
	if (!tally) {
		port_stat(FT_STAT_OVERFLOWED);
		port_fold(key->step);
		return 0;
	}
	port_add(&tally->count);
	return tally;
}

/*
 * Is this error one that the caller will see as a failed fork? Counts the
 * others, and says who asks.
 */
ft_inline int ft_is_failure(ft_s32 error, struct ft_key *key)
{
	if (port_phase() < FT_PHASE_ALONE)
		return 0;
	if (error == -FT_ERESTARTNOINTR) {
		port_stat(FT_STAT_RESTARTED);
		return 0;
	}
	/*
	 * A task killed in the middle of its fork gets an error that it never
	 * lives to see. Blaming memory for it would be a wrong cause.
	 */
	if (port_is_dying()) {
		port_stat(FT_STAT_KILLED);
		return 0;
	}
	port_who(key);
	if (port_is_filtered_out(key)) {
		port_stat(FT_STAT_FILTERED);
		return 0;
	}
	return 1;
}

#endif
