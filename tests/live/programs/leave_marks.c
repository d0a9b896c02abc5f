/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * leave_marks THREADS: one after the other so many threads have an mprotect refused by the
 * overcommit rule, as it asks for more than the host has, and end.
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#define BYTES (1UL << 42)

static void *ask(void *mapping)
{
	if (!mprotect(mapping, BYTES, PROT_READ | PROT_WRITE) || errno != ENOMEM)
		exit(1);
	return 0;
}

int main(int argc, char **argv)
{
	void *mapping = mmap(0, BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int left = argc > 1 ? atoi(argv[1]) : 1;
	pthread_t thread;

	if (mapping == MAP_FAILED)
		return 1;
	while (left--) {
		if (pthread_create(&thread, 0, ask, mapping) || pthread_join(thread, 0)) {
			perror("leave_marks: pthread_create");
			return 1;
		}
	}
	return 0;
}
