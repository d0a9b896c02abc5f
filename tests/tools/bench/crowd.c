/* N sleeping processes, or N threads of one, until stdin ends: crowd processes|threads N */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static void *sleep_on(void *unused)
{
	for (;;)
		pause();
	return unused;
}

static void add_thread(void)
{
	pthread_attr_t small;
	pthread_t thread;

	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, 16384);
	errno = pthread_create(&thread, &small, sleep_on, NULL);
	if (errno) {
		perror("crowd: thread");
		exit(1);
	}
}

static void add_process(void)
{
	pid_t parent = getpid(), pid = fork();

	if (pid < 0) {
		perror("crowd: fork");
		exit(1);
	}
	if (pid == 0) {
		/* Nothing stays behind, however the first one ends. */
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(0);
		sleep_on(NULL);
	}
}

int main(int argc, char **argv)
{
	char end;
	int is_threads, number;

	if (argc != 3)
		return 2;
	is_threads = !strcmp(argv[1], "threads");
	for (number = atoi(argv[2]); number > 1; number--)
		is_threads ? add_thread() : add_process();
	puts("ready");
	fflush(stdout);
	while (read(0, &end, 1) > 0)
		;
	/* We lead a session of our own: this reaches the crowd alone. */
	signal(SIGTERM, SIG_IGN);
	kill(0, SIGTERM);
	while (wait(NULL) > 0)
		;
	return 0;
}
