"""Writes a set of synthetic videos in YouTube-VIS 2019 format.

transformers-msstsvis make-synthetic --output data/train --seed 0 --videos 1000 --workers 4
"""

import argparse
import json

from .command_line import Parser, run


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(prog="transformers-msstsvis make-synthetic", description=__doc__)
    parser.add_argument("--output", required=True, help="folder to write to; must be empty unless --overwrite")
    parser.add_argument("--seed", type=int, default=0, help="the same seed writes the same videos (default 0)")
    parser.add_argument(
        "--videos", "--num-videos", dest="num_videos", type=int, default=100, help="number of videos (default 100)"
    )
    parser.add_argument("--height", type=int, default=128, help="pixels (default 128)")
    parser.add_argument("--width", type=int, default=128, help="pixels (default 128)")
    parser.add_argument("--min-frames", type=int, default=8, help="shortest video (default 8)")
    parser.add_argument("--max-frames", type=int, default=24, help="longest video (default 24)")
    parser.add_argument("--min-objects", type=int, default=1, help="fewest objects in a video (default 1)")
    parser.add_argument("--max-objects", type=int, default=5, help="most objects in a video (default 5)")
    parser.add_argument("--look-alikes", action="store_true", help="one class and texture a video, closer together")
    parser.add_argument("--image-format", choices=["jpg", "png"], default="jpg", help="png is lossless (default jpg)")
    parser.add_argument(
        "--workers",
        "--num-workers",
        dest="num_workers",
        type=int,
        default=0,
        help="extra processes (default 0); don't change the result",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace videos of the same name in --output")
    return run(write_videos, parser.parse_args(arguments), parser)


def write_videos(args: argparse.Namespace, parser: Parser) -> None:
    from ..data.synthetic import make_synthetic
    from ..files import check_writable_folder

    check_writable_folder(args.output)
    try:
        annotation_path = make_synthetic(**vars(args), progress=True)
    except ValueError as error:
        parser.error(str(error))
    document = json.loads(annotation_path.read_text(encoding="utf-8"))
    frames = sum(video["length"] for video in document["videos"])
    print(
        f"wrote {len(document['videos'])} videos ({frames} frames, {len(document['annotations'])} objects, "
        f"{len(document['categories'])} classes) to {annotation_path}"
    )


if __name__ == "__main__":
    raise SystemExit(main())
