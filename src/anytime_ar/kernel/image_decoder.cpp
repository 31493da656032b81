// Decoding of codes to images, as in `OrderedAutoencoder.decode`: codebook entries, a map to
// features, and convolutions.
//
// One call decodes all images, one after the other. The arithmetic of a small image takes a
// fraction of a millisecond. In a framework, dispatching the operations takes longer than that, and
// their code no longer fits into the caches after sampling. Maps are stored as
// [height][width][channels].

#include <algorithm>
#include <cstdint>
#include <memory>

#include "abi.h"
#include "linear.h"
#include "thread_pool.h"

namespace {

// The sides of a feature map, in positions.
struct Sides {
  int64_t height, width;
  int64_t area() const { return height * width; }
  Sides doubled() const { return {2 * height, 2 * width}; }
};

// Computes y = map(x) for rows of x.
void linear(const Linear& map, const float* x, int64_t rows, Epilogue after, float* y) {
  const Inputs inputs = {reinterpret_cast<const uint8_t*>(x), 4 * map.in, nullptr};
  matmul<Float32>(map, inputs, rows, after, y, map.out);
}

// Computes y = relu(x).
void relu(const float* x, int64_t count, float* y) {
  for (int64_t i = 0; i < count; ++i) y[i] = x[i] > 0 ? x[i] : 0;
}

// The memory for the feature maps of one image.
struct FeatureMaps {
  explicit FeatureMaps(const ImageDecoder& decoder) {
    Sides sides = {decoder.height, decoder.width};
    int64_t map = sides.area() * decoder.features, around = 9 * map;
    for (int64_t stage = 0; stage < decoder.stages; ++stage) {
      const int64_t width = decoder.stage[stage].width;
      map = std::max(map, sides.area() * width);
      around = std::max(around, 9 * sides.area() * width);
      if (stage + 1 < decoder.stages) {
        map = std::max(map, sides.area() * decoder.stage[stage].up.out);
        sides = sides.doubled();
      }
    }
    map = std::max(map, sides.area() * decoder.last.out);
    x.reset(new float[map]), y.reset(new float[map]), neighbours.reset(new float[around]);
  }

  std::unique_ptr<float[]> x, y, neighbours;
};

// Copies the 3x3 neighbourhood of every position to [height * width][9][channels] (im2col), with zeros
// beyond the border.
void im2col_3x3(const float* x, Sides sides, int64_t channels, float* to) {
  for (int64_t row = 0; row < sides.height; ++row) {
    for (int64_t column = 0; column < sides.width; ++column) {
      for (int64_t up = row - 1; up <= row + 1; ++up, to += 3 * channels) {
        if (up < 0 || up >= sides.height) {
          std::fill_n(to, 3 * channels, 0.0f);
          continue;
        }
        const bool left = column == 0, right = column + 1 == sides.width;  // columns beyond the border
        std::fill_n(to, left * channels, 0.0f);
        std::copy_n(x + (up * sides.width + column - 1 + left) * channels, (3 - left - right) * channels,
                    to + left * channels);
        std::fill_n(to + (3 - right) * channels, right * channels, 0.0f);
      }
    }
  }
}

// Adds a residual block to maps.x: x + conv2(relu(conv1(relu(x)))).
void residual_block(const ResidualBlock& block, Sides sides, int64_t width, FeatureMaps& maps) {
  relu(maps.x.get(), sides.area() * width, maps.y.get());
  im2col_3x3(maps.y.get(), sides, width, maps.neighbours.get());
  linear(block.conv1, maps.neighbours.get(), sides.area(), Epilogue::kRelu, maps.y.get());
  linear(block.conv2, maps.y.get(), sides.area(), Epilogue::kAdd, maps.x.get());
}

// Doubles the sides by a pixel shuffle: each position's outputs [2][2][channels] become four
// positions.
void pixel_shuffle_upsample(const Linear& up, Sides sides, FeatureMaps& maps) {
  const int64_t channels = up.out / 4;
  linear(up, maps.x.get(), sides.area(), Epilogue::kStore, maps.y.get());
  const float* from = maps.y.get();
  for (int64_t position = 0; position < sides.area(); ++position) {
    for (int64_t corner = 0; corner < 4; ++corner, from += channels) {
      const int64_t row = 2 * (position / sides.width) + corner / 2;
      const int64_t column = 2 * (position % sides.width) + corner % 2;
      std::copy_n(from, channels, maps.x.get() + (row * 2 * sides.width + column) * channels);
    }
  }
}

// Decodes features [height][width][F] to pixels [channels][height * stride][width * stride] in
// [-1, 1].
void decode_features(const ImageDecoder& decoder, const float* features, FeatureMaps& maps, float* pixels) {
  Sides sides = {decoder.height, decoder.width};
  im2col_3x3(features, sides, decoder.features, maps.neighbours.get());
  linear(decoder.first, maps.neighbours.get(), sides.area(), Epilogue::kStore, maps.x.get());
  for (int64_t stage = 0; stage < decoder.stages; ++stage) {
    const Stage& here = decoder.stage[stage];
    for (int64_t block = 0; block < here.blocks; ++block) {
      residual_block(here.block[block], sides, here.width, maps);
    }
    if (stage + 1 < decoder.stages) {
      pixel_shuffle_upsample(here.up, sides, maps);
      sides = sides.doubled();
    }
  }
  const int64_t width = decoder.stage[decoder.stages - 1].width, patch = decoder.patch;
  relu(maps.x.get(), sides.area() * width, maps.y.get());
  im2col_3x3(maps.y.get(), sides, width, maps.neighbours.get());
  linear(decoder.last, maps.neighbours.get(), sides.area(), Epilogue::kStore, maps.y.get());
  const float* from = maps.y.get();
  for (int64_t position = 0; position < sides.area(); ++position) {
    const int64_t top = position / sides.width * patch, left = position % sides.width * patch;
    for (int64_t out = 0; out < decoder.last.out; ++out, ++from) {
      const int64_t channel = out / (patch * patch), place = out % (patch * patch);
      const int64_t row = channel * sides.height * patch + top + place / patch;
      pixels[row * sides.width * patch + left + place % patch] = std::min(std::max(*from, -1.0f), 1.0f);
    }
  }
}

// Looks up the code vectors [L][D] of one row: codebook entries of the first `kept` codes, then
// fill.
void lookup_codes(const ImageDecoder& decoder, const int64_t* codes, int64_t kept, float* vectors) {
  const int64_t width = decoder.code_width;
  for (int64_t i = 0; i < decoder.code_length; ++i, vectors += width) {
    const float* from = i < kept ? decoder.entries + (i * decoder.vocabulary + codes[i]) * width
                                 : decoder.fill + i * width;
    std::copy_n(from, width, vectors);
  }
}

// Converts code vectors [rows][L][D] to features [rows][height * width][F].
void to_features(const ImageDecoder& decoder, const float* vectors, int64_t rows, float* features) {
  const int64_t positions = decoder.height * decoder.width, all = positions * decoder.features;
  if (decoder.layout == kProjection) {
    linear(decoder.linear, vectors, rows, Epilogue::kStore, features);
    if (decoder.mlp_in.weight == nullptr) return;
    const std::unique_ptr<float[]> hidden(new float[rows * decoder.mlp_in.out]);
    linear(decoder.mlp_in, vectors, rows, Epilogue::kRelu, hidden.get());
    linear(decoder.mlp_out, hidden.get(), rows, Epilogue::kAdd, features);
  } else if (decoder.layout == kSpatial) {
    std::copy_n(vectors, rows * all, features);
  } else if (decoder.layout == kResidualVq) {
    std::fill_n(features, rows * all, 0.0f);
    for (int64_t row = 0; row < rows; ++row, features += all) {
      for (int64_t i = 0; i < decoder.code_length; ++i, vectors += decoder.features) {
        float* sum = features + decoder.permutation[i % positions] * decoder.features;
        for (int64_t j = 0; j < decoder.features; ++j) sum[j] += vectors[j];
      }
    }
  } else {
    for (int64_t row = 0; row < rows; ++row, vectors += all, features += all) {
      for (int64_t i = 0; i < all; ++i) {
        features[i] = vectors[i % decoder.features * positions + i / decoder.features];
      }
    }
  }
}

}  // namespace

extern "C" {

// Decodes the first `kept` codes of each row, [rows][kept], to images
// [rows][channels][height][width]. Returns a Status. If a code is outside the vocabulary it is
// kUnknownCode, and nothing is written.
int64_t anytime_decode_images(const ImageDecoder* decoder, const int64_t* codes, int64_t rows, int64_t kept,
                       float* pixels, int64_t threads) {
  for (int64_t i = 0; i < rows * kept; ++i) {
    if (codes[i] < 0 || codes[i] >= decoder->vocabulary) return kUnknownCode;
  }
  const int64_t flat = decoder->code_length * decoder->code_width;
  const int64_t positions = decoder->height * decoder->width, all = positions * decoder->features;
  const int64_t size = (positions << 2 * (decoder->stages - 1)) * decoder->last.out;
  return catch_bad_alloc([=] {
    parallel_for_rows(rows, threads, [=](int64_t first, int64_t count) {
      const std::unique_ptr<float[]> vectors(new float[count * flat]),
          features(new float[count * all]);
      for (int64_t row = 0; row < count; ++row) {
        lookup_codes(*decoder, codes + (first + row) * kept, kept, vectors.get() + row * flat);
      }
      to_features(*decoder, vectors.get(), count, features.get());
      FeatureMaps maps(*decoder);
      for (int64_t row = 0; row < count; ++row) {
        decode_features(*decoder, features.get() + row * all, maps, pixels + (first + row) * size);
      }
    });
  });
}

}  // extern "C"
