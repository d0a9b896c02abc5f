/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The stack of a thread: what maps it has limits of its own. */
#ifndef FORK_TRACE_LIMITS_STACK_H
#define FORK_TRACE_LIMITS_STACK_H

#include "memory.h"
#include "../port.h"
#include "../reading.h"
#include "../refusal.h"
#include "../uapi.h"
#include "../wire.h"

#define RLIMIT_DATA 2 /* include/uapi/asm-generic/resource.h */
#define RLIMIT_AS 9

/* Can the overcommit rule have refused these pages? Asked where nobody watched it. */
ft_inline int may_be_overcommit(const struct ft_refusal *refusal, __u64 pages)
{
	__u64 mode = number_of(refusal, FT_NUMBER_OVERCOMMIT_MEMORY);

	if (!has_number(refusal, FT_NUMBER_OVERCOMMIT_MEMORY))
		return 1;
	if (mode == 0 && has_number(refusal, FT_NUMBER_PAGES_RAM) &&
	    has_number(refusal, FT_NUMBER_PAGES_SWAP))
		return pages > number_of(refusal, FT_NUMBER_PAGES_RAM) +
				       number_of(refusal, FT_NUMBER_PAGES_SWAP);
	return mode != 1;
}

/*
 * Which limit refused `bytes` of stack? Leaves the numbers in the refusal.
 * Source: mm/mmap.c, do_mmap and may_expand_vm; mm/mprotect.c, mprotect_fixup:
 * it asks for RLIMIT_DATA only, the address space was had already. What cannot
 * be written is charged to neither RLIMIT_DATA nor the overcommit rule.
 */
ft_global int judge_stack(__u64 bytes, __s32 error, __u32 step, __u32 is_writable)
{
	struct task_struct *task = current_task();
	struct ft_refusal *refusal = port_refusal();
	struct mm_struct *mm;
	__u64 pages = pages_of(bytes);
	__u64 total, data, address_space, data_limit;
	int count = 0;

	/* Of as many pages: not one left over from an earlier call. */
	if (refusal && refusal->is_of_stack && number_of(refusal, FT_NUMBER_PAGES_ASKED) == pages) {
		refusal->detail = FT_DETAIL_STACK_COMMIT;
		ft_number(refusal, FT_NUMBER_STACK_BYTES, bytes);
		return 0;
	}
	refusal = port_refusal_open();
	if (!refusal)
		return 0;
	ft_number(refusal, FT_NUMBER_STACK_BYTES, bytes);
	if (is_moved(refusal,
		     !is_blind(FT_READER_STACK) && has_field(mm_struct, total_vm) &&
			     has_field(mm_struct, data_vm) && has_field(mm_struct, map_count),
		     FT_MOVED_MM_STRUCT))
		return 0;
	mm = BPF_CORE_READ(task, mm);
	total = BPF_CORE_READ(mm, total_vm);
	data = BPF_CORE_READ(mm, data_vm);
	address_space = BPF_CORE_READ(task, signal, rlim[RLIMIT_AS].rlim_cur);
	data_limit = BPF_CORE_READ(task, signal, rlim[RLIMIT_DATA].rlim_cur);
	count = BPF_CORE_READ(mm, map_count);
	ft_number(refusal, FT_NUMBER_MM_TOTAL_PAGES, total);
	ft_number(refusal, FT_NUMBER_DATA_PAGES, data);
	ft_number(refusal, FT_NUMBER_ADDRESS_SPACE_LIMIT, address_space);
	ft_number(refusal, FT_NUMBER_DATA_LIMIT, data_limit);
	ft_number(refusal, FT_NUMBER_MAP_COUNT, count);
	if (port_config()->sysctl_max_map_count)
		number_int_at(refusal, FT_NUMBER_MAX_MAP_COUNT,
			      port_config()->sysctl_max_map_count);
	else if (port_config()->max_map_count)
		ft_number(refusal, FT_NUMBER_MAX_MAP_COUNT, port_config()->max_map_count);
	if (error == -FT_EAGAIN)
		refusal->detail = FT_DETAIL_STACK_LOCKED;
	else if (error != -FT_ENOMEM)
		refusal->detail = FT_DETAIL_NONE;
	else if (has_number(refusal, FT_NUMBER_MAX_MAP_COUNT) &&
		 /* do_mmap lets one more pass than split_vma does */
		 count >= (int)number_of(refusal, FT_NUMBER_MAX_MAP_COUNT) + (step == FT_STEP_MMAP))
		refusal->detail = FT_DETAIL_STACK_MAPPINGS;
	else if (step == FT_STEP_MMAP && address_space != ~0ULL &&
		 total + pages > address_space >> port_config()->page_shift)
		refusal->detail = FT_DETAIL_STACK_ADDRESS_SPACE;
	else if (is_writable && data_limit != ~0ULL &&
		 data + pages > data_limit >> port_config()->page_shift)
		refusal->detail = FT_DETAIL_STACK_DATA;
	else if (is_writable && port_config()->is_by_syscall) {
		/* Nobody watched the overcommit rule: what is left is it, if it can refuse. */
		read_commit_rule(refusal, mm);
		ft_number(refusal, FT_NUMBER_CAP_SYS_ADMIN,
			  has_sys_admin(BPF_CORE_READ(task, cred)));
		ft_number(refusal, FT_NUMBER_PAGES_ASKED, pages);
		refusal->detail =
			may_be_overcommit(refusal, pages) ? FT_DETAIL_STACK_COMMIT : FT_DETAIL_NONE;
	}
	return 0;
}

#endif
