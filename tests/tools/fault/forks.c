// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * forks PAUSE_US VARIANT...: forks and threads whose every allocation fails in turn, by
 * /proc/fail_alloc. Of each variant the first fork loses its first allocation, the next one
 * its second, until one passes that lost none. Each has a command name of its own,
 * VARIANT.N, so that each failure has a record of its own. One line of JSON each tells what
 * came back and what was refused. Without a variant it lists them. Root; x86-64.
 */
#define _GNU_SOURCE
#include <asm/ldt.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/mempolicy.h>
#include <linux/netlink.h>
#include <linux/perf_event.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define CGROUPS "/sys/fs/cgroup/ft-fault-"
#define MOST_ATTEMPTS 1500
#define PAGE 4096L
#define MIB (1L << 20)

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x80
#endif
#define THREAD                                                                              \
	(CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | \
	 CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID)
#define EVERY_NAMESPACE \
	(CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWCGROUP)

struct variant {
	const char *name;
	unsigned long long flags;
	int by_clone3;
	void (*prepare)(
		void); /* once: what the parent has that a fork must copy, or the limits on it */
	void (*before)(int number); /* each attempt */
	void (*after)(int number);
};

static const struct variant *current;
static int fail_alloc = -1, pause_us;
static struct clone_args args;
static pid_t set_tid[1];
static volatile int thread_tid;

/* Some state cannot be had on each kernel: then the fork is plainer, and a word of it is told. */
static void want(long result, const char *what)
{
	if (result < 0)
		fprintf(stderr, "forks: %s: %s: %s\n", current ? current->name : "", what,
			strerror(errno));
}

static void put(const char *path, const char *text)
{
	int file = open(path, O_WRONLY | O_CLOEXEC);

	want(file < 0 ? -1 : write(file, text, strlen(text)), path);
	close(file);
}

static char *map(void *at, long bytes, int flags)
{
	char *memory = mmap(at, bytes, PROT_READ | PROT_WRITE,
			    flags | MAP_ANONYMOUS | (at ? MAP_FIXED : 0), -1, 0);

	want(memory == MAP_FAILED ? -1 : 0, "mmap");
	return memory == MAP_FAILED ? 0 : memory;
}

static void touch(char *memory, long bytes)
{
	for (long at = 0; memory && at < bytes; at += PAGE)
		memory[at] = 1;
}

/* What the parent has. */

static void has_mappings(void)
{
	const long far = 1L << 39; /* one entry of the topmost page table */
	char *memory;
	int file;

	for (int i = 0; i < 6; i++) {
		touch(memory = map(0, MIB, MAP_PRIVATE), MIB);
		/* Or its neighbour would become part of it. */
		want(mprotect(memory + MIB / 2, PAGE, PROT_READ), "mprotect");
	}
	for (long i = 0; i < 3; i++)
		touch(map((void *)(0x100000000000 + i * far), 2 * PAGE, MAP_PRIVATE), PAGE);
	touch(map(0, 16 * PAGE, MAP_SHARED), PAGE);
	file = open("/proc/self/exe", O_RDONLY);
	memory = mmap(0, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
	touch(memory == MAP_FAILED ? 0 : memory, PAGE);
	close(file);
}

static void has_descriptors(void)
{
	struct rlimit limit = { 4096, 4096 };
	int file = open("/dev/null", O_RDONLY);

	want(setrlimit(RLIMIT_NOFILE, &limit), "RLIMIT_NOFILE");
	for (int number = 300; number < 500; number++)
		want(dup2(file, number), "dup2");
}

static void has_memory_policy(void)
{
	unsigned long node = 1;

	want(syscall(SYS_set_mempolicy, MPOL_INTERLEAVE, &node, 8), "set_mempolicy");
	for (int i = 0; i < 2; i++) {
		char *memory = map(0, MIB, MAP_PRIVATE);

		want(syscall(SYS_mbind, memory, MIB, MPOL_BIND, &node, 8, 0), "mbind");
		touch(memory, PAGE);
	}
}

static void has_io_priority(void)
{
	/* IOPRIO_WHO_PROCESS, itself, IOPRIO_CLASS_BE 5 */
	want(syscall(SYS_ioprio_set, 1, 0, 2 << 13 | 5), "ioprio_set");
}

static void has_perf_events(void)
{
	struct perf_event_attr wanted = { .type = PERF_TYPE_SOFTWARE,
					  .size = sizeof(wanted),
					  .config = PERF_COUNT_SW_TASK_CLOCK,
					  .inherit = 1,
					  .exclude_kernel = 1 };

	want(syscall(SYS_perf_event_open, &wanted, 0, -1, -1, 0), "perf_event_open");
	wanted.config = PERF_COUNT_SW_PAGE_FAULTS;
	want(syscall(SYS_perf_event_open, &wanted, 0, -1, -1, 0), "perf_event_open");
}

static void has_descriptor_table(void)
{
	struct user_desc segment = {
		.entry_number = 3, .base_addr = 0x1000, .limit = 0xfff, .seg_32bit = 1, .useable = 1
	};

	want(syscall(SYS_modify_ldt, 1, &segment, sizeof(segment)), "modify_ldt");
}

static void has_semaphore_undo(void)
{
	struct sembuf up = { 0, 1, SEM_UNDO };
	int set = semget(IPC_PRIVATE, 1, 0600);

	want(set, "semget");
	want(semop(set, &up, 1), "semop");
	want(semctl(set, 0, IPC_RMID), "semctl");
}

static void has_aio_and_seccomp(void)
{
	struct sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	struct sock_fprog filter = { 1, &allow };
	unsigned long context = 0;

	want(syscall(SYS_io_setup, 16, &context), "io_setup");
	want(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs");
	want(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter), "seccomp");
}

static void has_all(void)
{
	has_descriptors();
	has_mappings();
	has_memory_policy();
	has_io_priority();
	has_perf_events();
	has_descriptor_table();
	has_semaphore_undo();
	has_aio_and_seccomp();
}

/* Its reader takes the events of forks, or each fork would wait for ever. */
static void has_userfaultfd(void)
{
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_EVENT_FORK };
	int file = syscall(SYS_userfaultfd, O_CLOEXEC);
	struct uffd_msg message;

	want(file, "userfaultfd");
	want(ioctl(file, UFFDIO_API, &api), "UFFDIO_API");
	if (!fork()) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		prctl(PR_SET_NAME, "fault-reader");
		while (read(file, &message, sizeof(message)) == sizeof(message))
			if (message.event == UFFD_EVENT_FORK)
				close(message.arg.fork.ufd);
		_exit(0);
	}
	for (int i = 0; i < 2; i++) {
		struct uffdio_register range = {
			.range = { (uintptr_t)map(0, 16 * PAGE, MAP_PRIVATE), 16 * PAGE },
			.mode = UFFDIO_REGISTER_MODE_MISSING
		};

		want(ioctl(file, UFFDIO_REGISTER, &range), "UFFDIO_REGISTER");
	}
}

static void has_mergeable(void)
{
	char *memory = map(0, 16 * PAGE, MAP_PRIVATE);

	touch(memory, PAGE);
	want(madvise(memory, 16 * PAGE, MADV_MERGEABLE), "MADV_MERGEABLE");
}

static void has_huge_pages(void)
{
	char *memory;

	put("/proc/sys/vm/nr_hugepages", "4");
	touch(map(0, 2 * MIB, MAP_PRIVATE | MAP_HUGETLB), PAGE);
	memory = map((void *)0x7e0000000000, 4 * MIB, MAP_PRIVATE);
	want(madvise(memory, 4 * MIB, MADV_HUGEPAGE), "MADV_HUGEPAGE");
	touch(memory, PAGE);
	touch(memory + 2 * MIB, PAGE);
}

static void has_thread_keyring(void)
{
	want(syscall(SYS_add_key, "user", "ft-fault", "x", 1, -1 /* KEY_SPEC_THREAD_KEYRING */),
	     "add_key");
}

/* Limits that have room, or just enough: none of them may be blamed. */

static void enter_cgroup(const char *name, const char *file, const char *limit)
{
	char path[128];

	snprintf(path, sizeof(path), CGROUPS "%s", name);
	if (mkdir(path, 0755) && errno != EEXIST)
		want(-1, path);
	snprintf(path, sizeof(path), CGROUPS "%s/%s", name, file);
	put(path, limit);
	snprintf(path, sizeof(path), CGROUPS "%s/cgroup.procs", name);
	put(path, "0");
}

static void in_roomy_memory_cgroup(void)
{
	enter_cgroup("memory", "memory.max", "512M");
}

static void in_roomy_memory_cgroup_with_all(void)
{
	in_roomy_memory_cgroup();
	has_all();
}

/* Near its limit by page cache, as they are all day. */
static void in_memory_cgroup_full_of_cache(void)
{
	static char block[1 << 20];
	int file;

	enter_cgroup("cache", "memory.max", "64M");
	file = open("/dev/shm/ft-fault", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	want(unlink("/dev/shm/ft-fault"), "unlink");
	/* Stays open, so that its pages stay. */
	for (int i = 0; i < 58; i++)
		want(write(file, block, sizeof(block)), "write");
}

static void in_pids_cgroup_with_room_for_one(void)
{
	enter_cgroup("pids", "pids.max", "2");
}

static void as_user_with(rlim_t most)
{
	struct rlimit limit = { most, most };

	want(setrlimit(RLIMIT_NPROC, &limit), "RLIMIT_NPROC");
	want(setgroups(0, 0), "setgroups");
	want(setresgid(4300, 4300, 4300), "setresgid");
	want(setresuid(4300, 4300, 4300), "setresuid");
	prctl(PR_SET_DUMPABLE, 1);
}

static void as_user(void)
{
	as_user_with(20);
}

static void as_user_with_room_for_one(void)
{
	as_user_with(2);
}

/* Root with another effective uid: whom the kernel has counted nothing for yet. */
static void as_uncounted_user(void)
{
	struct __user_cap_header_struct head = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct all[2] = { { ~0U, ~0U, 0 }, { 0x1ff, 0x1ff, 0 } };

	want(setresuid(0, 4242, 0), "setresuid");
	want(syscall(SYS_capset, &head, all), "capset");
	prctl(PR_SET_DUMPABLE, 1);
}

/* The limit is asked, and far away whatever else runs: no fork fails because of it. */
static void under_commit_limit(void)
{
	put("/proc/sys/vm/overcommit_ratio", "1000");
	put("/proc/sys/vm/overcommit_memory", "2");
	map(0, 300 * MIB, MAP_PRIVATE);
}

/* All mappings together are larger than RAM and swap, none of them is. */
static void maps_more_than_there_is(void)
{
	for (int i = 0; i < 8; i++) {
		char *memory = map(0, 512 * MIB + PAGE, MAP_PRIVATE);

		/* Or they become one. */
		want(munmap(memory + 512 * MIB, PAGE), "munmap");
	}
}

/* Around each attempt. */

/* Each CPU keeps two stacks of tasks that ended (kernel/fork.c, NR_CACHED_STACKS): these use them up. */
static pid_t sleepers[6];

static void use_up_stacks(int number)
{
	for (unsigned int i = 0; i < sizeof(sleepers) / sizeof(*sleepers); i++) {
		sleepers[i] = fork();
		while (!sleepers[i])
			pause();
	}
	usleep(20000);
}

static void end_sleepers(int number)
{
	for (unsigned int i = 0; i < sizeof(sleepers) / sizeof(*sleepers); i++) {
		kill(sleepers[i], SIGKILL);
		waitpid(sleepers[i], 0, 0);
	}
}

static char new_cgroup[128];

static void make_cgroup(int number)
{
	snprintf(new_cgroup, sizeof(new_cgroup), CGROUPS "into-%d", number);
	want(mkdir(new_cgroup, 0755), new_cgroup);
	args.cgroup = open(new_cgroup, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

static void remove_cgroup(int number)
{
	close(args.cgroup);
	/* A task leaves it a little after it was waited for. */
	for (int i = 0; i < 50 && rmdir(new_cgroup); i++)
		usleep(10000);
}

static void choose_pid(int number)
{
	set_tid[0] = 20000 + number;
	args.set_tid = (uintptr_t)set_tid;
	args.set_tid_size = 1;
}

/* No descriptor is free in the table as it is: the pidfd makes it grow, which it does once. */
static void fill_table(int number)
{
	while (dup(0) < 255)
		;
}

static const struct variant variants[] = {
	{ "plain", 0 },
	{ "rich", 0, 0, has_all },
	{ "stack", 0, 0, 0, use_up_stacks, end_sleepers },
	{ "vfork", CLONE_VM | CLONE_VFORK, 0, has_all },
	{ "thread", THREAD, 0, has_all },
	{ "keyring", THREAD, 0, has_thread_keyring },
	{ "sysvsem", CLONE_SYSVSEM },
	{ "io", CLONE_IO, 0, has_io_priority },
	{ "uffd", 0, 0, has_userfaultfd },
	{ "ksm", 0, 0, has_mergeable },
	{ "huge", 0, 0, has_huge_pages },
	{ "newns", CLONE_NEWNS },
	{ "newuts", CLONE_NEWUTS },
	{ "newipc", CLONE_NEWIPC },
	{ "newpid", CLONE_NEWPID },
	{ "newnet", CLONE_NEWNET },
	{ "newuser", CLONE_NEWUSER },
	{ "newcgrp", CLONE_NEWCGROUP },
	{ "newtime", CLONE_NEWTIME, 1 },
	{ "newall", CLONE_NEWUSER | EVERY_NAMESPACE },
	{ "pidfd", CLONE_PIDFD, 1 },
	{ "pidfdup", CLONE_PIDFD, 1, 0, fill_table },
	{ "intocg", CLONE_INTO_CGROUP, 1, 0, make_cgroup, remove_cgroup },
	{ "settid", 0, 1, 0, choose_pid },
	{ "euidns", CLONE_NEWNS, 0, as_uncounted_user },
	{ "euiduts", CLONE_NEWUTS, 0, as_uncounted_user },
	{ "euidipc", CLONE_NEWIPC, 0, as_uncounted_user },
	{ "euidpid", CLONE_NEWPID, 0, as_uncounted_user },
	{ "euidnet", CLONE_NEWNET, 0, as_uncounted_user },
	{ "euiduser", CLONE_NEWUSER, 0, as_uncounted_user },
	{ "euidcgrp", CLONE_NEWCGROUP, 0, as_uncounted_user },
	{ "euidtime", CLONE_NEWTIME, 1, as_uncounted_user },
	{ "memcg", 0, 0, in_roomy_memory_cgroup },
	{ "mcgrich", 0, 0, in_roomy_memory_cgroup_with_all },
	{ "mcgthr", THREAD, 0, in_roomy_memory_cgroup },
	{ "mcgipc", CLONE_NEWIPC | CLONE_NEWUTS, 0, in_roomy_memory_cgroup },
	{ "mcgcache", 0, 0, in_memory_cgroup_full_of_cache },
	{ "pids", 0, 0, in_pids_cgroup_with_room_for_one },
	{ "user", 0, 0, as_user },
	{ "useruser", CLONE_NEWUSER | CLONE_NEWNS, 0, as_user },
	{ "nproc", 0, 0, as_user_with_room_for_one },
	{ "commit", 0, 0, under_commit_limit },
	{ "guess", 0, 0, maps_more_than_there_is },
	{ "nested", 0 }, /* in a new pid namespace: see main */
};
#define VARIANTS (sizeof(variants) / sizeof(*variants))

/* The child uses no stack and does not return, so that it may share its parent's. */
static __attribute__((noinline)) long call(long number, long a, long b, long c, long d)
{
	register long fourth asm("r10") = d;
	register long fifth asm("r8") = 0;
	long result;

	asm volatile("syscall\n\t"
		     "test %%rax, %%rax\n\t"
		     "jnz 1f\n\t"
		     "xor %%edi, %%edi\n\t"
		     "mov %[exit], %%eax\n\t"
		     "syscall\n\t"
		     "ud2\n"
		     "1:"
		     : "=a"(result)
		     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(fourth),
		       "r"(fifth), [exit] "i"(SYS_exit)
		     : "rcx", "r11", "memory");
	return result;
}

static long make(unsigned long long flags, int *pidfd)
{
	if (current->by_clone3)
		return call(SYS_clone3, (long)&args, sizeof(args), 0, 0);
	if (flags & CLONE_THREAD)
		return call(SYS_clone, flags, 0, (long)&thread_tid, (long)&thread_tid);
	return call(SYS_clone, flags | SIGCHLD, 0, (long)pidfd, 0);
}

static void wait_for(long child)
{
	/* CLONE_CHILD_CLEARTID */
	for (int i = 0; current->flags & CLONE_THREAD && thread_tid && i < 2000; i++)
		usleep(1000);
	if (!(current->flags & CLONE_THREAD))
		waitpid(child, 0, __WALL);
}

/* One line of JSON. What the kernel told has words and newlines, no quotes. */
static void tell(int number, const char *comm, long result, char *told)
{
	const char *separator = "";
	char *line, *rest = told;

	printf("{\"variant\": \"%s\", \"number\": %d, \"comm\": \"%s\", \"errno\": %ld, \"told\": [",
	       current->name, number, comm, result < 0 ? -result : 0);
	while ((line = strsep(&rest, "\n"))) {
		if (*line)
			printf("%s\"%s\"", separator, line);
		separator = ", ";
	}
	printf("]}\n");
	fflush(stdout);
}

/* Returns whether there is another allocation to refuse. */
static int attempt(int number)
{
	char text[16], comm[16], told[8192];
	int pidfd = -1, length;
	long result;
	ssize_t got;

	memset(&args, 0, sizeof(args));
	args.flags = current->flags;
	args.exit_signal = SIGCHLD;
	args.pidfd = (uintptr_t)&pidfd;
	thread_tid = 0;
	if (current->before)
		current->before(number);
	length = snprintf(text, sizeof(text), "%d", number);
	snprintf(comm, sizeof(comm), "%s.%d", current->name, number);
	memset(told, 0, sizeof(told)); /* or the kernel's copy to it would be the one that fails */
	prctl(PR_SET_NAME, comm);
	if (pwrite(fail_alloc, text, length, 0) != length)
		want(-1, "fail_alloc");
	result = make(current->flags, &pidfd);
	got = pread(fail_alloc, told, sizeof(told) - 1, 0);
	prctl(PR_SET_NAME, "forks");
	if (result > 0)
		wait_for(result);
	close(pidfd);
	usleep(pause_us);
	if (current->after)
		current->after(number);
	told[got > 0 ? got : 0] = 0;
	tell(number, comm, result, told);
	return got > 0 && told[0] == '0';
}

static void attempt_all(void)
{
	int status = 0;

	if (current->prepare)
		current->prepare();
	for (int number = 1; number <= MOST_ATTEMPTS; number++) {
		if (current->before != fill_table) {
			if (!attempt(number))
				return;
			continue;
		}
		/* A table never shrinks: each in a process of its own. */
		if (!fork())
			_exit(attempt(number));
		wait(&status);
		if (!WEXITSTATUS(status))
			return;
	}
}

static void run(const struct variant *variant)
{
	current = variant;
	if (!strcmp(variant->name, "nested"))
		want(unshare(CLONE_NEWPID), "unshare");
	if (!fork()) {
		/* A fork in between gives the mappings a history that dup_mmap copies. */
		if (variant->prepare == has_all) {
			has_mappings();
			if (fork()) {
				wait(0);
				_exit(0);
			}
		}
		attempt_all();
		_exit(0);
	}
	wait(0);
	if (variant->prepare == under_commit_limit)
		put("/proc/sys/vm/overcommit_memory", "0");
}

/* So that a fork allocates an audit context. */
static void enable_audit(void)
{
	struct {
		struct nlmsghdr head;
		struct audit_status status;
	} message = { { sizeof(message), AUDIT_SET, NLM_F_REQUEST, 1, 0 },
		      { .mask = AUDIT_STATUS_ENABLED, .enabled = 1 } };
	int link = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_AUDIT);

	want(send(link, &message, sizeof(message), 0), "audit");
	close(link);
}

int main(int count, char **words)
{
	if (count < 3) {
		for (unsigned int i = 0; i < VARIANTS; i++)
			puts(variants[i].name);
		return 0;
	}
	pause_us = atoi(words[1]);
	fail_alloc = open("/proc/fail_alloc", O_RDWR | O_CLOEXEC);
	if (fail_alloc < 0) {
		want(-1, "/proc/fail_alloc");
		return 1;
	}
	/* Each refusal of a page is told on the console, whose line is slow under emulation. */
	put("/proc/sys/kernel/printk", "1 4 1 7");
	enable_audit();
	for (int i = 2; i < count; i++)
		for (unsigned int j = 0; j < VARIANTS; j++)
			if (!strcmp(words[i], variants[j].name))
				run(&variants[j]);
	return 0;
}
