// One step of the prior for a batch of rows, each at a position of its own: from the codes so far to
// the next one.
//
// All that a step does, in one call: between its matrix products a step of a small prior is hundreds
// of tiny operations, and calling each of them costs several times what it computes.
//
// Every sum that belongs to a row is formed in an order that depends on nothing but the row itself,
// its products over the inner dimension one after the other. So a row's logits are the same to the
// last bit alone, in any batch, and beside rows at any positions; and rows can be split among threads
// that never wait for one another.
//
// Letters: E width, H hidden width of the feed-forward blocks, L code length, V vocabulary.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <numeric>
#include <thread>
#include <type_traits>
#include <vector>

#if defined(__AVX512BF16__) || defined(__AVX512VNNI__)
#include <immintrin.h>
#endif

namespace {

constexpr int64_t kColumns = 32;  // columns of a panel: two vectors of 16
constexpr int64_t kRows = 8;      // rows multiplied together, to read each weight once for all

using Vector = float __attribute__((vector_size(64)));
using Integers = int32_t __attribute__((vector_size(64)));

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

}  // namespace

extern "C" {

enum Precision : int64_t { kFloat32 = 0, kBfloat16 = 1, kInt8 = 2 };

// A linear map. Weights lie in panels of 32 outputs; within a panel by input, and for bfloat16 pairs
// and for int8 fours of inputs side by side: [out / 32][in / g][32][g] with g = 1, 2, 4.
struct Linear {
  const void* weight;
  const float* bias;    // [out], like the next two filled up to whole panels
  const float* scale;   // [out], int8 only
  const int32_t* sums;  // [out], int8 only: sums of weights, to take back the offset of inputs
  int64_t in, out;
};

struct Norm {
  const float* weight;
  const float* bias;
  float eps;
};

struct Block {
  Norm norm1;
  Linear qkv, out;  // queries are scaled already
  Norm norm2;
  Linear up, down;
};

struct Prior {
  int64_t layers, width, heads, attention, hidden, length, vocabulary, precision;
  const float* first;      // [labels + 1][E]: inputs at position 0
  const float* entries;    // [L][V][E]: added to those at a position, by the code before it
  const float* positions;  // [L][E]
  const Block* blocks;
  Norm norm;
  const Linear* scores;  // [length]
};

// How the codes of a row are chosen.
struct Choice {
  double temperature, top_p, guidance;
  int64_t top_k;   // 0: all
  int64_t shadow;  // the row that is drawn along without the label, or one of the next two
};
constexpr int64_t kNoShadow = -1, kIsShadow = -2;

// All rows of a batch. T is L rounded up to 16, and A the width of attention.
struct Rows {
  // [layers][rows][2 A T] float32 numbers or, where the precision is lower, bfloat16 ones; layers lie
  // `layer_stride` numbers apart
  void* cache;
  int64_t layer_stride;
  const int64_t* labels;  // [rows]
  int64_t* codes;         // [rows][L]
  const double* noise;    // [rows][L], in [0, 1)
  int64_t* positions;     // [rows]
  const Choice* choices;  // [rows]
};

}  // extern "C"

namespace {

float add_lanes(Vector lanes) {
  float sum = 0;
  for (int i = 0; i < 16; ++i) sum += lanes[i];
  return sum;
}

float most_of(Vector lanes) {
  float most = lanes[0];
  for (int i = 1; i < 16; ++i) most = lanes[i] > most ? lanes[i] : most;
  return most;
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

// Up to 16 numbers, and zeros after them.
Vector load_some(const float* from, int64_t count) {
  Vector some = {};
  if (count >= 16) return load<Vector>(from);
  for (int64_t i = 0; i < count; ++i) some[i] = from[i];
  return some;
}

void normalize(const Norm& norm, const float* x, int64_t width, float* y) {
  Vector sum = {};
  for (int64_t i = 0; i < width; i += 16) sum += load_some(x + i, width - i);
  const float mean = add_lanes(sum) / width;
  Vector squares = {};
  for (int64_t i = 0; i < width; i += 16) {
    Vector d = load_some(x + i, width - i) - mean;
    for (int64_t j = width - i; j < 16; ++j) d[j] = 0;
    squares += d * d;
  }
  const float scale = 1.0f / std::sqrt(add_lanes(squares) / width + norm.eps);
  for (int64_t i = 0; i < width; ++i) y[i] = (x[i] - mean) * scale * norm.weight[i] + norm.bias[i];
}

// Inputs of a linear map in the number format of its products: rows of `stride` bytes.
struct Inputs {
  const uint8_t* data;
  int64_t stride;
  const float* scale;  // by row, int8 only
};

int64_t padded(int64_t in) { return (in + 3) / 4 * 4; }

uint16_t to_bfloat16(float x) {  // to the nearest, ties to even
  const uint32_t u = bits<uint32_t>(x);
  return static_cast<uint16_t>((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

void to_bfloat16(const float* x, int64_t in, uint16_t* y) {
  for (int64_t i = 0; i < in; ++i) y[i] = to_bfloat16(x[i]);
  for (int64_t i = in; i < padded(in); ++i) y[i] = 0;
}

float to_int8(const float* x, int64_t in, uint8_t* y) {  // plus 128, because inputs are unsigned
  float most = 1e-12f;
  for (int64_t i = 0; i < in; ++i) most = std::fabs(x[i]) > most ? std::fabs(x[i]) : most;
  const float scale = most / 127.0f, inverse = 127.0f / most;
  for (int64_t i = 0; i < in; ++i) {
    y[i] = static_cast<uint8_t>(static_cast<int32_t>(std::nearbyint(x[i] * inverse)) + 128);
  }
  for (int64_t i = in; i < padded(in); ++i) y[i] = 128;
  return scale;
}

// Products of M rows with one panel. Kept apart from what uses them, so that all sums stay in
// registers.
#define SEPARATE __attribute__((noinline))

struct Float32 {
  using Sum = Vector;
  template <int M>
  SEPARATE static void multiply(const Inputs& x, const void* panel, int64_t in, Sum* result) {
    Sum sum[M][2] = {};
    const float* w = static_cast<const float*>(panel);
    for (int64_t k = 0; k < in; ++k, w += kColumns) {
      const Vector left = load<Vector>(w), right = load<Vector>(w + 16);
      for (int m = 0; m < M; ++m) {
        const float a = load<float>(x.data + m * x.stride + 4 * k);
        sum[m][0] += a * left;
        sum[m][1] += a * right;
      }
    }
    std::memcpy(result, sum, sizeof sum);
  }
  static Vector finish(Sum sum, const Inputs&, int, const Linear&, int64_t) { return sum; }
};

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
  template <int M>
  SEPARATE static void multiply(const Inputs& x, const void* panel, int64_t in, Sum* result) {
    Sum sum[M][2] = {};
    const uint8_t* w = static_cast<const uint8_t*>(panel);
    for (int64_t k = 0; k < padded(in); k += 2, w += 4 * kColumns) {
      for (int m = 0; m < M; ++m) {
        const uint32_t pair = load<uint32_t>(x.data + m * x.stride + 2 * k);
        sum[m][0] = add(sum[m][0], pair, w);
        sum[m][1] = add(sum[m][1], pair, w + 64);
      }
    }
    std::memcpy(result, sum, sizeof sum);
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
  template <int M>
  SEPARATE static void multiply(const Inputs& x, const void* panel, int64_t in, Sum* result) {
    Sum sum[M][2] = {};
    const uint8_t* w = static_cast<const uint8_t*>(panel);
    for (int64_t k = 0; k < padded(in); k += 4, w += 4 * kColumns) {
      for (int m = 0; m < M; ++m) {
        const uint32_t four = load<uint32_t>(x.data + m * x.stride + k);
        sum[m][0] = add(sum[m][0], four, w);
        sum[m][1] = add(sum[m][1], four, w + 64);
      }
    }
    std::memcpy(result, sum, sizeof sum);
  }
  static Vector finish(Sum sum, const Inputs& x, int m, const Linear& map, int64_t column) {
    const Integers exact = sum - 128 * load<Integers>(map.sums + column);
    return __builtin_convertvector(exact, Vector) * x.scale[m] * load<Vector>(map.scale + column);
  }
};

enum class After { kStore, kGelu, kAdd };

template <class Kind, int M>
void apply_tile(const Linear& map, const Inputs& x, int64_t panel, After after, float* y,
                int64_t stride) {
  constexpr int64_t group = std::is_same_v<Kind, Float32> ? 1 : 4;
  constexpr int64_t size = std::is_same_v<Kind, Float32> ? 4 : std::is_same_v<Kind, Bfloat16> ? 2 : 1;
  const int64_t in = (map.in + group - 1) / group * group;
  const auto* weight = static_cast<const uint8_t*>(map.weight) + panel * kColumns * in * size;
  typename Kind::Sum sum[M][2];
  Kind::template multiply<M>(x, weight, map.in, sum[0]);
  const int64_t first = panel * kColumns;
  for (int m = 0; m < M; ++m) {
    for (int half = 0; half < 2; ++half) {
      const int64_t column = first + 16 * half, columns = map.out - column;
      if (columns <= 0) break;
      Vector result = Kind::finish(sum[m][half], x, m, map, column);
      result += load<Vector>(map.bias + column);
      if (after == After::kGelu) result = gelu(result);
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

template <class Kind>
void apply(const Linear& map, const Inputs& x, int64_t rows, After after, float* y,
           int64_t stride) {
  const int64_t panels = (map.out + kColumns - 1) / kColumns;
  for (int64_t panel = 0; panel < panels; ++panel) {
    for (int64_t row = 0; row < rows; row += kRows) {
      const Inputs part = {x.data + row * x.stride, x.stride, x.scale ? x.scale + row : nullptr};
      float* target = y + row * stride;
      switch (rows - row) {
        case 1: apply_tile<Kind, 1>(map, part, panel, after, target, stride); break;
        case 2: apply_tile<Kind, 2>(map, part, panel, after, target, stride); break;
        case 3: apply_tile<Kind, 3>(map, part, panel, after, target, stride); break;
        case 4: apply_tile<Kind, 4>(map, part, panel, after, target, stride); break;
        case 5: apply_tile<Kind, 5>(map, part, panel, after, target, stride); break;
        case 6: apply_tile<Kind, 6>(map, part, panel, after, target, stride); break;
        case 7: apply_tile<Kind, 7>(map, part, panel, after, target, stride); break;
        default: apply_tile<Kind, 8>(map, part, panel, after, target, stride); break;
      }
    }
  }
}

// Memory of one call, for its rows.
class Workspace {
 public:
  Workspace(const Prior& prior, int64_t rows)
      : x(new float[rows * prior.width]),
        normed(new float[rows * prior.width]),
        qkv(new float[rows * 3 * prior.attention]),
        attended(new float[rows * prior.attention]),
        hidden(new float[rows * prior.hidden]),
        chances(new float[prior.length + 16]),
        converted_(new uint8_t[rows * 2 * padded(std::max({prior.width, prior.attention, prior.hidden}))]),
        scales_(new float[rows]) {}

  // y = map(x) for rows of x that lie one after the other.
  void linear(const Prior& prior, const Linear& map, const float* x, int64_t rows, After after,
              float* y, int64_t stride) {
    if (prior.precision == kFloat32) {
      const Inputs inputs = {reinterpret_cast<const uint8_t*>(x), 4 * map.in, nullptr};
      return apply<Float32>(map, inputs, rows, after, y, stride);
    }
    const int64_t wide = padded(map.in);
    if (prior.precision == kBfloat16) {
      auto* low = reinterpret_cast<uint16_t*>(converted_.get());
      for (int64_t row = 0; row < rows; ++row) {
        to_bfloat16(x + row * map.in, map.in, low + row * wide);
      }
      return apply<Bfloat16>(map, {converted_.get(), 2 * wide, nullptr}, rows, after, y, stride);
    }
    for (int64_t row = 0; row < rows; ++row) {
      scales_[row] = to_int8(x + row * map.in, map.in, converted_.get() + row * wide);
    }
    apply<Int8>(map, {converted_.get(), wide, scales_.get()}, rows, after, y, stride);
  }

  std::unique_ptr<float[]> x, normed, qkv, attended, hidden, chances;

 private:
  std::unique_ptr<uint8_t[]> converted_;
  std::unique_ptr<float[]> scales_;
};

int64_t room(const Prior& prior) { return (prior.length + 15) / 16 * 16; }  // T

// Keys and values are stored in float32 or, beside lower precisions, in bfloat16.
using Half = uint16_t __attribute__((vector_size(32)));

Vector load_stored(const float* from) { return load<Vector>(from); }
Vector load_stored(const uint16_t* from) {
  return bits<Vector>(__builtin_convertvector(load<Half>(from), Integers) << 16);
}
void store(float x, float* to) { *to = x; }
void store(float x, uint16_t* to) { *to = to_bfloat16(x); }

// sum[v] = scale[0] * from[0][v] + scale[1] * from[1][v] + ..., `count` of them, for N vectors.
template <int N, class Stored>
void weighted_sum(const float* scale, int64_t count, const Stored* from, int64_t stride,
                  float* to) {
  Vector sum[N] = {};
  for (int64_t i = 0; i < count; ++i, from += stride) {
    for (int v = 0; v < N; ++v) sum[v] += scale[i] * load_stored(from + 16 * v);
  }
  std::memcpy(to, sum, sizeof sum);
}

template <class Stored>
void weighted_sum(const float* scale, int64_t count, const Stored* from, int64_t stride,
                  int64_t vectors, float* to) {
  for (; vectors >= 4; vectors -= 4, from += 64, to += 64) {
    weighted_sum<4>(scale, count, from, stride, to);
  }
  switch (vectors) {
    case 3: return weighted_sum<3>(scale, count, from, stride, to);
    case 2: return weighted_sum<2>(scale, count, from, stride, to);
    case 1: return weighted_sum<1>(scale, count, from, stride, to);
  }
}

// The first `seen` of `chances` become their softmax; the rest of their last vector becomes 0.
void softmax(float* chances, int64_t seen) {
  const int64_t whole = (seen + 15) / 16 * 16;
  for (int64_t t = seen; t < whole; ++t) chances[t] = -1e30f;
  Vector most = load<Vector>(chances);
  for (int64_t t = 16; t < whole; t += 16) {
    const Vector next = load<Vector>(chances + t);
    most = next > most ? next : most;
  }
  const float highest = most_of(most);
  Vector total = {};
  for (int64_t t = 0; t < whole; t += 16) {
    Vector part = exponential(load<Vector>(chances + t) - highest);
    if (t + 16 > seen) {
      for (int64_t i = seen - t; i < 16; ++i) part[i] = 0;
    }
    total += part;
    std::memcpy(chances + t, &part, sizeof part);
  }
  const float inverse = 1.0f / add_lanes(total);
  for (int64_t t = 0; t < whole; ++t) chances[t] *= inverse;
}

// Attention of one row: writes keys and values at `position` and reads those up to it. They are
// stored head by head, [T / 16][H][16] keys and then [T][H] values, in the order in which they are
// read, where H is the width of a head filled up to whole vectors.
template <class Stored>
void attend(const Prior& prior, const float* qkv, int64_t position, Stored* stored, float* chances,
            float* attended) {
  const int64_t all = prior.attention, head = all / prior.heads, length = room(prior);
  const int64_t seen = position + 1;
  for (int64_t first = 0; first < all; first += head) {
    Stored *keys = stored + 2 * length * first, *values = keys + length * head;
    Stored* key = keys + position / 16 * 16 * head + position % 16;
    Stored* value = values + position * head;
    for (int64_t i = 0; i < head; ++i) store(qkv[all + first + i], key + 16 * i);
    for (int64_t i = 0; i < head; ++i) store(qkv[2 * all + first + i], value + i);
    for (int64_t t = 0; t < seen; t += 16) {
      weighted_sum<1>(qkv + first, head, keys + t * head, 16, chances + t);
    }
    softmax(chances, seen);
    weighted_sum(chances, seen, values, head, head / 16, attended + first);
  }
}

// What the first block sees of a row.
void embed(const Prior& prior, const Rows& rows, int64_t row, float* x) {
  const int64_t position = rows.positions[row], width = prior.width;
  if (position == 0) {
    std::copy_n(prior.first + rows.labels[row] * width, width, x);
    return;
  }
  const int64_t code = rows.codes[row * prior.length + position - 1];
  const float* entry = prior.entries + ((position - 1) * prior.vocabulary + code) * width;
  const float* place = prior.positions + position * width;
  for (int64_t i = 0; i < width; ++i) x[i] = entry[i] + place[i];
}

// Logits [count][V] of the rows from `first` on, unless they are null, after writing what each row
// sees into the cache.
template <class Stored>
void score(const Prior& prior, const Rows& rows, int64_t first, int64_t count, float* logits) {
  const int64_t width = prior.width, row_stride = 2 * prior.attention * room(prior);
  const int64_t* positions = rows.positions + first;
  Workspace work(prior, count);
  float* x = work.x.get();
  for (int64_t row = 0; row < count; ++row) embed(prior, rows, first + row, x + row * width);
  for (int64_t layer = 0; layer < prior.layers; ++layer) {
    const Block& block = prior.blocks[layer];
    Stored* stored = static_cast<Stored*>(rows.cache) + layer * rows.layer_stride + first * row_stride;
    for (int64_t row = 0; row < count; ++row) {
      normalize(block.norm1, x + row * width, width, work.normed.get() + row * width);
    }
    work.linear(prior, block.qkv, work.normed.get(), count, After::kStore, work.qkv.get(),
                3 * prior.attention);
    for (int64_t row = 0; row < count; ++row) {
      attend(prior, work.qkv.get() + row * 3 * prior.attention, positions[row], stored + row * row_stride,
             work.chances.get(), work.attended.get() + row * prior.attention);
    }
    work.linear(prior, block.out, work.attended.get(), count, After::kAdd, x, width);
    for (int64_t row = 0; row < count; ++row) {
      normalize(block.norm2, x + row * width, width, work.normed.get() + row * width);
    }
    work.linear(prior, block.up, work.normed.get(), count, After::kGelu, work.hidden.get(),
                prior.hidden);
    work.linear(prior, block.down, work.hidden.get(), count, After::kAdd, x, width);
  }
  if (!logits) return;
  for (int64_t row = 0; row < count; ++row) {
    normalize(prior.norm, x + row * width, width, work.normed.get() + row * width);
  }
  for (int64_t row = 0; row < count;) {  // each position has scores of its own
    int64_t end = row + 1;
    while (end < count && positions[end] == positions[row]) ++end;
    work.linear(prior, prior.scores[positions[row]], work.normed.get() + row * width, end - row,
                After::kStore, logits + row * prior.vocabulary, prior.vocabulary);
    row = end;
  }
}

// Chooses codes from logits by inverting the cumulative distribution, in float64.
class Chooser {
 public:
  explicit Chooser(int64_t vocabulary) : chances_(vocabulary) {}

  // `unlabelled` are the logits of the row's shadow, or null.
  int64_t choose(const float* logits, const float* unlabelled, const Choice& how, double noise) {
    const int64_t count = static_cast<int64_t>(chances_.size());
    const float guidance = static_cast<float>(how.guidance);
    for (int64_t i = 0; i < count; ++i) {
      chances_[i] = unlabelled ? unlabelled[i] + guidance * (logits[i] - unlabelled[i]) : logits[i];
    }
    if (how.temperature == 0) {
      return std::max_element(chances_.begin(), chances_.end()) - chances_.begin();
    }
    if (how.temperature != 1) {
      for (double& score : chances_) score /= how.temperature;
    }
    if (how.top_k > 0 && how.top_k < count) keep_most_likely(how.top_k);
    const double most = *std::max_element(chances_.begin(), chances_.end());
    for (double& chance : chances_) chance = std::exp(chance - most);
    if (how.top_p < 1) keep_nucleus(how.top_p);
    const double threshold = noise * std::accumulate(chances_.begin(), chances_.end(), 0.0);
    double sum = 0;
    int64_t last = 0;  // where rounding lets no sum exceed the threshold
    for (int64_t i = 0; i < count; ++i) {
      if (chances_[i] == 0) continue;
      sum += chances_[i];
      if (sum > threshold) return i;
      last = i;
    }
    return last;
  }

 private:
  // Of scores: the k highest and those that tie with the last of them.
  void keep_most_likely(int64_t k) {
    ordered_ = chances_;
    std::nth_element(ordered_.begin(), ordered_.begin() + k - 1, ordered_.end(), std::greater<>());
    const double least = ordered_[k - 1];
    for (double& score : chances_) {
      if (score < least) score = -std::numeric_limits<double>::infinity();
    }
  }

  // Of chances: the fewest that together hold this share.
  void keep_nucleus(double share) {
    order_.resize(chances_.size());
    std::iota(order_.begin(), order_.end(), 0);
    std::stable_sort(order_.begin(), order_.end(),
                     [this](int64_t a, int64_t b) { return chances_[a] > chances_[b]; });
    const double enough = share * std::accumulate(chances_.begin(), chances_.end(), 0.0);
    double before = 0;
    for (int64_t i : order_) {
      const double chance = chances_[i];
      if (before >= enough) chances_[i] = 0;
      before += chance;
    }
  }

  std::vector<double> chances_, ordered_;
  std::vector<int64_t> order_;
};

// The next codes of `count` rows from `first` on, but for shadows, which take that of their row.
// `logits` are those of row 0 and all that follow.
void choose(const Prior& prior, const Rows& rows, int64_t first, int64_t count, const float* logits) {
  Chooser chooser(prior.vocabulary);
  for (int64_t row = first; row < first + count; ++row) {
    const Choice& how = rows.choices[row];
    if (how.shadow == kIsShadow) continue;
    const bool guided = how.shadow != kNoShadow;
    const int64_t place = row * prior.length + rows.positions[row];
    const int64_t code =
        chooser.choose(logits + row * prior.vocabulary,
                       guided ? logits + how.shadow * prior.vocabulary : nullptr, how, rows.noise[place]);
    rows.codes[place] = code;
    ++rows.positions[row];
    if (guided) rows.codes[how.shadow * prior.length + rows.positions[how.shadow]++] = code;
  }
}

// Calls run(first row, number of rows) for parts of the rows, one part for each thread.
template <class Run>
void share_rows(int64_t rows, int64_t threads, Run run) {
  const int64_t tiles = (rows + kRows - 1) / kRows;  // no thread gets less than one
  threads = std::min(threads, tiles);
  if (threads <= 1) return run(0, rows);
  const int64_t share = (tiles + threads - 1) / threads * kRows;
  std::vector<std::thread> others;
  for (int64_t row = share; row < rows; row += share) {
    others.emplace_back(run, row, std::min(share, rows - row));
  }
  run(0, share);
  for (std::thread& other : others) other.join();
}

}  // namespace

extern "C" {

// A step of `count` rows from `first` on: fills the cache at their positions, writes logits [count][V]
// where they are not null, and draws a code for each where `chooses` is not 0 (`first` is 0 then).
void anytime_step(const Prior* prior, const Rows* rows, int64_t first, int64_t count, int64_t chooses,
                  float* logits, int64_t threads) {
  std::unique_ptr<float[]> own;
  if (chooses && !logits) {
    own.reset(new float[count * prior->vocabulary]);
    logits = own.get();
  }
  share_rows(count, threads, [=](int64_t row, int64_t part) {
    float* out = logits ? logits + row * prior->vocabulary : nullptr;
    if (prior->precision == kFloat32) {
      score<float>(*prior, *rows, first + row, part, out);
    } else {
      score<uint16_t>(*prior, *rows, first + row, part, out);
    }
  });
  if (!chooses) return;
  // Only now are the logits of all shadows there.
  share_rows(count, threads,
             [=](int64_t row, int64_t part) { choose(*prior, *rows, row, part, logits); });
}

// The matrix products of a complete draw for some rows and nothing else.
void anytime_multiply(const Prior* prior, int64_t rows, int64_t threads) {
  share_rows(rows, threads, [prior](int64_t, int64_t count) {
    const int64_t widest = std::max({prior->width, prior->attention, prior->hidden});
    const std::unique_ptr<float[]> x(new float[count * widest]());
    const std::unique_ptr<float[]> y(
        new float[count * std::max({3 * prior->attention, widest, prior->vocabulary})]);
    Workspace work(*prior, count);
    for (int64_t position = 0; position < prior->length; ++position) {
      for (int64_t layer = 0; layer < prior->layers; ++layer) {
        const Block& block = prior->blocks[layer];
        for (const Linear* map : {&block.qkv, &block.out, &block.up, &block.down}) {
          work.linear(*prior, *map, x.get(), count, After::kStore, y.get(), map->out);
        }
      }
      const Linear& scores = prior->scores[position];
      work.linear(*prior, scores, x.get(), count, After::kStore, y.get(), scores.out);
    }
  });
}

}  // extern "C"
