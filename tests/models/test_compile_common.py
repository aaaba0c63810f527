"""Models through `torch.compile`: the same outputs, and another number of frames compiles nothing anew."""

import pytest
import torch
from transformers import pipeline

from tests.models.testers import TESTERS, assert_same, model_of, video
from tests.test_pipelines import small_processor
from tests.tiny import moving_square, tiny_model
from transformers_msstsvis.attention_maps import attention_of_track
from transformers_msstsvis.tracking.clip_model import ClipModel

LENGTHS = (3, 5, 4)
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


def segmenter_of(model):
    options = {"device": "cpu", "threshold": 0.0, "duplicate_iou": 1}
    return pipeline("video-instance-segmentation", model=model, video_processor=small_processor(), **options)


@torch.inference_mode()
def run(model, frames):
    clip = video(1, frames)
    mask = torch.ones(clip[:, :, 0].shape)
    return ClipModel()(model, True, pixel_values_videos=clip, pixel_mask=mask, mask_top_k=3)


def test_a_compiled_model_in_a_pipeline():
    segmenter, graphs = segmenter_of(tiny_model()), Graphs()
    expected = [segmenter(moving_square(frames)) for frames in LENGTHS]
    segmenter.model = torch.compile(segmenter.model, backend=graphs, fullgraph=True)
    for frames, tracks in zip(LENGTHS, expected, strict=True):
        given = segmenter(moving_square(frames))
        assert [track["masks"] for track in given] == [track["masks"] for track in tracks]
    assert len(graphs) == 1


def test_a_pipeline_takes_a_compiled_model():
    model = torch.compile(tiny_model(), backend=Graphs())
    assert segmenter_of(model).model is model


def test_where_a_compiled_model_looks():
    segmenter = segmenter_of(tiny_model())
    instances = segmenter(moving_square(2), return_instances=True)
    track = int(instances.track_ids[0])
    expected = list(attention_of_track(segmenter, moving_square(2), instances, track))
    graphs = Graphs()
    segmenter.model.compile(backend=graphs)
    for given, places in zip(attention_of_track(segmenter, moving_square(2), instances, track), expected, strict=True):
        assert_same(torch.from_numpy(given[0]), torch.from_numpy(places[0]))
    assert graphs == []


@pytest.mark.slow
@pytest.mark.parametrize("name", TESTERS)
def test_one_graph_for_any_number_of_frames(name):
    model, graphs = model_of(name), Graphs()
    model.compile(backend=graphs, fullgraph=True)
    for frames in LENGTHS:
        run(model, frames)
    assert len(graphs) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", TESTERS)
def test_outputs_are_equal(name):
    model = model_of(name)
    expected = [run(model, frames) for frames in LENGTHS]
    model.compile(fullgraph=True)
    for frames, outputs in zip(LENGTHS, expected, strict=True):
        given = run(model, frames)
        for output in OUTPUTS:
            assert_same(given[output], outputs[output])
