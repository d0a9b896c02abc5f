#!/bin/busybox sh
# First process of the guest. Puts a writable layer over the host's root, which is seen
# read-only through 9p, or over a root of another architecture that the host keeps, and hands over to guest_session.sh there.
# /job holds the variables and the command, written by machine.py.

b=/bin/busybox
root=/root

give_up() {
	echo "vm-guest: $1"
	# The kernel panics when its first process ends, and that ends the VM.
	exit 1
}

# Make a directory of the host visible that one of our own mounts hides (/tmp, say).
uncover() {
	[ -e "$root$1" ] && return
	$b mkdir -p "$root$1" "/upper/$2/data" "/upper/$2/work"
	$b mount -t overlay -o "lowerdir=/lower$1,upperdir=/upper/$2/data,workdir=/upper/$2/work" \
		overlay "$root$1" || give_up "cannot show $1"
}

mount_cgroups() {
	if [ "$cgroup" = v2 ]; then
		$b mount -t cgroup2 -o nsdelegate cgroup2 "$1"
		return
	fi
	$b mount -t tmpfs -o mode=0755 tmpfs "$1"
	if [ "$cgroup" = hybrid ]; then
		$b mkdir "$1/unified"
		$b mount -t cgroup2 -o nsdelegate cgroup2 "$1/unified"
	fi
	$b mkdir "$1/systemd"
	$b mount -t cgroup -o none,name=systemd cgroup "$1/systemd"
	while read -r controller hierarchy count enabled; do
		[ "$enabled" = 1 ] || continue
		$b mkdir "$1/$controller"
		# New kernels are built without some of the old controllers.
		$b mount -t cgroup -o "$controller" cgroup "$1/$controller" || $b rmdir "$1/$controller"
	done </proc/cgroups
}

. /job

$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
$b mount -t devtmpfs devtmpfs /dev
for module in /modules/*; do
	$b insmod "$module" || give_up "cannot load $module"
done

$b mkdir -p /lower /upper $root
# The host's files hardly change while the guest runs, so they may be cached.
$b mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose root /lower ||
	give_up "cannot mount the host's root"
$b mount -t tmpfs -o mode=0755 tmpfs /upper
$b mkdir /upper/data /upper/work
$b mount -t overlay -o "lowerdir=/lower$tree,upperdir=/upper/data,workdir=/upper/work" overlay $root ||
	give_up "cannot put a writable layer over the host's root"

$b mkdir -p $root/proc $root/sys $root/dev $root/run $root/tmp $root/boot
$b mount -t proc -o nosuid,nodev,noexec proc $root/proc
$b mount -t sysfs -o nosuid,nodev,noexec sysfs $root/sys
$b mount -t devtmpfs -o nosuid,mode=0755 devtmpfs $root/dev
$b mkdir -p $root/dev/pts $root/dev/shm
$b mount -t devpts -o nosuid,noexec,gid=5,mode=0620,ptmxmode=0666 devpts $root/dev/pts
$b mount -t tmpfs -o nosuid,nodev,mode=1777 tmpfs $root/dev/shm
$b mount -t tmpfs -o nosuid,nodev,mode=0755 tmpfs $root/run
$b mount -t tmpfs -o nosuid,nodev,mode=1777 tmpfs $root/tmp
$b mount -t debugfs debugfs $root/sys/kernel/debug
$b mount -t tracefs tracefs $root/sys/kernel/tracing
$b mount -t securityfs securityfs $root/sys/kernel/security
$b mount -t bpf -o mode=0700 bpf $root/sys/fs/bpf
mount_cgroups $root/sys/fs/cgroup
$b ln -s /proc/self/fd $root/dev/fd
$b ln -s fd/0 $root/dev/stdin
$b ln -s fd/1 $root/dev/stdout
$b ln -s fd/2 $root/dev/stderr

uncover "$checkout" checkout
# Another architecture's, over the machine's own.
[ -z "$objects" ] || $b cp "/lower$objects"/*.o "$root$checkout/bpf/"
$b mkdir -p "$root/lib/modules/$release" $root/run/vm $root/tmp/home
layers=/lower$modules
if [ -n "$headers" ]; then
	# "build" and "source" stand beside the modules and point into /usr/src.
	for links in "/lower$headers"/lib/modules/* "/lower$headers"/usr/lib/modules/*; do
		[ -d "$links" ] && layers=$links:$layers
	done
	for source in "/lower$headers"/usr/src/*; do
		$b mkdir -p "$root/usr/src/${source##*/}"
		$b mount --bind "$source" "$root/usr/src/${source##*/}"
	done
fi
if [ "$layers" = "/lower$modules" ]; then
	$b mount --bind "$layers" "$root/lib/modules/$release"
else
	$b mount -t overlay -o "ro,lowerdir=$layers" overlay "$root/lib/modules/$release" ||
		give_up "cannot show the modules and headers"
fi
$b cp "/lower$config" "$root/boot/config-$release"
if [ -n "$share" ]; then
	$b mkdir -p "$root$share"
	$b mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000 share "$root$share" ||
		give_up "cannot mount the shared directory"
fi

$b cp /bin/busybox /job /guest_session.sh $root/run/vm
$b umount /proc
exec $b switch_root $root /run/vm/busybox sh /run/vm/guest_session.sh
