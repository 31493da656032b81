// The number formats of matrix products: how inputs are converted, and how products are added to a
// register of sums.
//
// Products read inputs in words of `kGroup` numbers, and weights in registers with `kGroup` inputs
// of each of their outputs. Words and groups depend on the instruction set; `abi.py` asks for the
// group.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "simd.h"

#if defined(ANYTIME_AVX512) && defined(__AVX512BF16__)
#define ANYTIME_BF16
#endif
#if defined(ANYTIME_AVX512) && defined(__AVX512VNNI__)
#define ANYTIME_VNNI
#endif

namespace {

// float32, one number at a time.
struct Float32 {
  using Sum = Register;
  using Weight = Register;
  using Word = Register;
  static constexpr int64_t kGroup = 1, kWordBytes = 4, kWeightBytes = 4;
  static Weight weight(const uint8_t* from) { return load<Register>(from); }
  static Word word(const uint8_t* from) { return broadcast(load<float>(from)); }
  static Sum add(Sum sum, const Word& x, const Weight& w) { return fma(x, w, sum); }
};

#ifdef ANYTIME_BF16

// bfloat16 in pairs, whose sum the instruction forms in an order and rounding of its own.
struct Bfloat16 {
  using Sum = Register;
  using Weight = __m512bh;
  using Word = __m512bh;
  static constexpr int64_t kGroup = 2, kWordBytes = 4, kWeightBytes = 2;
  static Weight weight(const uint8_t* from) { return load<__m512bh>(from); }
  static Word word(const uint8_t* from) { return (__m512bh)_mm512_set1_epi32(load<int32_t>(from)); }
  static Sum add(Sum sum, const Word& x, const Weight& w) {
    return (Sum)_mm512_dpbf16_ps((__m512)sum, x, w);
  }
  static void convert(const float* x, int64_t in, uint8_t* y) {
    using Halves = uint16_t __attribute__((vector_size(2 * kRegisterLanes)));
    for (int64_t i = 0; i < in; i += kVectorLanes) {
      const Vector part = load_partial(x + i, in - i);
      for (int j = 0; j < kRegistersPerVector; ++j) {
        const Unsigned low = round_to_bfloat16(bit_cast<Unsigned>(part.part[j]));
        const Halves halves = __builtin_convertvector(low, Halves);
        std::memcpy(y + 2 * (i + j * kRegisterLanes), &halves, sizeof halves);
      }
    }
  }
};

#else

// bfloat16 weights, widened to float32 as they are read. Inputs are rounded, and stay float32.
struct Bfloat16 {
  struct Pair {
    Register even, odd;
  };
  using Sum = Register;
  using Weight = Pair;
  using Word = Pair;
  static constexpr int64_t kGroup = 2, kWordBytes = 8, kWeightBytes = 2;
  static Weight weight(const uint8_t* from) {
    const Integers both = load<Integers>(from);
    return {bit_cast<Register>(both << 16), bit_cast<Register>(both & static_cast<int32_t>(0xffff0000))};
  }
  static Word word(const uint8_t* from) {
    return {broadcast(load<float>(from)), broadcast(load<float>(from + 4))};
  }
  static Sum add(Sum sum, const Word& x, const Weight& w) {
    return fma(x.odd, w.odd, fma(x.even, w.even, sum));
  }
  static void convert(const float* x, int64_t in, uint8_t* y) {
    for (int64_t i = 0; i < in; i += kVectorLanes) {
      const Vector part = load_partial(x + i, in - i);
      for (int j = 0; j < kRegistersPerVector; ++j) {
        const Unsigned low = round_to_bfloat16(bit_cast<Unsigned>(part.part[j])) << 16;
        std::memcpy(y + 4 * (i + j * kRegisterLanes), &low, sizeof low);
      }
    }
  }
};

#endif

// int8, with integer products, which are exact with every instruction.
struct Int8 {
  using Sum = Integers;
  using Weight = Integers;
  using Word = Integers;
  static constexpr int64_t kWordBytes = 4, kWeightBytes = 1;
  static Word word(const uint8_t* from) { return broadcast(load<int32_t>(from)); }

#if defined(ANYTIME_VNNI)
  static constexpr int64_t kGroup = 4;
  static constexpr int32_t kOffset = 128;  // the instruction takes unsigned inputs
  static Weight weight(const uint8_t* from) { return load<Integers>(from); }
  static Sum add(Sum sum, Word x, Weight w) {
    return (Sum)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)x, (__m512i)w);
  }
#elif defined(ANYTIME_AVX512)
  static constexpr int64_t kGroup = 2;
  static constexpr int32_t kOffset = 0;
  static Weight weight(const uint8_t* from) {
    return (Weight)_mm512_cvtepi8_epi16(load<__m256i>(from));
  }
  static Sum add(Sum sum, Word x, Weight w) {
    return sum + (Sum)_mm512_madd_epi16((__m512i)x, (__m512i)w);
  }
#elif defined(ANYTIME_AVX2)
  static constexpr int64_t kGroup = 2;
  static constexpr int32_t kOffset = 0;
  static Weight weight(const uint8_t* from) {
    return (Weight)_mm256_cvtepi8_epi16(load<__m128i>(from));
  }
  static Sum add(Sum sum, Word x, Weight w) {
    return sum + (Sum)_mm256_madd_epi16((__m256i)x, (__m256i)w);
  }
#elif defined(__SSE4_1__)
  static constexpr int64_t kGroup = 2;
  static constexpr int32_t kOffset = 0;
  static Weight weight(const uint8_t* from) {
    return (Weight)_mm_cvtepi8_epi16(_mm_cvtsi64_si128(load<int64_t>(from)));
  }
  static Sum add(Sum sum, Word x, Weight w) {
    return sum + (Sum)_mm_madd_epi16((__m128i)x, (__m128i)w);
  }
#elif defined(__ARM_FEATURE_DOTPROD)
  static constexpr int64_t kGroup = 4;
  static constexpr int32_t kOffset = 0;
  static Weight weight(const uint8_t* from) { return load<Integers>(from); }
  static Sum add(Sum sum, Word x, Weight w) {
    return (Sum)vdotq_s32((int32x4_t)sum, (int8x16_t)x, (int8x16_t)w);
  }
#else
  using Shorts = int16_t __attribute__((vector_size(4 * kRegisterLanes)));
  using Bytes = int8_t __attribute__((vector_size(2 * kRegisterLanes)));
  static constexpr int64_t kGroup = 2;
  static constexpr int32_t kOffset = 0;
  static Weight weight(const uint8_t* from) {
    return bit_cast<Integers>(__builtin_convertvector(load<Bytes>(from), Shorts));
  }
  static Sum add(Sum sum, Word x, Weight w) {
#if defined(__ARM_NEON)
    const int16x8_t a = (int16x8_t)x, b = (int16x8_t)w;
    const int32x4_t low = vmull_s16(vget_low_s16(a), vget_low_s16(b));
    return sum + (Sum)vpaddq_s32(low, vmull_high_s16(a, b));
#else
    return sum + (x << 16 >> 16) * (w << 16 >> 16) + (x >> 16) * (w >> 16);
#endif
  }
#endif

  // Quantizes x to integers within 127, and returns their scale. y has room for whole vectors.
  static float convert(const float* x, int64_t in, uint8_t* y) {
    constexpr int64_t bytes = kGroup == 4 ? 1 : 2;  // bytes of a number in a word
    using Number = std::conditional_t<bytes == 1, uint8_t, int16_t>;
    using Numbers = Number __attribute__((vector_size(bytes * kRegisterLanes)));
    Vector most = map_registers([](auto) { return broadcast(1e-12f); });
    for (int64_t i = 0; i < in; i += kVectorLanes) {
      const Vector part = load_partial(x + i, in - i);
      for (int j = 0; j < kRegistersPerVector; ++j) {
        most.part[j] = maximum(most.part[j], maximum(part.part[j], -part.part[j]));
      }
    }
    const float highest = reduce_max(most), scale = highest / 127.0f;
    const Register inverse = broadcast(127.0f / highest);
    for (int64_t i = 0; i < in; i += kVectorLanes) {
      const Vector part = load_partial(x + i, in - i);
      for (int j = 0; j < kRegistersPerVector; ++j) {
        const Register whole = round_product(part.part[j], inverse);
        const Integers shifted = __builtin_convertvector(whole, Integers) + kOffset;
        const Numbers numbers = __builtin_convertvector(shifted, Numbers);
        std::memcpy(y + (i + j * kRegisterLanes) * bytes, &numbers, sizeof numbers);
      }
    }
    return scale;
  }
};

}  // namespace
