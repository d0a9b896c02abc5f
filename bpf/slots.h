/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a function was given or returned, out of the 64 bits in which a program finds it:
 * the registers at an entry or a return, the slots of a fexit context. Whatever is narrower
 * than they are is read at its own width, and only here.
 *
 * The psABI of x86-64 leaves the rest of a register undefined. And the trampoline of older
 * kernels stores no more of an argument than its own size (arch/x86/net/bpf_jit_comp.c,
 * save_regs): above it stands what lay on the stack before.
 */
#ifndef FORK_TRACE_SLOTS_H
#define FORK_TRACE_SLOTS_H

#include "uapi.h"
#include "wire.h"

#define INT_IN(slot) ((ft_s32)(slot))
#define ENUM_IN(slot) ((ft_u32)(slot))
#define BOOL_IN(slot) (!!(ft_u8)(slot))
#define LONG_IN(slot) ((ft_u64)(slot)) /* long, size_t; a pointer, as a number */

#define IS_ERR_VALUE(value) ((ft_u64)(value) >= (ft_u64)-4095)

/* Is it a refusal? By what the table says that the function returns. */
#define REFUSED_INT(slot) (INT_IN(slot) < 0)
#define REFUSED_ERR_PTR(slot) IS_ERR_VALUE(slot)
#define REFUSED_PTR(slot) (!LONG_IN(slot))
#define REFUSED_TRUE(slot) BOOL_IN(slot)
#define REFUSED_FALSE(slot) (!BOOL_IN(slot))

/* With which errno? */
#define ERROR_INT(slot) INT_IN(slot)
#define ERROR_ERR_PTR(slot) INT_IN(slot)
#define ERROR_PTR(slot) (-FT_ENOMEM)

#endif
