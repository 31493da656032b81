// Attention of one row at a time over the keys and values of its earlier positions.
#pragma once

#include <algorithm>
#include <array>
#include <memory>
#include <vector>

#include "layout.h"
#include "vector.h"

namespace {

// Keys and values are stored in float32 or, beside lower precisions, in bfloat16.
using Half = uint16_t __attribute__((vector_size(32)));

Vector load_stored(const float* from) { return load<Vector>(from); }
Vector load_stored(const uint16_t* from) {
  return bits<Vector>(__builtin_convertvector(load<Half>(from), Integers) << 16);
}
void store(float x, float* to) { *to = x; }
void store(float x, uint16_t* to) { *to = to_bfloat16(x); }

// The first `seen` of `chances` become their softmax; the rest of their last vector becomes 0.
void softmax(float* chances, int64_t seen) {
  const Integers lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const Vector none = Vector{} - 1e30f;
  Vector most = none;
  for (int64_t t = 0; t < seen; t += 16) {
    most = higher(most, lane < static_cast<int32_t>(seen - t) ? load<Vector>(chances + t) : none);
  }
  const float highest = most_of(most);
  Vector total = {};
  for (int64_t t = 0; t < seen; t += 16) {
    const Vector chance = exponential(load<Vector>(chances + t) - highest);
    const Vector part = lane < static_cast<int32_t>(seen - t) ? chance : Vector{};
    total += part;
    std::memcpy(chances + t, &part, sizeof part);
  }
  const float inverse = 1.0f / add_lanes(total);
  for (int64_t t = 0; t < seen; t += 16) {
    const Vector chance = load<Vector>(chances + t) * inverse;
    std::memcpy(chances + t, &chance, sizeof chance);
  }
}

// What the attention of one row needs beside its keys and values.
struct Attention {
  explicit Attention(const Prior& prior)
      : room((prior.length + 15) / 16 * 16),
        chances(new float[prior.heads * room]()),
        products(prior.heads) {}

  float* chances_of(int64_t head) { return chances.get() + head * room; }

  int64_t room;
  std::unique_ptr<float[]> chances;              // [heads][room]: scores, then their softmax
  std::vector<std::array<Vector, 16>> products;  // by head and position
};

// Asks the memory for numbers that will be read soon; nothing happens where there are none.
template <class Stored>
void fetch(const Stored* from, int64_t count) {
  constexpr int64_t kLine = 64 / sizeof(Stored);
  for (int64_t i = 0; i < count; i += kLine) __builtin_prefetch(from + i, 0, 2);
}

// Adds the values of T positions from t on, weighted, to what is there for each head of N vectors.
template <int N, int T, class Stored>
void add_values(const Prior& prior, Attention& work, int64_t t, const Stored* values, float* to) {
  for (int64_t head = 0; head < prior.heads; ++head, values += 16 * N, to += 16 * N) {
    const float* chances = work.chances_of(head) + t;
    for (int v = 0; v < N; ++v) {
      Vector sum = load<Vector>(to + 16 * v);
      for (int i = 0; i < T; ++i)
        sum += chances[i] * load_stored(values + i * prior.attention + 16 * v);
      std::memcpy(to + 16 * v, &sum, sizeof sum);
    }
  }
}

// Attention of one row with heads of N vectors: writes its key and value at `position` and reads
// those up to it. [L][A] keys and then [L][A] values are stored, and read from front to back, all
// heads of a position at once. What a step reads is more than the caches near the processor hold,
// so values are fetched while keys are used, and keys of the row that comes `next` while values
// are.
template <int N, class Stored>
void attend(const Prior& prior, const float* qkv, int64_t position, Stored* stored,
            const Stored* next, Attention& work, float* attended) {
  const int64_t all = prior.attention, heads = prior.heads, seen = position + 1;
  Stored *keys = stored, *values = stored + prior.length * all;
  for (int64_t i = 0; i < all; ++i) store(qkv[all + i], keys + position * all + i);
  for (int64_t i = 0; i < all; ++i) store(qkv[2 * all + i], values + position * all + i);
  for (int64_t block = 0; block < seen; block += 16) {
    for (int64_t t = block; t < std::min(block + 16, seen); ++t) {
      const float* q = qkv;
      const Stored* key = keys + t * all;
      fetch(values + t * all, all);
      for (int64_t head = 0; head < heads; ++head, q += 16 * N, key += 16 * N) {
        Vector sum = load<Vector>(q) * load_stored(key);
        for (int v = 1; v < N; ++v) sum += load<Vector>(q + 16 * v) * load_stored(key + 16 * v);
        work.products[head][t - block] = sum;
      }
    }
    for (int64_t head = 0; head < heads; ++head) {
      const Vector scores = add_lanes(work.products[head].data());
      std::memcpy(work.chances_of(head) + block, &scores, sizeof scores);
    }
  }
  for (int64_t head = 0; head < heads; ++head) softmax(work.chances_of(head), seen);
  std::fill_n(attended, all, 0.0f);
  int64_t t = 0;
  for (; t + 4 <= seen; t += 4) {
    fetch(next + t * all, 4 * all);
    add_values<N, 4>(prior, work, t, values + t * all, attended);
  }
  for (; t < seen; ++t) {
    fetch(next + t * all, all);
    add_values<N, 1>(prior, work, t, values + t * all, attended);
  }
}

template <class Stored>
void attend(const Prior& prior, const float* qkv, int64_t position, Stored* stored,
            const Stored* next, Attention& work, float* attended) {
  switch (prior.attention / prior.heads / 16) {
    case 1: return attend<1>(prior, qkv, position, stored, next, work, attended);
    case 2: return attend<2>(prior, qkv, position, stored, next, work, attended);
    case 3: return attend<3>(prior, qkv, position, stored, next, work, attended);
    case 4: return attend<4>(prior, qkv, position, stored, next, work, attended);
    case 5: return attend<5>(prior, qkv, position, stored, next, work, attended);
    case 6: return attend<6>(prior, qkv, position, stored, next, work, attended);
    case 7: return attend<7>(prior, qkv, position, stored, next, work, attended);
    case 8: return attend<8>(prior, qkv, position, stored, next, work, attended);
  }
}

}  // namespace
