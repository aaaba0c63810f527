#!/usr/bin/env python
"""The same as `transformers-msstsvis benchmark`."""

from transformers_msstsvis.commands.benchmark import main

if __name__ == "__main__":
    raise SystemExit(main())
