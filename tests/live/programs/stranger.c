/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a hostile caller places in the way of whoever wants to name it. Each asks for a fork as a user at
 * RLIMIT_NPROC, through a piece of code that lies in:
 *
 *   perf ROOT MAJOR MINOR  memory; its perf map below ROOT, where it goes by chroot, is a device node,
 *                          or a FIFO if MAJOR is 0
 *   deleted FILE TARGET    FILE, which is deleted then; "FILE (deleted)" is a link to TARGET
 *   mapped FILE OFFSET     FILE, which has CODE there; it says "ready" and waits for a line first
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#define UID 61003
#define NAMED __attribute__((noinline, noclone, noipa))

typedef int asked(void);
typedef int through(asked *);

/* sub $8,%rsp; call *%rdi; add $8,%rsp; ret */
static const char CODE[] = "\x48\x83\xec\x08\xff\xd7\x48\x83\xc4\x08\xc3";
static volatile int calls;

NAMED int nothing(void)
{
	return 0;
}

NAMED int refuse(void)
{
	int refused = fork() < 0 && errno == EAGAIN;

	calls++;
	return refused;
}

static void die(const char *what)
{
	perror(what);
	exit(2);
}

static void become_refused(void)
{
	struct rlimit one = { 1, 1 };

	if (setrlimit(RLIMIT_NPROC, &one) || setresgid(UID, UID, UID) || setresuid(UID, UID, UID))
		die("setresuid");
}

static through *in_memory(const char *root, int major, int minor)
{
	char path[4096];
	char *code;

	snprintf(path, sizeof(path), "%s/tmp/perf-%d.map", root, getpid());
	if (mknod(path, 0644 | (major ? S_IFCHR : S_IFIFO), makedev(major, minor)))
		die(path);
	if (lchown(path, UID, UID) || chroot(root) || chdir("/"))
		die(root);
	code = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		    0);
	memcpy(code, CODE, sizeof(CODE));
	return (through *)code;
}

static through *mapped(const char *path, off_t offset)
{
	int fd = open(path, O_RDONLY);
	char *code = mmap(NULL, 8192, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, offset);

	if (fd < 0 || code == MAP_FAILED)
		die(path);
	/* Or else its end would wait for who answers for the file to hear of that. */
	close(fd);
	return (through *)code;
}

static through *deleted(const char *path, const char *target)
{
	char link[4096];
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0755);
	through *code;

	if (fd < 0 || write(fd, CODE, sizeof(CODE)) != sizeof(CODE) || ftruncate(fd, 8192))
		die(path);
	close(fd);
	code = mapped(path, 0);
	snprintf(link, sizeof(link), "%s (deleted)", path);
	if (unlink(path) || symlink(target, link))
		die(link);
	return code;
}

/* What maps has told is not there any more when it is looked at, time and again. */
static void flicker(char *code)
{
	time_t end = time(NULL) + 3;
	int turn = 0;

	while (time(NULL) < end)
		mprotect(code + 4096, 4096, turn++ % 2 ? PROT_READ | PROT_EXEC : PROT_READ);
}

int main(int argc, char **argv)
{
	through *code = NULL;
	char line[8];
	int refused = 0;

	if (argc == 5 && !strcmp(argv[1], "perf"))
		code = in_memory(argv[2], atoi(argv[3]), atoi(argv[4]));
	else if (argc == 4 && !strcmp(argv[1], "deleted"))
		code = deleted(argv[2], argv[3]);
	else if (argc == 4 && !strcmp(argv[1], "mapped"))
		code = mapped(argv[2], atoi(argv[3]));
	else
		return 2;
	code(nothing);
	if (!strcmp(argv[1], "mapped")) {
		puts("ready");
		fflush(stdout);
		if (!fgets(line, sizeof(line), stdin))
			return 2;
	}
	become_refused();
	for (int i = 0; i < 3; i++) {
		refused += code(refuse);
		usleep(50000);
	}
	if (!strcmp(argv[1], "deleted"))
		flicker((char *)code);
	printf("%d\n", refused);
	fflush(stdout);
	usleep(1500000);
	_exit(0);
}
