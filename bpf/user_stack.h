/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The caller's stack, sent beside a sample.
 */
#ifndef FORK_TRACE_USER_STACK_H
#define FORK_TRACE_USER_STACK_H

#include "caller.h"
#include "port.h"
#include "reading.h"
#include "wire.h"

/* What is unwound, apart from the samples: it may be lost, they should not. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 22); /* 430 stacks of the default size */
} user_stacks SEC(".maps");

/* The program's file, for when the process is gone: inode and path, as far as they go. */
ft_inline void read_program(struct ft_stack *stack, struct mm_struct *mm)
{
	struct dentry *dentry, *parent;
	struct file *exe;
	__u32 i;

	if (!bpf_core_field_exists(mm->end_code) || !bpf_core_field_exists(mm->exe_file) ||
	    !bpf_core_field_exists(struct file, f_path))
		return;
	stack->code_end = BPF_CORE_READ(mm, end_code);
	exe = BPF_CORE_READ(mm, exe_file);
	stack->exe_inode = BPF_CORE_READ(exe, f_inode, i_ino);
	stack->exe_device = BPF_CORE_READ(exe, f_inode, i_sb, s_dev);
	dentry = BPF_CORE_READ(exe, f_path.dentry);
	for (i = 0; i < FT_EXE_PARTS; i++) {
		parent = BPF_CORE_READ(dentry, d_parent);
		if (!dentry || parent == dentry)
			break;
		bpf_probe_read_kernel_str(stack->part[i], FT_EXE_PART_BYTES,
					  BPF_CORE_READ(dentry, d_name.name));
		dentry = parent;
	}
	stack->part_count = i;
}

ft_inline void read_arguments(struct ft_stack *stack, struct mm_struct *mm)
{
	__u64 start, bytes;

	if (!bpf_core_field_exists(mm->arg_start) || !bpf_core_field_exists(mm->arg_end))
		return;
	start = BPF_CORE_READ(mm, arg_start);
	bytes = BPF_CORE_READ(mm, arg_end) - start;
	if (bytes > FT_ARGUMENT_BYTES)
		bytes = FT_ARGUMENT_BYTES;
	if (!bpf_probe_read_user(stack->argument, bytes, (void *)start))
		stack->argument_count = bytes;
}

/* Of a task without a user stack nothing is sent. */
ft_global int send_stack(__u64 time_ns)
{
	struct pt_regs *regs = call_registers();
	struct ft_stack *stack;
	struct mm_struct *mm;
	__u32 bytes = port_config()->stack_bytes;
	__u64 start = 0, failed;
	__u8 *slice;
	__u32 at;

	if (is_blind(FT_READER_SAMPLE))
		return 0;
	mm = BPF_CORE_READ(current_task(), mm);
	if (bytes > FT_STACK_BYTES_MAX)
		bytes = FT_STACK_BYTES_MAX;
	if (!mm || !regs)
		return 0;
	start = register_of(regs, sp);
	stack = bpf_ringbuf_reserve(&user_stacks, sizeof(*stack) + bytes, 0);
	if (!stack) {
		port_stat(FT_STAT_WITHOUT_STACK);
		return 0;
	}
	__builtin_memset(stack, 0, __builtin_offsetof(struct ft_stack, part));
	stack->time_ns = time_ns;
	stack->tid = bpf_get_current_pid_tgid();
	bpf_probe_read_kernel(stack->registers, 8 * REGISTERS_READ, regs);
	read_program(stack, mm);
	read_arguments(stack, mm);
	/* vfork of musl takes its return address off the stack before its system call. */
	start = (start - 8) & ~(FT_STACK_CHUNK - 1ULL);
	stack->start = start;
	slice = (__u8 *)(stack + 1);
	/*
	 * A page that was never touched, or was swapped out, cannot be had; the next
	 * one may. Without a branch inside, or clang moves half of it before the
	 * entry: v5.10 takes no loop whose way back is not a jump.
	 */
	for (at = 0; at < bytes; at += FT_STACK_CHUNK) {
		failed = bpf_probe_read_user(slice + at, FT_STACK_CHUNK, (void *)(start + at));
		stack->have[at / FT_STACK_CHUNK / 64] |= (failed >> 63 ^ 1)
							 << (at / FT_STACK_CHUNK % 64);
	}
	stack->byte_count = bytes;
	bpf_ringbuf_submit(stack, BPF_RB_NO_WAKEUP);
	return 0;
}

#endif
