// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Where the kernel keeps what a sysctl shows, for kernels whose symbols have no
 * variables (without CONFIG_KALLSYMS_ALL): the reader has the files open, and
 * fs/proc/proc_sysctl.c keeps the entry of the table at the inode.
 */
#include "kernel_types.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

char LICENSE[] SEC("license") = "GPL";

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct bpf_iter_meta {
	struct seq_file *seq;
};

struct ctl_table {
	void *data;
};

struct proc_inode {
	const struct ctl_table *sysctl_entry;
	struct inode vfs_inode;
};

#pragma clang attribute pop

struct found {
	__u64 address; /* 0: not known */
	__u64 fd; /* the reader's */
};

/* kernel/bpf/task_iter.c, bpf_iter_task_file: meta, task, fd, file */
SEC("iter/task_file")
int find_sysctls(__u64 *ctx)
{
	struct bpf_iter_meta *meta = (struct bpf_iter_meta *)ctx[0];
	struct task_struct *task = (struct task_struct *)ctx[1];
	struct file *file = (struct file *)ctx[3];
	struct found found = {};
	struct proc_inode *inode;

	if (!task || !file || BPF_CORE_READ(task, tgid) != bpf_get_current_pid_tgid() >> 32)
		return 0;
	found.fd = *(__u32 *)&ctx[2];
	if (has_field(proc_inode, sysctl_entry) && has_field(proc_inode, vfs_inode) &&
	    has_field(ctl_table, data)) {
		inode = (void *)BPF_CORE_READ(file, f_inode) -
			bpf_core_field_offset(struct proc_inode, vfs_inode);
		found.address = (__u64)BPF_CORE_READ(inode, sysctl_entry, data);
	}
	bpf_seq_write(meta->seq, &found, sizeof(found));
	return 0;
}
