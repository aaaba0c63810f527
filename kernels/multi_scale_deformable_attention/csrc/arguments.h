// The arguments of the operators, checked once for every device.

#pragma once

// The oldest torch whose stable interface has all that the kernels use, 2.10. To be set before any header of torch.
#ifndef TORCH_TARGET_VERSION
#define TORCH_TARGET_VERSION 0x020a000000000000
#endif

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <vector>

// Letters: N batch, S pixels over all levels, Q queries, M heads, D channels per head, L levels, P points per level.
struct Arguments {
  int64_t batch, pixels, heads, channels, queries, levels, points; // N, S, M, D, Q, L, P
  std::vector<int64_t> height, width, first_pixel; // of each level

  // There is no output, or no point to sum: nothing to compute.
  bool output_is_constant() const {
    return batch == 0 || heads == 0 || channels == 0 || queries == 0 || points == 0;
  }
};

inline Arguments check_arguments(
    const torch::stable::Tensor& value,
    const std::vector<int64_t>& spatial_shapes,
    const torch::stable::Tensor& locations,
    const torch::stable::Tensor& attention,
    bool knows_float16) {
  using torch::headeronly::ScalarType;
  STD_TORCH_CHECK(
      value.dim() == 4, "value must be (batch, pixels, heads, channels), but it has ", value.dim(), " dimensions");
  STD_TORCH_CHECK(
      locations.dim() == 6 && attention.dim() == 5,
      "sampling_locations must have 6 dimensions and attention_weights 5");
  const ScalarType dtype = value.scalar_type();
  STD_TORCH_CHECK(
      dtype == ScalarType::Float || dtype == ScalarType::BFloat16 || (knows_float16 && dtype == ScalarType::Half),
      knows_float16 ? "value must be float32, bfloat16 or float16" : "value must be float32 or bfloat16");
  STD_TORCH_CHECK(
      locations.scalar_type() == ScalarType::Float && attention.scalar_type() == ScalarType::Float,
      "sampling_locations and attention_weights must be float32");
  Arguments result;
  result.batch = value.size(0);
  result.pixels = value.size(1);
  result.heads = value.size(2);
  result.channels = value.size(3);
  result.queries = locations.size(1);
  result.levels = locations.size(3);
  result.points = locations.size(4);
  STD_TORCH_CHECK(
      locations.size(0) == result.batch && locations.size(2) == result.heads && locations.size(5) == 2 &&
          int64_t(spatial_shapes.size()) == 2 * result.levels,
      "sampling_locations must be (batch, queries, heads, levels, points, 2), to match value and spatial_shapes");
  for (int64_t dim = 0; dim < 5; ++dim) {
    STD_TORCH_CHECK(attention.size(dim) == locations.size(dim), "attention_weights must match sampling_locations");
  }
  int64_t pixel = 0;
  for (int64_t level = 0; level < result.levels; ++level) {
    const int64_t height = spatial_shapes[2 * level], width = spatial_shapes[2 * level + 1];
    STD_TORCH_CHECK(height > 0 && width > 0, "every level must have at least one pixel");
    // Before the product, which might overflow
    STD_TORCH_CHECK(
        height <= result.pixels && width <= result.pixels / height, "spatial_shapes must sum to the pixels of value");
    result.height.push_back(height);
    result.width.push_back(width);
    result.first_pixel.push_back(pixel);
    pixel += height * width;
  }
  STD_TORCH_CHECK(pixel == result.pixels, "spatial_shapes must sum to the pixels of value");
  return result;
}

inline void check_grad_output(
    const Arguments& arguments, const torch::stable::Tensor& grad_output, const torch::stable::Tensor& value) {
  STD_TORCH_CHECK(
      grad_output.dim() == 3 && grad_output.size(0) == arguments.batch && grad_output.size(1) == arguments.queries &&
          grad_output.size(2) == arguments.heads * arguments.channels &&
          grad_output.scalar_type() == value.scalar_type(),
      "grad_output must have the shape and dtype of the output");
}
