// The short convolution and its backward. A work item is a tile of tokens of one sequence, and of some of its lines;
// a backward makes the gradients of the W - 1 sums after its tile again, so that tiles need nothing of each other.
#include "short_conv.h"

#include "short_conv_tile.h"
#include "tile.h"

namespace lyra::cpu::LYRA_ISA {
namespace {

// Where the activations of a batch lie.
struct Place {
  int64_t token, channel;  // strides

  Place(const ShortConvArgs& a, bool channels_first)
      : token(channels_first ? 1 : a.channels), channel(channels_first ? a.layout.max_length : 1) {}
  // The element of a token of sequence s.
  int64_t at(const ShortConvArgs& a, int64_t s, int64_t t, int64_t c) const {
    const int64_t row = a.layout.cu_seqlens ? 0 : s;
    const int64_t start = a.layout.cu_seqlens ? a.layout.begin(s) : 0;
    return row * a.layout.max_length * a.channels + (start + t) * token + c * channel;
  }
};

// Lines: vectors of channels, or single channels.
template <class T, bool First>
struct Lines {
  static constexpr int V = kLanes<T>, kStep = First ? 1 : V;
  static constexpr int64_t kTile = First ? 1024 : 512;  // tokens at most
  static constexpr int64_t kBlock = 16;                 // single channels of an item

  const ShortConvArgs& a;
  const int64_t history, count, blocks;
  const Tiles tiles;

  explicit Lines(const ShortConvArgs& args)
      : a(args), history(args.width - 1), count(First ? args.channels : groups_of<T>(args.channels)),
        blocks(First ? (count + kBlock - 1) / kBlock : 1), tiles(args.layout, tile_rows(args)) {}

  // Lines together in a first-level cache; the tokens that a backward takes twice must be few beside a tile's.
  static int64_t tile_rows(const ShortConvArgs& args) {
    constexpr int64_t kBytes = 32 << 10, kFewest = 32;
    const int64_t fitting = First ? kTile : kBytes / (args.channels * static_cast<int64_t>(sizeof(T)) + 1);
    return std::max(std::clamp(fitting, kFewest, kTile), 4 * args.width);
  }
  int64_t first_of(int64_t block) const { return First ? block * kBlock : 0; }
  int64_t end_of(int64_t block) const { return First ? std::min(count, (block + 1) * kBlock) : count; }
  Group<T> group(int64_t line) const {
    Group<T> group(First ? 0 : line, a.channels);
    if (First) group.first = line, group.lanes = 1;
    return group;
  }
  static int64_t vectors(int64_t tokens) { return First ? (tokens + V - 1) / V : tokens; }
  // Elements of a buffer for as many tokens, so that whole vectors may be read from any of them on.
  static int64_t room(int64_t tokens) { return tokens * kStep + V; }

  // The taps of a line, and its bias.
  void taps(int64_t line, T* table) const {
    const T *weight = static_cast<const T*>(a.weight), *bias = static_cast<const T*>(a.bias);
    if constexpr (First) {
      for (int64_t j = 0; j < a.width; ++j) store(table + j * V, splat(weight[line * a.width + j]));
      store(table + a.width * V, splat(bias ? bias[line] : T(0)));
    } else {
      const Group<T> lanes = group(line);
      zero(table, (a.width + 1) * V);
      for (int i = 0; i < lanes.lanes; ++i) {
        const int64_t h = lanes.first + i;
        for (int64_t j = 0; j < a.width; ++j) table[j * V + i] = weight[h * a.width + j];
        if (bias) table[a.width * V + i] = bias[h];
      }
    }
  }

  // n tokens at p to a buffer.
  template <class S>
  void load_tokens(const S* p, int64_t token, int64_t channel, int64_t n, const Group<T>& lanes, T* to) const {
    if constexpr (First) {
      int64_t t = 0;
      if (token == 1)
        for (; t + V <= n; t += V) store(to + t, load_as(p + t));
      for (; t < n; ++t) to[t] = to_compute(p[t * token]);
    } else if (channel == 1) {
      load_group(p, token, n, lanes, to);
    } else {
      if (!lanes.whole()) zero(to, n * V);
      for (int i = 0; i < lanes.lanes; ++i)
        for (int64_t t = 0; t < n; ++t) to[t * V + i] = to_compute(p[i * channel + t * token]);
    }
  }
  template <class S>
  void load_tile(const void* base, const Place& place, int64_t s, int64_t begin, int64_t end, const Group<T>& lanes,
                 T* to) const {
    const S* p = static_cast<const S*>(base) + place.at(a, s, begin, lanes.first);
    load_tokens(p, place.token, place.channel, end - begin, lanes, to);
  }
  // Tokens begin - W + 1 .. end of u: of the initial state or zeros where they are before the first.
  template <class S>
  void load_with_history(const Place& place, const Tile& tile, int64_t end, const Group<T>& lanes, T* x) const {
    const int64_t before = std::max<int64_t>(history - tile.begin, 0);  // tokens before the first
    if (before && a.initial_state) {
      const T* state = static_cast<const T*>(a.initial_state);
      state += (tile.sequence * history + tile.begin) * a.channels + lanes.first;
      load_tokens(state, a.channels, 1, before, lanes, x);
    } else {
      zero(x, before * kStep);
    }
    const int64_t begin = tile.begin - history + before;
    load_tile<S>(a.u, place, tile.sequence, begin, end, lanes, x + before * kStep);
    zero(x + (end - tile.begin + history) * kStep, V);
  }
  template <class S>
  void store_tile(void* base, const Place& place, const Tile& tile, const Group<T>& lanes, const T* from) const {
    S* p = static_cast<S*>(base) + place.at(a, tile.sequence, tile.begin, lanes.first);
    const int64_t n = tile.rows();
    if constexpr (First) {
      int64_t t = 0;
      for (; t + V <= n; t += V) store_as(p + t, load(from + t));
      if (t < n) store_first(p + t, load(from + t), static_cast<int>(n - t));
    } else {
      store_group(p, place.token, n, lanes, from);
    }
  }
  template <class S>
  void zero_padding(void* base, const Place& place) const {
    if (!a.layout.lengths) return;
    S* y = static_cast<S*>(base);
    for (int64_t s = 0; s < a.layout.sequences; ++s)
      for (int64_t c = 0; c < (First ? a.channels : 1); ++c)
        zero(y + place.at(a, s, a.layout.length(s), c), a.layout.padding(s) * place.token);
  }
};

// The taps of all lines, made once; of single channels, which are many and have few tokens each, at each.
template <class T, bool First>
class Tables {
 public:
  explicit Tables(const Lines<T, First>& lines)
      : lines_(lines), size_((lines.a.width + 1) * kLanes<T>), tables_(First ? 0 : lines.count * size_) {
    if (!First)
      for (int64_t line = 0; line < lines.count; ++line) lines.taps(line, tables_ + line * size_);
  }
  int64_t size() const { return size_; }
  const T* of(int64_t line, T* scratch) const {
    if (!First) return tables_ + line * size_;
    lines_.taps(line, scratch);
    return scratch;
  }

 private:
  const Lines<T, First>& lines_;
  const int64_t size_;
  Buffer<T> tables_;
};

int64_t longest_tile(const Tiles& tiles) {
  int64_t longest = 0;
  for (int64_t i = 0; i < tiles.size(); ++i) longest = std::max(longest, tiles[i].rows());
  return longest;
}

template <class S, bool First>
void forward(const ShortConvArgs& a, const Threads& threads) {
  using T = Compute<S>;
  const Lines<T, First> lines(a);
  const Place place(a, First);
  const Tables<T, First> tables(lines);
  const int64_t rows = longest_tile(lines.tiles);
  lines.template zero_padding<S>(a.y, place);
  for_ranges(threads, lines.tiles.size() * lines.blocks, [&](int64_t begin, int64_t end) {
    Buffer<T> scratch(tables.size()), x(lines.room(rows + lines.history)), y(lines.room(rows));
    for (int64_t item = begin; item < end; ++item) {
      const Tile& tile = lines.tiles[item / lines.blocks];
      const int64_t block = item % lines.blocks;
      for (int64_t line = lines.first_of(block); line < lines.end_of(block); ++line) {
        const Group<T> lanes = lines.group(line);
        lines.template load_with_history<S>(place, tile, tile.end, lanes, x);
        convolve_line<T, Lines<T, First>::kStep>(tables.of(line, scratch), a.width, a.silu, x,
                                                 lines.vectors(tile.rows()), y);
        lines.template store_tile<S>(a.y, place, tile, lanes, y);
      }
    }
  });
}

// The gradient of the tokens before the first: what the first W - 1 sums give them.
template <class T, bool First>
void store_state(const ShortConvBackwardArgs& b, const Lines<T, First>& lines, int64_t sequence, const Group<T>& lanes,
                 const T* table, const T* g) {
  constexpr int V = kLanes<T>;
  const ShortConvArgs& a = b.forward;
  T* state = static_cast<T*>(b.dinitial_state) + sequence * lines.history * a.channels + lanes.first;
  for (int64_t k = 0; k < lines.history; ++k, state += a.channels) {
    if constexpr (First) {
      T sum = 0;
      for (int64_t j = 0; j <= k; ++j) sum += table[j * V] * g[k - j];
      *state = sum;
    } else {
      Vec<T> sum{};
      for (int64_t j = 0; j <= k; ++j) sum += load(table + j * V) * load(g + (k - j) * V);
      store_lanes(state, sum, lanes.lanes);
    }
  }
}

template <class S, bool First>
void backward(const ShortConvBackwardArgs& b, const Threads& threads) {
  using T = Compute<S>;
  constexpr int V = kLanes<T>, kStep = Lines<T, First>::kStep;
  const ShortConvArgs& a = b.forward;
  const Lines<T, First> lines(a);
  const Place place(a, First), of_grad(a, b.grad_channels_first);
  const Tables<T, First> tables(lines);
  const int64_t rows = longest_tile(lines.tiles), history = lines.history, count = lines.tiles.size();
  const int64_t size = (a.width + 1) * a.channels;  // of the sums: taps' and the bias's, by channels
  const int64_t parts = std::max<int64_t>(1, number_of_parts(count, size * static_cast<int64_t>(sizeof(double))));
  Buffer<double> sums(parts * size, 0.0);
  lines.template zero_padding<S>(b.du, place);
  if (b.dinitial_state) zero(static_cast<T*>(b.dinitial_state), a.layout.sequences * history * a.channels);
  for_ranges(threads, parts * lines.blocks, [&](int64_t begin, int64_t end) {
    Buffer<T> scratch(tables.size()), found(tables.size()), du(lines.room(rows));
    Buffer<T> x(lines.room(rows + 2 * history)), g(lines.room(rows + history));
    for (int64_t item = begin; item < end; ++item) {
      const int64_t part = item / lines.blocks, block = item % lines.blocks;
      for (int64_t i = count * part / parts; i < count * (part + 1) / parts; ++i) {
        const Tile& tile = lines.tiles[i];
        const int64_t n = tile.rows(), with_halo = std::min(n + history, tile.length - tile.begin);
        for (int64_t line = lines.first_of(block); line < lines.end_of(block); ++line) {
          const Group<T> lanes = lines.group(line);
          const T* table = tables.of(line, scratch);
          lines.template load_with_history<S>(place, tile, tile.begin + with_halo, lanes, x);
          lines.template load_tile<S>(b.grad, of_grad, tile.sequence, tile.begin, tile.begin + with_halo, lanes, g);
          zero(g + with_halo * kStep, lines.room(n + history) - with_halo * kStep);
          if (a.silu) silu_gradient<T, kStep>(table, a.width, x, lines.vectors(with_halo), g);
          transposed_line<T, kStep>(table, a.width, g, lines.vectors(n), du);
          lines.template store_tile<S>(b.du, place, tile, lanes, du);
          if (b.dinitial_state && tile.begin == 0) store_state<T, First>(b, lines, tile.sequence, lanes, table, g);
          correlate_line<T, kStep>(a.width, x, g, First ? n / V : n, First ? static_cast<int>(n % V) : 0, found);
          double* total = sums + part * size + lanes.first;
          for (int64_t j = 0; j <= a.width; ++j, total += a.channels) {
            if constexpr (First)
              *total += static_cast<double>(sum_lanes<T>(load(found + j * V)));
            else
              for (int k = 0; k < lanes.lanes; ++k) total[k] += static_cast<double>(found[j * V + k]);
          }
        }
      }
    }
  });
  add_parts<double>(sums, parts, size, threads);
  for (int64_t h = 0; h < a.channels; ++h) {
    for (int64_t j = 0; j < a.width; ++j)
      static_cast<T*>(b.dweight)[h * a.width + j] = static_cast<T>(sums[j * a.channels + h]);
    if (b.dbias) static_cast<T*>(b.dbias)[h] = static_cast<T>(sums[a.width * a.channels + h]);
  }
}

}  // namespace

void short_conv(const ShortConvArgs& args, const Threads& threads) {
  with_storage_type(args.dtype, [&](auto* p) {
    using S = Pointee<decltype(p)>;
    args.channels_first ? forward<S, true>(args, threads) : forward<S, false>(args, threads);
  });
}

void short_conv_backward(const ShortConvBackwardArgs& args, const Threads& threads) {
  with_storage_type(args.forward.dtype, [&](auto* p) {
    using S = Pointee<decltype(p)>;
    args.forward.channels_first ? backward<S, true>(args, threads) : backward<S, false>(args, threads);
  });
}

}  // namespace lyra::cpu::LYRA_ISA
