/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What programs do to the pids cgroup that they run in. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void write_to(const char *cgroup, const char *name, int value)
{
	char path[4096], text[16];
	int fd, length;

	snprintf(path, sizeof(path), "%s/%s", cgroup, name);
	length = snprintf(text, sizeof(text), "%d", value);
	fd = open(path, O_WRONLY);
	if (fd < 0 || write(fd, text, length) != length) {
		perror(path);
		exit(2);
	}
	close(fd);
}
