// Run the kernel on random weights and print a digest of what each function computes, so that
// builds for different instruction sets and by different compilers can be compared.
//
// The random numbers come from integers alone: nothing here depends on a mathematical library.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <vector>

#include "abi.h"

extern "C" {
void anytime_packing(int64_t*);
int64_t anytime_prior_step(const Prior*, const DecodeState*, int64_t, int64_t, int64_t, float*, int64_t);
int64_t anytime_decode_images(const ImageDecoder*, const int64_t*, int64_t, int64_t, float*, int64_t);
}

namespace {

class Random {
 public:
  uint32_t bit_cast() {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<uint32_t>(state_ >> 32);
  }
  int64_t below(int64_t count) { return bit_cast() % count; }
  float number(float size) {  // in [-size, size), exact where size is a power of two
    return (static_cast<int32_t>(bit_cast() >> 8) - 8388608) * (size / 8388608.0f);
  }

 private:
  uint64_t state_ = 1;
};

class Digest {  // FNV-1a
 public:
  template <class T>
  void add(const T* data, size_t count) {
    const auto* bytes = reinterpret_cast<const uint8_t*>(data);
    for (size_t i = 0; i < count * sizeof(T); ++i) value_ = (value_ ^ bytes[i]) * 1099511628211u;
    for (size_t i = 0; i < count; ++i) {
      if (data[i] - data[i] != 0) std::exit(1);  // NaN or infinite, which would hide differences
    }
  }
  unsigned long long value() const { return value_; }

 private:
  uint64_t value_ = 14695981039346656037u;
};

// Random weights, which live as long as this object.
class Weights {
 public:
  explicit Weights(Precision precision) : precision_(precision) {}

  template <class T>
  T* room(int64_t count) {
    held_.emplace_back(count * sizeof(T) + 64);
    auto address = reinterpret_cast<uintptr_t>(held_.back().data());
    return reinterpret_cast<T*>((address + 63) / 64 * 64);
  }

  const float* numbers(int64_t count, float size, float offset = 0) {
    float* to = room<float>(count);
    for (int64_t i = 0; i < count; ++i) to[i] = offset + random.number(size);
    return to;
  }

  // Weights of about 1 / sqrt(in), zeros where panels are filled up.
  Linear linear(int64_t in, int64_t out) {
    int64_t layout[3];
    anytime_packing(layout);
    const int64_t panel = layout[0], group = precision_ == kFloat32 ? 1 : layout[precision_];
    const int64_t padded = (in + group - 1) / group * group;
    const int64_t wide = (out + panel - 1) / panel * panel;
    float size = 1;
    while (size * size * in > 2) size /= 2;
    auto* floats = room<float>(padded * wide);
    auto* halves = room<uint16_t>(padded * wide);
    auto* bytes = room<int8_t>(padded * wide);
    auto* sums = room<int32_t>(wide);
    auto* scale = room<float>(wide);
    auto* bias = room<float>(wide);
    for (int64_t o = 0; o < out; ++o) {
      for (int64_t i = 0; i < in; ++i) {
        const int64_t place =
            ((o / panel * (padded / group) + i / group) * panel + o % panel) * group + i % group;
        floats[place] = random.number(size);
        uint32_t word;
        std::memcpy(&word, floats + place, sizeof word);
        halves[place] = static_cast<uint16_t>(word >> 16);
        bytes[place] = static_cast<int8_t>(random.below(255) - 127);
        sums[o] += bytes[place];
      }
      scale[o] = size / 127;
      bias[o] = random.number(0.125f);
    }
    const void* weight = floats;
    if (precision_ == kBfloat16) weight = halves;
    if (precision_ == kInt8) weight = bytes;
    const bool scaled = precision_ == kInt8;
    return {weight, bias, scaled ? scale : nullptr, scaled ? sums : nullptr, in, out};
  }

  Norm norm(int64_t width) { return {numbers(width, 0.25f, 1), numbers(width, 0.125f), 1e-5f}; }

  Random random;

 private:
  Precision precision_;
  std::deque<std::vector<uint8_t>> held_;
};

// Steps of rows with all ways to choose a code, two of them with a shadow.
unsigned long long step(Precision precision) {
  constexpr int64_t kLayers = 2, kRegisterLanes = 48, kAttention = 64, kHidden = 100, kLength = 20;
  constexpr int64_t kVocabulary = 37, kLabels = 4, kRows = 11;
  Weights weights(precision);
  std::vector<Block> blocks;
  for (int64_t layer = 0; layer < kLayers; ++layer) {
    blocks.push_back({weights.norm(kRegisterLanes), weights.linear(kRegisterLanes, 3 * kAttention),
                      weights.linear(kAttention, kRegisterLanes), weights.norm(kRegisterLanes),
                      weights.linear(kRegisterLanes, kHidden), weights.linear(kHidden, kRegisterLanes)});
  }
  std::vector<Linear> scores;
  auto* first_row = weights.room<int64_t>(kLength);
  for (int64_t i = 0; i < kLength; ++i) {
    scores.push_back(weights.linear(kRegisterLanes, kVocabulary));
    first_row[i] = i % 2 * kVocabulary;
  }
  Prior prior = {};
  prior.layers = kLayers, prior.width = kRegisterLanes, prior.heads = 2, prior.attention = kAttention;
  prior.hidden = kHidden, prior.length = kLength, prior.vocabulary = kVocabulary;
  prior.precision = precision;
  prior.first = weights.numbers(kLabels * kRegisterLanes, 1);
  prior.entries = weights.numbers(2 * kVocabulary * kRegisterLanes, 1);
  prior.first_row = first_row;
  prior.positions = weights.numbers(kLength * kRegisterLanes, 1);
  prior.added_label_embeddings = weights.numbers(kLabels * kRegisterLanes, 1);
  prior.blocks = blocks.data();
  prior.norm = weights.norm(kRegisterLanes);
  prior.scores = scores.data();

  auto* choices = weights.room<RowSamplingParams>(kRows);
  auto* noise = weights.room<double>(kRows * kLength);
  auto* labels = weights.room<int64_t>(kRows);
  for (int64_t row = 0; row < kRows; ++row) {
    choices[row] = {row == 3   ? 0.0
                    : row == 4 ? 0.75
                               : 1.0,
                    row % 3 == 1 ? 0.5 : 1.0, 1.0, row % 4 == 2 ? 5 : 0, kNoUnconditional};
    labels[row] = row % kLabels;
  }
  for (int64_t row : {0, 5}) {
    choices[row].guidance = 1.5, choices[row].unconditional_slot = row + 1;
    choices[row + 1].unconditional_slot = kIsUnconditional;
  }
  for (int64_t i = 0; i < kRows * kLength; ++i) noise[i] = weights.random.bit_cast() / 4294967296.0;
  DecodeState rows = {};
  rows.cache = weights.room<float>(kLayers * kRows * 2 * kAttention * kLength);
  rows.layer_stride = kRows * 2 * kAttention * kLength;
  rows.labels = labels, rows.noise = noise, rows.sampling_params = choices;
  rows.codes = weights.room<int64_t>(kRows * kLength);
  rows.positions = weights.room<int64_t>(kRows);

  Digest digest;
  std::vector<float> logits(kRows * kVocabulary);
  for (int64_t position = 0; position < kLength; ++position) {
    anytime_prior_step(&prior, &rows, 0, kRows, 1, logits.data(), 1 + position % 2);
    digest.add(logits.data(), logits.size());
  }
  digest.add(rows.codes, kRows * kLength);
  return digest.value();
}

unsigned long long decode() {
  constexpr int64_t kLength = 8, kRegisterLanes = 6, kVocabulary = 16, kFeatures = 20, kSide = 4;
  constexpr int64_t kRows = 5, kPatch = 2, kChannel = 3;
  Weights weights(kFloat32);
  std::vector<ResidualBlock> blocks;
  for (int64_t width : {24, 16}) {
    blocks.push_back({weights.linear(9 * width, 12), weights.linear(12, width)});
  }
  std::vector<Stage> stages = {{&blocks[0], 1, 24, weights.linear(24, 4 * 16)},
                               {&blocks[1], 1, 16, Linear{}}};
  ImageDecoder decoder = {};
  decoder.code_length = kLength, decoder.code_width = kRegisterLanes, decoder.vocabulary = kVocabulary;
  decoder.layout = kProjection;
  decoder.entries = weights.numbers(kLength * kVocabulary * kRegisterLanes, 1);
  decoder.fill = weights.numbers(kLength * kRegisterLanes, 1);
  decoder.linear = weights.linear(kLength * kRegisterLanes, kSide * kSide * kFeatures);
  decoder.mlp_in = weights.linear(kLength * kRegisterLanes, 40);
  decoder.mlp_out = weights.linear(40, kSide * kSide * kFeatures);
  decoder.features = kFeatures, decoder.side = kSide;
  decoder.first = weights.linear(9 * kFeatures, 24);
  decoder.stage = stages.data(), decoder.stages = 2;
  decoder.last = weights.linear(9 * 16, kChannel * kPatch * kPatch);
  decoder.patch = kPatch;

  Digest digest;
  for (int64_t kept = 1; kept <= kLength; ++kept) {
    std::vector<int64_t> codes(kRows * kept);
    for (int64_t& code : codes) code = weights.random.below(kVocabulary);
    std::vector<float> pixels(kRows * kChannel * 4 * kSide * kSide * kPatch * kPatch);
    if (anytime_decode_images(&decoder, codes.data(), kRows, kept, pixels.data(), 1 + kept % 2)) return 0;
    digest.add(pixels.data(), pixels.size());
  }
  return digest.value();
}

}  // namespace

int main() {
  std::printf("step-float32 %016llx\n", step(kFloat32));
  std::printf("step-bfloat16 %016llx\n", step(kBfloat16));
  std::printf("step-int8 %016llx\n", step(kInt8));
  std::printf("decode-float32 %016llx\n", decode());
}
