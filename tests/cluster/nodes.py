"""One process of the cluster: a broker or a Tally. Starts, stops, kills, pauses and resumes it."""

import concurrent.futures
import os
import pathlib
import shutil
import signal
import subprocess
import time

# Timeout of a stop by SIGTERM, in seconds. After it, the process is killed.
STOP_TIMEOUT_S = 30
# This one thread starts all processes. The kernel kills a process when the thread that started it ends, so no process survives a
# killed test. A thread of the caller might end too early.
_starter = concurrent.futures.ThreadPoolExecutor(max_workers=1, thread_name_prefix="starter")


class Node:
    """A process with a name, such as `broker-1`. The subclass defines the command."""

    def __init__(self, name, host, directory, network=None):
        self.name, self.host, self.network = name, host, network
        self.directory = pathlib.Path(directory)
        self.output = self.directory / "output.log"
        self.process = None
        self.paused = False

    def command(self):
        """Returns the command, and the environment variables that it gets in addition to those of this process."""
        raise NotImplementedError

    def start(self):
        assert not self.running, f"{self.name} already runs"
        self.directory.mkdir(parents=True, exist_ok=True)
        command, environment = self.command()
        self.process = spawn(command, self.output, environment, self.network, self.name)
        self.paused = False

    @property
    def running(self):
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self):
        return self.process.pid if self.running else None

    def stop(self):
        """Stops the process by SIGTERM, and returns its exit code."""
        if not self.running:
            return None
        if self.paused:
            self.resume()
        self.process.terminate()
        try:
            return self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self.name} did not end within {STOP_TIMEOUT_S} s after SIGTERM") from None

    def kill(self):
        """Kills the process with SIGKILL, and waits for its end."""
        if self.running:
            self.process.kill()
            self.process.wait()
        self.paused = False

    def pause(self):
        """Pauses the process with SIGSTOP: its connections stay open, but it does not answer."""
        assert self.running, f"{self.name} does not run"
        self.process.send_signal(signal.SIGSTOP)
        self.paused = True

    def resume(self):
        assert self.running, f"{self.name} does not run"
        self.process.send_signal(signal.SIGCONT)
        self.paused = False

    def restart(self):
        self.stop()
        self.start()

    @property
    def state(self):
        return "paused" if self.running and self.paused else "running" if self.running else "stopped"

    def memory_mb(self):
        """Returns the memory that the process occupies (RSS), in MB; 0 if it does not run."""
        if not self.running:
            return 0
        for line in pathlib.Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) // 1024
        return 0

    def last_output(self, lines=30):
        if not self.output.exists():
            return ""
        return "\n".join(self.output.read_text(errors="replace").splitlines()[-lines:])


def spawn(command, output, environment=None, network=None, name=None):
    """Starts a command in the network namespace of the node `name`, if there is a network. The process ends with this one."""
    prefix = network.enter(name) if network else []
    if shutil.which("setpriv"):
        prefix += ["setpriv", "--pdeathsig", "KILL"]

    def start():
        with open(output, "ab") as file:
            return subprocess.Popen(
                [*prefix, *command],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )

    return _starter.submit(start).result()


def wait_until(condition, what, timeout_s=60, every_s=0.05):
    """Waits until `condition()` is true, and returns its value. Fails after the timeout."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"after {timeout_s} s: {what}"
        time.sleep(every_s)
