"""All models through `torch.compile`: the same outputs, and another number of frames compiles nothing anew."""

import pytest
import torch

from tests.models.testers import TESTERS, assert_same, model_of, video
from transformers_msstsvis.tracking.clip_model import ClipModel

OUTPUTS = ("logits", "pred_boxes", "pred_masks", "mask_query_indices")


class Graphs(list):
    """A backend that keeps what it was given, and runs it as it is."""

    def __call__(self, graph, inputs):
        self.append(graph)
        return graph.forward


@pytest.fixture(autouse=True)
def fresh():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def run(model, frames):
    clip = video(1, frames)
    with torch.inference_mode():
        return ClipModel()(
            model, True, pixel_values_videos=clip, pixel_mask=torch.ones(clip[:, :, 0].shape), mask_top_k=3
        )


def check(name, **options):
    model = model_of(name)
    lengths = (3, 5, 4)
    expected = [run(model, frames) for frames in lengths]
    model.compile(**options)
    for frames, outputs in zip(lengths, expected, strict=True):
        given = run(model, frames)
        for output in OUTPUTS:
            assert_same(given[output], outputs[output])
    return model


@pytest.mark.parametrize("name", TESTERS)
def test_another_number_of_frames_compiles_nothing(name):
    graphs = Graphs()
    model = model_of(name)
    model.compile(backend=graphs)
    run(model, 3)
    number = len(graphs)
    assert number > 0
    for frames in (5, 4):
        run(model, frames)
    assert len(graphs) == number


@pytest.mark.slow
@pytest.mark.parametrize("name", TESTERS)
def test_outputs_are_equal(name):
    check(name)
