/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the programs of `fork-trace latency` and user space share: fork_trace/probes/libbpf/latency.py. */
#ifndef FORK_TRACE_LATENCY_H
#define FORK_TRACE_LATENCY_H

#include "wire.h"

/* Set before the load; see struct ft_config for the rest. */
struct ft_latency_config {
	ft_u64 over_ns; /* forks that take as long or longer are told one by one */
	ft_u64 cgroup_lock; /* address of cgroup_threadgroup_rwsem; 0: not known */
	ft_u64 uprobes_lock; /* of dup_mmap_sem, kernel/events/uprobes.c; 0: not known */
};

/* The ends of the phases that lie inside copy_process. */
enum ft_stamp {
	FT_STAMP_FILES = 0, /* dup_fd returned: task, credentials, open files */
	FT_STAMP_MEMORY = 1, /* alloc_pid began: the address space, namespaces */
	FT_STAMP_CGROUP = 2, /* cgroup_can_fork returned: the pid, pidfd, cgroups */
	FT_STAMP_COUNT = 3,
};

/* What a thread waits for in a fork. */
enum ft_wait {
	FT_WAIT_OTHER = 0, /* a lock that is none of these */
	FT_WAIT_CGROUP = 1, /* cgroup_threadgroup_rwsem, for reading */
	FT_WAIT_MMAP = 2, /* mmap_lock of the caller's address space */
	FT_WAIT_UPROBES = 3, /* dup_mmap_sem, for reading */
	FT_WAIT_RECLAIM = 4, /* it frees memory itself before it gets any */
	FT_WAIT_CPU = 5, /* it could run, and had no processor */
	FT_WAIT_COUNT = 6,
};

/* Numbers of the caller's address space, at the end of its fork. */
enum ft_size {
	FT_SIZE_PGTABLES = 0, /* bytes */
	FT_SIZE_FILE = 1, /* pages of files that it has mapped and in memory */
	FT_SIZE_ANON = 2, /* pages of its own in memory */
	FT_SIZE_SWAP = 3, /* pages of its own that are swapped out */
	FT_SIZE_SHMEM = 4, /* shared pages in memory */
	FT_SIZE_MAPPINGS = 5,
	FT_SIZE_VIRTUAL = 6, /* pages mapped, in memory or not */
	FT_SIZE_COUNT = 7,
};

enum ft_latency_stat {
	FT_LATENCY_UNPAIRED = 0, /* forks whose begin or end was not seen, or that shared a slot */
	FT_LATENCY_UNSENT = 1, /* slow ones that found no room in the buffer */
	FT_LATENCY_UNTALLIED = 2, /* forks of commands for which the table had no room */
	FT_LATENCY_UNMEASURED = 3, /* calls that wait for their child; attach mode tracepoint */
	FT_LATENCY_SLOW = 4, /* forks that took as long as over_ns or longer */
	FT_LATENCY_STAT_COUNT = 5,
};

#define FT_LATENCY_BUCKETS 40 /* bucket n: less than 1 << n + 1 ns */

/* All forks of one command. */
struct ft_latency_tally {
	ft_u64 total_ns;
	ft_u64 slow; /* of these, as long as over_ns or longer */
	ft_u64 slow_ns;
	ft_u64 count[FT_LATENCY_BUCKETS];
};
_Static_assert(sizeof(struct ft_latency_tally) == 24 + 8 * FT_LATENCY_BUCKETS,
	       "ft_latency_tally is part of the wire");

/* One slow fork. Who asked is told as for a failure; the error is 0 if it succeeded. */
struct ft_slow {
	struct ft_event event;
	ft_u64 total_ns;
	ft_u64 stamp_ns[FT_STAMP_COUNT]; /* since the begin */
	ft_u64 stamped; /* bit n: enum ft_stamp: it is of this very fork */
	ft_u64 size[FT_SIZE_COUNT];
	ft_u64 sized; /* bit n: enum ft_size: it was read */
	ft_u64 wait_ns[FT_WAIT_COUNT];
	ft_u64 waits_known; /* the waits of this fork were watched from its begin */
	ft_u64 delay_known; /* FT_WAIT_CPU was: it has a way of its own */
	ft_u64 cpu_ns; /* how long it ran meanwhile */
	ft_u64 cpu_known;
	ft_u64 other_flags; /* of the longest wait for another lock: LCB_F_*, trace/events/lock.h */
	ft_u32 holder_pid; /* who held what was waited for longest; 0: not seen */
	ft_u32 holder_tid;
	ft_u64 holder_wait; /* enum ft_wait: of what */
	char holder_comm[FT_COMM_BYTES];
};
_Static_assert(sizeof(struct ft_slow) ==
		       sizeof(struct ft_event) +
			       8 * (9 + FT_STAMP_COUNT + FT_SIZE_COUNT + FT_WAIT_COUNT) + 8 +
			       FT_COMM_BYTES,
	       "ft_slow is part of the wire");

#endif
