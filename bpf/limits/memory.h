/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The overcommit rule: what the whole host may promise. */
#ifndef FORK_TRACE_LIMITS_MEMORY_H
#define FORK_TRACE_LIMITS_MEMORY_H

#include "../port.h"
#include "../reading.h"
#include "../refusal.h"
#include "../uapi.h"
#include "../wire.h"
#include "mappings.h"

/* mm/util.c, __vm_enough_memory: what it compares, by the same approximate counter. */
ft_inline void read_commit_rule(struct ft_refusal *refusal, struct mm_struct *mm)
{
	struct percpu_counter *committed = (struct percpu_counter *)port_config()->vm_committed_as;
	__s64 count = 0;
	__u64 total = 0;

	number_int_at(refusal, FT_NUMBER_OVERCOMMIT_MEMORY,
		      port_config()->sysctl_overcommit_memory);
	number_int_at(refusal, FT_NUMBER_OVERCOMMIT_RATIO, port_config()->sysctl_overcommit_ratio);
	number_long_at(refusal, FT_NUMBER_OVERCOMMIT_KBYTES,
		       port_config()->sysctl_overcommit_kbytes);
	number_long_at(refusal, FT_NUMBER_ADMIN_RESERVE_KBYTES,
		       port_config()->sysctl_admin_reserve_kbytes);
	number_long_at(refusal, FT_NUMBER_USER_RESERVE_KBYTES,
		       port_config()->sysctl_user_reserve_kbytes);
	number_long_at(refusal, FT_NUMBER_PAGES_RAM, port_config()->totalram_pages);
	number_long_at(refusal, FT_NUMBER_PAGES_SWAP, port_config()->total_swap_pages);
	/* The charge for `pages` has been undone by now. */
	if (committed && !is_blind(FT_READER_MEMORY) &&
	    !bpf_core_read(&count, sizeof(count), &committed->count))
		ft_number(refusal, FT_NUMBER_PAGES_COMMITTED, count);
	if (refusal->have & 1ULL << FT_NUMBER_OVERCOMMIT_MEMORY)
		refusal->detail = FT_DETAIL_OVERCOMMIT_GUESS +
				  refusal->number[FT_NUMBER_OVERCOMMIT_MEMORY] % 3;
	if (is_moved(refusal,
		     !is_blind(FT_READER_MEMORY) && has_field(mm_struct, total_vm) &&
			     has_field(mm_struct, data_vm) && has_field(mm_struct, stack_vm),
		     FT_MOVED_MM_STRUCT))
		return;
	if (!bpf_core_read(&total, sizeof(total), &mm->total_vm))
		ft_number(refusal, FT_NUMBER_MM_TOTAL_PAGES, total);
	/* private, writable mappings and stacks: about what fork has to ask for */
	if (!bpf_core_read(&total, sizeof(total), &mm->data_vm))
		ft_number(refusal, FT_NUMBER_DATA_PAGES, total + BPF_CORE_READ(mm, stack_vm));
}

ft_inline void read_overcommit(struct ft_refusal *refusal, struct mm_struct *mm, __u64 pages,
			       int cap_sys_admin)
{
	ft_number(refusal, FT_NUMBER_PAGES_ASKED, pages);
	ft_number(refusal, FT_NUMBER_CAP_SYS_ADMIN, !!cap_sys_admin);
	read_commit_rule(refusal, mm);
}

/* mm/util.c, __vm_enough_memory, mode 2: kept for root, and for others than this process. */
ft_inline __u64 commit_reserve(const struct ft_refusal *refusal)
{
	__u64 user = number_of(refusal, FT_NUMBER_USER_RESERVE_KBYTES) >>
		     (port_config()->page_shift - 10);
	__u64 admin = number_of(refusal, FT_NUMBER_ADMIN_RESERVE_KBYTES) >>
		      (port_config()->page_shift - 10);
	__u64 share = number_of(refusal, FT_NUMBER_MM_TOTAL_PAGES) / 32;

	return (share < user ? share : user) +
	       (number_of(refusal, FT_NUMBER_CAP_SYS_ADMIN) ? 0 : admin);
}

/*
 * Would the rule in force refuse a copy of this address space? An estimate: the
 * accountable pages are data_vm and stack_vm together, and hugetlb pools are
 * left in. A number that could not be read is 0 here.
 */
ft_inline int would_overcommit(struct ft_refusal *refusal)
{
	__u64 ram = number_of(refusal, FT_NUMBER_PAGES_RAM);
	__u64 swap = number_of(refusal, FT_NUMBER_PAGES_SWAP);
	__u64 data = number_of(refusal, FT_NUMBER_DATA_PAGES);
	__u64 kbytes = number_of(refusal, FT_NUMBER_OVERCOMMIT_KBYTES);
	__u64 mode = number_of(refusal, FT_NUMBER_OVERCOMMIT_MEMORY);
	__u64 limit = kbytes ? kbytes >> (port_config()->page_shift - 10)
			     : ram * number_of(refusal, FT_NUMBER_OVERCOMMIT_RATIO) / 100;

	if (mode == 0)
		return data > ram + swap;
	if (mode == 2)
		return number_of(refusal, FT_NUMBER_PAGES_COMMITTED) + data +
			       commit_reserve(refusal) >
		       limit + swap;
	return 0;
}

/* Mode 0 asks for one mapping at a time: is one of them so large? */
ft_inline void judge_mappings(struct ft_refusal *refusal)
{
	__u64 bytes = port_config()->ram_and_swap;

	if (number_of(refusal, FT_NUMBER_OVERCOMMIT_MEMORY))
		return;
	if (has_number(refusal, FT_NUMBER_PAGES_RAM))
		bytes = (number_of(refusal, FT_NUMBER_PAGES_RAM) +
			 number_of(refusal, FT_NUMBER_PAGES_SWAP))
			<< port_config()->page_shift;
	if (!bytes)
		return;
	if (!can_have_mapping_above(refusal, bytes))
		candidate(refusal, FT_CANDIDATE_SMALL_MAPPINGS);
	else if (has_number(refusal, FT_NUMBER_PAGES_ASKED)) {
		candidate(refusal, FT_CANDIDATE_ONE_MAPPING);
		/* Whatever else could not be read: that one is refused. */
		candidate(refusal, FT_CANDIDATE_OVERCOMMIT);
	}
}

ft_inline void judge_commit(struct ft_refusal *refusal, struct task_struct *task, __u64 watched)
{
	if (is_watched(watched, FT_STEP_VM_ENOUGH_MEMORY) || refusal->flags & FT_CLONE_VM)
		return;
	if (is_blind(FT_READER_MEMORY)) {
		read_commit_rule(refusal, 0);
	} else {
		read_commit_rule(refusal, BPF_CORE_READ(task, mm));
		ft_number(refusal, FT_NUMBER_CAP_SYS_ADMIN,
			  has_sys_admin(BPF_CORE_READ(task, cred)));
	}
	if (!has_number(refusal, FT_NUMBER_OVERCOMMIT_MEMORY) ||
	    !has_number(refusal, FT_NUMBER_PAGES_COMMITTED) ||
	    !has_number(refusal, FT_NUMBER_DATA_PAGES) || !has_number(refusal, FT_NUMBER_PAGES_RAM))
		candidate(refusal, FT_CANDIDATE_OVERCOMMIT_UNKNOWN);
	else if (would_overcommit(refusal))
		candidate(refusal, FT_CANDIDATE_OVERCOMMIT);
	else
		return;
	judge_mappings(refusal);
}

#endif
