/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * half_exempt COUNT: a user who is over RLIMIT_NPROC has of the two capabilities that exempt from it
 * CAP_SYS_ADMIN alone, and forks COUNT times: each is let through there, and refused as the scheduling
 * policy SCHED_DEADLINE is not inherited. Then it gives that up too, is refused by the kernel
 * what takes it, and forks as often under the name at-the-limit. Prints how many were refused each time.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/swap.h>
#include <sys/syscall.h>
#include <unistd.h>

#define UID 61007
#define DEADLINE 6 /* include/uapi/linux/sched.h */
#define MS 1000000ULL

/* include/uapi/linux/sched/types.h, as far as SCHED_DEADLINE needs it. */
struct attributes {
	uint32_t size, policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime, deadline, period;
};

static int keep(unsigned int capabilities)
{
	struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct data[2] = { { capabilities, capabilities, 0 }, { 0, 0, 0 } };

	return syscall(SYS_capset, &header, data);
}

static int refused(int count)
{
	int times = 0;

	while (count--) {
		long pid = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);

		if (!pid)
			_exit(0);
		if (pid < 0 && errno == EAGAIN)
			times++;
	}
	return times;
}

int main(int argc, char **argv)
{
	struct attributes attributes = {
		sizeof(attributes), DEADLINE, 0, 0, 0, 10 * MS, 30 * MS, 100 * MS
	};
	int first, count = argc > 1 ? atoi(argv[1]) : 1;
	struct rlimit one = { 1, 1 };

	if (syscall(SYS_sched_setattr, 0, &attributes, 0) || setrlimit(RLIMIT_NPROC, &one) ||
	    prctl(PR_SET_KEEPCAPS, 1) || setresgid(UID, UID, UID) || setresuid(UID, UID, UID) ||
	    keep(1 << CAP_SYS_ADMIN)) {
		perror("half_exempt");
		return 2;
	}
	first = refused(count);
	prctl(PR_SET_NAME, "at-the-limit");
	/* swapoff: capable(CAP_SYS_ADMIN), mm/swapfile.c */
	if (keep(0) || !swapoff("/") || errno != EPERM) {
		perror("half_exempt");
		return 2;
	}
	printf("%d %d\n", first, refused(count));
	return 0;
}
