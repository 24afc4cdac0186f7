"""For all tests: shapes in annotations are checked, and kernels speak over socket files."""

from pathlib import Path

import nbval.kernel
from jaxtyping import install_import_hook

from normdyn.book.kernel import over_sockets

LIBRARY = Path(__file__).parents[1] / "lib" / "normdyn"
SCIENCE = [f"normdyn.{path.stem}" for path in LIBRARY.glob("*.py") if path.stem != "__init__"]

collect_ignore = ["fixtures"]
install_import_hook(SCIENCE, "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")  # an int is a float
nbval.kernel.KernelManager = over_sockets(nbval.kernel.KernelManager)
