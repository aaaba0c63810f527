"""Long videos: clips, and what joins their results to tracks."""

from .clip_tracks import ClipTracks
from .devis import DevisTracker
from .multi_cue import MultiCueStitcher
from .stitching import TrackStitcher
from .streaming import StreamingPredictor

__all__ = ["ClipTracks", "DevisTracker", "MultiCueStitcher", "StreamingPredictor", "TrackStitcher"]
