"""``python -m benchmarks.zoo TABLE...``: write the named tables, all of them unless named, to ``data/zoo``."""

import argparse
import importlib
import pkgutil

import benchmarks.zoo


def tables() -> list[str]:
    """Modules beside this one that have a table to write."""
    names = [module.name for module in pkgutil.iter_modules(benchmarks.zoo.__path__)]
    return [name for name in names if name not in ("__main__", "models")]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tables", nargs="*", help=f"of {', '.join(tables())}")
    for name in parser.parse_args().tables or tables():
        importlib.import_module(f"benchmarks.zoo.{name}").main()
