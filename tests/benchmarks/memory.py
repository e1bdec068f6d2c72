"""How many bytes a pending task, an ended one and a kept trace take, with everything on."""

from __future__ import annotations

import json
import subprocess
import sys


def main() -> None:
    """Print the figures of a process that does nothing else."""
    script = [sys.executable, "-m", "tests.performance.sizes"]
    sizes: dict[str, int] = json.loads(subprocess.check_output(script, text=True))
    print("Memory by tracemalloc, each by the growth over 1,000 of them")
    for what, size in sizes.items():
        print(f"{what:42}{size:>7,} bytes")


if __name__ == "__main__":
    main()
