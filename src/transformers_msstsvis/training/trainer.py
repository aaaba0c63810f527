"""Training with the Hugging Face Trainer."""

import json
import re
import shutil
import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm
from transformers import (
    AutoConfig,
    PreTrainedModel,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerState,
    get_scheduler,
)
from transformers.models.auto import CONFIG_MAPPING
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_utils import (
    PREFIX_CHECKPOINT_DIR,
    IntervalStrategy,
    SchedulerType,
    TrainOutput,
    speed_metrics,
)
from transformers.utils import logging

from ..checkpoint_files import check_checkpoint, check_weights, check_weights_file, told_in_words
from ..data.loading import categories_of
from ..data.sampling import EpochCallback
from ..evaluation import category_ids, measure, prediction_sheet
from ..evaluation.tables import NUMBERS
from ..models.auto import AutoModelForVideoInstanceSegmentation
from ..models.msstsvis.discriminator_msstsvis import Adversary, foregrounds
from ..pipelines import VideoInstanceSegmentationPipeline
from ..results.video_instances import VideoInstances
from .model_card import Evaluation, is_hub_name, model_card, training_facts, write_card

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.get_logger(__name__)

SLOW_MODULES = ("sampling_offsets", "reference_points")
TRAINED_WEIGHTS_NAME = "trained_weights.safetensors"


class VisTrainer(Trainer):
    """
    [`~transformers.Trainer`] for video instance segmentation.

    It has the published parameter groups; logs every loss term, averaged over processes; stops at a loss that is not
    finite and leaves the ids of the videos in `nan_batch.json`; evaluates with the official metric, video by video,
    and draws some of the predictions; trains a discriminator beside the model on request. A run that was killed at any
    moment goes on with `train(resume_from_checkpoint=True)` as if it had not been: the same clips in the same order.

    Args:
        backbone_lr_scale: learning rate of the backbone relative to the others'. Published: 0.1, with a pretrained
            backbone; 1 to train from scratch.
        sampling_lr_scale: learning rate of sampling offsets and reference points relative to the others'. Published:
            0.1.
        adversarial: weight of the adversarial loss, which makes predicted masks look like labelled ones to a
            discriminator ([`PatchDiscriminator`]); 0, the default, goes without. The discriminator is saved with every
            checkpoint and is no part of the model.
        discriminator_learning_rate: of the discriminator, with the schedule of the model.
        lr_drops: when all learning rates fall to a tenth, in the place of `lr_scheduler_type` and after
            `warmup_steps`: numbers of steps or, below 1, shares of the training, `"4/12"` being after the fourth of
            twelve epochs. Published: `["4/12", "10/12"]`, and `["2/12", "10/12"]` on YouTube-VIS alone.
        ema_decay: keep an exponential moving average of the weights, such as 0.999; 0, the default, goes without. It
            is the average that is evaluated and saved, also in `model.safetensors` of checkpoints, and that the model
            has after training; the weights that were trained lie beside it in checkpoints, to resume from.
        eval_max_frames: longest clip that the model sees at once in evaluation.
        eval_top_k: results per video in evaluation, 10 as published; with more instances in a video more are needed.
        num_samples: videos to draw at each evaluation, into `samples/step-N` in the output folder and, where it is in
            use, TensorBoard.
        args, kwargs: of [`~transformers.Trainer`]. `eval_dataset` is a data set of [`load_vis_dataset`], or
            [`VideoClips`] of one, or a dict of several such; whole videos are evaluated, with `processing_class`. The
            numbers are named `eval_AP`, `eval_AP50` and so on, so `metric_for_best_model="AP"` keeps the best
            checkpoint. Any other data set is evaluated as in every Trainer.

    Raises:
        ValueError: when the classes of the model are not those of the data set for evaluation, its frames are
            embedded, or there is no `processing_class` for it; for a `metric_for_best_model` that its evaluation does
            not give; for an `eval_max_frames` or `eval_top_k` below 1, or a negative `adversarial`; for `lr_drops`
            that are no positive numbers; for an `ema_decay` that is not in `[0, 1)`, or one together with FSDP or
            DeepSpeed, which split the weights.
        FloatingPointError: in training, when a loss is not finite.
    """

    def __init__(
        self,
        *args,
        backbone_lr_scale: float = 0.1,
        sampling_lr_scale: float = 0.1,
        adversarial: float = 0.0,
        discriminator_learning_rate: float = 1e-4,
        lr_drops: Sequence[float | str] = (),
        ema_decay: float = 0.0,
        eval_max_frames: int = 36,
        eval_top_k: int = 10,
        num_samples: int = 4,
        **kwargs,
    ):
        self.backbone_lr_scale, self.sampling_lr_scale = backbone_lr_scale, sampling_lr_scale
        self.adversarial, self.lr_drops, self.ema_decay = adversarial, read_drops(lr_drops), ema_decay
        for name, value in (("eval_max_frames", eval_max_frames), ("eval_top_k", eval_top_k)):
            if value < 1:
                raise ValueError(f"{name} is {value}; expected at least 1")
        if adversarial < 0:
            raise ValueError(f"adversarial is {adversarial}; expected a weight, or 0 to go without")
        self.eval_max_frames, self.eval_top_k, self.num_samples = eval_max_frames, eval_top_k, num_samples
        self.averaged: AveragedModel | None = None  # in training only
        self._evaluations: dict[str, Evaluation] = {}  # the last one by its prefix
        self._best_step: int | None = None  # of the weights, if they are those of the best checkpoint
        self.cost: str | None = None  # of the training
        self._term_sums: dict[str, torch.Tensor] = {}
        self._term_steps = 0
        super().__init__(*args, **kwargs)
        # Clips are dicts of their own kind, which the collator turns into arguments of the model.
        self.args.remove_unused_columns = False
        callbacks = self.callback_handler.callbacks
        if hasattr(self.train_dataset, "set_epoch") and not any(isinstance(c, EpochCallback) for c in callbacks):
            self.add_callback(EpochCallback())
        self.adversary = None
        if adversarial:
            channels = self.model.config.d_model
            self.adversary = Adversary(channels, discriminator_learning_rate, self.args.seed, self.args.device)
        if ema_decay:
            self._check_averaging()
            self.add_callback(AveragingCallback(self))
        datasets = self.eval_dataset if isinstance(self.eval_dataset, dict) else {"": self.eval_dataset}
        videos = {name: annotated_videos(dataset) for name, dataset in datasets.items()}
        for dataset in videos.values():
            if dataset is not None:
                self._check_evaluation(dataset)
        if videos and None not in videos.values():
            self._check_best(list(videos))

    def create_accelerator_and_postprocess(self):
        # Without a seed of its own, the order of the clips would depend on the random state when training begins.
        if self.args.data_seed is None:
            self.args.data_seed = self.args.seed
        super().create_accelerator_and_postprocess()

    # ------------------------------------------------------------------------------------------------- optimisation

    def create_optimizer(self, model=None):
        """Three groups: the rest, the backbone, and sampling offsets with reference points."""
        model = self.model if model is None else model
        if self.optimizer is None:
            groups: dict[float, list[torch.nn.Parameter]] = {}
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    groups.setdefault(self._lr_scale(name), []).append(parameter)
            optimizer_class, kwargs = self.get_optimizer_cls_and_kwargs(self.args, model)
            self.optimizer = optimizer_class(
                [
                    {
                        "params": parameters,
                        "lr": self.args.learning_rate * scale,
                        "weight_decay": self.args.weight_decay,
                    }
                    for scale, parameters in groups.items()
                ],
                **kwargs,
            )
        return self.optimizer

    def _lr_scale(self, name: str) -> float:
        if ".backbone." in name:
            return self.backbone_lr_scale
        return self.sampling_lr_scale if any(module in name for module in SLOW_MODULES) else 1.0

    def create_scheduler(self, num_training_steps, optimizer=None):
        """One for the model and, of the same kind, one for the discriminator, constant if it depends on a metric."""
        warmup_steps = self.args.get_warmup_steps(num_training_steps)
        drops = sorted(round(drop * num_training_steps if drop < 1 else drop) for drop in self.lr_drops)
        if self.adversary is not None:
            kind, settings = self.args.lr_scheduler_type, self.args.lr_scheduler_kwargs
            if kind in (SchedulerType.REDUCE_ON_PLATEAU, SchedulerType.GREEDY):
                kind, settings = SchedulerType.CONSTANT, None
            optimizer_of_adversary = self.adversary.optimizer
            self.adversary.scheduler = (
                step_schedule(optimizer_of_adversary, drops, warmup_steps)
                if drops
                else get_scheduler(kind, optimizer_of_adversary, warmup_steps, num_training_steps, settings)
            )
        if drops and self.lr_scheduler is None:
            self.lr_scheduler = step_schedule(optimizer or self.optimizer, drops, warmup_steps)
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    def training_step(self, model, inputs, num_items_in_batch=None):
        """A micro-batch; after the last one of a step the discriminator is updated too."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.adversary is not None and self.accelerator.sync_gradients:
            self.adversary.step()
        return loss

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The model's own loss and, in training, the adversarial one; their terms are kept for the next log."""
        outputs = model(**inputs)
        loss = outputs.loss
        if model.training:
            terms = dict(outputs.loss_dict)
            self._check_finite(loss, terms, inputs)
            if self.adversary is not None:
                seen = foregrounds(outputs, inputs["pixel_values_videos"], inputs["labels"], inputs.get("pixel_mask"))
                fooling, telling = self.adversary.losses(seen, self.current_gradient_accumulation_steps)
                terms |= {"loss_adversarial": fooling, "loss_discriminator": telling}
                loss = loss + self.adversarial * fooling
                self._check_finite(loss, terms, inputs)
            for name, value in terms.items():
                self._term_sums[name] = self._term_sums.get(name, 0.0) + value.detach()
            self._term_steps += 1
        return (loss, outputs) if return_outputs else loss

    def _check_finite(self, loss: torch.Tensor, terms: dict[str, torch.Tensor], inputs: dict[str, Any]) -> None:
        if torch.isfinite(loss):
            return
        values = {name: value.item() for name, value in terms.items()}
        bad = [name for name, value in values.items() if not np.isfinite(value)]
        rank = self.args.process_index
        report = {
            "step": self.state.global_step,
            "video_ids": [int(target["video_id"]) for target in inputs["labels"] if "video_id" in target],
            "terms": {name: value if np.isfinite(value) else str(value) for name, value in values.items()},
        }
        path = Path(self.args.output_dir, f"nan_batch_{rank}.json" if rank else "nan_batch.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report, indent=2) + "\n")
        raise FloatingPointError(
            f"the loss is {loss.item()} at step {self.state.global_step} ({', '.join(bad) or 'only the sum'}), videos "
            f"{report['video_ids']}, see {path}; expected a finite number: look at their annotations, lower "
            "learning_rate or max_grad_norm, or train without fp16, and resume from the last checkpoint"
        )

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        """Add the mean of every loss term since the last log; suffix `_i` = after decoder layer i, none = last."""
        if "loss" in logs and self._term_steps:
            sums = torch.stack([total.float() for total in self._term_sums.values()])
            means = self.accelerator.reduce(sums / self._term_steps, "mean").tolist()
            logs |= {name: round(mean, 4) for name, mean in zip(self._term_sums, means, strict=True)}
            self._term_sums, self._term_steps = {}, 0
        super().log(logs, *args, **kwargs)

    # ---------------------------------------------------------------------------------------------------- averaging

    def _check_averaging(self) -> None:
        if not 0 < self.ema_decay < 1:
            raise ValueError(f"ema_decay is {self.ema_decay}; expected a number from 0, for none, to below 1")
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            kind = "FSDP" if self.is_fsdp_enabled else "DeepSpeed"
            raise ValueError(
                f"ema_decay is {self.ema_decay} with {kind}, whose processes hold parts of the weights; expected one "
                f"process, or several with DDP: leave ema_decay out, or start the processes without {kind}"
            )

    def update_average(self) -> None:
        """Take the weights as they are into their average."""
        if self.averaged is None:
            # Statistics of batch norms are averaged like the weights that they belong to.
            average = get_ema_multi_avg_fn(self.ema_decay)
            self.averaged = AveragedModel(self.model, multi_avg_fn=average, use_buffers=True)
        self.averaged.update_parameters(self.model)

    @contextmanager
    def _averaged_weights(self) -> Iterator[None]:
        """The model with the average, where there is one, in the place of the weights in training."""
        if self.averaged is None:
            yield
            return
        trained = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.model.load_state_dict(self.averaged.module.state_dict())
        try:
            yield
        finally:
            self.model.load_state_dict(trained)

    # -------------------------------------------------------------------------------------------------- checkpoints

    def train(self, resume_from_checkpoint: str | bool | None = None, *args, **kwargs):
        """
        Train. With `resume_from_checkpoint=True` go on from the last complete checkpoint in the output folder.

        Raises:
            ValueError: when there is none, the one that is named is damaged, or another run writes into the folder.
            OSError: when a checkpoint can't be saved; those before it are kept.
        """
        with output_lock(self.args.output_dir, self.is_world_process_zero()):
            return self._train(resume_from_checkpoint, *args, **kwargs)

    def _train(self, resume_from_checkpoint: str | bool | None, *args, **kwargs):
        if resume_from_checkpoint is True:
            folder = Path(self.args.output_dir)
            resume_from_checkpoint = last_checkpoint(folder)
            if resume_from_checkpoint is None:
                raise ValueError(
                    f"{folder} has no complete checkpoint to resume from; expected a folder "
                    f"{PREFIX_CHECKPOINT_DIR}-N: check output_dir, or train from the start"
                )
            for later, what in damaged_checkpoints(folder):
                if steps_of(later) > steps_of(resume_from_checkpoint):
                    logger.warning(f"{later} is passed over: {what}")
        if resume_from_checkpoint:
            self._check_resumable(Path(resume_from_checkpoint))
        earlier = None if resume_from_checkpoint else last_checkpoint(self.args.output_dir)
        if earlier is not None:
            logger.warning(
                f"{earlier} is of an earlier run, and resume_from_checkpoint=True goes on from the checkpoint of the "
                "most steps: remove it, or choose another output_dir, to keep the runs apart"
            )
        self.averaged, self._best_step, self._evaluations, self.cost = None, None, {}, None
        if resume_from_checkpoint and self._has_all_steps(resume_from_checkpoint):
            return self._take_over(resume_from_checkpoint)
        output = super().train(resume_from_checkpoint, *args, **kwargs)
        if self.args.load_best_model_at_end and self._best_step is None:
            logger.warning("no evaluated step was saved, so the weights are those of the last step, not of the best")
        if self.averaged is not None:
            self.model.load_state_dict(self.averaged.module.state_dict())
            self.averaged = None
        steps = self.state.global_step - self._initial_global_step
        self.cost = f"{output.metrics['train_runtime'] / 60:.1f} minutes for {steps} steps"
        return output

    def _check_resumable(self, checkpoint: Path) -> None:
        """Say what a checkpoint lacks to go on from it as if the run had not been stopped."""
        if checkpoint.is_dir() and (what := damage(checkpoint)):
            raise ValueError(f"{checkpoint} can't be resumed from: {what}")
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:  # which have files of their own
            return
        rank = f"_{self.args.process_index}" if self.args.world_size > 1 else ""
        names = (OPTIMIZER_NAME, SCHEDULER_NAME, f"rng_state{rank}.pth")
        missing = [name for name in names if not (checkpoint / name).is_file()]
        if checkpoint.is_dir() and missing:
            logger.warning(
                f"{checkpoint} has no {', '.join(missing)}: what belongs there starts anew, so that the run will not "
                "end with the parameters of one that was never stopped"
            )

    def _has_all_steps(self, checkpoint: str | Path) -> bool:
        # Without max_steps a run ends with an epoch, which every Trainer recognises.
        if self.is_fsdp_enabled or self.is_deepspeed_enabled or not is_complete(Path(checkpoint)):
            return False
        steps = TrainerState.load_from_json(str(Path(checkpoint, TRAINER_STATE_NAME))).global_step
        return steps >= self.args.max_steps > 0

    def _take_over(self, checkpoint: str | Path) -> TrainOutput:
        """What a finished run ended with; a Trainer would take one more step."""
        self.state = TrainerState.load_from_json(str(Path(checkpoint, TRAINER_STATE_NAME)))
        best = self.state.best_model_checkpoint
        if self.args.load_best_model_at_end and best is not None and Path(best).is_dir():
            self._load_best_model()
        else:
            super()._load_from_checkpoint(str(checkpoint))
        logger.warning(f"{checkpoint} has all of its {self.args.max_steps} steps: there is nothing left to train")
        return TrainOutput(self.state.global_step, 0.0, {})

    def _save_checkpoint(self, model, trial):
        # The state of the Trainer is written last, so a folder that has it is complete.
        folder = Path(self._get_output_dir(trial), f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
        if self.args.should_save:
            (folder / TRAINER_STATE_NAME).unlink(missing_ok=True)
        try:
            super()._save_checkpoint(model, trial)
        except BaseException as error:
            if self.args.should_save and not is_complete(folder):
                shutil.rmtree(folder, ignore_errors=True)
            # safetensors and PyTorch have errors of their own for a file that can't be written
            if isinstance(error, OSError | SafetensorError) or "inline_container" in str(error):
                told = " ".join(str(error).split())
                raise OSError(
                    f"{folder} can't be saved ({told}); the checkpoints before it are kept: make room, and resume "
                    "from the last one"
                ) from error
            raise

    def _save_rng_state(self, output_dir):
        super()._save_rng_state(output_dir)
        self.accelerator.wait_for_everyone()  # each process has its own, and all belong to a complete checkpoint

    def save_model(self, *args, **kwargs):
        """Save the model, with the averaged weights where there are such."""
        with self._averaged_weights():
            super().save_model(*args, **kwargs)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        with told_in_words(resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        trained = Path(resume_from_checkpoint, TRAINED_WEIGHTS_NAME)
        if trained.is_file():
            if self.ema_decay:
                self.update_average()
            load_model(self.model, trained)
        elif self.ema_decay:
            logger.warning(f"{resume_from_checkpoint} has no {TRAINED_WEIGHTS_NAME}: the average starts anew.")

    def _load_rng_state(self, checkpoint):
        with told_in_words(f"the random state of {checkpoint}"):
            super()._load_rng_state(checkpoint)

    def _load_best_model(self):
        super()._load_best_model()
        self.averaged = None  # the best checkpoint has its own average
        # Not best_global_step, which may be of a later evaluation that was not saved.
        self._best_step = int(Path(self.state.best_model_checkpoint).name.rpartition("-")[2])

    def _save_optimizer_and_scheduler(self, output_dir):
        super()._save_optimizer_and_scheduler(output_dir)
        if self.averaged is not None and self.args.should_save:
            save_model(self.model, str(Path(output_dir, TRAINED_WEIGHTS_NAME)))
        if self.adversary is not None and self.args.should_save:
            self.adversary.save(output_dir)

    def _load_optimizer_and_scheduler(self, checkpoint):
        with told_in_words(f"the optimizer of {checkpoint}"):
            super()._load_optimizer_and_scheduler(checkpoint)
        if self.adversary is not None and checkpoint is not None:
            self.adversary.load(checkpoint)

    # --------------------------------------------------------------------------------------------------- evaluation

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """
        The official numbers of whole annotated videos, see [`YtvisMeanAveragePrecision`]: `eval_AP`, `eval_AP50` and
        so on, in `[0, 1]`, -1 where there is no such ground truth. Every process takes its share of the videos, and of
        a measured video no mask is kept. A video that cannot be read counts as missed, with a warning.
        """
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(dataset, str) and isinstance(self.eval_dataset, dict):
            dataset = self.eval_dataset[dataset]
        videos = annotated_videos(dataset)
        if videos is None:
            with self._averaged_weights():
                return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)

        self._memory_tracker.start()
        start = time.time()
        self._check_evaluation(videos)
        with self._averaged_weights():
            numbers = self._measure(videos, metric_key_prefix)
        self._evaluations[metric_key_prefix] = Evaluation(
            dataset=metric_key_prefix.removeprefix("eval").lstrip("_"),
            num_videos=len(videos),
            step=self.step_of_weights,
            top_k=self.eval_top_k,
            numbers=numbers,
            categories={category["id"]: category["name"] for category in categories_of(videos)},
        )
        metrics = {f"{metric_key_prefix}_{name}": v for name, v in numbers.items() if isinstance(v, float)}
        metrics |= speed_metrics(metric_key_prefix, start, num_samples=len(videos))
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self._memory_tracker.stop_and_update_metrics(metrics)
        return metrics

    def _check_evaluation(self, videos: "Dataset") -> None:
        if self.processing_class is None:
            raise ValueError(
                "there is an eval_dataset but no processing_class; expected a video processor, which prepares whole "
                "videos: pass processing_class=MsstsVisVideoProcessor()"
            )
        if any(folder is None for folder in videos.unique("frames_dir")):
            raise ValueError(
                "the eval_dataset has embedded frames; expected frames as files: load it from its annotation file "
                "with load_vis_dataset"
            )
        category_ids(self.model.config.id2label, categories_of(videos))

    def _check_best(self, names: list[str]) -> None:
        """The metric that tells the best checkpoint: AP unless told otherwise, and one that there is."""
        args = self.args
        metric = (args.metric_for_best_model or "").removeprefix("eval_")
        if not metric:
            return
        known = [f"{name}_{number}".lstrip("_") for name in names for number in NUMBERS]
        if metric == "loss":  # what TrainingArguments puts there; whole videos have none
            args.metric_for_best_model, args.greater_is_better = known[0], True
        elif metric not in known:
            raise ValueError(f"metric_for_best_model is {metric!r}; expected one of {', '.join(known)}")
        by_steps = args.eval_strategy == args.save_strategy == IntervalStrategy.STEPS
        if args.load_best_model_at_end and by_steps and args.eval_steps != args.save_steps:
            logger.warning(
                f"eval_steps is {args.eval_steps:g} and save_steps {args.save_steps:g}: only an evaluation at a step "
                "that is saved can become the best checkpoint; make them equal"
            )

    def _measure(self, videos: "Dataset", prefix: str) -> dict[str, Any]:
        model = self.accelerator.unwrap_model(self.model)
        was_training = model.training
        segmenter = VideoInstanceSegmentationPipeline(
            model=model.eval(), video_processor=self.processing_class, device=self.args.device
        )
        with progress_bars(not self.args.disable_tqdm and self.is_local_process_zero()):
            numbers = measure(
                segmenter,
                videos,
                self.eval_top_k,
                self.eval_max_frames,
                self.args.process_index,
                self.args.world_size,
                on_video=partial(self._draw_sample, prefix),
            )
        model.train(was_training)
        return numbers

    def _draw_sample(self, prefix: str, position: int, video: dict[str, Any], instances: VideoInstances) -> None:
        if position >= self.num_samples or not self.is_world_process_zero():
            return
        try:
            sheet = prediction_sheet([Path(video["frames_dir"], name) for name in video["file_names"]], instances)
            name = "samples" if prefix == "eval" else f"samples_{prefix.removeprefix('eval_')}"
            folder = Path(self.args.output_dir, name, f"step-{self.state.global_step}")
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(sheet).save(folder / f"video-{video['video_id']}.png")
            for callback in self.callback_handler.callbacks:
                writer = getattr(callback, "tb_writer", None)
                if writer is not None:
                    writer.add_image(f"{name}/{video['video_id']}", sheet, self.state.global_step, dataformats="HWC")
        except Exception as error:
            # A picture is not worth a training run.
            logger.warning(f"video {video['video_id']} is not drawn: {error}")

    # --------------------------------------------------------------------------------------------------------- card

    @property
    def step_of_weights(self) -> int:
        """Steps of training behind the weights that the model has."""
        return self.state.global_step if self._best_step is None else self._best_step

    def create_model_card(
        self,
        language: str | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        tasks: str | list[str] | None = None,
        dataset_tags: str | list[str] | None = None,
        dataset: str | list[str] | None = None,
        dataset_args: str | list[str] | None = None,
        eval_dataset_name: str | None = None,
    ) -> None:
        """
        Write `README.md` into the output folder: what evaluations measured with the weights that the model has now, in
        tables and for the Hub, and how it was trained. Nothing else; the license is yours to say. One that was edited
        is left alone.

        Args:
            language, license, tags, model_name, finetuned_from, dataset_tags, dataset: as in every Trainer; license
                and tags of an earlier card are kept.
            tasks, dataset_args: not used.
            eval_dataset_name: what to call the videos of an evaluation that has no name of its own.
        """
        if not self.is_world_process_zero():
            return
        config = self.model.config
        source = finetuned_from or getattr(config, "_name_or_path", "")
        tags, dataset_tags, dataset = (
            [given] if isinstance(given, str) else given for given in (tags, dataset_tags, dataset)
        )
        evaluations = [
            replace(evaluation, dataset=evaluation.dataset or eval_dataset_name or "evaluation")
            for evaluation in self._evaluations.values()
            if evaluation.step == self.step_of_weights
        ]
        card = model_card(
            model_name or Path(self.args.output_dir).name or config.model_type,
            config.model_type,
            self.model.num_parameters(),
            [config.id2label[label] for label in sorted(config.id2label)],
            training_facts(self, source, dataset or dataset_tags or []),
            evaluations,
            language=language,
            license=license,
            tags=tags,
            base_model=source if is_hub_name(source) else None,
            datasets=dataset_tags,
        )
        write_card(card, Path(self.args.output_dir, "README.md"))


class AveragingCallback(TrainerCallback):
    """Averages the weights of a [`VisTrainer`] after every step."""

    def __init__(self, trainer: VisTrainer):
        self.trainer = trainer

    def on_step_end(self, args, state, control, **kwargs):
        self.trainer.update_average()


class BarCallback(ProgressCallback):
    """The progress bar alone, without the logs."""

    def on_log(self, *args, **kwargs):
        pass


class StepCallback(TrainerCallback):
    """Says at every log of the loss how far the training is, and how long it will take."""

    def on_train_begin(self, args, state, control, **kwargs):
        self.start = time.monotonic(), state.global_step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.start[1] + 1:  # the first step takes longer: it builds and loads what all need
            self.first_seconds = time.monotonic() - self.start[0]
            self.start_of_second = time.monotonic()

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not state.is_world_process_zero:
            return
        if "loss" not in logs:
            return tqdm.write(str({name: value for name, value in logs.items() if name != "total_flos"}))
        steps = state.global_step - self.start[1]
        seconds = (time.monotonic() - self.start_of_second) / (steps - 1) if steps > 1 else self.first_seconds
        tqdm.write(step_line(state.global_step, state.max_steps, logs, seconds))


def step_line(step: int, steps: int, logs: dict[str, float], seconds: float) -> str:
    """Where a training is, as text: step, loss, learning rate, seconds of a step, and what is left at this speed."""
    left = round((steps - step) * seconds)
    hours, minutes = divmod(left // 60, 60)
    duration = f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else f"{left} s"
    rate = f"  learning rate {logs['learning_rate']:.1e}" if "learning_rate" in logs else ""
    return f"step {step}/{steps}  loss {float(logs['loss']):.3f}{rate}  {seconds:.2f} s/step  {duration} left"


def report_steps(trainer: Trainer) -> None:
    """Let a trainer on a terminal say a line at every log, in the place of all its numbers."""
    if trainer.pop_callback(ProgressCallback):
        trainer.add_callback(BarCallback)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(StepCallback)


def read_drops(drops: Sequence[float | str]) -> list[Fraction]:
    """
    Numbers of steps, or shares of the training below 1.

    Raises:
        ValueError: for what is no positive number.
    """
    try:
        numbers = [Fraction(drop) for drop in drops]
    except (ValueError, ZeroDivisionError):
        numbers = [Fraction(0)]
    if any(number <= 0 for number in numbers):
        raise ValueError(
            f'lr_drops is {list(drops)}; expected steps such as 6000, or shares of the training such as "4/12" or 0.25'
        )
    return numbers


def step_schedule(optimizer: torch.optim.Optimizer, drops: list[int], warmup_steps: int) -> LambdaLR:
    """Learning rates that rise from 0 in `warmup_steps` and fall to a tenth after each of `drops`, ascending steps."""
    return LambdaLR(optimizer, partial(_step_factor, drops=drops, warmup_steps=warmup_steps))


def _step_factor(step: int, drops: list[int], warmup_steps: int) -> float:
    rise = step / warmup_steps if step < warmup_steps else 1.0
    return rise * 0.1 ** bisect_right(drops, step)


@contextmanager
def progress_bars(shown: bool) -> Iterator[None]:
    """With or without progress bars, whatever the setting outside."""
    before = logging.is_progress_bar_enabled()
    (logging.enable_progress_bar if shown else logging.disable_progress_bar)()
    try:
        yield
    finally:
        (logging.enable_progress_bar if before else logging.disable_progress_bar)()


def annotated_videos(dataset: Any) -> "Dataset | None":
    """The data set of [`load_vis_dataset`] that this is or, as [`VideoClips`], draws from; None if there is none."""
    if not hasattr(dataset, "column_names"):
        dataset = getattr(dataset, "dataset", None)
    columns = {"video_id", "file_names", "frames_dir", "annotations", "categories"}
    return dataset if columns <= set(getattr(dataset, "column_names", ())) else None


def damage(checkpoint: Path) -> str | None:
    """What keeps a run from going on from a checkpoint, or None if it was saved to its end and is whole."""
    try:
        json.loads((checkpoint / TRAINER_STATE_NAME).read_text())
    except (OSError, ValueError):  # it comes last
        return f"{TRAINER_STATE_NAME} is missing or incomplete, so it was not saved to its end"
    try:
        check_weights(checkpoint)
        for pattern in ("*.pt", "*.pth", "*.safetensors"):
            for path in checkpoint.glob(pattern):
                check_weights_file(path)
    except (OSError, ValueError) as error:
        return str(error)
    return None


def is_complete(checkpoint: Path) -> bool:
    """Whether a checkpoint was saved to its end, and its files are whole."""
    return damage(checkpoint) is None


def steps_of(checkpoint: str | Path) -> int | None:
    """The steps of training behind a checkpoint, by its name; None for what is none."""
    number = re.fullmatch(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)", Path(checkpoint).name)
    return int(number[1]) if number else None


def damaged_checkpoints(folder: str | Path) -> list[tuple[Path, str]]:
    """The checkpoints in an output folder that no run can go on from, with the reasons."""
    paths = [path for path in Path(folder).glob(f"{PREFIX_CHECKPOINT_DIR}-*") if steps_of(path) is not None]
    return [(path, what) for path in sorted(paths, key=steps_of) if (what := damage(path))]


def last_checkpoint(folder: str | Path) -> str | None:
    """The complete checkpoint of the most steps in an output folder, or None."""
    paths = Path(folder).glob(f"{PREFIX_CHECKPOINT_DIR}-*")
    complete = [path for path in paths if steps_of(path) is not None and is_complete(path)]
    return str(max(complete, key=steps_of)) if complete else None


@contextmanager
def output_lock(folder: str | Path, needed: bool = True) -> Iterator[None]:
    """
    Keep other runs out of an output folder; the end of the process, whatever it is, lets them in again.

    Args:
        folder: of a run, which may enter again.
        needed: whether this process writes there.

    Raises:
        ValueError: when another run has it.
    """
    if not needed:
        yield
        return
    path = Path(folder, ".training.lock")
    lock = FileLock(path, timeout=0, is_singleton=True)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise ValueError(
            f"another run is writing into {folder}: choose another output_dir, or wait for its end"
        ) from error
    except OSError as error:  # not every file system has locks
        logger.warning(f"{folder} can't be locked ({error}): keep other runs out of it")
        yield
        return
    try:
        yield
    finally:
        if lock.lock_counter == 1:
            with suppress(OSError):  # some systems keep what is open
                path.unlink()
        lock.release()


def load_for_training(checkpoint: str | Path, **settings) -> PreTrainedModel:
    """
    A model to fine-tune. Heads of another number of classes start anew.

    Args:
        checkpoint: folder or Hub name.
        settings: what to change in its configuration, such as `id2label`. With another `model_type` than the
            checkpoint's the model is of that type and its default settings, and has the weights that both have in
            common: an MS-STS VIS model starts as exactly the SeqFormer of the checkpoint.

    Raises:
        FileNotFoundError: if there is no such checkpoint.
        ValueError: for a `model_type` or a setting that is not known.
    """
    check_checkpoint(checkpoint)
    config = AutoConfig.from_pretrained(checkpoint)
    model_type = settings.pop("model_type", config.model_type)
    if model_type not in CONFIG_MAPPING:
        raise ValueError(f'model_type is {model_type!r}; expected one such as "msstsvis" or "seqformer"')
    unknown = [name for name in settings if not hasattr(config, name)]
    if unknown:
        raise ValueError(f"the configuration of {checkpoint} has no {', '.join(unknown)}; expected arguments of it")
    if model_type == config.model_type:
        config = AutoConfig.from_pretrained(checkpoint, **settings)
    else:
        defaults = type(config)().to_dict()
        chosen = {name: value for name, value in config.to_dict().items() if value != defaults.get(name)}
        for name in ("architectures", "transformers_version"):
            chosen.pop(name, None)
        config = CONFIG_MAPPING[model_type](**(chosen | settings))
    return AutoModelForVideoInstanceSegmentation.from_pretrained(
        checkpoint, config=config, ignore_mismatched_sizes=True
    )


__all__ = ["VisTrainer", "last_checkpoint", "load_for_training"]
