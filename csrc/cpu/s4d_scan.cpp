// Forward scan. A work item is a band of groups of channels of one sequence (see Bands). Activations move once in each
// direction; with 32 modes there are some 75 multiply-adds per vector moved, so that arithmetic is the limit
// (s4d_tile.h).
#include "s4d_scan.h"

#include "s4d_states.h"

namespace lyra::cpu::LYRA_ISA {
namespace {

// Calls of ask() in scan_chunk.
int64_t asking(int64_t modes) { return 1 + 2 * ((modes + kModeGroup - 1) / kModeGroup); }

// y (a tile) from u (a tile of n tokens); carries the states over the chunk. ask() is called between computations.
template <class T, class Ask>
void scan_chunk(const T* table, int64_t modes, int64_t n, const T* u, T* state, T* states, T* y, Ask&& ask) {
  constexpr int W = kLanes<T>;
  ask();
  const int blocks = static_cast<int>(n / kBlock);
  convolve_blocks<T, false>(table + modes * kEntries * kPair<T>, u, (blocks + kColumns - 1) / kColumns * kColumns, y);
  for (int64_t m = 0; m < modes; m += kModeGroup) {
    const int64_t some = modes - m < kModeGroup ? modes - m : kModeGroup;
    const T* entries = table + m * kEntries * kPair<T>;
    carry<T, false>(entries, some, u, blocks, state + m * kPair<T>, states);
    ask();
    decode<T, false>(entries, some, states, blocks, y);
    ask();
  }
  for (int64_t t = blocks * kBlock; t < n; ++t) token_forward(table, modes, u + t * W, state, y + t * W);
}

template <class S>
void forward(const S4dScanArgs& a, const Threads& threads) {
  using T = Compute<S>;
  constexpr int W = kLanes<T>;
  const Tables<T> tables(a, threads);
  const int64_t sequences = a.layout.sequences, state_size = a.channels * a.modes * 2;
  const int64_t calls = asking(a.modes);
  const Bands<T> bands(a.channels, sequences, longest_sequence(a.layout) >= kBlock, threads);
  const Activations<const S> input(a.u, a.order, a.layout, a.channels);
  const Activations<S> result(a.y, a.y_order, a.layout, a.channels);
  result.zero_padding(a.layout);
  for_ranges<Denormals::flush>(threads, bands.count * sequences, [&](int64_t begin, int64_t end) {
    Buffer<T> u(kChunk * W), y(kChunk * W), states(kModeGroup * kStates<T>);
    Buffer<T> state(bands.width * a.modes * kPair<T>);
    Output<S> output(result, a.directions, a.layout, bands.width);
    auto state_of = [&](int64_t slot) { return state + slot * a.modes * kPair<T>; };
    for (int64_t item = begin; item < end; ++item) {
      const int64_t band = item / sequences, sequence = item % sequences, first = bands.begin(band);
      const T* initial = static_cast<const T*>(a.initial_state);
      if (initial) initial += sequence * state_size;
      for (int64_t direction = 0; direction < a.directions; ++direction) {
        const Walk walk(a, sequence, direction);
        for (int64_t index = first; index < bands.end(band); ++index)
          load_state(initial, a.modes, Group<T>(index, a.channels), T(1), state_of(index - first));
        for (int64_t chunk = 0; chunk < walk.chunks(); ++chunk)
          for (int64_t index = first; index < bands.end(band); ++index) {
            const int64_t slot = index - first;
            const Group<T> group(index, a.channels);
            if (a.checkpoints)
              store_group(checkpoint<T>(a, walk.first_slot + chunk, direction, group), a.channels, 2 * a.modes, group,
                         state_of(slot));
            load_chunk<S>(input, walk, chunk, group, u);
            LinesAhead next = chunk_lines(input, walk, chunk + 1, group, calls);
            LinesAhead here = output.lines(walk, chunk, group, calls);
            scan_chunk<T>(tables.of(direction, index), a.modes, walk.tokens(chunk), u, state_of(slot), states, y, [&] {
              next.ask();
              here.ask();
            });
            output.write(walk, chunk, direction, group, slot, y);
          }
      }
      if (!a.final_state) continue;
      for (int64_t index = first; index < bands.end(band); ++index)
        store_state(static_cast<T*>(a.final_state) + sequence * state_size, a.modes, Group<T>(index, a.channels), T(1),
                    state_of(index - first));
    }
  });
}

}  // namespace

void s4d_scan(const S4dScanArgs& args, const Threads& threads) {
  with_storage_type(args.dtype, [&](auto* p) { forward<Pointee<decltype(p)>>(args, threads); });
}

}  // namespace lyra::cpu::LYRA_ISA
