"""Finds, segments and tracks the objects of a video, and draws them on it.

transformers-msstsvis predict                                       the sample clip with the small model of the package
transformers-msstsvis predict clip.mp4 --model DIR --output out.mp4 --json out.json
"""

import argparse

from .command_line import Parser, run


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(prog="transformers-msstsvis predict", description=__doc__)
    parser.add_argument("video", nargs="?", help="file, URL, folder of frames or glob pattern (default: sample clip)")
    parser.add_argument("--model", help="folder or Hub name of a checkpoint (default: the small one of the package)")
    parser.add_argument(
        "--output",
        default="out.mp4",
        help="annotated video: .mp4, .webm, .gif, or a folder for PNG frames (default out.mp4)",
    )
    parser.add_argument("--json", default="out.json", help="tracks in YouTube-VIS results format (default out.json)")
    parser.add_argument("--threshold", type=float, default=0.3, help="smallest score of a track, 0..1 (default 0.3)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: the first GPU, or else the CPU)")
    parser.add_argument(
        "--dtype",
        choices=["auto", "float32", "bfloat16", "float16"],
        default="auto",
        help="of the model (default auto: that of the checkpoint)",
    )
    parser.add_argument(
        "--max-frames", type=int, default=36, help="longest clip that the model sees at once (default 36)"
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    return run(predict, parse_arguments(arguments))


def predict(args: argparse.Namespace) -> int:
    from ..predict import SAMPLE_MODEL, SAMPLE_VIDEO, predict_video, track_table

    instances = predict_video(
        args.video or SAMPLE_VIDEO,
        args.model or SAMPLE_MODEL,
        output=args.output,
        json_path=args.json,
        threshold=args.threshold,
        device=args.device,
        dtype=args.dtype,
        max_frames=args.max_frames,
    )
    print(track_table(instances) if len(instances) else f"no track scores {args.threshold} or more")
    for path in (args.output, args.json):
        print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
