/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * refused_mmap_then_fork COUNT [fork]: COUNT times an mmap that __vm_enough_memory
 * refuses (more than RAM and swap, overcommit mode 0); with `fork`, each followed
 * at once by a fork that RLIMIT_NPROC refuses.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sysinfo.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct rlimit one = { 1, 1 };
	int count = argc > 1 ? atoi(argv[1]) : 1, refused_mmaps = 0, refused_forks = 0;
	struct sysinfo host;
	size_t size;

	if (sysinfo(&host) || setrlimit(RLIMIT_NPROC, &one) || setresgid(61004, 61004, 61004) ||
	    setresuid(61004, 61004, 61004)) {
		perror("refused_mmap_then_fork");
		return 2;
	}
	size = (size_t)(host.totalram + host.totalswap) * host.mem_unit + (64UL << 20);
	for (int i = 0; i < count; i++) {
		void *place = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
				   -1, 0);

		if (place == MAP_FAILED && errno == ENOMEM)
			refused_mmaps++;
		if (argc > 2) {
			pid_t pid = fork();

			if (pid == 0)
				_exit(0);
			if (pid < 0 && errno == EAGAIN)
				refused_forks++;
		}
	}
	printf("%d %d\n", refused_mmaps, refused_forks);
	return 0;
}
