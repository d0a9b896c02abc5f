/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Who in the kernel makes a task that no system call asked for, by what it hands to
 * copy_process. Only for kernels with BTF; what is not there is left empty.
 */
#ifndef FORK_TRACE_MAKER_H
#define FORK_TRACE_MAKER_H

#include "caller.h"
#include "port.h"
#include "reading.h"
#include "wire.h"

/* The name of a kernel function, as the kernel's own messages have it; since v5.13. */
ft_inline void read_function(struct ft_maker *maker, __u64 address)
{
	static const char format[] = "%ps";

	if (address && has_value(bpf_func_id, BPF_FUNC_snprintf))
		bpf_snprintf(maker->function, sizeof(maker->function), format, &address,
			     sizeof(address));
}

ft_inline void read_name(struct ft_maker *maker, const char *name)
{
	if (name)
		bpf_probe_read_kernel_str(maker->name, sizeof(maker->name), name);
}

/*
 * kernel/kthread.c, __kthread_create_on_node: who asked waits for `done`, on which
 * nobody else waits. It may not have got as far as that yet, or have been killed.
 */
ft_inline void read_asker(struct ft_maker *maker, struct completion *done)
{
	struct list_head *head, *first;
	struct swait_queue *waiter;
	struct task_struct *task;

	if (!done || !has_field(swait_queue, task) || !has_field(swait_queue_head, task_list))
		return;
	head = __builtin_preserve_access_index(&done->wait.task_list);
	first = BPF_CORE_READ(head, next);
	if (!first || first == head)
		return;
	waiter = (void *)first - bpf_core_field_offset(struct swait_queue, task_list);
	task = BPF_CORE_READ(waiter, task);
	if (!task)
		return;
	maker->asker_pid = BPF_CORE_READ(task, tgid);
	bpf_core_read(maker->asker_comm, sizeof(maker->asker_comm), &task->comm);
}

ft_inline void read_kthread(struct ft_maker *maker, __u64 address)
{
	struct kthread_create_info *create = (struct kthread_create_info *)address;

	maker->kind = FT_MAKER_KTHREAD;
	if (!has_field(kthread_create_info, threadfn) || !has_field(kthread_create_info, done))
		return;
	read_function(maker, (__u64)BPF_CORE_READ(create, threadfn));
	if (has_field(kthread_create_info, full_name))
		read_name(maker, BPF_CORE_READ(create, full_name));
	read_asker(maker, BPF_CORE_READ(create, done));
}

ft_inline void read_helper(struct ft_maker *maker, __u64 address)
{
	struct subprocess_info *info = (struct subprocess_info *)address;

	maker->kind = FT_MAKER_HELPER;
	if (has_field(subprocess_info, path))
		read_name(maker, BPF_CORE_READ(info, path));
}

ft_inline int is_kernel_thread(void)
{
	return !!(CURRENT_READ(flags) & PF_KTHREAD);
}

/* What the new task is to run in the kernel; 0: it returns to user space. */
ft_inline __u64 function_of(struct kernel_clone_args *args)
{
	if (has_field(kernel_clone_args, fn))
		return (__u64)BPF_CORE_READ(args, fn);
	/* Of others `stack` is a user's. */
	return is_kernel_thread() ? BPF_CORE_READ(args, stack) : 0;
}

ft_inline __u64 argument_of(struct kernel_clone_args *args)
{
	if (has_field(kernel_clone_args, fn))
		return (__u64)BPF_CORE_READ(args, fn_arg);
	return BPF_CORE_READ(args, stack_size);
}

/* Returns 0 if a system call asked for the task. */
ft_inline int read_maker(struct ft_maker *maker, struct kernel_clone_args *args)
{
	__u64 function = function_of(args);

	if (has_field(kernel_clone_args, io_thread) &&
	    BPF_CORE_READ_BITFIELD_PROBED(args, io_thread)) {
		maker->kind = FT_MAKER_IO_WORKER;
		return 1;
	}
	if (has_field(kernel_clone_args, user_worker) &&
	    BPF_CORE_READ_BITFIELD_PROBED(args, user_worker)) {
		maker->kind = FT_MAKER_USER_WORKER;
		if (has_field(kernel_clone_args, name))
			read_name(maker, BPF_CORE_READ(args, name));
		return 1;
	}
	if (!function && !is_kernel_thread())
		return 0;
	if (function && function == port_config()->kthread) {
		read_kthread(maker, argument_of(args));
	} else if (function && function == port_config()->call_usermodehelper_exec_async) {
		read_helper(maker, argument_of(args));
	} else {
		maker->kind = FT_MAKER_OTHER;
		read_function(maker, function);
	}
	return 1;
}

#endif
