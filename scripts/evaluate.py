#!/usr/bin/env python
"""Official YouTube-VIS numbers, offline, of a checkpoint or of a results file.

python scripts/evaluate.py --model DIR --dataset annotations.json [--output results.json]
python scripts/evaluate.py --results results.json --dataset annotations.json
"""

import argparse
import json
import sys
from pathlib import Path

from transformers import pipeline

from transformers_msstsvis.evaluation import format_table, predict_dataset, read_ground_truth
from transformers_msstsvis.metrics.ytvis_map import evaluate_ytvis
from transformers_msstsvis.pipelines import TASK
from transformers_msstsvis.predict import SAMPLE_MODEL


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="YouTube-VIS annotation file with labels")
    parser.add_argument("--frames_dir", help="folder of the frames; JPEGImages beside the annotation file by default")
    parser.add_argument("--model", default=str(SAMPLE_MODEL), help="checkpoint; the bundled one by default")
    parser.add_argument("--results", help="score this results.json instead of running a model")
    parser.add_argument("--output", help="write the results in submission format")
    parser.add_argument("--top_k", type=int, default=10, help="results per video, 10 as published")
    parser.add_argument("--max_frames", type=int, default=36, help="longest clip that the model sees at once")
    parser.add_argument("--device", help="as in every pipeline")
    arguments = parser.parse_args()
    try:
        dataset = read_ground_truth(arguments.dataset)
        if arguments.output:  # before the work, not after it
            Path(arguments.output).parent.mkdir(parents=True, exist_ok=True)
        if arguments.results:
            results = json.loads(Path(arguments.results).read_text())
        else:
            frames_dir = arguments.frames_dir or Path(arguments.dataset).parent / "JPEGImages"
            segmenter = pipeline(TASK, model=arguments.model, device=arguments.device)
            videos = predict_dataset(segmenter, dataset, frames_dir, arguments.top_k, arguments.max_frames)
            results = [result for video in videos for result in video]
        numbers = evaluate_ytvis(dataset, results)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if arguments.output:
        Path(arguments.output).write_text(json.dumps(results))
    print(format_table(numbers, {category["id"]: category["name"] for category in dataset["categories"]}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
