"""Faults by the thousand: prints how many were injected, survived and lost.

make stress
python -m stress --files 2000 --kills 10 --kills_of_three 2
"""

import argparse
import logging
import sys

from stress import files, kills


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=20_000, help="damaged files to read")
    parser.add_argument("--kills", type=int, default=100, help="kills of a training")
    parser.add_argument(
        "--kills_of_three", type=int, default=10, help="kills of one of three processes"
    )
    parser.add_argument("--seed", type=int, default=1, help="another seed gives other faults")
    args = parser.parse_args()
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    rows = files.run(args.files, args.seed)
    rows += kills.run(args.kills, args.seed)
    rows += kills.run(args.kills_of_three, args.seed, processes=3)
    print("| fault | injected | survived | lost |\n| --- | ---: | ---: | ---: |")
    for kind, injected, survived, lost in rows:
        print(f"| {kind} | {injected:,} | {survived:,} | {lost:,} |")
    sys.exit(any(lost for *_, lost in rows))


if __name__ == "__main__":
    main()
