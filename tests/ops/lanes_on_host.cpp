// Runs the CUDA kernels' device functions on the host: every lane of a warp is a fiber, which a shuffle suspends until
// all 32 lanes have reached the same shuffle. A warp whose lanes part ways is an error.

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "attention.cuh"

namespace {

constexpr int warp_size = 32;
constexpr size_t stack_size = 1 << 18;

struct Shuffle {
  int kind, argument; // kind 0: none, the lane has finished
  uint32_t bits;
};

struct Warp {
  // Contexts start the fibers; jumps, which need no system call, go between them afterwards.
  jmp_buf scheduler, lane[warp_size];
  std::unique_ptr<char[]> stack[warp_size];
  Shuffle shuffle[2][warp_size]; // the last and the current one: a lane may run ahead of others that still read
  int parity = 0, current = 0;
  std::function<void(int)> body;
  bool diverged = false;

  Warp() {
    for (auto& memory : stack) {
      memory.reset(new char[stack_size]);
    }
  }

  static void enter(unsigned low, unsigned high, int lane) {
    auto* warp = reinterpret_cast<Warp*>(uintptr_t(low) | uintptr_t(high) << 32);
    warp->body(lane);
    warp->shuffle[warp->parity][lane] = {0, 0, 0};
    _longjmp(warp->scheduler, 1);
  }

  void run() {
    for (bool started = false;; started = true) {
      for (current = 0; current < warp_size; ++current) {
        if (_setjmp(scheduler) == 0) {
          if (started) {
            _longjmp(lane[current], 1);
          }
          start(current);
        }
      }
      const Shuffle* all = shuffle[parity];
      for (int i = 1; i < warp_size; ++i) {
        diverged |= all[i].kind != all[0].kind || all[i].argument != all[0].argument;
      }
      if (diverged || all[0].kind == 0) {
        return;
      }
      parity = 1 - parity;
    }
  }

  void start(int index) {
    ucontext_t context;
    getcontext(&context);
    context.uc_stack.ss_sp = stack[index].get();
    context.uc_stack.ss_size = stack_size;
    context.uc_link = nullptr;
    const auto self = reinterpret_cast<uintptr_t>(this);
    makecontext(&context, reinterpret_cast<void (*)()>(&enter), 3, unsigned(self), unsigned(self >> 32), index);
    setcontext(&context);
  }

  uint32_t exchange(int kind, int argument, uint32_t bits, int source) {
    const int self = current, buffer = parity;
    shuffle[buffer][self] = {kind, argument, bits};
    if (_setjmp(lane[self]) == 0) {
      _longjmp(scheduler, 1);
    }
    return shuffle[buffer][source].bits;
  }
};

Warp* warp = nullptr;

template <int size>
struct FiberGroup {
  static constexpr int lanes = size;
  int warp_lane;

  int lane() const {
    return warp_lane % size;
  }
  template <class T>
  T from(T value, int source) const {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    bits = warp->exchange(1, source, bits, warp_lane / size * size + source);
    std::memcpy(&value, &bits, sizeof(value));
    return value;
  }
  float exchange(float value, int distance) const {
    return msda::as_float(warp->exchange(2, distance, msda::as_bits(value), warp_lane ^ distance));
  }
};

// Returns false if the lanes of a warp diverged.
template <class Body>
bool launch(msda::Problem problem, int threads, int lanes, const Body& body) {
  msda::set_tiles(problem, threads / lanes);
  Warp shared;
  warp = &shared;
  const unsigned blocks = unsigned(problem.batch * problem.heads * problem.tiles);
  for (unsigned block = 0; block < blocks; ++block) {
    for (int first = 0; first < threads; first += warp_size) {
      shared.body = [&](int lane) { body(lane, msda::find_place(problem, block, (first + lane) / lanes), problem); };
      shared.run();
      if (shared.diverged) {
        return false;
      }
    }
  }
  return true;
}

template <class T>
bool run(
    const msda::Problem& problem,
    int threads,
    bool aligned,
    const T* grad_output,
    const T* value,
    const float* locations,
    const float* attention,
    T* output,
    float* grad_value,
    float* grad_locations,
    float* grad_attention) {
  bool agreed = false;
  msda::choose_group<T>(problem.channels, aligned, [&](auto lanes, auto vector) {
    using Group = FiberGroup<decltype(lanes)::value>;
    constexpr int size = decltype(vector)::value;
    agreed = launch(problem, threads, lanes, [&](int lane, msda::Place place, const msda::Problem& tiled) {
      msda::forward<Group, size>(Group{lane}, tiled, place, value, locations, attention, output);
    });
    agreed &= launch(problem, threads, lanes, [&](int lane, msda::Place place, const msda::Problem& tiled) {
      msda::backward<Group, size>(
          Group{lane},
          tiled,
          place,
          grad_output,
          value,
          locations,
          attention,
          grad_value,
          grad_locations,
          grad_attention);
    });
  });
  return agreed;
}

} // namespace

// sizes: batch, pixels, heads, channels, queries, levels, points; shapes: height and width of each level;
// bytes: 4 float32, 2 bfloat16, -2 float16
extern "C" bool attention_on_host(
    const int64_t* sizes,
    const int64_t* shapes,
    int bytes,
    int threads,
    bool aligned,
    const void* grad_output,
    const void* value,
    const float* locations,
    const float* attention,
    void* output,
    float* grad_value,
    float* grad_locations,
    float* grad_attention) {
  msda::Problem problem = {};
  problem.batch = int(sizes[0]);
  problem.pixels = int(sizes[1]);
  problem.heads = int(sizes[2]);
  problem.channels = int(sizes[3]);
  problem.queries = int(sizes[4]);
  problem.levels = int(sizes[5]);
  problem.level_points = int(sizes[6]);
  problem.count = problem.levels * problem.level_points;
  problem.level_per_point = 1.0f / float(problem.level_points);
  for (int level = 0, pixel = 0; level < problem.levels; ++level) {
    problem.height[level] = int(shapes[2 * level]);
    problem.width[level] = int(shapes[2 * level + 1]);
    problem.first_pixel[level] = pixel;
    pixel += problem.height[level] * problem.width[level];
  }
  const auto with_type = [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    return run<T>(
        problem,
        threads,
        aligned,
        static_cast<const T*>(grad_output),
        static_cast<const T*>(value),
        locations,
        attention,
        static_cast<T*>(output),
        grad_value,
        grad_locations,
        grad_attention);
  };
  return bytes == 4 ? with_type(static_cast<float*>(nullptr))
      : bytes == 2  ? with_type(static_cast<msda::BFloat16*>(nullptr))
                    : with_type(static_cast<msda::Half*>(nullptr));
}
