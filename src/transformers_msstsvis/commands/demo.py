"""Opens a page to try models on videos, in the browser of this machine.

transformers-msstsvis demo                                     with the small model of the package
transformers-msstsvis demo --model DIR owner/name --open       models to choose from
"""

import argparse

from .command_line import Parser, run


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(prog="transformers-msstsvis demo", description=__doc__)
    parser.add_argument(
        "--model",
        nargs="+",
        default=[],
        help="folders or Hub names of checkpoints to choose from (default: the small one of the package)",
    )
    parser.add_argument("--max-seconds", type=float, default=30, help="of a video that are segmented (default 30)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0: for others, too")
    parser.add_argument("--port", type=int, help="to listen on (default: the first free one from 7860)")
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    parser.add_argument("--share", action="store_true", help="make a public address, through a server of gradio")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    return run(demo, parse_arguments(arguments))


def demo(args: argparse.Namespace) -> None:
    from ..demo import build_page, launch_page
    from ..pipelines import SAMPLE_MODEL

    if args.max_seconds <= 0:
        raise ValueError(f"--max-seconds is {args.max_seconds:g}; expected more than 0")
    page = build_page(args.model or [SAMPLE_MODEL], args.max_seconds)
    launch_page(page, server_name=args.host, server_port=args.port, inbrowser=args.open, share=args.share)


if __name__ == "__main__":
    raise SystemExit(main())
