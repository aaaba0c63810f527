"""Files of results that are opened, appended to stretch by stretch, and closed, in the formats of others."""

from .kinds import SINKS, open_sink
from .sink import FolderSink, Sink

__all__ = ["SINKS", "FolderSink", "Sink", "open_sink"]
