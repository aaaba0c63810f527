#!/usr/bin/env python
"""The same as `transformers-msstsvis convert`."""

from transformers_msstsvis.commands.convert import main

if __name__ == "__main__":
    raise SystemExit(main())
