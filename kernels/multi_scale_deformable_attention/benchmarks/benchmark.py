"""Milliseconds of a built kernel at the size of an encoder and of a decoder, 5 frames of 360 x 640."""

import argparse
import statistics
import time

import multi_scale_deformable_attention as kernel
import torch

SHAPES = [(45, 80), (23, 40), (12, 20), (6, 10)]
SIDES = [side for shape in SHAPES for side in shape]
PIXELS = sum(height * width for height, width in SHAPES)


def milliseconds(function, device, repeats=20):
    times = []
    for _ in range(repeats):
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        function()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    device = parser.parse_args().device
    for name, queries in (("encoder", PIXELS), ("decoder", 300)):
        for dtype in (torch.float32, torch.bfloat16):
            value = torch.randn(5, PIXELS, 8, 32, device=device).to(dtype).requires_grad_()
            locations = torch.rand(5, queries, 8, 4, 4, 2, device=device).requires_grad_()
            weights = torch.rand(5, queries, 8, 4, 4, device=device).requires_grad_()

            def forward(inputs=(value, SIDES, locations, weights)):
                return kernel.multi_scale_deformable_attention(*inputs)

            output = forward()
            grad = torch.randn_like(output)

            def backward(output=output, inputs=(value, locations, weights), grad=grad):
                torch.autograd.grad(output, inputs, grad, retain_graph=True)

            print(
                f"{name} {dtype}: forward {milliseconds(forward, device):.3f} ms, "
                f"backward {milliseconds(backward, device):.3f} ms"
            )


if __name__ == "__main__":
    main()
