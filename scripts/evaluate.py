#!/usr/bin/env python
"""The same as `transformers-msstsvis evaluate`."""

from transformers_msstsvis.commands.evaluate import main

if __name__ == "__main__":
    raise SystemExit(main())
