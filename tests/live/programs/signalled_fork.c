/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * signalled_fork COUNT: forks COUNT times, and each call is interrupted once:
 * its tracer stops it at the system call's entry and sends a signal, so that
 * copy_process finds it pending. The kernel restarts the call itself: none
 * fails. Prints the failures and the interrupted calls.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define ENTRY_OR_EXIT (SIGTRAP | 0x80) /* PTRACE_O_TRACESYSGOOD */

static void on_signal(int number)
{
	(void)number;
}

static int fork_all(int count)
{
	struct sigaction action = { .sa_handler = on_signal, .sa_flags = SA_RESTART };
	int failed = 0;

	sigaction(SIGUSR1, &action, NULL);
	ptrace(PTRACE_TRACEME, 0, 0, 0);
	raise(SIGSTOP);
	for (int i = 0; i < count; i++) {
		pid_t pid = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);

		if (pid == 0)
			_exit(0);
		if (pid < 0)
			failed++;
		else
			waitpid(pid, NULL, 0);
	}
	return failed;
}

int main(int argc, char **argv)
{
	int count = argc > 1 ? atoi(argv[1]) : 1, interrupted = 0, status, signal_number;
	int is_restart = 0;
	struct __ptrace_syscall_info info;
	pid_t forker = fork();

	if (forker == 0)
		_exit(fork_all(count));
	waitpid(forker, &status, 0);
	ptrace(PTRACE_SETOPTIONS, forker, 0, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL);
	for (signal_number = 0;;) {
		ptrace(PTRACE_SYSCALL, forker, 0, signal_number);
		waitpid(forker, &status, 0);
		if (WIFEXITED(status))
			break;
		if (!WIFSTOPPED(status))
			return 1;
		signal_number = WSTOPSIG(status);
		if (signal_number != ENTRY_OR_EXIT)
			continue; /* handed on to its handler */
		signal_number = 0;
		if (ptrace(PTRACE_GET_SYSCALL_INFO, forker, sizeof(info), &info) <= 0)
			return 1;
		if (info.op != PTRACE_SYSCALL_INFO_ENTRY || info.entry.nr != SYS_clone)
			continue;
		if (!is_restart) {
			kill(forker, SIGUSR1);
			interrupted++;
		}
		is_restart = !is_restart;
	}
	printf("%d %d\n", WEXITSTATUS(status), interrupted);
	return 0;
}
