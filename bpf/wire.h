/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The wire: what the kernel side sends and user space decodes. Plain C types, so
 * that the CO-RE shell, the bcc shell, the native test shell and a reader of
 * fork_trace/model/events.py all see the same bytes.
 */
#ifndef FORK_TRACE_WIRE_H
#define FORK_TRACE_WIRE_H

typedef unsigned char ft_u8;
typedef unsigned int ft_u32;
typedef int ft_s32;
typedef long long ft_s64;
typedef unsigned long long ft_u64;

#define FT_COMM_BYTES 16 /* TASK_COMM_LEN, include/linux/sched.h */
#define FT_USER_FRAMES 8 /* what frame pointers give on most systems is one frame */
#define FT_BUILD_ID_BYTES 20
#define FT_KERNEL_FRAMES 32 /* dup_mmap's refusal lies 4 to 8 frames below copy_process */

/* The steps of a fork that this program can blame, by their places in probes.def. */
#define STEP(ident, name, what) FT_STEP_##ident,
enum ft_step {
#include "probes.def"
};

/*
 * What decides between two causes that share a step and an errno. It is part of
 * the key of the exact counters, so a count never has to guess its cause.
 */
enum ft_detail {
	FT_DETAIL_NONE = 0,
	FT_DETAIL_OVERCOMMIT_GUESS = 1, /* vm.overcommit_memory was 0 */
	FT_DETAIL_OVERCOMMIT_ALWAYS = 2, /* 1: never refuses, seen only if it changed under us */
	FT_DETAIL_OVERCOMMIT_NEVER = 3, /* 2 */
	FT_DETAIL_PIDNS_ALIVE = 4,
	FT_DETAIL_PIDNS_DEAD = 5, /* PIDNS_ADDING off: its init has died */
	FT_DETAIL_NS_LIMIT = 6, /* a user.max_*_namespaces, at some user namespace */
	FT_DETAIL_NS_DEPTH = 7, /* 32 levels below the initial one */
	FT_DETAIL_MOUNTS = 8, /* copy_mnt_ns: fs.mount-max, which no known kernel asks there */
	FT_DETAIL_STACK_ADDRESS_SPACE = 9, /* a thread's stack: RLIMIT_AS */
	FT_DETAIL_STACK_DATA = 10, /* RLIMIT_DATA */
	FT_DETAIL_STACK_MAPPINGS = 11, /* vm.max_map_count */
	FT_DETAIL_STACK_COMMIT = 12, /* the overcommit rule */
	FT_DETAIL_STACK_LOCKED = 13, /* RLIMIT_MEMLOCK, after mlockall(MCL_FUTURE) */
	FT_DETAIL_NS_ROOM = 14, /* every count of namespaces that was asked is below its limit */
	FT_DETAIL_NEW_NET = 15, /* CLONE_NEWNET was asked for, whose errnos are many */
	FT_DETAIL_POINTER_BAD = 16, /* no user address that anything can be at */
	FT_DETAIL_POINTER_MAPPED = 17, /* what lies there could be read */
	FT_DETAIL_NS_NEAR =
		18, /* a count of namespaces is so near its limit that one may have ended */
};

enum ft_syscall {
	FT_SYSCALL_UNKNOWN = 0,
	FT_SYSCALL_FORK = 1,
	FT_SYSCALL_VFORK = 2,
	FT_SYSCALL_CLONE = 3,
	FT_SYSCALL_CLONE3 = 4,
	FT_SYSCALL_KERNEL = 5, /* a kernel thread, or a worker that the kernel made */
	FT_SYSCALL_MMAP = 6, /* of a thread's stack, before any clone */
	FT_SYSCALL_MPROTECT = 7, /* the same */
	FT_SYSCALL_EXECVE =
		8, /* execveat too: after a change of user, RLIMIT_NPROC is asked again */
	FT_SYSCALL_UNSHARE = 9, /* makes namespaces by the functions that a fork makes them by */
};

#define FT_BIT_THREAD 1 /* CLONE_THREAD was asked for */
#define FT_BIT_OBSERVED 2 /* a function that we watch refused inside this very call */
#define FT_BIT_MEMCG 4 /* a memory cgroup refused a charge inside this very call */
#define FT_BIT_DETAILED 8 /* judged in FT_PHASE_DETAILED: each watched step has let it pass */
#define FT_BIT_ALONE 16 /* judged in FT_PHASE_ALONE: no step was watched yet */
#define FT_BIT_FLAGS_UNKNOWN 32 /* so it is not known either what was to be made */
#define FT_BIT_LATE 64 /* told at the thread's next system call: where it called from is gone */
/* In place of CLONE_* flags that were not to be had. No kernel takes these, and a caller gives any. */
#define FT_FLAGS_UNKNOWN 0xffffffff00000000ULL

/*
 * What would have refused, by the state at the instant of the return, for a
 * failure that no watched function explains. Only tests that no program watches
 * are in it: a watched one would have told; but where a program can be left out,
 * all of them, and user space knows which were. fork_trace/diagnosis/causes puts them in
 * the kernel's order. The second half says what was asked or could not be read,
 * that nothing could be looked at, and that the programs of every step were
 * attached by then.
 */
#define FT_CANDIDATES(X)          \
	X(NPROC, 0)               \
	X(THREADS, 1)             \
	X(DEADLINE, 2)            \
	X(IN_EXEC, 3)             \
	X(PID_MAX, 4)             \
	X(PIDS_CGROUP, 5)         \
	X(PIDNS_DEAD, 6)          \
	X(FD_TABLE, 7)            \
	X(OVERCOMMIT, 8)          \
	X(MEMCG, 9)               \
	X(FLAGS, 10)              \
	X(UNSHARED, 11)           \
	X(USERNS_SYSCTL, 12)      \
	X(NS_DENIED, 13)          \
	X(NS_LIMIT, 14)           \
	X(NS_DEPTH, 15)           \
	X(THREADS_UNKNOWN, 16)    \
	X(OVERCOMMIT_UNKNOWN, 17) \
	X(ASKED_NEWUSER, 18)      \
	X(ASKED_NAMESPACE, 19)    \
	X(ASKED_PIDFD, 20)        \
	X(ASKED_CGROUP, 21)       \
	X(ASKED_TLS, 22)          \
	X(ASKED_TID, 23)          \
	X(SHARES_FS, 24)          \
	X(COPIES_MM, 25)          \
	X(MEMCG_LIMITED, 26)      \
	X(NPROC_UNKNOWN, 27)      \
	X(PIDS_UNKNOWN, 28)       \
	X(PIDNS_UNKNOWN, 29)      \
	X(UNJUDGED, 30)           \
	X(THREADS_NEAR, 31)       \
	X(ONE_MAPPING, 32)        \
	X(SMALL_MAPPINGS, 33)

#define FT_CANDIDATE_ENUM(name, number) FT_CANDIDATE_##name = number,
enum ft_candidate {
	FT_CANDIDATES(FT_CANDIDATE_ENUM)
};
#undef FT_CANDIDATE_ENUM

/*
 * Numbers read in the kernel at the instant of the refusal. Each has a bit in
 * `have`: a number that could not be read is absent, never 0.
 */
#define FT_NUMBERS(X)               \
	X(NPROC, 0)                 \
	X(NPROC_LIMIT, 1)           \
	X(NPROC_LEVEL, 2)           \
	X(NR_THREADS, 3)            \
	X(MAX_THREADS, 4)           \
	X(FD_SLOTS, 5)              \
	X(NR_OPEN, 6)               \
	X(OVERCOMMIT_MEMORY, 7)     \
	X(OVERCOMMIT_RATIO, 8)      \
	X(OVERCOMMIT_KBYTES, 9)     \
	X(PAGES_ASKED, 10)          \
	X(PAGES_COMMITTED, 11)      \
	X(PAGES_RAM, 12)            \
	X(PAGES_SWAP, 13)           \
	X(ADMIN_RESERVE_KBYTES, 14) \
	X(USER_RESERVE_KBYTES, 15)  \
	X(CAP_SYS_ADMIN, 16)        \
	X(MM_TOTAL_PAGES, 17)       \
	X(PIDNS_LEVEL, 18)          \
	X(PIDNS_PIDS, 19)           \
	X(PIDNS_INUM, 20)           \
	X(PID_MAX, 21)              \
	X(PIDS_CURRENT, 22)         \
	X(PIDS_LIMIT, 23)           \
	X(PIDS_CGROUP, 24)          \
	X(PIDS_LEVELS_UP, 25)       \
	X(PIDS_HIERARCHY, 26)       \
	X(NPROC_UID, 27)            \
	X(MEMCG_PAGES, 28)          \
	X(MEMCG_MAX, 29)            \
	X(MEMCG_CGROUP, 30)         \
	X(MEMCG_LEVELS_UP, 31)      \
	X(MEMCG_HIERARCHY, 32)      \
	X(NS_COUNT, 33)             \
	X(NS_MAX, 34)               \
	X(NS_LEVEL, 35)             \
	X(NS_UID, 36)               \
	X(POLICY, 37)               \
	X(MAP_COUNT, 38)            \
	X(MAX_MAP_COUNT, 39)        \
	X(ADDRESS_SPACE_LIMIT, 40)  \
	X(DATA_PAGES, 41)           \
	X(DATA_LIMIT, 42)           \
	X(STACK_BYTES, 43)          \
	X(FLAG_RULES, 44)           \
	X(NOFILE_LIMIT, 45)         \
	X(MOVED, 46)                \
	X(MEMCG_COUNTER, 47)        \
	X(OWN_THREADS, 48)

#define FT_NUMBER_ENUM(name, number) FT_NUMBER_##name = number,
enum ft_number {
	FT_NUMBERS(FT_NUMBER_ENUM) FT_NUMBER_COUNT = 49
};
#undef FT_NUMBER_ENUM

/*
 * Rules on the arguments of clone and clone3: bits of FT_NUMBER_FLAG_RULES. Those of copy_process
 * come first, then those that are asked before it; fork_trace/diagnosis/causes/arguments.py has words.
 */
#define FT_RULES(X)              \
	X(NEWNS_FS, 0)           \
	X(NEWUSER_FS, 1)         \
	X(THREAD_SIGHAND, 2)     \
	X(SIGHAND_VM, 3)         \
	X(THREAD_NEW, 4)         \
	X(PIDFD_DETACHED, 5)     \
	X(NEWIPC_SYSVSEM, 6)     \
	X(PARENT_INIT, 7)        \
	X(PIDFD_THREAD, 8)       \
	X(AUTOREAP_THREAD, 9)    \
	X(AUTOREAP_PARENT, 10)   \
	X(AUTOREAP_SIGNAL, 11)   \
	X(PARENT_AUTOREAPED, 12) \
	X(NNP_THREAD, 13)        \
	X(AUTOKILL_PIDFD, 14)    \
	X(AUTOKILL_AUTOREAP, 15) \
	X(AUTOKILL_THREAD, 16)   \
	X(AUTOKILL_ADMIN, 17)    \
	X(PIDFD_SETTID, 18)      \
	X(SIGNAL, 19)            \
	X(SIZE_SMALL, 20)        \
	X(SIZE_LARGE, 21)        \
	X(SIZE_UNKNOWN, 22)      \
	X(ARGS_FAULT, 23)        \
	X(FLAG_UNKNOWN, 24)      \
	X(DETACHED, 25)          \
	X(FLAG_SIGNAL, 26)       \
	X(CLEAR_SIGHAND, 27)     \
	X(THREAD_SIGNAL, 28)     \
	X(STACK_SIZE, 29)        \
	X(STACK, 30)             \
	X(SET_TID, 31)           \
	X(SET_TID_FAULT, 32)     \
	X(CGROUP, 33)

#define FT_RULE_ENUM(name, number) FT_RULE_##name = number,
enum ft_rule {
	FT_RULES(FT_RULE_ENUM)
};
#undef FT_RULE_ENUM

/* Which counter of a memory cgroup refused: FT_NUMBER_MEMCG_COUNTER. Of v1 there are more than one. */
enum ft_memcg_counter {
	FT_MEMCG_MEMORY = 0, /* memory.max, memory.limit_in_bytes */
	FT_MEMCG_MEMSW = 1, /* memory.memsw.limit_in_bytes */
	FT_MEMCG_KMEM = 2, /* memory.kmem.limit_in_bytes; no limit any more since v5.16 */
};

/*
 * Kernel structures whose numbers were not read, since the running kernel's have
 * other fields than expected: bits of FT_NUMBER_MOVED.
 */
enum ft_moved {
	FT_MOVED_UCOUNTS = 0,
	FT_MOVED_PIDS_CGROUP = 1,
	FT_MOVED_MEM_CGROUP = 2,
	FT_MOVED_FDTABLE = 3,
	FT_MOVED_MM_STRUCT = 4,
	FT_MOVED_PID_NAMESPACE = 5,
	FT_MOVED_FS_STRUCT = 6,
	FT_MOVED_NSPROXY = 7,
};

/*
 * While the programs are attached one by one, or detached, some forks would be
 * seen by half of them. User space moves the phase when all are in place.
 */
enum ft_phase {
	FT_PHASE_OFF = 0, /* nothing is kept or counted */
	FT_PHASE_MARKING = 1, /* refusals are kept, so that none under way is missed; not counted */
	FT_PHASE_ALONE = 2, /* counting, with copy_process watched alone: until a fork fails */
	FT_PHASE_COUNTING = 3,
	FT_PHASE_DETAILED = 4, /* counting, with the programs of every step attached */
};

/* Whole-run counters, one 64-bit value each; none of them is ever reset. */
enum ft_stat {
	FT_STAT_FAILURES = 0, /* copy_process returned an error to user space */
	FT_STAT_RESTARTED = 1, /* -ERESTARTNOINTR: the kernel restarts the call itself */
	FT_STAT_KILLED = 2, /* the caller was being killed: nobody sees the error */
	FT_STAT_SAMPLED = 3, /* failures sent whole, as an event */
	FT_STAT_RATE_LIMITED = 4, /* counted, not sampled: over a rate limit, see ft_is_sampled */
	FT_STAT_LOST = 5, /* samples lost since the ring buffer was full; still counted */
	FT_STAT_OVERFLOWED = 6, /* counted per step only: no key had room, see ft_tally_of */
	FT_STAT_UNTRACKED = 7, /* a refusal that could not be kept for want of a slot */
	FT_STAT_MISMATCH = 8, /* a kept refusal did not fit copy_process' error; not blamed */
	FT_STAT_FILTERED = 9, /* failures outside the user's filter; in no other counter */
	FT_STAT_BEFORE_FORK = 10, /* of the failures: those that never reached copy_process */
	FT_STAT_UNRETURNED =
		11, /* calls of copy_process that were not seen to return; kprobe attach mode */
	FT_STAT_WITHOUT_STACK = 12, /* samples whose user stack found no room in its buffer */
	FT_STAT_DEATHS_LOST = 13, /* deaths that were seen, and found no room in their buffer */
	FT_STAT_EARLY = 14, /* counted, not sampled: before the programs that explain were loaded */
	FT_STAT_COUNT = 15,
};

/*
 * The last byte of comm, which is 0 in every task's: which of two generations of keys it
 * is of (see port_generation), and whether it was counted under the key of its owner's
 * others (see ft_tally_of). That key has no command and no system call; its samples have.
 */
#define FT_COMM_MARK (FT_COMM_BYTES - 1)
#define FT_MARK_GENERATION 1
#define FT_MARK_OTHERS 2

/* The key of the exact counters. No implicit padding. */
struct ft_key {
	char comm[FT_COMM_BYTES];
	ft_u64 cgroup; /* id in the v1 pids hierarchy where the host has one, otherwise in v2 */
	ft_u32 uid; /* real uid, in the initial user namespace */
	ft_s32 error; /* negative errno, as copy_process returned it */
	ft_u8 step; /* enum ft_step */
	ft_u8 detail; /* enum ft_detail */
	ft_u8 syscall; /* enum ft_syscall */
	ft_u8 bits; /* FT_BIT_* */
	ft_u32 unused; /* 0, as keys are compared byte by byte */
	ft_u64 candidates; /* bit n: enum ft_candidate; 0 where a refusal was seen */
};
_Static_assert(sizeof(struct ft_key) == 48, "ft_key is part of the wire");

struct ft_tally {
	ft_u64 count; /* exact */
	ft_u64 unsampled; /* of these, the ones that no event was or will be sent for */
	ft_u64 window_ns; /* when the current second of samples began */
	ft_u64 in_window; /* samples sent in it */
};
_Static_assert(sizeof(struct ft_tally) == 32, "ft_tally is part of the wire");

#define FT_TALLIES 8192 /* keys at one time, of both generations */
/*
 * How many keys of a generation each user, each cgroup and each user in a cgroup has: by
 * hash, number 0 is all of them. Who shares a number shares its room.
 */
#define FT_SHARES 1024

/* Failures of one cgroup, user, step and errno, whatever their commands and details. */
struct ft_kind {
	ft_u64 paid_until_ns; /* each sample moves it on; how far it may be ahead is the limit */
};
#define FT_KINDS 1024 /* by hash: two that share a number share their rate too */

/*
 * Where a user address lies: struct bpf_stack_build_id, include/uapi/linux/bpf.h.
 * It names the file after the process, and its mappings, are gone.
 */
struct ft_place {
	ft_s32 status; /* 0 none, 1 build id and offset in the file, 2 address only */
	ft_u8 build_id[FT_BUILD_ID_BYTES];
	ft_u64 offset;
};
_Static_assert(sizeof(struct ft_place) == 32, "ft_place is the kernel's");

/* One level of a hierarchy of limits: each of them is asked, and any can refuse. */
enum ft_level_kind {
	FT_LEVEL_PIDS_CGROUP = 1, /* id: of the cgroup */
	FT_LEVEL_PID_NAMESPACE = 2, /* id: inode number of the namespace */
	FT_LEVEL_MEMORY_CGROUP = 3, /* id: of the cgroup; counted in pages */
	FT_LEVEL_NPROC = 4, /* id: the uid that is counted there; up is the level from the top */
};

struct ft_level {
	ft_u64 id;
	ft_u64 used;
	ft_u64 limit; /* as the kernel holds it: a huge one is none */
	ft_u32 kind; /* enum ft_level_kind */
	ft_u32 up; /* levels above the task's own */
};
_Static_assert(sizeof(struct ft_level) == 32, "ft_level is part of the wire");
#define FT_LEVELS 16 /* deeper levels are not told; the one that refused is among the numbers */

/* Who makes a task that no system call asked for; bpf/maker.h tells them apart. */
enum ft_maker_kind {
	FT_MAKER_NONE = 0, /* a system call; or it could not be told */
	FT_MAKER_IO_WORKER = 1, /* io_uring, for requests of the caller's own process */
	FT_MAKER_USER_WORKER = 2, /* vhost and the like, for the caller */
	FT_MAKER_KTHREAD = 3, /* kthreadd, for who waits for the thread */
	FT_MAKER_HELPER = 4, /* the kernel runs a program by itself */
	FT_MAKER_OTHER = 5, /* another part of the kernel */
};

#define FT_MAKER_TEXT_BYTES 48

/* What is not known is empty. */
struct ft_maker {
	ft_u32 kind; /* enum ft_maker_kind */
	ft_u32 asker_pid; /* thread group id of who waits for the new thread; 0: nobody was seen */
	char asker_comm[FT_COMM_BYTES];
	char name[FT_MAKER_TEXT_BYTES]; /* of the thread to be made; of a helper: its program */
	char function[FT_MAKER_TEXT_BYTES]; /* of the kernel, that it was to run */
};
_Static_assert(sizeof(struct ft_maker) == 8 + 16 + 48 + 48, "ft_maker is part of the wire");

#define FT_CGROUP_NAME_BYTES 256 /* NAME_MAX, and the end */
#define FT_CGROUP_PATH_BYTES 768 /* three times the longest path that a container runtime makes */

/* One failure, sent whole. */
struct ft_event {
	ft_u64 time_ns; /* CLOCK_MONOTONIC */
	struct ft_key key;
	ft_u64 flags; /* CLONE_* as copy_process got them */
	ft_u32 pid; /* thread group id, initial pid namespace */
	ft_u32 tid;
	ft_u32 ppid;
	ft_u32 user_frame_count;
	ft_u32 level_count;
	ft_u32 cgroup_path_bytes; /* used; 0: the root, or not to be had */
	char parent_comm[FT_COMM_BYTES];
	ft_u64 have; /* bit n: number[n] was read */
	ft_u64 number[FT_NUMBER_COUNT];
	ft_u64 user_frame[FT_USER_FRAMES]; /* user addresses, innermost first */
	struct ft_place user_place[FT_USER_FRAMES]; /* of the same frames */
	struct ft_level level[FT_LEVELS];
	/*
	 * The names of the cgroup in the key and of those above it, innermost first,
	 * each with its NUL: who looks it up by its id finds a short-lived one gone.
	 */
	char cgroup_path[FT_CGROUP_PATH_BYTES];
	struct ft_maker maker;
};
_Static_assert(sizeof(struct ft_event) == 48 + 16 + 16 + 24 + 8 + 8 * FT_NUMBER_COUNT +
						  (8 + 32) * FT_USER_FRAMES + 32 * FT_LEVELS +
						  FT_CGROUP_PATH_BYTES + sizeof(struct ft_maker),
	       "ft_event is part of the wire");

/*
 * The caller's registers and a slice of its stack, from which user space unwinds:
 * in a buffer of its own, so that no sample is lost for want of room for it. Sent
 * before its event. What it tells of the program is for callers that exit at once.
 */
#define FT_REGISTERS 34 /* struct pt_regs in words: x86-64 has 21, arm64 34 up to pstate */
#define FT_STACK_CHUNK 512 /* a power of two, so that no chunk spans two pages */
#define FT_STACK_BYTES_MAX 65536
#define FT_EXE_PARTS 12
#define FT_EXE_PART_BYTES 64
#define FT_ARGUMENT_BYTES 256

struct ft_stack {
	ft_u64 time_ns; /* with tid: of which event */
	ft_u32 tid;
	ft_u32 byte_count; /* of the slice */
	ft_u64 start; /* where it lies: one word below the stack pointer, rounded down to a chunk */
	ft_u64 code_end; /* mm_struct: where the program's code ends */
	ft_u64 exe_inode; /* of the program's file; 0: not known */
	ft_u64 exe_device; /* of its filesystem: major << 20 | minor */
	ft_u64 have[FT_STACK_BYTES_MAX / FT_STACK_CHUNK / 64]; /* bit n: chunk n could be read */
	ft_u32 part_count;
	ft_u32 argument_count; /* in bytes */
	ft_u64 registers[FT_REGISTERS];
	char part[FT_EXE_PARTS]
		 [FT_EXE_PART_BYTES]; /* of its path within its mount, last one first */
	char argument[FT_ARGUMENT_BYTES]; /* the command line, each argument ended by a NUL */
};
_Static_assert(sizeof(struct ft_stack) ==
		       72 + 8 * FT_REGISTERS + FT_EXE_PARTS * FT_EXE_PART_BYTES + FT_ARGUMENT_BYTES,
	       "ft_stack is part of the wire");

/* A fork that went through, of a parent with much memory. Its stack is sent with the same time and thread. */
struct ft_big_fork {
	ft_u64 time_ns; /* CLOCK_MONOTONIC */
	ft_u64 child_start_ns; /* as in ft_kin */
	ft_u32 tid; /* who forked */
	ft_u32 pid;
	ft_u32 uid;
	ft_u32 child;
};
_Static_assert(sizeof(struct ft_big_fork) == 32, "ft_big_fork is part of the wire");

/* One process of a family whose memory was shared by fork. */
#define FT_KIN_THERE 1 /* it was found, and this is it */
#define FT_KIN_NO_EXEC 2 /* PF_FORKNOEXEC: it has executed no program since it was forked */
#define FT_KIN_SAME_PROGRAM \
	4 /* its code and stack lie where the victim's do: both are of one exec */
#define FT_KIN_SAME_MEMORY 8 /* it runs in the victim's own memory, as after vfork */
#define FT_KIN_HAS_MEMORY 16 /* anon_pages is known */
#define FT_KIN_EXITING 32
#define FT_KIN_CHILD 64 /* the victim has forked it; else the victim's parent has, as the victim */

struct ft_kin {
	ft_u64 start_ns; /* CLOCK_MONOTONIC: when it was forked */
	ft_u64 anon_pages; /* mapped, whether shared or not */
	ft_u32 pid;
	ft_u32 bits; /* FT_KIN_* */
	char comm[FT_COMM_BYTES];
};
_Static_assert(sizeof(struct ft_kin) == 40, "ft_kin is part of the wire");

#define FT_KIN 8 /* children that one death tells of, the youngest ones */
#define FT_DEATH_HAS_CONTROL 1 /* the kernel's struct oom_control was read: is_memcg is known */
#define FT_DEATH_MEMCG 2 /* the limit of a memory cgroup was hit */
#define FT_DEATH_OF_PARENT 4 /* the victim shares memory with its parent, who has forked it */
#define FT_DEATH_IN_FAULT 8 /* the allocator was in a fault of its own code, in no system call */
#define FT_NO_LEVEL 0xffffffff

/* A process that is killed by SIGBUS, as no huge page was left for a copy of what a fork shared. */
struct ft_huge_death {
	ft_u64 time_ns; /* CLOCK_MONOTONIC */
	ft_u64 cgroup; /* the victim's, as in a key */
	ft_u64 page_order; /* of one huge page: how many pages it has, as a power of two */
	ft_u64 total; /* huge pages of this size */
	ft_u64 free;
	ft_u64 reserved; /* of those: for mappings that have not touched them yet */
	ft_u32 uid;
	ft_u32 hierarchy; /* 0: v2 */
	struct ft_kin victim;
	struct ft_kin parent;
};
_Static_assert(sizeof(struct ft_huge_death) == 56 + 2 * 40, "ft_huge_death is part of the wire");

/* What the page is that lies where the allocator writes, and that a copy will replace. */
enum ft_copied {
	FT_COPIED_UNKNOWN, /* it writes nowhere, or that could not be read */
	FT_COPIED_ANON, /* shared by fork: else it would not be copied */
	FT_COPIED_KSM, /* shared by ksmd */
	FT_COPIED_FILE, /* of a file that is mapped privately, and was read until now */
	FT_COPIED_NONE, /* none, or the zero page, which stands for what was read and never written */
};

/* A process that the OOM killer ends, at that moment. */
struct ft_death {
	ft_u64 time_ns; /* CLOCK_MONOTONIC */
	ft_u64 total_pages; /* of the host, or of what the memory is confined to; 0: not known */
	ft_u64 cgroup; /* the victim's, as in a key */
	ft_u32 bits; /* FT_DEATH_* */
	ft_u32 constraint; /* enum oom_constraint, include/linux/oom.h */
	ft_u32 uid; /* the victim's */
	ft_u32 allocator_pid;
	ft_u32 allocator_tid;
	ft_u32 hierarchy; /* of the memory cgroups; 0: v2 */
	ft_u32 level_count;
	ft_u32 over; /* which of the levels is the one that was full; FT_NO_LEVEL: none, or not known */
	ft_u32 kin_count; /* of those below */
	ft_u32 copied; /* enum ft_copied */
	ft_u32 kernel_frame_count;
	ft_u32 cgroup_path_bytes; /* as in ft_event */
	char allocator_comm[FT_COMM_BYTES];
	struct ft_kin victim;
	struct ft_kin parent;
	struct ft_kin kin[FT_KIN];
	ft_u64 kernel_frame[FT_KERNEL_FRAMES]; /* of the allocator, innermost first */
	struct ft_level level[FT_LEVELS]; /* in pages, the victim's own first */
	char cgroup_path[FT_CGROUP_PATH_BYTES];
};
_Static_assert(sizeof(struct ft_death) == 24 + 48 + FT_COMM_BYTES + 40 * (FT_KIN + 2) +
						  8 * FT_KERNEL_FRAMES + 32 * FT_LEVELS +
						  FT_CGROUP_PATH_BYTES,
	       "ft_death is part of the wire");

#endif
