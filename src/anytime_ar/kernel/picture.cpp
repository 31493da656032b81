// Decoding of codes to images, as in `OrderedAutoencoder.decode`: codebook entries, a map to
// features, and convolutions.
//
// One call decodes all images, one after the other. The arithmetic of a small image takes a
// fraction of a millisecond. In a framework, dispatching the operations takes longer than that, and
// their code no longer fits into the caches after sampling. Maps are stored as
// [side][side][channels].

#include <algorithm>
#include <cstdint>
#include <memory>

#include "layout.h"
#include "linear.h"
#include "threads.h"

namespace {

int64_t squared(int64_t x) { return x * x; }

// Computes y = map(x) for rows of x.
void multiply(const Linear& map, const float* x, int64_t rows, After after, float* y) {
  const Inputs inputs = {reinterpret_cast<const uint8_t*>(x), 4 * map.in, nullptr};
  apply<Float32>(map, inputs, rows, after, y, map.out);
}

// Computes y = relu(x).
void rectify(const float* x, int64_t count, float* y) {
  for (int64_t i = 0; i < count; ++i) y[i] = x[i] > 0 ? x[i] : 0;
}

// The memory for the feature maps of one image.
struct Maps {
  explicit Maps(const Decoder& decoder) {
    int64_t side = decoder.side, map = squared(side) * decoder.features, around = 9 * map;
    for (int64_t stage = 0; stage < decoder.stages; ++stage) {
      const int64_t width = decoder.stage[stage].width;
      map = std::max(map, squared(side) * width);
      around = std::max(around, 9 * squared(side) * width);
      if (stage + 1 < decoder.stages) {
        map = std::max(map, squared(side) * decoder.stage[stage].up.out);
        side *= 2;
      }
    }
    map = std::max(map, squared(side) * decoder.last.out);
    x.reset(new float[map]), y.reset(new float[map]), neighbours.reset(new float[around]);
  }

  std::unique_ptr<float[]> x, y, neighbours;
};

// Copies the 3x3 neighbourhood of every position to [side²][9][channels] (im2col), with zeros
// beyond the border.
void gather_neighbours(const float* x, int64_t side, int64_t channels, float* to) {
  for (int64_t row = 0; row < side; ++row) {
    for (int64_t column = 0; column < side; ++column) {
      for (int64_t up = row - 1; up <= row + 1; ++up, to += 3 * channels) {
        if (up < 0 || up >= side) {
          std::fill_n(to, 3 * channels, 0.0f);
          continue;
        }
        const bool left = column == 0, right = column + 1 == side;  // columns beyond the border
        std::fill_n(to, left * channels, 0.0f);
        std::copy_n(x + (up * side + column - 1 + left) * channels, (3 - left - right) * channels,
                    to + left * channels);
        std::fill_n(to + (3 - right) * channels, right * channels, 0.0f);
      }
    }
  }
}

// Adds a residual block to maps.x: x + mix(relu(spread(relu(x)))).
void add_residual(const Residual& block, int64_t side, int64_t width, Maps& maps) {
  rectify(maps.x.get(), squared(side) * width, maps.y.get());
  gather_neighbours(maps.y.get(), side, width, maps.neighbours.get());
  multiply(block.spread, maps.neighbours.get(), squared(side), After::kRelu, maps.y.get());
  multiply(block.mix, maps.y.get(), squared(side), After::kAdd, maps.x.get());
}

// Doubles the side by a pixel shuffle: each position's outputs [2][2][channels] become four
// positions.
void double_side(const Linear& up, int64_t side, Maps& maps) {
  const int64_t channels = up.out / 4;
  multiply(up, maps.x.get(), squared(side), After::kStore, maps.y.get());
  const float* from = maps.y.get();
  for (int64_t position = 0; position < squared(side); ++position) {
    for (int64_t corner = 0; corner < 4; ++corner, from += channels) {
      const int64_t row = 2 * (position / side) + corner / 2;
      const int64_t column = 2 * (position % side) + corner % 2;
      std::copy_n(from, channels, maps.x.get() + (row * 2 * side + column) * channels);
    }
  }
}

// Decodes features [side][side][F] to pixels [channels][side * stride][side * stride] in [-1, 1].
void paint(const Decoder& decoder, const float* features, Maps& maps, float* pixels) {
  int64_t side = decoder.side;
  gather_neighbours(features, side, decoder.features, maps.neighbours.get());
  multiply(decoder.first, maps.neighbours.get(), squared(side), After::kStore, maps.x.get());
  for (int64_t stage = 0; stage < decoder.stages; ++stage) {
    const Stage& here = decoder.stage[stage];
    for (int64_t block = 0; block < here.blocks; ++block) {
      add_residual(here.block[block], side, here.width, maps);
    }
    if (stage + 1 < decoder.stages) {
      double_side(here.up, side, maps);
      side *= 2;
    }
  }
  const int64_t width = decoder.stage[decoder.stages - 1].width, patch = decoder.patch;
  rectify(maps.x.get(), squared(side) * width, maps.y.get());
  gather_neighbours(maps.y.get(), side, width, maps.neighbours.get());
  multiply(decoder.last, maps.neighbours.get(), squared(side), After::kStore, maps.y.get());
  const float* from = maps.y.get();
  for (int64_t position = 0; position < squared(side); ++position) {
    const int64_t top = position / side * patch, left = position % side * patch;
    for (int64_t out = 0; out < decoder.last.out; ++out, ++from) {
      const int64_t channel = out / squared(patch), place = out % squared(patch);
      const int64_t row = channel * side * patch + top + place / patch;
      pixels[row * side * patch + left + place % patch] = std::min(std::max(*from, -1.0f), 1.0f);
    }
  }
}

// Looks up the code vectors [L][D] of one row: codebook entries of the first `kept` codes, then
// fill.
void look_up(const Decoder& decoder, const int64_t* codes, int64_t kept, float* vectors) {
  const int64_t width = decoder.code_width;
  for (int64_t i = 0; i < decoder.code_length; ++i, vectors += width) {
    const float* from = i < kept ? decoder.entries + (i * decoder.vocabulary + codes[i]) * width
                                 : decoder.fill + i * width;
    std::copy_n(from, width, vectors);
  }
}

// Converts code vectors [rows][L][D] to features [rows][side²][F].
void to_features(const Decoder& decoder, const float* vectors, int64_t rows, float* features) {
  const int64_t all = squared(decoder.side) * decoder.features;
  if (decoder.layout == kVectors) {
    multiply(decoder.line, vectors, rows, After::kStore, features);
    if (decoder.bend.weight == nullptr) return;
    const std::unique_ptr<float[]> hidden(new float[rows * decoder.bend.out]);
    multiply(decoder.bend, vectors, rows, After::kRelu, hidden.get());
    multiply(decoder.unbend, hidden.get(), rows, After::kAdd, features);
  } else if (decoder.layout == kPositions) {
    std::copy_n(vectors, rows * all, features);
  } else if (decoder.layout == kSums) {
    std::fill_n(features, rows * all, 0.0f);
    for (int64_t row = 0; row < rows; ++row, features += all) {
      for (int64_t i = 0; i < decoder.code_length; ++i, vectors += decoder.features) {
        float* sum = features + decoder.places[i % squared(decoder.side)] * decoder.features;
        for (int64_t j = 0; j < decoder.features; ++j) sum[j] += vectors[j];
      }
    }
  } else {
    for (int64_t row = 0; row < rows; ++row, vectors += all, features += all) {
      for (int64_t i = 0; i < all; ++i) {
        features[i] = vectors[i % decoder.features * squared(decoder.side) + i / decoder.features];
      }
    }
  }
}

}  // namespace

extern "C" {

// Decodes the first `kept` codes of each row, [rows][kept], to images
// [rows][channels][height][width]. Returns a Status. If a code is outside the vocabulary it is
// kUnknownCode, and nothing is written.
int64_t anytime_decode(const Decoder* decoder, const int64_t* codes, int64_t rows, int64_t kept,
                       float* pixels, int64_t threads) {
  for (int64_t i = 0; i < rows * kept; ++i) {
    if (codes[i] < 0 || codes[i] >= decoder->vocabulary) return kUnknownCode;
  }
  const int64_t flat = decoder->code_length * decoder->code_width;
  const int64_t all = squared(decoder->side) * decoder->features;
  const int64_t size = squared(decoder->side << (decoder->stages - 1)) * decoder->last.out;
  return report([=] {
    share_rows(rows, threads, [=](int64_t first, int64_t count) {
      const std::unique_ptr<float[]> vectors(new float[count * flat]),
          features(new float[count * all]);
      for (int64_t row = 0; row < count; ++row) {
        look_up(*decoder, codes + (first + row) * kept, kept, vectors.get() + row * flat);
      }
      to_features(*decoder, vectors.get(), count, features.get());
      Maps maps(*decoder);
      for (int64_t row = 0; row < count; ++row) {
        paint(*decoder, features.get() + row * all, maps, pixels + (first + row) * size);
      }
    });
  });
}

}  // extern "C"
