// One step of the prior for a batch of rows, each at a position of its own: the next code from the
// codes so far.
//
// One call does all of a step. Between its matrix products, a step of a small prior has hundreds of
// tiny operations, and calling each of them takes several times as long as its arithmetic.
//
// The order of every sum of a row depends on nothing but the row itself: products over the inner
// dimension are added one after the other. So a row's logits are the same to the last bit alone and
// in any batch, whatever the positions of the other rows. And rows can be split among threads that
// do not wait for one another.
//
// Letters: E width, A width of attention, L code length, V vocabulary (the largest one, if those of
// positions differ).

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "attention.h"
#include "sampling.h"
#include "abi.h"
#include "linear.h"
#include "simd.h"
#include "thread_pool.h"

namespace {

// Computes y as the layer norm of x.
void layer_norm(const Norm& norm, const float* x, int64_t width, float* y) {
  Vector sum = {};
  for (int64_t i = 0; i < width; i += kVectorLanes) {
    const Vector part = load_partial(x + i, width - i);
    sum = map_registers([&](auto j) { return sum.part[j] + part.part[j]; });
  }
  const float mean = reduce_add(sum) / width;
  Vector squares = {};
  for (int64_t i = 0; i < width; i += kVectorLanes) {
    const Vector part = load_partial(x + i, width - i, mean);
    squares = map_registers([&](auto j) {
      const Register off = part.part[j] - mean;
      return fma(off, off, squares.part[j]);
    });
  }
  const float scale = 1.0f / std::sqrt(reduce_add(squares) / width + norm.eps);
  int64_t i = 0;
  for (; i + kRegisterLanes <= width; i += kRegisterLanes) {
    const Register scaled = (load<Register>(x + i) - mean) * scale;
    const Register result =
        fma(scaled, load<Register>(norm.weight + i), load<Register>(norm.bias + i));
    std::memcpy(y + i, &result, sizeof result);
  }
  for (; i < width; ++i) y[i] = fma((x[i] - mean) * scale, norm.weight[i], norm.bias[i]);
}

// Returns the bytes of a row of inputs in any number format, rounded up to whole vectors.
int64_t row_bytes(int64_t in) { return 4 * ((in + kVectorLanes - 1) / kVectorLanes * kVectorLanes); }

// The working memory of one call, for its rows.
class Workspace {
 public:
  Workspace(const Prior& prior, int64_t rows)
      : x(new float[rows * prior.width]),
        normed(new float[rows * prior.width]),
        qkv(new float[rows * 3 * prior.attention]),
        attended(new float[rows * prior.attention]),
        hidden(new float[rows * prior.hidden]),
        chances(new float[prior.heads * ((prior.memory + prior.length + kVectorLanes - 1) / kVectorLanes * kVectorLanes)]()),
        converted_(
            new uint8_t[rows * row_bytes(std::max({prior.width, prior.attention, prior.hidden}))]),
        scales_(new float[rows]) {}

  // Computes y = map(x) for contiguous rows of x, in the prior's precision.
  void linear(const Prior& prior, const Linear& map, const float* x, int64_t rows, Epilogue after,
              float* y, int64_t stride) {
    if (prior.precision == kFloat32) {
      const Inputs inputs = {reinterpret_cast<const uint8_t*>(x), 4 * map.in, nullptr};
      return matmul<Float32>(map, inputs, rows, after, y, stride);
    }
    const int64_t wide = row_bytes(map.in);
    for (int64_t row = 0; row < rows; ++row) {
      uint8_t* to = converted_.get() + row * wide;
      if (prior.precision == kBfloat16) {
        Bfloat16::convert(x + row * map.in, map.in, to);
      } else {
        scales_[row] = Int8::convert(x + row * map.in, map.in, to);
      }
    }
    const Inputs inputs = {converted_.get(), wide, scales_.get()};
    if (prior.precision == kBfloat16) {
      return matmul<Bfloat16>(map, inputs, rows, after, y, stride);
    }
    matmul<Int8>(map, inputs, rows, after, y, stride);
  }

  std::unique_ptr<float[]> x, normed, qkv, attended, hidden, chances;

 private:
  std::unique_ptr<uint8_t[]> converted_;
  std::unique_ptr<float[]> scales_;
};

// Computes the input of the first block for a row.
void embed(const Prior& prior, const DecodeState& rows, int64_t row, float* x) {
  const int64_t position = rows.positions[row], width = prior.width;
  if (position == 0) {
    std::copy_n(rows.first_inputs + row * width, width, x);
    return;
  }
  const int64_t code = rows.codes[row * prior.length + position - 1];
  const float* entry = prior.entries + (prior.first_row[position - 1] + code) * width;
  const float* place = prior.positions + position * width;
  for (int64_t i = 0; i < width; ++i) x[i] = entry[i] + place[i];
  if (!rows.later_inputs) return;
  const float* added = rows.later_inputs + row * width;
  for (int64_t i = 0; i < width; ++i) x[i] += added[i];
}

// Writes keys and values of the rows from `first` on into the cache, and computes their logits
// [count][V], unless `logits` is null.
template <class CacheElement>
void score(const Prior& prior, const DecodeState& rows, int64_t first, int64_t count, float* logits) {
  const int64_t width = prior.width;
  const int64_t row_stride = 2 * prior.attention * (prior.memory + prior.length);
  const int64_t* positions = rows.positions + first;
  Workspace work(prior, count);
  float* x = work.x.get();
  for (int64_t row = 0; row < count; ++row) embed(prior, rows, first + row, x + row * width);
  for (int64_t layer = 0; layer < prior.layers; ++layer) {
    const Block& block = prior.blocks[layer];
    CacheElement* stored =
        static_cast<CacheElement*>(rows.cache) + layer * rows.layer_stride + first * row_stride;
    for (int64_t row = 0; row < count; ++row) {
      layer_norm(block.norm1, x + row * width, width, work.normed.get() + row * width);
    }
    work.linear(prior, block.qkv, work.normed.get(), count, Epilogue::kStore, work.qkv.get(),
                3 * prior.attention);
    for (int64_t row = 0; row < count; ++row) {
      const CacheElement* after =
          row + 1 < count ? stored + (row + 1) * row_stride : stored + rows.layer_stride;
      attend(prior, work.qkv.get() + row * 3 * prior.attention, prior.memory + positions[row],
             stored + row * row_stride, after, work.chances.get(),
             work.attended.get() + row * prior.attention);
    }
    work.linear(prior, block.out, work.attended.get(), count, Epilogue::kAdd, x, width);
    for (int64_t row = 0; row < count; ++row) {
      layer_norm(block.norm2, x + row * width, width, work.normed.get() + row * width);
    }
    work.linear(prior, block.up, work.normed.get(), count, Epilogue::kGelu, work.hidden.get(),
                prior.hidden);
    work.linear(prior, block.down, work.hidden.get(), count, Epilogue::kAdd, x, width);
  }
  if (!logits) return;
  for (int64_t row = 0; row < count; ++row) {
    layer_norm(prior.norm, x + row * width, width, work.normed.get() + row * width);
  }
  for (int64_t row = 0; row < count;) {  // each position has a linear map of its own
    int64_t end = row + 1;
    while (end < count && positions[end] == positions[row]) ++end;
    work.linear(prior, prior.scores[positions[row]], work.normed.get() + row * width, end - row,
                Epilogue::kStore, logits + row * prior.vocabulary, prior.vocabulary);
    row = end;
  }
}

// Samples the next codes of `count` rows from `first` on. Unconditional rows get the code of their
// guided row. `logits` are those of all rows, from row 0 on.
void sample_codes(const Prior& prior, const DecodeState& rows, int64_t first, int64_t count,
            const float* logits) {
  CodeSampler chooser(prior.vocabulary);
  std::vector<Unconditional> unconditional;
  for (int64_t row = first; row < first + count; ++row) {
    const RowSamplingParams& how = rows.sampling_params[row];
    if (how.unconditional_slot == kIsUnconditional) continue;
    unconditional.clear();
    for (int64_t slot = how.unconditional_slot; slot >= 0; slot = rows.sampling_params[slot].next_slot) {
      unconditional.push_back({logits + slot * prior.vocabulary,
                               static_cast<float>(rows.sampling_params[slot].guidance)});
    }
    const int64_t place = row * prior.length + rows.positions[row];
    const int64_t code = chooser.sample(logits + row * prior.vocabulary, unconditional,
                                        prior.scores[rows.positions[row]].out, how, rows.noise[place]);
    rows.codes[place] = code;
    ++rows.positions[row];
    for (int64_t slot = how.unconditional_slot; slot >= 0; slot = rows.sampling_params[slot].next_slot) {
      rows.codes[slot * prior.length + rows.positions[slot]++] = code;
    }
  }
}

}  // namespace

extern "C" {

// Returns how to pack weights: outputs of a panel, and inputs of a group for bfloat16 and int8.
void anytime_packing(int64_t* layout) {
  layout[0] = kPanel;
  layout[1] = Bfloat16::kGroup;
  layout[2] = Int8::kGroup;
}

// Returns the sizes of the structs in abi.h, in bytes and in their order there. Callers compare
// them with their own.
void anytime_struct_sizes(int64_t* sizes) {
  for (const int64_t size :
       {sizeof(Linear), sizeof(Norm), sizeof(Block), sizeof(Prior), sizeof(RowSamplingParams), sizeof(DecodeState),
        sizeof(ResidualBlock), sizeof(Stage), sizeof(ImageDecoder)}) {
    *sizes++ = size;
  }
}

// Runs a step of `count` rows from `first` on: fills the cache at their positions, and writes
// logits [count][V] unless `logits` is null. If `sample` is not 0, it samples a code for each row;
// `first` is 0 then. Returns a Status.
int64_t anytime_prior_step(const Prior* prior, const DecodeState* rows, int64_t first, int64_t count,
                     int64_t sample, float* logits, int64_t threads) {
  return catch_bad_alloc([=] {
    std::unique_ptr<float[]> own;
    float* scores = logits;
    if (sample && !scores) {
      own.reset(new float[count * prior->vocabulary]);
      scores = own.get();
    }
    parallel_for_rows(count, threads, [=](int64_t row, int64_t part) {
      float* out = scores ? scores + row * prior->vocabulary : nullptr;
      if (prior->precision == kFloat32) {
        score<float>(*prior, *rows, first + row, part, out);
      } else {
        score<uint16_t>(*prior, *rows, first + row, part, out);
      }
    });
    if (!sample) return;
    // Sampling needs the logits of all unconditional rows, so it starts after all threads are done.
    parallel_for_rows(count, threads,
               [=](int64_t row, int64_t part) { sample_codes(*prior, *rows, row, part, scores); });
  });
}

// Computes only the matrix products of complete sequences, for `rows` rows. Returns a Status.
int64_t anytime_matmul_only(const Prior* prior, int64_t rows, int64_t threads) {
  return catch_bad_alloc([=] {
    parallel_for_rows(rows, threads, [prior](int64_t, int64_t count) {
      const int64_t widest = std::max({prior->width, prior->attention, prior->hidden});
      const std::unique_ptr<float[]> x(new float[count * widest]());
      const std::unique_ptr<float[]> y(
          new float[count * std::max({3 * prior->attention, widest, prior->vocabulary})]);
      Workspace work(*prior, count);
      for (int64_t position = 0; position < prior->length; ++position) {
        for (int64_t layer = 0; layer < prior->layers; ++layer) {
          const Block& block = prior->blocks[layer];
          for (const Linear* map : {&block.qkv, &block.out, &block.up, &block.down}) {
            work.linear(*prior, *map, x.get(), count, Epilogue::kStore, y.get(), map->out);
          }
        }
        const Linear& scores = prior->scores[position];
        work.linear(*prior, scores, x.get(), count, Epilogue::kStore, y.get(), scores.out);
      }
    });
  });
}

}  // extern "C"
