/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * crowd CGROUP THREADS ZOMBIES COUNT SECONDS: in that pids cgroup, be THREADS threads and ZOMBIES
 * children that ended, make that its limit, ask COUNT times for a fork, and stay for a while.
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "pids_cgroup.h"

static void *idle(void *unused)
{
	for (;;)
		pause();
	return unused;
}

int main(int argc, char **argv)
{
	int threads, zombies, count, refused = 0;
	pthread_t thread;
	siginfo_t info;

	if (argc != 6)
		return 2;
	threads = atoi(argv[2]);
	zombies = atoi(argv[3]);
	count = atoi(argv[4]);
	write_to(argv[1], "cgroup.procs", 0);
	for (int i = 0; i < zombies; i++) {
		pid_t pid = fork();

		if (pid == 0)
			_exit(0);
		if (pid < 0 || waitid(P_PID, pid, &info, WEXITED | WNOWAIT)) {
			perror("crowd");
			return 2;
		}
	}
	for (int i = 1; i < threads; i++) {
		errno = pthread_create(&thread, NULL, idle, NULL);
		if (errno) {
			perror("crowd");
			return 2;
		}
	}
	write_to(argv[1], "pids.max", threads + zombies);
	for (int i = 0; i < count; i++) {
		pid_t pid = fork();

		if (pid == 0)
			_exit(0);
		if (pid < 0 && errno == EAGAIN)
			refused++;
	}
	printf("%d\n", refused);
	fflush(stdout);
	sleep(atoi(argv[5]));
	return 0;
}
