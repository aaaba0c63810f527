"""
scripts/train.py in shards over the processes of a CPU, for tests:

    accelerate launch --config_file scripts/configs/accelerate/fsdp-cpu.yaml tests/fsdp_on_cpu.py --config RECIPE ...

Every process writes `shards-RANK.json` into the output folder: how many numbers of the weights it holds, of how many.
"""

import json
import sys
from pathlib import Path

from accelerate.state import PartialState
from accelerate.utils import DistributedType
from transformers import HfArgumentParser, TrainingArguments

from transformers_msstsvis.commands.train import read_recipe
from transformers_msstsvis.training.arguments import Arguments
from transformers_msstsvis.training.run import make_trainer


def main() -> None:
    parser = HfArgumentParser((Arguments, TrainingArguments))
    arguments, training = parser.parse_args_into_dataclasses(read_recipe(sys.argv[1:]))
    assert training.device.type == "cpu"  # and now the processes know each other
    # accelerate shards for every kind of device but this one, over the same calls of PyTorch.
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    trainer = make_trainer(arguments, training)
    trainer.train()
    trainer.save_model()
    trainer.save_state()
    weights = list(trainer.model_wrapped.parameters())
    shards = {
        "held": sum(weight.to_local().numel() for weight in weights),
        "all": sum(weight.numel() for weight in weights),
    }
    Path(training.output_dir, f"shards-{training.process_index}.json").write_text(json.dumps(shards))


if __name__ == "__main__":
    main()
