"""Finds, segments and tracks the objects of videos, and draws them on these.

transformers-msstsvis predict                                       the sample clip with the small model of the package
transformers-msstsvis predict clip.mp4 --model DIR --output out.mp4 --json out.json
transformers-msstsvis predict a.mp4 b.mp4 videos/ --model DIR --output results       several videos, into a folder

Results of several videos that are there are not made again. Of the videos of a list, or of a folder, processes take
their share: of a SLURM array, of torchrun or accelerate launch, or as --shard says.
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
        help="file, URL, folder of frames or of videos, glob pattern, or text file with one of these in each line; "
        "several of them (default: sample clip)",
    )
    parser.add_argument("--model", help="folder or Hub name of a checkpoint (default: the small one of the package)")
    parser.add_argument(
        "--output",
        help="annotated video: .mp4, .webm, .gif, or a folder for PNG frames (default out.mp4); of several videos a "
        "folder for the annotated videos and JSON files (default out)",
    )
    parser.add_argument(
        "--json",
        "--json_path",
        help="tracks of one video in YouTube-VIS format (default out.json); .jsonl: a line for each frame",
    )
    parser.add_argument(
        "--masks", "--masks_dir", metavar="DIR", help="write a palette PNG of track ids for every frame there"
    )
    parser.add_argument(
        "--per-instance", action="store_true", help="--masks gets a folder of masks for each track instead"
    )
    parser.add_argument(
        "--export",
        nargs=2,
        action="append",
        default=[],
        metavar=("FORMAT", "PATH"),
        help="write another format of one video, such as cvat tracks.xml; again for more (formats: "
        "coco, cvat, csv, label_studio, masks, mots, mots_txt, ...)",
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
        help="of the model (default auto: that of the checkpoint); bfloat16 is faster on CPUs that have it",
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="torch.compile: minutes at the first clip; what it gains depends on model and device",
    )
    parser.add_argument("--frames", metavar="FIRST:END", help="only these frames, such as 100:400, counted from 0")
    parser.add_argument("--stride", type=int, metavar="N", help="only every n-th frame")
    parser.add_argument("--fps", type=float, help="frames per second at most, by leaving out others")
    parser.add_argument("--max-side", type=int, metavar="PIXELS", help="make larger frames smaller, outputs included")
    parser.add_argument("--max-frames", type=int, help="longest clip that the model sees at once (default 36)")
    add_tracker_flag(parser)
    parser.add_argument("--overlap", choices=["any", "none"], help="none: give every pixel to one track (default any)")
    parser.add_argument(
        "--resume", action="store_true", help="go on with a run of one video that was stopped, with the same results"
    )
    parser.add_argument("--shard", metavar="I/N", help="the share of the videos that is meant, such as 2/8")
    parser.add_argument("--overwrite", action="store_true", help="make the results of several videos anew")
    parser.add_argument("--quiet", action="store_true", help="say nothing but what went wrong")
    parser.add_argument(
        "--public-urls", action="store_true", help="refuse URLs that lead to this machine or its private networks"
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    return run(predict, parse_arguments(arguments))


def predict(args: argparse.Namespace) -> int:
    from transformers.utils import logging

    from ..predict import SAMPLE_MODEL, SAMPLE_VIDEO
    from ..prediction.videos import list_videos
    from ..video.download import is_url

    if args.quiet:
        logging.disable_progress_bar()
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
        "overlap": args.overlap,
        "frames": args.frames,
        "frame_stride": args.stride,
        "fps": args.fps,
        "max_side": args.max_side,
        "per_instance": args.per_instance,
        "device": args.device,
        "dtype": args.dtype,
        "compile": args.compile,
        "public_urls": args.public_urls,
    }
    videos = list_videos(sources)
    if args.per_instance and args.masks is None:
        raise ValueError("--per-instance says what --masks DIR gets; give both")
    several = args.shard is not None or args.overwrite
    if not several and len(videos) == 1 and (videos == sources or isinstance(videos[0], list)):
        return predict_one(videos[0], args, options)
    if args.attention is not None:
        raise ValueError(f"--attention is for a track of one video, and these are {len(videos)}; name one")
    if args.resume:
        raise ValueError("--resume is for one video; several go on where they were when they are started again")
    for flag, given in (("--json", args.json), ("--export", args.export)):
        if given:
            raise ValueError(
                f"{flag} is for one video, and these are {len(videos)}; --output DIR has a JSON file of each"
            )
    return predict_several(sources, args, options)


def predict_one(video, args: argparse.Namespace, options: dict) -> int:
    from ..predict import TrackTable, predict_video, stream_video

    output = "out.mp4" if args.output is None else args.output
    tracks = "out.json" if args.json is None else args.json
    table = TrackTable()
    if args.attention is not None and (args.export or args.resume):
        raise ValueError("--attention draws one track; leave out --export and --resume, or run without it before")
    if args.attention is not None:
        table.add(predict_video(video, output=output, json_path=tracks, attention=args.attention, **options))
    else:
        more = {"exports": args.export, "resume": args.resume}
        for instances in stream_video(video, output=output, json_path=tracks, **more, **options):
            table.add(instances)
    show(table, args)
    for path in (output, tracks, args.masks, *(path for _, path in args.export)):
        if path is not None:
            tell(f"wrote {path}", args)
    return 0


def predict_several(sources, args: argparse.Namespace, options: dict) -> int:
    from ..predict import TrackTable, predict_videos

    done = failed = 0
    output = "out" if args.output is None else args.output
    share = {"shard": args.shard, "overwrite": args.overwrite}
    for video, result, outputs in predict_videos(sources, output=output, **share, **options):
        tell(video, args)
        if isinstance(result, Exception):
            failed += 1
            say(f"error: {video}: {reason(result)}")
        elif result is None:
            done += 1
        else:
            show(TrackTable().add(result), args)
            for path in outputs.paths:
                tell(f"wrote {path}", args)
    if done:
        tell(f"{done} of the videos were done before; --overwrite makes their results anew", args)
    if failed:
        say(f"error: {failed} of the videos failed, see {output}/errors.jsonl; the results of the others are written")
    return int(failed > 0)


def show(table, args: argparse.Namespace) -> None:
    if len(table):
        tell(str(table), args)
        return
    tell(
        f"no track scores {args.threshold} or more; try a lower one, such as --threshold {args.threshold / 3:.2g}",
        args,
    )
    if args.classes:
        tell(f"only {', '.join(args.classes)} was asked for; without --classes every class counts", args)
    if not args.model:
        names = ", ".join(table.class_names)
        tell(f"the checkpoint of the package knows synthetic shapes only ({names}); name another with --model", args)


def tell(line: str, args: argparse.Namespace) -> None:
    if not args.quiet:
        print(line)


if __name__ == "__main__":
    raise SystemExit(main())
