"""Long videos: clips, and what joins their results to tracks."""

from .clip_tracks import ClipTracks
from .devis import DevisTracker
from .multi_cue import MultiCueStitcher
from .stitching import TrackStitcher

__all__ = ["ClipTracks", "DevisTracker", "MultiCueStitcher", "TrackStitcher"]
