// The kernels: every group of lanes of a warp computes one (batch, query, head).

#pragma once

#include "attention.cuh"

namespace msda {

// The blocks that a multiprocessor must hold leave a thread 64 and 80 registers.
constexpr int max_threads = 256, forward_blocks = 4, backward_blocks = 3;

template <int size>
struct WarpGroup {
  static constexpr int lanes = size;

  MSDA_DEVICE int lane() const {
    return threadIdx.x % size;
  }
  template <class T>
  MSDA_DEVICE T from(T value, int source) const {
    return __shfl_sync(0xFFFFFFFFu, value, source, size);
  }
  MSDA_DEVICE float exchange(float value, int distance) const {
    return __shfl_xor_sync(0xFFFFFFFFu, value, distance, size);
  }
};

// A lane indexes the levels of the problem: as a grid constant it is read where it lies, not from a copy on the stack.
template <int lanes, int vector, class T>
__global__ void __launch_bounds__(max_threads, forward_blocks) forward_kernel(
    const __grid_constant__ Problem problem,
    const T* __restrict__ value,
    const float* __restrict__ locations,
    const float* __restrict__ attention,
    T* __restrict__ output) {
  const Place place = find_place(problem, blockIdx.x, threadIdx.x / lanes);
  forward<WarpGroup<lanes>, vector>(
      WarpGroup<lanes>(), problem, place, value, locations, attention, output);
}

template <int lanes, int vector, class T>
__global__ void __launch_bounds__(max_threads, backward_blocks) backward_kernel(
    const __grid_constant__ Problem problem,
    const T* __restrict__ grad_output,
    const T* __restrict__ value,
    const float* __restrict__ locations,
    const float* __restrict__ attention,
    float* __restrict__ grad_value,
    float* __restrict__ grad_locations,
    float* __restrict__ grad_attention) {
  const Place place = find_place(problem, blockIdx.x, threadIdx.x / lanes);
  backward<WarpGroup<lanes>, vector>(
      WarpGroup<lanes>(),
      problem,
      place,
      grad_output,
      value,
      locations,
      attention,
      grad_value,
      grad_locations,
      grad_attention);
}

} // namespace msda
