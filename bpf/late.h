/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What becomes of a fork that went through: processes that the OOM killer ends, and their
 * kin, with whom they share memory. Costs nothing until it kills.
 *
 * The kernel kills with oom_lock held (mm/oom_kill.c), so that one death at a time is put
 * together in one place.
 */
#ifndef FORK_TRACE_LATE_H
#define FORK_TRACE_LATE_H

#include "caller.h"
#include "limits/cgroup.h"
#include "user_stack.h"

#define PF_EXITING 0x00000004 /* include/linux/sched.h */
#define PF_FORKNOEXEC 0x00000040
#define MM_ANONPAGES 1 /* include/linux/mm_types_task.h */
#define PAGE_MAPPING_ANON 0x1 /* include/linux/page-flags.h */
#define PAGE_MAPPING_KSM 0x3
#define MASK_OF_HEAD 0xffffffff00000000UL /* no page lies there: it is a mask */
#define MOST_CHILDREN 64 /* that are looked at of each thread */
#define MOST_THREADS 32 /* of a process, whose children these are */
#define STACK_WORDS \
	1024 /* of the allocator's kernel stack, that are looked at from its outer end */
#define FT_DEATHS_SHIFT 17

/* The death that is put together, and what it is compared with. */
struct ft_dying {
	struct ft_death death;
	__u64 control; /* struct oom_control *, of who is about to kill; 0: none */
	__u32 control_tid;
	__u32 relation; /* FT_KIN_CHILD while the victim's own children are looked at */
	__u64 memory; /* the victim's mm_struct */
	__u64 code; /* where its program and stack begin */
	__u64 stack;
	__u64 victim; /* its main thread */
	struct ft_kin
		last; /* who was killed before, and has no memory any more, and where it ran */
	__u64 last_code;
	__u64 last_stack;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct ft_dying);
} dying SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << FT_DEATHS_SHIFT); /* 60 deaths; each wakes the reader */
} deaths SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 14); /* as many as there are stacks for */
} big_forks SEC(".maps");

static const struct ft_death no_death;

ft_inline struct ft_dying *the_dying(void)
{
	__u32 index = 0;

	return bpf_map_lookup_elem(&dying, &index);
}

ft_inline void read_anon(struct ft_kin *kin, struct mm_struct *mm)
{
	struct mm_struct___v61 *older = (struct mm_struct___v61 *)mm;
	__s64 pages = -1;

	/* A sum that lags behind by a few pages of each processor, and may be below 0 for it. */
	if (has_field(mm_struct, rss_stat[MM_ANONPAGES].count))
		bpf_core_read(&pages, sizeof(pages), &mm->rss_stat[MM_ANONPAGES].count);
	else if (has_field(mm_struct___v61, rss_stat.count))
		bpf_core_read(&pages, sizeof(pages), &older->rss_stat.count[MM_ANONPAGES].counter);
	if (pages < 0)
		return;
	kin->anon_pages = pages;
	kin->bits |= FT_KIN_HAS_MEMORY;
}

/*
 * Does copy_process return a child with much memory of its own? Every fork pays for this: the
 * kernel's memory is read by plain loads, as the verifier allows where it knows the types.
 */
ft_inline int is_big_fork(__u64 *ctx)
{
	__u32 least = port_config()->big_fork_pages;
	struct mm_struct *mm;

	if (!least || is_blind(FT_READER_LATE) || is_blind(FT_READER_CLONE_ARGS))
		return 0;
	if (((struct kernel_clone_args *)ctx[3])->flags & FT_CLONE_VM)
		return 0;
	/* Where &ctx[4] is in a register already, clang would read by that, which no kernel lets pass. */
	__asm__ volatile("" : "+r"(ctx));
	mm = ((struct task_struct *)ctx[4])->mm;
	if (has_field(mm_struct, rss_stat[MM_ANONPAGES].count))
		return mm->rss_stat[MM_ANONPAGES].count >= least;
	/* Those kernels let no program load an element of that array by itself. */
	if (has_field(mm_struct___v61, rss_stat.count))
		return BPF_CORE_READ((struct mm_struct___v61 *)mm,
				     rss_stat.count[MM_ANONPAGES].counter) >= least;
	return 0;
}

/* Who asked for it can be found out now alone. */
ft_global int note_big_fork(__u64 address)
{
	struct task_struct *child = (struct task_struct *)address;
	struct ft_big_fork *fork;

	if (is_blind(FT_READER_LATE) || port_phase() < FT_PHASE_ALONE)
		return 0;
	/* The other half is for the stacks of failures. */
	if (bpf_ringbuf_query(&user_stacks, BPF_RB_AVAIL_DATA) >
	    bpf_ringbuf_query(&user_stacks, BPF_RB_RING_SIZE) / 2)
		return 0;
	fork = bpf_ringbuf_reserve(&big_forks, sizeof(*fork), 0);
	if (!fork)
		return 0;
	fork->time_ns = bpf_ktime_get_ns();
	fork->child_start_ns = BPF_CORE_READ(child, start_time);
	fork->tid = bpf_get_current_pid_tgid();
	fork->pid = bpf_get_current_pid_tgid() >> 32;
	fork->uid = bpf_get_current_uid_gid();
	fork->child = BPF_CORE_READ(child, tgid);
	if (port_config()->stack_bytes)
		send_stack(fork->time_ns);
	bpf_ringbuf_submit(fork, BPF_RB_NO_WAKEUP);
	return 0;
}

/* Of who has given up its memory it is known what it had, if it was killed just before. */
ft_inline void read_last(struct ft_kin *kin, struct ft_dying *work)
{
	if (kin->pid != work->last.pid || kin->start_ns != work->last.start_ns)
		return;
	if (work->last_code == work->code && work->last_stack == work->stack)
		kin->bits |= FT_KIN_SAME_PROGRAM;
	kin->anon_pages = work->last.anon_pages;
	kin->bits |= work->last.bits & FT_KIN_HAS_MEMORY;
}

/* What is to be told of a process, by its main thread. */
ft_inline void read_kin(struct ft_kin *kin, struct task_struct *leader, struct ft_dying *work)
{
	struct mm_struct *mm;
	__u32 flags;

	mm = BPF_CORE_READ(leader, mm);
	flags = BPF_CORE_READ(leader, flags);
	kin->pid = BPF_CORE_READ(leader, tgid);
	kin->start_ns = BPF_CORE_READ(leader, start_time);
	kin->bits = FT_KIN_THERE | work->relation;
	if (flags & PF_FORKNOEXEC)
		kin->bits |= FT_KIN_NO_EXEC;
	if (flags & PF_EXITING || BPF_CORE_READ(leader, signal, flags) & SIGNAL_GROUP_EXIT)
		kin->bits |= FT_KIN_EXITING;
	bpf_core_read(kin->comm, sizeof(kin->comm), &leader->comm);
	if (!mm) {
		read_last(kin, work);
		return;
	}
	if ((__u64)mm == work->memory)
		kin->bits |= FT_KIN_SAME_MEMORY;
	if (BPF_CORE_READ(mm, start_code) == work->code &&
	    BPF_CORE_READ(mm, start_stack) == work->stack)
		kin->bits |= FT_KIN_SAME_PROGRAM;
	read_anon(kin, mm);
}

/* One child: kept if it has executed no program since it was forked from the victim's program. */
ft_global int note_child(__u64 child)
{
	struct ft_dying *work = the_dying();
	struct ft_kin *kin;
	__u32 count;

	if (is_blind(FT_READER_LATE) || !work || child == work->victim)
		return 0;
	count = work->death.kin_count;
	if (count >= FT_KIN)
		return 0;
	kin = &work->death.kin[count];
	read_kin(kin, (struct task_struct *)child, work);
	if ((kin->bits & (FT_KIN_NO_EXEC | FT_KIN_SAME_PROGRAM | FT_KIN_SAME_MEMORY)) !=
	    (FT_KIN_NO_EXEC | FT_KIN_SAME_PROGRAM)) {
		kin->bits = 0;
		return 0;
	}
	work->death.kin_count = count + 1;
	return 0;
}

/* The children that a thread has forked, the youngest first. */
ft_global int note_children(__u64 thread)
{
	struct task_struct *task = (struct task_struct *)thread;
	struct ft_dying *work = the_dying();
	struct list_head *head, *node = 0;
	int i;

	if (is_blind(FT_READER_LATE) || !work)
		return 0;
	head = __builtin_preserve_access_index(&task->children);
	bpf_core_read(&node, sizeof(node), &head->prev);
	for (i = 0; i < MOST_CHILDREN && node && node != head; i++) {
		note_child((__u64)node - (__u64)__builtin_preserve_access_index(
						 &((struct task_struct *)0)->sibling));
		bpf_core_read(&node, sizeof(node), &node->prev);
	}
	return 0;
}

/* The children of all threads of a process. */
ft_global int note_family(__u64 leader)
{
	struct task_struct *task = (struct task_struct *)leader;
	struct list_head *head, *node = 0;
	struct signal_struct *signal;
	int i;

	if (is_blind(FT_READER_LATE))
		return 0;
	signal = BPF_CORE_READ(task, signal);
	head = __builtin_preserve_access_index(&signal->thread_head);
	bpf_core_read(&node, sizeof(node), &head->next);
	for (i = 0; i < MOST_THREADS && node && node != head; i++) {
		note_children((__u64)node - (__u64)__builtin_preserve_access_index(
						    &((struct task_struct *)0)->thread_node));
		bpf_core_read(&node, sizeof(node), &node->next);
	}
	return 0;
}

/* Victim, parent, and who else descends from the same exec. */
ft_global int read_family(__u64 victim)
{
	struct task_struct *task = (struct task_struct *)victim, *leader, *parent;
	struct ft_dying *work = the_dying();
	struct mm_struct *mm;

	if (is_blind(FT_READER_LATE) || !work)
		return 0;
	leader = BPF_CORE_READ(task, group_leader);
	work->victim = (__u64)leader;
	mm = BPF_CORE_READ(leader, mm);
	if (!mm)
		mm = BPF_CORE_READ(task, mm);
	work->memory = (__u64)mm;
	work->code = BPF_CORE_READ(mm, start_code);
	work->stack = BPF_CORE_READ(mm, start_stack);
	work->relation = 0;
	read_kin(&work->death.victim, leader, work);
	if (mm && !(work->death.victim.bits & FT_KIN_HAS_MEMORY))
		read_anon(&work->death.victim, mm);
	work->death.uid = BPF_CORE_READ(leader, real_cred, uid.val);
	parent = BPF_CORE_READ(leader, real_parent, group_leader);
	if (parent)
		read_kin(&work->death.parent, parent, work);
	/* A victim can be both: who was forked may fork again. */
	work->relation = FT_KIN_CHILD;
	note_family((__u64)leader);
	work->relation = 0;
	if (work->death.victim.bits & FT_KIN_NO_EXEC &&
	    (work->death.parent.bits & (FT_KIN_SAME_PROGRAM | FT_KIN_SAME_MEMORY)) ==
		    FT_KIN_SAME_PROGRAM) {
		work->death.bits |= FT_DEATH_OF_PARENT;
		note_family((__u64)parent);
	}
	bpf_probe_read_kernel(&work->last, sizeof(work->last), &work->death.victim);
	work->last_code = work->code;
	work->last_stack = work->stack;
	return 0;
}

/* One level of a victim's memory cgroups. Returns the one above; 0: this was the last. */
ft_global __u64 death_level(__u64 address, __u64 over)
{
	struct cgroup_subsys_state *css = (struct cgroup_subsys_state *)address, *parent = 0;
	struct mem_cgroup *memcg = (struct mem_cgroup *)css;
	struct ft_dying *work = the_dying();
	__u64 usage = 0, max = 0;
	__u32 count;

	if (is_blind(FT_READER_MEMORY_CGROUP) || !work || !has_field(mem_cgroup, memory) ||
	    !has_field(page_counter, usage) || !has_field(page_counter, max))
		return 0;
	if (bpf_core_read(&parent, sizeof(parent), &css->parent) || !parent)
		return 0;
	count = work->death.level_count;
	if (count >= FT_LEVELS || read_page_counter(&memcg->memory, &usage, &max, 0, 1) < 0)
		return 0;
	read_counters_of_v1(memcg, &usage, &max, MEMCG_BATCH);
	work->death.level[count].kind = FT_LEVEL_MEMORY_CGROUP;
	work->death.level[count].up = count;
	work->death.level[count].id = BPF_CORE_READ(css, cgroup, kn, id);
	work->death.level[count].used = usage;
	work->death.level[count].limit = max;
	work->death.hierarchy = BPF_CORE_READ(css, cgroup, root, hierarchy_id);
	if (over && address == over)
		work->death.over = count;
	work->death.level_count = count + 1;
	return (__u64)parent;
}

/* The victim's cgroups, and which of them is full. */
ft_global int read_death_cgroups(__u64 victim)
{
	struct task_struct *task = (struct task_struct *)victim;
	struct ft_dying *work = the_dying();
	struct cgroup_subsys_state *css;
	struct oom_control *control;
	__u64 address, over = 0;
	int i;

	if (is_blind(FT_READER_LATE) || is_blind(FT_READER_CGROUP) || !work)
		return 0;
	css = own_css_of(task);
	work->death.cgroup = BPF_CORE_READ(css, cgroup, kn, id);
	work->death.cgroup_path_bytes = read_path(css, work->death.cgroup_path);
	control = (struct oom_control *)work->control;
	if (control && work->control_tid == (__u32)bpf_get_current_pid_tgid()) {
		work->death.bits |= FT_DEATH_HAS_CONTROL;
		over = (__u64)BPF_CORE_READ(control, memcg);
		if (over)
			work->death.bits |= FT_DEATH_MEMCG;
		work->death.total_pages = BPF_CORE_READ(control, totalpages);
		work->death.constraint = BPF_CORE_READ(control, constraint);
	}
	if (is_blind(FT_READER_MEMORY_CGROUP) || !has_value(cgroup_subsys_id, memory_cgrp_id))
		return 0;
	address = (__u64)css_of_task(task, memory_index());
	for (i = 0; i < CGROUP_LEVELS && address; i++)
		address = death_level(address, over);
	return 0;
}

/* Is this the struct vm_fault of a fault in these mappings? */
ft_global int is_fault_at(__u64 address, __u64 memory)
{
	struct vm_fault *fault = (struct vm_fault *)address;
	struct vm_area_struct *vma = 0;
	__u64 start, at;

	if (is_blind(FT_READER_FAULT))
		return 0;
	bpf_core_read(&vma, sizeof(vma), &fault->vma);
	if ((__s64)vma >= 0 || (__u64)BPF_CORE_READ(vma, vm_mm) != memory)
		return 0;
	start = BPF_CORE_READ(vma, vm_start);
	at = BPF_CORE_READ(fault, address);
	return at >= start && at < BPF_CORE_READ(vma, vm_end) &&
	       BPF_CORE_READ(fault, pgoff) ==
		       BPF_CORE_READ(vma, vm_pgoff) + ((at - start) >> port_config()->page_shift);
}

/* Returns enum ft_copied. */
ft_inline __u32 kind_of_page(struct page *page)
{
	__u64 head = 0, mapping;

	if (!page)
		return FT_COPIED_NONE;
	if (has_field(page, compound_info))
		bpf_core_read(&head, sizeof(head), &page->compound_info);
	else if (has_field(page, compound_head))
		bpf_core_read(&head, sizeof(head), &page->compound_head);
	else
		return FT_COPIED_UNKNOWN;
	if (head & 1)
		head = head >= MASK_OF_HEAD ? (__u64)page & head : head - 1;
	else
		head = (__u64)page;
	mapping = (__u64)BPF_CORE_READ((struct page *)head, mapping);
	if ((mapping & PAGE_MAPPING_KSM) == PAGE_MAPPING_KSM)
		return FT_COPIED_KSM;
	return mapping & PAGE_MAPPING_ANON ? FT_COPIED_ANON : FT_COPIED_FILE;
}

ft_global int note_copied(__u64 fault)
{
	struct ft_dying *work = the_dying();

	if (!is_blind(FT_READER_FAULT) && work)
		work->death.copied = kind_of_page(BPF_CORE_READ((struct vm_fault *)fault, page));
	return 0;
}

/*
 * What is being copied. The struct vm_fault of a fault lies in the stack of who is in it, in the
 * frame of __handle_mm_fault, and do_wp_page puts there which page it is about. Outermost first:
 * a fault of the program's own code is the first thing in the stack, and nothing old is above it.
 */
ft_global int read_copied(void)
{
	struct ft_dying *work = the_dying();
	__u64 stack, memory, at;
	__u32 i;

	if (is_blind(FT_READER_CALL) || is_blind(FT_READER_FAULT) || !work)
		return 0;
	memory = (__u64)BPF_CORE_READ(current_task(), mm);
	stack = (__u64)BPF_CORE_READ(current_task(), stack);
	if (!memory || !stack)
		return 0;
	if (is_exception(call_registers()))
		work->death.bits |= FT_DEATH_IN_FAULT;
	at = stack + KERNEL_STACK_BYTES - pt_regs_bytes;
	for (i = 0; i < STACK_WORDS; i++) {
		at -= FRAME_BYTES;
		if (is_fault_at(at, memory))
			return note_copied(at);
	}
	return 0;
}

/* The OOM killer ends a process. */
ft_inline int on_death(void *ctx, __u64 victim, __u32 pid)
{
	struct ft_dying *work;
	long bytes;

	if (port_phase() < FT_PHASE_ALONE)
		return 0;
	work = the_dying();
	if (!work)
		return 0;
	bpf_probe_read_kernel(&work->death, sizeof(work->death), &no_death);
	work->death.time_ns = bpf_ktime_get_ns();
	work->death.over = FT_NO_LEVEL;
	work->death.victim.pid = pid;
	work->death.allocator_pid = bpf_get_current_pid_tgid() >> 32;
	work->death.allocator_tid = bpf_get_current_pid_tgid();
	bpf_get_current_comm(work->death.allocator_comm, sizeof(work->death.allocator_comm));
	bytes = bpf_get_stack(ctx, work->death.kernel_frame, sizeof(work->death.kernel_frame), 0);
	if (bytes > 0)
		work->death.kernel_frame_count = bytes / FRAME_BYTES;
	read_copied();
	if (victim) {
		read_family(victim);
		read_death_cgroups(victim);
	}
	if (bpf_ringbuf_output(&deaths, &work->death, sizeof(work->death), BPF_RB_FORCE_WAKEUP))
		port_stat(FT_STAT_DEATHS_LOST);
	return 0;
}

/* Of a group (memory.oom.group) the kernel comes by once more for the one that it chose at first. */
ft_inline int on_kill(void *ctx, __u64 victim)
{
	if (!is_blind(FT_READER_LATE) &&
	    BPF_CORE_READ((struct task_struct *)victim, signal, flags) & SIGNAL_GROUP_EXIT)
		return 0;
	return on_death(ctx, victim, 0);
}

/* void oom_kill_process(struct oom_control *, const char *message): it is about to choose whom to kill. */
ft_inline int on_oom(void *ctx, __u64 control)
{
	struct ft_dying *work = the_dying();
	struct task_struct *chosen;

	if (!work)
		return 0;
	work->control = control;
	work->control_tid = bpf_get_current_pid_tgid();
	if (!port_config()->tells_chosen)
		return 0;
	if (is_blind(FT_READER_LATE))
		return on_death(ctx, 0, 0);
	chosen = BPF_CORE_READ((struct oom_control *)control, chosen);
	/* Who exits anyway is only helped to. */
	if (BPF_CORE_READ(chosen, signal, flags) & SIGNAL_GROUP_EXIT)
		return 0;
	return on_death(ctx, (__u64)chosen, 0);
}

/* By a pid alone: the one who asked for memory, its parent, or one of its or the parent's children. */
ft_inline __u64 task_by_pid(int pid)
{
	struct task_struct *leader, *parent, *child;
	struct list_head *head, *node = 0;
	int i, of;

	if (is_blind(FT_READER_LATE))
		return 0;
	leader = BPF_CORE_READ(current_task(), group_leader);
	parent = BPF_CORE_READ(leader, real_parent, group_leader);
	if (BPF_CORE_READ(leader, tgid) == pid)
		return (__u64)leader;
	if (BPF_CORE_READ(parent, tgid) == pid)
		return (__u64)parent;
	for (of = 0; of < 2; of++) {
		head = of ? __builtin_preserve_access_index(&parent->children)
			  : __builtin_preserve_access_index(&leader->children);
		bpf_core_read(&node, sizeof(node), &head->prev);
		for (i = 0; i < MOST_CHILDREN && node && node != head; i++) {
			child = (struct task_struct *)((__u64)node -
						       (__u64)__builtin_preserve_access_index(
							       &((struct task_struct *)0)
									->sibling));
			if (BPF_CORE_READ(child, tgid) == pid)
				return (__u64)child;
			bpf_core_read(&node, sizeof(node), &node->prev);
		}
	}
	return 0;
}

/* The victim of the tracepoint oom:mark_victim, in whichever of its forms. */
ft_inline int on_mark_victim(void *ctx, __u64 victim)
{
	if (is_blind(FT_READER_LATE))
		return on_death(ctx, 0, 0);
	if (has_field(trace_event_raw_mark_victim, uid))
		return on_death(ctx, victim, 0);
	return on_death(ctx, task_by_pid(victim), victim);
}

/*
 * Huge pages of hugetlbfs. A private mapping has pages reserved for who made it, not for its
 * children: each gets SIGBUS when it writes what it shares and no page is left, and when it comes
 * to a page that its parent took away to write itself (mm/hugetlb.c, unmap_ref_private).
 */

#define VM_FAULT_SIGBUS 0x2 /* include/linux/mm_types.h */
#define FAULT_FLAG_USER 0x40
#define VM_SHARED 0x8 /* include/linux/mm.h */
#define VM_NORESERVE 0x200000
#define HPAGE_RESV_OWNER 0x1 /* mm/hugetlb.c, in vm_private_data */
#define SIGBUS 7
#define SIG_IGN 1

struct huge_fault {
	__u64 vma;
	__u64 flags;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 256);
	__type(key, __u32); /* thread */
	__type(value, struct huge_fault);
} huge_faults SEC(".maps");

ft_inline void read_of_exec(struct ft_kin *kin, struct task_struct *leader)
{
	kin->pid = BPF_CORE_READ(leader, tgid);
	kin->start_ns = BPF_CORE_READ(leader, start_time);
	kin->bits = FT_KIN_THERE;
	if (BPF_CORE_READ(leader, flags) & PF_FORKNOEXEC)
		kin->bits |= FT_KIN_NO_EXEC;
	bpf_core_read(kin->comm, sizeof(kin->comm), &leader->comm);
}

ft_inline void read_pool(struct ft_huge_death *death, struct vm_area_struct *vma)
{
	struct hugetlbfs_sb_info *info;
	struct hstate *pool;

	info = (struct hugetlbfs_sb_info *)BPF_CORE_READ(vma, vm_file, f_inode, i_sb, s_fs_info);
	pool = BPF_CORE_READ(info, hstate);
	death->page_order = BPF_CORE_READ(pool, order);
	death->total = BPF_CORE_READ(pool, nr_huge_pages);
	death->free = BPF_CORE_READ(pool, free_huge_pages);
	death->reserved = BPF_CORE_READ(pool, resv_huge_pages);
}

/* The current process is killed: it was forked, has executed nothing, and had no page reserved. */
ft_global int send_huge_death(__u64 address)
{
	struct vm_area_struct *vma = (struct vm_area_struct *)address;
	struct cgroup_subsys_state *css;
	struct task_struct *leader, *parent;
	struct ft_huge_death *death;
	struct mm_struct *mm, *above;

	if (is_blind(FT_READER_LATE) || is_blind(FT_READER_HUGE) || is_blind(FT_READER_CGROUP))
		return 0;
	leader = BPF_CORE_READ(current_task(), group_leader);
	if (!(BPF_CORE_READ(leader, flags) & PF_FORKNOEXEC) ||
	    BPF_CORE_READ(vma, vm_flags) & (VM_SHARED | VM_NORESERVE) ||
	    (__u64)BPF_CORE_READ(vma, vm_private_data) & HPAGE_RESV_OWNER ||
	    (__u64)BPF_CORE_READ(leader, sighand, action[SIGBUS - 1].sa.sa_handler) > SIG_IGN)
		return 0;
	death = bpf_ringbuf_reserve(&deaths, sizeof(*death), 0);
	if (!death) {
		port_stat(FT_STAT_DEATHS_LOST);
		return 0;
	}
	__builtin_memset(death, 0, sizeof(*death));
	death->time_ns = bpf_ktime_get_ns();
	death->uid = bpf_get_current_uid_gid();
	css = own_css_of(current_task());
	death->cgroup = BPF_CORE_READ(css, cgroup, kn, id);
	read_pool(death, vma);
	read_of_exec(&death->victim, leader);
	parent = BPF_CORE_READ(leader, real_parent, group_leader);
	read_of_exec(&death->parent, parent);
	mm = BPF_CORE_READ(leader, mm);
	above = BPF_CORE_READ(parent, mm);
	if (above && BPF_CORE_READ(mm, start_code) == BPF_CORE_READ(above, start_code) &&
	    BPF_CORE_READ(mm, start_stack) == BPF_CORE_READ(above, start_stack))
		death->parent.bits |= FT_KIN_SAME_PROGRAM;
	bpf_ringbuf_submit(death, BPF_RB_FORCE_WAKEUP);
	return 0;
}

/* vm_fault_t hugetlb_fault(struct mm_struct *, struct vm_area_struct *, address, flags) returns. */
ft_inline int on_huge_fault(__u64 vma, __u32 flags, __u32 result)
{
	if (!(result & VM_FAULT_SIGBUS) || !(flags & FAULT_FLAG_USER) ||
	    port_phase() < FT_PHASE_ALONE)
		return 0;
	return send_huge_death(vma);
}

#endif
