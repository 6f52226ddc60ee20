"""`python -m benchmarks`: measure everything; or one part, for a look while working."""

import argparse

from benchmarks import cost
from benchmarks.variants import VARIANTS, installed


def main() -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parts = parser.add_subparsers(dest="part")
    of_cost = parts.add_parser("cost", help="CPU time added to a request")
    of_cost.add_argument("variants", nargs="*", help=f"some of: {', '.join(VARIANTS)}; default: all that are installed")
    of_cost.add_argument("--rounds", type=int, default=5)
    of_cost.add_argument("--passes", type=int, default=3)
    of_cost.add_argument("--pairs", type=int, default=4, help="of blocks, in each pass")
    of_cost.add_argument(
        "--requests", type=int, default=512, help="per block; by default as many as an exported batch has spans"
    )
    given = parser.parse_args()
    names = given.variants or [name for name, variant in VARIANTS.items() if installed(variant)]
    figures = cost.measure(names, rounds=given.rounds, passes=given.passes, pairs=given.pairs, requests=given.requests)
    print(cost.table(figures))


if __name__ == "__main__":
    main()
