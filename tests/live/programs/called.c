/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * called KIND [COUNT] [ROOT]: asks for a process or a thread, as a user at RLIMIT_NPROC, through three
 * functions whose names the report must have. With ROOT it goes there by chroot first. Of a KIND
 * that ends in '!' it ends at once, without a word. COUNT times, each from 16 bytes further down the
 * stack and slowly enough that each is sampled.
 */
#define _GNU_SOURCE
#include <alloca.h>
#include <errno.h>
#include <pthread.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define NAMED __attribute__((noinline, noclone, noipa))

extern char **environ;
static volatile int calls;
static char *volatile lowered;

static void *idle(void *unused)
{
	return unused;
}

NAMED int run_job(const char *kind)
{
	int failed = 1;

	errno = 0;
	if (!strcmp(kind, "fork")) {
		failed = fork() < 0;
	} else if (!strcmp(kind, "vfork")) {
		failed = vfork() < 0;
	} else if (!strcmp(kind, "popen")) {
		failed = !popen("true", "r");
	} else if (!strcmp(kind, "system")) {
		failed = system("true") == -1;
	} else if (!strcmp(kind, "posix_spawn")) {
		char *argv[] = { "true", NULL };
		pid_t pid;

		errno = posix_spawn(&pid, "/bin/true", NULL, NULL, argv, environ);
		failed = !!errno;
	} else if (!strcmp(kind, "pthread_create")) {
		pthread_t thread;

		errno = pthread_create(&thread, NULL, idle, NULL);
		failed = !!errno;
	}
	calls++;
	return failed && errno == EAGAIN;
}

NAMED int middle_job(const char *kind)
{
	int refused = run_job(kind);

	calls++;
	return refused;
}

NAMED int outer_job(const char *kind)
{
	int refused = middle_job(kind);

	calls++;
	return refused;
}

int main(int argc, char **argv)
{
	struct rlimit one = { 1, 1 };
	int count = argc > 2 ? atoi(argv[2]) : 1;
	size_t length = argc > 1 ? strlen(argv[1]) : 0;
	int is_hasty = length && argv[1][length - 1] == '!';
	int refused = 0;

	if (!length || (argc > 3 && (chroot(argv[3]) || chdir("/")))) {
		perror("called");
		return 2;
	}
	if (setrlimit(RLIMIT_NPROC, &one) || setresgid(61003, 61003, 61003) ||
	    setresuid(61003, 61003, 61003)) {
		perror("called");
		return 2;
	}
	if (is_hasty)
		argv[1][length - 1] = 0;
	for (int i = 0; i < count; i++) {
		lowered = alloca(1);
		refused += outer_job(argv[1]);
		if (count > 1)
			usleep(50000);
	}
	if (is_hasty)
		_exit(0);
	printf("%d\n", refused);
	/* Whoever is asked for by name is still there; who was not is the hasty one's matter. */
	usleep(500000);
	return 0;
}
