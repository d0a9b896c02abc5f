// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Asks io_uring for requests that each block a worker: `io_workers COUNT`. Nobody is told when
 * the kernel cannot make one: the request waits. Prints what the requests ended with. Without
 * liburing, which is not everywhere.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/io_uring.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ENTRIES 64

static char names[ENTRIES][64];

/* To open a pipe for reading blocks until somebody writes: each takes a worker of its own. */
static void prepare(struct io_uring_sqe *sqe, int number)
{
	snprintf(names[number], sizeof(names[number]), "/tmp/io-workers-%d-%d", getpid(), number);
	if (mkfifo(names[number], 0600))
		perror(names[number]);
	memset(sqe, 0, sizeof(*sqe));
	sqe->opcode = IORING_OP_OPENAT;
	sqe->flags = IOSQE_ASYNC;
	sqe->fd = AT_FDCWD;
	sqe->addr = (unsigned long)names[number];
	sqe->open_flags = O_RDONLY;
	sqe->user_data = number;
}

static void release(int count)
{
	int number, fd;

	for (number = 0; number < count; number++) {
		fd = open(names[number], O_WRONLY | O_NONBLOCK);
		if (fd >= 0)
			close(fd);
	}
}

int main(int argc, char **argv)
{
	struct io_uring_params params = {};
	int count = argc > 1 ? atoi(argv[1]) : 1, fd, number, done = 0, failed = 0, tries;
	unsigned *sq_tail, *sq_array, *cq_head, *cq_tail, cq_mask;
	struct io_uring_sqe *sqes;
	struct io_uring_cqe *cqes;
	char *sq, *cq;

	if (count < 1 || count > ENTRIES)
		return 2;
	fd = syscall(__NR_io_uring_setup, ENTRIES, &params);
	if (fd < 0) {
		perror("io_uring_setup");
		return 3;
	}
	sq = mmap(0, params.sq_off.array + params.sq_entries * sizeof(unsigned),
		  PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, IORING_OFF_SQ_RING);
	cq = mmap(0, params.cq_off.cqes + params.cq_entries * sizeof(*cqes), PROT_READ | PROT_WRITE,
		  MAP_SHARED | MAP_POPULATE, fd, IORING_OFF_CQ_RING);
	sqes = mmap(0, params.sq_entries * sizeof(*sqes), PROT_READ | PROT_WRITE,
		    MAP_SHARED | MAP_POPULATE, fd, IORING_OFF_SQES);
	if (sq == MAP_FAILED || cq == MAP_FAILED || sqes == MAP_FAILED) {
		perror("mmap");
		return 3;
	}
	sq_tail = (unsigned *)(sq + params.sq_off.tail);
	sq_array = (unsigned *)(sq + params.sq_off.array);
	cq_head = (unsigned *)(cq + params.cq_off.head);
	cq_tail = (unsigned *)(cq + params.cq_off.tail);
	cq_mask = *(unsigned *)(cq + params.cq_off.ring_mask);
	cqes = (struct io_uring_cqe *)(cq + params.cq_off.cqes);
	for (number = 0; number < count; number++) {
		prepare(&sqes[number], number);
		sq_array[number] = number;
	}
	__atomic_store_n(sq_tail, count, __ATOMIC_RELEASE);
	printf("submitted: %ld\n", syscall(__NR_io_uring_enter, fd, count, 0, 0, 0, 0));
	fflush(stdout);
	sleep(1);
	for (tries = 0; tries < 2000 && done < count; tries++) {
		release(count);
		usleep(10000);
		syscall(__NR_io_uring_enter, fd, 0, 0, IORING_ENTER_GETEVENTS, 0, 0);
		while (*cq_head != __atomic_load_n(cq_tail, __ATOMIC_ACQUIRE)) {
			failed += cqes[*cq_head & cq_mask].res < 0;
			done++;
			__atomic_store_n(cq_head, *cq_head + 1, __ATOMIC_RELEASE);
		}
	}
	printf("completed: %d, failed: %d\n", done, failed);
	for (number = 0; number < count; number++)
		unlink(names[number]);
	return done == count && !failed ? 0 : 1;
}
