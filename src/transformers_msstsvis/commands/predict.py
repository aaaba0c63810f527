"""Finds, segments and tracks the objects of videos, and draws them on these.

transformers-msstsvis predict                                       the sample clip with the small model of the package
transformers-msstsvis predict clip.mp4 --model DIR --output out.mp4 --json out.json
transformers-msstsvis predict a.mp4 b.mp4 videos/ --model DIR --output results       several videos, into a folder
"""

import argparse
from pathlib import Path

from .command_line import Parser, add_tracker_flag, reason, run, say


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(prog="transformers-msstsvis predict", description=__doc__)
    parser.add_argument(
        "videos",
        nargs="*",
        metavar="video",
        help="file, URL, folder of frames or of videos, or glob pattern; several of them (default: sample clip)",
    )
    parser.add_argument("--model", help="folder or Hub name of a checkpoint (default: the small one of the package)")
    parser.add_argument(
        "--output",
        help="annotated video: .mp4, .webm, .gif, or a folder for PNG frames (default out.mp4); of several videos a "
        "folder for the annotated videos and JSON files (default out)",
    )
    parser.add_argument(
        "--json", "--json_path", help="tracks of one video in YouTube-VIS results format (default out.json)"
    )
    parser.add_argument(
        "--masks", "--masks_dir", metavar="DIR", help="write a palette PNG of track ids for every frame there"
    )
    parser.add_argument(
        "--attention",
        type=int,
        metavar="TRACK",
        help="--output shows where the model looks for this track of one video; also a .png, a sheet of its frames",
    )
    parser.add_argument("--threshold", type=float, default=0.3, help="smallest score of a track, 0..1 (default 0.3)")
    parser.add_argument("--classes", nargs="+", metavar="NAME", help="only tracks of these classes")
    parser.add_argument("--top-k", type=int, default=10, help="candidates that are kept per clip (default 10)")
    parser.add_argument(
        "--duplicate-iou",
        type=float,
        default=0.5,
        help="mask IoU from which a track is the same object as a better one, and left out; 1 keeps all (default 0.5)",
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: the first GPU, or else the CPU)")
    parser.add_argument(
        "--dtype",
        choices=["auto", "float32", "bfloat16", "float16"],
        default="auto",
        help="of the model (default auto: that of the checkpoint)",
    )
    parser.add_argument("--max-frames", type=int, help="longest clip that the model sees at once (default 36)")
    add_tracker_flag(parser)
    parser.add_argument(
        "--public-urls", action="store_true", help="refuse URLs that lead to this machine or its private networks"
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    return run(predict, parse_arguments(arguments))


def predict(args: argparse.Namespace) -> int:
    from ..predict import SAMPLE_MODEL, SAMPLE_VIDEO, list_videos
    from ..video.download import is_url

    swallowed = [name for name in args.classes or [] if Path(name).exists() or is_url(name)]
    if swallowed:
        raise ValueError(f"--classes takes {', '.join(swallowed)} for classes; put the videos before --classes")
    sources = args.videos or [SAMPLE_VIDEO]
    options = {
        "model": args.model or SAMPLE_MODEL,
        "masks_dir": args.masks,
        "threshold": args.threshold,
        "classes": args.classes,
        "top_k": args.top_k,
        "duplicate_iou": args.duplicate_iou,
        "max_frames": args.max_frames,
        "tracker": args.tracker,
        "device": args.device,
        "dtype": args.dtype,
        "public_urls": args.public_urls,
    }
    videos = list_videos(sources)
    if len(videos) == 1 and (videos == sources or isinstance(videos[0], list)):
        return predict_one(videos[0], args, options)
    if args.json is not None:
        raise ValueError(f"--json is for one video, and these are {len(videos)}; --output DIR has a JSON file of each")
    if args.attention is not None:
        raise ValueError(f"--attention is for a track of one video, and these are {len(videos)}; name one")
    return predict_several(sources, args, options)


def predict_one(video, args: argparse.Namespace, options: dict) -> int:
    from ..predict import predict_video

    output = "out.mp4" if args.output is None else args.output
    tracks = "out.json" if args.json is None else args.json
    instances = predict_video(video, output=output, json_path=tracks, attention=args.attention, **options)
    show(instances, args)
    for path in (output, tracks, args.masks):
        if path is not None:
            print(f"wrote {path}")
    return 0


def predict_several(sources, args: argparse.Namespace, options: dict) -> int:
    from ..predict import predict_videos

    failed = 0
    output = "out" if args.output is None else args.output
    for video, result, outputs in predict_videos(sources, output=output, **options):
        print(video)
        if isinstance(result, Exception):
            failed += 1
            say(f"error: {video}: {reason(result)}")
            continue
        show(result, args)
        for path in outputs:
            if path is not None:
                print(f"wrote {path}")
    if failed:
        say(f"error: {failed} of the videos failed; the results of the others are written")
    return int(failed > 0)


def show(instances, args: argparse.Namespace) -> None:
    from ..predict import track_table

    if len(instances):
        print(track_table(instances))
        return
    print(f"no track scores {args.threshold} or more; try a lower one, such as --threshold {args.threshold / 3:.2g}")
    if args.classes:
        print(f"only {', '.join(args.classes)} was asked for; without --classes every class counts")
    if not args.model:
        names = ", ".join((instances.id2label or {}).values())
        print(f"the checkpoint of the package knows synthetic shapes only ({names}); name another with --model")


if __name__ == "__main__":
    raise SystemExit(main())
