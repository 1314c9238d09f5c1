// Forward scan. A work item is one group of channels of one sequence; neighbouring items share a group, so that a
// thread keeps its tables (70 KB with 32 modes and 16 lanes) in cache. Activations move once in each direction; with 32
// modes there are some 75 multiply-adds per vector moved, so that arithmetic is the limit (s4d_tile.h).
#include "s4d_scan.h"

#include "s4d_states.h"

namespace lyra::cpu::LYRA_ISA {
namespace {

// y (a tile) from u (a tile of n tokens); carries the states over the chunk.
template <class T>
void scan_chunk(const T* table, int64_t modes, int64_t n, const T* u, T* state, T* states, T* y) {
  constexpr int W = kLanes<T>;
  const int blocks = static_cast<int>(n / kBlock);
  convolve_blocks<T, false>(table + modes * kEntries * kPair<T>, u, (blocks + kColumns - 1) / kColumns * kColumns, y);
  for (int64_t m = 0; m < modes; m += kModeGroup) {
    const int64_t some = modes - m < kModeGroup ? modes - m : kModeGroup;
    const T* entries = table + m * kEntries * kPair<T>;
    carry<T, false>(entries, some, u, blocks, state + m * kPair<T>, states);
    decode<T, false>(entries, some, states, blocks, y);
  }
  for (int64_t t = blocks * kBlock; t < n; ++t) token_forward(table, modes, u + t * W, state, y + t * W);
}

template <class S>
void forward(const S4dScanArgs& a, const Threads& threads) {
  using T = Compute<S>;
  constexpr int W = kLanes<T>;
  const Tables<T> tables(a, threads);
  const int64_t sequences = a.layout.sequences;
  for_ranges(threads, groups_of<T>(a.channels) * sequences, [&](int64_t begin, int64_t end) {
    Buffer<T> u(kChunk * W), y(kChunk * W), state(a.modes * kPair<T>), states(kModeGroup * kStates<T>);
    Output<S> output(a.y, a.channels, a.directions, a.layout);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t index = item / sequences, sequence = item % sequences;
      const Group<T> group(index, a.channels);
      const int64_t state_size = a.channels * a.modes * 2;
      for (int64_t direction = 0; direction < a.directions; ++direction) {
        const T* initial = static_cast<const T*>(a.initial_state);
        load_state(initial ? initial + sequence * state_size : nullptr, a.modes, group, T(1), state.data());
        const Walk walk(a, sequence, direction);
        for (int64_t chunk = 0; chunk < walk.chunks(); ++chunk) {
          if (a.checkpoints)
            store_rows(checkpoint<T>(a, walk.first_slot + chunk, direction, group), a.channels, 2 * a.modes, group,
                       state.data());
          load_chunk<S, 1>(a.u, a.channels, walk, chunk, group, u.data());
          scan_chunk(tables.of(direction, index), a.modes, walk.tokens(chunk), u.data(), state.data(), states.data(),
                     y.data());
          output.write(walk, chunk, direction, group, y.data());
        }
      }
      if (a.final_state)
        store_state(static_cast<T*>(a.final_state) + sequence * state_size, a.modes, group, T(1), state.data());
      zero_rows(static_cast<S*>(a.y) + (a.layout.begin(sequence) + a.layout.length(sequence)) * a.channels +
                    group.first,
                a.channels, a.layout.padding(sequence), group);
    }
  });
}

}  // namespace

void s4d_scan(const S4dScanArgs& args, const Threads& threads) {
  switch (args.dtype) {
    case DType::f32: return forward<float>(args, threads);
    case DType::f64: return forward<double>(args, threads);
    case DType::f16: return forward<Half>(args, threads);
    case DType::bf16: return forward<BFloat16>(args, threads);
  }
}

}  // namespace lyra::cpu::LYRA_ISA
