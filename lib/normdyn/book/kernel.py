"""The kernel that executes chapters: this environment's own Python, under a name of its own, over private sockets."""

import json
import os
import shutil
import sys
import tempfile
import weakref
from pathlib import Path
from typing import IO

from normdyn.book.files import write_if_changed

NAME = "normdyn"


def install(prefix: Path = Path(sys.prefix)) -> Path:
    """Write the kernel's specification into the environment and return its folder.

    Being named explicitly and found first, it cannot be mistaken for the ``python3`` of another installation.
    """
    folder = prefix / "share" / "jupyter" / "kernels" / NAME
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    write_if_changed(
        folder / "kernel.json", json.dumps({"argv": argv, "display_name": "normdyn", "language": "python"}, indent=1)
    )
    return folder


def environment(root: Path, jobs: int) -> dict[str, str]:
    """The variables a kernel starts with.

    The library comes from ``root``, so a page is made by exactly the files in its key. Several kernels at once get one
    thread each. Figures are drawn without a display, sets of strings have one order, and a GPU multiplies float32 in
    float32 (no TF32) and the same way each time.
    """
    variables = dict(os.environ)
    for name in ("PYTHONSTARTUP", "PYTHONHOME", "IPYTHONDIR", "MPLCONFIGDIR"):
        variables.pop(name, None)
    variables |= {
        "JUPYTER_PATH": str(Path(sys.prefix, "share", "jupyter")),
        "PYTHONPATH": str(root / "lib"),
        "PYTHONHASHSEED": "0",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "MPLBACKEND": "agg",
        "NORMDYN_ROOT": str(root),
        "NVIDIA_TF32_OVERRIDE": "0",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    }
    if jobs > 1:
        variables["OMP_NUM_THREADS"] = "1"
    return variables


def over_sockets(manager: type) -> type:
    """A kernel manager whose five channels are socket files in a folder of its own, so that no two fight over ports."""
    from traitlets import default

    class SocketFiles(manager):
        @default("transport")
        def _transport(self) -> str:
            return "ipc"

        @default("ip")
        def _ip(self) -> str:
            folder = tempfile.mkdtemp(prefix="kernel-")
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            return str(Path(folder, "channel"))

    return SocketFiles


def speaking_into(stream: IO[str], manager: type) -> type:
    """A kernel manager whose kernels write what no cell shows, such as the words of a crash, into a file."""

    class Logged(manager):
        async def start_kernel(self, **options):
            return await super().start_kernel(**options, stdout=stream, stderr=stream)

    return Logged


if __name__ == "__main__":
    print(install())
