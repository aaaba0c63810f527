"""CVAT for video 1.1: tracks of polygons."""

from datetime import datetime, timezone
from xml.sax.saxutils import escape, quoteattr

from ..palette import track_palette
from ..polygons import exact_polygon
from .sink import SpooledSink
from .spool import SpooledTrack


class CvatSink(SpooledSink):
    """
    `annotations.xml` of "CVAT for video 1.1": a track for each instance, whose id is that of the track, with a polygon
    as a key frame for every frame in which it is visible, and one with `outside="1"` in the frame behind each visible
    stretch. Frames are those of the video. Upload it to a task with the same labels.

    CVAT has no masks in tracks, and one polygon for a track in a frame. That is around exactly the pixels of the mask;
    several parts, and holes, are joined by lines that lead there and back and enclose nothing.
    """

    def _finish(self) -> None:
        self.write('<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n')
        self.write(self._meta())
        for track in sorted(self._spool.tracks(), key=lambda track: track.track_id):
            self._write_track(track)
        self.write("</annotations>\n")

    def _meta(self) -> str:
        height, width = self._video.size
        now = str(datetime.now(timezone.utc))
        labels = "".join(
            f"        <label>\n          <name>{escape(category['name'])}</name>\n"
            f"          <color>#{track_palette()[1 + number % 255].tobytes().hex()}</color>\n"
            "          <type>polygon</type>\n          <attributes>\n          </attributes>\n        </label>\n"
            for number, category in enumerate(self.categories())
        )
        return f"""  <meta>
    <task>
      <id>{self.numeric_id}</id>
      <name>{escape(str(self.video_id))}</name>
      <size>{self.length}</size>
      <mode>interpolation</mode>
      <overlap>0</overlap>
      <bugtracker></bugtracker>
      <flipped>False</flipped>
      <created>{now}</created>
      <updated>{now}</updated>
      <labels>
{labels}      </labels>
      <segments>
        <segment>
          <id>{self.numeric_id}</id>
          <start>0</start>
          <stop>{max(self.length - 1, 0)}</stop>
          <url></url>
        </segment>
      </segments>
      <owner>
        <username></username>
        <email></email>
      </owner>
      <original_size>
        <width>{width}</width>
        <height>{height}</height>
      </original_size>
    </task>
    <dumped>{now}</dumped>
  </meta>
"""

    def _write_track(self, track: SpooledTrack) -> None:
        label = quoteattr(str(self._video.label_name(track.label)))
        self.write(f'  <track id="{track.track_id}" label={label} source="auto">\n')
        frame, points = -1, ""
        for seen in self._spool.sightings(track):
            if points and seen.frame > frame + 1:
                self._write_polygon(frame + 1, points, outside=1)
            frame = seen.frame
            points = ";".join(f"{x},{y}" for x, y in exact_polygon(seen.mask))
            self._write_polygon(frame, points, outside=0)
        if self._video.first_frame + frame + 1 < self.length:
            self._write_polygon(frame + 1, points, outside=1)
        self.write("  </track>\n")

    def _write_polygon(self, frame: int, points: str, outside: int) -> None:
        attributes = f'frame="{self._video.first_frame + frame}" keyframe="1" outside="{outside}" occluded="0"'
        self.write(f'    <polygon {attributes} points="{points}" z_order="0">\n    </polygon>\n')
