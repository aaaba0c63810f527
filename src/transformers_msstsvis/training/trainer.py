"""Training with the Hugging Face Trainer."""

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers
from PIL import Image
from safetensors.torch import load_model, save_model
from torch.optim.swa_utils import AveragedModel
from transformers import Trainer, get_scheduler
from transformers.trainer_utils import (
    PREFIX_CHECKPOINT_DIR,
    IntervalStrategy,
    SchedulerType,
    TrainOutput,
    speed_metrics,
)
from transformers.utils import logging

from ..checkpoint_files import told_in_words
from ..data.loading import categories_of
from ..data.sampling import EpochCallback
from ..evaluation import category_ids, measure, prediction_sheet
from ..evaluation.tables import NUMBERS
from ..pipelines import VideoInstanceSegmentationPipeline
from ..results.video_instances import VideoInstances
from .averaging import TRAINED_WEIGHTS_NAME, AveragingCallback, averaged_weights, check_decay, new_average
from .checkpoints import (
    check_undamaged,
    checkpoint_to_resume,
    is_complete,
    last_checkpoint,
    output_lock,
    saving,
    state_of,
    warn_of_missing_states,
)
from .model_card import Evaluation, is_hub_name, model_card, write_card
from .progress import progress_bars
from .schedule import read_drops, step_schedule

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.get_logger(__name__)


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
            discriminator ([`PatchDiscriminator`]); 0, the default, goes without. Only for models that can show it
            their masks (`foregrounds`). The discriminator is saved with every checkpoint and is no part of the model.
        discriminator_learning_rate: of the discriminator, with the schedule of the model.
        lr_drops: when all learning rates fall to a tenth, in the place of `lr_scheduler_type` and after
            `warmup_steps`: numbers of steps or, below 1, shares of the training, `"4/12"` being after the fourth of
            twelve epochs. Published: `["4/12", "10/12"]`, and `["2/12", "10/12"]` on YouTube-VIS alone.
        ema_decay: keep an exponential moving average of the weights, such as 0.999; 0, the default, goes without. It
            is the average that is evaluated and saved, also in `model.safetensors` of checkpoints, and that the model
            has after training; the weights that were trained lie beside it in checkpoints, to resume from.
        eval_max_frames: longest clip that the model sees at once in evaluation, as `max_frames` of the pipeline.
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
            not give; for an `eval_max_frames` or `eval_top_k` below 1, a negative `adversarial`, or one for a model
            without `foregrounds`; for `lr_drops` that are no positive numbers; for an `ema_decay` that is not in
            `[0, 1)`, or one together with FSDP or DeepSpeed, which split the weights.
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
        eval_max_frames: int | None = None,
        eval_top_k: int = 10,
        num_samples: int = 4,
        **kwargs,
    ):
        self.backbone_lr_scale, self.sampling_lr_scale = backbone_lr_scale, sampling_lr_scale
        self.adversarial, self.lr_drops, self.ema_decay = adversarial, read_drops(lr_drops), ema_decay
        for name, value in (("eval_max_frames", eval_max_frames), ("eval_top_k", eval_top_k)):
            if value is not None and value < 1:
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
            if not hasattr(self.model, "foregrounds"):
                raise ValueError(
                    f"adversarial is {adversarial}, and {type(self.model).__name__} has no method foregrounds to "
                    "show its masks to a discriminator; expected 0 for this model"
                )
            self.adversary = self.model.make_adversary(discriminator_learning_rate, self.args.seed, self.args.device)
        if ema_decay:
            check_decay(ema_decay, self._splitter)
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
        """A group for each learning rate, which `lr_group` of the model tells by the names of parameters."""
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
        scales = {"backbone": self.backbone_lr_scale, "sampling": self.sampling_lr_scale}
        return scales.get(self.accelerator.unwrap_model(self.model).lr_group(name), 1.0)

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
                seen = self.accelerator.unwrap_model(model).foregrounds(
                    outputs, inputs["pixel_values_videos"], inputs["labels"], inputs.get("pixel_mask")
                )
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

    def update_average(self) -> None:
        """Take the weights as they are into their average."""
        if self.averaged is None:
            self.averaged = new_average(self.model, self.ema_decay)
        self.averaged.update_parameters(self.model)

    # ------------------------------------------------------------------------------------------------------ the run

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
            resume_from_checkpoint = checkpoint_to_resume(self.args.output_dir)
        if resume_from_checkpoint:
            check_undamaged(resume_from_checkpoint)
            if self._splitter is None:  # the others have files of their own
                warn_of_missing_states(
                    resume_from_checkpoint, self.args.process_index if self.args.world_size > 1 else None
                )
        elif (earlier := last_checkpoint(self.args.output_dir)) is not None:
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

    @property
    def _splitter(self) -> str | None:
        """What splits the weights over processes, if anything does."""
        return "FSDP" if self.is_fsdp_enabled else "DeepSpeed" if self.is_deepspeed_enabled else None

    def _has_all_steps(self, checkpoint: str | Path) -> bool:
        # Without max_steps a run ends with an epoch, which every Trainer recognises.
        if self._splitter is not None or not is_complete(Path(checkpoint)):
            return False
        return state_of(checkpoint).global_step >= self.args.max_steps > 0

    def _take_over(self, checkpoint: str | Path) -> TrainOutput:
        """What a finished run ended with; a Trainer would take one more step."""
        self.state = state_of(checkpoint)
        best = self.state.best_model_checkpoint
        if self.args.load_best_model_at_end and best is not None and Path(best).is_dir():
            self._load_best_model()
        else:
            super()._load_from_checkpoint(str(checkpoint))
        logger.warning(f"{checkpoint} has all of its {self.args.max_steps} steps: there is nothing left to train")
        return TrainOutput(self.state.global_step, 0.0, {})

    def save_model(self, *args, **kwargs):
        """Save the model, with the averaged weights where there are such."""
        with averaged_weights(self.model, self.averaged):
            super().save_model(*args, **kwargs)

    # ---------------------------------------------------------- private methods of Trainer, tested to be still there

    def _save_checkpoint(self, model, trial):
        folder = Path(self._get_output_dir(trial), f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
        with saving(folder, self.args.should_save):
            super()._save_checkpoint(model, trial)

    def _save_rng_state(self, output_dir):
        super()._save_rng_state(output_dir)
        self.accelerator.wait_for_everyone()  # each process has its own, and all belong to a complete checkpoint

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
            with averaged_weights(self.model, self.averaged):
                return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)

        self._memory_tracker.start()
        start = time.time()
        self._check_evaluation(videos)
        with averaged_weights(self.model, self.averaged):
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
                "videos: pass that of the model"
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

    def training_facts(self, source: str, data: Sequence[str]) -> dict[str, Any]:
        """
        How the model was trained, by the names of a card.

        Args:
            source: checkpoint that it started from, or an empty string. Of a path, the last part is told.
            data: names of the training data.
        """
        args, clips = self.args, self.train_dataset
        device = torch.cuda.get_device_name(args.device) if args.device.type == "cuda" else args.device.type
        schedule = args.lr_scheduler_type.value
        if self.lr_drops:
            schedule = f"a tenth after {' and '.join(map(str, self.lr_drops))} (steps, or shares of the training)"
        scales = f"backbone x{self.backbone_lr_scale}, offsets and reference points x{self.sampling_lr_scale}"
        facts = {
            "data": ", ".join(data),
            "started from": Path(source).name,
            "steps": self.step_of_weights,
            "time": self.cost,
            "devices": f"{args.world_size} x {device}",
            "clips in an epoch": len(clips) if hasattr(clips, "__len__") else None,
            "frames of a clip": getattr(clips, "num_frames", None),
            "clips a step": args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
            "optimizer": f"{args.optim.value}, weight decay {args.weight_decay}, "
            f"gradient norm up to {args.max_grad_norm}",
            "learning rate": f"{args.learning_rate}, {scales}",
            "schedule": f"{schedule}, warmup {args.warmup_steps:g}",
            "precision": "bfloat16" if args.bf16 else "float16" if args.fp16 else "float32",
            "adversarial loss": self.adversarial or None,
            "average of the weights": self.ema_decay or None,
            "seed": args.seed,
            "versions": f"transformers {transformers.__version__}, torch {torch.__version__}",
        }
        return {name: value for name, value in facts.items() if value not in (None, "")}

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
            self.training_facts(source, dataset or dataset_tags or []),
            evaluations,
            language=language,
            license=license,
            tags=tags,
            base_model=source if is_hub_name(source) else None,
            datasets=dataset_tags,
        )
        write_card(card, Path(self.args.output_dir, "README.md"))


def annotated_videos(dataset: Any) -> "Dataset | None":
    """The data set of [`load_vis_dataset`] that this is or, as [`VideoClips`], draws from; None if there is none."""
    if not hasattr(dataset, "column_names"):
        dataset = getattr(dataset, "dataset", None)
    columns = {"video_id", "file_names", "frames_dir", "annotations", "categories"}
    return dataset if columns <= set(getattr(dataset, "column_names", ())) else None


__all__ = ["VisTrainer"]
