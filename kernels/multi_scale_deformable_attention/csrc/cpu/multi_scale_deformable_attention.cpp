// Multi-scale deformable attention on the CPU, forward and backward.
//
// Formula: Deformable DETR, https://arxiv.org/abs/2010.04159, equation 3, bilinear sampling with zeros outside.
// Stable ABI only, so that one source serves every torch since 2.10; the schemas are defined in Python.
// TORCH_EXTENSION_NAME is the namespace of the operators.
//
// Letters: N batch, S pixels over all levels, Q queries, M heads, D channels per head, L levels, P points per level.
//
// With many queries, a task is one (batch, head) or a part of its queries, and first copies its head into rows of its
// own: in (N, S, M, D) the rows of one head lie M * D apart and share few cache sets. With few queries the forward
// pass reads the rows where they are. In the backward pass a task alone writes its head's gradient: no atomics, and
// the order of the sums is fixed, whatever the number of threads.

#include "../arguments.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <new>
#include <tuple>
#include <type_traits>
#include <vector>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// ---------------------------------------------------------------------------------------------------- vectors

template <int V>
struct Lanes;

template <>
struct Lanes<4> {
  typedef float Float __attribute__((vector_size(16)));
  typedef int32_t Int __attribute__((vector_size(16)));
  typedef uint32_t Bits __attribute__((vector_size(16)));
  typedef uint16_t Half __attribute__((vector_size(8)));
};

template <>
struct Lanes<8> {
  typedef float Float __attribute__((vector_size(32)));
  typedef int32_t Int __attribute__((vector_size(32)));
  typedef uint32_t Bits __attribute__((vector_size(32)));
  typedef uint16_t Half __attribute__((vector_size(16)));
};

template <>
struct Lanes<16> {
  typedef float Float __attribute__((vector_size(64)));
  typedef int32_t Int __attribute__((vector_size(64)));
  typedef uint32_t Bits __attribute__((vector_size(64)));
  typedef uint16_t Half __attribute__((vector_size(32)));
};

template <int V>
using Float = typename Lanes<V>::Float;

template <int V>
using Int = typename Lanes<V>::Int;

// What one register holds: GCC's code for wider vectors is slow.
#if defined(__AVX512F__)
constexpr int widest = 16;
#elif defined(__AVX2__)
constexpr int widest = 8;
#else
constexpr int widest = 4;
#endif

struct BFloat16 {
  uint16_t bits;
};

template <int V>
inline Float<V> load(const float* source) {
  Float<V> result;
  std::memcpy(&result, source, sizeof(result));
  return result;
}

template <int V>
inline Float<V> load(const BFloat16* source) {
  typename Lanes<V>::Bits bits;
  // GCC widens in halves that it then joins.
#if defined(__AVX512F__)
  if constexpr (V == 16) {
    bits = typename Lanes<V>::Bits(
        _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(source))));
  } else
#endif
#if defined(__AVX2__)
      if constexpr (V == 8) {
    bits = typename Lanes<V>::Bits(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source))));
  } else
#endif
  {
    typename Lanes<V>::Half half;
    std::memcpy(&half, source, sizeof(half));
    bits = __builtin_convertvector(half, typename Lanes<V>::Bits);
  }
  bits <<= 16;
  Float<V> result;
  std::memcpy(&result, &bits, sizeof(result));
  return result;
}

template <int V>
inline void store(float* target, Float<V> value) {
  std::memcpy(target, &value, sizeof(value));
}

inline float to_float(float value) {
  return value;
}

inline float to_float(BFloat16 value) {
  const uint32_t bits = uint32_t(value.bits) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof(result));
  return result;
}

inline void assign(float& target, float value) {
  target = value;
}

// Round to nearest, ties to even.
inline void assign(BFloat16& target, float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  const uint32_t rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
  target.bits = value != value ? uint16_t(0x7FC0) : uint16_t(rounded);
}

template <int V>
inline Int<V> load_ints(const int32_t* source) {
  Int<V> result;
  std::memcpy(&result, source, sizeof(result));
  return result;
}

template <int V>
inline Int<V> to_ints(Float<V> value) {
  return __builtin_convertvector(value, Int<V>);
}

template <int V>
inline Float<V> to_floats(Int<V> value) {
  return __builtin_convertvector(value, Float<V>);
}

// One head's data of successive queries lie too far apart for the hardware to foresee.
template <class T>
inline void prefetch(const T* data, int64_t count) {
  for (int64_t byte = 0; byte < count * int64_t(sizeof(T)); byte += 64) {
    __builtin_prefetch(reinterpret_cast<const char*>(data) + byte);
  }
}

constexpr int64_t queries_ahead = 6;

// {a0, a2, ..., b0, b2, ...}
inline Float<4> evens(Float<4> a, Float<4> b) {
  return __builtin_shufflevector(a, b, 0, 2, 4, 6);
}

inline Float<8> evens(Float<8> a, Float<8> b) {
  return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14);
}

inline Float<16> evens(Float<16> a, Float<16> b) {
  return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
}

// {a1, a3, ..., b1, b3, ...}
inline Float<4> odds(Float<4> a, Float<4> b) {
  return __builtin_shufflevector(a, b, 1, 3, 5, 7);
}

inline Float<8> odds(Float<8> a, Float<8> b) {
  return __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15);
}

inline Float<16> odds(Float<16> a, Float<16> b) {
  return __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
}

// Lane i of tree<V, V>(f, 0) is the sum over the lanes of f(i).
template <int V, int n, class F>
inline __attribute__((always_inline)) Float<V> tree(const F& f, int first) {
  if constexpr (n == 1) {
    return f(first);
  } else {
    const Float<V> low = tree<V, n / 2>(f, first);
    const Float<V> high = tree<V, n / 2>(f, first + n / 2);
    return evens(low, high) + odds(low, high);
  }
}

// ------------------------------------------------------------------------------------------------------ sizes

struct Sizes {
  int64_t batch, pixels, heads, channels, queries;
  int points; // L * P
  int64_t padded_channels; // D rounded up to whole vectors

  int64_t value_row() const {
    return heads * channels;
  }
};

// The level of each of the L * P points of a query.
struct Levels {
  std::vector<float> width, height;
  std::vector<int32_t> columns, first_pixel;
};

// A cache-line aligned, uninitialised array.
class Buffer {
 public:
  explicit Buffer(size_t size)
      : data_(static_cast<float*>(::operator new(std::max<size_t>(size, 1) * sizeof(float), std::align_val_t(64)))) {}
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() {
    ::operator delete(data_, std::align_val_t(64));
  }
  float* get() const {
    return data_;
  }

 private:
  float* data_;
};

// The bilinear corners of the L * P points of one (query, head). Corner c is (row c / 2, column c % 2). A corner
// outside its level has weight 0 and the offset of the nearest pixel, so that reading it is safe.
class Points {
 public:
  explicit Points(int points)
      : count_(points), stride_((points + 15) / 16 * 16), floats_(16 * stride_), offsets_(4 * stride_) {}

  float* weight(int corner) const {
    return floats_.get() + corner * stride_;
  }
  float* dot(int corner) const {
    return floats_.get() + (4 + corner) * stride_;
  }
  int32_t* offset(int corner) const {
    return reinterpret_cast<int32_t*>(offsets_.get()) + corner * stride_;
  }

  // locations (L * P, 2), attention (L * P); row: elements from one pixel to the next
  void locate(const Levels& levels, const float* locations, const float* attention, int32_t row) {
    constexpr int V = widest;
    for (int first = 0; first < count_; first += V) {
      if (first + V <= count_) {
        locate_block<V>(levels, first, locations + 2 * first, attention + first, row);
      } else {
        float last_locations[2 * V] = {}, last_attention[V] = {};
        std::copy(locations + 2 * first, locations + 2 * count_, last_locations);
        std::copy(attention + first, attention + count_, last_attention);
        locate_block<V>(levels, first, last_locations, last_attention, row);
      }
    }
  }

  // From dot(corner), the product of each corner's pixel with the output gradient.
  void gradients(
      const Levels& levels,
      const float* __restrict attention,
      float* __restrict grad_locations,
      float* __restrict grad_attention) const {
    const float* __restrict left = side(0);
    const float* __restrict right = side(1);
    const float* __restrict top = side(2);
    const float* __restrict bottom = side(3);
    const float* __restrict left_inside = side(4);
    const float* __restrict right_inside = side(5);
    const float* __restrict top_inside = side(6);
    const float* __restrict bottom_inside = side(7);
    const float* __restrict dot0 = dot(0);
    const float* __restrict dot1 = dot(1);
    const float* __restrict dot2 = dot(2);
    const float* __restrict dot3 = dot(3);
    const float* __restrict width = levels.width.data();
    const float* __restrict height = levels.height.data();
    const int count = count_;
    for (int i = 0; i < count; ++i) {
      const float along_top = left[i] * dot0[i] + right[i] * dot1[i];
      const float along_bottom = left[i] * dot2[i] + right[i] * dot3[i];
      const float along_left = top[i] * dot0[i] + bottom[i] * dot2[i];
      const float along_right = top[i] * dot1[i] + bottom[i] * dot3[i];
      grad_attention[i] = top[i] * along_top + bottom[i] * along_bottom;
      grad_locations[2 * i] =
          attention[i] * width[i] * (right_inside[i] * along_right - left_inside[i] * along_left);
      grad_locations[2 * i + 1] =
          attention[i] * height[i] * (bottom_inside[i] * along_bottom - top_inside[i] * along_top);
    }
  }

 private:
  // One axis of V points: the two neighbouring pixel indices, whether they lie inside the level, and their weights.
  template <int V>
  struct Axis {
    Int<V> index[2];
    Float<V> inside[2], weight[2];

    Axis(Float<V> location, Float<V> size) {
      const Float<V> zero = {}, one = zero + 1.0f, far = zero - 2.0f, last = size - 1.0f;
      Float<V> place = location * size - 0.5f;
      // Far points become points just outside; so does NaN, which fails every comparison.
      place = place > far ? place : far;
      place = place < size + one ? place : size + one;
      Float<V> low = to_floats<V>(to_ints<V>(place));
      low -= low > place ? one : zero;
      const Float<V> high = low + one;
      inside[0] = low >= zero ? (low < size ? one : zero) : zero;
      inside[1] = high >= zero ? (high < size ? one : zero) : zero;
      weight[0] = (high - place) * inside[0];
      weight[1] = (place - low) * inside[1];
      index[0] = to_ints<V>(low < zero ? zero : (low > last ? last : low));
      index[1] = to_ints<V>(high < zero ? zero : (high > last ? last : high));
    }
  };

  template <int V>
  void locate_block(const Levels& levels, int first, const float* locations, const float* attention, int32_t row) {
    const Float<V> low = load<V>(locations), high = load<V>(locations + V), weight = load<V>(attention);
    const Axis<V> x(evens(low, high), load<V>(levels.width.data() + first));
    const Axis<V> y(odds(low, high), load<V>(levels.height.data() + first));
    const Int<V> columns = load_ints<V>(levels.columns.data() + first);
    const Int<V> first_pixel = load_ints<V>(levels.first_pixel.data() + first);
#pragma GCC unroll 2
    for (int line = 0; line < 2; ++line) {
      store<V>(side(line) + first, x.weight[line]);
      store<V>(side(2 + line) + first, y.weight[line]);
      store<V>(side(4 + line) + first, x.inside[line]);
      store<V>(side(6 + line) + first, y.inside[line]);
#pragma GCC unroll 2
      for (int column = 0; column < 2; ++column) {
        const int corner = 2 * line + column;
        store<V>(this->weight(corner) + first, weight * y.weight[line] * x.weight[column]);
        const Int<V> offsets = (first_pixel + columns * y.index[line] + x.index[column]) * row;
        std::memcpy(offset(corner) + first, &offsets, sizeof(offsets));
      }
    }
  }

  float* side(int index) const {
    return floats_.get() + (8 + index) * stride_;
  }

  int count_;
  int stride_;
  Buffer floats_;
  Buffer offsets_;
};

// ---------------------------------------------------------------------------------------------------- kernels

template <int V, int blocks, class Row>
inline void gather(const Row* rows, const Points& points, int count, float* output) {
  Float<V> sums[4][blocks] = {};
  const float* weights[4] = {points.weight(0), points.weight(1), points.weight(2), points.weight(3)};
  const int32_t* offsets[4] = {points.offset(0), points.offset(1), points.offset(2), points.offset(3)};
  for (int i = 0; i < count; ++i) {
#pragma GCC unroll 4
    for (int corner = 0; corner < 4; ++corner) {
      const Row* row = rows + offsets[corner][i];
      const float weight = weights[corner][i];
#pragma GCC unroll 4
      for (int block = 0; block < blocks; ++block) {
        sums[corner][block] += weight * load<V>(row + block * V);
      }
    }
  }
#pragma GCC unroll 4
  for (int block = 0; block < blocks; ++block) {
    store<V>(output + block * V, (sums[0][block] + sums[1][block]) + (sums[2][block] + sums[3][block]));
  }
}

// Adds to dot(corner), and to the rows of grad_rows.
template <int V, int blocks>
inline void scatter(const float* rows, float* grad_rows, const Points& points, int count, const float* grad_output) {
  Float<V> grad[blocks];
#pragma GCC unroll 4
  for (int block = 0; block < blocks; ++block) {
    grad[block] = load<V>(grad_output + block * V);
  }
  for (int first = 0; first < count; first += V) {
    for (int corner = 0; corner < 4; ++corner) {
      const float* weights = points.weight(corner);
      const int32_t* offsets = points.offset(corner);
      const auto dot = [&](int lane) __attribute__((always_inline)) {
        Float<V> sum = {};
        const int i = first + lane;
        if (i < count) {
          const float weight = weights[i];
          const float* row = rows + offsets[i];
          float* grad_row = grad_rows + offsets[i];
#pragma GCC unroll 4
          for (int block = 0; block < blocks; ++block) {
            sum += grad[block] * load<V>(row + block * V);
            store<V>(grad_row + block * V, load<V>(grad_row + block * V) + weight * grad[block]);
          }
        }
        return sum;
      };
      float* target = points.dot(corner) + first;
      store<V>(target, load<V>(target) + tree<V, V>(dot, 0));
    }
  }
}

// Calls f with the largest compiled number of blocks that fits, until all channels are done.
template <int V, class F>
inline __attribute__((always_inline)) void for_each_block(int64_t channels, const F& f) {
  int64_t channel = 0;
  for (; channel + 4 * V <= channels; channel += 4 * V) {
    f(std::integral_constant<int, 4>(), channel);
  }
  for (; channel + 2 * V <= channels; channel += 2 * V) {
    f(std::integral_constant<int, 2>(), channel);
  }
  for (; channel < channels; channel += V) {
    f(std::integral_constant<int, 1>(), channel);
  }
}

// value (S, M, D) of one head -> rows (S, padded D)
template <class T>
void pack(const T* value, const Sizes& sizes, float* rows) {
  for (int64_t pixel = 0; pixel < sizes.pixels; ++pixel) {
    const T* source = value + pixel * sizes.value_row();
    float* target = rows + pixel * sizes.padded_channels;
    for (int64_t channel = 0; channel < sizes.channels; ++channel) {
      target[channel] = to_float(source[channel]);
    }
    for (int64_t channel = sizes.channels; channel < sizes.padded_channels; ++channel) {
      target[channel] = 0.0f;
    }
  }
}

// Tasks that are worth a thread: about as much work as 32768 element-wise operations.
int64_t grain(const Sizes& sizes, int64_t query_heads) {
  const int64_t work = query_heads * sizes.points * (4 * sizes.padded_channels + 16);
  return std::max<int64_t>(1, 32768 / std::max<int64_t>(1, work));
}

template <int V, class T>
void forward(
    const Sizes& sizes,
    const Levels& levels,
    const T* value,
    const float* locations,
    const float* attention,
    T* output) {
  const int64_t head_count = sizes.batch * sizes.heads;

  // rows: the pixels of one image and head, row elements apart
  const auto attend = [&](const auto* rows, int64_t row, int64_t query_head, Points& points, float* sums) {
    const int64_t first = query_head * sizes.points;
    points.locate(levels, locations + 2 * first, attention + first, int32_t(row));
    for_each_block<V>(sizes.padded_channels, [&](auto blocks, int64_t channel) {
      gather<V, decltype(blocks)::value>(rows + channel, points, sizes.points, sums + channel);
    });
    T* target = output + query_head * sizes.channels;
    for (int64_t channel = 0; channel < sizes.channels; ++channel) {
      assign(target[channel], sums[channel]);
    }
  };

  const bool few_queries = 4 * sizes.queries < sizes.pixels;
  if (few_queries && sizes.channels == sizes.padded_channels) {
    // Copying every pixel would cost more than it saves. The heads of a query look at neighbouring places.
    torch::stable::parallel_for(
        0, sizes.batch * sizes.queries, grain(sizes, sizes.heads), [&](int64_t begin, int64_t end) {
          Points points(sizes.points);
          Buffer sums(sizes.padded_channels);
          for (int64_t query = begin; query < end; ++query) {
            const T* image = value + query / sizes.queries * sizes.pixels * sizes.value_row();
            for (int64_t head = 0; head < sizes.heads; ++head) {
              const T* rows = image + head * sizes.channels;
              attend(rows, sizes.value_row(), query * sizes.heads + head, points, sums.get());
            }
          }
        });
    return;
  }

  // A wide machine splits the queries too: every part then packs its head again, a tenth of the work.
  const int64_t wanted = (2 * torch::stable::get_num_threads() + head_count - 1) / std::max<int64_t>(1, head_count);
  const int64_t parts = std::clamp<int64_t>(wanted, 1, std::max<int64_t>(1, sizes.queries / 64));
  const int64_t part_queries = (sizes.queries + parts - 1) / parts;
  torch::stable::parallel_for(0, head_count * parts, grain(sizes, part_queries), [&](int64_t begin, int64_t end) {
    Points points(sizes.points);
    Buffer sums(sizes.padded_channels), rows(sizes.pixels * sizes.padded_channels);
    int64_t packed = -1;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t batch = task / parts / sizes.heads, head = task / parts % sizes.heads;
      if (packed != task / parts) {
        pack(value + batch * sizes.pixels * sizes.value_row() + head * sizes.channels, sizes, rows.get());
        packed = task / parts;
      }
      const int64_t first_query = task % parts * part_queries;
      const int64_t last_query = std::min(first_query + part_queries, sizes.queries);
      for (int64_t query = first_query; query < last_query; ++query) {
        const int64_t query_head = (batch * sizes.queries + query) * sizes.heads + head;
        const int64_t ahead = (query_head + queries_ahead * sizes.heads) * sizes.points;
        prefetch(locations + 2 * ahead, 2 * sizes.points);
        prefetch(attention + ahead, sizes.points);
        attend(rows.get(), sizes.padded_channels, query_head, points, sums.get());
      }
    }
  });
}

template <int V, class T>
void backward(
    const Sizes& sizes,
    const Levels& levels,
    const T* grad_output,
    const T* value,
    const float* locations,
    const float* attention,
    T* grad_value,
    float* grad_locations,
    float* grad_attention) {
  const int64_t size = sizes.pixels * sizes.padded_channels;
  torch::stable::parallel_for(
      0, sizes.batch * sizes.heads, grain(sizes, 2 * sizes.queries), [&](int64_t task, int64_t last) {
    Points points(sizes.points);
    Buffer grad_buffer(sizes.padded_channels), rows_buffer(size), grad_rows_buffer(size);
    float* grad = grad_buffer.get();
    float* rows = rows_buffer.get();
    float* grad_rows = grad_rows_buffer.get();
    std::fill(grad, grad + sizes.padded_channels, 0.0f);
    for (; task < last; ++task) {
      const int64_t batch = task / sizes.heads, head = task % sizes.heads;
      const int64_t value_first = batch * sizes.pixels * sizes.value_row() + head * sizes.channels;
      pack(value + value_first, sizes, rows);
      std::fill(grad_rows, grad_rows + size, 0.0f);
      for (int64_t query = 0; query < sizes.queries; ++query) {
        const int64_t query_head = (batch * sizes.queries + query) * sizes.heads + head;
        const int64_t first = query_head * sizes.points;
        const T* source = grad_output + query_head * sizes.channels;
        const int64_t ahead = queries_ahead * sizes.heads;
        prefetch(locations + 2 * (first + ahead * sizes.points), 2 * sizes.points);
        prefetch(attention + first + ahead * sizes.points, sizes.points);
        prefetch(source + ahead * sizes.channels, sizes.channels);
        for (int64_t channel = 0; channel < sizes.channels; ++channel) {
          grad[channel] = to_float(source[channel]);
        }
        points.locate(levels, locations + 2 * first, attention + first, int32_t(sizes.padded_channels));
        std::fill(points.dot(0), points.weight(8), 0.0f);
        for_each_block<V>(sizes.padded_channels, [&](auto blocks, int64_t channel) {
          scatter<V, decltype(blocks)::value>(
              rows + channel, grad_rows + channel, points, sizes.points, grad + channel);
        });
        points.gradients(levels, attention + first, grad_locations + 2 * first, grad_attention + first);
      }
      for (int64_t pixel = 0; pixel < sizes.pixels; ++pixel) {
        T* target = grad_value + value_first + pixel * sizes.value_row();
        for (int64_t channel = 0; channel < sizes.channels; ++channel) {
          assign(target[channel], grad_rows[pixel * sizes.padded_channels + channel]);
        }
      }
    }
  });
}

// -------------------------------------------------------------------------------------------------- operators

Sizes make_sizes(const Arguments& arguments) {
  Sizes sizes;
  sizes.batch = arguments.batch;
  sizes.pixels = arguments.pixels;
  sizes.heads = arguments.heads;
  sizes.channels = arguments.channels;
  sizes.padded_channels = (sizes.channels + 7) / 8 * 8;
  sizes.queries = arguments.queries;
  STD_TORCH_CHECK(
      sizes.pixels * std::max(sizes.padded_channels, sizes.value_row()) <= std::numeric_limits<int32_t>::max() &&
          arguments.levels * arguments.points < (1 << 20),
      "one image is too large: pixels * heads * channels must be below 2^31");
  sizes.points = int(arguments.levels * arguments.points);
  return sizes;
}

Levels make_levels(const Arguments& arguments) {
  Levels levels;
  for (int64_t level = 0; level < arguments.levels; ++level) {
    levels.width.insert(levels.width.end(), arguments.points, float(arguments.width[level]));
    levels.height.insert(levels.height.end(), arguments.points, float(arguments.height[level]));
    levels.columns.insert(levels.columns.end(), arguments.points, int32_t(arguments.width[level]));
    levels.first_pixel.insert(levels.first_pixel.end(), arguments.points, int32_t(arguments.first_pixel[level]));
  }
  // Whole vectors
  const size_t size = levels.width.size() + 15;
  levels.width.resize(size, 1.0f);
  levels.height.resize(size, 1.0f);
  levels.columns.resize(size, 1);
  levels.first_pixel.resize(size, 0);
  return levels;
}

// Calls f with the number of lanes to use and a null pointer of the element type.
template <class F>
void dispatch(const Sizes& sizes, ScalarType dtype, const F& f) {
  const auto with_type = [&](auto lanes) {
    if (dtype == ScalarType::Float) {
      f(lanes, static_cast<float*>(nullptr));
    } else {
      f(lanes, static_cast<BFloat16*>(nullptr));
    }
  };
  if (sizes.padded_channels % widest == 0) {
    with_type(std::integral_constant<int, widest>());
  } else {
    with_type(std::integral_constant<int, std::min(widest, 8)>());
  }
}

Tensor multi_scale_deformable_attention(
    const Tensor& value,
    std::vector<int64_t> spatial_shapes,
    const Tensor& sampling_locations,
    const Tensor& attention_weights) {
  const Arguments arguments = check_arguments(value, spatial_shapes, sampling_locations, attention_weights, false);
  const Sizes sizes = make_sizes(arguments);
  const Levels levels = make_levels(arguments);
  const Tensor values = torch::stable::contiguous(value);
  const Tensor locations = torch::stable::contiguous(sampling_locations);
  const Tensor attention = torch::stable::contiguous(attention_weights);
  Tensor output = torch::stable::new_empty(value, {sizes.batch, sizes.queries, sizes.value_row()});
  dispatch(sizes, value.scalar_type(), [&](auto lanes, auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    forward<decltype(lanes)::value, T>(
        sizes,
        levels,
        static_cast<const T*>(values.const_data_ptr()),
        static_cast<const float*>(locations.const_data_ptr()),
        static_cast<const float*>(attention.const_data_ptr()),
        static_cast<T*>(output.mutable_data_ptr()));
  });
  return output;
}

std::tuple<Tensor, Tensor, Tensor> multi_scale_deformable_attention_backward(
    const Tensor& grad_output,
    const Tensor& value,
    std::vector<int64_t> spatial_shapes,
    const Tensor& sampling_locations,
    const Tensor& attention_weights) {
  const Arguments arguments = check_arguments(value, spatial_shapes, sampling_locations, attention_weights, false);
  check_grad_output(arguments, grad_output, value);
  const Sizes sizes = make_sizes(arguments);
  const Levels levels = make_levels(arguments);
  const Tensor grads = torch::stable::contiguous(grad_output);
  const Tensor values = torch::stable::contiguous(value);
  const Tensor locations = torch::stable::contiguous(sampling_locations);
  const Tensor attention = torch::stable::contiguous(attention_weights);
  Tensor grad_value = torch::stable::new_empty(value, value.sizes());
  Tensor grad_locations = torch::stable::new_empty(sampling_locations, sampling_locations.sizes());
  Tensor grad_attention = torch::stable::new_empty(attention_weights, attention_weights.sizes());
  dispatch(sizes, value.scalar_type(), [&](auto lanes, auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    backward<decltype(lanes)::value, T>(
        sizes,
        levels,
        static_cast<const T*>(grads.const_data_ptr()),
        static_cast<const T*>(values.const_data_ptr()),
        static_cast<const float*>(locations.const_data_ptr()),
        static_cast<const float*>(attention.const_data_ptr()),
        static_cast<T*>(grad_value.mutable_data_ptr()),
        static_cast<float*>(grad_locations.mutable_data_ptr()),
        static_cast<float*>(grad_attention.mutable_data_ptr()));
  });
  return {grad_value, grad_locations, grad_attention};
}

} // namespace

STABLE_TORCH_LIBRARY_IMPL(TORCH_EXTENSION_NAME, CPU, library) {
  library.impl("multi_scale_deformable_attention", TORCH_BOX(&multi_scale_deformable_attention));
  library.impl("multi_scale_deformable_attention_backward", TORCH_BOX(&multi_scale_deformable_attention_backward));
}
