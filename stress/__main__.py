"""Injects thousands of faults, and prints how many of each kind were survived and lost.

make stress
python -m stress --files 2000 --crashes 10 --crashes_of_three 2
"""

import argparse
import logging
import signal
import sys

from stress import crashes, damaged_files, endings


def main() -> None:
    """Inject the faults, print the table, and end with exit code 1 if one was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=20_000, help="damaged files to read")
    parser.add_argument("--crashes", type=int, default=100, help="crashes of a training")
    parser.add_argument(
        "--crashes_of_three", type=int, default=10, help="crashes of one of three processes"
    )
    parser.add_argument("--endings", type=int, default=5, help="faults of each other kind")
    parser.add_argument("--seed", type=int, default=1, help="another seed gives other faults")
    args = parser.parse_args()
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    rows = damaged_files.run(args.files, args.seed)
    rows += crashes.run(args.crashes, args.seed)
    rows += crashes.run(args.crashes_of_three, args.seed, processes=3)
    rows += crashes.run(args.endings, args.seed, number=signal.SIGHUP)
    rows += endings.run(args.endings, args.seed)
    print("| fault | injected | survived | lost |\n| --- | ---: | ---: | ---: |")
    for kind, injected, survived, lost in rows:
        print(f"| {kind} | {injected:,} | {survived:,} | {lost:,} |")
    sys.exit(any(lost for *_, lost in rows))


if __name__ == "__main__":
    main()
