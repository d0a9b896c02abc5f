/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The descriptor table: fs.nr_open, and RLIMIT_NOFILE for a pidfd. */
#ifndef FORK_TRACE_LIMITS_FDS_H
#define FORK_TRACE_LIMITS_FDS_H

#include "../port.h"
#include "../reading.h"
#include "../refusal.h"
#include "../uapi.h"
#include "../wire.h"

#define RLIMIT_NOFILE 7
#define FD_CHUNK_WORDS 16
/* Up to 262,144 descriptors; of a larger table the number stays unread. */
#define FD_CHUNKS 256

/* Is a descriptor open in this chunk of a table? -1: unread. */
ft_global int has_open(__u64 address)
{
	unsigned long chunk[FD_CHUNK_WORDS], word;

	if (bpf_probe_read_kernel(chunk, sizeof(chunk), (void *)address))
		return -1;
	word = chunk[0] | chunk[1] | chunk[2] | chunk[3] | chunk[4] | chunk[5] | chunk[6] |
	       chunk[7] | chunk[8] | chunk[9] | chunk[10] | chunk[11] | chunk[12] | chunk[13] |
	       chunk[14] | chunk[15];
	return !!word;
}

/*
 * fs/file.c: the child's table must reach the word of the parent's highest open
 * descriptor. Empty chunks are skipped from the top, then the words of one are
 * looked at; in one loop over all words the verifier would see too many jumps.
 */
ft_inline void read_fd_table(struct ft_refusal *refusal, struct files_struct *files)
{
	unsigned long *open_fds, word;
	unsigned int max_fds = 0;
	struct fdtable *fdt;
	__u64 words;
	int i, found;

	if (is_moved(refusal,
		     !is_blind(FT_READER_DESCRIPTORS) && has_field(fdtable, max_fds) &&
			     has_field(fdtable, open_fds),
		     FT_MOVED_FDTABLE))
		return;
	fdt = BPF_CORE_READ(files, fdt);
	open_fds = BPF_CORE_READ(fdt, open_fds);
	number_int_at(refusal, FT_NUMBER_NR_OPEN, port_config()->sysctl_nr_open);
	if (bpf_core_read(&max_fds, sizeof(max_fds), &fdt->max_fds))
		return;
	words = max_fds / 64;
	for (i = 0; i < FD_CHUNKS && words >= FD_CHUNK_WORDS; i++) {
		found = has_open((__u64)(open_fds + words - FD_CHUNK_WORDS));
		if (found < 0)
			return;
		if (found)
			break;
		words -= FD_CHUNK_WORDS;
	}
	for (i = 0; i < FD_CHUNK_WORDS && words; i++) {
		if (bpf_probe_read_kernel(&word, sizeof(word), open_fds + words - 1))
			return;
		if (word) {
			ft_number(refusal, FT_NUMBER_FD_SLOTS, words * 64);
			return;
		}
		words--;
	}
}

ft_inline void read_nofile(struct ft_refusal *refusal, struct task_struct *task)
{
	if (!is_blind(FT_READER_DESCRIPTORS))
		ft_number(refusal, FT_NUMBER_NOFILE_LIMIT,
			  BPF_CORE_READ(task, signal, rlim[RLIMIT_NOFILE].rlim_cur));
}

ft_inline void judge_fds(struct ft_refusal *refusal, struct task_struct *task, __u64 watched)
{
	if (refusal->flags & FT_CLONE_PIDFD)
		read_nofile(refusal, task);
	if (is_watched(watched, FT_STEP_DUP_FD))
		return;
	read_fd_table(refusal, is_blind(FT_READER_DESCRIPTORS) ? 0 : BPF_CORE_READ(task, files));
	/* fs/file.c, alloc_fdtable: cut down to whole words of the limit. */
	if (has_number(refusal, FT_NUMBER_FD_SLOTS) && has_number(refusal, FT_NUMBER_NR_OPEN) &&
	    number_of(refusal, FT_NUMBER_FD_SLOTS) >
		    (number_of(refusal, FT_NUMBER_NR_OPEN) & ~63ULL))
		candidate(refusal, FT_CANDIDATE_FD_TABLE);
}

#endif
