"""The parameters of a build, checked before anything is computed.

Uses nothing but the standard library, since the Makefile asks before the environment exists::

    python3 lib/claimbook/source/parameters.py PROFILE=quick DEVICE=auto SEED=0 JOBS=2 PAGE=part/page
"""

import ctypes
import importlib.util
import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

PROFILES = ("quick", "paper")
DEVICES = ("auto", "cpu", "cuda")
ROOT = Path(__file__).resolve().parents[3]


class BadParameter(ValueError):
    """A parameter that is not allowed; the message is one line that says what is."""


@dataclass(frozen=True)
class Parameters:
    """What a build is asked for. ``device`` is ``cpu`` or ``cuda``, never ``auto``.

    ``cluster`` is the folder of the Snakemake profile that sends chapters to a cluster; empty means this machine.
    """

    profile: str = "quick"
    device: str = "cpu"
    seed: int = 0
    jobs: int = 1
    cluster: str = ""


def parse(
    profile: str = "quick",
    device: str = "auto",
    seed: str = "0",
    jobs: str = "",
    cluster: str = "",
    *,
    installed: bool = True,
) -> Parameters:
    """Check the words of a command line; an empty ``jobs`` means all cores, or what a cluster's profile says.

    ``installed`` is false before the environment exists: what is installed there is then asked later.

    Raises:
        BadParameter: a word is not allowed, or the machine has no such device.

    Example:
        >>> parse("quick", "cpu", "0", "2")
        Parameters(profile='quick', device='cpu', seed=0, jobs=2, cluster='')
        >>> parse("papr")
        Traceback (most recent call last):
        claimbook.source.parameters.BadParameter: PROFILE=papr is not known: choose quick or paper
    """
    if profile not in PROFILES:
        raise BadParameter(f"PROFILE={profile} is not known: choose quick or paper")
    if not re.fullmatch(r"\d{1,9}", seed):
        raise BadParameter(f"SEED={seed} is not allowed: give a whole number from 0 to 999999999")
    cores = len(os.sched_getaffinity(0))
    if not re.fullmatch(r"|[1-9]\d{0,3}", jobs):
        raise BadParameter(
            f"JOBS={jobs} is not allowed: give a whole number from 1 up (this machine has {cores} cores)"
        )
    if not cluster:
        return Parameters(profile, resolve_device(device, installed=installed), int(seed), int(jobs or cores))
    if device not in DEVICES:
        raise BadParameter(f"DEVICE={device} is not known: choose auto, cpu or cuda")
    folder, at_once = resolve_cluster(cluster, installed=installed)
    # The devices are those of the cluster's nodes, which are not asked from here: cuda is taken at its word.
    return Parameters(profile, "cuda" if device == "cuda" else "cpu", int(seed), int(jobs or at_once), str(folder))


def resolve_cluster(cluster: str, *, installed: bool = True) -> tuple[Path, int]:
    """The folder of a cluster's profile, and how many jobs it puts into the queue at once.

    ``slurm`` is the profile in ``requirements/slurm``; any other word is a folder with one.
    """
    folder = ROOT / "requirements" / "slurm" if cluster == "slurm" else Path(cluster).resolve()
    profile = folder / "config.yaml"
    lines = profile.read_text(encoding="utf-8") if profile.is_file() else ""
    settings = dict(re.findall(r"^(executor|jobs): *([\w-]+)", lines, flags=re.MULTILINE))
    if "executor" not in settings:
        raise BadParameter(
            f"CLUSTER={cluster} is not known: choose slurm, or a folder whose config.yaml names an executor and jobs"
        )
    executor = settings["executor"]
    if executor == "slurm" and shutil.which("sbatch") is None:
        raise BadParameter(
            f"CLUSTER={cluster} is not possible: this machine has no sbatch; start on a machine that submits to Slurm"
        )
    plugin = f"snakemake-executor-plugin-{executor}"
    if installed and importlib.util.find_spec(plugin.replace("-", "_")) is None:
        install = "run make slurm" if executor == "slurm" else f"install {plugin} into .venv"
        raise BadParameter(f"CLUSTER={cluster} is not possible: Snakemake's plugin for it is not installed; {install}")
    return folder, int(settings.get("jobs", "1"))


def resolve_device(device: str, *, installed: bool = True) -> str:
    """``cpu`` or ``cuda``; ``auto`` takes CUDA where the driver finds a device and torch is built for it."""
    if device not in DEVICES:
        raise BadParameter(f"DEVICE={device} is not known: choose auto, cpu or cuda")
    if device == "cpu":
        return "cpu"
    found, built = cuda_devices() > 0, not installed or torch_has_cuda()
    if device == "cuda" and not found:
        raise BadParameter(
            "DEVICE=cuda is not possible: this machine has no CUDA device; choose DEVICE=auto or DEVICE=cpu"
        )
    if device == "cuda" and not built:
        raise BadParameter(
            "DEVICE=cuda is not possible: the installed torch is built for the CPU; choose DEVICE=cpu "
            "or install a CUDA build of the version in requirements/torch.txt"
        )
    return "cuda" if found and built else "cpu"


def cuda_devices() -> int:
    """Number of CUDA devices, asked from the driver itself; importing torch for it would cost seconds."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    return count.value if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 else 0


def torch_has_cuda() -> bool:
    """Whether the installed torch is a CUDA build, read from its version file."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        return False
    version = Path(spec.submodule_search_locations[0], "version.py").read_text(encoding="utf-8")
    return bool(re.search(r"^cuda(: [^=]*)? = ['\"]", version, flags=re.MULTILINE))


def check_page(root: Path, page: str) -> str:
    """A page is the path of a chapter below ``chapters/``, without suffix; one of prose alone cannot be executed.

    Raises:
        BadParameter: there is no such chapter with code; the message lists those there are.
    """
    chapters = root / "chapters"
    files = [path for path in chapters.rglob("*.md") if "\n```{code-cell}" in path.read_text(encoding="utf-8")]
    pages = sorted(str(path.relative_to(chapters).with_suffix("")) for path in files)
    if page not in pages:
        names = ", ".join(pages) or "(there are none yet)"
        raise BadParameter(f"PAGE={page} is not a chapter with code: choose one of {names}")
    return page


def main(words: list[str]) -> None:
    """Check ``NAME=value`` words; leave with one line and status 2 if one is not allowed."""
    given = dict(word.split("=", 1) for word in words)
    try:
        if "PAGE" in given:
            check_page(ROOT, given.pop("PAGE"))
        parse(**{name.lower(): value for name, value in given.items()}, installed=False)
    except BadParameter as problem:
        print(problem, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main(sys.argv[1:])
