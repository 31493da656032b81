// What the caller lays out in memory: weights, and rows in the making.
#pragma once

#include <cstdint>

extern "C" {

enum Precision : int64_t { kFloat32 = 0, kBfloat16 = 1, kInt8 = 2 };

// A linear map. Weights lie in panels of P outputs; within a panel by input, and for bfloat16 and
// int8 groups of g inputs side by side: [out / P][in / g][P][g]. `anytime_layout` tells P and g.
struct Linear {
  const void* weight;
  const float* bias;    // [out], like the next two filled up to whole panels
  const float* scale;   // [out], int8 only
  const int32_t* sums;  // [out], int8 only: sums of weights, to take back an offset of inputs
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
  const float* entries;    // [tables][V][E]: added to those at a position, by the code before it
  const int64_t* tables;   // [L]: the table of each position
  const float* positions;  // [L][E]
  const float* reminders;  // [labels + 1][E]: added at all positions but 0; null: nothing
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

// All rows of a batch. A is the width of attention.
struct Rows {
  // [layers][rows][2 A L] float32 numbers or, where the precision is lower, bfloat16 ones; layers
  // lie `layer_stride` numbers apart
  void* cache;
  int64_t layer_stride;
  const int64_t* labels;  // [rows]
  int64_t* codes;         // [rows][L]
  const double* noise;    // [rows][L], in [0, 1)
  int64_t* positions;     // [rows]
  const Choice* choices;  // [rows]
};

// A residual block: a 3x3 and a 1x1 convolution. Inputs of convolutions are ordered by place, then
// by channel.
struct Residual {
  Linear spread, mix;
};

// All that the decoder of the autoencoder does at one resolution.
struct Stage {
  const Residual* block;
  int64_t blocks, width;
  Linear up;  // 1x1, to the four positions of the next resolution: outputs [2][2][channels]
};

// How code vectors [L][D] become features [side²][F].
enum Layout : int64_t { kVectors = 0, kChannels = 1, kPositions = 2, kSums = 3 };

// From codes to pictures.
struct Decoder {
  int64_t code_length, code_width, vocabulary, layout;
  const float* entries;       // [L][V][D]
  const float* fill;          // [L][D], in place of codes that are not there
  Linear line, bend, unbend;  // kVectors: line(v) + unbend(relu(bend(v))); bend may be empty
  const int64_t* places;      // [side²], kSums: positions of the codes of a level
  int64_t features, side;     // F
  Linear first;               // 3x3
  const Stage* stage;         // coarsest first
  int64_t stages;
  Linear last;  // 3x3, to [channels][patch][patch]
  int64_t patch;
};

// How a call ended.
enum Status : int64_t { kDone = 0, kOutOfMemory = 1, kUnknownCode = 2 };

}  // extern "C"
