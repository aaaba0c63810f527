"""Writes a model as a program for other runtimes: .onnx, or .pt2 for torch.export.load.

transformers-msstsvis export --model DIR --output model.onnx --frames 5 --size 360 640
transformers-msstsvis export --model DIR --output model.onnx --dynamic        any number and size of frames

Inputs are `pixel_values_videos (1, T, 3, H, W)` float32, normalised as by the processor, and `pixel_mask (1, T, H, W)`
int64, 1 where a pixel is real; outputs `logits`, `pred_boxes`, `pred_masks` and the indices of what the masks are of.
"""

import argparse

from .command_line import Parser, run


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(prog="transformers-msstsvis export", description=__doc__)
    parser.add_argument("--model", help="folder or Hub name of a checkpoint (default: the small one of the package)")
    parser.add_argument("--output", required=True, help="file to write: .onnx or .pt2")
    parser.add_argument("--frames", type=int, help="of a clip (default: what the model knows, or 5)")
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        default=[384, 640],
        metavar=("HEIGHT", "WIDTH"),
        help="pixels (default 384 640)",
    )
    parser.add_argument("--dynamic", action="store_true", help="take any number of frames, and multiples of 32 pixels")
    parser.add_argument("--top-k", type=int, default=10, help="queries that get masks (default 10)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    return run(export, parse_arguments(arguments))


def export(args: argparse.Namespace) -> None:
    from ..checkpoint_files import check_checkpoint
    from ..export import export_model
    from ..models.auto import AutoModelForVideoInstanceSegmentation
    from ..predict import SAMPLE_MODEL

    checkpoint = args.model or str(SAMPLE_MODEL)
    check_checkpoint(checkpoint)
    model = AutoModelForVideoInstanceSegmentation.from_pretrained(checkpoint).float()
    frames = args.frames or model.config.clip_length or 5
    print(f"wrote {export_model(model, args.output, frames, *args.size, dynamic=args.dynamic, top_k=args.top_k)}")


if __name__ == "__main__":
    raise SystemExit(main())
