/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * storm CGROUP WORKERS NAMES SECONDS: in that pids cgroup, be WORKERS processes that leave it no
 * room and fork for so long, under NAMES commands in turn, storm-0 and so on. Prints for each
 * command how many of its forks were refused, as they themselves saw it.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "pids_cgroup.h"

#define BURST 7

struct told {
	int is_open; /* the limit stands */
	long refused[];
};

static double now_s(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
}

static void storm(volatile struct told *told, int first, int step, int names, double seconds)
{
	double end_s;
	char name[24];
	int number, i;

	while (!told->is_open)
		usleep(1000);
	end_s = now_s() + seconds;
	for (number = first % names; now_s() < end_s; number = (number + step) % names) {
		snprintf(name, sizeof(name), "storm-%d", number);
		prctl(PR_SET_NAME, name);
		for (i = 0; i < BURST; i++) {
			long pid = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);

			if (pid == 0)
				_exit(0);
			if (pid < 0 && errno == EAGAIN)
				__sync_fetch_and_add(&told->refused[number], 1);
		}
	}
	/* Who ended now would leave room for a child of the others. */
	while (told->is_open)
		usleep(1000);
	_exit(0);
}

int main(int argc, char **argv)
{
	int workers, names, i;
	struct told *told;
	double seconds;

	if (argc != 5)
		return 2;
	workers = atoi(argv[2]);
	names = atoi(argv[3]);
	seconds = atof(argv[4]);
	told = mmap(NULL, sizeof(*told) + names * sizeof(long), PROT_READ | PROT_WRITE,
		    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (told == MAP_FAILED) {
		perror("storm");
		return 2;
	}
	for (i = 0; i < workers; i++) {
		pid_t pid = fork();

		if (pid < 0) {
			perror("storm");
			return 2;
		}
		if (pid == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			write_to(argv[1], "cgroup.procs", 0);
			storm(told, i, workers, names, seconds);
		}
	}
	/* All of them are in once each has begun to wait; the counter says so. */
	usleep(200000);
	write_to(argv[1], "pids.max", workers);
	told->is_open = 1;
	usleep((seconds + 0.5) * 1e6);
	told->is_open = 0;
	while (wait(NULL) > 0)
		;
	for (i = 0; i < names; i++)
		printf("storm-%d %ld\n", i, told->refused[i]);
	return 0;
}
