// Linear maps of a few rows, in float32, bfloat16 and int8.
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <type_traits>

#include "layout.h"
#include "vector.h"

#if defined(__AVX512BF16__) || defined(__AVX512VNNI__)
#include <immintrin.h>
#endif

namespace {

constexpr int64_t kColumns = 32;  // columns of a panel: two vectors of 16, one of them used or both
constexpr int64_t kRows = 8;      // rows multiplied together, to read each weight once for all

// Inputs of a linear map in the number format of its products: rows of `stride` bytes.
struct Inputs {
  const uint8_t* data;
  int64_t stride;
  const float* scale;  // by row, int8 only
};

int64_t padded(int64_t in) { return (in + 3) / 4 * 4; }

void to_bfloat16(const float* x, int64_t in, uint16_t* y) {
  for (int64_t i = 0; i < in; ++i) y[i] = to_bfloat16(x[i]);
  for (int64_t i = in; i < padded(in); ++i) y[i] = 0;
}

// Plus 128, because products want one side without signs; returns the scale. y has room for whole
// vectors, and 128 stands for zero where x has ended.
float to_int8(const float* x, int64_t in, uint8_t* y) {
  using Bytes = uint8_t __attribute__((vector_size(16)));
  Vector most = Vector{} + 1e-12f;
  for (int64_t i = 0; i < in; i += 16) {
    const Vector part = load_some(x + i, in - i);
    most = higher(most, higher(part, -part));
  }
  const float highest = most_of(most), scale = highest / 127.0f, inverse = 127.0f / highest;
  for (int64_t i = 0; i < in; i += 16) {
    const Vector whole = round_to_whole(load_some(x + i, in - i) * inverse);
    const Bytes bytes =
        __builtin_convertvector(__builtin_convertvector(whole, Integers) + 128, Bytes);
    std::memcpy(y + i, &bytes, sizeof bytes);
  }
  return scale;
}

// Products of M rows with one panel. Kept apart from what uses them, so that all sums stay in
// registers.
#define SEPARATE __attribute__((noinline))

struct Float32 {
  using Sum = Vector;
  template <int M, int H>
  SEPARATE static void multiply(const Inputs& x, const void* panel, int64_t in, Sum* result) {
    Sum sum[M][H] = {};
    const float* w = static_cast<const float*>(panel);
    for (int64_t k = 0; k < in; ++k, w += kColumns) {
      Vector part[H];
      std::memcpy(part, w, sizeof part);
      for (int m = 0; m < M; ++m) {
        const float a = load<float>(x.data + m * x.stride + 4 * k);
        for (int h = 0; h < H; ++h) sum[m][h] += a * part[h];
      }
    }
    std::memcpy(result, sum, sizeof sum);
  }
  static Vector finish(Sum sum, const Inputs&, int, const Linear&, int64_t) { return sum; }
};

// Products of inputs that come in words of four bytes: two or four numbers.
template <class Kind, int M, int H>
SEPARATE void multiply_words(const Inputs& x, const void* panel, int64_t words,
                             typename Kind::Sum* result) {
  typename Kind::Sum sum[M][H] = {};
  const uint8_t* w = static_cast<const uint8_t*>(panel);
  for (int64_t k = 0; k < words; ++k, w += 4 * kColumns) {
    for (int m = 0; m < M; ++m) {
      const uint32_t word = load<uint32_t>(x.data + m * x.stride + 4 * k);
      for (int h = 0; h < H; ++h) sum[m][h] = Kind::add(sum[m][h], word, w + 64 * h);
    }
  }
  std::memcpy(result, sum, sizeof sum);
}

struct Bfloat16 {
  using Sum = Vector;
  static Vector add(Vector sum, uint32_t pair, const void* w) {
#ifdef __AVX512BF16__
    const __m512i a = _mm512_set1_epi32(static_cast<int32_t>(pair));
    return (Vector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, load<__m512bh>(w));
#else
    const Integers both = load<Integers>(w);
    const Vector even = bits<Vector>(both << 16);
    const Vector odd = bits<Vector>(both & static_cast<int32_t>(0xffff0000));
    sum += bits<float>(pair << 16) * even;
    return sum + bits<float>(pair & 0xffff0000u) * odd;
#endif
  }
  template <int M, int H>
  static void multiply(const Inputs& x, const void* panel, int64_t in, Sum* result) {
    multiply_words<Bfloat16, M, H>(x, panel, padded(in) / 2, result);
  }
  static Vector finish(Sum sum, const Inputs&, int, const Linear&, int64_t) { return sum; }
};

struct Int8 {
  using Sum = Integers;
  static Integers add(Integers sum, uint32_t four, const void* w) {
#ifdef __AVX512VNNI__
    const __m512i a = _mm512_set1_epi32(static_cast<int32_t>(four));
    return (Integers)_mm512_dpbusd_epi32((__m512i)sum, a, load<__m512i>(w));
#else
    const int8_t* bytes = static_cast<const int8_t*>(w);
    for (int i = 0; i < 16; ++i) {
      for (int j = 0; j < 4; ++j) {
        sum[i] += static_cast<int32_t>((four >> (8 * j)) & 0xff) * bytes[4 * i + j];
      }
    }
    return sum;
#endif
  }
  template <int M, int H>
  static void multiply(const Inputs& x, const void* panel, int64_t in, Sum* result) {
    multiply_words<Int8, M, H>(x, panel, padded(in) / 4, result);
  }
  static Vector finish(Sum sum, const Inputs& x, int m, const Linear& map, int64_t column) {
    const Integers exact = sum - 128 * load<Integers>(map.sums + column);
    return __builtin_convertvector(exact, Vector) * x.scale[m] * load<Vector>(map.scale + column);
  }
};

enum class After { kStore, kGelu, kRelu, kAdd };

template <class Kind, int M, int H>
void apply_tile(const Linear& map, const Inputs& x, int64_t panel, After after, float* y,
                int64_t stride) {
  constexpr int64_t group = std::is_same_v<Kind, Float32> ? 1 : 4;
  constexpr int64_t size = std::is_same_v<Kind, Float32>    ? 4
                           : std::is_same_v<Kind, Bfloat16> ? 2
                                                            : 1;
  const int64_t in = (map.in + group - 1) / group * group;
  const auto* weight = static_cast<const uint8_t*>(map.weight) + panel * kColumns * in * size;
  typename Kind::Sum sum[M][H];
  Kind::template multiply<M, H>(x, weight, map.in, sum[0]);
  for (int m = 0; m < M; ++m) {
    for (int h = 0; h < H; ++h) {
      const int64_t column = panel * kColumns + 16 * h, columns = map.out - column;
      Vector result = Kind::finish(sum[m][h], x, m, map, column);
      result += load<Vector>(map.bias + column);
      if (after == After::kGelu) result = gelu(result);
      if (after == After::kRelu) result = higher(result, Vector{});
      float* target = y + m * stride + column;
      if (columns >= 16) {
        if (after == After::kAdd) result += load<Vector>(target);
        std::memcpy(target, &result, sizeof result);
      } else {
        for (int i = 0; i < columns; ++i) {
          target[i] = after == After::kAdd ? target[i] + result[i] : result[i];
        }
      }
    }
  }
}

template <class Kind, int H>
void apply_panel(const Linear& map, const Inputs& x, int64_t rows, int64_t panel, After after,
                 float* y, int64_t stride) {
  for (int64_t row = 0; row < rows; row += kRows) {
    const Inputs part = {x.data + row * x.stride, x.stride, x.scale ? x.scale + row : nullptr};
    float* target = y + row * stride;
    switch (rows - row) {
      case 1: apply_tile<Kind, 1, H>(map, part, panel, after, target, stride); break;
      case 2: apply_tile<Kind, 2, H>(map, part, panel, after, target, stride); break;
      case 3: apply_tile<Kind, 3, H>(map, part, panel, after, target, stride); break;
      case 4: apply_tile<Kind, 4, H>(map, part, panel, after, target, stride); break;
      case 5: apply_tile<Kind, 5, H>(map, part, panel, after, target, stride); break;
      case 6: apply_tile<Kind, 6, H>(map, part, panel, after, target, stride); break;
      case 7: apply_tile<Kind, 7, H>(map, part, panel, after, target, stride); break;
      default: apply_tile<Kind, 8, H>(map, part, panel, after, target, stride); break;
    }
  }
}

// y = map(x), by panel, so that its weights are read once for all rows.
template <class Kind>
void apply(const Linear& map, const Inputs& x, int64_t rows, After after, float* y,
           int64_t stride) {
  for (int64_t column = 0; column < map.out; column += kColumns) {
    const int64_t panel = column / kColumns;
    if (map.out - column > 16) {
      apply_panel<Kind, 2>(map, x, rows, panel, after, y, stride);
    } else {
      apply_panel<Kind, 1>(map, x, rows, panel, after, y, stride);
    }
  }
}

}  // namespace
