// Linear maps of several rows: matrix products in register tiles, each with an epilogue.
#pragma once

#include <algorithm>
#include <utility>

#include "abi.h"
#include "number_formats.h"

namespace {

// A tile of sums fills the registers: kTileRows rows by kTileRegisters registers of columns.
#if defined(ANYTIME_AVX512)
constexpr int kTileRows = 12, kTileRegisters = 2;
#elif defined(__ARM_NEON)
constexpr int kTileRows = 6, kTileRegisters = 4;
#else  // 16 registers
constexpr int kTileRows = 6, kTileRegisters = 2;
#endif
constexpr int64_t kPanel = kTileRegisters * kRegisterLanes;  // columns whose weights are packed together

// Rows of a tile. There are fewer where weights are widened into two registers.
template <class Kind>
constexpr int kMaxTileRows = sizeof(typename Kind::Weight) <= sizeof(Register) ? kTileRows
                        : kTileRows > 6                                   ? kTileRows - 2
                                                                          : 4;

// The inputs of a linear map in the number format of its products, in rows of `stride` bytes.
struct Inputs {
  const uint8_t* data;
  int64_t stride;
  const float* scale;  // by row, int8 only
};

// Returns the number of words of `in` inputs.
template <class Kind>
int64_t num_words(int64_t in) {
  return (in + Kind::kGroup - 1) / Kind::kGroup;
}

// Distance in bytes at which weights are prefetched. It is larger than a page, within which
// processors prefetch by themselves. With weights from memory it makes 4 to 16 rows 1.4 to 1.8
// times as fast. It slows down few rows (up to 2 with AVX2, up to 4 with AVX-512), which do not
// need it.
constexpr int64_t kPrefetchBytes = 6144;
template <int M>
constexpr bool kPrefetches = M > kRegisterLanes / 4;

// Computes the products of M rows with R registers of columns, of one panel or several, input after
// input. It is not inlined, so that all sums stay in registers.
template <class Kind, int M, int R>
__attribute__((noinline)) void micro_kernel(const uint8_t* x, int64_t stride, const uint8_t* panel,
                                        int64_t panel_bytes, int64_t words,
                                        typename Kind::Sum* result) {
  constexpr int64_t register_bytes = kRegisterLanes * Kind::kGroup * Kind::kWeightBytes;
  typename Kind::Sum sum[M][R] = {};
  for (int64_t k = 0; k < words; ++k) {
    if constexpr (kPrefetches<M>) {
      for (int64_t i = 0; i < kTileRegisters * register_bytes; i += 64) {
        __builtin_prefetch(panel + kPrefetchBytes + i, 0, 2);
      }
    }
    typename Kind::Weight w[R];
    for (int r = 0; r < R; ++r) {
      w[r] = Kind::weight(panel + r / kTileRegisters * panel_bytes +
                          r % kTileRegisters * register_bytes);
    }
    for (int m = 0; m < M; ++m) {
      const typename Kind::Word word = Kind::word(x + m * stride);
      for (int r = 0; r < R; ++r) sum[m][r] = Kind::add(sum[m][r], word, w[r]);
    }
    x += Kind::kWordBytes;
    panel += kTileRegisters * register_bytes;
  }
  std::memcpy(result, sum, sizeof sum);
}

// The epilogue of a product: what follows on each result.
enum class Epilogue { kStore, kGelu, kRelu, kAdd };

// Returns a register of results from its sums.
Register dequantize(Register sum, const Inputs&, int, const Linear& map, int64_t column) {
  return sum + load<Register>(map.bias + column);
}
Register dequantize(Integers sum, const Inputs& x, int m, const Linear& map, int64_t column) {
  if constexpr (Int8::kOffset != 0) sum -= Int8::kOffset * load<Integers>(map.sums + column);
  const Register scaled = __builtin_convertvector(sum, Register) * x.scale[m];
  return fma(scaled, load<Register>(map.scale + column), load<Register>(map.bias + column));
}

// Computes the results of M rows and R registers of columns, with their epilogue.
template <class Kind, int M, int R>
void matmul_tile(const Linear& map, const Inputs& x, int64_t panel, Epilogue after, float* y,
                int64_t stride) {
  const int64_t words = num_words<Kind>(map.in);
  const int64_t panel_bytes = kPanel * words * Kind::kGroup * Kind::kWeightBytes;
  typename Kind::Sum sum[M][R];
  micro_kernel<Kind, M, R>(x.data, x.stride,
                       static_cast<const uint8_t*>(map.weight) + panel * panel_bytes, panel_bytes,
                       words, sum[0]);
  for (int m = 0; m < M; ++m) {
    for (int r = 0; r < R; ++r) {
      const int64_t column = panel * kPanel + r * kRegisterLanes, columns = map.out - column;
      if (columns <= 0) break;
      Register result = dequantize(sum[m][r], x, m, map, column);
      if (after == Epilogue::kGelu) result = gelu(result);
      if (after == Epilogue::kRelu) result = maximum(result, Register{});
      float* target = y + m * stride + column;
      if (columns >= kRegisterLanes) {
        if (after == Epilogue::kAdd) result += load<Register>(target);
        std::memcpy(target, &result, sizeof result);
      } else {
        for (int i = 0; i < columns; ++i) {
          target[i] = after == Epilogue::kAdd ? target[i] + result[i] : result[i];
        }
      }
    }
  }
}

using Tile = void (*)(const Linear&, const Inputs&, int64_t, Epilogue, float*, int64_t);

// Returns the function for a tile of this number of rows.
template <class Kind, int R, int... M>
Tile tile_of(int64_t rows, std::integer_sequence<int, M...>) {
  static constexpr Tile tiles[] = {matmul_tile<Kind, M + 1, R>...};
  return tiles[rows - 1];
}

// Computes the results of R registers of columns, in tiles of rows that differ by one row at most.
template <class Kind, int R, int kMaxRows>
void matmul_columns(const Linear& map, const Inputs& x, int64_t rows, int64_t panel, Epilogue after,
                   float* y, int64_t stride) {
  const int64_t tiles = (rows + kMaxRows - 1) / kMaxRows;
  for (int64_t tile = 0, row = 0; tile < tiles; ++tile) {
    const int64_t count = rows / tiles + (tile < rows % tiles);
    const Inputs part = {x.data + row * x.stride, x.stride, x.scale ? x.scale + row : nullptr};
    tile_of<Kind, R>(count, std::make_integer_sequence<int, kMaxRows>())(map, part, panel, after,
                                                                      y + row * stride, stride);
    row += count;
  }
}

// Computes y = map(x) panel by panel, so that weights are read once for all rows. With few rows it
// takes several panels at a time: the products of one panel would wait for one another.
template <class Kind>
void matmul(const Linear& map, const Inputs& x, int64_t rows, Epilogue after, float* y,
           int64_t stride) {
  constexpr int kMaxRows = kMaxTileRows<Kind>, kPanelRegisters = kTileRegisters;
  const int64_t panels = (map.out + kPanel - 1) / kPanel;
  for (int64_t panel = 0; panel < panels;) {
    const int64_t left = panels - panel;
    if (rows == 1 && left >= 4 && kMaxRows == kTileRows) {
      matmul_columns<Kind, 4 * kPanelRegisters, 1>(map, x, rows, panel, after, y, stride);
      panel += 4;
    } else if (rows <= 2 && left >= 2) {
      matmul_columns<Kind, 2 * kPanelRegisters, 2>(map, x, rows, panel, after, y, stride);
      panel += 2;
    } else if (map.out - panel * kPanel > kRegisterLanes) {
      matmul_columns<Kind, kPanelRegisters, kMaxRows>(map, x, rows, panel, after, y, stride);
      panel += 1;
    } else {
      matmul_columns<Kind, 1, kMaxRows>(map, x, rows, panel, after, y, stride);
      panel += 1;
    }
  }
}

}  // namespace
