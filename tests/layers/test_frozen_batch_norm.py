import copy

import pytest
import torch
from transformers.backbone_utils import load_backbone

from tests.tiny import tiny_config
from transformers_msstsvis import MsstsVisConfig
from transformers_msstsvis.layers.backbone import VisBackbone
from transformers_msstsvis.layers.frozen_batch_norm import FoldedConv2d

NATIVE = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [16, 16, 24, 32],
    "depths": [1, 1, 2, 1],
    "out_features": ["stage2", "stage3", "stage4"],
}
TIMM = {"model_type": "timm_backbone", "backbone": "resnet18", "out_indices": [2, 3, 4]}


@pytest.fixture(params=[NATIVE, NATIVE | {"layer_type": "basic"}, TIMM], ids=["bottleneck", "basic", "timm"])
def pair(request):
    """A frozen backbone and the same one with plain batch norms in evaluation mode."""
    torch.manual_seed(0)
    config = tiny_config(MsstsVisConfig, backbone_config=request.param, freeze_batch_norm=True)
    plain = load_backbone(config).eval()
    for name, tensor in plain.state_dict().items():
        if "running_mean" in name or name.endswith("bias"):
            torch.nn.init.uniform_(tensor, -0.5, 0.5)
        elif "running_var" in name:
            torch.nn.init.uniform_(tensor, 0.5, 2.0)
    frozen = VisBackbone(config)
    frozen.model.load_state_dict(plain.state_dict(), strict=False)
    return frozen, plain


def test_every_norm_is_folded_and_the_maps_stay(pair):
    frozen, plain = pair
    norms = sum(isinstance(module, torch.nn.BatchNorm2d) for module in plain.modules())
    assert sum(isinstance(module, FoldedConv2d) for module in frozen.modules()) == norms > 5
    frames = torch.randn(2, 3, 64, 96)
    for given, expected in zip(frozen(frames), plain(frames, return_dict=True).feature_maps, strict=True):
        torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-5)


def test_gradients_are_those_of_separate_layers(pair):
    frozen, plain = pair
    frames = torch.randn(2, 3, 64, 96)
    sum(level.square().mean() for level in frozen(frames)).backward()
    sum(level.square().mean() for level in plain(frames, return_dict=True).feature_maps).backward()
    expected = {name: parameter.grad for name, parameter in plain.named_parameters()}
    trained = {name: parameter.grad for name, parameter in frozen.model.named_parameters() if parameter.requires_grad}
    assert trained
    for name, gradient in trained.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-6)


def test_names_in_a_checkpoint_stay(pair):
    frozen, plain = pair
    names = {name for name in plain.state_dict() if not name.endswith("num_batches_tracked")}
    assert set(frozen.model.state_dict()) == names


def test_a_copy_has_its_own_norms(pair):
    frozen, _ = pair
    twin = copy.deepcopy(frozen)
    frames = torch.randn(1, 3, 64, 64)
    before = frozen(frames)[0]
    for name, buffer in twin.named_buffers():
        if name.endswith("running_mean"):
            buffer += 1.0
    assert torch.equal(frozen(frames)[0], before)
    assert not torch.equal(twin(frames)[0], before)
