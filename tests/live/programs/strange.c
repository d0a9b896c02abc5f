/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * strange SECONDS LINES FILE...: as a user at RLIMIT_NPROC, fork from functions of each of these files
 * in turn, from a function in no file, whose perf map has so many lines and grows with each fork,
 * and from the bottom of functions whose names are long (LONG). Under twenty names. Prints how
 * many forks were refused.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef LONG
#define LONG long_name
#endif
#define CODE_AT 0x1000
#define DEPTH 100
#define MOST_FILES 256

typedef int (*job)(void);
typedef int (*bridge)(job);

static volatile int refused, depth;

__attribute__((noinline, noclone)) int own_job(void)
{
	long pid = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);

	if (pid == 0)
		_exit(0);
	refused += pid < 0 && errno == EAGAIN;
	return refused;
}

__attribute__((noinline, noclone)) int LONG(int left)
{
	int found = left ? LONG(left - 1) : own_job();

	depth++;
	return found;
}

int from_long_names(void)
{
	return LONG(DEPTH) + 1;
}

static double now_s(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
	/* push %rbp; mov %rsp, %rbp; call *%rdi; pop %rbp; ret */
	static const unsigned char code[] = { 0x55, 0x48, 0x89, 0xe5, 0xff, 0xd7, 0x5d, 0xc3 };
	struct rlimit one = { 1, 1 };
	bridge bridges[MOST_FILES];
	int count = argc - 3, number, map;
	char name[64];
	double end_s;
	void *jit;
	FILE *file;

	if (count < 0 || count > MOST_FILES)
		return 2;
	for (number = 0; number < count; number++) {
		int fd = open(argv[3 + number], O_RDONLY);
		char *at = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, CODE_AT);

		if (fd < 0 || at == MAP_FAILED) {
			perror(argv[3 + number]);
			return 2;
		}
		close(fd);
		bridges[number] = (bridge)at;
	}
	if (setrlimit(RLIMIT_NPROC, &one) || setresgid(61007, 61007, 61007) ||
	    setresuid(61007, 61007, 61007)) {
		perror("strange");
		return 2;
	}
	/* A process that changed its user is not dumpable: its files would be root's. */
	prctl(PR_SET_DUMPABLE, 1);
	jit = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		   0);
	memcpy(jit, code, sizeof(code));
	snprintf(name, sizeof(name), "/tmp/perf-%d.map", getpid());
	file = fopen(name, "w");
	for (number = 0; number < atoi(argv[2]); number++)
		fprintf(file, "%x 1 a\n", number);
	fclose(file);
	map = open(name, O_WRONLY | O_APPEND);
	printf("ready\n");
	fflush(stdout);
	end_s = now_s() + atof(argv[1]);
	for (number = 0; now_s() < end_s; number++) {
		char comm[16];
		int turn = number % (count + 2);

		snprintf(comm, sizeof(comm), "strange-%d", number % 20);
		prctl(PR_SET_NAME, comm);
		if (turn == 0)
			from_long_names();
		else if (turn == 1)
			((bridge)jit)(own_job);
		else
			bridges[turn - 2](own_job);
		if (write(map, "x", 1) != 1)
			return 2;
		usleep(2000);
	}
	printf("%d\n", refused);
	fflush(stdout);
	/* Its files can be looked at until it is told to end. */
	getchar();
	unlink(name);
	return 0;
}
