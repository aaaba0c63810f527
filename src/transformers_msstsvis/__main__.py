"""`python -m transformers_msstsvis` is the command `transformers-msstsvis`."""

import sys

from .commands import main

if __name__ == "__main__":
    sys.exit(main())
