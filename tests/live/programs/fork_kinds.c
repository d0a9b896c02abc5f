/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fork_kinds KIND COUNT [NAMES]: asks for a fork COUNT times by the named call, as a user at
 * RLIMIT_NPROC; with NAMES as that many commands in turn, named-0 and so on.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/sched.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

static void *idle(void *unused)
{
	return unused;
}

static long ask(const char *kind)
{
	if (!strcmp(kind, "fork"))
#ifdef SYS_fork
		return syscall(SYS_fork);
#else /* arm64: fork() and vfork() are clone there */
		return fork();
#endif
	if (!strcmp(kind, "vfork"))
		return vfork();
	if (!strcmp(kind, "clone"))
		return syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
	if (!strcmp(kind, "clone3")) {
		struct clone_args args = { .exit_signal = SIGCHLD };

		return syscall(SYS_clone3, &args, sizeof(args));
	}
	if (!strcmp(kind, "thread")) {
		pthread_t thread;

		errno = pthread_create(&thread, NULL, idle, NULL);
		return errno ? -1 : 1;
	}
	fprintf(stderr, "no kind %s\n", kind);
	exit(2);
}

int main(int argc, char **argv)
{
	struct rlimit one = { 1, 1 };
	int count = argc > 2 ? atoi(argv[2]) : 1;
	int names = argc > 3 ? atoi(argv[3]) : 0;
	char name[24];
	int refused = 0;

	if (setrlimit(RLIMIT_NPROC, &one) || setresgid(61003, 61003, 61003) ||
	    setresuid(61003, 61003, 61003)) {
		perror("fork_kinds");
		return 2;
	}
	for (int i = 0; i < count; i++) {
		long pid;

		if (names) {
			snprintf(name, sizeof(name), "named-%d", i % names);
			prctl(PR_SET_NAME, name);
		}
		pid = ask(argv[1]);
		if (pid == 0)
			_exit(0);
		if (pid < 0 && errno == EAGAIN)
			refused++;
	}
	printf("%d\n", refused);
	return 0;
}
