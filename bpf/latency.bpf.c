// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * How long forks take, and which part of one takes how long: the programs of
 * `fork-trace latency`. An object of its own, which nobody else loads.
 *
 * A fork that is quick pays for two programs on copy_process, three that note the
 * time, and one look at the histogram of its command. Each time is kept in one word
 * together with the thread it is of, in arrays that are indexed by the thread: what two
 * threads or two forks write there, or a program that the kernel left out did not, is
 * seen by the word itself, so that no phase is another fork's.
 */
#include "kernel_types.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#define ft_inline static __always_inline
#define ft_outline static __attribute__((noinline, unused))
#include "caller.h"
#include "latency.h"
#include "slots.h"
#include "without_refusals.h"

char LICENSE[] SEC("license") = "GPL";

const volatile struct ft_config config SEC(".rodata.config") = {};
const volatile struct ft_latency_config latency SEC(".rodata.latency") = {};

/* User space moves it once all programs are attached. */
volatile __u32 phase SEC(".data.phase") = FT_PHASE_OFF;

/* Brings the types into the BTF, where tests/unit/bpf/test_abi.py reads them. */
const struct ft_slow *ft_unused_slow __attribute__((unused));
const enum ft_size *ft_unused_size __attribute__((unused));
const enum ft_wait *ft_unused_wait __attribute__((unused));
const enum ft_stamp *ft_unused_stamp __attribute__((unused));
const enum ft_latency_stat *ft_unused_stat __attribute__((unused));

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct rw_semaphore {
	atomic_long_t owner;
};
/* mmap_sem until v5.8. Linux commit da1c55f1b272 ("mmap locking API: rename mmap_sem to mmap_lock"). */
struct mm_struct___lock {
	struct rw_semaphore mmap_lock;
};
/* Since v6.18. Linux commit 0568f89d4fb8 ("cgroup: replace global percpu_rwsem with per threadgroup
 * resem when writing to cgroup.procs"). */
struct signal_struct___lock {
	struct rw_semaphore cgroup_threadgroup_rwsem;
};
struct sched_entity {
	u64 exec_start;
	u64 sum_exec_runtime;
};
struct sched_info {
	unsigned long long run_delay;
};
struct task_struct___runtime {
	struct sched_entity se;
	struct sched_info sched_info; /* CONFIG_SCHED_INFO */
};

#pragma clang attribute pop

/* Maps. */

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20); /* 350 slow forks */
} events SEC(".maps");

struct command {
	char comm[FT_COMM_BYTES];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 2048);
	__type(key, struct command);
	__type(value, struct ft_latency_tally);
} tallies SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, FT_LATENCY_STAT_COUNT);
	__type(key, __u32);
	__type(value, __u64);
} stats SEC(".maps");

struct holder {
	__u32 pid;
	__u32 tid;
	__u64 since_ns;
	__u64 until_ns; /* 0: still */
	char comm[FT_COMM_BYTES];
};

/* What a fork that is under way waited for. */
struct wait {
	__u64 begin; /* its word in `starts` */
	__u64 lock; /* that it waits for now; 0: none */
	__u64 since_ns;
	__u64 reclaim_ns; /* when it began to free memory; 0: it does not */
	__u32 kind; /* enum ft_wait */
	__u32 flags;
	__u64 longest_ns;
	__u64 other_flags;
	__u64 ns[FT_WAIT_COUNT];
	struct holder now; /* who held it as this wait began */
	struct holder holder; /* the same, of the longest wait */
	__u64 holder_kind;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, struct wait);
} waits SEC(".maps");

/* Who takes a lock that makes all forks wait, by enum ft_wait. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, FT_WAIT_COUNT);
	__type(key, __u32);
	__type(value, struct holder);
} writers SEC(".maps");

/* A thread and a time in one word: what is written at once cannot be half of one thing and half of another. */
#define SLOTS 4096
#define TIME_BITS 42 /* 73 minutes; a thread has at most 22 bits (include/linux/threads.h) */
#define TIME_MASK ((1ULL << TIME_BITS) - 1)

volatile __u64 starts[SLOTS];
volatile __u64 stamps[FT_STAMP_COUNT][SLOTS];
volatile __u64 runtimes[SLOTS];
volatile __u64 delays[SLOTS];
volatile __u32 processors[SLOTS]; /* where each of these was taken */
/*
 * When all was in place that is attached once a fork was slow; 0: not yet. Its lowest bit: with
 * that, every wait for a lock or for memory is seen.
 */
volatile __u64 watched_from SEC(".data.watched_from") = 0;

static const struct ft_latency_tally no_tally;

ft_inline __u64 word_of(__u32 thread, __u64 time_ns)
{
	return (__u64)thread << TIME_BITS | (time_ns & TIME_MASK);
}

ft_inline int is_of(__u64 word, __u32 thread)
{
	return word >> TIME_BITS == thread;
}

/* The port, as far as caller.h asks for it. */

ft_inline ft_settings *port_config(void)
{
	return &config;
}

ft_inline enum ft_phase port_phase(void)
{
	return FT_PHASE_OFF;
}

ft_inline void port_stat(enum ft_stat stat)
{
}

#include "user_stack.h"

ft_inline void port_send_stack(__u64 time_ns)
{
	if (config.stack_bytes)
		send_stack(time_ns);
}

ft_inline void count(enum ft_latency_stat stat)
{
	__u32 index = stat;
	__u64 *number = bpf_map_lookup_elem(&stats, &index);

	if (number)
		__sync_fetch_and_add(number, 1);
}

/* What is read only of a fork that was slow. */

ft_inline void set_size(struct ft_slow *slow, enum ft_size which, __s64 value)
{
	/* A counter of each processor's own part can be below 0 for a moment. */
	slow->size[which] = value < 0 ? 0 : value;
	slow->sized |= 1ULL << which;
}

/* Which of the kernel's counters each is: include/linux/mm_types_task.h */
#define MM_FILEPAGES 0
#define MM_ANONPAGES 1
#define MM_SWAPENTS 2
#define MM_SHMEMPAGES 3

ft_inline void read_pages(struct ft_slow *slow, struct mm_struct *mm)
{
	if (bpf_core_field_exists(((struct mm_struct___v61 *)0)->rss_stat.count)) {
		struct mm_struct___v61 *old = (void *)mm;

		set_size(slow, FT_SIZE_FILE,
			 BPF_CORE_READ(old, rss_stat.count[MM_FILEPAGES].counter));
		set_size(slow, FT_SIZE_ANON,
			 BPF_CORE_READ(old, rss_stat.count[MM_ANONPAGES].counter));
		set_size(slow, FT_SIZE_SWAP,
			 BPF_CORE_READ(old, rss_stat.count[MM_SWAPENTS].counter));
		set_size(slow, FT_SIZE_SHMEM,
			 BPF_CORE_READ(old, rss_stat.count[MM_SHMEMPAGES].counter));
	} else if (bpf_core_field_exists(mm->rss_stat[0].count)) {
		set_size(slow, FT_SIZE_FILE, BPF_CORE_READ(mm, rss_stat[MM_FILEPAGES].count));
		set_size(slow, FT_SIZE_ANON, BPF_CORE_READ(mm, rss_stat[MM_ANONPAGES].count));
		set_size(slow, FT_SIZE_SWAP, BPF_CORE_READ(mm, rss_stat[MM_SWAPENTS].count));
		set_size(slow, FT_SIZE_SHMEM, BPF_CORE_READ(mm, rss_stat[MM_SHMEMPAGES].count));
	}
}

ft_inline void read_sizes(struct ft_slow *slow)
{
	struct mm_struct *mm;

	if (is_blind(FT_READER_MEMORY))
		return;
	mm = BPF_CORE_READ(current_task(), mm);
	if (!mm)
		return;
	if (bpf_core_field_exists(mm->pgtables_bytes))
		set_size(slow, FT_SIZE_PGTABLES, BPF_CORE_READ(mm, pgtables_bytes.counter));
	if (bpf_core_field_exists(mm->map_count))
		set_size(slow, FT_SIZE_MAPPINGS, BPF_CORE_READ(mm, map_count));
	if (bpf_core_field_exists(mm->total_vm))
		set_size(slow, FT_SIZE_VIRTUAL, BPF_CORE_READ(mm, total_vm));
	read_pages(slow, mm);
}

ft_inline void read_stamps(struct ft_slow *slow, __u32 thread, __u64 begin)
{
	__u64 word, since;
	__u32 i;

#pragma unroll
	for (i = 0; i < FT_STAMP_COUNT; i++) {
		word = stamps[i][thread & (SLOTS - 1)];
		since = (word - begin) & TIME_MASK;
		slow->stamp_ns[i] = since;
		/* Of an earlier fork, it is before this one's begin: an age away, round the clock. */
		if (is_of(word, thread) && since <= slow->total_ns)
			slow->stamped |= 1ULL << i;
	}
}

/*
 * How long this thread has run, but for a number that stays the same on one processor: what it ran
 * until its scheduler last looked (kernel/sched/fair.c, update_curr), and the time since then.
 */
ft_inline __u64 runtime_now(__u64 now)
{
	struct task_struct___runtime *task = (void *)current_task();

	if (!bpf_core_field_exists(struct task_struct___runtime, se.sum_exec_runtime) ||
	    !bpf_core_field_exists(struct task_struct___runtime, se.exec_start))
		return 0;
	return BPF_CORE_READ(task, se.sum_exec_runtime) + now - BPF_CORE_READ(task, se.exec_start);
}

ft_inline int is_delay_known(void)
{
	return bpf_core_field_exists(struct task_struct___runtime, sched_info.run_delay);
}

/* How long this thread has waited for a processor, in all its life. */
ft_inline __u64 delay_now(void)
{
	struct task_struct___runtime *task = (void *)current_task();

	return is_delay_known() ? BPF_CORE_READ(task, sched_info.run_delay) : 0;
}

ft_inline void read_waits(struct ft_slow *slow, __u32 thread, __u64 begin, __u64 now)
{
	struct wait *wait = bpf_map_lookup_elem(&waits, &thread);
	__u64 runtime = runtimes[thread & (SLOTS - 1)], begin_ns = now - slow->total_ns;
	__u64 since;
	int is_watched = watched_from && watched_from <= begin_ns;
	int i;

	slow->waits_known = is_watched && watched_from & 1;
	if (wait && wait->begin == begin) {
		for (i = 0; i < FT_WAIT_COUNT; i++)
			slow->wait_ns[i] = wait->ns[i];
		slow->other_flags = wait->other_flags;
		slow->holder_pid = wait->holder.pid;
		slow->holder_tid = wait->holder.tid;
		slow->holder_wait = wait->holder_kind;
		__builtin_memcpy(slow->holder_comm, wait->holder.comm, FT_COMM_BYTES);
	}
	since = delays[thread & (SLOTS - 1)];
	slow->delay_known = is_watched && is_of(since, thread) && is_delay_known();
	if (slow->delay_known)
		slow->wait_ns[FT_WAIT_CPU] = (delay_now() - since) & TIME_MASK;
	/* It was looked at before the fork's own begin: one that ran all the time seems to have run longer. */
	since = (runtime_now(now) - runtime) & TIME_MASK;
	slow->cpu_ns = since < slow->total_ns ? since : slow->total_ns;
	slow->cpu_known = is_watched && is_of(runtime, thread) &&
			  since - slow->cpu_ns <= slow->total_ns >> 4 &&
			  processors[thread & (SLOTS - 1)] == bpf_get_smp_processor_id() &&
			  bpf_core_field_exists(struct task_struct___runtime, se.exec_start);
}

ft_inline int send_slow(void *ctx, __u64 now, __u64 begin, __u64 total_ns, __s32 error)
{
	struct ft_slow *slow = bpf_ringbuf_reserve(&events, sizeof(*slow), 0);
	__u32 thread = bpf_get_current_pid_tgid();

	if (!slow) {
		count(FT_LATENCY_UNSENT);
		return 0;
	}
	__builtin_memset(slow, 0, __builtin_offsetof(struct ft_slow, event.number));
	slow->event.have = 0;
	__builtin_memset(&slow->event.maker, 0, sizeof(slow->event.maker));
	__builtin_memset(&slow->total_ns, 0,
			 sizeof(*slow) - __builtin_offsetof(struct ft_slow, total_ns));
	slow->event.time_ns = now;
	slow->event.key.error = error;
	slow->total_ns = total_ns;
	read_sizes(slow);
	read_stamps(slow, thread, begin);
	read_waits(slow, thread, begin, now);
	port_who(&slow->event.key);
	slow->event.flags =
		slow->event.key.syscall == FT_SYSCALL_KERNEL ? FT_FLAGS_UNKNOWN : flags_of_call();
	port_sample(ctx, &slow->event);
	/* The reader looks by itself: to be woken it would take a processor from who forks. */
	bpf_ringbuf_submit(slow, BPF_RB_NO_WAKEUP);
	return 0;
}

/* Of every fork. */

/* The number of the highest bit that is set. */
ft_inline __u32 log2_of(__u64 value)
{
	__u32 log = 0;

	if (value >> 32) {
		log += 32;
		value >>= 32;
	}
	if (value >> 16) {
		log += 16;
		value >>= 16;
	}
	if (value >> 8) {
		log += 8;
		value >>= 8;
	}
	if (value >> 4) {
		log += 4;
		value >>= 4;
	}
	if (value >> 2) {
		log += 2;
		value >>= 2;
	}
	return log + (value >> 1);
}

ft_inline void add(__u64 total_ns, int is_slow)
{
	struct ft_latency_tally *tally;
	/*
	 * Zeroed: a kernel such as 6.1 leaves what stands behind the name as it was
	 * (kernel/bpf/helpers.c, bpf_get_current_comm), and one command would be two keys.
	 */
	struct command command = {};
	__u32 bucket = log2_of(total_ns);

	bpf_get_current_comm(command.comm, sizeof(command.comm));
	tally = bpf_map_lookup_elem(&tallies, &command);
	if (!tally) {
		bpf_map_update_elem(&tallies, &command, &no_tally, BPF_NOEXIST);
		tally = bpf_map_lookup_elem(&tallies, &command);
	}
	if (!tally) {
		count(FT_LATENCY_UNTALLIED);
		return;
	}
	if (bucket >= FT_LATENCY_BUCKETS)
		bucket = FT_LATENCY_BUCKETS - 1;
	__sync_fetch_and_add(&tally->count[bucket], 1);
	__sync_fetch_and_add(&tally->total_ns, total_ns);
	if (is_slow) {
		__sync_fetch_and_add(&tally->slow, 1);
		__sync_fetch_and_add(&tally->slow_ns, total_ns);
	}
}

ft_inline void note_runtime(__u32 thread)
{
	processors[thread & (SLOTS - 1)] = bpf_get_smp_processor_id();
	runtimes[thread & (SLOTS - 1)] = word_of(thread, runtime_now(bpf_ktime_get_ns()));
	delays[thread & (SLOTS - 1)] = word_of(thread, delay_now());
}

ft_inline int begin_fork(int is_told_apart)
{
	__u32 thread = bpf_get_current_pid_tgid(), index = thread & (SLOTS - 1);

	if (phase < FT_PHASE_MARKING)
		return 0;
	/* One whose end was not seen; or another thread's, which counts itself where ends are told apart. */
	if (starts[index] && (!is_told_apart || is_of(starts[index], thread)))
		count(FT_LATENCY_UNPAIRED);
	if (watched_from)
		note_runtime(thread);
	starts[index] = word_of(thread, bpf_ktime_get_ns());
	return 0;
}

ft_inline int end_fork(void *ctx, __s32 error, int is_told_apart)
{
	__u32 thread = bpf_get_current_pid_tgid(), index = thread & (SLOTS - 1);
	__u64 begin = starts[index], now = bpf_ktime_get_ns(), total_ns;

	if (!is_of(begin, thread)) {
		/* One that had begun before we did is nobody's loss. */
		if (is_told_apart && phase >= FT_PHASE_COUNTING)
			count(FT_LATENCY_UNPAIRED);
		return 0;
	}
	starts[index] = 0;
	total_ns = (now - begin) & TIME_MASK;
	add(total_ns, total_ns >= latency.over_ns);
	if (total_ns >= latency.over_ns) {
		count(FT_LATENCY_SLOW);
		send_slow(ctx, now, begin, total_ns, error);
	}
	runtimes[index] = 0;
	delays[index] = 0;
	return 0;
}

ft_inline int stamp(enum ft_stamp which)
{
	__u32 thread = bpf_get_current_pid_tgid(), index = thread & (SLOTS - 1);

	stamps[which][index] = word_of(thread, bpf_ktime_get_ns());
	return 0;
}

SEC("fentry/copy_process")
int fentry_copy_process(__u64 *ctx)
{
	return begin_fork(1);
}

SEC("fexit/copy_process")
int fexit_copy_process(__u64 *ctx)
{
	__u64 result = 0;

	/* As memory it is a number, and no pointer; of a fork that succeeds nobody asks for it. */
	if (IS_ERR_VALUE(ctx[4]))
		bpf_probe_read_kernel(&result, sizeof(result), &ctx[4]);
	return end_fork(ctx, (__s32)result, 1);
}

SEC("fexit/dup_fd")
int fexit_dup_fd(__u64 *ctx)
{
	return stamp(FT_STAMP_FILES);
}

SEC("fentry/alloc_pid")
int fentry_alloc_pid(__u64 *ctx)
{
	return stamp(FT_STAMP_MEMORY);
}

SEC("fexit/cgroup_can_fork")
int fexit_cgroup_can_fork(__u64 *ctx)
{
	return stamp(FT_STAMP_CGROUP);
}

SEC("kprobe/copy_process")
int kprobe_copy_process(struct pt_regs *ctx)
{
	return begin_fork(1);
}

#if defined(__TARGET_ARCH_x86)
#define RETURNED(context) ((context)->ax)
#define PASSED_0(context) ((context)->di)
#elif defined(__TARGET_ARCH_arm64)
#define RETURNED(context) ((context)->regs[0])
#define PASSED_0(context) ((context)->regs[0])
#endif

SEC("kretprobe/copy_process")
int kretprobe_copy_process(struct pt_regs *ctx)
{
	__u64 result = RETURNED(ctx);

	return end_fork(ctx, IS_ERR_VALUE(result) ? (__s32)result : 0, 1);
}

SEC("kretprobe/dup_fd")
int kretprobe_dup_fd(struct pt_regs *ctx)
{
	return stamp(FT_STAMP_FILES);
}

SEC("kprobe/alloc_pid")
int kprobe_alloc_pid(struct pt_regs *ctx)
{
	return stamp(FT_STAMP_MEMORY);
}

SEC("kretprobe/cgroup_can_fork")
int kretprobe_cgroup_can_fork(struct pt_regs *ctx)
{
	return stamp(FT_STAMP_CGROUP);
}

/* Where there is nothing but the system calls: the whole call, if it does not wait for its child. */

#define CLONE_VFORK 0x4000

/* TRACE_EVENT_FN(sys_enter, struct pt_regs *regs, long id), include/trace/events/syscalls.h */
SEC("raw_tp/sys_enter")
int raw_sys_enter(__u64 *ctx)
{
	struct pt_regs *regs = (struct pt_regs *)ctx[0];
	__u64 set_tid_size = 0;
	long number;

	if (phase < FT_PHASE_MARKING)
		return 0;
	number = syscall_number_in(regs);
	if (number < 0 || call_of(number) == FT_SYSCALL_KERNEL)
		return 0;
	if (flags_in(regs, number, &set_tid_size) & CLONE_VFORK) {
		count(FT_LATENCY_UNMEASURED);
		return 0;
	}
	return begin_fork(0);
}

/* TRACE_EVENT_FN(sys_exit, struct pt_regs *regs, long ret) */
SEC("raw_tp/sys_exit")
int raw_sys_exit(__u64 *ctx)
{
	__s64 result = ctx[1];

	return end_fork(ctx, result < 0 ? result : 0, 0);
}

/*
 * What a fork waits for. All of this is attached once a fork has been slow.
 */

/* The waits of the fork that this thread is in; 0: it is in none. */
ft_inline struct wait *waits_of_fork(void)
{
	__u32 thread = bpf_get_current_pid_tgid();
	__u64 begin = starts[thread & (SLOTS - 1)];
	struct wait none = {};
	struct wait *wait;

	if (!is_of(begin, thread))
		return 0;
	wait = bpf_map_lookup_elem(&waits, &thread);
	if (wait && wait->begin == begin)
		return wait;
	none.begin = begin;
	bpf_map_update_elem(&waits, &thread, &none, BPF_ANY);
	return bpf_map_lookup_elem(&waits, &thread);
}

ft_inline enum ft_wait kind_of(__u64 lock)
{
	struct signal_struct___lock *signal;
	struct mm_struct___lock *mm;

	if (lock == latency.cgroup_lock)
		return FT_WAIT_CGROUP;
	if (lock == latency.uprobes_lock)
		return FT_WAIT_UPROBES;
	if (!is_blind(FT_READER_DYING) &&
	    bpf_core_field_exists(struct signal_struct___lock, cgroup_threadgroup_rwsem)) {
		signal = (void *)BPF_CORE_READ(current_task(), signal);
		if (lock ==
		    (__u64)__builtin_preserve_access_index(&signal->cgroup_threadgroup_rwsem))
			return FT_WAIT_CGROUP;
	}
	if (!is_blind(FT_READER_MEMORY) &&
	    bpf_core_field_exists(struct mm_struct___lock, mmap_lock)) {
		mm = (void *)BPF_CORE_READ(current_task(), mm);
		if (mm && lock == (__u64)__builtin_preserve_access_index(&mm->mmap_lock))
			return FT_WAIT_MMAP;
	}
	return FT_WAIT_OTHER;
}

/* The last bits of a semaphore's owner say what it is: kernel/locking/rwsem.c */
#define OWNER_FLAGS 7ULL

ft_inline void read_owner(struct holder *holder, __u64 lock)
{
	struct rw_semaphore *sem = (void *)lock;
	struct task_struct *task;
	__u64 owner;

	/* CONFIG_PREEMPT_RT makes one of a lock of its own. */
	if (is_blind(FT_READER_SAMPLE) || !bpf_core_field_exists(sem->owner))
		return;
	owner = BPF_CORE_READ(sem, owner.counter);
	/* RWSEM_READER_OWNED: of several readers the last one that came, which may be gone. */
	task = (void *)(owner & ~OWNER_FLAGS);
	if (!task || owner & 1)
		return;
	holder->pid = BPF_CORE_READ(task, tgid);
	holder->tid = BPF_CORE_READ(task, pid);
	bpf_core_read(holder->comm, sizeof(holder->comm), &task->comm);
}

ft_inline void read_holder(struct wait *wait, int is_percpu)
{
	__u32 kind = wait->kind;
	struct holder *writer = bpf_map_lookup_elem(&writers, &kind);

	if (kind == FT_WAIT_OTHER)
		return;
	if (!is_percpu)
		read_owner(&wait->now, wait->lock);
	else if (writer && writer->pid && !writer->until_ns)
		wait->now = *writer;
}

ft_inline int begin_wait(__u64 lock, __u32 flags, int is_percpu)
{
	struct wait *wait = waits_of_fork();

	/* One inside another, of the lock's own lock, is the other's. */
	if (!wait || wait->lock)
		return 0;
	wait->lock = lock;
	wait->since_ns = bpf_ktime_get_ns();
	wait->flags = flags;
	wait->kind = kind_of(lock);
	__builtin_memset(&wait->now, 0, sizeof(wait->now));
	read_holder(wait, is_percpu);
	return 0;
}

ft_inline int end_wait(__u64 lock, int is_percpu)
{
	struct wait *wait = waits_of_fork();
	__u64 waited_ns;
	__u32 kind;

	if (!wait || wait->lock != lock)
		return 0;
	kind = wait->kind;
	if (kind >= FT_WAIT_COUNT)
		return 0;
	waited_ns = bpf_ktime_get_ns() - wait->since_ns;
	wait->ns[kind] += waited_ns;
	if (kind == FT_WAIT_OTHER && waited_ns >= wait->longest_ns)
		wait->other_flags = wait->flags;
	if (waited_ns >= wait->longest_ns) {
		wait->longest_ns = waited_ns;
		wait->holder = wait->now;
		wait->holder_kind = kind;
	}
	wait->lock = 0;
	return 0;
}

#define LCB_F_PERCPU 16 /* include/trace/events/lock.h */

/* TP_PROTO(void *lock, unsigned int flags); since Linux commit 16edd9b511a1 ("locking: Add lock
 * contention tracepoints") (in v5.19) */
SEC("raw_tp/contention_begin")
int raw_contention_begin(__u64 *ctx)
{
	return begin_wait(ctx[0], ctx[1], !!((__u32)ctx[1] & LCB_F_PERCPU));
}

/* TP_PROTO(void *lock, int ret) */
SEC("raw_tp/contention_end")
int raw_contention_end(__u64 *ctx)
{
	return end_wait(ctx[0], 0);
}

/* Before that, by the functions that wait: of a lock for all processors, of a semaphore. */
#define SLOW_PATH(function, flags, is_percpu)                        \
	SEC("fentry/" #function)                                     \
	int fentry_##function(__u64 *ctx)                            \
	{                                                            \
		__u64 lock = 0;                                      \
                                                                     \
		bpf_probe_read_kernel(&lock, sizeof(lock), &ctx[0]); \
		return begin_wait(lock, flags, is_percpu);           \
	}                                                            \
	SEC("fexit/" #function)                                      \
	int fexit_##function(__u64 *ctx)                             \
	{                                                            \
		__u64 lock = 0;                                      \
                                                                     \
		bpf_probe_read_kernel(&lock, sizeof(lock), &ctx[0]); \
		return end_wait(lock, is_percpu);                    \
	}

SLOW_PATH(__percpu_down_read, 18, 1)
SLOW_PATH(rwsem_down_write_slowpath, 4, 0)

ft_inline int begin_reclaim(void)
{
	struct wait *wait = waits_of_fork();

	if (wait && !wait->reclaim_ns)
		wait->reclaim_ns = bpf_ktime_get_ns();
	return 0;
}

ft_inline int end_reclaim(void)
{
	struct wait *wait = waits_of_fork();

	if (wait && wait->reclaim_ns) {
		wait->ns[FT_WAIT_RECLAIM] += bpf_ktime_get_ns() - wait->reclaim_ns;
		wait->reclaim_ns = 0;
	}
	return 0;
}

SEC("raw_tp/mm_vmscan_direct_reclaim_begin")
int raw_direct_reclaim_begin(__u64 *ctx)
{
	return begin_reclaim();
}

SEC("raw_tp/mm_vmscan_direct_reclaim_end")
int raw_direct_reclaim_end(__u64 *ctx)
{
	return end_reclaim();
}

SEC("raw_tp/mm_vmscan_memcg_reclaim_begin")
int raw_memcg_reclaim_begin(__u64 *ctx)
{
	return begin_reclaim();
}

SEC("raw_tp/mm_vmscan_memcg_reclaim_end")
int raw_memcg_reclaim_end(__u64 *ctx)
{
	return end_reclaim();
}

/* Who takes one of the two locks for writing: only then does anybody wait for it. */

ft_inline struct holder *writer_of(__u64 lock)
{
	__u32 kind;

	if (!lock)
		return 0;
	if (lock == latency.cgroup_lock)
		kind = FT_WAIT_CGROUP;
	else if (lock == latency.uprobes_lock)
		kind = FT_WAIT_UPROBES;
	else
		return 0;
	return bpf_map_lookup_elem(&writers, &kind);
}

ft_inline void set_writer(struct holder *writer)
{
	__u64 pid_tgid = bpf_get_current_pid_tgid();

	writer->until_ns = 0;
	writer->since_ns = bpf_ktime_get_ns();
	writer->pid = pid_tgid >> 32;
	writer->tid = pid_tgid;
	bpf_get_current_comm(writer->comm, sizeof(writer->comm));
}

/* Who waits for it makes others wait too, unless somebody has it. */
ft_inline int begin_write(__u64 lock)
{
	struct holder *writer = writer_of(lock);

	if (writer && (!writer->pid || writer->until_ns))
		set_writer(writer);
	return 0;
}

ft_inline int end_write(__u64 lock)
{
	struct holder *writer = writer_of(lock);

	if (writer)
		writer->until_ns = bpf_ktime_get_ns();
	return 0;
}

/* As memory it is a number, and no pointer. */
ft_inline __u64 passed(__u64 *slot)
{
	__u64 value = 0;

	bpf_probe_read_kernel(&value, sizeof(value), slot);
	return value;
}

SEC("fentry/percpu_down_write")
int fentry_percpu_down_write(__u64 *ctx)
{
	return begin_write(passed(&ctx[0]));
}

/* Several can want it, but one has it: the last one that got it. */
SEC("fexit/percpu_down_write")
int fexit_percpu_down_write(__u64 *ctx)
{
	struct holder *writer = writer_of(passed(&ctx[0]));

	if (writer)
		set_writer(writer);
	return 0;
}

SEC("fentry/percpu_up_write")
int fentry_percpu_up_write(__u64 *ctx)
{
	return end_write(passed(&ctx[0]));
}

/* A return probe does not know of which lock it is: of several that want it, only the first is known. */
SEC("kprobe/percpu_down_write")
int kprobe_percpu_down_write(struct pt_regs *ctx)
{
	return begin_write(PASSED_0(ctx));
}

SEC("kprobe/percpu_up_write")
int kprobe_percpu_up_write(struct pt_regs *ctx)
{
	return end_write(PASSED_0(ctx));
}
