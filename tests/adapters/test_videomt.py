import numpy as np
import pytest
import torch
from transformers import VideomtForUniversalSegmentation, VideomtVideoProcessor, pipeline

from tests.adapters.tiny import drawn, videomt_config, write_videomt
from tests.tiny import moving_square, write_mp4
from transformers_msstsvis import (
    AutoModelForVideoInstanceSegmentation,
    StreamingPredictor,
    VideoInstances,
    VideomtForVideoInstanceSegmentation,
    VideomtVisVideoProcessor,
    encode_mask,
    stream_video,
)
from transformers_msstsvis.tracking.clips import ClipJoiner
from transformers_msstsvis.tracking.query_tracks import QueryClip, QueryTracks
from transformers_msstsvis.tracking.track_selection import TrackSelection
from transformers_msstsvis.training import load_for_training

TASK = "video-instance-segmentation"
NEVER, SOMETIMES, ALWAYS = (0.0, 0.0, 5.0), (1.0, 0.0, 0.0), (5.0, 0.0, 0.0)  # class logits, "no object" last


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_videomt(tmp_path_factory.mktemp("videomt"))


@pytest.fixture
def segmenter(checkpoint):
    # The masks of random weights cover each other.
    return pipeline(TASK, model=str(checkpoint), device="cpu", threshold=0.0, duplicate_iou=1)


@pytest.fixture(scope="module")
def model():
    return drawn(VideomtForVideoInstanceSegmentation(videomt_config()))


def frames_of(num_frames: int, videos: int = 1) -> torch.Tensor:
    return torch.randn(videos, num_frames, 3, 32, 32, generator=torch.Generator().manual_seed(num_frames))


@torch.no_grad()
def test_equals_the_model_of_transformers(model):
    theirs = VideomtForUniversalSegmentation(model.config).eval()
    theirs.load_state_dict(model.state_dict())
    video = frames_of(5, videos=2)
    outputs, expected = model(video), theirs(pixel_values_videos=video)
    # There the rows are frame by frame the videos.
    assert torch.equal(outputs.frame_logits.transpose(0, 1).flatten(0, 1), expected.class_queries_logits)
    assert torch.equal(outputs.pred_masks.permute(2, 0, 1, 3, 4).flatten(0, 1), expected.masks_queries_logits)
    mean = expected.class_queries_logits.unflatten(0, (5, 2)).mean(0).softmax(-1)[..., :-1]
    torch.testing.assert_close(outputs.logits.sigmoid(), mean)


@torch.no_grad()
def test_one_frame_equals_the_model_of_images(model):
    video = frames_of(1)
    image = model._masks(model._decode(model._encode(video[:, 0]), None)[0], None)
    torch.testing.assert_close(model(video).pred_masks[:, :, 0], image, rtol=0, atol=0)


@pytest.mark.parametrize("cut", [1, 3, 6])
@torch.no_grad()
def test_parts_that_are_carried_on_equal_the_whole(model, cut):
    video = frames_of(7)
    whole, states, masks, logits = model(video), None, [], []
    for start in range(0, 7, cut):
        part = model(video[:, start : start + cut], query_states=states)
        states = part.last_hidden_state
        masks.append(part.pred_masks)
        logits.append(part.frame_logits)
    assert torch.equal(torch.cat(masks, 2), whole.pred_masks)
    assert torch.equal(torch.cat(logits, 1), whole.frame_logits)
    assert torch.equal(states, whole.last_hidden_state)
    assert not torch.allclose(model(video[:, 1:]).pred_masks, whole.pred_masks[:, :, 1:], atol=0.1)


@torch.no_grad()
def test_padding_in_time_changes_nothing(model):
    video, mask = frames_of(6), torch.ones(1, 6, 32, 32, dtype=torch.int64)
    mask[:, 4:] = 0
    padded, alone = model(video, mask), model(video[:, :4])
    torch.testing.assert_close(padded.logits, alone.logits)
    assert torch.equal(padded.pred_masks[:, :, :4], alone.pred_masks)
    assert torch.equal(padded.last_hidden_state, alone.last_hidden_state)


@torch.no_grad()
def test_masks_of_the_best_queries(model):
    some, whole = model(frames_of(3), mask_top_k=2), model(frames_of(3))
    best = whole.logits[0].amax(-1).topk(2).indices
    assert some.mask_query_indices[0].tolist() == best.tolist()
    torch.testing.assert_close(some.pred_masks[0], whole.pred_masks[0, best])


def test_refuses_labels_and_other_sizes(model):
    with pytest.raises(ValueError, match="can be used, but not trained; expected one of seqformer, msstsvis"):
        model(frames_of(1), labels=[{}])
    with pytest.raises(ValueError, match=r"frames of \(16, 32\).*the model knows \(32, 32\) only"):
        model(frames_of(1)[..., :16, :])


def test_reads_checkpoints_of_transformers_which_reads_its_own(checkpoint, tmp_path):
    ours = AutoModelForVideoInstanceSegmentation.from_pretrained(checkpoint)
    assert type(ours) is VideomtForVideoInstanceSegmentation
    ours.save_pretrained(tmp_path)
    theirs = VideomtForUniversalSegmentation.from_pretrained(tmp_path)
    for (name, tensor), (_, expected) in zip(theirs.state_dict().items(), ours.state_dict().items(), strict=True):
        assert torch.equal(tensor, expected), name


def test_pipeline_takes_files_and_arrays(segmenter, tmp_path):
    assert type(segmenter.model) is VideomtForVideoInstanceSegmentation
    assert type(segmenter.video_processor) is VideomtVisVideoProcessor
    assert dict(segmenter.video_processor.size)["height"] == 32
    path = write_mp4(tmp_path / "clip.mp4")
    from_file, from_array = segmenter(str(path)), segmenter(moving_square())
    for tracks in (from_file, from_array):
        assert len(tracks) == 10
        assert {track["label"] for track in tracks} <= {"disk", "star", "ring"}
        assert all(len(track["masks"]) == 5 for track in tracks)
    assert len({track["track_id"] for track in from_array}) == 10


def test_pipeline_scores_as_published(segmenter):
    """The best pairs of the mean class logits; masks where these are positive."""
    found = segmenter(moving_square(), return_instances=True, top_k=4)
    inputs = segmenter.video_processor(moving_square(), return_tensors="pt")
    with torch.no_grad():
        outputs = segmenter.model(inputs["pixel_values_videos"])
    best, pairs = outputs.frame_logits[0].mean(0).softmax(-1)[:, :-1].flatten().topk(4)
    np.testing.assert_allclose(found.scores, best, rtol=1e-5)
    assert found.labels.tolist() == (pairs % 3).tolist()
    masks = torch.nn.functional.interpolate(outputs.pred_masks[0], size=(48, 64), mode="bilinear")
    for row, query in enumerate((pairs // 3).tolist()):
        for frame in range(5):
            mask = (masks[query, frame] > 0).numpy()
            assert found.masks[row][frame] == (encode_mask(mask) if mask.any() else None)


@pytest.mark.parametrize("max_frames", [1, 2, 4])
def test_clips_change_no_track(segmenter, max_frames):
    # Whatever is in all clips has the masks and the scores of the whole.
    options = {"return_instances": True, "top_k": 18}
    whole, cut = segmenter(moving_square(7), **options), segmenter(moving_square(7), max_frames=max_frames, **options)
    np.testing.assert_allclose(cut.scores, whole.scores, rtol=1e-4)
    assert cut.labels.tolist() == whole.labels.tolist()
    assert [list(masks) for masks in cut.masks] == [list(masks) for masks in whole.masks]


def test_videos_of_a_batch_do_not_mix(segmenter):
    videos = [moving_square(5), moving_square(7)[:, ::-1].copy()]
    together = segmenter(videos, max_frames=2, batch_size=4, return_instances=True)
    for video, found in zip(videos, together, strict=True):
        alone = segmenter(video, max_frames=2, return_instances=True)
        np.testing.assert_array_equal(found.scores, alone.scores)
        assert [list(masks) for masks in found.masks] == [list(masks) for masks in alone.masks]


def test_stream_gives_the_tracks_of_the_whole_and_holds_no_frame(segmenter):
    whole = segmenter(moving_square(20), max_frames=4, top_k=18, return_instances=True)
    predictor = segmenter.predictor(latency=3, top_k=18)
    assert predictor.latency == 3
    stretches = []
    for stretch in predictor.stream(moving_square(20)):
        stretches.append(stretch)
        assert not any(predictor._joiner._stitcher._masks.values())
    assert [stretch.first_frame for stretch in stretches] == [0, 4, 8, 12, 16]
    joined = VideoInstances.join(stretches)
    assert joined.num_frames == 20
    masks = {tuple(repr(mask) for mask in of_track) for of_track in joined.masks}
    assert masks == {tuple(repr(mask) for mask in of_track) for of_track in whole.masks}


def test_a_second_video_begins_anew(segmenter):
    predictor = segmenter.predictor(latency=1)
    first, second = (list(predictor.stream(moving_square(4))) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.scores, b.scores)


def clip(num_frames: int = 2, **logits_of_query: tuple[float, ...]) -> QueryClip:
    """Queries 0 and 1, of which those with logits are found."""
    logits = torch.tensor([logits_of_query.get(f"query_{query}", NEVER) for query in range(2)])
    found = [query for query in range(2) if f"query_{query}" in logits_of_query]
    place = np.eye(2, 6, dtype=bool)  # of every query its own
    masks = [[encode_mask(place[query : query + 1])] * num_frames for query in found]
    return QueryClip(found, masks, logits, num_frames, 1, (1, 6))


def test_an_object_that_comes_back_has_its_id():
    tracks = QueryTracks()
    for start, part in enumerate((clip(query_1=ALWAYS), clip(), clip(query_1=ALWAYS))):
        tracks.add(part, 2 * start)
    found = tracks.finish()
    assert found.track_ids.tolist() == [2]
    assert [mask is None for mask in found.masks[0]] == [False, False, True, True, False, False]
    # The frames without it do not count.
    np.testing.assert_allclose(found.scores, torch.tensor(ALWAYS).softmax(-1)[0].item(), rtol=1e-6)


def test_an_object_that_comes_back_in_a_stream_has_its_id():
    joiner, selection = ClipJoiner("query", num_frames=2, stride=2), TrackSelection(threshold=0.3)
    parts = (clip(query_1=ALWAYS), clip(), clip(), clip(query_0=ALWAYS), clip(query_1=ALWAYS))
    seen = []
    for start, part in enumerate(parts):
        joiner.add(part, 2 * start)
        seen.append(joiner.release(selection).track_ids.tolist())
    assert seen == [[1], [], [], [2], [1]]


def test_an_object_keeps_its_id_when_its_class_changes():
    tracks, seen = QueryTracks(), []
    for start, logits in enumerate(((1.0, 0.0, 0.0), (0.0, 9.0, 0.0))):
        tracks.add(clip(query_0=logits), 2 * start)
        seen.append(tracks.release(2 * start + 2))
    assert [stretch.track_ids.tolist() for stretch in seen] == [[1], [1]]
    assert [stretch.labels.tolist() for stretch in seen] == [[0], [1]]


def test_clips_follow_each_other():
    tracks = QueryTracks()
    tracks.add(clip(query_0=SOMETIMES), 0)
    with pytest.raises(ValueError, match="begins at frame 1 after 2 frames"):
        tracks.add(clip(query_0=SOMETIMES), 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tracker": "iou"}, "tracker is 'iou'; expected 'query' of a videomt, or 'none': leave it out"),
        ({"tracker": "devis"}, "tracker is 'devis'; expected 'query' of a videomt, or 'none': leave it out"),
        ({"boxes": "model"}, "boxes is 'model', and the model predicts masks only; expected 'mask'"),
    ],
)
def test_refuses_what_it_has_not(segmenter, options, message):
    with pytest.raises(ValueError, match=message):
        segmenter(moving_square(), **options)
    with pytest.raises(ValueError, match=message):
        list(StreamingPredictor(segmenter.model, segmenter.video_processor, **options).stream(moving_square()))


def test_clips_can_be_left_apart(segmenter):
    found = segmenter(moving_square(4), tracker="none", max_frames=2, top_k=3, return_instances=True)
    assert len(found) == 6


def test_a_run_is_not_resumed(segmenter, tmp_path):
    video = write_mp4(tmp_path / "clip.mp4", frames=4)
    done = list(stream_video(video, segmenter, json_path=tmp_path / "out.json", max_frames=2))
    assert [stretch.num_frames for stretch in done] == [2, 2]
    with pytest.raises(ValueError, match="a run with the model videomt can't be resumed, for that needs the queries"):
        list(stream_video(video, segmenter, json_path=tmp_path / "out.json", max_frames=2, resume=True))


def test_is_not_trained(checkpoint):
    with pytest.raises(ValueError, match="is a videomt, which can be used, but not trained; expected a checkpoint of"):
        load_for_training(checkpoint)


def test_the_class_of_transformers_is_no_model_of_the_task(checkpoint):
    theirs = VideomtForUniversalSegmentation.from_pretrained(checkpoint)
    with pytest.raises(ValueError, match="is a VideomtForUniversalSegmentation; expected a VideomtForVideoInstance"):
        pipeline(TASK, model=theirs, video_processor=VideomtVideoProcessor())


def test_a_checkpoint_that_does_not_fit_is_not_used_with_other_weights(checkpoint, tmp_path):
    write_videomt(tmp_path, hidden_size=16)
    (tmp_path / "config.json").write_text((checkpoint / "config.json").read_text())
    with pytest.raises(ValueError, match="does not fit its configuration"):
        AutoModelForVideoInstanceSegmentation.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"does not fit|expected a VideomtForVideoInstance"):
        pipeline(TASK, model=str(tmp_path), device="cpu")
