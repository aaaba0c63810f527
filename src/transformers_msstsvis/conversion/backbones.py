"""Published backbones: their architecture by names and shapes, and their names as ours."""

import re

from transformers import PreTrainedModel, SwinConfig

RESNET_DEPTHS = {(3, 4, 6, 3): "ResNet-50", (3, 4, 23, 3): "ResNet-101"}
RESNEXT_DEPTHS = (3, 4, 23, 3)
# (groups, channels per group) to timm's name; published code defines the first, its configuration asks for the second
RESNEXTS = {(64, 4): "resnext101_64x4d", (32, 8): "resnext101_32x8d"}


# Names of a Swin transformer in mmdetection -> those of its release.
_MMDETECTION = (
    (r"patch_embed\.projection\.", "patch_embed.proj."),
    (r"stages\.", "layers."),
    (r"(.*)attn\.w_msa\.", r"\1attn."),
)


def count_layers(state_dict: dict, pattern: str) -> int:
    """One more than the largest number that stands at the pattern's group."""
    found = [int(match.group(1)) for key in state_dict if (match := re.match(pattern, key))]
    return max(found, default=-1) + 1


def infer_backbone(state_dict: dict, prefix: str, stages: tuple[int, ...] = (2, 3, 4)) -> dict:
    """
    Backbone settings of a configuration, from names and shapes.

    Args:
        state_dict: a published one.
        prefix: pattern of what stands before the backbone's own names.
        stages: of the feature maps that the model reads, 1 to 4.

    Raises:
        ValueError: for a backbone that no published checkpoint has.
    """
    body = {re.sub(prefix, "", key, count=1): value for key, value in state_dict.items() if re.match(prefix, key)}
    for pattern, released in _MMDETECTION:
        body = {re.sub(rf"^{pattern}", released, key): value for key, value in body.items()}
    out_features = [f"stage{stage}" for stage in stages]
    if "patch_embed.proj.weight" in body:
        depths = [count_layers(body, rf"layers\.{stage}\.blocks\.(\d+)\.") for stage in range(4)]
        embed_dim, _, patch_size, _ = body["patch_embed.proj.weight"].shape
        tables = [body[f"layers.{stage}.blocks.0.attn.relative_position_bias_table"].shape for stage in range(4)]
        config = SwinConfig(
            embed_dim=embed_dim,
            patch_size=patch_size,
            depths=depths,
            num_heads=[heads for _, heads in tables],
            window_size=(int(tables[0][0] ** 0.5) + 1) // 2,
            drop_path_rate=0.2 if embed_dim == 96 else 0.3,
            out_features=out_features,
        )
        return {"backbone_config": config.to_dict(), "freeze_backbone_stem": False}
    if "layer1.0.conv2.weight" not in body:
        raise ValueError("the backbone of the checkpoint is neither a ResNet, a ResNeXt nor a Swin transformer")
    depths = tuple(count_layers(body, rf"layer{stage}\.(\d+)\.") for stage in range(1, 5))
    width, per_group = body["layer1.0.conv2.weight"].shape[:2]
    if width != per_group:  # grouped: ResNeXt, which is timm's
        name = RESNEXTS.get((width // per_group, per_group))
        if depths != RESNEXT_DEPTHS or name is None:
            raise ValueError(
                f"a ResNeXt of depths {depths} with {width // per_group} groups of {per_group} channels; "
                f"expected depths {RESNEXT_DEPTHS} and one of {RESNEXTS}"
            )
        return {
            "backbone_config": {
                "model_type": "timm_backbone",
                "backbone": name,
                "out_indices": list(stages),
            }
        }
    if depths not in RESNET_DEPTHS:
        raise ValueError(f"a ResNet of depths {depths}; expected one of {RESNET_DEPTHS}")
    return {"backbone_config": {"model_type": "resnet", "depths": list(depths), "out_features": out_features}}


def backbone_rules(model: PreTrainedModel, prefix: str) -> list[tuple[str, str]]:
    """Rules of a [`KeyMap`] for the backbone of `model`, whose published names follow the pattern `prefix`."""
    kind = model.config.backbone_config.model_type
    ours = "model.backbone.model."
    if kind == "timm_backbone":
        return [(prefix + r"(.*)", ours + r"_backbone.\1")]
    if kind == "resnet":
        norm = r"(weight|bias|running_mean|running_var)"
        layer = ours + r"encoder.stages.{stage}.layers.\1."
        rules = [
            (prefix + r"conv1\.weight", ours + "embedder.embedder.convolution.weight"),
            (prefix + r"bn1\." + norm, ours + r"embedder.embedder.normalization.\1"),
        ]
        for stage in range(4):
            block, new = prefix + rf"layer{stage + 1}\.(\d+)\.", layer.format(stage=stage)
            for index in range(3):
                rules.append((block + rf"conv{index + 1}\.weight", new + f"layer.{index}.convolution.weight"))
                rules.append((block + rf"bn{index + 1}\." + norm, new + rf"layer.{index}.normalization.\2"))
            rules.append((block + r"downsample\.0\.weight", new + "shortcut.convolution.weight"))
            rules.append((block + r"downsample\.1\." + norm, new + r"shortcut.normalization.\2"))
        return rules
    return _swin_rules(prefix, ours)


def detector_backbone_rules(model: PreTrainedModel, detector: PreTrainedModel) -> list[tuple[str, str]]:
    """Rules of a [`KeyMap`] from the backbone of a detector of transformers, native or timm's, to that of `model`."""
    prefix = r"model\.backbone\.model\."
    if detector.config.backbone_config.model_type == "timm_backbone":
        return backbone_rules(model, prefix)
    return [(rf"({prefix}.*)", r"\1")]


def _swin_rules(prefix: str, ours: str) -> list[tuple[str, str]]:
    """From the names of the release of Swin, or of mmdetection."""
    stage, new_stage = prefix + r"(?:layers|stages)\.(\d+)\.", ours + r"swin.encoder.layers.\1."
    block, new_block = stage + r"blocks\.(\d+)\.", new_stage + r"blocks.\2."
    norms = [
        (prefix + rf"norm{index}\.(.*)", ours + rf"hidden_states_norms.stage{index + 1}.\1") for index in range(4)
    ]
    return [
        *norms,
        (prefix + r"patch_embed\.proj(?:ection)?\.(.*)", ours + r"swin.embeddings.patch_embeddings.projection.\1"),
        (prefix + r"patch_embed\.norm\.(.*)", ours + r"swin.embeddings.norm.\1"),
        (stage + r"downsample\.(.*)", new_stage + r"downsample.\2"),
        (block + r"norm1\.(.*)", new_block + r"layernorm_before.\3"),
        (block + r"norm2\.(.*)", new_block + r"layernorm_after.\3"),
        (block + r"mlp\.(.*)", new_block + r"mlp.\3"),
        (block + r"ffn\.layers\.0\.0\.(.*)", new_block + r"mlp.fc1.\3"),
        (block + r"ffn\.layers\.1\.(.*)", new_block + r"mlp.fc2.\3"),
        (block + r"attn\.(?:w_msa\.)?qkv\.(.*)", new_block + r"attention.qkv.\3"),
        (block + r"attn\.(?:w_msa\.)?proj\.(.*)", new_block + r"attention.o_proj.\3"),
        (
            block + r"attn\.(?:w_msa\.)?relative_position_bias_table",
            new_block + "attention.relative_position_bias.relative_position_bias_table",
        ),
    ]
