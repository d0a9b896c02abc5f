# Runs the job in the finished guest and tells the host how it ended.
# Still the first process, but for systemd: when this ends, so does the VM.

b=/run/vm/busybox
. /run/vm/job

# The first process can be systemd instead, which has this run again as one of its services. It knows
# no other units than the journal's: what brings up a machine is not there, and would take a minute.
if [ "$init" = systemd ] && [ $$ = 1 ]; then
	units=/run/systemd/system
	$b mkdir -p $units
	for unit in systemd-journald.service systemd-journald.socket systemd-journald-dev-log.socket; do
		$b ln -s /lib/systemd/system/$unit $units/
	done
	for target in sysinit basic shutdown multi-user; do
		printf "[Unit]\nDefaultDependencies=no\n" >$units/$target.target
	done
	$b cat >$units/vm-session.service <<-UNIT
		[Unit]
		DefaultDependencies=no
		Wants=systemd-journald.service
		After=systemd-journald.service
		[Service]
		ExecStart=$b sh /run/vm/guest_session.sh
		Delegate=yes
		LimitNOFILE=524288
		TasksMax=infinity
		StandardOutput=tty
		StandardError=tty
		TTYPath=/dev/ttyS0
	UNIT
	SYSTEMD_UNIT_PATH=$units exec /lib/systemd/systemd --unit=vm-session.service
fi

# Without udev nobody makes links to the ports by name.
port() {
	tries=0
	while [ $tries -lt 100 ]; do
		for candidate in /sys/class/virtio-ports/*; do
			name=
			[ -e "$candidate/name" ] && read -r name <"$candidate/name"
			if [ "$name" = "$1" ] && [ -e "/dev/${candidate##*/}" ]; then
				found="/dev/${candidate##*/}"
				return
			fi
		done
		tries=$((tries + 1))
		$b sleep 0.1
	done
	echo "vm-guest: the port $1 did not appear"
	exit 1
}

port out && exec 3>"$found"
port err && exec 4>"$found"
port status && exec 5>"$found"
exec </dev/null

$b hostname "$hostname"
$b ifconfig lo up

# The command runs in a leaf with every controller on, as a login session does.
leaf=user.slice/session.scope
if [ "$init" = systemd ]; then
	leaves= # in which it is
elif [ "$cgroup" = v2 ]; then
	leaves=/sys/fs/cgroup/$leaf
	read -r controllers </sys/fs/cgroup/cgroup.controllers
	$b mkdir -p "$leaves"
	for controller in $controllers; do
		for parent in . user.slice; do
			echo "+$controller" >"/sys/fs/cgroup/$parent/cgroup.subtree_control"
		done
	done 2>/dev/null
else
	leaves=
	for hierarchy in /sys/fs/cgroup/*; do
		# A new cpuset has no processors and takes nobody in.
		[ "${hierarchy##*/}" = cpuset ] && continue
		$b mkdir -p "$hierarchy/$leaf"
		leaves="$leaves $hierarchy/$leaf"
	done
fi

# Debian's service manager allows this many; the kernel alone only 4096.
ulimit -Hn 524288

# Pipes and not the ports themselves, as a port can be opened only once and
# programs do open /dev/stdout.
$b mkfifo /run/vm/out /run/vm/err
# The command may use up all memory and must still be heard.
(echo -1000 >/proc/self/oom_score_adj; exec $b cat /run/vm/out >&3) &
out=$!
(echo -1000 >/proc/self/oom_score_adj; exec $b cat /run/vm/err >&4) &
err=$!

echo "vm-guest: running the command"
(
	exec 3>&- 4>&- 5>&-
	for leaf in $leaves; do
		echo 0 >"$leaf/cgroup.procs"
	done
	cd "$checkout" || exit 125
	# The host's programs from here on: busybox would put its own sh in place of the host's.
	# Where the root is another's, the venv's packages are of the wrong architecture.
	exec /usr/bin/env -i "PATH=$path" HOME=/tmp/home USER=root LOGNAME=root LANG=C.UTF-8 TERM=dumb \
		"FORK_TRACE_VM=$version" ${share:+"FORK_TRACE_VM_SHARE=$share"} \
		${module:+"FORK_TRACE_VM_MODULE=$module"} \
		${tree:+"PYTHONPATH=$checkout:/usr/lib/python3/dist-packages"} \
		/usr/bin/setsid "$@"
) >/run/vm/out 2>/run/vm/err
status=$?

# From here on nothing may fork: the command may have left no room for it.
# What it left running would keep the pipes open.
for round in 1 2 3; do
	for process in /proc/[0-9]*; do
		case ${process#/proc/} in
		1 | $$ | "$out" | "$err") ;;
		*) kill -9 "${process#/proc/}" ;;
		esac
	done 2>/dev/null
done
wait "$out" "$err"
printf "\\0%s" "$token" >&3
printf "\\0%s" "$token" >&4
echo "$status" >&5
echo "vm-guest: the command ended with $status"
echo s >/proc/sysrq-trigger
echo o >/proc/sysrq-trigger
# The first process must not end before the power goes off.
while :; do wait; read -r never </dev/console; done
