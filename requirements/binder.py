"""Write what Binder makes its machine from beside a published site: binder.py SITE OWNER/REPOSITORY COMMIT.

A notebook of the site then finds what it was executed with: the pinned versions of all that chapters import, and a
checkout of the library at its commit, with the stored results that chapters read from ``data/``.
"""

import pathlib
import re
import sys

HERE = pathlib.Path(__file__).resolve().parent
PYTHON = "3.11"  # the oldest that the library takes, and what the locks are made for; Binder's own default is older
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"  # Binder has no GPU; a CPU build is 3 GB smaller


def pins():
    """The lines of the lock for what run.in names; Binder brings a kernel of its own."""
    wanted = [line.strip() for line in (HERE / "run.in").read_text(encoding="utf-8").splitlines()]
    wanted = [name for name in wanted if name and not name.startswith("#") and name != "ipykernel"]
    locked = dict(re.findall(r"^([\w.-]+)==([^\s;\\]+)", (HERE / "run.txt").read_text(encoding="utf-8"), re.MULTILINE))
    return [f"{name}=={locked[name]}" for name in wanted]


def write(site, repository, commit):
    """Both files, in the folder where Binder looks first."""
    folder = pathlib.Path(site, "binder")
    folder.mkdir(exist_ok=True)
    torch = (HERE / "torch.txt").read_text(encoding="utf-8").strip()
    library = f"-e git+https://github.com/{repository}@{commit}#egg=normdyn"
    lines = [f"--extra-index-url {TORCH_INDEX}", torch, *pins(), library]
    (folder / "requirements.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "runtime.txt").write_text(f"python-{PYTHON}\n", encoding="utf-8")


if __name__ == "__main__":
    write(*sys.argv[1:])
