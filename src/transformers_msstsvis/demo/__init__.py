"""A page to try models on videos: what it computes, and what it looks like."""

from .page import build_page, launch_page

__all__ = ["build_page", "launch_page"]
