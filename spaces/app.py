"""The Space: the page of the package, on whatever machine the Space has."""

try:
    import spaces  # on ZeroGPU, before PyTorch
except ImportError:
    spaces = None

from transformers_msstsvis.demo import build_page, launch_page

on_gpu = {} if spaces is None else {"on_gpu": spaces.GPU(duration=120)}
demo = build_page(**on_gpu)

if __name__ == "__main__":
    launch_page(demo)
