#!/usr/bin/env python
"""Convert a published checkpoint to this package.

python scripts/convert_checkpoint.py --system seqformer --checkpoint r50.pth --output seqformer-r50
"""

import argparse
import json
import sys

from transformers_msstsvis.conversion import SYSTEMS, convert_checkpoint


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--system", required=True, choices=SYSTEMS, help="what published the checkpoint")
    parser.add_argument("--checkpoint", required=True, help="the published .pth or .safetensors file")
    parser.add_argument("--output", required=True, help="folder for model.safetensors, config and processor")
    parser.add_argument("--labels", help="JSON list of class names by output index, or object of index to name")
    arguments = parser.parse_args()
    hints = {}
    try:
        if arguments.labels:
            names = json.load(open(arguments.labels, encoding="utf-8"))
            hints["id2label"] = dict(enumerate(names)) if isinstance(names, list) else names
        report = convert_checkpoint(arguments.system, arguments.checkpoint, arguments.output, **hints)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(report)
    print(f"written to {arguments.output}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
