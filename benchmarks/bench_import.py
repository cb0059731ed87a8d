"""Seconds that `import codir` and `codir --help` take, beside an empty Python and an import of torch.

Each is the median of several fresh processes, in turn, so that a busy machine slows all of them alike.
Goal: under 1 s each, nothing heavy imported (the latter is a test: tests/test_imports.py).
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python -c pass": "pass",
    "import codir": "import codir",
    "codir --help": "from codir.cli.main import run; run()",
    "codir distill --help": "from codir.cli.main import run; run()",
    "import torch (for scale)": "import torch",
}
ROUNDS = 7


def seconds(name: str, code: str) -> float:
    arguments = name.removeprefix("codir ").split() if name.startswith("codir ") else []
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two rounds, to see that it runs")
    rounds = 2 if parser.parse_args().quick else ROUNDS
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for name, code in COMMANDS.items():
        seconds(name, code)  # warm the file cache and the byte code
    for _ in range(rounds):
        for name, code in COMMANDS.items():
            times[name].append(seconds(name, code))
    empty = statistics.median(times["python -c pass"])
    print(f"{'':26}{'median s':>10}{'ratio to an empty python':>28}")
    for name, taken in times.items():
        median = statistics.median(taken)
        print(f"{name:26}{median:10.3f}{median / empty:28.1f}")
    slow = [name for name in ("import codir", "codir --help") if statistics.median(times[name]) >= 1.0]
    print(f"goal of 1 s: {'missed by ' + ', '.join(slow) if slow else 'met'}")


if __name__ == "__main__":
    main()
