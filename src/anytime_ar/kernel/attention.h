// Attention of one row at a time over the keys and values of its positions so far.
#pragma once

#include <algorithm>

#include "abi.h"
#include "simd.h"

namespace {

// Loads a vector of keys or values: float32, or bfloat16 if the precision is lower.
Vector load_cached(const float* from) { return load16(from); }
Vector load_cached(const uint16_t* from) {
  using Halves = uint16_t __attribute__((vector_size(2 * kRegisterLanes)));
  return map_registers([&](auto i) {
    const Halves part = load<Halves>(from + i * kRegisterLanes);
    return bit_cast<Register>(__builtin_convertvector(part, Integers) << 16);
  });
}
// Stores a number of a key or value.
void store(float x, float* to) { *to = x; }
void store(float x, uint16_t* to) { *to = to_bfloat16(x); }

// Replaces the first `seen` scores in `chances` by their softmax, and the rest of the last vector
// by 0.
void softmax(float* chances, int64_t seen) {
  constexpr float kNone = -1e30f;
  Vector most = map_registers([](auto) { return broadcast(kNone); });
  for (int64_t t = 0; t < seen; t += kVectorLanes) {
    const Vector part = load_partial(chances + t, seen - t, kNone);
    most = map_registers([&](auto i) { return maximum(most.part[i], part.part[i]); });
  }
  const float highest = reduce_max(most);
  Vector total = {};
  for (int64_t t = 0; t < seen; t += kVectorLanes) {
    Vector chance = map_registers(
        [&](auto i) { return exp(load<Register>(chances + t + i * kRegisterLanes) - highest); });
    store16(chance, chances + t);
    for (int64_t i = seen - t; i < kVectorLanes; ++i) chances[t + i] = 0;
    chance = load16(chances + t);
    total = map_registers([&](auto i) { return total.part[i] + chance.part[i]; });
  }
  const float inverse = 1.0f / reduce_add(total);
  for (int64_t t = 0; t < seen; t += kRegisterLanes) {
    const Register chance = load<Register>(chances + t) * inverse;
    std::memcpy(chances + t, &chance, sizeof chance);
  }
}

// Prefetches a head's key or value, which will be read soon. An address without memory has no
// effect.
template <int N, class CacheElement>
void prefetch(const CacheElement* from) {
  for (size_t i = 0; i < kVectorLanes * N; i += 64 / sizeof(CacheElement)) __builtin_prefetch(from + i, 0, 2);
}

// Returns the scores of a head's query, N vectors, with the keys of up to 16 positions. Keys are
// `stride` numbers apart. The numbers at a distance of `ahead` are prefetched.
template <int N, class CacheElement>
Vector score_keys(const float* q, const CacheElement* keys, int64_t stride, int64_t count,
                  int64_t ahead) {
  Register sums[kVectorLanes] = {};
  Vector query[N];
  for (int v = 0; v < N; ++v) query[v] = load16(q + kVectorLanes * v);
  for (int64_t t = 0; t < count; ++t, keys += stride) {
    prefetch<N>(keys + ahead);
    Vector sum = load_cached(keys);
    sum = map_registers([&](auto i) { return query[0].part[i] * sum.part[i]; });
    for (int v = 1; v < N; ++v) {
      const Vector key = load_cached(keys + kVectorLanes * v);
      sum = map_registers([&](auto i) { return fma(query[v].part[i], key.part[i], sum.part[i]); });
    }
    sums[t] = add_halves(sum);
  }
  return reduce_add(sums);
}

// Adds to a head's output, N vectors, the values of up to 16 positions, each times its probability.
// Values are `stride` numbers apart. The numbers at a distance of `ahead` are prefetched.
template <int N, class CacheElement>
void add_values(const float* chances, const CacheElement* values, int64_t stride, int64_t count,
                int64_t ahead, float* to) {
  Vector sums[N];
  for (int v = 0; v < N; ++v) sums[v] = load16(to + kVectorLanes * v);
  for (int64_t t = 0; t < count; ++t, values += stride) {
    prefetch<N>(values + ahead);
    const Register chance = broadcast(chances[t]);
    for (int v = 0; v < N; ++v) {
      const Vector value = load_cached(values + kVectorLanes * v);
      sums[v] = map_registers([&](auto i) { return fma(chance, value.part[i], sums[v].part[i]); });
    }
  }
  for (int v = 0; v < N; ++v) store16(sums[v], to + kVectorLanes * v);
}

// Computes attention of one row with heads of N vectors: writes its key and value at `position`,
// counted from the first token, and reads those up to it. `stored` has [M + L][A] keys and then
// [M + L][A] values, which are read from front to back, 16 positions at a time. A step reads more than the processor's caches hold. So
// values are prefetched while keys are read, and keys of the `next` row while values are read.
// `chances` has room for [heads][M + L] probabilities, with M + L rounded up to whole vectors.
template <int N, class CacheElement>
void attend(const Prior& prior, const float* qkv, int64_t position, CacheElement* stored,
            const CacheElement* next, float* chances, float* attended) {
  const int64_t all = prior.attention, heads = prior.heads, seen = position + 1, wide = kVectorLanes * N;
  const int64_t length = prior.memory + prior.length;
  const int64_t room = (length + kVectorLanes - 1) / kVectorLanes * kVectorLanes;
  CacheElement *keys = stored, *values = stored + length * all;
  for (int64_t i = 0; i < all; ++i) store(qkv[all + i], keys + position * all + i);
  for (int64_t i = 0; i < all; ++i) store(qkv[2 * all + i], values + position * all + i);
  for (int64_t t = 0; t < seen; t += kVectorLanes) {
    const int64_t count = std::min<int64_t>(kVectorLanes, seen - t);
    for (int64_t head = 0; head < heads; ++head) {
      const CacheElement* from = keys + t * all + head * wide;
      store16(score_keys<N>(qkv + head * wide, from, all, count, values - keys),
              chances + head * room + t);
    }
  }
  for (int64_t head = 0; head < heads; ++head) softmax(chances + head * room, seen);
  std::fill_n(attended, all, 0.0f);
  for (int64_t t = 0; t < seen; t += kVectorLanes) {
    const int64_t count = std::min<int64_t>(kVectorLanes, seen - t);
    for (int64_t head = 0; head < heads; ++head) {
      const CacheElement* from = values + t * all + head * wide;
      add_values<N>(chances + head * room + t, from, all, count, next - values,
                    attended + head * wide);
    }
  }
}

// Computes attention of one row for any supported width of heads.
template <class CacheElement>
void attend(const Prior& prior, const float* qkv, int64_t position, CacheElement* stored,
            const CacheElement* next, float* chances, float* attended) {
  switch (prior.attention / prior.heads / kVectorLanes) {
    case 1: return attend<1>(prior, qkv, position, stored, next, chances, attended);
    case 2: return attend<2>(prior, qkv, position, stored, next, chances, attended);
    case 3: return attend<3>(prior, qkv, position, stored, next, chances, attended);
    case 4: return attend<4>(prior, qkv, position, stored, next, chances, attended);
    case 5: return attend<5>(prior, qkv, position, stored, next, chances, attended);
    case 6: return attend<6>(prior, qkv, position, stored, next, chances, attended);
    case 7: return attend<7>(prior, qkv, position, stored, next, chances, attended);
    case 8: return attend<8>(prior, qkv, position, stored, next, chances, attended);
  }
}

}  // namespace
