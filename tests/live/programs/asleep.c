/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * asleep CGROUP THREADS COUNT MIB: in that pids cgroup, be THREADS threads over MIB of memory, make
 * that its limit, and ask for COUNT forks in each, all at once. Each copies the memory before the
 * cgroup refuses it, while the others wait in theirs for their turn. Prints how many were refused.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "pids_cgroup.h"

static pthread_barrier_t start, end;
static int count;

static void *ask(void *unused)
{
	long refused = 0;

	pthread_barrier_wait(&start);
	for (int i = 0; i < count; i++) {
		/* Not fork(): the C library lets one thread at a time. */
		long pid = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);

		if (pid == 0)
			_exit(0);
		if (pid < 0 && errno == EAGAIN)
			refused++;
	}
	/* Who ended now would leave room for a child of the others. */
	pthread_barrier_wait(&end);
	return (void *)refused;
}

int main(int argc, char **argv)
{
	int threads, refused = 0;
	pthread_t *asking;
	size_t bytes;
	void *memory, *told;

	if (argc != 5)
		return 2;
	threads = atoi(argv[2]);
	count = atoi(argv[3]);
	bytes = (size_t)atoi(argv[4]) << 20;
	memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	asking = calloc(threads, sizeof(*asking));
	if (memory == MAP_FAILED || !asking) {
		perror("asleep");
		return 2;
	}
	/* Of huge pages there would be too few to copy. */
	madvise(memory, bytes, MADV_NOHUGEPAGE);
	memset(memory, 1, bytes);
	write_to(argv[1], "cgroup.procs", 0);
	pthread_barrier_init(&start, NULL, threads + 1);
	pthread_barrier_init(&end, NULL, threads);
	for (int i = 0; i < threads; i++) {
		errno = pthread_create(&asking[i], NULL, ask, NULL);
		if (errno) {
			perror("asleep");
			return 2;
		}
	}
	write_to(argv[1], "pids.max", threads + 1);
	pthread_barrier_wait(&start);
	for (int i = 0; i < threads; i++) {
		pthread_join(asking[i], &told);
		refused += (long)told;
	}
	printf("%d\n", refused);
	return 0;
}
