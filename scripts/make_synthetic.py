#!/usr/bin/env python
"""The same as `transformers-msstsvis make-synthetic`."""

from transformers_msstsvis.commands.make_synthetic import main

if __name__ == "__main__":
    raise SystemExit(main())
