// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The stack of a thread, asked for by 32-bit calls and refused: mmap2 by RLIMIT_AS under the name
 * old-mmap, mprotect by RLIMIT_DATA under the name old-mprotect. A 64-bit program can make
 * them by int 0x80, so no 32-bit C library is needed. Prints what each answered.
 */
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#define NR_MMAP2 192 /* arch/x86/entry/syscalls/syscall_32.tbl */
#define NR_MPROTECT 125
#define BYTES (256 << 20)
#define LEAST (1 << 20)

static long call(long number, unsigned first, unsigned length, unsigned prot, unsigned flags)
{
	long result;

	__asm__ volatile("int $0x80"
			 : "=a"(result)
			 : "a"(number), "b"(first), "c"(length), "d"(prot), "S"(flags), "D"(-1)
			 : "memory", "r8", "r9", "r10", "r11");
	return (int)result;
}

static void limit(int resource, unsigned long soft)
{
	struct rlimit limits;

	getrlimit(resource, &limits);
	limits.rlim_cur = soft ? soft : limits.rlim_max;
	if (setrlimit(resource, &limits))
		perror("setrlimit");
}

int main(void)
{
	unsigned flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK;
	long stack;

	prctl(PR_SET_NAME, "old-mmap", 0, 0, 0);
	limit(RLIMIT_AS, LEAST);
	printf("%ld ", call(NR_MMAP2, 0, BYTES, PROT_READ | PROT_WRITE, flags));
	limit(RLIMIT_AS, 0);
	stack = call(NR_MMAP2, 0, BYTES, PROT_NONE, flags);
	if (stack > -4096 && stack < 0)
		return 1;
	prctl(PR_SET_NAME, "old-mprotect", 0, 0, 0);
	limit(RLIMIT_DATA, LEAST);
	printf("%ld\n", call(NR_MPROTECT, (unsigned)stack, BYTES, PROT_READ | PROT_WRITE, 0));
	return 0;
}
