import struct
import tracemalloc
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from PIL import Image

from transformers_msstsvis.video import reader as video_reader
from transformers_msstsvis.video import writer as video_writer
from transformers_msstsvis.video.reader import VideoReader
from transformers_msstsvis.video.writer import VIDEO_ENCODERS, VideoWriter, write_video

# Lossy encoders change flat colours by a few grey values.
TOLERANCE = 6


def coloured(number: int, size: tuple[int, int] = (32, 48)) -> np.ndarray:
    """A flat frame whose colour tells its number, with a red corner at the top left."""
    frame = np.full((*size, 3), (10 * number, 200 - 10 * number, 60), dtype=np.uint8)
    frame[: size[0] // 2, : size[1] // 2] = (220, 20, 20)
    return frame


def numbers(frames) -> list[int]:
    """Which frames these are, from the colour of their last pixel."""
    return [round(float(frame[-1, -1, 0]) / 10) for frame in frames]


@pytest.fixture
def warnings(monkeypatch) -> list[str]:
    messages = []
    for module in (video_reader, video_writer):
        monkeypatch.setattr(module.logger, "warning", messages.append)
    return messages


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "frames"
    path.mkdir()
    for number in (0, 1, 2, 10, 11):
        Image.fromarray(coloured(number)).save(path / f"{number}.png")
    return path


# Video files


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".gif", ""])
@pytest.mark.parametrize("size", [(32, 48), (33, 47)])
def test_written_videos_are_read_back(tmp_path, suffix, size):
    frames = [coloured(number, size) for number in range(12)]
    path = tmp_path / "new" / f"clip{suffix}"
    write_video(path, frames, fps=10)
    reader = VideoReader(path)
    assert reader.name == "clip"
    assert reader.fps == (10 if suffix else None)
    assert reader.num_frames == (None if suffix == ".webm" else 12)
    read = list(reader)
    assert reader.num_frames == len(read) == 12
    height, width = size
    padded = (height + height % 2, width + width % 2) if suffix in (".mp4", ".webm") else size
    for given, got in zip(frames, read, strict=True):
        assert (got.dtype, got.shape) == (np.uint8, (*padded, 3))
        error = np.abs(got[:height, :width].astype(int) - given)
        # Chroma is stored at half resolution, which blurs the border between colours.
        assert np.median(error) <= TOLERANCE if suffix else error.max() == 0
        assert error[2:-2, 2 : width // 2 - 2].mean() <= TOLERANCE
    assert reader.problems == []
    assert numbers(reader) == list(range(12))  # and once more


def test_memory_does_not_grow_with_the_length_of_a_video(tmp_path):
    frame = coloured(1, (128, 128))
    peaks = []
    for length in (20, 200):
        write_video(tmp_path / "clip.mp4", (frame for _ in range(length)))
        tracemalloc.start()
        assert sum(1 for _ in VideoReader(tmp_path / "clip.mp4")) == length
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 5 * frame.nbytes


def test_fps_can_be_given(tmp_path, folder):
    write_video(tmp_path / "clip.mp4", [coloured(0)], fps=30)
    assert VideoReader(tmp_path / "clip.mp4").fps == 30
    assert VideoReader(tmp_path / "clip.mp4", fps=6).fps == 6
    assert VideoReader(folder, fps=6).fps == 6
    with pytest.raises(ValueError, match="fps is 0; expected a positive number"):
        VideoReader(folder, fps=0)


def cut_video(tmp_path, suffix, share):
    """A video with noise, so that its bytes are spread over its frames, whole and without the end of its bytes."""
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 255, (64, 64, 3), dtype=np.uint8) for _ in range(20)]
    path = tmp_path / f"whole{suffix}"
    encoder = VIDEO_ENCODERS[suffix][0]
    # The index of this mp4 comes first: otherwise nothing of a cut file can be read.
    with av.open(str(path), "w", options={"movflags": "faststart"} if suffix == ".mp4" else {}) as container:
        stream = container.add_stream(encoder, rate=Fraction(10))
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        if suffix == ".mp4":  # store frames in another order than shown, as most videos do
            stream.options = {"x264-params": "bframes=3:b-adapt=0:scenecut=0:keyint=100"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    content = path.read_bytes()
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(content[: int(len(content) * share)])
    return path, cut


@pytest.mark.parametrize(("suffix", "message"), [(".mp4", "of 20 announced"), (".webm", "of 2.0 announced seconds")])
def test_a_truncated_video_gives_every_frame_before_the_break(tmp_path, warnings, suffix, message):
    whole, cut = cut_video(tmp_path, suffix, 0.6)
    expected = list(VideoReader(whole))
    assert (len(expected), warnings) == (20, [])
    reader = VideoReader(cut)
    read = list(reader)
    assert 8 <= len(read) <= 12
    for a, b in zip(read, expected, strict=False):
        np.testing.assert_array_equal(a, b)
    assert reader.num_frames == len(read)
    assert len(reader.problems) == 1
    assert message in reader.problems[0]
    list(reader)
    assert len(warnings) == 1  # once, however often it is read
    assert str(cut) in warnings[0]


def test_a_truncated_gif_is_told(tmp_path, warnings):
    write_video(tmp_path / "whole.gif", [coloured(n) for n in range(5)], fps=10)
    assert (len(list(VideoReader(tmp_path / "whole.gif"))), warnings) == (5, [])
    content = (tmp_path / "whole.gif").read_bytes()
    (tmp_path / "cut.gif").write_bytes(content[: len(content) * 3 // 5])
    reader = VideoReader(tmp_path / "cut.gif")
    assert 0 < len(list(reader)) < 5
    assert len(reader.problems) == len(warnings) == 1
    assert "breaks off after" in reader.problems[0]


def test_a_short_video_that_lost_less_than_half_a_second_is_told(tmp_path):
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 255, (64, 64, 3), dtype=np.uint8) for _ in range(16)]
    write_video(tmp_path / "whole.webm", frames, fps=25)
    whole = VideoReader(tmp_path / "whole.webm")
    assert (len(list(whole)), whole.problems) == (16, [])
    content = (tmp_path / "whole.webm").read_bytes()
    (tmp_path / "cut.webm").write_bytes(content[: len(content) * 2 // 3])
    cut = VideoReader(tmp_path / "cut.webm")
    assert 0 < len(list(cut)) < 16
    assert "0.6 announced seconds" in cut.problems[0]


def test_wherever_a_video_breaks_its_frames_stay_in_step(tmp_path):
    # Those stored before the break but shown after the first missing frame must not close the gap.
    whole, cut = cut_video(tmp_path, ".mp4", 1)
    expected, content = list(VideoReader(whole)), whole.read_bytes()
    for share in np.linspace(0.2, 0.95, 16):
        cut.write_bytes(content[: int(len(content) * share)])
        read = list(VideoReader(cut))
        assert len(read) < len(expected)
        for a, b in zip(read, expected, strict=False):
            np.testing.assert_array_equal(a, b)


def test_a_video_damaged_in_the_middle_stops_there(tmp_path, warnings):
    whole, _ = cut_video(tmp_path, ".mp4", 0.6)
    expected = list(VideoReader(whole))
    content = bytearray(whole.read_bytes())
    middle = len(content) // 2
    content[middle : middle + len(content) // 4] = bytes(len(content) // 4)
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(content)
    reader = VideoReader(damaged)
    read = list(reader)
    assert 5 <= len(read) < 20
    for a, b in zip(read[:-1], expected, strict=False):  # the break may begin inside the last one
        np.testing.assert_array_equal(a, b)
    assert "of 20 announced frames" in reader.problems[-1]


def test_unusable_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere.mp4 does not exist: expected a video file, a folder"):
        VideoReader(tmp_path / "nowhere.mp4")
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "zero.mp4").touch()
    with pytest.raises(ValueError, match=r"zero.mp4 is empty: was it copied"):
        VideoReader(tmp_path / "zero.mp4")
    with pytest.raises(ValueError, match="/dev/null is a device or a pipe"):
        VideoReader("/dev/null")
    with pytest.raises(ValueError, match=r"text.mp4 could not be opened as a video .*re-encode"):
        VideoReader(tmp_path / "text.mp4")
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
    with pytest.raises(ValueError, match=r"sound.wav has no video stream.*pass a file with pictures"):
        VideoReader(tmp_path / "sound.wav")


def test_a_video_without_one_readable_frame_is_an_error(tmp_path):
    whole, _ = cut_video(tmp_path, ".mp4", 0.6)
    content = whole.read_bytes()
    data = content.index(b"mdat")
    (tmp_path / "empty.mp4").write_bytes(content[: data + 4])
    reader = VideoReader(tmp_path / "empty.mp4")
    with pytest.raises(ValueError, match=r"empty.mp4: not one frame could be read \(breaks off after 0 of 20"):
        list(reader)


def with_matrix(path, a: float, b: float, c: float, d: float):
    """The video with a display matrix in its track header (ISO/IEC 14496-12, 8.3.2)."""
    content = bytearray(path.read_bytes())
    matrix = content.index(b"tkhd") + 4 + 40
    numbers = [round(value * 2**16) for value in (a, b, 0, c, d, 0, 0, 0)]
    content[matrix : matrix + 36] = struct.pack(">9i", *numbers, 1 << 30)
    changed = path.with_name("changed.mp4")
    changed.write_bytes(content)
    return changed


@pytest.mark.parametrize(
    ("matrix", "shown"),
    [
        ((1, 0, 0, 1), lambda frame: frame),
        ((0, 1, -1, 0), lambda frame: np.rot90(frame, -1)),  # a quarter turn clockwise, as phones write it
        ((-1, 0, 0, -1), lambda frame: np.rot90(frame, 2)),
        ((0, -1, 1, 0), lambda frame: np.rot90(frame, 1)),
        ((-1, 0, 0, 1), np.fliplr),
        ((1, 0, 0, -1), np.flipud),
        ((0, 1, 1, 0), lambda frame: frame.swapaxes(0, 1)),
        ((0, -1, -1, 0), lambda frame: np.rot90(frame, 2).swapaxes(0, 1)),
        ((0, 2, -2, 0), lambda frame: np.rot90(frame, -1)),
    ],
)
def test_display_matrices_are_applied(tmp_path, matrix, shown):
    write_video(tmp_path / "stored.mp4", [coloured(0)])
    [stored] = VideoReader(tmp_path / "stored.mp4")
    reader = VideoReader(with_matrix(tmp_path / "stored.mp4", *matrix))
    np.testing.assert_array_equal(next(iter(reader)), shown(stored))
    assert reader.problems == []


def test_a_turn_by_a_part_of_a_right_angle_is_told(tmp_path):
    write_video(tmp_path / "stored.mp4", [coloured(0)] * 2)
    reader = VideoReader(with_matrix(tmp_path / "stored.mp4", 0.7, 0.7, -0.7, 0.7))
    assert next(iter(reader)).shape == (32, 48, 3)
    assert reader.problems == [
        "is to be shown turned by a part of a right angle; its frames are read as they are stored"
    ]


@pytest.mark.parametrize("name", ["a.webp", "a.png", "a.gif", "a.tif"])
def test_animations_and_pages_are_videos(tmp_path, name):
    frames = [Image.fromarray(coloured(number)) for number in range(4)]
    frames[0].save(
        tmp_path / name,
        save_all=True,
        append_images=frames[1:],
        duration=100,
        **({"lossless": True} if "webp" in name else {}),
    )
    reader = VideoReader(tmp_path / name)
    assert (numbers(reader), reader.problems) == ([0, 1, 2, 3], [])
    assert reader.fps == (None if name == "a.tif" else pytest.approx(10))
    # Among the frames of a video it is no frame.
    still = VideoReader([frames[0], tmp_path / name])
    if name != "a.gif":
        assert numbers(still) == [0]
        assert "holds 4 pictures" in still.problems[0]


def test_an_image_is_told_by_its_content(tmp_path):
    frames = [Image.fromarray(coloured(number)) for number in range(3)]
    frames[0].save(
        tmp_path / "a.webp", save_all=True, append_images=frames[1:], duration=[50, 100, 450], lossless=True
    )
    (tmp_path / "a.webp").rename(tmp_path / "a.mp4")
    reader = VideoReader(tmp_path / "a.mp4")
    assert numbers(reader) == [0, 1, 2]
    assert reader.fps == pytest.approx(5)  # on the mean


def test_a_page_that_cannot_be_used_costs_no_other(tmp_path):
    pages = [Image.fromarray(np.full((8, 8), value, dtype=np.uint16)) for value in (30000, 3000, 50000)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    reader = VideoReader(tmp_path / "a.tif")
    assert [int(frame[0, 0, 0]) for frame in reader] == [117, 195]
    assert "frame 1 could not be read and is left out (it has 16 bits" in reader.problems[0]


def test_side_data_of_an_unknown_kind_does_no_harm(tmp_path, monkeypatch):
    write_video(tmp_path / "clip.mp4", [coloured(3)])

    def unknown(*_):
        raise ValueError("31 is not a valid Type")

    monkeypatch.setattr(av.sidedata.sidedata.SideDataContainer, "get", unknown, raising=False)
    assert numbers(VideoReader(tmp_path / "clip.mp4")) == [3]


def test_pages_up_to_the_damage(tmp_path):
    frames = [Image.fromarray(coloured(number)) for number in range(4)]
    frames[0].save(tmp_path / "a.tif", save_all=True, append_images=frames[1:], compression="tiff_deflate")
    content = bytearray((tmp_path / "a.tif").read_bytes())
    with Image.open(tmp_path / "a.tif") as image:
        image.seek(2)
        place = image.tag_v2[273][0]
    content[place : place + 8] = bytes(8)
    (tmp_path / "b.tif").write_bytes(content)
    reader = VideoReader(tmp_path / "b.tif")
    assert numbers(reader) == [0, 1]
    assert "breaks off after 2 of 4 frames" in reader.problems[0]


def test_a_cover_picture_is_no_video(tmp_path):
    with av.open(str(tmp_path / "song.mp4"), "w") as container:
        sound = container.add_stream("aac", rate=16000)
        cover = container.add_stream("mjpeg", rate=1)
        cover.width = cover.height = 64
        cover.pix_fmt, cover.disposition = "yuvj420p", av.stream.Disposition.attached_pic
        picture = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 90, np.uint8), format="rgb24")
        container.mux([*cover.encode(picture.reformat(format="yuvj420p")), *cover.encode(None)])
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 16000
        container.mux([*sound.encode(silence), *sound.encode(None)])
    with pytest.raises(ValueError, match=r"song.mp4 has no video stream, only sound, a cover picture"):
        VideoReader(tmp_path / "song.mp4")


@pytest.mark.parametrize("box", [b"mdhd", b"stts"])
def test_frames_that_damaged_time_stamps_cost_are_told(tmp_path, box):
    write_video(tmp_path / "clip.mp4", [coloured(number % 12) for number in range(30)])
    content = bytearray((tmp_path / "clip.mp4").read_bytes())
    place = content.index(box) + 16  # of the time scale, and of the duration of a frame
    content[place : place + 4] = bytes(4)
    (tmp_path / "clip.mp4").write_bytes(content)
    reader = VideoReader(tmp_path / "clip.mp4")
    read = len(list(reader))
    assert 0 < read < 30
    assert f"gives {read} of 30 announced frames: its time stamps hide the others" in reader.problems[0]


def test_frames_that_an_edit_list_hides_are_no_damage(tmp_path):
    write_video(tmp_path / "clip.mp4", [coloured(number % 12) for number in range(30)])
    content = bytearray((tmp_path / "clip.mp4").read_bytes())
    place = content.index(b"elst") + 16  # the first media time that is shown: five frames later
    start, scale = struct.unpack(">i", content[place : place + 4])[0], 12800
    content[place : place + 4] = struct.pack(">i", start + 5 * scale // 25)
    (tmp_path / "clip.mp4").write_bytes(content)
    reader = VideoReader(tmp_path / "clip.mp4")
    assert numbers(reader)[0] == 5
    assert (reader.num_frames, reader.problems) == (25, [])


@pytest.mark.parametrize("name", ["12:30.mp4", "clip:final.mp4", "data:x.mp4", "file:x.mp4", "concat:x.mp4", "pipe:0"])
def test_names_with_a_colon_are_files(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "clip.mp4", [coloured(3)])
    (tmp_path / "clip.mp4").rename(tmp_path / name)
    assert numbers(VideoReader(name)) == [3]
    assert numbers(VideoReader(f"./{name}")) == [3]


@pytest.mark.parametrize("suffix", [".mp4", ".txt", ".m3u8"])
def test_playlists_open_no_other_file(tmp_path, suffix):
    write_video(tmp_path / "secret.mp4", [coloured(3)])
    for text in (
        "ffconcat version 1.0\nfile secret.mp4\n",
        f"\ufeff#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{tmp_path}/secret.mp4\n#EXT-X-ENDLIST\n",
        f'<?xml version="1.0"?><MPD><BaseURL>{tmp_path}/secret.mp4</BaseURL></MPD>',
    ):
        (tmp_path / f"list{suffix}").write_text(text)
        with pytest.raises(ValueError, match=r"only names other files|incomplete or no video"):
            VideoReader(tmp_path / f"list{suffix}")


def test_an_empty_name_is_no_folder():
    with pytest.raises(ValueError, match="name of the video is empty"):
        VideoReader("")


# Frames in files


def test_folders_are_read_in_natural_order(folder):
    (folder / "notes.txt").write_text("not a frame")
    (folder / "._0.png").write_bytes(b"left by a Mac")
    for source in (folder, str(folder), str(folder / "*.png"), [str(folder / f"{n}.png") for n in (0, 1, 2, 10, 11)]):
        reader = VideoReader(source)
        assert (reader.num_frames, reader.fps) == (5, None)
        assert numbers(reader) == [0, 1, 2, 10, 11]
    assert VideoReader(folder).name == "frames"
    assert numbers(VideoReader(str(folder / "1?.png"))) == [10, 11]
    assert numbers(VideoReader(folder / "2.png")) == [2]


def test_photos_with_label_masks_beside_them(folder, warnings):
    for number in range(12):
        Image.fromarray(coloured(number)).save(folder / f"{number}.jpg", quality=95)
    assert numbers(VideoReader(folder)) == list(range(12))
    assert "only .jpg is read" in warnings[0]


@pytest.mark.parametrize("content", [b"", b"not an image", None])
def test_an_unreadable_frame_is_left_out_and_named(folder, warnings, content):
    path = folder / "2.png"
    path.write_bytes(path.read_bytes()[:60] if content is None else content)
    reader = VideoReader(folder)
    assert numbers(reader) == [0, 1, 10, 11]
    assert reader.num_frames == 4
    assert len(warnings) == len(reader.problems) == 1
    assert "frame 2" in warnings[0]
    assert str(path) in warnings[0]


def test_a_missing_frame_of_a_list_is_left_out_and_named(folder):
    reader = VideoReader([folder / "0.png", folder / "5.png", folder / "1.png"])
    assert numbers(reader) == [0, 1]
    assert "5.png" in reader.problems[0]
    with pytest.raises(ValueError, match=r"not one frame could be read .*5.png"):
        list(VideoReader([folder / "5.png"]))


def test_a_frame_of_another_size_is_left_out_and_named(folder):
    Image.fromarray(coloured(2, (16, 48))).save(folder / "2.png")
    reader = VideoReader(folder)
    assert numbers(reader) == [0, 1, 10, 11]
    assert reader.problems == ["frame 2 has size (16, 48) instead of (32, 48) (height, width) and is left out"]


def test_photos_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its left side
    Image.fromarray(coloured(0)).save(tmp_path / "0.jpg", exif=exif)
    assert next(iter(VideoReader(tmp_path))).shape == (48, 32, 3)


def test_nothing_to_read(tmp_path):
    with pytest.raises(ValueError, match=r"holds no image: expected frames ending in \.jpg"):
        VideoReader(tmp_path)
    (tmp_path / "clip.mp4").write_bytes(b"")
    with pytest.raises(ValueError, match=r"\*.mp4 matches no image \(1 other files\).*videos one at a time"):
        VideoReader(tmp_path / "*.mp4")
    with pytest.raises(ValueError, match="empty list"):
        VideoReader([])


# Frames in memory


VIDEO = np.stack([coloured(number) for number in range(4)])


@pytest.mark.parametrize(
    "source",
    [
        VIDEO,
        VIDEO.transpose(0, 3, 1, 2),
        torch.from_numpy(VIDEO),
        torch.from_numpy(VIDEO).permute(0, 3, 1, 2),
        VIDEO.astype(np.int64),
        VIDEO.astype(np.float32),
        VIDEO / 255,
        (torch.from_numpy(VIDEO) / 255).requires_grad_(),
        list(VIDEO),
        [frame.transpose(2, 0, 1) for frame in VIDEO / 255],
        [Image.fromarray(frame) for frame in VIDEO],
        (VIDEO[0], Image.fromarray(VIDEO[1]), torch.from_numpy(VIDEO[2]), VIDEO[3]),
    ],
)
def test_every_form_gives_the_same_frames(source):
    reader = VideoReader(source)
    assert (reader.num_frames, reader.fps, reader.name) == (4, None, "video")
    for _ in range(2):
        read = list(reader)
        np.testing.assert_array_equal(read, VIDEO)
        assert all(frame.dtype == np.uint8 and frame.flags.c_contiguous for frame in read)


def test_half_precision():
    read = list(VideoReader(torch.from_numpy(VIDEO / 255).bfloat16()))
    assert np.abs(np.stack(read).astype(int) - VIDEO).max() <= 1


def test_the_range_of_floats_is_that_of_the_video_and_not_of_the_frame():
    # The first frame is nearly black, but the second one shows that values go up to 255.
    video = np.stack([np.ones((8, 8, 3)), np.full((8, 8, 3), 199.6)])
    for source in (video, list(video)):
        assert [frame[0, 0, 0] for frame in VideoReader(source)] == [1, 200]
    # Integers are never stretched.
    assert next(iter(VideoReader(np.ones((1, 8, 8, 3), int))))[0, 0, 0] == 1


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (VIDEO[0], r"shape \(32, 48, 3\); expected \(frames, height, width, 3\).*\[None\]"),
        (VIDEO[None], r"shape \(1, 4, 32, 48, 3\).*one at a time"),
        (VIDEO[..., :1], r"shape \(4, 32, 48, 1\) and has no axis of 3 channels.*repeat a grey channel"),
        (VIDEO.transpose(3, 0, 1, 2), r"shape \(3, 4, 32, 48\) and has no axis of 3 channels"),
        (np.zeros((5, 3, 9, 3)), "could have its channels first or last"),
        (np.zeros((0, 8, 8, 3)), "at least one frame"),
        (VIDEO / 255 - 0.5, "values from -0.5 to .*undo a normalisation"),
        (np.where(VIDEO == 20, np.nan, VIDEO / 255), "values from nan to nan.*replace NaN"),
        (VIDEO.astype(int) * 9, "values from 0 to 1980"),
        (VIDEO > 100, "frames are of type bool"),
        ([VIDEO], r"frame 0 has shape \(4, 32, 48, 3\).*not in a list"),
        ([VIDEO[0], VIDEO[1, :, :, 0]], r"frame 1 has shape \(32, 48\)"),
        ([VIDEO[0], VIDEO[1, :, :, :2]], r"frame 1 has shape \(32, 48, 2\) and has no axis of 3"),
    ],
)
def test_arrays_that_are_no_video(source, message):
    with pytest.raises(ValueError, match=message):
        VideoReader(source)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ((f for f in VIDEO), "generator.*list"),
        ([3], "frame 0 is of type"),
        (Image.new("RGB", (8, 8)), "put a single image into a list"),
    ],
)
def test_sources_of_another_kind(source, message):
    with pytest.raises(TypeError, match=message):
        VideoReader(source)


# Writing


def test_writer_errors(tmp_path):
    with pytest.raises(ValueError, match=r"ends in \.xyz; expected \.mp4, \.webm, \.gif, or no suffix for a folder"):
        VideoWriter(tmp_path / "clip.xyz")
    with pytest.raises(ValueError, match="fps is -1; expected a positive number"):
        VideoWriter(tmp_path / "clip.mp4", fps=-1)
    with pytest.raises(ValueError, match=r"no frame was written to .*clip.mp4"):
        write_video(tmp_path / "clip.mp4", [])
    writer = VideoWriter(tmp_path / "clip.mp4", size=(32, 48))
    for frame in (coloured(0, (32, 46)), coloured(0) / 255):
        with pytest.raises(ValueError, match=r"frame 0 has shape .*expected uint8 \(32, 48, 3\)"):
            writer.write(frame)


def test_a_writer_that_is_interrupted_leaves_a_playable_file(tmp_path):
    def interrupted():
        yield coloured(0)
        yield coloured(1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_video(tmp_path / "clip.mp4", interrupted())
    assert numbers(VideoReader(tmp_path / "clip.mp4")) == [0, 1]


def test_frames_of_an_earlier_run_are_pointed_out(folder, warnings):
    write_video(folder, [coloured(0)])
    assert len(warnings) == 1
    assert "still holds" in warnings[0]


def test_gif_keeps_frames_that_do_not_change(tmp_path):
    write_video(tmp_path / "still.gif", [coloured(1)] * 5, fps=10)
    assert numbers(VideoReader(tmp_path / "still.gif")) == [1] * 5


@pytest.mark.parametrize("name", ["clip.mp4", "clip.webm", "clip.gif", "frames"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, OSError])
def test_an_older_video_stays_where_the_new_one_is_not_finished(tmp_path, name, error):
    path = tmp_path / name
    write_video(path, [coloured(7)] * 3)

    def interrupted():
        yield coloured(0)
        yield coloured(1)
        raise error

    with pytest.raises(error):
        write_video(path, interrupted())
    assert numbers(VideoReader(path)) == [7] * 3
    partial = path / "partial" if name == "frames" else tmp_path / name.replace(".", ".partial.")
    assert numbers(VideoReader(partial)) == [0, 1]
    write_video(path, [coloured(2)] * 3)
    assert numbers(VideoReader(path)) == [2] * 3
    assert numbers(VideoReader(partial)) == [0, 1]  # nobody else's to remove
