"""`python -m benchmarks`: measure everything; or one part, for a look while working."""
import argparse, json
from dataclasses import replace
from benchmarks import cost, scaling, scrape, sockets, memory
from benchmarks.effort import FULL, SHORT
import sys
print(json.dumps({"cost": cost, "scaling": scaling, "scrape": scrape, "sockets": sockets, "memory":memory}[sys.argv[1]].measure(SHORT if "--short" in sys.argv else FULL), indent=1))
