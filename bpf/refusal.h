/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What is written into a refusal, and read back from it. */
#ifndef FORK_TRACE_REFUSAL_H
#define FORK_TRACE_REFUSAL_H

#include "port.h"
#include "wire.h"

ft_inline void ft_number(struct ft_refusal *refusal, enum ft_number number, ft_u64 value)
{
	refusal->number[number] = value;
	refusal->have |= 1ULL << number;
}

/* One level of a hierarchy that was asked; the deepest ones find no room. */
ft_inline void ft_level(struct ft_refusal *refusal, enum ft_level_kind kind, ft_u32 up, ft_u64 id,
			ft_u64 used, ft_u64 limit)
{
	ft_u32 index = refusal->level_count;

	if (index >= FT_LEVELS)
		return;
	refusal->level[index].kind = kind;
	refusal->level[index].up = up;
	refusal->level[index].id = id;
	refusal->level[index].used = used;
	refusal->level[index].limit = limit;
	refusal->level_count = index + 1;
}

ft_inline ft_u64 number_of(const struct ft_refusal *refusal, enum ft_number number)
{
	return refusal->number[number];
}

ft_inline int has_number(const struct ft_refusal *refusal, enum ft_number number)
{
	return !!(refusal->have & 1ULL << number);
}

ft_inline int was_moved(const struct ft_refusal *refusal, enum ft_moved which)
{
	return !!(refusal->number[FT_NUMBER_MOVED] & 1ULL << which);
}

ft_inline void candidate(struct ft_refusal *refusal, enum ft_candidate which)
{
	refusal->candidates |= 1ULL << which;
}

ft_inline int is_watched(ft_u64 watched, enum ft_step step)
{
	return !!(watched & 1ULL << step);
}

#endif
