"""A separate disk for each node. A test can cut its power: all data that were not synced are lost. Needs root.

The disk is an ext4 file system in an image file. To cut the power, the test calls an ioctl after which ext4 writes nothing more.
The next mount finds what a real disk would contain after a power loss, and replays the journal of ext4.
"""

import fcntl
import os
import pathlib
import struct
import subprocess

# EXT4_IOC_SHUTDOWN, and its flag "do not write the journal first".
SHUTDOWN = 0x8004587D
WITHOUT_JOURNAL = 2
SIZE_MB = 512


def available():
    """Returns why this machine can't mount image files; an empty text if it can."""
    if os.geteuid() != 0 or pathlib.Path("/proc/self/uid_map").read_text().split()[1] != "0":
        return "only root mounts image files"
    if not pathlib.Path("/dev/loop-control").exists():
        return "the kernel has no loop devices"
    return ""


class Disk:
    """A file system at `directory`. Its image is beside it."""

    def __init__(self, directory):
        self.directory = pathlib.Path(directory)
        self.image = self.directory.with_name(self.directory.name + ".ext4")
        self.mounted = False
        self.directory.mkdir(parents=True, exist_ok=True)
        if not self.image.exists():
            with open(self.image, "wb") as image:
                image.truncate(SIZE_MB << 20)
            run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=1,lazy_journal_init=1,root_owner=0:0", str(self.image))
        self.mount()
        # Kafka would mistake this directory for the directory of a partition.
        lost_and_found = self.directory / "lost+found"
        if lost_and_found.exists():
            lost_and_found.rmdir()

    def mount(self):
        run("mount", "-o", "loop", str(self.image), str(self.directory))
        self.mounted = True

    def sync(self):
        """Syncs the whole file system, as the operating system does from time to time."""
        run("sync", "--file-system", str(self.directory))

    def cut(self):
        """Cuts the power: from now on, each write and sync fails. Call `mount_again` when no process uses the disk."""
        directory = os.open(self.directory, os.O_RDONLY)
        try:
            fcntl.ioctl(directory, SHUTDOWN, struct.pack("=I", WITHOUT_JOURNAL))
        finally:
            os.close(directory)

    def mount_again(self):
        self.close()
        self.mount()

    def close(self):
        if self.mounted:
            run("umount", str(self.directory))
            self.mounted = False


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
