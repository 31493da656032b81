// Sampling of a code from logits.
#pragma once

#include <algorithm>
#include <cstring>
#include <functional>
#include <limits>
#include <numeric>
#include <vector>

#include "abi.h"
#include "simd.h"

namespace {

// The logits of an unconditional row of classifier-free guidance, and the scale of moving away from
// them.
struct Unconditional {
  const float* logits;
  float guidance;
};

// Samples codes from logits by inverting the cumulative distribution, in float64.
class CodeSampler {
 public:
  explicit CodeSampler(int64_t vocabulary) { probabilities_.reserve(vocabulary); }

  // Samples one of `count` codes. `unconditional` are the rows of classifier-free guidance, if any.
  // `noise` in [0, 1) decides the code.
  int64_t sample(const float* logits, const std::vector<Unconditional>& unconditional, int64_t count,
                 const RowSamplingParams& how, double noise) {
    probabilities_.resize(count);
    for (int64_t i = 0; i < count; ++i) {
      float score = logits[i];
      for (size_t j = 0; j < unconditional.size(); ++j) {
        const auto& [without, guidance] = unconditional[j];
        score = j == 0 ? fma(guidance, logits[i] - without[i], without[i])
                       : fma(guidance - 1, logits[i] - without[i], score);
      }
      probabilities_[i] = score;
    }
    if (how.temperature == 0) {
      return std::max_element(probabilities_.begin(), probabilities_.end()) - probabilities_.begin();
    }
    if (how.temperature != 1) {
      for (double& score : probabilities_) score /= how.temperature;
    }
    if (how.top_k > 0 && how.top_k < count) keep_top_k(how.top_k);
    const double most = *std::max_element(probabilities_.begin(), probabilities_.end());
    exponentiate(most);
    if (how.top_p < 1) keep_top_p(how.top_p);
    const double threshold = noise * std::accumulate(probabilities_.begin(), probabilities_.end(), 0.0);
    double sum = 0;
    int64_t last = 0;  // if no sum exceeds the threshold because of rounding
    for (int64_t i = 0; i < count; ++i) {
      if (probabilities_[i] == 0) continue;
      sum += probabilities_[i];
      if (sum > threshold) return i;
      last = i;
    }
    return last;
  }

 private:
  // Replaces scores by the exponentials of their distance to the highest one, `most`.
  void exponentiate(double most) {
    constexpr int64_t kVectorLanes = sizeof(Doubles) / sizeof(double);
    const int64_t count = static_cast<int64_t>(probabilities_.size());
    int64_t i = 0;
    for (; i + kVectorLanes <= count; i += kVectorLanes) {
      const Doubles chance = exp(load<Doubles>(&probabilities_[i]) - most);
      std::memcpy(&probabilities_[i], &chance, sizeof chance);
    }
    for (; i < count; ++i) probabilities_[i] = exp(Doubles{} + (probabilities_[i] - most))[0];
  }

  // Sets all scores to -inf but the k highest and those that tie with the last of them.
  void keep_top_k(int64_t k) {
    ordered_ = probabilities_;
    std::nth_element(ordered_.begin(), ordered_.begin() + k - 1, ordered_.end(), std::greater<>());
    const double least = ordered_[k - 1];
    for (double& score : probabilities_) {
      if (score < least) score = -std::numeric_limits<double>::infinity();
    }
  }

  // Sets all probabilities to 0 but the fewest, largest ones that together have this share.
  void keep_top_p(double share) {
    order_.resize(probabilities_.size());
    std::iota(order_.begin(), order_.end(), 0);
    std::stable_sort(order_.begin(), order_.end(),
                     [this](int64_t a, int64_t b) { return probabilities_[a] > probabilities_[b]; });
    const double enough = share * std::accumulate(probabilities_.begin(), probabilities_.end(), 0.0);
    double before = 0;
    for (int64_t i : order_) {
      const double chance = probabilities_[i];
      if (before >= enough) probabilities_[i] = 0;
      before += chance;
    }
  }

  std::vector<double> probabilities_, ordered_;
  std::vector<int64_t> order_;
};

}  // namespace
