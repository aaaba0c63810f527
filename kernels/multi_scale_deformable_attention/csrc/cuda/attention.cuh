// Multi-scale deformable attention of one (batch, query, head) by a group of lanes, forward and backward.
//
// Formula: Deformable DETR, https://arxiv.org/abs/2010.04159, equation 3, bilinear sampling with zeros outside.
// Letters: N batch, S pixels over all levels, Q queries, M heads, D channels per head, L levels, P points per level.
//
// Lane i of a group owns the channels [i * vector, (i + 1) * vector), 16 bytes of them if `vector` is above 1, and
// prepares the points i, i + lanes, ...: the others learn a point's weights and pixels by shuffles. In the backward
// pass the products of a point's corners with the output gradient are summed over the lanes such that the lane that
// prepared the point receives them, and writes its gradients once: no shared memory, no barrier, and atomics only
// where queries meet, in grad_value.
//
// Nothing here needs a GPU: a `Group` supplies lane(), from(value, lane) and exchange(value, distance), and the tests
// supply one that runs on the host.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#ifdef __CUDACC__
#include <cuda_fp16.h>
#define MSDA_DEVICE __device__ __forceinline__
#define MSDA_UNROLL _Pragma("unroll")
#else
#define MSDA_DEVICE inline
#define MSDA_UNROLL
#endif

namespace msda {

constexpr int max_levels = 16;
constexpr int tile_width = 8;

// Passed to the kernels by value.
struct Problem {
  int batch, pixels, heads, channels, queries, levels;
  int level_points; // P
  int count; // L * P
  float level_per_point; // 1 / P
  int height[max_levels], width[max_levels], first_pixel[max_levels];
  int block_groups; // queries of one head that a block serves
  int tiles; // blocks per batch and head
  // When the queries are the pixels, a block serves a tile of tile_width columns, so that its samples share cache
  // lines; first_tile and tile_columns count tiles in each level.
  bool tiled;
  int first_tile[max_levels], tile_columns[max_levels];
};

struct Half {
  uint16_t bits;
};

struct BFloat16 {
  uint16_t bits;
};

// ------------------------------------------------------------------------------------------------ conversions

MSDA_DEVICE float as_float(uint32_t bits) {
#ifdef __CUDA_ARCH__
  return __uint_as_float(bits);
#else
  float result;
  std::memcpy(&result, &bits, sizeof(result));
  return result;
#endif
}

MSDA_DEVICE uint32_t as_bits(float value) {
#ifdef __CUDA_ARCH__
  return __float_as_uint(value);
#else
  uint32_t result;
  std::memcpy(&result, &value, sizeof(result));
  return result;
#endif
}

MSDA_DEVICE float to_float(float value) {
  return value;
}

MSDA_DEVICE float to_float(BFloat16 value) {
  return as_float(uint32_t(value.bits) << 16);
}

MSDA_DEVICE float to_float(Half value) {
#ifdef __CUDA_ARCH__
  return __half2float(__ushort_as_half(value.bits));
#else
  const uint32_t sign = uint32_t(value.bits & 0x8000) << 16, rest = value.bits & 0x7FFF;
  if (rest >= 0x7C00) { // infinity and NaN
    return as_float(sign | 0x7F800000 | rest << 13);
  }
  // Shifted into place, the exponent is too small by 112, of subnormal numbers too.
  return as_float(sign | as_bits(as_float(rest << 13) * as_float(uint32_t(127 + 112) << 23)));
#endif
}

MSDA_DEVICE void assign(float& target, float value) {
  target = value;
}

// Round to nearest, ties to even.
MSDA_DEVICE void assign(BFloat16& target, float value) {
  const uint32_t bits = as_bits(value);
  target.bits = value != value ? uint16_t(0x7FC0) : uint16_t((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

MSDA_DEVICE void assign(Half& target, float value) {
#ifdef __CUDA_ARCH__
  target.bits = __half_as_ushort(__float2half_rn(value));
#else
  const uint32_t sign = (as_bits(value) >> 16) & 0x8000;
  const float size = std::fabs(value);
  uint32_t rest;
  if (!(size < 65520.0f)) {
    rest = value != value ? 0x7E00 : 0x7C00;
  } else if (size < 0x1p-14f) { // subnormal: a multiple of 2^-24
    rest = uint32_t(std::nearbyint(size * 0x1p24f));
  } else {
    const uint32_t bits = as_bits(size) - (uint32_t(112) << 23);
    rest = (bits + 0xFFF + ((bits >> 13) & 1)) >> 13;
  }
  target.bits = uint16_t(sign | rest);
#endif
}

// ---------------------------------------------------------------------------------------------- vector access

struct alignas(16) Words {
  uint32_t word[4];
};

MSDA_DEVICE Words load_words(const void* source) {
#ifdef __CUDA_ARCH__
  const uint4 bits = __ldg(static_cast<const uint4*>(source));
  return {{bits.x, bits.y, bits.z, bits.w}};
#else
  return *static_cast<const Words*>(source);
#endif
}

MSDA_DEVICE void unpack(const Words& words, float (&target)[4], float) {
  MSDA_UNROLL
  for (int i = 0; i < 4; ++i) {
    target[i] = as_float(words.word[i]);
  }
}

MSDA_DEVICE void unpack(const Words& words, float (&target)[8], BFloat16) {
  MSDA_UNROLL
  for (int i = 0; i < 4; ++i) {
    target[2 * i] = as_float(words.word[i] << 16);
    target[2 * i + 1] = as_float(words.word[i] & 0xFFFF0000u);
  }
}

MSDA_DEVICE void unpack(const Words& words, float (&target)[8], Half) {
  MSDA_UNROLL
  for (int i = 0; i < 4; ++i) {
    target[2 * i] = to_float(Half{uint16_t(words.word[i] & 0xFFFF)});
    target[2 * i + 1] = to_float(Half{uint16_t(words.word[i] >> 16)});
  }
}

template <int vector, class T>
MSDA_DEVICE void load(const T* source, float (&target)[vector]) {
  if constexpr (vector == 1) {
    target[0] = to_float(*source);
  } else {
    static_assert(vector * sizeof(T) == sizeof(Words), "vectors are 16 bytes wide");
    unpack(load_words(source), target, T{});
  }
}

template <int vector, class T>
MSDA_DEVICE void store(T* target, const float (&source)[vector]) {
  struct alignas(vector == 1 ? sizeof(T) : 16) Vector {
    T element[vector];
  } result;
  MSDA_UNROLL
  for (int i = 0; i < vector; ++i) {
    assign(result.element[i], source[i]);
  }
  *reinterpret_cast<Vector*>(target) = result;
}

MSDA_DEVICE void add_one(float* target, float a) {
#ifdef __CUDA_ARCH__
  atomicAdd(target, a);
#else
  *target += a;
#endif
}

MSDA_DEVICE void add_four(float* target, float a, float b, float c, float d) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("red.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(target)),
               "f"(a),
               "f"(b),
               "f"(c),
               "f"(d)
               : "memory");
#else
  add_one(target, a);
  add_one(target + 1, b);
  add_one(target + 2, c);
  add_one(target + 3, d);
#endif
}

// target[i] += weight * source[i], against other groups that do the same
template <int vector>
MSDA_DEVICE void add(float* target, float weight, const float (&source)[vector]) {
  if constexpr (vector == 1) {
    add_one(target, weight * source[0]);
  } else {
    MSDA_UNROLL
    for (int i = 0; i < vector; i += 4) {
      add_four(target + i, weight * source[i], weight * source[i + 1], weight * source[i + 2], weight * source[i + 3]);
    }
  }
}

// ------------------------------------------------------------------------------------------------------ places

// What one group computes. A group without a query takes part in the shuffles of its warp with some other query's
// data, and writes nothing.
struct Place {
  bool active;
  int64_t query_head; // row of (N, Q, M)
  int64_t pixel_head; // row of (N, S, M): this batch and head, pixel 0
};

MSDA_DEVICE Place find_place(const Problem& problem, unsigned block, int group) {
  const unsigned rest = block / unsigned(problem.heads);
  const int head = int(block - rest * unsigned(problem.heads));
  const int64_t batch = rest / unsigned(problem.tiles);
  int tile = int(rest % unsigned(problem.tiles));
  int64_t query;
  Place place;
  if (problem.tiled) {
    int level = 0;
    while (level + 1 < problem.levels && tile >= problem.first_tile[level + 1]) {
      ++level;
    }
    tile -= problem.first_tile[level];
    const int columns = problem.tile_columns[level], height = problem.block_groups / tile_width;
    const int line = tile / columns;
    const int row = line * height + group / tile_width;
    const int column = (tile - line * columns) * tile_width + group % tile_width;
    place.active = row < problem.height[level] && column < problem.width[level];
    query = problem.first_pixel[level] + int64_t(row) * problem.width[level] + column;
  } else {
    query = int64_t(tile) * problem.block_groups + group;
    place.active = query < problem.queries;
  }
  place.query_head = (batch * problem.queries + (place.active ? query : 0)) * problem.heads + head;
  place.pixel_head = batch * problem.pixels * problem.heads + head;
  return place;
}

// One axis of a point: its two neighbouring pixels and their weights, 0 outside the level. The pixels are clamped to
// the level, so that reading them is safe.
struct Axis {
  int low, high;
  float low_weight, high_weight, low_inside, high_inside;
};

MSDA_DEVICE Axis find_axis(float location, int side) {
  const float size = float(side);
  // Far points become points just outside; so does NaN, which neither fmaxf nor fminf returns.
  const float place = fminf(fmaxf(location * size - 0.5f, -2.0f), size + 1.0f);
  const float floor = floorf(place);
  const int low = int(floor), high = low + 1;
  Axis axis;
  axis.low_inside = low >= 0 && low < side ? 1.0f : 0.0f;
  axis.high_inside = high >= 0 && high < side ? 1.0f : 0.0f;
  axis.high_weight = (place - floor) * axis.high_inside;
  axis.low_weight = (1.0f - (place - floor)) * axis.low_inside;
  axis.low = low < 0 ? 0 : low < side ? low : side - 1;
  axis.high = high < 0 ? 0 : high < side ? high : side - 1;
  return axis;
}

// Corner c of a point is (line c / 2, column c % 2).
struct Point {
  Axis x, y;
  float attention, width, height;
  int pixel; // of corner 0
  int steps; // pixels from line 0 to line 1, times 2, plus pixels from column 0 to column 1
  float weight[4];
};

// Point `index` of the query; one beyond the last has weight 0 everywhere.
MSDA_DEVICE Point find_point(const Problem& problem, const float* locations, const float* attention, int index) {
  const bool exists = index < problem.count;
  const int safe = exists ? index : 0;
  // Exact: the quotient is at least 0.5 / P away from an integer, and there are below 2^20 points.
  const int level = int((float(safe) + 0.5f) * problem.level_per_point);
  const int height = problem.height[level], width = problem.width[level];
  Point point;
  point.x = find_axis(locations[2 * safe], width);
  point.y = find_axis(locations[2 * safe + 1], height);
  point.attention = exists ? attention[safe] : 0.0f;
  point.width = float(width);
  point.height = float(height);
  point.pixel = problem.first_pixel[level] + point.y.low * width + point.x.low;
  point.steps = 2 * (point.y.high - point.y.low) * width + (point.x.high - point.x.low);
  const float top = point.y.low_weight * point.attention, bottom = point.y.high_weight * point.attention;
  point.weight[0] = top * point.x.low_weight;
  point.weight[1] = top * point.x.high_weight;
  point.weight[2] = bottom * point.x.low_weight;
  point.weight[3] = bottom * point.x.high_weight;
  return point;
}

// What every lane needs of a point
struct Corners {
  float weight[4];
  int pixel[4];
};

template <class Group>
MSDA_DEVICE Corners share(const Group& group, const Point& point, int source) {
  Corners corners;
  MSDA_UNROLL
  for (int corner = 0; corner < 4; ++corner) {
    corners.weight[corner] = group.from(point.weight[corner], source);
  }
  const int pixel = group.from(point.pixel, source), steps = group.from(point.steps, source);
  corners.pixel[0] = pixel;
  corners.pixel[1] = pixel + (steps & 1);
  corners.pixel[2] = pixel + (steps >> 1);
  corners.pixel[3] = corners.pixel[2] + (steps & 1);
  return corners;
}

// `pixels` rows further: one multiplication with a 64-bit result
template <class T>
MSDA_DEVICE T* at(T* rows, int pixels, int row_bytes) {
  using Byte = std::conditional_t<std::is_const_v<T>, const char, char>;
  return reinterpret_cast<T*>(reinterpret_cast<Byte*>(rows) + int64_t(pixels) * row_bytes);
}

// ----------------------------------------------------------------------------------------------------- forward

// value (N, S, M, D), locations (N, Q, M, L, P, 2), attention (N, Q, M, L, P) -> output (N, Q, M, D)
template <class Group, int vector, class T>
MSDA_DEVICE void forward(
    const Group& group,
    const Problem& problem,
    const Place& place,
    const T* value,
    const float* locations,
    const float* attention,
    T* output) {
  constexpr int lanes = Group::lanes;
  constexpr int unrolled = lanes < 4 ? lanes : 4;
  const int row_bytes = problem.heads * problem.channels * int(sizeof(T));
  locations += 2 * place.query_head * problem.count;
  attention += place.query_head * problem.count;
  for (int first_channel = 0; first_channel < problem.channels; first_channel += lanes * vector) {
    const int channel = first_channel + group.lane() * vector;
    const bool owned = channel < problem.channels;
    const T* rows = value + place.pixel_head * problem.channels + (owned ? channel : 0);
    float sums[vector] = {};
    for (int first = 0; first < problem.count; first += lanes) {
      const Point point = find_point(problem, locations, attention, first + group.lane());
      MSDA_UNROLL
      for (int block = 0; block < lanes; block += unrolled) {
        if (first + block >= problem.count) {
          break;
        }
        MSDA_UNROLL
        for (int source = block; source < block + unrolled; ++source) {
          const Corners corners = share(group, point, source);
          MSDA_UNROLL
          for (int corner = 0; corner < 4; ++corner) {
            float pixel[vector];
            load<vector>(at(rows, corners.pixel[corner], row_bytes), pixel);
            MSDA_UNROLL
            for (int i = 0; i < vector; ++i) {
              sums[i] += corners.weight[corner] * pixel[i];
            }
          }
        }
      }
    }
    if (owned && place.active) {
      store<vector>(output + place.query_head * problem.channels + channel, sums);
    }
  }
}

// ---------------------------------------------------------------------------------------------------- backward

struct Dots {
  float corner[4] = {};
};

// Adds the points [first, first + n) to grad_rows, and returns to lane i, summed over the lanes, the products of the
// corners of point first + i % n with the output gradient.
template <int n, class Group, int vector, class T>
MSDA_DEVICE Dots scatter(
    const Group& group,
    const Point& point,
    int first,
    int count,
    int row, // elements from one pixel to the next
    const T* rows,
    float* grad_rows,
    bool writes,
    const float (&grad)[vector]) {
  Dots dots;
  if constexpr (n == 1) {
    const Corners corners = share(group, point, first);
    MSDA_UNROLL
    for (int corner = 0; corner < 4; ++corner) {
      float pixel[vector];
      load<vector>(at(rows, corners.pixel[corner], row * int(sizeof(T))), pixel);
      MSDA_UNROLL
      for (int i = 0; i < vector; ++i) {
        dots.corner[corner] += grad[i] * pixel[i];
      }
      if (writes && corners.weight[corner] != 0.0f) {
        add<vector>(
            at(grad_rows, corners.pixel[corner], row * int(sizeof(float))), corners.weight[corner], grad);
      }
    }
  } else if (first < count) {
    const Dots low = scatter<n / 2>(group, point, first, count, row, rows, grad_rows, writes, grad);
    const Dots high = scatter<n / 2>(group, point, first + n / 2, count, row, rows, grad_rows, writes, grad);
    const bool upper = group.lane() & (n / 2);
    MSDA_UNROLL
    for (int corner = 0; corner < 4; ++corner) {
      const float kept = upper ? high.corner[corner] : low.corner[corner];
      const float sent = upper ? low.corner[corner] : high.corner[corner];
      dots.corner[corner] = kept + group.exchange(sent, n / 2);
    }
  }
  return dots;
}

// grad_value (N, S, M, D) must be 0 at first; every element of grad_locations and grad_attention is written.
template <class Group, int vector, class T>
MSDA_DEVICE void backward(
    const Group& group,
    const Problem& problem,
    const Place& place,
    const T* grad_output,
    const T* value,
    const float* locations,
    const float* attention,
    float* grad_value,
    float* grad_locations,
    float* grad_attention) {
  constexpr int lanes = Group::lanes;
  const int row = problem.heads * problem.channels;
  locations += 2 * place.query_head * problem.count;
  attention += place.query_head * problem.count;
  grad_locations += 2 * place.query_head * problem.count;
  grad_attention += place.query_head * problem.count;
  for (int first = 0; first < problem.count; first += lanes) {
    const int index = first + group.lane();
    const Point point = find_point(problem, locations, attention, index);
    Dots dots;
    for (int first_channel = 0; first_channel < problem.channels; first_channel += lanes * vector) {
      const int channel = first_channel + group.lane() * vector;
      const bool owned = channel < problem.channels;
      const int64_t rows = place.pixel_head * problem.channels + (owned ? channel : 0);
      float grad[vector] = {};
      if (owned) {
        load<vector>(grad_output + place.query_head * problem.channels + channel, grad);
      }
      const Dots part = scatter<lanes>(
          group, point, 0, problem.count - first, row, value + rows, grad_value + rows, owned && place.active, grad);
      MSDA_UNROLL
      for (int corner = 0; corner < 4; ++corner) {
        dots.corner[corner] += part.corner[corner];
      }
    }
    if (place.active && index < problem.count) {
      const Axis &x = point.x, &y = point.y;
      const float top = x.low_weight * dots.corner[0] + x.high_weight * dots.corner[1];
      const float bottom = x.low_weight * dots.corner[2] + x.high_weight * dots.corner[3];
      const float left = y.low_weight * dots.corner[0] + y.high_weight * dots.corner[2];
      const float right = y.low_weight * dots.corner[1] + y.high_weight * dots.corner[3];
      grad_attention[index] = y.low_weight * top + y.high_weight * bottom;
      grad_locations[2 * index] =
          point.attention * point.width * (x.high_inside * right - x.low_inside * left);
      grad_locations[2 * index + 1] =
          point.attention * point.height * (y.high_inside * bottom - y.low_inside * top);
    }
  }
}

// ------------------------------------------------------------------------------------------------------ launch

// Calls f with the number of lanes of a group and the number of channels of a lane.
template <class T, class F>
void choose_group(int channels, bool aligned, const F& f) {
  constexpr int vector = 16 / sizeof(T);
  if (!aligned || channels % vector != 0) {
    f(std::integral_constant<int, 16>(), std::integral_constant<int, 1>());
  } else if (channels <= 4 * vector) {
    f(std::integral_constant<int, 4>(), std::integral_constant<int, vector>());
  } else if (channels <= 8 * vector) {
    f(std::integral_constant<int, 8>(), std::integral_constant<int, vector>());
  } else {
    f(std::integral_constant<int, 16>(), std::integral_constant<int, vector>());
  }
}

// The tiles of a problem whose sizes are set, for blocks of block_groups groups.
inline void set_tiles(Problem& problem, int block_groups) {
  problem.block_groups = block_groups;
  problem.tiled = problem.queries == problem.pixels && block_groups % tile_width == 0;
  if (!problem.tiled) {
    problem.tiles = (problem.queries + block_groups - 1) / block_groups;
    return;
  }
  const int tile_height = block_groups / tile_width;
  problem.tiles = 0;
  for (int level = 0; level < problem.levels; ++level) {
    problem.first_tile[level] = problem.tiles;
    problem.tile_columns[level] = (problem.width[level] + tile_width - 1) / tile_width;
    problem.tiles += problem.tile_columns[level] * ((problem.height[level] + tile_height - 1) / tile_height);
  }
}

} // namespace msda
