// Vectors of 16 numbers: loading, adding up, and the functions that a Transformer needs.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

namespace {

using Vector = float __attribute__((vector_size(64)));
using Integers = int32_t __attribute__((vector_size(64)));
using Doubles = double __attribute__((vector_size(64)));
using Longs = int64_t __attribute__((vector_size(64)));

template <class To, class From>
To load(const From* from) {
  To to;
  std::memcpy(&to, from, sizeof to);
  return to;
}

template <class To, class From>
To bits(From from) {
  static_assert(sizeof(To) == sizeof(From));
  return load<To>(&from);
}

// Up to 16 numbers, and zeros after them.
Vector load_some(const float* from, int64_t count) {
  Vector some = {};
  if (count >= 16) return load<Vector>(from);
  for (int64_t i = 0; i < count; ++i) some[i] = from[i];
  return some;
}

template <int... I>
Vector shuffle(Vector a, Vector b) {
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(a, b, I...);
#else
  return __builtin_shuffle(a, b, Integers{I...});
#endif
}

// Lanes of a, then of b, where each group of 2 G lanes becomes one of G: its halves are added.
template <int G, int... I>
Vector fold(Vector a, Vector b, std::integer_sequence<int, I...>) {
  return shuffle<(I / 8 * 16 + I % 8 / G * 2 * G + I % G)...>(a, b) +
         shuffle<(I / 8 * 16 + I % 8 / G * 2 * G + I % G + G)...>(a, b);
}

template <int G>
Vector fold(Vector a, Vector b) {
  return fold<G>(a, b, std::make_integer_sequence<int, 16>());
}

// Lane i of the result is the sum of the lanes of part[i].
Vector add_lanes(const Vector* part) {
  Vector eight[8], four[4];
  for (int i = 0; i < 8; ++i) eight[i] = fold<8>(part[2 * i], part[2 * i + 1]);
  for (int i = 0; i < 4; ++i) four[i] = fold<4>(eight[2 * i], eight[2 * i + 1]);
  return fold<1>(fold<2>(four[0], four[1]), fold<2>(four[2], four[3]));
}

template <int By, int... I>
Vector turn(Vector x, std::integer_sequence<int, I...>) {
  return shuffle<((I + By) % 16)...>(x, x);
}

template <int By>
Vector turn(Vector x) {
  return turn<By>(x, std::make_integer_sequence<int, 16>());
}

Vector higher(Vector a, Vector b) { return a > b ? a : b; }

float add_lanes(Vector x) {
  x += turn<8>(x);
  x += turn<4>(x);
  x += turn<2>(x);
  x += turn<1>(x);
  return x[0];
}

float most_of(Vector x) {
  x = higher(x, turn<8>(x));
  x = higher(x, turn<4>(x));
  x = higher(x, turn<2>(x));
  x = higher(x, turn<1>(x));
  return x[0];
}

Vector round_to_whole(Vector x) {  // |x| < 2^22
  const float magic = 12582912.0f;
  return (x + magic) - magic;
}

Vector exponential(Vector x) {  // Cephes: within 2 units in the last place
  const Vector low = Vector{} - 87.0f, high = Vector{} + 88.0f;
  x = x < low ? low : x;
  x = x > high ? high : x;
  const Vector n = round_to_whole(x * 1.44269504f);
  const Vector r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Vector p = Vector{} + 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const Vector y = p * r * r + r + 1.0f;
  return y * bits<Vector>((__builtin_convertvector(n, Integers) + 127) << 23);
}

// Of numbers up to 0, by the Taylor series: within 2 units in the last place; 0 from -708 down.
Doubles exponential(Doubles x) {
  const double magic = 0x1.8p52;  // brings whole numbers into the lowest bits
  const Doubles shifted = x * 1.4426950408889634 + magic;
  const Doubles n = shifted - magic;
  const Doubles r = (x - n * 0x1.62e42feep-1) - n * 0x1.a39ef35793c76p-33;
  Doubles p = Doubles{} + 1.0 / 479001600;
  for (double factor : {1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040,
                        1.0 / 720, 1.0 / 120, 1.0 / 24, 1.0 / 6, 1.0 / 2, 1.0, 1.0}) {
    p = p * r + factor;
  }
  const Doubles y = bits<Doubles>(bits<Longs>(p) + (bits<Longs>(shifted) << 52));
  return x > -708.0 ? y : Doubles{};
}

Vector gelu(Vector x) {  // with the error function of Abramowitz and Stegun 7.1.26, to 1.5e-7
  const Vector z = (x < 0 ? -x : x) * 0.70710678f;
  const Vector t = 1.0f / (1.0f + 0.3275911f * z);
  Vector p = Vector{} + 1.061405429f;
  p = p * t - 1.453152027f;
  p = p * t + 1.421413741f;
  p = p * t - 0.284496736f;
  p = p * t + 0.254829592f;
  const Vector tail = p * t * exponential(-z * z);  // 1 - erf(z)
  return 0.5f * x * (x < 0 ? tail : 2.0f - tail);
}

uint16_t to_bfloat16(float x) {  // to the nearest, ties to even
  const uint32_t u = bits<uint32_t>(x);
  return static_cast<uint16_t>((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

}  // namespace
