// The scheduler. One block runs at a time; see runtime.h for the flavours.
#include "runtime.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <sstream>
#include <stdexcept>
#include <vector>

#include "fiber.h"
#include "monitor.h"
#include "shared_memory.h"

namespace emu {

Block block;
#ifdef EMU_THREADS
thread_local const Lane* lane = nullptr;
#else
const Lane* lane = nullptr;
#endif

namespace {

const char* kernel_name = "";
int order = 0;

std::string text(Site s) {
  const char* slash = std::strrchr(s.file, '/');
  return std::string(s.what) + " (" + (slash ? slash + 1 : s.file) + ":" + std::to_string(s.line) + ")";
}

std::string text(dim3 d) {
  return "(" + std::to_string(d.x) + "," + std::to_string(d.y) + "," + std::to_string(d.z) + ")";
}

Lane lane_of(unsigned i) {
  const dim3 b = block.size;
  return {dim3(i % b.x, i / b.x % b.y, i / (b.x * b.y)), i};
}

unsigned live_lanes(unsigned warp) {  // a bit for each thread that the warp has
  const unsigned n = std::min(kWarp, block.threads() - warp * kWarp);
  return n == kWarp ? ~0u : (1u << n) - 1;
}

void check_mask(unsigned mask, Site site) {
  const unsigned warp = lane->linear / kWarp, bit = lane->linear % kWarp;
  if (!(mask >> bit & 1)) fail(text(site) + ": the calling lane is not in its own mask");
  if (mask != ~0u && (mask & ~live_lanes(warp))) fail(text(site) + ": the mask names lanes that the warp does not have");
}

void check_source(unsigned mask, unsigned source, Site site) {
  if (!(mask >> source & 1))
    fail(text(site) + ": reads from lane " + std::to_string(source) + ", which is not in the mask");
}

template <class F>
void for_each_block(F&& f) {
  const dim3 g = block.grid;
  const uint64_t n = static_cast<uint64_t>(g.x) * g.y * g.z;
  std::vector<uint64_t> ids(n);
  std::iota(ids.begin(), ids.end(), 0);
  if (order == 1) std::reverse(ids.begin(), ids.end());
  if (order > 1) std::shuffle(ids.begin(), ids.end(), std::mt19937_64(order));
  for (uint64_t i : ids) {
    block.index = dim3(i % g.x, i / g.x % g.y, i / (static_cast<uint64_t>(g.x) * g.y));
    f();
  }
}

void check_launch(size_t dynamic_bytes) {
  const unsigned n = block.threads();
  if (n == 0 || n > kMaxThreads) fail("has a block of " + std::to_string(n) + " threads");
  if (block.grid.x == 0 || block.grid.y == 0 || block.grid.z == 0) fail("has an empty grid");
  if (block.grid.y > 65535 || block.grid.z > 65535) fail("has a grid larger than 65535 in y or z");
  if (dynamic_bytes > shared_limit) fail("asks for too much dynamic shared memory");
}

std::string position() {  // kernel, block and thread, in words
  std::string where = std::string("emulated kernel ") + kernel_name + ", block " + text(block.index);
  if (lane) where += ", thread " + text(lane->index);
  return where;
}

}  // namespace

void set_order(int value) { order = value; }

#ifndef EMU_MONITOR
void register_memory(const void*, size_t, const char*, bool) {}
void forget_memory() {}
#endif

#ifdef EMU_THREADS

}  // namespace emu
#include <barrier>
#include <cstdio>
#include <cstdlib>
#include <thread>
namespace emu {

// A thread cannot be unwound while others wait for it at a barrier: say what is wrong and stop the process.
void fail(const std::string& what) {
  if (!lane) throw std::runtime_error(position() + ": " + what);
  std::fprintf(stderr, "%s: %s\n", position().c_str(), what.c_str());
  std::_Exit(99);
}

namespace {
std::unique_ptr<std::barrier<>> block_barrier;
std::map<std::pair<unsigned, unsigned>, std::unique_ptr<std::barrier<>>> warp_barriers;  // by warp and mask
std::mutex barriers_mutex;
uint64_t slots[kMaxThreads];

void wait_for_warp(unsigned mask) {
  const unsigned warp = lane->linear / kWarp;
  mask &= live_lanes(warp);
  std::barrier<>* barrier;
  {
    std::lock_guard<std::mutex> guard(barriers_mutex);
    auto& p = warp_barriers[{warp, mask}];
    if (!p) p = std::make_unique<std::barrier<>>(__builtin_popcount(mask));
    barrier = p.get();
  }
  barrier->arrive_and_wait();
}
}  // namespace

void sync_block(Site) { block_barrier->arrive_and_wait(); }

uint64_t exchange(Exchange kind, unsigned mask, uint64_t value, unsigned source, Site site) {
  check_mask(mask, site);
  const unsigned first = lane->linear / kWarp * kWarp;
  mask &= live_lanes(first / kWarp);
  if (kind == Exchange::shuffle) check_source(mask, source, site);
  if (kind != Exchange::sync) slots[lane->linear] = value;
  wait_for_warp(mask);
  if (kind == Exchange::sync) return 0;
  uint64_t result = 0;
  if (kind == Exchange::shuffle)
    result = slots[first + source];
  else
    for (unsigned i = 0; i < kWarp; ++i)
      if (mask >> i & 1) result |= static_cast<uint64_t>(slots[first + i] != 0) << i;
  wait_for_warp(mask);
  return result;
}

void run_grid(const char* kernel, dim3 grid, dim3 size, size_t dynamic_bytes, Body body, const void* context) {
  kernel_name = kernel;
  block.grid = grid;
  block.size = size;
  check_launch(dynamic_bytes);
  for_each_block([&] {
    start_block_memory(dynamic_bytes);
    const unsigned n = block.threads();
    block_barrier = std::make_unique<std::barrier<>>(n);
    warp_barriers.clear();
    std::vector<std::thread> threads;
    for (unsigned i = 0; i < n; ++i)
      threads.emplace_back([&, i] {
        const Lane me = lane_of(i);
        lane = &me;
        body(context);
        block_barrier->arrive_and_drop();
      });
    for (std::thread& t : threads) t.join();
    check_canaries();
  });
}

#else  // fibers

namespace {

enum class State { ready, block_wait, warp_wait, done };

struct Thread {
  Fiber fiber;
  State state;
  Site site;
  Exchange kind;
  unsigned mask, source;
  uint64_t value, result;
};

Lane lanes[kMaxThreads];  // static: the monitor lets kernels read this library's own variables
std::vector<std::unique_ptr<Thread>> threads;
Fiber scheduler;
Body kernel_body;
const void* kernel_context;
std::string failure;

Thread& current() { return *threads[lane->linear]; }

void give_up_control(State state) {
  Thread& me = current();
  me.state = state;
  switch_fiber(me.fiber, scheduler);
}

void fiber_main() {
  kernel_body(kernel_context);
  give_up_control(State::done);
}

// Answers a warp-wide operation for the threads of `mask`, all of which have arrived.
void complete(unsigned first, unsigned mask) {
  uint64_t ballot = 0;
  for (unsigned i = 0; i < kWarp; ++i)
    if (mask >> i & 1) ballot |= static_cast<uint64_t>(threads[first + i]->value != 0) << i;
  if (threads[first + __builtin_ctz(mask)]->kind == Exchange::sync) monitor::sync_warp(first, mask);
  for (unsigned i = 0; i < kWarp; ++i) {
    if (!(mask >> i & 1)) continue;
    Thread& t = *threads[first + i];
    t.result = t.kind == Exchange::shuffle ? threads[first + t.source]->value : ballot;
    t.state = State::ready;
  }
}

bool release_warps(unsigned n) {
  bool moved = false;
  for (unsigned first = 0; first < n; first += kWarp)
    for (unsigned i = first; i < std::min(n, first + kWarp); ++i) {
      const Thread& t = *threads[i];
      if (t.state != State::warp_wait) continue;
      bool all = true;
      for (unsigned q = 0; q < kWarp && all; ++q) {
        if (!(t.mask >> q & 1)) continue;
        const Thread& other = *threads[first + q];
        all = other.state == State::warp_wait && other.mask == t.mask;
        if (all && (other.kind != t.kind || other.site.line != t.site.line)) {
          lane = &lanes[i];
          fail(text(t.site) + " meets " + text(other.site) + " of thread " + text(lanes[first + q].index));
        }
      }
      if (all) {
        complete(first, t.mask);
        moved = true;
      }
    }
  return moved;
}

void release_block(unsigned n) {
  for (unsigned i = 1; i < n; ++i)
    if (threads[i]->site.line != threads[0]->site.line) {
      lane = &lanes[i];
      fail("divergent barrier: this thread is at " + text(threads[i]->site) + ", thread (0,0,0) at " +
           text(threads[0]->site));
    }
  for (unsigned i = 0; i < n; ++i) threads[i]->state = State::ready;
  monitor::sync_block();
}

[[noreturn]] void report_deadlock(unsigned n) {
  std::map<std::string, unsigned> where;
  for (unsigned i = 0; i < n; ++i)
    ++where[threads[i]->state == State::done ? "have ended" : "wait at " + text(threads[i]->site)];
  std::ostringstream out;
  out << "deadlock: a divergent barrier, or a warp operation whose mask names threads that never arrive:";
  for (const auto& [what, count] : where) out << " " << count << " threads " << what << ";";
  fail(out.str());
}

void run_block(std::mt19937_64& random) {
  const unsigned n = block.threads();
  while (threads.size() < n) threads.push_back(std::make_unique<Thread>());
  for (unsigned i = 0; i < n; ++i) {
    lanes[i] = lane_of(i);
    threads[i]->state = State::ready;
    start_fiber(threads[i]->fiber, fiber_main);
  }
  std::vector<unsigned> turn(n);
  std::iota(turn.begin(), turn.end(), 0);
  if (order == 1) std::reverse(turn.begin(), turn.end());
  for (;;) {
    if (order > 1) std::shuffle(turn.begin(), turn.end(), random);
    unsigned done = 0, at_barrier = 0;
    for (unsigned i : turn) {
      Thread& t = *threads[i];
      if (t.state == State::ready) {
        lane = &lanes[i];
        switch_fiber(scheduler, t.fiber);
        lane = nullptr;
        if (!failure.empty()) throw std::runtime_error(failure);
      }
      done += t.state == State::done;
      at_barrier += t.state == State::block_wait;
    }
    if (done == n) return;
    if (at_barrier == n)
      release_block(n);
    else if (!release_warps(n))
      report_deadlock(n);
  }
}

}  // namespace

bool on_fiber_stack(const void* address) { return lane && fiber_owns(current().fiber, address); }

void fail(const std::string& what) {
  const std::string message = position() + ": " + what;
  if (lane && current().fiber.running) {
    failure = message;
    give_up_control(State::done);
  }
  lane = nullptr;
  throw std::runtime_error(message);
}

void sync_block(Site site) {
  current().site = site;
  give_up_control(State::block_wait);
}

uint64_t exchange(Exchange kind, unsigned mask, uint64_t value, unsigned source, Site site) {
  Thread& me = current();
  check_mask(mask, site);
  me.mask = mask & live_lanes(lane->linear / kWarp);
  if (kind == Exchange::shuffle) check_source(me.mask, source, site);
  me.kind = kind;
  me.site = site;
  me.value = value;
  me.source = source;
  give_up_control(State::warp_wait);
  return me.result;
}

void run_grid(const char* kernel, dim3 grid, dim3 size, size_t dynamic_bytes, Body body, const void* context) {
  kernel_name = kernel;
  block.grid = grid;
  block.size = size;
  block.index = dim3(0, 0, 0);
  lane = nullptr;
  failure.clear();
  kernel_body = body;
  kernel_context = context;
  check_launch(dynamic_bytes);
  std::mt19937_64 random(order);
  monitor::start_launch(kernel, dynamic_bytes);
  for_each_block([&] {
    start_block_memory(dynamic_bytes);
    monitor::start_block();
    run_block(random);
    lane = nullptr;
    monitor::end_block();
    check_canaries();
  });
}

#endif

}  // namespace emu

extern "C" EMU_EXPORT void emu_set_order(int order) { emu::set_order(order); }
