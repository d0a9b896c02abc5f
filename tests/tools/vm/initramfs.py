"""The first file system of the guest: busybox, modules that reach the host's root, two scripts."""

from __future__ import annotations

import lzma
import struct
from pathlib import Path

from . import cache, fetch, roots
from .cache import VmError
from .kernels import Kernel

# In this order; each brings what it depends on.
MODULES = ("virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay")
PT_INTERP = 3
# switch_root insists on a first program of that name.
SCRIPTS = {"init": "guest_boot.sh", "guest_session.sh": "guest_session.sh"}


def base(kernel: Kernel, root: Path) -> Path:
    """Return the archive with busybox and the modules of that kernel, made on first use."""
    path = cache.directory() / "kernels" / f"{kernel.version}.cpio"
    if path.is_file():
        return path
    with cache.locked(f"initramfs-{kernel.version}"):
        if not path.is_file():
            partial = path.with_suffix(".partial")
            partial.write_bytes(_base(root, roots.busybox(kernel)))
            partial.rename(path)
    return path


def session(job: bytes) -> bytes:
    """Return the archive with this checkout's guest scripts and one job."""
    here = Path(__file__).parent
    archive = [
        _entry(name, 0o100755, (here / script).read_bytes()) for name, script in SCRIPTS.items()
    ]
    return b"".join([*archive, _entry("job", 0o100644, job), _trailer()])


def load_order(dependencies: str, builtin: str) -> list[str]:
    """Return the module files to load, given the texts of modules.dep and modules.builtin."""
    needs: dict[str, list[str]] = {}
    paths: dict[str, str] = {}
    for line in dependencies.splitlines():
        path, _, rest = line.partition(":")
        needs[path] = rest.split()
        paths[_name(path)] = path
    inside = {_name(path) for path in builtin.split()}
    order: list[str] = []
    for name in MODULES:
        if name in inside:
            continue
        if name not in paths:
            raise VmError(f"this kernel has no module {name}; the cloud flavour cannot be used.")
        # modules.dep lists what a module needs from the nearest to the farthest.
        for path in [*reversed(needs[paths[name]]), paths[name]]:
            if path not in order:
                order.append(path)
    return order


def _name(path: str) -> str:
    return path.rpartition("/")[2].partition(".ko")[0].replace("-", "_")


def _base(root: Path, busybox: Path) -> bytes:
    program = busybox.read_bytes()
    if _needs_loader(program):
        raise VmError("busybox is not the static one. Run scripts/setup --vm.")
    where = fetch.modules(root)
    order = load_order((where / "modules.dep").read_text(), (where / "modules.builtin").read_text())
    entries = [_entry(name, 0o040755, b"") for name in ("bin", "dev", "modules", "proc", "sys")]
    # The kernel opens the console for the first process before anything can make it.
    entries.append(_entry("dev/console", 0o020600, b"", device=(5, 1)))
    entries.append(_entry("bin/busybox", 0o100755, program))
    for number, path in enumerate(order):
        data = (where / path).read_bytes()
        if path.endswith(".xz"):
            data = lzma.decompress(data)
        entries.append(_entry(f"modules/{number:02}-{_name(path)}.ko", 0o100644, data))
    return b"".join([*entries, _trailer()])


def _needs_loader(program: bytes) -> bool:
    """Say whether an ELF program names an interpreter, which the guest would not have."""
    (offset,) = struct.unpack_from("<Q", program, 32)
    size, number = struct.unpack_from("<HH", program, 54)
    kinds = [struct.unpack_from("<I", program, offset + i * size)[0] for i in range(number)]
    return PT_INTERP in kinds


def _trailer() -> bytes:
    return _entry("TRAILER!!!", 0, b"")


def _entry(name: str, mode: int, data: bytes, device: tuple[int, int] = (0, 0)) -> bytes:
    """Return one file in the cpio format that the kernel unpacks ("newc")."""
    encoded = name.encode() + b"\0"
    fields = (0, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(encoded), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
    return _padded(header) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
