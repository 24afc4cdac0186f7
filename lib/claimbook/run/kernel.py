"""The kernel that executes chapters: this environment's own Python, under a name of its own, over private sockets."""

import json
import os
import shutil
import sys
import tempfile
import weakref
from pathlib import Path
from typing import IO

from claimbook.source.files import write_if_changed

NAME = "claimbook"


def install(prefix: Path = Path(sys.prefix)) -> Path:
    """Write the kernel's specification into the environment and return its folder.

    Being named explicitly and found first, it cannot be mistaken for the ``python3`` of another installation.
    """
    folder = prefix / "share" / "jupyter" / "kernels" / NAME
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    write_if_changed(
        folder / "kernel.json", json.dumps({"argv": argv, "display_name": NAME, "language": "python"}, indent=1)
    )
    return folder


# Variables of a user that could change what a page finds; those of resources (OMP_NUM_THREADS, CUDA_VISIBLE_DEVICES),
# of where things lie (PATH, HOME, TMPDIR, LD_LIBRARY_PATH) and of workarounds for a machine are left to the user.
KEPT_AWAY = (
    "PYTHON", "IPYTHON", "IPYKERNEL", "JUPYTER", "MPL", "MATPLOTLIB", "TORCH", "PYTORCH", "ATEN", "INDUCTOR", "TRITON",
    "CUBLAS", "CUDNN", "NVIDIA_TF32", "MKL_CBWR", "MKL_DEBUG", "NPY_", "NUMPY_", "SCIPY_", "SKLEARN_", "SYMPY_",
    "JAXTYPING", "BEARTYPE", "SOURCE_DATE_EPOCH", "LC_", "LANG", "TZ", "COVERAGE_", "FORCE_COLOR", "NO_COLOR",
    "CLICOLOR", "PAPERMILL",
)  # fmt: skip
SOCKET = 100  # characters that the address of a socket file may have; Linux allows 107


def environment(root: Path, jobs: int) -> dict[str, str]:
    """The variables a kernel starts with.

    The library comes from ``root``, so a page is made by exactly the files in its key. Several kernels at once get one
    thread each. What a user has set for Python, IPython, Jupyter, Matplotlib or torch stays away, and so do the files
    that these would read in the user's folders: startup scripts, packages of the user, styles. Figures are drawn
    without a display, sets of strings have one order, and a GPU multiplies float32 in float32 (no TF32) and the same
    way each time.
    """
    variables = {name: value for name, value in os.environ.items() if not name.startswith(KEPT_AWAY)}
    own = root / "build" / ".kernel"  # empty but for Matplotlib's list of fonts, which is costly to make
    own.mkdir(parents=True, exist_ok=True)
    variables |= {
        "JUPYTER_PATH": str(Path(sys.prefix, "share", "jupyter")),
        "JUPYTER_NO_CONFIG": "1",
        "IPYTHONDIR": str(own / "ipython"),
        "MPLCONFIGDIR": str(own / "matplotlib"),
        "PYTHONPATH": str(root / "lib"),
        "PYTHONNOUSERSITE": "1",
        "PYTHONHASHSEED": "0",
        "PYTHONUTF8": "1",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "MPLBACKEND": "agg",
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "CLAIMBOOK_ROOT": str(root),
        "NVIDIA_TF32_OVERRIDE": "0",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    }
    if jobs > 1:
        variables["OMP_NUM_THREADS"] = "1"
    return variables


def over_sockets(manager: type) -> type:
    """A kernel manager whose five channels are socket files in a folder of its own, so that no two fight over ports.

    Where no folder for them has a name short enough, or none may be written, the channels are ports after all.
    """
    from traitlets import default

    class SocketFiles(manager):
        @default("transport")
        def _transport(self) -> str:
            return "ipc" if short_folder() else "tcp"

        @default("ip")
        def _ip(self) -> str:
            place = short_folder()
            if self.transport != "ipc" or place is None:
                return "127.0.0.1"
            folder = tempfile.mkdtemp(prefix="kernel-", dir=place)
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            return str(Path(folder, "channel"))

    return SocketFiles


def short_folder() -> str | None:
    """A folder for temporary files whose name leaves room for a socket's, the user's own one first."""
    places = [tempfile.gettempdir(), os.environ.get("XDG_RUNTIME_DIR", ""), "/tmp", "/var/tmp", "/dev/shm"]
    room = SOCKET - len("/kernel-12345678/channel-5")
    return next(
        (place for place in places if place and len(place) <= room and os.access(place, os.W_OK | os.X_OK)), None
    )


def speaking_into(stream: IO[str], manager: type) -> type:
    """A kernel manager whose kernels write what no cell shows, such as the words of a crash, into a file."""

    class Logged(manager):
        async def start_kernel(self, **options):
            return await super().start_kernel(**options, stdout=stream, stderr=stream)

    return Logged


if __name__ == "__main__":
    print(install())
