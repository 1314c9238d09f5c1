// Watches every load and store of a kernel. g++ -fsanitize=thread puts a call before each one; linked without
// libtsan, those calls end here. Three things come out of the addresses:
//   bounds    an access that leaves its tensor or shared array, or writes an input, stops the kernel;
//   races     two accesses to one place, one of them a store, that no barrier orders, stop the kernel;
//   counters  bytes, 32-byte sectors and shared-memory wavefronts per warp instruction, by kernel and by instruction.
#include "monitor.h"

#include <link.h>
#include <pthread.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <map>
#include <sstream>
#include <string>
#include <unordered_map>
#include <vector>

#include "runtime.h"

namespace emu {
namespace {

using Address = uintptr_t;
constexpr unsigned kSector = 32, kBanks = 32;

// ---- what may be touched ------------------------------------------------------------------------------------------

// The last access to two bytes, to tell races. A stamp marks the launch (global) or the block (shared) it is from.
struct Access {
  uint64_t stamp = 0, block = 0;
  uint32_t thread = 0, epoch = 0, clock = 0;
};
struct Cell {
  Access write, read, other_read;   // two readers that no barrier orders
};

struct Region {
  Address begin, end;
  std::string name;
  bool writable;
  std::vector<Cell> cells;
};
std::vector<Region> regions;
std::vector<Cell> shared_cells;

Address module_begin = 0, module_end = 0, host_stack_begin = 0, host_stack_end = 0;

void find_own_image() {
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void*) {
        const Address here = reinterpret_cast<Address>(&regions);
        Address low = ~Address{0}, high = 0;
        for (int i = 0; i < info->dlpi_phnum; ++i) {
          const auto& p = info->dlpi_phdr[i];
          if (p.p_type != PT_LOAD) continue;
          low = std::min<Address>(low, info->dlpi_addr + p.p_vaddr);
          high = std::max<Address>(high, info->dlpi_addr + p.p_vaddr + p.p_memsz);
        }
        if (here < low || here >= high) return 0;
        module_begin = low;
        module_end = high;
        return 1;
      },
      nullptr);
  pthread_attr_t attributes;
  void* stack;
  size_t bytes;
  if (pthread_getattr_np(pthread_self(), &attributes) == 0) {
    pthread_attr_getstack(&attributes, &stack, &bytes);
    pthread_attr_destroy(&attributes);
    host_stack_begin = reinterpret_cast<Address>(stack);
    host_stack_end = host_stack_begin + bytes;
  }
}

Region* find_region(Address a) {
  static size_t last = 0;
  if (last < regions.size() && a >= regions[last].begin && a < regions[last].end) return &regions[last];
  for (size_t i = 0; i < regions.size(); ++i)
    if (a >= regions[i].begin && a < regions[i].end) {
      last = i;
      return &regions[i];
    }
  return nullptr;
}

std::string nearest(Address a) {
  const Region* best = nullptr;
  for (const Region& r : regions)
    if (r.begin <= a && (!best || r.begin > best->begin)) best = &r;
  if (!best || a - best->end > (1 << 20)) return "outside every tensor";
  return std::to_string(a - best->end) + " bytes past the end of '" + best->name + "' (" +
         std::to_string(best->end - best->begin) + " bytes)";
}

// ---- counters -----------------------------------------------------------------------------------------------------

struct Group {  // one warp instruction: what its lanes access with the same instruction for the same time
  bool shared, write;
  uint32_t size;
  const char* name;  // of the tensor or shared array
  uint32_t lanes = 0;
  std::array<Address, kWarp> addresses;
};

struct Totals {
  uint64_t threads = 0, dynamic_bytes = 0;  // of the largest block
  uint64_t launches = 0, load_bytes = 0, store_bytes = 0, load_sectors = 0, store_sectors = 0;
  uint64_t shared_accesses = 0, shared_wavefronts = 0, shared_ideal = 0;
  // By instruction. Shared: least wavefronts, wavefronts; global: bytes asked for, bytes of the sectors moved.
  struct Site {
    bool shared, write;
    std::string name;
    uint64_t least, moved;
  };
  std::map<Address, Site> sites;

  void add(const Group& g, Address instruction, uint64_t least, uint64_t moved) {
    Site& site = sites.try_emplace(instruction, Site{g.shared, g.write, g.name, 0, 0}).first->second;
    site.least += least;
    site.moved += moved;
  }
};
std::map<std::string, Totals> totals;
bool counting_on = false;
Totals* counting = nullptr;  // of the running kernel

struct GroupKey {
  Address instruction;
  uint32_t warp, turn;
  bool operator==(const GroupKey& o) const {
    return instruction == o.instruction && warp == o.warp && turn == o.turn;
  }
};
struct TurnKey {
  Address instruction;
  uint32_t thread;
  bool operator==(const TurnKey& o) const { return instruction == o.instruction && thread == o.thread; }
};
struct Hash {
  static size_t mix(uint64_t a, uint64_t b) { return (a * 0x9E3779B97F4A7C15ull) ^ (b * 0xC2B2AE3D27D4EB4Full); }
  size_t operator()(const GroupKey& k) const { return mix(k.instruction, uint64_t{k.warp} << 32 | k.turn); }
  size_t operator()(const TurnKey& k) const { return mix(k.instruction, k.thread); }
};
std::unordered_map<GroupKey, Group, Hash> groups;
std::unordered_map<TurnKey, uint32_t, Hash> turns;

void count_global(const Group& g, Address instruction) {
  std::array<Address, kWarp * 2> sectors;
  unsigned used = 0;
  std::array<Address, kWarp> addresses = g.addresses;
  std::sort(addresses.begin(), addresses.begin() + g.lanes);
  const auto distinct = std::unique(addresses.begin(), addresses.begin() + g.lanes) - addresses.begin();
  for (unsigned i = 0; i < distinct; ++i)
    for (Address s = addresses[i] / kSector; s <= (addresses[i] + g.size - 1) / kSector; ++s)
      if (!used || sectors[used - 1] != s) sectors[used++] = s;
  const uint64_t bytes = distinct * uint64_t{g.size};
  (g.write ? counting->store_bytes : counting->load_bytes) += bytes;
  (g.write ? counting->store_sectors : counting->load_sectors) += used;
  counting->add(g, instruction, bytes, used * uint64_t{kSector});
}

// A request of 8 or 16 bytes per lane is served in 2 or 4 parts; within a part, each bank gives one word at a time.
void count_shared(const Group& g, Address instruction) {
  const unsigned lanes_per_part = g.size <= 4 ? 32 : g.size == 8 ? 16 : 8;
  for (unsigned first = 0; first < g.lanes; first += lanes_per_part) {
    std::array<std::vector<Address>, kBanks> words;
    for (unsigned i = first; i < std::min(g.lanes, first + lanes_per_part); ++i)
      for (Address w = g.addresses[i] / 4; w <= (g.addresses[i] + g.size - 1) / 4; ++w) {
        auto& bank = words[w % kBanks];
        if (std::find(bank.begin(), bank.end(), w) == bank.end()) bank.push_back(w);
      }
    uint64_t wavefronts = 1;
    for (const auto& bank : words) wavefronts = std::max<uint64_t>(wavefronts, bank.size());
    counting->shared_ideal += 1;
    counting->shared_wavefronts += wavefronts;
    counting->add(g, instruction, 1, wavefronts);
  }
  counting->shared_accesses += 1;
}

void flush_groups() {
  for (const auto& [key, group] : groups)
    group.shared ? count_shared(group, key.instruction) : count_global(group, key.instruction);
  groups.clear();
  turns.clear();
}

void count(Address a, uint32_t size, bool write, bool shared, const char* name, Address instruction) {
  if (!counting_on) return;
  const uint32_t thread = lane->linear, turn = turns[{instruction, thread}]++;
  Group& g = groups[{instruction, thread / kWarp, turn}];
  g.shared = shared;
  g.write = write;
  g.size = size;
  g.name = name;
  if (g.lanes < kWarp) g.addresses[g.lanes++] = a;
}

// ---- races --------------------------------------------------------------------------------------------------------

uint64_t launch_stamp = 0, block_stamp = 0;
uint32_t epoch = 0;                                    // counts __syncthreads within the block
// What each thread knows of the other lanes of its warp: their clocks at the last __syncwarp they shared.
std::vector<std::array<uint32_t, kWarp>> clocks(kMaxThreads);

bool ordered(const Access& before, uint64_t stamp) {
  if (before.stamp != stamp) return true;
  if (before.block != block.linear()) return false;
  const uint32_t me = lane->linear;
  if (before.thread == me || before.epoch != epoch) return true;
  return before.thread / kWarp == me / kWarp && clocks[me][before.thread % kWarp] >= before.clock;
}

[[noreturn]] void report_race(const Access& before, bool was_write, bool write, const char* kind, const char* name) {
  fail(std::string("race: ") + (write ? "store to " : "load from ") + kind + "'" + name + "' is not ordered after the " +
       (was_write ? "store" : "load") + " by thread " + std::to_string(before.thread) + " of block " +
       std::to_string(before.block));
}

void check_cells(std::vector<Cell>& cells, size_t offset, size_t size, bool write, uint64_t stamp, const char* kind,
                 const char* name) {
  const uint32_t me = lane->linear;
  const Access now{stamp, block.linear(), me, epoch, clocks[me][me % kWarp]};
  if (cells.size() <= (offset + size - 1) / 2) cells.resize((offset + size - 1) / 2 + 1);
  for (size_t c = offset / 2; c <= (offset + size - 1) / 2; ++c) {
    Cell& cell = cells[c];
    if (!ordered(cell.write, stamp)) report_race(cell.write, true, write, kind, name);
    if (write) {
      if (!ordered(cell.read, stamp)) report_race(cell.read, false, true, kind, name);
      if (!ordered(cell.other_read, stamp)) report_race(cell.other_read, false, true, kind, name);
      cell.write = now;
    } else {
      if (!ordered(cell.read, stamp)) cell.other_read = cell.read;
      cell.read = now;
    }
  }
}

void check_shared(const SharedHit& hit, size_t size, bool write, Address pc) {
  if (!hit.name)
    fail("shared " + std::string(write ? "store" : "load") + " of " + std::to_string(size) +
         " bytes outside every shared array");
  count(hit.offset, size, write, true, hit.name, pc);
  check_cells(shared_cells, hit.offset, size, write, block_stamp, "shared array ", hit.name);
}

void check_global(Address a, size_t size, bool write, Address pc) {
  Region* region = find_region(a);
  const auto what = [&] { return "global " + std::string(write ? "store" : "load") + " of " + std::to_string(size) + " bytes"; };
  if (!region) {
    const bool host_memory = (a >= module_begin && a < module_end) || (a >= host_stack_begin && a < host_stack_end);
    if (host_memory && !write) return;  // kernel arguments, constants, the runtime's own variables
    fail(what() + ", " + nearest(a));
  }
  if (a + size > region->end) fail(what() + " runs over the end of '" + region->name + "'");
  if (a % size != 0) fail("misaligned access of " + std::to_string(size) + " bytes to '" + region->name + "'");
  if (write && !region->writable) fail("store to the input '" + region->name + "'");
  count(a, size, write, false, region->name.c_str(), pc);
  check_cells(region->cells, a - region->begin, size, write, launch_stamp, "", region->name.c_str());
}

void access(const void* address, size_t size, bool write, void* instruction_pointer) {
  if (!lane || on_fiber_stack(address)) return;  // host code, or a thread's own variables
  const Address a = reinterpret_cast<Address>(address);
  const Address pc = reinterpret_cast<Address>(instruction_pointer) - module_begin;
  SharedHit hit;
  if (find_shared(address, size, &hit))
    check_shared(hit, size, write, pc);
  else
    check_global(a, size, write, pc);
}

}  // namespace

void register_memory(const void* begin, size_t bytes, const char* name, bool writable) {
  const Address a = reinterpret_cast<Address>(begin);
  if (!bytes) return;
  for (Region& r : regions)
    if (r.begin == a && r.end == a + bytes) {  // one tensor given twice
      r.writable |= writable;
      return;
    }
  regions.push_back({a, a + bytes, name, writable, {}});
}

void forget_memory() { regions.clear(); }

namespace monitor {

void start_launch(const char* kernel, size_t dynamic_bytes) {
  find_own_image();
  ++launch_stamp;
  if (!counting_on) return;
  counting = &totals[kernel];
  ++counting->launches;
  counting->threads = std::max<uint64_t>(counting->threads, block.threads());
  counting->dynamic_bytes = std::max<uint64_t>(counting->dynamic_bytes, dynamic_bytes);
}

void start_block() {
  ++block_stamp;
  epoch = 0;
  for (auto& c : clocks) c.fill(0);
  for (unsigned i = 0; i < kMaxThreads; ++i) clocks[i][i % kWarp] = 1;
}

void end_block() { flush_groups(); }

void sync_block() {
  ++epoch;
  flush_groups();
}

void sync_warp(unsigned first, unsigned mask) {
  std::array<uint32_t, kWarp> joined{};
  for (unsigned i = 0; i < kWarp; ++i)
    if (mask >> i & 1)
      for (unsigned j = 0; j < kWarp; ++j) joined[j] = std::max(joined[j], clocks[first + i][j]);
  for (unsigned i = 0; i < kWarp; ++i)
    if (mask >> i & 1) {
      clocks[first + i] = joined;
      ++clocks[first + i][i];
    }
}

}  // namespace monitor
}  // namespace emu

extern "C" {

EMU_EXPORT void emu_count(int on) {
  emu::counting_on = on;
  emu::totals.clear();
}

// The counters as JSON: {kernel: {...}}. The text is valid until the next call.
EMU_EXPORT const char* emu_counters() {
  static std::string text;
  std::ostringstream out;
  const char* comma = "";
  out << "{";
  for (const auto& [name, t] : emu::totals) {
    out << comma << "\"" << name << "\": {\"launches\": " << t.launches << ", \"threads\": " << t.threads
        << ", \"dynamic_bytes\": " << t.dynamic_bytes << ", \"load_bytes\": " << t.load_bytes
        << ", \"store_bytes\": " << t.store_bytes << ", \"load_sectors\": " << t.load_sectors
        << ", \"store_sectors\": " << t.store_sectors << ", \"shared_accesses\": " << t.shared_accesses
        << ", \"shared_wavefronts\": " << t.shared_wavefronts << ", \"shared_ideal\": " << t.shared_ideal
        << ", \"sites\": {";
    const char* inner = "";
    for (const auto& [pc, site] : t.sites) {
      out << inner << "\"" << pc << "\": [" << (site.shared ? "true" : "false") << ", " << (site.write ? "true" : "false")
          << ", \"" << site.name << "\", " << site.least << ", " << site.moved << "]";
      inner = ", ";
    }
    out << "}}";
    comma = ", ";
  }
  out << "}";
  text = out.str();
  return text.c_str();
}

// The hooks of -fsanitize=thread.
#define EMU_HOOKS(n)                                                                                    \
  void __tsan_read##n(void* p) { emu::access(p, n, false, __builtin_return_address(0)); }               \
  void __tsan_write##n(void* p) { emu::access(p, n, true, __builtin_return_address(0)); }
EMU_HOOKS(1)
EMU_HOOKS(2)
EMU_HOOKS(4)
EMU_HOOKS(8)
EMU_HOOKS(16)
void __tsan_read_range(void* p, unsigned long n) {
  for (unsigned long i = 0; i < n; ++i) emu::access(static_cast<char*>(p) + i, 1, false, __builtin_return_address(0));
}
void __tsan_write_range(void* p, unsigned long n) {
  for (unsigned long i = 0; i < n; ++i) emu::access(static_cast<char*>(p) + i, 1, true, __builtin_return_address(0));
}
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
}
