/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How a number of the kernel is read. Written for CO-RE; kernel_headers.h answers
 * in its place where the kernel has no BTF.
 */
#ifndef FORK_TRACE_READING_H
#define FORK_TRACE_READING_H

#include "port.h"
#include "refusal.h"
#include "slots.h"
#include "wire.h"

#define CAP_SYS_ADMIN 21
#define USERNS_LEVELS 34 /* create_user_ns: parent level at most 32 */

ft_inline struct task_struct *current_task(void)
{
	return (struct task_struct *)bpf_get_current_task();
}

/*
 * What stands in a slot of the context, as a number. The verifier types that of a
 * pointer as one, forbids arithmetic on it, casts included, and takes it for no
 * argument of a global function; read as memory it is a number.
 */
ft_inline __u64 number_in(const __u64 *slot)
{
	__u64 value = 0;

	bpf_probe_read_kernel(&value, sizeof(value), slot);
	return value;
}

/* The error in a returned pointer. */
ft_inline int error_in(const __u64 *slot)
{
	return INT_IN(number_in(slot));
}

ft_inline void number_int_at(struct ft_refusal *refusal, enum ft_number number, __u64 address)
{
	__u32 value = 0;

	if (address && !bpf_probe_read_kernel(&value, sizeof(value), (void *)address))
		ft_number(refusal, number, value);
}

ft_inline void number_long_at(struct ft_refusal *refusal, enum ft_number number, __u64 address)
{
	__u64 value = 0;

	if (address && !bpf_probe_read_kernel(&value, sizeof(value), (void *)address))
		ft_number(refusal, number, value);
}

/*
 * A field that is not there makes libbpf turn the instructions that read it into
 * bad ones: behind a test that is known at load time nobody gets to see them.
 */
ft_inline int is_moved(struct ft_refusal *refusal, int exists, enum ft_moved which)
{
	if (exists)
		return 0;
	ft_number(refusal, FT_NUMBER_MOVED, refusal->number[FT_NUMBER_MOVED] | 1ULL << which);
	return 1;
}

ft_inline __u64 pages_of(__u64 bytes)
{
	return (bytes + (1ULL << port_config()->page_shift) - 1) >> port_config()->page_shift;
}

ft_inline __u64 capabilities_of(const struct cred *cred)
{
	__u64 capabilities = 0;

	bpf_core_read(&capabilities, sizeof(capabilities), &cred->cap_effective);
	return capabilities;
}

/* capable(CAP_SYS_ADMIN): in the initial user namespace. */
ft_inline int has_sys_admin(const struct cred *cred)
{
	return BPF_CORE_READ(cred, user_ns, level) == 0 &&
	       capabilities_of(cred) & 1ULL << CAP_SYS_ADMIN;
}

#endif
