#!/usr/bin/env python
"""The same as `transformers-msstsvis predict`."""

from transformers_msstsvis.commands.predict import main

if __name__ == "__main__":
    raise SystemExit(main())
