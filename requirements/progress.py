"""How far a long command is: a line every few seconds with the time so far and the last that the command said."""

import collections
import shutil
import subprocess
import sys
import threading
import time

EVERY = 10  # seconds between two lines; on a terminal one line is renewed each second
KEPT = 30  # lines that are kept of what a command says, and shown if it fails


def follow(command, label, *, state=lambda: "", **options):
    """Run a command and tell how far it is; its exit status, and the last lines that it said.

    It is ended with its caller, so that nothing goes on installing behind a make that was stopped.
    """
    said = collections.deque(maxlen=KEPT)
    command = [str(part) for part in command]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, text=True, errors="replace", **pipes, **options) as process:
        reader = threading.Thread(target=lambda: said.extend(filter(None, map(str.strip, process.stdout))))
        reader.start()
        try:
            tell(process, label, lambda: [state(), *list(said)[-1:]])
        except BaseException:
            process.terminate()
            raise
        finally:
            reader.join()
    return process.returncode, list(said)


def tell(process, label, news):
    """A line at every interval until the process ends."""
    terminal, started = sys.stdout.isatty(), time.monotonic()
    while True:
        try:
            process.wait(1 if terminal else EVERY)
        except subprocess.TimeoutExpired:
            show(", ".join([label, f"{time.monotonic() - started:.0f} s", *filter(None, news())]), terminal)
        else:
            break
    if terminal:
        print("\r\x1b[K", end="", flush=True)


def show(line, terminal):
    """One line, no wider than the screen; a terminal has it in place of the one before."""
    line = line[: shutil.get_terminal_size().columns - 1] if terminal else line[:120]
    print(f"\r\x1b[K{line}" if terminal else line, end="" if terminal else "\n", flush=True)
