/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What user space sets: struct Config of fork_trace/probes/settings.py. */
#ifndef FORK_TRACE_SETTINGS_H
#define FORK_TRACE_SETTINGS_H

#include "wire.h"

#define FT_FILTER_PID 1
#define FT_FILTER_UID 2
#define FT_FILTER_COMM 4
#define FT_FILTER_CGROUP 8

/*
 * What is read of the kernel only to explain a failure, by who reads it. A field or type
 * that the running kernel lacks makes every program that could reach it unloadable; so
 * user space switches its readers off, and what counts is loaded all the same.
 * fork_trace/probes/libbpf/gaps.py knows which structures each of them reads.
 */
#define FT_READERS(X)        \
	X(CALL, 0)           \
	X(CLONE_ARGS, 1)     \
	X(CGROUP, 2)         \
	X(SAMPLE, 3)         \
	X(DYING, 4)          \
	X(SUPERVISED, 5)     \
	X(MARK, 6)           \
	X(NPROC, 7)          \
	X(PIDS_CGROUP, 8)    \
	X(MEMORY_CGROUP, 9)  \
	X(DESCRIPTORS, 10)   \
	X(MEMORY, 11)        \
	X(PID_NAMESPACE, 12) \
	X(FS, 13)            \
	X(SCHED, 14)         \
	X(FLAGS, 15)         \
	X(NAMESPACES, 16)    \
	X(STACK, 17)         \
	X(LATE, 18)          \
	X(FAULT, 19)         \
	X(HUGE, 20)

#define FT_READER_ENUM(name, number) FT_READER_##name = number,
enum ft_reader {
	FT_READERS(FT_READER_ENUM)
};
#undef FT_READER_ENUM

/*
 * Settings, fixed before the programs are loaded: the verifier then drops what
 * they switch off. An address of 0 means that the symbol is not known.
 */
struct ft_config {
	ft_u64 copy_process_start; /* [start, end): return addresses in copy_process */
	ft_u64 copy_process_end;
	ft_u64 nr_threads; /* int, kernel/fork.c */
	ft_u64 max_threads; /* int, kernel/fork.c */
	ft_u64 pid_max; /* int, kernel/pid.c; gone in v6.14 */
	ft_u64 sysctl_nr_open; /* unsigned int, fs/file.c */
	ft_u64 sysctl_overcommit_memory; /* int, mm/util.c */
	ft_u64 sysctl_overcommit_ratio; /* int */
	ft_u64 sysctl_overcommit_kbytes; /* unsigned long */
	ft_u64 sysctl_admin_reserve_kbytes; /* unsigned long */
	ft_u64 sysctl_user_reserve_kbytes; /* unsigned long */
	ft_u64 totalram_pages; /* atomic_long_t _totalram_pages, mm/page_alloc.c */
	ft_u64 total_swap_pages; /* long, mm/swapfile.c */
	ft_u64 vm_committed_as; /* struct percpu_counter, mm/util.c */
	ft_u64 sysctl_max_map_count; /* int, mm/util.c */
	ft_u64 unprivileged_userns_clone; /* int, kernel/fork.c; Debian, Ubuntu */
	ft_u64 kthread; /* the function that each kernel thread begins with, kernel/kthread.c */
	ft_u64 call_usermodehelper_exec_async; /* and each user-mode helper, kernel/umh.c */
	ft_u64 ucounts_hashtable; /* struct hlist_head[1024], kernel/ucount.c */
	ft_u64 max_map_count; /* the value at the start, for where that address is not known; or 0 */
	ft_u64 ram_and_swap; /* bytes; the same */
	ft_u64 watched; /* bit n: enum ft_step: by its silence one lets pass; in FT_PHASE_COUNTING */
	ft_u64 watched_in_detail; /* the same, with those of FT_PHASE_DETAILED */
	ft_u64 filter_cgroup; /* id; the cgroup itself or any below it */
	ft_u64 seed; /* nobody outside knows it, so that nobody can choose whom to share a hash with */
	ft_u32 filter; /* FT_FILTER_* */
	ft_u32 filter_pid;
	ft_u32 filter_uid;
	char filter_comm[FT_COMM_BYTES];
	ft_u32 samples_per_second; /* of each key; for those of a kind, see ft_is_sampled */
	ft_u32 is_by_syscall; /* the tracepoint attach mode: failures are counted at the system call's exit */
	ft_u32 watches_early; /* beside the upper attach modes: what never reaches copy_process is counted */
	ft_u32 watches_twice; /* system calls, by a second program each: see ft_was_counted */
	ft_u32 copies_twice; /* the same of copy_process: see ft_was_copy_counted */
	ft_u32 copies_again_at_return; /* the second one is at its return: see ft_was_copy_counted_before */
	ft_u32 watches_mmap; /* a program is attached to it */
	ft_u32 page_shift; /* a page is 1 << page_shift bytes */
	ft_u32 notes_attempts; /* the kprobe attach mode: a program on the entry notes each copy_process */
	ft_u32 stack_bytes; /* of user stack with each sample, in whole chunks; 0: none */
	ft_u32 watches_exec; /* at the exit of any system call, as no program is on execve's own */
	ft_u32 blind; /* bit n: enum ft_reader: it reads nothing */
	ft_u32 big_fork_pages; /* anonymous memory from which on a fork is told; 0: none is */
	ft_u32 tells_chosen; /* no program sees each kill: the one that is chosen is told */
};

#endif
