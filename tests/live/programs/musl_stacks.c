/*
 * Built with musl: threads whose stacks do not fit under RLIMIT_AS ("as") or RLIMIT_DATA ("data").
 * Reserves memory in the meantime as an allocator does, which must not be taken for a stack.
 * Prints how many threads could not be made.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#define STACK (64UL << 20)

static void *rest(void *unused)
{
	pause();
	return unused;
}

int main(int argc, char **argv)
{
	int is_as = argc > 1 && !strcmp(argv[1], "as"), count = argc > 2 ? atoi(argv[2]) : 0;
	struct rlimit limit = { 160UL << 20, 160UL << 20 };
	int i, made = 0, refused = 0;
	pthread_attr_t attributes;
	pthread_t thread;

	prctl(PR_SET_NAME, is_as ? "e-musl-as" : "e-musl-data");
	setrlimit(is_as ? RLIMIT_AS : RLIMIT_DATA, &limit);
	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, STACK);
	while (refused < count && made < 4) {
		if (pthread_create(&thread, &attributes, rest, 0))
			refused++;
		else
			made++;
	}
	/* No stacks: memory with an address, with access, or that may be overcommitted. */
	for (i = 0; i < count; i++) {
		mmap((void *)(1UL << 40), STACK * 8, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		mmap(0, STACK * 8, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		mmap(0, STACK * 8, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	}
	printf("%d\n", refused);
	return 0;
}
