"""What drawing starts from: one colour for each track, and the package that draws."""

import colorsys
import warnings
from functools import lru_cache
from types import ModuleType

import numpy as np


def load_supervision() -> ModuleType:
    """Import `supervision` when it is first needed: it takes a second, which `import transformers_msstsvis` saves."""
    with warnings.catch_warnings():
        # Without OpenCV it announces its slower NumPy drawing, which is all we need.
        warnings.filterwarnings("ignore", message="OpenCV", category=UserWarning)
        try:
            import supervision
        except ImportError as error:
            raise ImportError("drawing needs the supervision package: pip install supervision") from error

    return supervision


@lru_cache(maxsize=1)
def track_palette() -> np.ndarray:
    """Colours by track id, uint8 `(256, 3)` RGB; row 0 is black, for the background.

    Hues advance by the golden ratio, so that neighbouring ids differ clearly. Ids above 255 start again at row 1.
    """
    golden_ratio = (5**0.5 - 1) / 2
    rows = [(0.0, 0.0, 0.0)]
    rows += [colorsys.hsv_to_rgb(track * golden_ratio % 1, (0.9, 0.65)[track % 2], 1.0) for track in range(255)]
    palette = np.round(np.array(rows) * 255).astype(np.uint8)
    palette.flags.writeable = False
    return palette
