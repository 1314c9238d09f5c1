// The tables of single tokens, kept from one call to the next.
//
// A sequence that is made token by token makes a call for each, and most of what such a call would do is exponentials and
// sines: of 2048 modes they took 40 of the 100 us of a layer's step, Python included. So a call whose sequences fill no
// block, and that no backward follows, looks here first. Tables are found by the values of all parameters, compared in
// full, so that whatever has changed one, an optimizer, a state_dict or a write past autograd, is seen. Comparing them is a
// small part of the time of making the tables. Each thread has its own.
#pragma once

#include <cstring>
#include <memory>

#include "memory.h"
#include "s4d_tables.h"

namespace lyra::cpu::LYRA_ISA {

template <class T>
class TableCache {
 public:
  // The tables of these parameters, or null; they stay until this thread asks for others.
  const T* find(const S4dScanArgs& a) {
    for (Entry& entry : entries_)
      if (entry.is(a)) {
        entry.used = ++clock_;
        return *entry.tables;
      }
    return nullptr;
  }
  // Room for the tables of parameters that were not found, in the place of those that were not asked for longest.
  T* make(const S4dScanArgs& a, int64_t size) {
    Entry* oldest = entries_;
    for (Entry& entry : entries_)
      if (entry.used < oldest->used) oldest = &entry;
    oldest->keep(a, size);
    oldest->used = ++clock_;
    return *oldest->tables;
  }
  static bool takes(const S4dScanArgs& a, int64_t size) {
    constexpr int64_t kLargest = int64_t{1} << 20;  // bytes of one layer's tables
    return !a.checkpoints && size * static_cast<int64_t>(sizeof(T)) <= kLargest;
  }
  static TableCache& of_thread() {
    static thread_local TableCache cache;
    return cache;
  }

 private:
  // Of the parameters f(pointer, count), in order.
  template <class F>
  static void over_parameters(const S4dScanArgs& a, F&& f) {
    const int64_t modes = a.channels * a.modes;
    f(a.log_dt, a.channels);
    f(a.log_A_real, modes);
    f(a.A_imag, modes);
    f(a.C, a.directions * modes * 2);
    if (a.D) f(a.D, a.channels);
  }

  struct Entry {
    int64_t channels = -1, modes = 0, directions = 0;
    bool has_D = false;
    uint64_t used = 0;
    std::unique_ptr<Buffer<T>> parameters, tables;

    bool is(const S4dScanArgs& a) const {
      if (channels != a.channels || modes != a.modes || directions != a.directions || has_D != (a.D != nullptr))
        return false;
      const T* mine = *parameters;
      bool same = true;
      over_parameters(a, [&](const void* values, int64_t count) {
        same = same && (count == 0 || std::memcmp(mine, values, static_cast<std::size_t>(count) * sizeof(T)) == 0);
        mine += count;
      });
      return same;
    }
    void keep(const S4dScanArgs& a, int64_t size) {
      channels = -1;  // nothing, should memory run out
      int64_t total = 0;
      over_parameters(a, [&](const void*, int64_t count) { total += count; });
      parameters.reset(new Buffer<T>(total));
      tables.reset(new Buffer<T>(size));
      T* mine = *parameters;
      over_parameters(a, [&](const void* values, int64_t count) {
        copy(static_cast<const T*>(values), count, mine);
        mine += count;
      });
      channels = a.channels, modes = a.modes, directions = a.directions, has_D = a.D != nullptr;
    }
  };

  static constexpr int kEntriesKept = 8;  // layers of a model
  Entry entries_[kEntriesKept];
  uint64_t clock_ = 0;
};

}  // namespace lyra::cpu::LYRA_ISA
