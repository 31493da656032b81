// The structs that the caller passes: weights, and the state of the rows of a batch.
#pragma once

#include <cstdint>

extern "C" {

// The number format of weights and of the inputs of matrix products.
enum Precision : int64_t { kFloat32 = 0, kBfloat16 = 1, kInt8 = 2 };

// A linear map. Weights are packed in panels of P outputs and groups of g inputs:
// [out / P][in / g][P][g]. `anytime_packing` returns P and g; for float32, g is 1.
struct Linear {
  const void* weight;
  const float* bias;    // [out], padded to whole panels like the next two
  const float* scale;   // [out], int8 only
  const int32_t* sums;  // [out], int8 only: sums of weights, to correct for an offset of inputs
  int64_t in, out;
};

// A layer norm.
struct Norm {
  const float* weight;
  const float* bias;
  float eps;
};

// A block of the Transformer.
struct Block {
  Norm norm1;
  Linear qkv, out;  // the weights of queries include the scale of attention
  Norm norm2;
  Linear up, down;
};

// The sizes and weights of a prior. `vocabulary` is the largest one of all positions.
struct Prior {
  int64_t layers, width, heads, attention, hidden, length, vocabulary, precision;
  int64_t memory;          // M, the number of tokens of conditions, which every position attends to
  const float* entries;    // [rows][E]: embeddings of the code before a position, table after table
  const int64_t* first_row;   // [L]: the first row of each position's table
  const float* positions;  // [L][E]: embeddings of positions
  const Block* blocks;
  Norm norm;
  const Linear* scores;  // [length]: to the logits at each position, as many as its vocabulary
};

// The sampling parameters of a row.
struct RowSamplingParams {
  double temperature, top_p;
  double guidance;  // of an unconditional row: the scale of moving away from it
  int64_t top_k;    // 0: all codes
  int64_t unconditional_slot;  // the first unconditional row of guidance, or one of the next two
  int64_t next_slot;           // of an unconditional row: the next one, or kNoUnconditional
};
constexpr int64_t kNoUnconditional = -1, kIsUnconditional = -2;  // no guidance; this is an unconditional row

// The state of all rows of a batch. A is the width of attention.
struct DecodeState {
  // [layers][rows][2 A (M + L)], keys and values in float32, or in bfloat16 if the precision is
  // lower. Those of the M tokens come first. Layers are `layer_stride` numbers apart.
  void* cache;
  int64_t layer_stride;
  const float* first_inputs;  // [rows][E]: inputs at position 0
  const float* later_inputs;  // [rows][E]: added to the inputs at positions > 0, or null
  int64_t* codes;         // [rows][L]
  const double* noise;    // [rows][L], in [0, 1)
  int64_t* positions;     // [rows]: number of codes of each row
  const RowSamplingParams* sampling_params;  // [rows]: sampling parameters
};

// A residual block: a 3x3 and a 1x1 convolution. Inputs of a convolution are ordered by position,
// then by channel.
struct ResidualBlock {
  Linear conv1, conv2;
};

// The layers of the autoencoder's decoder at one resolution.
struct Stage {
  const ResidualBlock* block;
  int64_t blocks, width;
  Linear up;  // 1x1, to the four positions of the next resolution: outputs [2][2][channels]
};

// How code vectors [L][D] are converted to features [height * width][F].
enum LayoutKind : int64_t { kProjection = 0, kChannel = 1, kSpatial = 2, kResidualVq = 3 };

// The decoder of an autoencoder, from codes to images.
struct ImageDecoder {
  int64_t code_length, code_width, vocabulary, layout;
  const float* entries;       // [L][V][D]
  const float* fill;          // [L][D], vectors of truncated positions
  // kProjection: linear(v) + mlp_out(relu(mlp_in(v))); mlp_in may be empty.
  Linear linear, mlp_in, mlp_out;
  const int64_t* permutation;  // [height * width], kResidualVq: position of each code of a level
  int64_t features;  // F
  int64_t height, width;  // sides of the coarsest map
  Linear first;               // 3x3
  const Stage* stage;         // coarsest first
  int64_t stages;
  Linear last;  // 3x3, to [channels][patch][patch]
  int64_t patch;
};

// How a call ended.
enum Status : int64_t { kOk = 0, kOutOfMemory = 1, kUnknownCode = 2 };

}  // extern "C"
