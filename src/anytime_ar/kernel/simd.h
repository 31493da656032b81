// Registers of the target instruction set, vectors of 16 numbers made of them, and the functions
// that a Transformer needs.
//
// Results do not depend on the width of a register. Sums across lanes are formed in 16 lanes, and
// every fused multiply-add is explicit (`-ffp-contract=off` prevents others). So all instruction
// sets with fused multiply-add give the same results to the last bit. SSE and WebAssembly have
// none, and round products and sums separately.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

namespace {

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define ANYTIME_AVX512
constexpr int kRegisterLanes = 16;  // float32 numbers of a register
#elif defined(__AVX2__) && defined(__FMA__)
#define ANYTIME_AVX2
constexpr int kRegisterLanes = 8;
#else
constexpr int kRegisterLanes = 4;
#endif

constexpr int kVectorLanes = 16;  // numbers of a vector
constexpr int kRegistersPerVector = kVectorLanes / kRegisterLanes;

using Register = float __attribute__((vector_size(4 * kRegisterLanes)));
using Integers = int32_t __attribute__((vector_size(4 * kRegisterLanes)));
using Unsigned = uint32_t __attribute__((vector_size(4 * kRegisterLanes)));
using Doubles = double __attribute__((vector_size(4 * kRegisterLanes)));
using Longs = int64_t __attribute__((vector_size(4 * kRegisterLanes)));

// Reads a value from unaligned memory.
template <class To, class From>
To load(const From* from) {
  To to;
  std::memcpy(&to, from, sizeof to);
  return to;
}

// Returns a value with the same bits and another type.
template <class To, class From>
To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  return load<To>(&from);
}

// Returns a * b + c, rounded once if the instruction set supports it.
Register fma(Register a, Register b, Register c) {
#if defined(ANYTIME_AVX512)
  return (Register)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(ANYTIME_AVX2)
  return (Register)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__ARM_NEON)
  return (Register)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
  return a * b + c;
#endif
}

Doubles fma(Doubles a, Doubles b, Doubles c) {
#if defined(ANYTIME_AVX512)
  return (Doubles)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif defined(ANYTIME_AVX2)
  return (Doubles)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#elif defined(__ARM_NEON)
  return (Doubles)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
#else
  return a * b + c;
#endif
}

float fma(float a, float b, float c) {
#if defined(ANYTIME_AVX512) || defined(ANYTIME_AVX2) || defined(__ARM_NEON)
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}

template <class To, class From, int... I>
To broadcast(From x, std::integer_sequence<int, I...>) {
  return To{(static_cast<void>(I), x)...};
}

// Returns x in every lane. (Adding x to zeros would lose the sign of -0.)
Register broadcast(float x) { return broadcast<Register>(x, std::make_integer_sequence<int, kRegisterLanes>()); }
Integers broadcast(int32_t x) { return broadcast<Integers>(x, std::make_integer_sequence<int, kRegisterLanes>()); }

// Returns the maximum of each lane.
Register maximum(Register a, Register b) { return a > b ? a : b; }

// Returns the lanes I of a, and then b.
template <int... I>
Register shuffle(Register a, Register b) {
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(a, b, I...);
#else
  return __builtin_shuffle(a, b, Integers{I...});
#endif
}

// A vector of 16 numbers, in one or more registers.
struct Vector {
  Register part[kRegistersPerVector];
};

template <class Make, int... I>
Vector map_registers(Make make, std::integer_sequence<int, I...>) {
  return {{make(std::integral_constant<int, I>())...}};
}

// Builds a vector from its registers make(0), make(1), ... The arguments are compile-time
// constants, without which GCC leaves registers in memory.
template <class Make>
Vector map_registers(Make make) {
  return map_registers(make, std::make_integer_sequence<int, kRegistersPerVector>());
}

// Reads 16 numbers.
Vector load16(const float* from) {
  return map_registers([&](auto i) { return load<Register>(from + i * kRegisterLanes); });
}

// Writes 16 numbers.
void store16(const Vector& x, float* to) {
  for (int i = 0; i < kRegistersPerVector; ++i) std::memcpy(to + i * kRegisterLanes, &x.part[i], sizeof x.part[i]);
}

// Reads the first `count` numbers, or 16 if there are more, and pads them with `filler`.
Vector load_partial(const float* from, int64_t count, float filler = 0) {
  if (count >= kVectorLanes) return load16(from);
  float some[kVectorLanes];
  for (int i = 0; i < kVectorLanes; ++i) some[i] = i < count ? from[i] : filler;
  return load16(some);
}

// Adds the halves of each group of 2 G lanes: returns the groups of G lanes of a, then of b.
template <int G, int... I>
Register add_halves(Register a, Register b, std::integer_sequence<int, I...>) {
  return shuffle<(I / G * 2 * G + I % G)...>(a, b) + shuffle<(I / G * 2 * G + I % G + G)...>(a, b);
}

// Adds the halves of a vector until one register is left.
Register add_halves(Vector x) {
  for (int half = kRegistersPerVector / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) x.part[i] += x.part[i + half];
  }
  return x.part[0];
}

// Adds the lanes of each of 16 registers: lane i of the result is the sum of the lanes of x[i].
template <int G = kRegisterLanes / 2>
Vector reduce_add(Register* x) {
  for (int i = 0; i < G * kRegistersPerVector; ++i) {
    x[i] = add_halves<G>(x[2 * i], x[2 * i + 1], std::make_integer_sequence<int, kRegisterLanes>());
  }
  if constexpr (G > 1) return reduce_add<G / 2>(x);
  return map_registers([&](auto i) { return x[i]; });
}

// Rotates the lanes of a register.
template <int By, int... I>
Register rotate_lanes(Register x, std::integer_sequence<int, I...>) {
  return shuffle<((I + By) % kRegisterLanes)...>(x, x);
}

// Combines all 16 numbers, in the order in which `reduce_add` of 16 registers adds them.
template <class Combine>
float reduce(Vector x, Combine two) {
  for (int half = kRegistersPerVector / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) x.part[i] = two(x.part[i], x.part[i + half]);
  }
  constexpr auto lanes = std::make_integer_sequence<int, kRegisterLanes>();
  Register one = x.part[0];
  if constexpr (kRegisterLanes > 8) one = two(one, rotate_lanes<8>(one, lanes));
  if constexpr (kRegisterLanes > 4) one = two(one, rotate_lanes<4>(one, lanes));
  one = two(one, rotate_lanes<2>(one, lanes));
  one = two(one, rotate_lanes<1>(one, lanes));
  return one[0];
}

// Returns the sum of 16 numbers.
float reduce_add(const Vector& x) {
  return reduce(x, [](Register a, Register b) { return a + b; });
}

// Returns the maximum of 16 numbers.
float reduce_max(const Vector& x) { return reduce(x, maximum); }

// Returns x * by rounded to the nearest integer, for results below 2^22.
Register round_product(Register x, Register by) {
  const Register magic = broadcast(12582912.0f);
  return fma(x, by, magic) - magic;
}

// Returns exp(x) as in Cephes, to 2 units in the last place.
Register exp(Register x) {
  const Register low = broadcast(-87.0f), high = broadcast(88.0f);
  x = x < low ? low : x;
  x = x > high ? high : x;
  const Register n = round_product(x, broadcast(1.44269504f));
  const Register r = fma(n, broadcast(2.12194440e-4f), fma(n, broadcast(-0.693359375f), x));
  Register p = broadcast(1.9875691500e-4f);
  p = fma(p, r, broadcast(1.3981999507e-3f));
  p = fma(p, r, broadcast(8.3334519073e-3f));
  p = fma(p, r, broadcast(4.1665795894e-2f));
  p = fma(p, r, broadcast(1.6666665459e-1f));
  p = fma(p, r, broadcast(5.0000001201e-1f));
  const Register y = fma(p * r, r, r) + 1.0f;
  return y * bit_cast<Register>((__builtin_convertvector(n, Integers) + 127) << 23);
}

// Returns exp(x) for x <= 0 by the Taylor series, to 2 units in the last place; 0 for x <= -708.
Doubles exp(Doubles x) {
  const Doubles magic = Doubles{} + 0x1.8p52;  // shifts integers into the lowest bits
  const Doubles shifted = fma(x, Doubles{} + 1.4426950408889634, magic);
  const Doubles n = shifted - magic;
  const Doubles r =
      fma(n, Doubles{} - 0x1.a39ef35793c76p-33, fma(n, Doubles{} - 0x1.62e42feep-1, x));
  Doubles p = Doubles{} + 1.0 / 479001600;
  for (double factor : {1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040,
                        1.0 / 720, 1.0 / 120, 1.0 / 24, 1.0 / 6, 1.0 / 2, 1.0, 1.0}) {
    p = fma(p, r, Doubles{} + factor);
  }
  const Doubles y = bit_cast<Doubles>(bit_cast<Longs>(p) + (bit_cast<Longs>(shifted) << 52));
  return x > -708.0 ? y : Doubles{};
}

// Returns GELU(x), with the error function of Abramowitz and Stegun 7.1.26, to 1.5e-7.
Register gelu(Register x) {
  const Register z = (x < 0 ? -x : x) * 0.70710678f;
  const Register t = 1.0f / fma(z, broadcast(0.3275911f), broadcast(1.0f));
  Register p = broadcast(1.061405429f);
  p = fma(p, t, broadcast(-1.453152027f));
  p = fma(p, t, broadcast(1.421413741f));
  p = fma(p, t, broadcast(-0.284496736f));
  p = fma(p, t, broadcast(0.254829592f));
  const Register tail = p * t * exp(-z * z);  // 1 - erf(z)
  return 0.5f * x * (x < 0 ? tail : 2.0f - tail);
}

// Rounds the bits of float32 numbers to bfloat16 in the lower half: to nearest, ties to even.
template <class Bits>
Bits round_to_bfloat16(Bits u) {
  return (u + 0x7fff + ((u >> 16) & 1)) >> 16;
}

// Returns the bits of x rounded to bfloat16.
uint16_t to_bfloat16(float x) {
  return static_cast<uint16_t>(round_to_bfloat16(bit_cast<uint32_t>(x)));
}

}  // namespace
