// Multi-scale deformable attention on CUDA devices of compute capability 7.0 and above, forward and backward.
// The maths is in attention.cuh, the kernels in kernels.cuh, this file launches them.
// Stable ABI only, so that one source serves every torch since 2.10; the schemas are defined in Python.
// TORCH_EXTENSION_NAME is the namespace of the operators.

// Declares the function that returns the current stream.
#ifndef USE_CUDA
#define USE_CUDA
#endif

#include "../arguments.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cuda_runtime.h>

#include <cstdint>
#include <limits>
#include <tuple>
#include <type_traits>
#include <vector>

#include "kernels.cuh"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

msda::Problem make_problem(const Arguments& arguments) {
  constexpr int64_t limit = std::numeric_limits<int32_t>::max();
  STD_TORCH_CHECK(
      arguments.levels <= msda::max_levels && arguments.levels * arguments.points < (1 << 20),
      "there may be at most ",
      msda::max_levels,
      " levels and 2^20 points on CUDA");
  STD_TORCH_CHECK(
      arguments.pixels < limit / 2 && arguments.queries < limit / 2 &&
          arguments.heads * arguments.channels < limit / 8,
      "pixels and queries must be below 2^30, and heads * channels below 2^28");
  msda::Problem problem = {};
  problem.batch = int(arguments.batch);
  problem.pixels = int(arguments.pixels);
  problem.heads = int(arguments.heads);
  problem.channels = int(arguments.channels);
  problem.queries = int(arguments.queries);
  problem.levels = int(arguments.levels);
  problem.level_points = int(arguments.points);
  problem.count = int(arguments.levels * arguments.points);
  problem.level_per_point = 1.0f / float(arguments.points);
  for (int level = 0; level < problem.levels; ++level) {
    problem.height[level] = int(arguments.height[level]);
    problem.width[level] = int(arguments.width[level]);
    problem.first_pixel[level] = int(arguments.first_pixel[level]);
  }
  return problem;
}

bool aligned(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
}

// Calls f with the lanes of a group, the channels of a lane and a null pointer of the element type.
template <class F>
void dispatch(const msda::Problem& problem, ScalarType dtype, bool can_load_vectors, const F& f) {
  const auto with_type = [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    msda::choose_group<T>(
        problem.channels, can_load_vectors, [&](auto lanes, auto vector) { f(lanes, vector, type); });
  };
  if (dtype == ScalarType::Float) {
    with_type(static_cast<float*>(nullptr));
  } else if (dtype == ScalarType::BFloat16) {
    with_type(static_cast<msda::BFloat16*>(nullptr));
  } else {
    with_type(static_cast<msda::Half*>(nullptr));
  }
}

// Sets the tiles of the problem and returns the number of blocks.
unsigned set_blocks(msda::Problem& problem, int threads, int lanes) {
  msda::set_tiles(problem, threads / lanes);
  const int64_t blocks = int64_t(problem.batch) * problem.heads * problem.tiles;
  STD_TORCH_CHECK(blocks <= std::numeric_limits<int32_t>::max(), "there are too many queries for one launch");
  return unsigned(blocks);
}

// Small blocks spread few queries over more multiprocessors.
int block_threads(const msda::Problem& problem) {
  return problem.queries == problem.pixels ? msda::max_threads : msda::max_threads / 2;
}

cudaStream_t current_stream(const Tensor& tensor) {
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

void check_launch() {
  const cudaError_t error = cudaGetLastError();
  STD_TORCH_CHECK(error == cudaSuccess, "the kernel could not be launched: ", cudaGetErrorString(error));
}

void check_device(const Tensor& value, const Tensor& other) {
  STD_TORCH_CHECK(
      other.is_cuda() && other.get_device_index() == value.get_device_index(),
      "all tensors must be on the device of value");
}

Tensor multi_scale_deformable_attention(
    const Tensor& value,
    std::vector<int64_t> spatial_shapes,
    const Tensor& sampling_locations,
    const Tensor& attention_weights) {
  const Arguments arguments = check_arguments(value, spatial_shapes, sampling_locations, attention_weights, true);
  check_device(value, sampling_locations);
  check_device(value, attention_weights);
  const torch::stable::accelerator::DeviceGuard guard(value.get_device_index());
  msda::Problem problem = make_problem(arguments);
  const Tensor values = torch::stable::contiguous(value);
  const Tensor locations = torch::stable::contiguous(sampling_locations);
  const Tensor attention = torch::stable::contiguous(attention_weights);
  if (arguments.output_is_constant()) {
    return torch::stable::new_zeros(
        value, {arguments.batch, arguments.queries, arguments.heads * arguments.channels});
  }
  Tensor output =
      torch::stable::new_empty(value, {arguments.batch, arguments.queries, arguments.heads * arguments.channels});
  const bool can_load_vectors = aligned(values.const_data_ptr()) && aligned(output.const_data_ptr());
  dispatch(problem, value.scalar_type(), can_load_vectors, [&](auto lanes, auto vector, auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    constexpr int size = decltype(lanes)::value;
    const int threads = block_threads(problem);
    const unsigned blocks = set_blocks(problem, threads, size);
    msda::forward_kernel<size, decltype(vector)::value, T><<<blocks, threads, 0, current_stream(value)>>>(
        problem,
        static_cast<const T*>(values.const_data_ptr()),
        static_cast<const float*>(locations.const_data_ptr()),
        static_cast<const float*>(attention.const_data_ptr()),
        static_cast<T*>(output.mutable_data_ptr()));
    check_launch();
  });
  return output;
}

std::tuple<Tensor, Tensor, Tensor> multi_scale_deformable_attention_backward(
    const Tensor& grad_output,
    const Tensor& value,
    std::vector<int64_t> spatial_shapes,
    const Tensor& sampling_locations,
    const Tensor& attention_weights) {
  const Arguments arguments = check_arguments(value, spatial_shapes, sampling_locations, attention_weights, true);
  check_grad_output(arguments, grad_output, value);
  check_device(value, grad_output);
  check_device(value, sampling_locations);
  check_device(value, attention_weights);
  const torch::stable::accelerator::DeviceGuard guard(value.get_device_index());
  msda::Problem problem = make_problem(arguments);
  const Tensor grads = torch::stable::contiguous(grad_output);
  const Tensor values = torch::stable::contiguous(value);
  const Tensor locations = torch::stable::contiguous(sampling_locations);
  const Tensor attention = torch::stable::contiguous(attention_weights);
  // Summed in float32 whatever the dtype of value: atomics on half types round at every sample.
  const Tensor grad_value = torch::stable::new_zeros(value, value.sizes(), ScalarType::Float);
  const auto create = [&](const Tensor& like) {
    return arguments.output_is_constant() ? torch::stable::new_zeros(like, like.sizes())
                                          : torch::stable::new_empty(like, like.sizes());
  };
  Tensor grad_locations = create(locations);
  Tensor grad_attention = create(attention);
  if (!arguments.output_is_constant()) {
    const bool can_load_vectors = aligned(values.const_data_ptr()) && aligned(grads.const_data_ptr()) &&
        aligned(grad_value.const_data_ptr());
    dispatch(problem, value.scalar_type(), can_load_vectors, [&](auto lanes, auto vector, auto* type) {
      using T = std::remove_pointer_t<decltype(type)>;
      constexpr int size = decltype(lanes)::value;
      const int threads = block_threads(problem);
      const unsigned blocks = set_blocks(problem, threads, size);
      msda::backward_kernel<size, decltype(vector)::value, T><<<blocks, threads, 0, current_stream(value)>>>(
          problem,
          static_cast<const T*>(grads.const_data_ptr()),
          static_cast<const T*>(values.const_data_ptr()),
          static_cast<const float*>(locations.const_data_ptr()),
          static_cast<const float*>(attention.const_data_ptr()),
          static_cast<float*>(grad_value.mutable_data_ptr()),
          static_cast<float*>(grad_locations.mutable_data_ptr()),
          static_cast<float*>(grad_attention.mutable_data_ptr()));
      check_launch();
    });
  }
  return {torch::stable::to(grad_value, value.scalar_type()), grad_locations, grad_attention};
}

} // namespace

STABLE_TORCH_LIBRARY_IMPL(TORCH_EXTENSION_NAME, CUDA, library) {
  library.impl("multi_scale_deformable_attention", TORCH_BOX(&multi_scale_deformable_attention));
  library.impl("multi_scale_deformable_attention_backward", TORCH_BOX(&multi_scale_deformable_attention_backward));
}
