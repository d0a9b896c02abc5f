/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The port of an object that keeps no refusals and knows no attempts: what caller.h asks about them. */
#ifndef FORK_TRACE_WITHOUT_REFUSALS_H
#define FORK_TRACE_WITHOUT_REFUSALS_H

#include "port.h"

ft_inline struct ft_refusal *port_refusal(void)
{
	return 0;
}

ft_inline struct ft_refusal *port_refusal_open(void)
{
	return 0;
}

ft_inline void port_refusal_drop(void)
{
}

ft_inline struct ft_attempt *port_attempt(void)
{
	return 0;
}

ft_inline struct ft_maker *port_maker(void)
{
	return 0;
}

#endif
