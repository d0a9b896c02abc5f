/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * slow_fork MEBIBYTES COUNT: fork so often with so much memory in small pages, and print how long
 * each fork took, in nanoseconds, as near to the system call as a program comes; but for one before
 * them.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000L + now.tv_nsec;
}

__attribute__((noinline)) static long slow_caller(void)
{
	long begin = now_ns();
	long pid = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);

	if (pid == 0)
		_exit(0);
	begin = now_ns() - begin;
	if (pid < 0)
		return -1;
	waitpid(pid, 0, 0);
	return begin;
}

int main(int argc, char **argv)
{
	struct sched_param first = { .sched_priority = 1 };
	cpu_set_t one;
	size_t bytes;
	char *memory;
	int i, count;

	if (argc != 3)
		return 2;
	bytes = strtoul(argv[1], 0, 10) << 20;
	count = atoi(argv[2]);
	prctl(PR_SET_NAME, "ft-slow-fork");
	memory = mmap(0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		return 1;
	madvise(memory, bytes, MADV_NOHUGEPAGE);
	memset(memory, 1, bytes);
	/* No child shall take the processor while the time is taken; not everybody may ask for it. */
	sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &first);
	CPU_ZERO(&one);
	CPU_SET(sched_getcpu(), &one);
	sched_setaffinity(0, sizeof(one), &one);
	/* The first one lets what it waits for be watched: that shall be in place before the rest. */
	slow_caller();
	sleep(3);
	for (i = 0; i < count; i++)
		printf("%ld\n", slow_caller());
	return 0;
}
