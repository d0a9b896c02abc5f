"""One virtual machine from start to end: QEMU's options, the command's output and its status."""

from __future__ import annotations

import ctypes
import os
import re
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple, NoReturn

from . import cache, fetch, initramfs, module, roots
from .cache import VmError
from .kernels import AMD64, Architecture, Kernel

DIED = 125
TIMED_OUT = 124
KEPT_LOGS = 20
TOLD_LINES = 30
PR_SET_PDEATHSIG = 1
TROUBLE = re.compile(
    rb"Kernel panic|\bOops\b|BUG: |general protection fault|soft lockup|rcu.*stall"
)
GUEST_SHARE = "/run/share"


class Wishes(NamedTuple):
    """What the caller may choose."""

    memory: str = "1G"
    icount: bool = False
    append: str = ""
    timeout_s: float = 1200
    share: Path | None = None
    cgroup: str = "v2"
    module: Path | None = None  # its C file
    init: str = ""  # "systemd": the host's own is the first process
    processor: str = ""  # empty: the architecture's own


def run(kernel: Kernel, checkout: Path, command: list[str], wishes: Wishes) -> int:
    """Run the command on that kernel, copy its output to ours, and return its exit status."""
    if wishes.module:
        module.text(wishes.module)  # before anything is fetched or missed
    qemu = kernel.architecture.qemu
    if shutil.which(qemu) is None:
        option = "--vm" if roots.is_own(kernel) else f"--{kernel.architecture.name}"
        raise VmError(f"{qemu} is missing. Run scripts/setup {option}.")
    if not roots.is_own(kernel) and (wishes.module or wishes.init):
        raise VmError(
            f"--module and --init are for {AMD64.name} only: the root of {kernel.version} has "
            "neither a systemd nor what it takes to build modules."
        )
    root = fetch.image(kernel)
    base = initramfs.base(kernel, root)
    token = b"\0vm-end-" + secrets.token_hex(16).encode()
    job = _job(kernel, root, checkout, command, wishes, token)
    # Without a name, so that nothing is left behind even if we are killed.
    with tempfile.TemporaryFile() as initrd:
        initrd.write(base.read_bytes() + initramfs.session(job))
        initrd.flush()
        return _Machine(_log_path(kernel), token).run(
            _qemu(kernel.architecture, fetch.vmlinuz(root), initrd.fileno(), wishes),
            initrd.fileno(),
            wishes.timeout_s,
        )


class _Machine:
    """A running QEMU and the three sockets through which its guest speaks."""

    def __init__(self, log: Path, token: bytes) -> None:
        self.log = log
        self.token = token

    def run(self, command: list[str], initrd: int, timeout_s: float) -> int:
        deadline = time.monotonic() + timeout_s
        ports = {name: socket.socketpair() for name in ("out", "err", "status")}
        for name, (_, theirs) in ports.items():
            command += _port(name, theirs.fileno())
        command += [
            "-serial",
            "chardev:log",
            "-chardev",
            f"file,id=log,append=on,path={_escaped(self.log)}",
        ]
        with open(self.log, "ab") as log:
            qemu = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[initrd, *(theirs.fileno() for _, theirs in ports.values())],
                # Ctrl-C is ours to handle; and however we end, the VM must too.
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        try:
            for _, theirs in ports.values():
                theirs.close()
            copies = [
                _Copy(ports["out"][0], 1, self.token, qemu),
                _Copy(ports["err"][0], 2, self.token, qemu),
            ]
            status = self._status(ports["status"][0], deadline)
            for copy in copies:
                # An unread pipe holds the copy up, and is waited for like any other work.
                copy.join(max(0.0, deadline - time.monotonic()))
            if any(copy.refused for copy in copies):
                return 128 + signal.SIGPIPE
            self._report_trouble()
            if status is None:
                self._explain(deadline, timeout_s)
            if not all(copy.complete for copy in copies):
                raise VmError(
                    f"the command's output did not come through whole. See {self.log}.", DIED
                )
            return status
        finally:
            qemu.kill()
            qemu.wait()
            for ours, _ in ports.values():
                ours.close()

    def _status(self, port: socket.socket, deadline: float) -> int | None:
        """Wait for the exit status; None when the guest ended or the time ran out without one."""
        text = b""
        while not text.endswith(b"\n"):
            port.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                data = port.recv(64)
            except (socket.timeout, ConnectionResetError):
                return None
            if not data:
                return None
            text += data
        return int(text)

    def _explain(self, deadline: float, timeout_s: float) -> NoReturn:
        late = time.monotonic() >= deadline
        if late:
            said = f"the command took more than {timeout_s:g} s. Allow more with --timeout"
        else:
            said = "the guest died before the command ended. The log lines above say why"
        lines = self.log.read_bytes().splitlines()
        # What came just before the first trouble tells more than the end of a long trace.
        trouble = next((i for i, line in enumerate(lines) if TROUBLE.search(line)), len(lines))
        start = max(0, min(trouble - 10, len(lines) - TOLD_LINES))
        for line in lines[start : start + TOLD_LINES]:
            print("    " + _printable(line), file=sys.stderr)
        raise VmError(f"{said}; the whole log is {self.log}.", TIMED_OUT if late else DIED)

    def _report_trouble(self) -> None:
        lines = self.log.read_bytes().splitlines()
        for line in lines:
            if TROUBLE.search(line):
                print(
                    f"vm: the kernel reported: {_printable(line)} (log: {self.log})",
                    file=sys.stderr,
                )
                return


class _Copy(threading.Thread):
    """Copies one stream of the guest until the token that ends it."""

    def __init__(
        self, source: socket.socket, target: int, token: bytes, qemu: subprocess.Popen[bytes]
    ) -> None:
        super().__init__(daemon=True)
        self.source = source
        self.target = target
        self.token = token
        self.qemu = qemu
        self.complete = False
        self.refused = False
        self.start()

    def run(self) -> None:
        held = b""
        while not self.complete:
            try:
                data = self.source.recv(1 << 16)
            except OSError:
                data = b""
            ready, held, self.complete = split_at_token(held + data, self.token)
            if not data:
                ready += held
            try:
                while ready:
                    ready = ready[os.write(self.target, ready) :]
            except OSError:
                # Nobody reads any more, so there is nothing left to run for.
                self.refused = True
                self.qemu.kill()
                return
            if not data:
                return


def split_at_token(data: bytes, token: bytes) -> tuple[bytes, bytes, bool]:
    """Return what may be passed on, what may be the start of the token, and whether it was seen."""
    before, found, _ = data.partition(token)
    if found:
        return before, b"", True
    for length in range(min(len(token) - 1, len(data)), 0, -1):
        if data.endswith(token[:length]):
            return data[:-length], data[-length:], False
    return data, b"", False


def _job(
    kernel: Kernel, root: Path, checkout: Path, command: list[str], wishes: Wishes, token: bytes
) -> bytes:
    """Return the shell text that tells the guest what to run and where."""
    release = fetch.release(root)
    # Only bcc asks for them, which the roots of other architectures do not have.
    headers = fetch.headers(kernel, root) if roots.is_own(kernel) else None
    search = f"{checkout}/.venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    variables = {
        "version": kernel.version,
        "hostname": f"vm-{kernel.version.replace('.', '-')}",
        "release": release,
        "tree": str(roots.tree(kernel) or ""),
        "objects": str(roots.objects(kernel, checkout) or ""),
        "modules": str(fetch.modules(root)),
        "headers": str(headers or ""),
        "config": str(root / "boot" / f"config-{release}"),
        "checkout": str(checkout),
        "path": search,
        "cgroup": wishes.cgroup,
        "share": GUEST_SHARE if wishes.share else "",
        "init": wishes.init,
        "module": str(module.built(kernel, root, wishes.module) if wishes.module else ""),
    }
    lines = [f"{name}={shlex.quote(value)}" for name, value in variables.items()]
    # A shell variable cannot hold the leading NUL; the guest's printf makes it.
    lines.append("token=" + shlex.quote(token.decode()[1:]))
    lines.append("set -- " + " ".join(shlex.quote(word) for word in command))
    return os.fsencode("\n".join(lines) + "\n")


def _qemu(architecture: Architecture, vmlinuz: Path, initrd: int, wishes: Wishes) -> list[str]:
    append = f"console={architecture.console} panic=-1 loglevel=5"
    processor = wishes.processor or architecture.processor
    if wishes.icount:
        if architecture == AMD64:
            # An instruction that repeats counts as one per round, which swells every
            # page clearing; without these two features the kernel does not use it so.
            # As numbers, because names are understood only since Linux v5.19.
            append += " clearcpuid=297,112"
        engine = ["-accel", "tcg,thread=single", "-icount", "shift=0,align=off,sleep=on"]
        engine += ["-cpu", processor, "-smp", "1"]
    elif architecture == AMD64 and kvm_works():
        engine = ["-accel", "kvm", "-cpu", "host", "-smp", "2"]
    else:
        # Threads would be faster, but made oopses on 6.12 that no real machine has.
        engine = ["-accel", "tcg,thread=single", "-cpu", processor, "-smp", "2"]
    if wishes.append:
        append += " " + wishes.append
    command = [architecture.qemu, "-nodefaults", "-no-user-config", "-display", "none"]
    command += ["-no-reboot", "-machine", architecture.board, *engine, "-m", wishes.memory]
    command += ["-kernel", str(vmlinuz), "-initrd", f"/dev/fd/{initrd}", "-append", append]
    command += ["-device", "virtio-serial-pci", *_directory("root", Path("/"), "readonly=on")]
    if wishes.share:
        command += _directory("share", wishes.share, "readonly=off")
    return command


def _directory(tag: str, path: Path, access: str) -> list[str]:
    options = f"local,id={tag},path={_escaped(path)},security_model=none,multidevs=remap,{access}"
    return ["-fsdev", options, "-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"]


def _port(name: str, descriptor: int) -> list[str]:
    return [
        "-chardev",
        f"socket,id={name},fd={descriptor}",
        "-device",
        f"virtserialport,chardev={name},name={name}",
    ]


def _escaped(path: Path) -> str:
    return str(path).replace(",", ",,")


def _printable(line: bytes) -> str:
    return "".join(c if c.isprintable() else "?" for c in line.decode(errors="replace").rstrip())


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _log_path(kernel: Kernel) -> Path:
    logs = cache.directory() / "logs"
    logs.mkdir(exist_ok=True)
    # By the time in its name: another machine that starts now may have removed it.
    by_time = sorted(logs.glob("*.log"), key=lambda path: path.name.rsplit("-", 3)[1:])
    for old in by_time[:-KEPT_LOGS]:
        if not os.path.exists(f"/proc/{old.stem.rpartition('-')[2]}"):  # its machine still runs
            old.unlink(missing_ok=True)
    return logs / f"{kernel.version}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"


def kvm_works() -> bool:
    """Say whether a guest really runs under KVM here; asked once for each boot of the host."""
    # Inside another virtual machine the probe itself can hang in the host's kernel
    # for minutes, deaf to SIGKILL; so there we do not even ask.
    nested = "hypervisor" in Path("/proc/cpuinfo").read_text().split()
    if nested or not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    answer = cache.directory() / "kvm"
    with cache.locked("kvm"):
        known = answer.read_text().split() if answer.is_file() else []
        if known[:1] != [boot]:
            known = [boot, "yes" if _try_kvm() else "no"]
            answer.write_text(" ".join(known) + "\n")
    return known[1] == "yes"


def _try_kvm() -> bool:
    """Run three instructions under KVM: on some hosts the device opens and then nothing moves."""
    # mov $0x10,%al; out %al,$0xf4; hlt -- at the address where the processor starts.
    start = bytes.fromhex("b010e6f4f4")
    with tempfile.NamedTemporaryFile() as rom:
        rom.write((b"\xf4" * (0x10000 - 16) + start).ljust(0x10000, b"\xf4"))
        rom.flush()
        command = [
            AMD64.qemu,
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-accel",
            "kvm",
        ]
        command += ["-bios", rom.name, "-device", "isa-debug-exit,iobase=0xf4,iosize=1"]
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=5,
                preexec_fn=_die_with_parent,
            )
        except subprocess.TimeoutExpired:
            return False
    # The device ends QEMU with twice the value plus one.
    return done.returncode == 0x10 * 2 + 1
