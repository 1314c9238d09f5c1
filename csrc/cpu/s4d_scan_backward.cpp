// Backward scan. With the state S before a block and the adjoint G = dL/dS' of the state after it (dL = Re(G dS')),
//   du_j = sum_{k >= j} local_{k-j} g_k + Re sum_n a^(7-j) G,      dL/dS = a^8 G + sum_k c~ a^k g_k,
// the transpose of the forward pass with the same tables. The states come from the checkpoint of each chunk. The
// gradient of every table entry is a sum of products over blocks (table entry a^(7-j): G u_j, c~ a^k: S g_k,
// a^8: S G, local_l: g_{t+l} u_t); what a, c and the parameters have to do with the entries is left to chain_table.
//
// A work item is a band of groups of channels and a fixed share of the sequences, whose sums it collects: in the
// compute dtype for some chunks, then in double. The shares are added in order, so that gradients are the same for any
// number of threads.
#include "s4d_states.h"
#include "sums.h"

namespace lyra::cpu::LYRA_ISA {
namespace {

constexpr int64_t kFlushEvery = 32;  // chunks

// What a thread works in.
template <class T>
struct Workspace {
  Buffer<T> u, g, du, state, states, adjoints, tail;
  int64_t modes;

 private:
  Buffer<T> all_adjoints_, all_sums_;

 public:
  T *adjoint = nullptr, *sums = nullptr;  // of the selected slot: what a group keeps from chunk to chunk
  int64_t slots, directions, pending[2] = {0, 0};  // chunks in the sums of each direction

  Workspace(int64_t m, int64_t slots, int64_t directions)
      : u(kChunk * kLanes<T>), g(kChunk * kLanes<T>), du(kChunk * kLanes<T>), state(m * kPair<T>),
        states(kModeGroup * kStates<T>), adjoints(kModeGroup * kStates<T>), tail(m * kPair<T> * (kBlock + 1)),
        modes(m), all_adjoints_(slots * m * kPair<T>), all_sums_(slots * directions * sums_size<T>(m)), slots(slots),
        directions(directions) {
    zero<T>(all_sums_, slots * directions * sums_size<T>(m));
  }
  void select(int64_t slot, int64_t direction) {
    adjoint = all_adjoints_ + slot * modes * kPair<T>;
    sums = all_sums_ + (slot * directions + direction) * sums_size<T>(modes);
  }
  // Moves the sums of a direction to those in double, (slots used, directions) with a stride between slots.
  void flush(int64_t direction, int64_t used, double* out, int64_t stride) {
    const int64_t size = sums_size<T>(modes);
    for (int64_t slot = 0; slot < used; ++slot) {
      select(slot, direction);
      double* total = out + slot * stride + direction * size;
      for (int64_t i = 0; i < size; ++i) {
        total[i] += static_cast<double>(sums[i]);
        sums[i] = T(0);
      }
    }
    pending[direction] = 0;
  }
};

// The last n - done tokens of a chunk, which fill no block: du, sums and the adjoint states before them.
template <class T>
void backward_tail(const T* table, int64_t done, int64_t n, Workspace<T>& x) {
  constexpr int W = kLanes<T>;
  const int64_t modes = x.modes, size = modes * kPair<T>;
  T* states = x.tail;  // before each token of the tail, and after the last
  copy<T>(x.state, size, states);
  for (int64_t m = 0; m < modes; ++m)
    carry<T, false>(table + m * kEntries * kPair<T>, 1, x.u, static_cast<int>(done / kBlock), states + m * kPair<T>,
                    x.states);
  for (int64_t t = done; t < n; ++t, states += size) {
    copy(states, size, states + size);
    token_forward<T>(table, modes, x.u + t * W, states + size, x.du + t * W);
  }
  for (int64_t t = n - 1; t >= done; --t) {
    states -= size;
    token_backward<T>(table, modes, x.u + t * W, x.g + t * W, states, x.adjoint, x.du + t * W, x.sums);
  }
}

// Calls of ask() in backward_chunk.
int64_t asking(int64_t modes) { return 1 + 3 * ((modes + kModeGroup - 1) / kModeGroup); }

// du of one chunk of n tokens; `state` holds the states before it, `adjoint` is carried from its end to its start. ask()
// is called between computations.
template <class T, class Ask>
void backward_chunk(const T* table, int64_t n, Workspace<T>& x, Ask&& ask) {
  ask();
  const int blocks = static_cast<int>(n / kBlock);
  const int64_t done = blocks * kBlock, modes = x.modes;
  const T *u = x.u, *g = x.g, *local = table + modes * kEntries * kPair<T>;
  if (n > done) backward_tail(table, done, n, x);
  if (blocks == 0) return;
  convolve_blocks<T, true>(local, g, blocks, x.du);
  correlate_blocks(u, g, blocks, x.sums + modes * kSums * kPair<T>);
  for (int64_t m = 0; m < modes; m += kModeGroup) {
    const int64_t some = modes - m < kModeGroup ? modes - m : kModeGroup;
    const T* entries = table + m * kEntries * kPair<T>;
    T *states = x.states, *adjoints = x.adjoints;
    carry<T, false>(entries, some, u, blocks, x.state + m * kPair<T>, states);
    ask();
    carry<T, true>(entries, some, g, blocks, x.adjoint + m * kPair<T>, adjoints);
    ask();
    for (int64_t i = 0; i < some; ++i)
      add_block_sums(states + i * kStates<T>, adjoints + i * kStates<T>, u, g, blocks,
                     x.sums + (m + i) * kSums * kPair<T>);
    decode<T, true>(entries, some, adjoints, blocks, x.du);
    ask();
  }
}

// One band of one sequence; sums + slot * stride are those of its groups, (directions, sums_size).
template <class S>
void backward_sequence(const S4dScanBackwardArgs& b, const Tables<Compute<S>>& tables, int64_t first, int64_t last,
                       int64_t sequence, Workspace<Compute<S>>& x, Output<S>& output, double* sums, int64_t stride) {
  using T = Compute<S>;
  const S4dScanArgs& a = b.forward;
  const Activations<const S> u(a.u, a.order, a.layout, a.channels);
  const Activations<const S> grad_y(b.grad_y, b.grad_order, a.layout, a.channels);
  const int64_t state_size = a.channels * a.modes * 2, calls = asking(a.modes);
  for (int64_t direction = 0; direction < a.directions; ++direction) {
    const T* final_state = static_cast<const T*>(b.grad_final_state);
    if (final_state) final_state += sequence * state_size;
    for (int64_t index = first; index < last; ++index) {
      x.select(index - first, direction);
      load_state(final_state, a.modes, Group<T>(index, a.channels), T(-1), x.adjoint);
    }
    const Walk walk(a, sequence, direction);
    for (int64_t chunk = walk.chunks() - 1; chunk >= 0; --chunk) {
      for (int64_t index = first; index < last; ++index) {
        const Group<T> group(index, a.channels);
        const int64_t slot = index - first;
        x.select(slot, direction);
        const T* states = checkpoint<T>(a, walk.first_slot + chunk, direction, group);
        load_group(states, a.channels, 2 * a.modes, group, x.state);
        load_chunk<S>(u, walk, chunk, group, x.u);
        load_chunk<S>(grad_y, walk, chunk, group, x.g);
        LinesAhead next_u = chunk_lines(u, walk, chunk - 1, group, calls);
        LinesAhead next_g = chunk_lines(grad_y, walk, chunk - 1, group, calls);
        LinesAhead next_states;
        if (chunk > 0) {
          constexpr int64_t kBytes = sizeof(T);
          next_states = LinesAhead(checkpoint<T>(a, walk.first_slot + chunk - 1, direction, group), a.channels * kBytes,
                                   group.lanes * kBytes, 2 * a.modes, calls);
        }
        LinesAhead here = output.lines(walk, chunk, group, calls);
        backward_chunk(tables.of(direction, index), walk.tokens(chunk), x, [&] {
          next_u.ask();
          next_g.ask();
          next_states.ask();
          here.ask();
        });
        output.write(walk, chunk, direction, group, slot, x.du);
      }
      if (++x.pending[direction] == kFlushEvery) x.flush(direction, last - first, sums, stride);
    }
  }
  if (!b.dinitial_state) return;
  for (int64_t index = first; index < last; ++index) {
    x.select(index - first, 0);
    store_state(static_cast<T*>(b.dinitial_state) + sequence * state_size, a.modes, Group<T>(index, a.channels), T(-1),
                x.adjoint);
  }
}

template <class S>
void backward(const S4dScanBackwardArgs& b, const Threads& threads) {
  using T = Compute<S>;
  const S4dScanArgs& a = b.forward;
  const Tables<T> tables(a, threads);
  const int64_t groups = groups_of<T>(a.channels), sequences = a.layout.sequences;
  const int64_t shares = shares_of_sequences(groups, sequences);
  const Bands<T> bands(a.channels, shares, longest_sequence(a.layout) >= kBlock, threads);
  const int64_t size = sums_size<T>(a.modes) * a.directions;
  Buffer<double> sums(groups * shares * size);
  const Activations<S> du(b.du, a.order, a.layout, a.channels);
  du.zero_padding(a.layout);
  for_ranges<Denormals::flush>(threads, bands.count * shares, [&](int64_t begin, int64_t end) {
    Workspace<T> workspace(a.modes, bands.width, a.directions);
    Output<S> output(du, a.directions, a.layout, bands.width);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t band = item / shares, share = item % shares, first = bands.begin(band), last = bands.end(band);
      double* out = sums + (first * shares + share) * size;
      for (int64_t index = first; index < last; ++index) zero(out + (index - first) * shares * size, size);
      for (int64_t s = sequences * share / shares; s < sequences * (share + 1) / shares; ++s)
        backward_sequence<S>(b, tables, first, last, s, workspace, output, out, shares * size);
      for (int64_t direction = 0; direction < a.directions; ++direction)
        workspace.flush(direction, last - first, out, shares * size);
    }
  });
  zero(static_cast<T*>(b.dlog_dt), a.channels);
  zero(static_cast<T*>(b.dlog_A_real), a.channels * a.modes);
  zero(static_cast<T*>(b.dA_imag), a.channels * a.modes);
  for_ranges<Denormals::flush>(threads, groups, [&](int64_t begin, int64_t end) {
    for (int64_t index = begin; index < end; ++index) {
      double* total = sums + index * shares * size;
      add_parts(total, shares, size, 0, size);
      for (int64_t direction = 0; direction < a.directions; ++direction) {
        const ModeGradients<T> out{static_cast<T*>(b.dlog_dt), static_cast<T*>(b.dlog_A_real),
                                   static_cast<T*>(b.dA_imag),
                                   static_cast<T*>(b.dC) + direction * a.channels * a.modes * 2,
                                   static_cast<T*>(b.dD)};
        chain_table<T>(a, direction, index, total + direction * sums_size<T>(a.modes), out);
      }
    }
  });
}

}  // namespace

void s4d_scan_backward(const S4dScanBackwardArgs& args, const Threads& threads) {
  with_storage_type(args.forward.dtype, [&](auto* p) { backward<Pointee<decltype(p)>>(args, threads); });
}

}  // namespace lyra::cpu::LYRA_ISA
