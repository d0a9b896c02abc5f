// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * old_execve UID ROOM COUNT: becomes a user that is over RLIMIT_NPROC, and starts a program COUNT times
 * by the 32-bit execve under the name e-exec-32, and as often by the 32-bit execveat under the
 * name e-exec-32-at. A 64-bit program can make them by int 0x80, so no 32-bit C library is
 * needed. Prints how many were refused in all.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#define NR_EXECVE 11 /* arch/x86/entry/syscalls/syscall_32.tbl */
#define NR_EXECVEAT 358
#define EAGAIN 11
#define AT_FDCWD -100

static int call(long number, unsigned first, unsigned second, unsigned third)
{
	long result;

	__asm__ volatile("int $0x80"
			 : "=a"(result)
			 : "a"(number), "b"(first), "c"(second), "d"(third), "S"(0), "D"(0)
			 : "memory", "r8", "r9", "r10", "r11");
	return (int)result;
}

int main(int argc, char **argv)
{
	/* Where a pointer of 32 bits leads to: the path, and behind it an empty list. */
	char *low = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT,
			 -1, 0);
	int uid, count, refused = 0;
	struct rlimit room;

	if (argc < 4 || low == MAP_FAILED)
		return 2;
	strcpy(low, "/bin/true");
	uid = atoi(argv[1]);
	room.rlim_cur = room.rlim_max = atoi(argv[2]);
	count = atoi(argv[3]);
	if (setrlimit(RLIMIT_NPROC, &room) || setresgid(uid, uid, uid) ||
	    setresuid(uid, uid, uid)) {
		perror("old_execve");
		return 2;
	}
	prctl(PR_SET_NAME, "e-exec-32", 0, 0, 0);
	for (int i = 0; i < count; i++)
		refused += call(NR_EXECVE, (unsigned long)low, (unsigned long)low + 64,
				(unsigned long)low + 64) == -EAGAIN;
	prctl(PR_SET_NAME, "e-exec-32-at", 0, 0, 0);
	for (int i = 0; i < count; i++)
		refused += call(NR_EXECVEAT, AT_FDCWD, (unsigned long)low,
				(unsigned long)low + 64) == -EAGAIN;
	printf("%d\n", refused);
	return 0;
}
