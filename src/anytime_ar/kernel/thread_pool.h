// Distribution of rows among threads that do not wait for one another, and the status of a call.
#pragma once

#include <algorithm>
#include <cstdint>

#ifndef __wasm__
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#ifndef _WIN32
#include <unistd.h>
#endif
#endif

#include "abi.h"

namespace {

#ifdef __wasm__

// Calls run(). WebAssembly has no exceptions: a failed allocation ends the instance.
template <class Run>
int64_t catch_bad_alloc(Run run) {
  run();
  return kOk;
}

// Calls run(first row, number of rows) for all rows, without threads.
template <class Run>
void parallel_for_rows(int64_t rows, int64_t, Run run) {
  run(0, rows);
}

#else

// Calls run() and returns a Status, because callers in C cannot catch exceptions.
template <class Run>
int64_t catch_bad_alloc(Run run) {
  try {
    run();
  } catch (const std::bad_alloc&) {
    return kOutOfMemory;
  }
  return kOk;
}

// A pool of threads that wait for work between calls. Starting a thread takes as long as a step of
// a small prior.
class ThreadPool {
 public:
  // Returns the pool of this process: a fork has none of its parent's threads. It is never
  // destroyed, because its threads wait in it until the process ends.
  static ThreadPool& here() {
    static std::atomic<ThreadPool*> pool{nullptr};
    ThreadPool* found = pool.load();
    while (!found || found->process_ != process()) {
      ThreadPool* made = new ThreadPool;
      if (pool.compare_exchange_strong(found, made)) return *made;
      delete made;  // another thread was faster
    }
    return *found;
  }

  // Calls work(context, part) for all parts, in this thread and up to threads - 1 others. While
  // another caller uses the pool, this thread works alone. If one of the threads throws
  // std::bad_alloc, this function throws it after all have ended: it must not leave a thread.
  void run(int64_t threads, int64_t parts, void (*work)(void*, int64_t), void* context) {
    const std::unique_lock<std::mutex> mine(busy_, std::try_to_lock);
    if (!mine.owns_lock()) {
      for (int64_t part = 0; part < parts; ++part) work(context, part);
      return;
    }
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      work_ = work, context_ = context, parts_ = parts, next_ = 0, failed_ = false;
      helpers_wanted_ = std::min(threads, parts) - 1;
      try {
        for (; started_ < helpers_wanted_; ++started_) std::thread([this] { worker_loop(); }).detach();
      } catch (const std::system_error&) {  // the system allows no more threads
        helpers_wanted_ = started_;
      }
    }
    begin_.notify_all();
    run_tasks(work, context, parts);
    std::unique_lock<std::mutex> lock(mutex_);
    helpers_wanted_ = 0;  // threads that have not begun by now need not begin
    done_.wait(lock, [this] { return helpers_running_ == 0; });
    if (failed_) throw std::bad_alloc();
  }

 private:
  static int64_t process() {
#ifdef _WIN32
    return 0;
#else
    return getpid();
#endif
  }

  // Works on parts until none is left.
  void run_tasks(void (*work)(void*, int64_t), void* context, int64_t parts) {
    for (int64_t part; (part = next_.fetch_add(1)) < parts;) {
      try {
        work(context, part);
      } catch (const std::bad_alloc&) {
        failed_ = true;
      }
    }
  }

  // Waits for work and takes part in it, for ever.
  void worker_loop() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      begin_.wait(lock, [this] { return helpers_wanted_ > 0; });
      --helpers_wanted_, ++helpers_running_;
      const auto work = work_;
      const auto context = context_;
      const int64_t parts = parts_;
      lock.unlock();
      run_tasks(work, context, parts);
      lock.lock();
      if (--helpers_running_ == 0) done_.notify_one();
    }
  }

  const int64_t process_ = process();
  std::mutex busy_, mutex_;
  std::condition_variable begin_, done_;
  void (*work_)(void*, int64_t) = nullptr;
  void* context_ = nullptr;
  int64_t parts_ = 0, started_ = 0, helpers_wanted_ = 0, helpers_running_ = 0;
  std::atomic<int64_t> next_{0};
  std::atomic<bool> failed_{false};
};

// Parts per thread: with more than one, a thread whose core is busy delays no other.
constexpr int64_t kTasksPerThread = 2;
// Smallest part, in rows, unless threads would be idle: rows of a part read weights together.
constexpr int64_t kMinRowsPerTask = 16;

// Calls run(first row, number of rows) for parts of the rows, on several threads.
template <class Run>
void parallel_for_rows(int64_t rows, int64_t threads, Run run) {
  if (threads <= 1 || rows <= 1) return run(0, rows);
  const int64_t even = (rows + threads - 1) / threads;
  const int64_t size =
      std::min(even, std::max(kMinRowsPerTask, (even + kTasksPerThread - 1) / kTasksPerThread));
  struct Share {
    int64_t rows, size;
    Run& run;
  } share = {rows, size, run};
  ThreadPool::here().run(
      threads, (rows + size - 1) / size,
      [](void* context, int64_t part) {
        const Share& all = *static_cast<Share*>(context);
        const int64_t first = part * all.size;
        all.run(first, std::min(all.size, all.rows - first));
      },
      &share);
}

#endif

}  // namespace
