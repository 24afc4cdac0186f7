"""For all tests: shapes in annotations are checked, and kernels speak over socket files."""

from pathlib import Path

import nbval.kernel
from jaxtyping import install_import_hook

from claimbook.run.kernel import over_sockets

LIBRARY = Path(__file__).parents[1] / "lib"
SCIENCE = [f"normdyn.{path.parent.name}" for path in LIBRARY.glob("normdyn/*/__init__.py")]
SCIENCE += ["claimbook.show"]

collect_ignore = ["fixtures"]
install_import_hook(SCIENCE, "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")  # an int is a float
nbval.kernel.KernelManager = over_sockets(nbval.kernel.KernelManager)
