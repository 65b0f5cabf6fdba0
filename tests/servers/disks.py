"""Real disks that are small or nearly full, as far as this process may make them."""

import contextlib
import os
import shutil
import subprocess


@contextlib.contextmanager
def small_disk(folder, size: int):
    """Mount a file system of *size* bytes on *folder*; only root may."""
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "sluice-test", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def can_mount(folder) -> bool:
    """Tell whether `small_disk` works here: as root, and not in a container that forbids it."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return False
    try:
        with small_disk(folder, 1 << 20):
            return True
    except subprocess.CalledProcessError:
        return False


class Ballast:
    """A file that takes *size* bytes of the disk of *folder* at once, without writing them."""

    def __init__(self, folder, size: int) -> None:
        self._path = folder / "ballast"
        with self._path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)

    def drop(self) -> None:
        self._path.unlink()
