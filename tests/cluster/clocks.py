"""Steps the clocks of Tallys with the library libfaketime."""

import glob
import os

LIBRARIES = "/usr/lib/*/faketime/libfaketimeMT.so.1"


def library():
    """Returns the path of the library; None if this machine does not have it."""
    return os.environ.get("TALLY_TEST_FAKETIME") or next(iter(glob.glob(LIBRARIES)), None)


class Clock:
    """The wall clock of one Tally. Its monotonic clock never steps."""

    def __init__(self, tally):
        tally.directory.mkdir(parents=True, exist_ok=True)
        self.file = tally.directory / "clock"
        self.set(0)
        tally.environment |= {
            "LD_PRELOAD": library(),
            "FAKETIME_TIMESTAMP_FILE": str(self.file),
            # libfaketime reads the file at each call instead of once in 10 s.
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
            # Without this variable, a Tally whose clock is behind its journal refuses to start.
            "TALLY_ACCEPT_CLOCK_BEHIND": "true",
        }

    def set(self, seconds):
        """Sets the difference between this clock and the right time, in seconds."""
        text = self.file.with_suffix(".new")
        text.write_text(f"{seconds:+.3f}\n")
        text.rename(self.file)
