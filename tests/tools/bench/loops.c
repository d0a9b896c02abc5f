/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The operations whose price is measured: loops OPERATION COUNT. A tenth of COUNT
 * goes before, to bring everything into memory. Prints one line: ns that passed, ns
 * of this process alone, failures in all. On a clock that counts instructions these
 * are instructions.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <grp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MAPPINGS 2000
#define NOBODY 65534

static long page_bytes;

static void give_up(const char *what)
{
	fprintf(stderr, "loops: %s: %s\n", what, strerror(errno));
	exit(1);
}

static long long now_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static int fork_once(void)
{
	pid_t pid = fork();

	if (pid < 0)
		return 1;
	if (!pid)
		_exit(0);
	if (waitpid(pid, NULL, 0) != pid)
		give_up("waitpid");
	return 0;
}

static int fork_in_vain(void)
{
	pid_t pid = fork();

	if (!pid)
		_exit(0);
	if (pid > 0)
		waitpid(pid, NULL, 0);
	return pid < 0;
}

static int map_and_unmap(void)
{
	void *page =
		mmap(NULL, page_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (page == MAP_FAILED)
		return 1;
	munmap(page, page_bytes);
	return 0;
}

/* As musl makes a thread's stack: mapped without access, then opened but for its guard. */
static int map_stack(void)
{
	char *pages = mmap(NULL, 3 * page_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (pages == MAP_FAILED)
		return 1;
	if (mprotect(pages + page_bytes, 2 * page_bytes, PROT_READ | PROT_WRITE))
		give_up("mprotect");
	munmap(pages, 3 * page_bytes);
	return 0;
}

static int execute_once(void)
{
	pid_t pid = vfork();

	if (pid < 0)
		return 1;
	if (!pid) {
		execl("/proc/self/exe", "loops", "nothing", (char *)NULL);
		_exit(1);
	}
	if (waitpid(pid, NULL, 0) != pid)
		give_up("waitpid");
	return 0;
}

static int unshare_once(void)
{
	if (unshare(CLONE_NEWUTS))
		give_up("unshare");
	return 0;
}

static int ask_parent(void)
{
	/* The library has no cache of it, but a plain system call is what is meant. */
	syscall(SYS_getppid);
	return 0;
}

/*
 * Two neighbours never have the same protection, or the kernel would join them. Those
 * that are private and writable it accounts for, at each fork anew: every other one has
 * the protection `first`, the rest `second`.
 */
static void add_mappings(int first, int second)
{
	char *start = mmap(NULL, MAPPINGS * page_bytes, second, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	long i;

	if (start == MAP_FAILED)
		give_up("mmap");
	for (i = 0; i < MAPPINGS; i += 2)
		if (mprotect(start + i * page_bytes, page_bytes, first))
			give_up("mprotect");
}

static void add_half(void)
{
	add_mappings(PROT_READ | PROT_WRITE, PROT_NONE);
}

static void add_whole(void)
{
	add_mappings(PROT_READ | PROT_WRITE, PROT_READ | PROT_WRITE | PROT_EXEC);
}

/* Without privileges and with as many tasks as the user may have: this one. */
static void limit_tasks(void)
{
	struct rlimit one = { 1, 1 };

	if (setgroups(0, NULL) || setrlimit(RLIMIT_NPROC, &one) ||
	    setresgid(NOBODY, NOBODY, NOBODY) || setresuid(NOBODY, NOBODY, NOBODY))
		give_up("cannot become another user");
}

static const struct {
	const char *name;
	void (*prepare)(void);
	int (*once)(void);
} operations[] = {
	{ "fork", NULL, fork_once },
	{ "fork-2000-mappings", add_half, fork_once },
	{ "fork-2000-accountable", add_whole, fork_once },
	{ "mmap-pair", NULL, map_and_unmap },
	{ "getppid", NULL, ask_parent },
	{ "failing-fork", limit_tasks, fork_in_vain },
	{ "exec", NULL, execute_once },
	{ "unshare", NULL, unshare_once },
	{ "stack-pair", NULL, map_stack },
};

int main(int argc, char **argv)
{
	long long started_ns, self_ns;
	long count, i, failures = 0;
	unsigned int found;

	if (argc == 2 && !strcmp(argv[1], "nothing"))
		return 0;
	/* The base moves by 4 % with the layout of the address space: always the same one. */
	if (!(personality(0xffffffff) & ADDR_NO_RANDOMIZE)) {
		personality(ADDR_NO_RANDOMIZE);
		execv("/proc/self/exe", argv);
		give_up("execv");
	}
	/* It would be "exe" by now; tracers tell failures by this name. */
	prctl(PR_SET_NAME, "loops");
	if (argc == 2 && !strcmp(argv[1], "hold")) {
		fputs("armed\n", stderr);
		pause();
		return 0;
	}
	for (found = 0; found < sizeof(operations) / sizeof(*operations); found++)
		if (argc == 3 && !strcmp(argv[1], operations[found].name))
			break;
	if (found == sizeof(operations) / sizeof(*operations)) {
		fprintf(stderr, "usage: loops OPERATION COUNT\n");
		return 2;
	}
	page_bytes = sysconf(_SC_PAGESIZE);
	count = atol(argv[2]);
	if (operations[found].prepare)
		operations[found].prepare();
	for (i = 0; i < count / 10; i++)
		failures += operations[found].once();
	self_ns = now_ns(CLOCK_PROCESS_CPUTIME_ID);
	started_ns = now_ns(CLOCK_MONOTONIC);
	for (i = 0; i < count; i++)
		failures += operations[found].once();
	started_ns = now_ns(CLOCK_MONOTONIC) - started_ns;
	self_ns = now_ns(CLOCK_PROCESS_CPUTIME_ID) - self_ns;
	printf("%lld %lld %ld\n", started_ns, self_ns, failures);
	return 0;
}
