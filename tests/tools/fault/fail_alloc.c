// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * /proc/fail_alloc: fails one memory allocation of one thread, on kernels as distributions
 * ship them. Who writes N has its Nth allocation from then on refused, by kprobes on the
 * allocators. Who reads it ends that, and is told how many were left, which allocator was
 * refused, of which slab cache, and the kernel stack at that instant: the truth that a
 * tracer's answer is held against.
 *
 * CONFIG_FAULT_INJECTION does the same by /proc/self/fail-nth; Debian's kernels lack it.
 */
#include <linux/kernel.h>
#include <linux/kprobes.h>
#include <linux/linkage.h>
#include <linux/module.h>
#include <linux/preempt.h>
#include <linux/proc_fs.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/stacktrace.h>
#include <linux/uaccess.h>

#define FRAMES 64
#define TEXT_BYTES 8192

/* Its headers do not tell where struct kmem_cache has its name; the kernel's BTF does. */
static int name_offset = -1;
module_param(name_offset, int, 0400);

static struct task_struct *target; /* whose allocations are counted */
static int left; /* until one is refused */

/* The one that was refused; valid once `left` is 0. */
static const char *refused_function;
static const char *refused_cache;
static unsigned long frames[FRAMES];
static unsigned int frame_count;

#define NO_GFP (-1)

struct allocator {
	struct kprobe probe;
	int gfp_argument; /* by its number, or NO_GFP */
	int is_of_cache; /* its first argument is a struct kmem_cache */
};

/* What an allocator that finds nothing does: the handler has put NULL into the register. */
void fail_alloc_return(void);
asm(".pushsection .text\n"
    ".type fail_alloc_return, @function\n"
    "fail_alloc_return:\n" ASM_RET ".size fail_alloc_return, .-fail_alloc_return\n"
    ".popsection\n");

static gfp_t gfp_of(const struct allocator *allocator, const struct pt_regs *regs)
{
	switch (allocator->gfp_argument) {
	case 0:
		return (gfp_t)regs->di;
	case 1:
		return (gfp_t)regs->si;
	case 2:
		return (gfp_t)regs->dx;
	default:
		return 0;
	}
}

static int on_allocation(struct kprobe *probe, struct pt_regs *regs)
{
	struct allocator *allocator = container_of(probe, struct allocator, probe);

	/* An interrupt borrows the thread; what it allocates is not the thread's. */
	if (current != READ_ONCE(target) || hardirq_count() || in_serving_softirq())
		return 0;
	if (gfp_of(allocator, regs) & __GFP_NOFAIL)
		return 0;
	if (left <= 0 || --left)
		return 0;
	refused_function = probe->symbol_name;
	if (allocator->is_of_cache && name_offset >= 0)
		refused_cache = *(const char **)(regs->di + name_offset);
	frame_count = stack_trace_save(frames, FRAMES, 0);
	regs->ax = 0;
	regs->ip = (unsigned long)fail_alloc_return;
	return 1;
}

/* With one of these no kprobe becomes a jump, under which the handler could not move the ip. */
static void after_allocation(struct kprobe *probe, struct pt_regs *regs, unsigned long flags)
{
}

#define ALLOCATOR(function, gfp, is_cache)                     \
	{                                                      \
		.probe = { .symbol_name = function,            \
			   .pre_handler = on_allocation,       \
			   .post_handler = after_allocation }, \
		.gfp_argument = gfp, .is_of_cache = is_cache   \
	}

/*
 * Their names changed twice. Since Linux commit 7bd230a26648 ("mm/slab: enable slab allocation
 * tagging for kmalloc and friends") (in v6.10), most end in _noprof. A kernel has some of these.
 */
static struct allocator allocators[] = {
	ALLOCATOR("kmem_cache_alloc", 1, 1),
	ALLOCATOR("kmem_cache_alloc_noprof", 1, 1),
	ALLOCATOR("kmem_cache_alloc_lru", 2, 1),
	ALLOCATOR("kmem_cache_alloc_lru_noprof", 2, 1),
	ALLOCATOR("kmem_cache_alloc_node", 1, 1),
	ALLOCATOR("kmem_cache_alloc_node_noprof", 1, 1),
	ALLOCATOR("kmem_cache_alloc_trace", 1, 1),
	ALLOCATOR("kmem_cache_alloc_node_trace", 1, 1),
	ALLOCATOR("kmem_cache_alloc_bulk", 1, 1),
	ALLOCATOR("kmem_cache_alloc_bulk_noprof", 1, 1),
	ALLOCATOR("kmalloc_trace", 1, 1),
	ALLOCATOR("kmalloc_node_trace", 1, 1),
	ALLOCATOR("__kmalloc_cache_noprof", 1, 1),
	ALLOCATOR("__kmalloc_cache_node_noprof", 1, 1),
	ALLOCATOR("__kmalloc", 1, 0),
	ALLOCATOR("__kmalloc_noprof", 1, 0),
	ALLOCATOR("__kmalloc_node", 1, 0),
	ALLOCATOR("__kmalloc_node_noprof", 2, 0),
	ALLOCATOR("__kmalloc_track_caller", 1, 0),
	ALLOCATOR("__kmalloc_node_track_caller", 1, 0),
	ALLOCATOR("__kmalloc_node_track_caller_noprof", 2, 0),
	ALLOCATOR("__kvmalloc_node_noprof", 2, 0),
	ALLOCATOR("kmalloc_large", 1, 0),
	ALLOCATOR("__alloc_pages_nodemask", 0, 0),
	ALLOCATOR("__alloc_pages", 0, 0),
	ALLOCATOR("__alloc_pages_noprof", 0, 0),
	ALLOCATOR("__alloc_frozen_pages_noprof", 0, 0),
	ALLOCATOR("__alloc_percpu", NO_GFP, 0),
	ALLOCATOR("__alloc_percpu_gfp", 2, 0),
	ALLOCATOR("pcpu_alloc_noprof", NO_GFP, 0),
};

static ssize_t fail_alloc_write(struct file *file, const char __user *text, size_t length,
				loff_t *at)
{
	int wanted, error = kstrtoint_from_user(text, length, 10, &wanted);

	if (error)
		return error;
	WRITE_ONCE(target, NULL);
	refused_function = refused_cache = NULL;
	frame_count = 0;
	left = wanted;
	WRITE_ONCE(target, current);
	return length;
}

static ssize_t fail_alloc_read(struct file *file, char __user *text, size_t length, loff_t *at)
{
	static char told[TEXT_BYTES];
	unsigned int i;
	int size;

	/* Before anything that allocates: this thread's own are no part of it. */
	if (READ_ONCE(target) == current)
		WRITE_ONCE(target, NULL);
	size = scnprintf(told, sizeof(told), "%d %s %s\n", left, refused_function ?: "-",
			 refused_cache ?: "-");
	for (i = 0; i < frame_count; i++)
		size += scnprintf(told + size, sizeof(told) - size, "%pB\n", (void *)frames[i]);
	return simple_read_from_buffer(text, length, at, told, size);
}

static const struct proc_ops operations = {
	.proc_read = fail_alloc_read,
	.proc_write = fail_alloc_write,
	.proc_lseek = default_llseek,
};

static int __init fail_alloc_start(void)
{
	int i, count = 0;

	for (i = 0; i < ARRAY_SIZE(allocators); i++) {
		if (register_kprobe(&allocators[i].probe))
			allocators[i].probe.pre_handler = NULL;
		else
			count++;
	}
	pr_info("%d allocators can be refused\n", count);
	return proc_create("fail_alloc", 0600, NULL, &operations) ? 0 : -ENOMEM;
}

static void __exit fail_alloc_end(void)
{
	int i;

	remove_proc_entry("fail_alloc", NULL);
	for (i = 0; i < ARRAY_SIZE(allocators); i++)
		if (allocators[i].probe.pre_handler)
			unregister_kprobe(&allocators[i].probe);
}

module_init(fail_alloc_start);
module_exit(fail_alloc_end);
MODULE_DESCRIPTION("Fails the Nth allocation of a thread");
MODULE_LICENSE("GPL");
