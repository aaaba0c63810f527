"""Published names of TeViT to ours: architecture from shapes, every tensor in its place, refusals in plain words."""

import json
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.models.testers import TESTERS
from tests.parity.golden import GOLDEN, recipe
from transformers_msstsvis import TevitConfig, TevitForVideoInstanceSegmentation
from transformers_msstsvis.conversion import convert_checkpoint, convert_state_dict


def checkpoint(name: str) -> dict[str, torch.Tensor]:
    manifest = json.loads((GOLDEN / f"tevit/{name}_manifest.json").read_text())
    return {key: torch.from_numpy(value) for key, value in recipe.state_dict(manifest).items()}


@pytest.fixture(scope="module", params=["msgshift", "r50"])
def published(request):
    return checkpoint(request.param)


def test_architecture_from_names_and_shapes(published):
    model = convert_state_dict("tevit", {"meta": {"epoch": 1}, "state_dict": published})
    config, report = model.config, model.conversion_report
    assert (config.num_queries, config.num_labels, config.num_frames, config.decoder_layers) == (100, 40, 5, 6)
    assert (config.d_model, config.dynamic_dim, config.decoder_ffn_dim) == (256, 64, 2048)
    assert not model.training
    assert len(report.used) + len(report.dropped) == len(published)
    assert report.missing == []
    if "backbone.msg_tokens" in published:
        assert config.to_diff_dict().keys() == TevitConfig().to_diff_dict().keys()  # the published one is the default
        assert (config.num_messengers, config.freeze_backbone_stem, config.drop_path_rate) == (32, False, 0.1)
        assert report.dropped == {}
    else:
        assert (config.num_messengers, config.freeze_backbone_stem) == (0, True)
        assert all(key.startswith("backbone.") for key in report.dropped)


def test_every_tensor_keeps_its_values(published):
    model = convert_state_dict("tevit", published)
    ours = {(value.numel(), *value.flatten()[:4].tolist()): value for value in model.state_dict().values()}
    for name, value in published.items():
        for part in value.chunk(3) if ".in_proj_" in name else (value,):
            if not name.endswith("num_batches_tracked"):
                key = (part.numel(), *part.flatten()[:4].tolist())
                assert torch.equal(ours[key].flatten(), part.flatten()), name


def test_other_numbers_of_queries_classes_and_messengers():
    changed = checkpoint("msgshift")
    changed["rpn_head.init_proposal_bboxes.weight"] = torch.zeros(300, 4)
    changed["rpn_head.init_proposal_features.weight"] = torch.zeros(300, 256)
    changed["backbone.msg_tokens"] = torch.zeros(1, 16, 3)
    for stage in range(6):
        changed[f"roi_head.bbox_head.{stage}.fc_cls.weight"] = torch.zeros(25, 256)
        changed[f"roi_head.bbox_head.{stage}.fc_cls.bias"] = torch.zeros(25)
        changed[f"roi_head.mask_head.{stage}.conv_logits.weight"] = torch.zeros(25, 256, 1, 1)
        changed[f"roi_head.mask_head.{stage}.conv_logits.bias"] = torch.zeros(25)
    config = convert_state_dict("tevit", changed, drop_path_rate=0.3).config
    assert (config.num_queries, config.num_labels, config.num_messengers) == (300, 25, 16)
    assert config.drop_path_rate == config.backbone_config.drop_path_rate == 0.3


SWIN = {
    "model_type": "swin",
    "embed_dim": 12,
    "depths": [1, 1, 2, 1],
    "num_heads": [1, 2, 3, 4],
    "window_size": 4,
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}
# Our names of a Swin transformer -> those of mmdetection.
OF_MMDETECTION = [
    (r"swin\.embeddings\.patch_embeddings\.projection\.", "patch_embed.projection."),
    (r"swin\.embeddings\.norm\.", "patch_embed.norm."),
    (r"swin\.encoder\.layers\.", "stages."),
    (r"layernorm_before\.", "norm1."),
    (r"layernorm_after\.", "norm2."),
    (r"mlp\.fc1\.", "ffn.layers.0.0."),
    (r"mlp\.fc2\.", "ffn.layers.1."),
    (r"attention\.relative_position_bias\.", "attn.w_msa."),
    (r"attention\.o_proj\.", "attn.w_msa.proj."),
]


def swin_of_mmdetection(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The backbone of our model under the names, and in the order of merged patches, of mmdetection."""
    found = {}
    for name, value in weights.items():
        name = name.removeprefix("model.backbone.model.")
        if "swin.layernorm" in name or ".k_proj." in name or ".v_proj." in name:
            continue
        if ".q_proj." in name:
            parts = [weights[f"model.backbone.model.{name.replace('q_proj', part)}"] for part in ("k_proj", "v_proj")]
            value, name = torch.cat((value, *parts)), name.replace("attention.q_proj", "attn.w_msa.qkv")
        if ".downsample." in name:  # pixel by pixel, 00 10 01 11, to channel by channel, 00 01 10 11
            value = value.unflatten(-1, (4, -1))[..., [0, 2, 1, 3], :].transpose(-1, -2).flatten(-2)
        name = re.sub(r"hidden_states_norms\.stage(\d)", lambda match: f"norm{int(match[1]) - 1}", name)
        for ours, theirs in OF_MMDETECTION:
            name = re.sub(ours, theirs, name)
        found[f"backbone.{name}"] = value
    return found


def test_swin_of_mmdetection_merges_patches_in_another_order():
    model = TevitForVideoInstanceSegmentation(TevitConfig(backbone_config=SWIN, num_queries=4)).eval()
    own = {name: value for name, value in model.state_dict().items() if name.startswith("model.backbone.")}
    of_heads = checkpoint("r50")
    parts = {key: value for key, value in of_heads.items() if not key.startswith("backbone.")}
    for level, width in enumerate((12, 24, 48, 96)):
        parts[f"neck.lateral_convs.{level}.conv.weight"] = torch.zeros(256, width, 1, 1)
    theirs = swin_of_mmdetection(own)
    index = "backbone.stages.0.blocks.0.attn.w_msa.relative_position_index"
    converted = convert_state_dict("tevit", {**parts, **theirs, index: torch.zeros(16, 16, dtype=torch.int64)})
    config = converted.config
    assert (config.num_messengers, config.drop_path_rate, config.freeze_backbone_stem) == (0, 0.2, False)
    assert (config.backbone_config.depths, config.backbone_config.window_size) == ([1, 1, 2, 1], 4)
    given = converted.state_dict()
    assert all(torch.equal(given[name], value) for name, value in own.items())

    # The merging of mmdetection, which unfolds a map, against ours on the converted weights.
    x, prefix = torch.randn(1, 12, 6, 8), "backbone.stages.0.downsample."
    unfolded = F.unfold(x, 2, stride=2).mT
    normed = F.layer_norm(unfolded, (48,), theirs[prefix + "norm.weight"], theirs[prefix + "norm.bias"])
    expected = normed @ theirs[prefix + "reduction.weight"].T
    merging: nn.Module = converted.model.backbone.model.swin.encoder.layers[0].downsample
    torch.testing.assert_close(merging(x.flatten(2).mT, (6, 8)), expected)


def test_a_partial_checkpoint():
    published = checkpoint("msgshift")
    part = {name: value for name, value in published.items() if "mask_head.3.upsample" not in name}
    with pytest.raises(ValueError, match=r"lacks 2 weights of the model, e.g. \['mask_heads.3.upsample.bias'"):
        convert_state_dict("tevit", part)
    with pytest.raises(ValueError, match=r"lacks \['neck.fpn_convs.0.conv.weight'\]; .* a TeViT release"):
        convert_state_dict("tevit", {name: value for name, value in published.items() if "fpn_convs.0" not in name})
    with pytest.raises(ValueError, match=r"1 keys .* unknown to 'tevit', e.g. \['neck.mystery'\]"):
        convert_state_dict("tevit", {**published, "neck.mystery": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"lacks .* expected the keys of a DeVIS release"):
        convert_state_dict("devis", published)


def test_a_folder_that_loads_with_the_published_size(tmp_path):
    from transformers import AutoVideoProcessor

    torch.save({"meta": {"epoch": 12}, "state_dict": checkpoint("msgshift")}, tmp_path / "tevit_msgshift.pth")
    convert_checkpoint("tevit", tmp_path / "tevit_msgshift.pth", tmp_path / "out")
    processor = AutoVideoProcessor.from_pretrained(tmp_path / "out")
    assert type(processor).__name__ == "TevitVideoProcessor"
    assert (dict(processor.size)["shortest_edge"], processor.size_divisor) == (360, 32)


def test_the_tiny_model_of_the_suites_has_messengers():
    assert TESTERS["tevit"].config().num_messengers == 8
