"""TeViT: converted weights against outputs of the original code, stage by stage, its losses and its results."""

import re
from functools import cache

import numpy as np
import pytest
import torch
from pycocotools import mask as rle_codec
from transformers.image_transforms import center_to_corners_format, corners_to_center_format

from transformers_msstsvis import TevitConfig, TevitVideoProcessor, VideoInstanceSegmentationOutput
from transformers_msstsvis.conversion import convert_state_dict
from transformers_msstsvis.conversion.tevit import KEY_MAP
from transformers_msstsvis.layers.region_features import level_of, region_features
from transformers_msstsvis.models.tevit.loss_tevit import (
    mask_targets,
    match_instances,
    matching_cost,
    present_instances,
    video_instance_segmentation_loss,
)
from transformers_msstsvis.models.vis.modeling_vis import mean_log_odds

from .golden import GOLDEN, kept, load, recipe

OURS = {"loss_cls": ("loss_ce", 2.0), "loss_bbox": ("loss_bbox", 5.0), "loss_iou": ("loss_giou", 2.0)}
OURS["loss_mask"] = ("loss_dice", 8.0)
TIGHT = 0.5  # of the tolerances of the cases, so that a slow drift is seen


def corners_in_pixels(boxes: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Boxes `(Q, T, 4)` of one video to corners `(T, Q, 4)` in pixels."""
    return (center_to_corners_format(boxes) * torch.tensor([width, height] * 2)).transpose(0, 1)


def padded_clip(pixels: torch.Tensor, size: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames `(T, 3, h, w)` and their mask, padded at the right and at the bottom."""
    T, _, h, w = pixels.shape
    padded, mask = torch.zeros(T, 3, *size), torch.zeros(T, *size, dtype=torch.int64)
    padded[..., :h, :w], mask[:, :h, :w] = pixels, 1
    return padded, mask


class Checker:
    """Compares with the arrays of a case, of which some keep every so-manieth value, and keeps the largest error."""

    def __init__(self, description: dict, expected: dict):
        self.entries, self.expected, self.largest = description["expected"], expected, 0.0

    def __call__(self, name: str, given: torch.Tensor) -> None:
        entry, wanted = self.entries[name], self.expected[name].reshape(-1)
        assert list(given.shape) == entry["shape"], name
        error = given.detach().reshape(-1)[:: entry["stride"]].numpy() - wanted
        assert np.abs(error).max() <= entry["atol"], name
        if entry["atol"]:
            assert np.sqrt((error**2).mean()) <= entry["rms_tol"], name
            self.largest = max(self.largest, np.abs(error).max() / entry["atol"])


@pytest.mark.parametrize("case", ["msgshift_t5", "r50_t5"])
def test_inference(case):
    description, expected, checkpoint = load(f"tevit/{case}")
    model, inputs = convert_state_dict("tevit", {"state_dict": checkpoint, "meta": {}}), description["inputs"]
    pixels = torch.from_numpy(recipe.inputs("pixel_values", inputs["pixel_values"]["shape"]))
    (h, w), T = inputs["image_size"], inputs["num_frames"]
    pixels, mask = padded_clip(pixels, inputs["padded_size"])
    check, trunk = Checker(description, expected), model.model
    maps, pyramid, read = kept(trunk.backbone), kept(trunk.feature_pyramid), []
    found = [kept(layer.projection_norm) for layer in trunk.decoder.layers]
    if case == "msgshift_t5":
        watch_messengers(trunk.backbone, check, read)
    with torch.no_grad():
        whole = trunk(pixels[None], mask[None])
        outputs = model(pixels[None], mask[None])
    for number, wait in enumerate(read):
        wait(number)

    for level in range(4):
        of_backbone = [chunk[level] for chunk in maps[: len(maps) // 2]]
        check(f"backbone.out{level}", torch.cat(of_backbone))
        check(f"fpn.out{level}", torch.cat([chunk[level] for chunk in pyramid[: len(pyramid) // 2]]))
    first_boxes = center_to_corners_format(trunk.query_boxes.weight) * torch.tensor([w, h] * 2)
    check("proposals.boxes", first_boxes)
    probes = torch.tensor(inputs["mask_probe_queries"])
    queries = probes.expand(T, -1)
    before = first_boxes.expand(T, -1, -1)
    for stage, layer in enumerate([*outputs.auxiliary_outputs, outputs]):
        boxes = corners_in_pixels(layer["pred_boxes"][0], h, w)
        check(f"stage{stage}.class_logits", layer["frame_logits"][0])
        check(f"stage{stage}.boxes", boxes)
        check(f"stage{stage}.object_features", whole.query_states[stage][0])
        check(f"stage{stage}.attention_features", whole.attended_states[stage][0])
        check(f"stage{stage}.roi_levels", level_of(before.flatten(0, 1), 4).long().view(T, -1))
        check(f"stage{stage}.dynamic_conv", torch.cat(found[stage][:T]).relu())
        if stage in (0, 5):
            rows = torch.arange(T).repeat_interleave(boxes.shape[1])
            cells = region_features(whole.features, whole.spatial_shapes, before.flatten(0, 1), rows, 7)
            check(f"stage{stage}.roi_features", cells.mT.unflatten(2, (7, 7)))
        head = model.mask_heads[stage]
        enlarged = kept(head.upsample)
        with torch.no_grad():
            of_first_class = model.frame_masks(whole, stage, torch.arange(T), queries, torch.zeros_like(queries))
            masks = head.output(torch.cat(enlarged).relu()).view(T, len(probes), -1, 28, 28)
        torch.testing.assert_close(of_first_class, masks[:, :, 0], rtol=0, atol=1e-6)
        check(f"stage{stage}.mask_logits", masks)
        before = boxes
    check_results(check, outputs, expected, description)
    assert check.largest < TIGHT


def watch_messengers(backbone, check, read: list) -> None:
    """Compare the patches and messengers of every block, once the model has run."""
    for stage, layer in enumerate(backbone.model.encoder.layers):
        places = {"patch_embed": layer.patch_embedding.layer_norm, "norm": layer.layer_norm}
        for name, module in places.items():
            states = kept(module)

            def compare(number, states=states, name=f"backbone.stage{stage}.{name}"):
                check(f"{name}.tokens", states[0][:, :-32])
                check(f"{name}.messengers", states[0][:, -32:])

            read.append(compare)
        for index, block in enumerate(layer.blocks):
            states = kept(block)

            def compare_block(number, states=states, index=index, name=f"backbone.stage{stage}.block{index}"):
                tokens = torch.cat(states[:5])
                moved = [
                    part.roll(-shift if index else shift, dims=0)
                    for part, shift in zip(tokens[:, -32:].split(8, dim=1), (1, -1, 2, -2), strict=True)
                ]
                check(f"{name}.tokens", tokens[:, :-32])
                check(f"{name}.messengers", torch.cat(moved, dim=1))

            read.append(compare_block)


def check_results(check, outputs, expected, description) -> None:
    """What comes out of the processor: the same pairs, scores and masks."""
    height, width = description["inputs"]["original_size"]
    T = description["inputs"]["num_frames"]
    [found] = TevitVideoProcessor().post_process_video_instance_segmentation(outputs, [(height, width)])
    queries = outputs.mask_query_indices[0]
    check("result.queries", queries)
    check("result.labels", outputs.mask_label_indices[0])
    pairs = queries, outputs.mask_label_indices[0]
    check("result.scores", outputs.logits[0].sigmoid()[pairs])
    check("result.boxes", corners_in_pixels(outputs.pred_boxes[0, queries], height, width))
    rank = dict(zip(np.round(expected["result.scores"], 5), range(10), strict=True))
    for label, score, masks in zip(found.labels, found.scores, found.masks, strict=True):
        place = min(rank.values(), key=lambda row, score=score: abs(expected["result.scores"][row] - score))
        assert label == expected["result.labels"][place]
        for frame in range(T):
            wanted = rle_codec.decode(description["rles"][place][frame])
            given = np.zeros_like(wanted) if masks[frame] is None else rle_codec.decode(masks[frame])
            assert (given != wanted).sum() <= 6


def test_results_of_given_outputs():
    description, expected = recipe.load_case(GOLDEN / "tevit/postprocess.json")
    inputs = description["inputs"]
    (h, w), T, Q = inputs["image_size"], inputs["num_frames"], inputs["num_queries"]
    logits, boxes = (torch.from_numpy(expected[f"input.{name}"])[None] for name in ("class_logits", "boxes"))
    cells = torch.from_numpy(recipe.inputs("tevit.post.mask_logits", (T, Q, 40, 4, 4))) * 3
    masks = cells.repeat_interleave(7, -1).repeat_interleave(7, -2)
    of_video = mean_log_odds(logits.sigmoid(), torch.ones(1, T, dtype=torch.bool))
    best = of_video.flatten(1).topk(10).indices
    queries, labels = best // 40, best % 40
    outputs = VideoInstanceSegmentationOutput(
        frame_logits=logits,
        logits=of_video,
        pred_boxes=(corners_to_center_format(boxes) / torch.tensor([w, h] * 2)).transpose(1, 2),
        pred_masks=masks[:, queries[0], labels[0]].transpose(0, 1)[None],
        mask_query_indices=queries,
        mask_label_indices=labels,
        frame_sizes=torch.tensor([[[h, w]] * T]),
    )
    [found] = TevitVideoProcessor().post_process_video_instance_segmentation(outputs, [inputs["original_size"]])
    assert len(found) == 10
    for row, wanted in enumerate(description["expected"]["results"]):
        assert found.labels[row] == wanted["category_id"] - 1
        assert abs(found.scores[row] - wanted["score"]) < 1e-6
        for given, segmentation in zip(found.masks[row], wanted["segmentations"], strict=True):
            assert (given is None) == (rle_codec.area(segmentation) == 0)
            assert given is None or given["counts"] == segmentation["counts"]


def clip_labels(arrays: dict, clip: int, frame: list[int], padded: list[int]) -> dict[str, torch.Tensor]:
    """The targets of a clip in the models' contract, instances by their number; absent ones have anything."""
    numbers, T = sorted(set(arrays[f"target.clip{clip}.ids"].tolist())), len(arrays[f"target.clip{clip}.count"])
    n = len(numbers)
    labels = {
        "class_labels": torch.zeros(n, dtype=torch.int64),
        "boxes": torch.full((n, T, 4), 0.7),
        "masks": torch.ones(n, T, *padded, dtype=torch.bool),
        "valid": torch.zeros(n, T, dtype=torch.bool),
    }
    bits = np.unpackbits(arrays[f"target.clip{clip}.masks"], axis=1)[:, : padded[0] * padded[1]]
    frames = np.repeat(np.arange(T), arrays[f"target.clip{clip}.count"])
    for row, (t, number) in enumerate(zip(frames, arrays[f"target.clip{clip}.ids"], strict=True)):
        index = numbers.index(number)
        box = torch.from_numpy(arrays[f"target.clip{clip}.boxes"][row]) / torch.tensor([frame[1], frame[0]] * 2)
        labels["class_labels"][index] = int(arrays[f"target.clip{clip}.labels"][row])
        labels["boxes"][index, t] = corners_to_center_format(box)
        labels["masks"][index, t] = torch.from_numpy(bits[row].reshape(padded)).bool()
        labels["valid"][index, t] = True
    return labels


def targets_of(match: list, boxes: torch.Tensor, labels: list[dict], sizes: torch.Tensor) -> np.ndarray:
    """Mask targets of all positives in the order of the cases: frame, then ascending query."""
    rows = []
    for video, (query, instance) in enumerate(match):
        height, width = sizes[video, 0].tolist()
        for t in range(sizes.shape[1]):
            shown = labels[video]["valid"][instance, t]
            pixels = boxes[video, query[shown], t] * torch.tensor([width, height] * 2)
            rows.append(mask_targets(labels[video]["masks"][instance[shown], t], pixels, 28).flatten(1))
    return np.packbits(torch.cat(rows).numpy().astype(bool), axis=1)


def differing_bits(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.unpackbits(a ^ b).sum())


def test_criterion():
    description, arrays = recipe.load_case(GOLDEN / "tevit/criterion.json")
    inputs, wanted = description["inputs"], description["expected"]
    (h, w), T, Q = inputs["image_size"], inputs["num_frames"], inputs["num_queries"]
    scale, sizes = torch.tensor([w, h] * 2), torch.tensor([[[h, w]] * T])
    logits = torch.from_numpy(recipe.inputs("tevit.criterion.class_logits", (T, Q, 40)))[None].requires_grad_()
    corners = torch.from_numpy(arrays["input.boxes"]).requires_grad_()
    boxes = (corners_to_center_format(corners) / scale).transpose(0, 1)[None]
    labels = [clip_labels(arrays, 0, inputs["image_size"], inputs["padded_size"])]
    config = TevitConfig()

    [cost] = matching_cost(logits, boxes, labels, sizes, config)
    np.testing.assert_allclose(cost.numpy(), arrays["cost"], rtol=0, atol=1e-5)
    match = match_instances(logits, boxes, labels, sizes, config)
    numbers = sorted(set(arrays["target.clip0.ids"].tolist()))
    assert {str(numbers[i]): int(q) for q, i in zip(*match[0], strict=True)} == wanted["matched_query_of_instance"]
    assert np.array_equal(targets_of(match, boxes.detach(), labels, sizes), arrays["mask_targets"])

    cells = torch.from_numpy(recipe.inputs("tevit.criterion.mask_logits", (T, Q, 40, 4, 4))) * 3
    [(query, instance)] = match
    classes = labels[0]["class_labels"][instance]
    masks = cells[:, query, classes].repeat_interleave(7, -1).repeat_interleave(7, -2).transpose(0, 1)
    absent = ~present_instances(labels, match, sizes)
    masks[absent] = np.nan  # ignored
    masks.requires_grad_()
    total, terms = video_instance_segmentation_loss([logits], [boxes], [masks], [match], labels, sizes, config)
    total.backward()
    assert set(terms) == {"loss_ce", "loss_bbox", "loss_giou", "loss_dice"}
    for name, (ours, weight) in OURS.items():
        assert float(terms[ours]) * weight == pytest.approx(wanted["losses"][name], rel=1e-5)
    assert total.item() == pytest.approx(wanted["total_loss"], rel=1e-5)
    in_order = torch.stack([masks.grad[n, t] for t in range(T) for n in range(len(query)) if not absent[n, t]])
    for given, name in ((logits.grad[0], "class_logits"), (corners.grad, "boxes"), (in_order, "mask_logits")):
        np.testing.assert_allclose(given.numpy(), arrays[f"gradient.{name}"], rtol=1e-4, atol=1e-6, err_msg=name)


@cache
def loss_case() -> tuple:
    description, arrays, checkpoint = load("tevit/loss_msgshift")
    inputs = description["inputs"]
    clips = zip(inputs["pixel_values"]["recipe_input"], inputs["pixel_values"]["shape"], strict=True)
    padded = [padded_clip(torch.from_numpy(recipe.inputs(*clip)), inputs["padded_size"]) for clip in clips]
    pixels, mask = (torch.stack(parts) for parts in zip(*padded, strict=True))
    sizes = inputs["image_size"]
    labels = [clip_labels(arrays, clip, sizes[clip], inputs["padded_size"]) for clip in range(2)]
    return description, arrays, checkpoint, {"pixel_values_videos": pixels, "pixel_mask": mask, "labels": labels}


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_losses_and_gradients(mode):
    description, arrays, checkpoint, batch = loss_case()
    wanted, labels = description["expected"][mode], batch["labels"]
    model = convert_state_dict("tevit", checkpoint, drop_path_rate=0.0).train(mode == "train")
    outputs = model(**batch)
    outputs.loss.backward()
    assert outputs.loss.item() == pytest.approx(wanted["total_loss"], rel=2e-5)
    layers = [*outputs.auxiliary_outputs, outputs]
    for stage, (layer, expected) in enumerate(zip(layers, wanted["stages"], strict=True)):
        suffix = "" if stage == len(layers) - 1 else f"_{stage}"
        for name, (ours, weight) in OURS.items():
            given = float(outputs.loss_dict[ours + suffix]) * weight
            assert given == pytest.approx(expected["losses"][name], rel=2e-5), (stage, name)
        predicted = layer["frame_logits"].detach(), layer["pred_boxes"].detach()
        costs = matching_cost(*predicted, labels, outputs.frame_sizes, model.config)
        match = match_instances(*predicted, labels, outputs.frame_sizes, model.config)
        for clip, cost in enumerate(costs):
            key = f"{mode}.stage{stage}.clip{clip}.cost"
            np.testing.assert_allclose(cost.numpy(), arrays[key], rtol=0, atol=2e-4, err_msg=key)
            numbers = sorted(set(arrays[f"target.clip{clip}.ids"].tolist()))
            found = {str(numbers[i]): int(q) for q, i in zip(*match[clip], strict=True)}
            assert found == expected["clips"][clip]["matched_query_of_instance"]
        targets = targets_of(match, predicted[1], labels, outputs.frame_sizes)
        assert differing_bits(targets, arrays[f"{mode}.stage{stage}.mask_targets"]) == 0
    check_gradients(model, wanted, 1e-2 if mode == "eval" else 2e-2)


def check_gradients(model, wanted: dict, rtol: float) -> None:
    """Norms of the gradients of all parameters, by their published names."""
    norms = {name: float(parameter.grad.norm()) for name, parameter in model.named_parameters()}
    splits = {part: parts for parts in (("q_proj", "k_proj", "v_proj"), ("query", "key", "value")) for part in parts}
    rules = KEY_MAP.rules(model)
    names = {published: new_name(published, rules) for published in wanted["gradient_norms"]}
    assert not wanted["without_gradient"]
    for published, name in names.items():
        packed = next((key for key in ("qkv", "packed") if f".{key}." in name), None)
        parts = splits["q_proj" if packed == "qkv" else "query"] if packed else [None]
        given = np.sqrt(sum(norms[name.replace(f".{packed}.", f".{part}.") if part else name] ** 2 for part in parts))
        if wanted["gradient_norms"][published] > 1e-4:
            assert given == pytest.approx(wanted["gradient_norms"][published], rel=rtol), published


def new_name(published: str, rules: list[tuple[str, str]]) -> str:
    return next(re.sub(pattern, new, published) for pattern, new in rules if re.fullmatch(pattern, published))
