// Rows shared among threads that never wait for one another.
#pragma once

#include <algorithm>
#include <cstdint>
#include <thread>
#include <vector>

namespace {

// Calls run(first row, number of rows) for parts of the rows, one part for each thread, in whole
// tiles.
template <class Run>
void share_rows(int64_t rows, int64_t tile, int64_t threads, Run run) {
  const int64_t tiles = (rows + tile - 1) / tile;
  threads = std::min(threads, tiles);
  if (threads <= 1) return run(0, rows);
  const int64_t share = (tiles + threads - 1) / threads * tile;
  std::vector<std::thread> others;
  for (int64_t row = share; row < rows; row += share) {
    others.emplace_back(run, row, std::min(share, rows - row));
  }
  run(0, share);
  for (std::thread& other : others) other.join();
}

}  // namespace
