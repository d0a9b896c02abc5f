/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Every kernel field that the CO-RE shell reads, and nothing else. Offsets come
 * from the running kernel's BTF, so only names and types matter here. Where a
 * field moved, a flavour (name___suffix) holds the other form, with its commit.
 */
#ifndef FORK_TRACE_KERNEL_TYPES_H
#define FORK_TRACE_KERNEL_TYPES_H

typedef unsigned char __u8;
typedef signed char __s8;
typedef unsigned short __u16;
typedef short __s16;
typedef unsigned int __u32;
typedef int __s32;
typedef unsigned long long __u64;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u32 __wsum;
typedef __u8 u8;
typedef __u32 u32;
typedef __u64 u64;
typedef __s64 s64;
typedef _Bool bool;

/* include/uapi/linux/bpf.h: the values are ABI. */
enum {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PROG_ARRAY = 3,
	BPF_MAP_TYPE_LRU_HASH = 9,
	BPF_MAP_TYPE_RINGBUF = 27,
};
enum {
	BPF_ANY = 0,
	BPF_NOEXIST = 1
};
enum {
	BPF_RB_AVAIL_DATA = 0,
	BPF_RB_RING_SIZE = 1,
	BPF_RB_NO_WAKEUP = 1,
	BPF_RB_FORCE_WAKEUP = 2
};
enum {
	BPF_F_USER_STACK = 256,
	BPF_F_USER_BUILD_ID = 2048
};

/* Asked for by name: does the running kernel have this helper? */
enum bpf_func_id {
	BPF_FUNC_get_current_task_btf = 158,
	BPF_FUNC_snprintf = 165,
	BPF_FUNC_task_pt_regs = 175
};

#if defined(__TARGET_ARCH_x86)
/*
 * In the order in which a system call saves them, which ptrace(2) shows to user space
 * (arch/x86/include/uapi/asm/ptrace.h): no kernel can move them.
 */
struct pt_regs {
	unsigned long r15, r14, r13, r12, bp, bx;
	unsigned long r11, r10, r9, r8, ax, cx, dx, si, di;
	unsigned long orig_ax;
	unsigned long ip, cs, flags, sp, ss;
};
#define register_of(regs, name)                                                          \
	({                                                                               \
		unsigned long ft_register = 0;                                           \
		bpf_probe_read_kernel(&ft_register, sizeof(ft_register), &(regs)->name); \
		ft_register;                                                             \
	})
#define pt_regs_bytes sizeof(struct pt_regs)
#endif

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

typedef struct {
	int counter;
} atomic_t;

typedef struct {
	s64 counter;
} atomic64_t;

typedef atomic64_t atomic_long_t;

typedef struct {
	unsigned int val;
} kuid_t;

#if defined(__TARGET_ARCH_arm64)
struct pt_regs {
	unsigned long regs[31];
	u64 sp;
	u64 orig_x0;
	int syscallno;
};
#define register_of(regs, name) BPF_CORE_READ(regs, name)
#define pt_regs_bytes bpf_core_type_size(struct pt_regs)
#endif

struct rlimit {
	unsigned long rlim_cur;
};

struct sigset {
	unsigned long sig[1];
};

struct sigpending {
	struct sigset signal;
};

struct list_head {
	struct list_head *next;
	struct list_head *prev;
};

struct signal_struct {
	int nr_threads;
	unsigned int flags;
	struct list_head thread_head;
	unsigned autoreap : 1; /* CLONE_AUTOREAP, since v7.1 */
	struct rlimit rlim[16];
};

struct user_struct {
	kuid_t uid;
};

/* Until v5.14 the tasks of a user were counted here. Linux commit
 * 21d1c5e386bc ("Reimplement RLIMIT_NPROC on top of ucounts"). */
struct user_struct___v513 {
	atomic_t processes;
};

struct user_namespace;

struct hlist_node {
	struct hlist_node *next;
};

struct ucounts {
	struct hlist_node node; /* struct hlist_nulls_node in later kernels */
	struct user_namespace *ns;
	kuid_t uid;
	/* Called ucount[], shared with the namespace counts, until v6.0. Linux
	 * commit de399236e240 ("ucounts: Split rlimit and ucount values and
	 * max values"). */
	atomic_long_t rlimit[4];
	atomic_long_t ucount[10];
};

/* The counts were of type int until v5.14. Linux commit f9c82a4ea89c ("Increase
 * size of ucounts to atomic_long_t"). */
struct ucounts___v513 {
	atomic_t ucount[10];
};

struct user_namespace {
	int level;
	struct ucounts *ucounts;
	long rlimit_max[4];
	long ucount_max[10];
};

struct user_namespace___v513 {
	int ucount_max[10];
};

/* include/linux/user_namespace.h; the values come from the running kernel. */
enum rlimit_type {
	UCOUNT_RLIMIT_NPROC
};
enum ucount_type {
	UCOUNT_USER_NAMESPACES,
	UCOUNT_PID_NAMESPACES,
	UCOUNT_UTS_NAMESPACES,
	UCOUNT_IPC_NAMESPACES,
	UCOUNT_NET_NAMESPACES,
	UCOUNT_MNT_NAMESPACES,
	UCOUNT_CGROUP_NAMESPACES,
	UCOUNT_TIME_NAMESPACES,
};
/* From v5.14 to v6.0 the limits that are counted by user stood among these. */
enum ucount_type___v60 {
	UCOUNT_RLIMIT_NPROC___v60
};

typedef struct {
	u64 val;
} kernel_cap_t;

/* Two 32-bit words until v6.3. Linux commit f122a08b197d ("capability: just use
 * a 'u64' instead of a 'u32[2]' array"). Same bytes on little-endian machines. */
struct cred {
	kuid_t uid;
	kuid_t euid;
	struct user_struct *user;
	struct user_namespace *user_ns;
	struct ucounts *ucounts;
	kernel_cap_t cap_effective;
};

struct fdtable {
	unsigned int max_fds;
	struct file **fd;
	unsigned long *open_fds;
};

struct files_struct {
	struct fdtable *fdt;
};

struct kernfs_node {
	const char *name;
	void *priv;
	u64 id;
};

struct super_block {
	u32 s_dev;
	void *s_fs_info;
};

struct inode {
	void *i_private;
	unsigned long i_ino;
	struct super_block *i_sb;
};

struct qstr {
	const unsigned char *name;
};

struct dentry {
	struct dentry *d_parent;
	struct qstr d_name;
};

struct path {
	struct dentry *dentry;
};

struct file {
	struct inode *f_inode;
	struct path f_path;
};

struct percpu_counter {
	s64 count;
};

/* include/linux/mm_types_task.h: the second one is MM_ANONPAGES. */
struct mm_rss_stat {
	atomic_long_t count[4];
};

struct vm_area_struct {
	unsigned long vm_start;
	unsigned long vm_end;
	unsigned long vm_flags;
	unsigned long vm_pgoff;
	struct mm_struct *vm_mm;
	struct file *vm_file;
	void *vm_private_data;
	struct vm_area_struct *vm_next; /* until v6.0: limits/mappings.h */
};

/* include/linux/maple_tree.h */
enum maple_type {
	maple_leaf_64 = 1,
	maple_arange_64 = 3,
};
struct maple_range_64 {
	unsigned long pivot[15];
	void *slot[16];
};
struct maple_arange_64 {
	unsigned long pivot[9];
	void *slot[10];
};
struct maple_tree {
	void *ma_root;
};

struct mm_struct {
	struct vm_area_struct *mmap; /* until v6.0: limits/mappings.h */
	struct maple_tree mm_mt; /* since v6.1 */
	struct percpu_counter rss_stat[4];
	unsigned long start_code;
	unsigned long start_stack;
	unsigned long total_vm;
	unsigned long data_vm;
	unsigned long stack_vm;
	unsigned long end_code;
	unsigned long arg_start;
	unsigned long arg_end;
	struct file *exe_file;
	int map_count;
	atomic_long_t pgtables_bytes;
};

/* Until v6.1. Linux commit f1a7941243c1 ("mm: convert mm's rss stats into percpu_counter"). */
struct mm_struct___v61 {
	struct mm_rss_stat rss_stat;
};

struct cgroup_root {
	int hierarchy_id;
};

struct cgroup;

struct cgroup_subsys_state {
	struct cgroup *cgroup;
	struct cgroup_subsys_state *parent;
};

struct cgroup {
	struct cgroup_subsys_state self;
	struct cgroup_subsys_state *subsys[8];
	struct kernfs_node *kn;
	struct cgroup_root *root;
};

/* kernel/cgroup/pids.c: in no header. */
struct pids_cgroup {
	struct cgroup_subsys_state css;
	atomic64_t counter;
	atomic64_t limit;
};

struct page_counter {
	atomic_long_t usage;
	unsigned long max;
};

struct mem_cgroup {
	struct cgroup_subsys_state css;
	struct page_counter memory; /* in pages */
	struct page_counter memsw; /* v1 has these two; not built into every kernel */
	struct page_counter kmem;
};

struct css_set {
	struct cgroup_subsys_state *subsys[8];
	struct cgroup *dfl_cgrp;
};

/* The values come from the running kernel. */
enum cgroup_subsys_id {
	pids_cgrp_id = 0xff,
	memory_cgrp_id = 0xfe
};

struct ns_common {
	unsigned int inum;
};

struct pid_namespace {
	unsigned int pid_allocated;
	unsigned int level;
	struct pid_namespace *parent;
	struct ns_common ns;
	/* Per namespace since v6.14. Linux commit 7863dcc72d0f ("pid: allow
	 * pid_max to be set per pid namespace"). */
	int pid_max;
};

struct upid {
	struct pid_namespace *ns;
};

struct dentry;

struct pid {
	unsigned int level;
	struct dentry *stashed; /* of pidfs, since v6.9 */
	struct upid numbers[1];
};

struct time_namespace;

struct nsproxy {
	struct pid_namespace *pid_ns_for_children;
	struct time_namespace *time_ns;
	struct time_namespace *time_ns_for_children;
};

struct fs_struct {
	int users;
	int in_exec;
};

struct seccomp {
	int mode;
};

/*
 * Who makes the task, in a bit each or a word each. `fn` since Linux commit 5bd2e97c868a
 * ("fork: Generalize PF_IO_WORKER handling") (in v5.19); before that, `stack` has the function of
 * a task that the kernel makes, and `stack_size` what it is called with.
 */
struct kernel_clone_args {
	u64 flags;
	const char *name; /* since v6.4 */
	unsigned io_thread : 1; /* since v5.12 */
	unsigned user_worker : 1; /* since v6.4 */
	unsigned long stack;
	unsigned long stack_size;
	int (*fn)(void *);
	void *fn_arg;
	int cgroup; /* a descriptor, with CLONE_INTO_CGROUP */
	unsigned long set_tid_size;
};

struct swait_queue_head {
	struct list_head task_list;
};

struct swait_queue {
	struct task_struct *task;
	struct list_head task_list;
};

struct completion {
	struct swait_queue_head wait;
};

/* kernel/kthread.c: in no header. */
struct kthread_create_info {
	char *full_name; /* since v6.13 */
	int (*threadfn)(void *data);
	struct completion *done;
};

/* include/linux/umh.h */
struct subprocess_info {
	const char *path;
};

struct thread_info {
	unsigned long flags;
	unsigned int status;
};

struct llist_node;

struct llist_head {
	struct llist_node *first;
};

#if defined(__TARGET_ARCH_x86)
struct thread_struct {
	unsigned long fsbase;
};
#endif

struct task_struct {
	struct thread_info thread_info;
	void *stack;
	unsigned int flags;
	unsigned int ptrace;
	int normal_prio;
	unsigned int policy;
	unsigned sched_reset_on_fork : 1;
	int pid;
	int tgid;
	struct mm_struct *mm;
	struct task_struct *real_parent;
	struct task_struct *group_leader;
	struct list_head children;
	struct list_head sibling;
	struct list_head thread_node;
	u64 start_time;
	char comm[16];
	const struct cred *real_cred;
	const struct cred *cred;
	struct pid *thread_pid;
	struct fs_struct *fs;
	struct files_struct *files;
	struct nsproxy *nsproxy;
	struct sighand_struct *sighand;
	struct signal_struct *signal;
	struct sigpending pending;
	struct seccomp seccomp;
	struct css_set *cgroups;
	unsigned long nvcsw;
	struct llist_head rethooks; /* CONFIG_RETHOOK */
#if defined(__TARGET_ARCH_x86)
	struct thread_struct thread;
#endif
};

/* include/linux/hugetlb.h */
struct hstate {
	unsigned int order;
	unsigned long nr_huge_pages;
	unsigned long free_huge_pages;
	unsigned long resv_huge_pages;
};

struct hugetlbfs_sb_info {
	struct hstate *hstate;
};

/* include/linux/sched/signal.h */
struct sigaction {
	void *sa_handler;
};

struct k_sigaction {
	struct sigaction sa;
};

struct sighand_struct {
	struct k_sigaction action[64];
};

/*
 * A tail page has where its head is, and the last bit set. Since Linux commit "mm: Rename the
 * 'compound_head' field in the 'struct page' to 'compound_info'" (v7.2 has it), under another name,
 * and it can be a mask instead.
 */
struct page {
	struct address_space *mapping;
	unsigned long compound_head;
	unsigned long compound_info;
};

struct vm_fault {
	struct vm_area_struct *vma;
	unsigned long pgoff;
	unsigned long address;
	struct page *page;
};

/* include/linux/oom.h */
enum oom_constraint {
	CONSTRAINT_NONE
};
struct oom_control {
	struct mem_cgroup *memcg;
	unsigned long totalpages;
	struct task_struct *chosen;
	enum oom_constraint constraint;
};

/*
 * The tracepoint got the victim's pid until Linux commit 72ba14deb40a ("mm: update mark_victim
 * tracepoints fields") (in v6.9, and in older stable kernels); since then, the task and its uid.
 */
struct trace_event_raw_mark_victim {
	u32 uid;
};

#pragma clang attribute pop

/* Asked of the running kernel at load time; kernel_headers.h asks the installed headers. */
#define has_field(type, field) bpf_core_field_exists(struct type, field)
#define has_value(type, value) bpf_core_enum_value_exists(enum type, value)
/* A field that came or went, behind such a test: here it can always be named. */
#define optional(type, field) field
#define seccomp_mode seccomp.mode
/*
 * A field behind the current task. Since Linux commit 3ca1032ab7ab ("bpf: Implement
 * get_current_task_btf and RET_PTR_TO_BTF_ID") (in v5.11) by loads, each a few instructions where
 * a call of bpf_probe_read_kernel is seventy; they, too, make 0 of what is not there.
 */
#define CURRENT_READ(...)                                            \
	(has_value(bpf_func_id, BPF_FUNC_get_current_task_btf)       \
		 ? ___arrow(bpf_get_current_task_btf(), __VA_ARGS__) \
		 : BPF_CORE_READ(current_task(), __VA_ARGS__))
#define is_autoreaped(signal) BPF_CORE_READ_BITFIELD_PROBED(signal, autoreap)

/* THREAD_SIZE, for kernels without bpf_task_pt_regs. */
#if defined(__TARGET_ARCH_arm64)
#define KERNEL_STACK_BYTES \
	(port_config()->page_shift > 14 ? 1UL << port_config()->page_shift : 16384UL)
#else
#define KERNEL_STACK_BYTES 16384UL
#endif

#endif
