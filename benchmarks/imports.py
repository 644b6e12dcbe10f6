"""What it costs to begin: CPU seconds (user and system) of fresh processes, the median of ten.

    python -m benchmarks.imports

Beside each, what the interpreter takes that does nothing. CPU time and not the clock, so that a busy machine does not
count. Files are in the page cache: each command runs once before it is timed.
"""

import argparse
import resource
import statistics
import subprocess
import sys

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import tasks, probing, interventions": ["-c", "import tasks, probing, interventions"],
    "worldprobe --help": ["-m", "worldprobe", "--help"],
    "worldprobe run --help": ["-m", "worldprobe", "run", "--help"],
    "import torch, transformer_lens (what waits)": ["-c", "import torch, transformer_lens"],
}
BUDGET = {"import tasks, probing, interventions": 0.3, "worldprobe --help": 0.5, "worldprobe run --help": 0.5}


def cpu_seconds(arguments: list[str]) -> float:
    """Of one fresh interpreter."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=10, help="processes of each command (default %(default)s)")
    times = parser.parse_args().times
    print(f"{'CPU seconds, median of ' + str(times):46} {'time':>6} {'goal':>6}")
    for name, arguments in COMMANDS.items():
        cpu_seconds(arguments)
        took = statistics.median(cpu_seconds(arguments) for _ in range(times if "torch" not in name else 3))
        print(f"{name:46} {took:6.3f} {BUDGET.get(name, ''):>6}")


if __name__ == "__main__":
    main()
