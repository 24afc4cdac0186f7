"""What importing a tool costs beyond PyTorch: ``python -m benchmarks.bench_package``.

Each import is a process of its own, in turn with one that imports PyTorch alone; processor time, so that what else a
machine does counts little.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
from pathlib import Path

import normdyn
from benchmarks.bench_gauge import machine


def seconds(program: str) -> float:
    """Processor seconds of one process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", program], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(tool: str, repeats: int) -> dict[str, float | str]:
    """Median seconds of PyTorch and of a tool with it, one after the other."""
    program = f"import torch, normdyn; normdyn.{tool}"
    pairs = [(seconds("import torch"), seconds(program)) for _ in range(repeats)]
    torch, both = (statistics.median(times) for times in zip(*pairs, strict=True))
    beyond = statistics.median(b - t for t, b in pairs)
    return {"tool": tool, "seconds_torch": torch, "seconds": both, "beyond": beyond}


def main() -> None:
    """Measure all tools that the package names, and store what they cost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--output", type=Path, default=Path("data/benchmarks/package.json"))
    arguments = parser.parse_args()
    rows = [measure(tool, arguments.repeats) for tool in normdyn.TOOLS]
    largest = max(row["beyond"] for row in rows)
    stored = {"machine": machine(), "summary": {"largest beyond torch": largest}, "rows": rows}
    arguments.output.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
    for row in rows:
        print(f"{row['tool']:26} {row['beyond']:.2f} s beyond {row['seconds_torch']:.2f} s of torch")


if __name__ == "__main__":
    main()
