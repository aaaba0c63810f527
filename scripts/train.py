#!/usr/bin/env python
"""The same as `transformers-msstsvis train`."""

from transformers_msstsvis.commands.train import main

if __name__ == "__main__":
    raise SystemExit(main())
