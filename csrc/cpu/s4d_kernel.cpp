// Kernel generation as a matrix product. With l = 64 b + k, K[b, k] = Re sum_n (c a^(64 b))_n (a^k)_n: per channel
// (blocks x 2 modes) times (2 modes x 64), 2 multiply-adds per tap and mode, and only (blocks + 64) powers per mode.
// A register block of 4 blocks x kVectors vectors of taps needs one load per 2 multiply-adds or fewer (AVX-512).
#include "s4d_powers.h"

namespace lyra::cpu::LYRA_ISA {
namespace {

constexpr int kRows = 4;                                    // blocks computed together
constexpr int kVectors = kVectorBytes == 64 ? 4 : 2;        // 16 of 32 registers, 8 of 16

// The channel's table in the dtype of the result.
template <class T>
void round_powers(const double* exact, int64_t count, T* table) {
  for (int64_t i = 0; i < count; ++i) table[i] = static_cast<T>(exact[i]);
}

// c a^(64 b) for the blocks of a range, starting from `start`, (blocks, 2, padded): re and negated im. Returns whether
// any of them is not zero: what has decayed below the smallest normal number adds nothing.
template <class T>
bool starts_of_blocks(const Poles& poles, int64_t h, int64_t modes, int64_t first_tap, int64_t blocks, T* starts) {
  const int64_t padded = padded_modes(modes);
  bool any = false;
  for (int64_t n = 0; n < modes; n += kD) {
    const Complex step = power(poles.a(h, n), kTaps);
    Complex value = poles.c(h, n) * power(poles.a(h, n), first_tap);
    for (int64_t b = 0; b < blocks; ++b) {
      T* out = starts + b * 2 * padded + n;
      for (int i = 0; i < kD; ++i) {
        out[i] = static_cast<T>(value.re[i]);
        out[padded + i] = static_cast<T>(-value.im[i]);
      }
      value = value * step;
    }
    for (int i = 0; i < kD && !any; ++i)  // of the first block; |a| < 1, and a NaN counts
      any = !(starts[n + i] == T(0) && starts[padded + n + i] == T(0));
  }
  return any;
}

// out[r][v] = the taps of kRows blocks, kVectors vectors from the tap that `powers` points to.
template <class T>
LYRA_INLINE void multiply(const T* powers, const T* starts, int64_t modes, Vec<T> (&acc)[kRows][kVectors]) {
  constexpr int W = kLanes<T>;
  const int64_t padded = padded_modes(modes);
  for (auto& row : acc)
    for (auto& v : row) v = Vec<T>{};
  for (int64_t n = 0; n < modes; ++n, powers += 2 * kTaps, ++starts) {
    Vec<T> r[kVectors], i[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      r[v] = load(powers + v * W);
      i[v] = load(powers + kTaps + v * W);
    }
    for (int row = 0; row < kRows; ++row) {
      const T zr = starts[row * 2 * padded], zi = starts[(row * 2 + 1) * padded];
      for (int v = 0; v < kVectors; ++v) acc[row][v] += r[v] * zr;
      for (int v = 0; v < kVectors; ++v) acc[row][v] += i[v] * zi;
    }
  }
}

template <class T>
void generate_range(const T* powers, const T* starts, int64_t modes, int64_t taps, T* out) {
  constexpr int W = kLanes<T>, kPart = W * kVectors;
  const int64_t stride = 2 * padded_modes(modes);
  for (int64_t b = 0; b * kTaps < taps; b += kRows)
    for (int64_t k = 0; k < kTaps; k += kPart) {
      Vec<T> acc[kRows][kVectors];
      multiply(powers + k, starts + b * stride, modes, acc);
      for (int row = 0; row < kRows; ++row)
        for (int v = 0; v < kVectors; ++v) {
          const int64_t at = (b + row) * kTaps + k + v * W;
          if (at + W <= taps)
            store(out + at, acc[row][v]);
          else if (at < taps)
            store_first(out + at, acc[row][v], static_cast<int>(taps - at));
        }
    }
}

template <class T>
void forward(const S4dKernelArgs& a, const Threads& threads) {
  const Modes<T> m{a.channels, a.modes, static_cast<const T*>(a.log_dt), static_cast<const T*>(a.log_A_real),
                   static_cast<const T*>(a.A_imag), static_cast<const T*>(a.C)};
  const Poles poles(m, threads);
  const int64_t segments = (a.length + kSegment - 1) / kSegment;
  for_ranges<Denormals::flush>(threads, a.channels * segments, [&](int64_t begin, int64_t end) {
    const int64_t table_size = a.modes * 2 * kTaps;
    Buffer<double> exact(table_size);
    Buffer<T> powers(table_size), starts(kRangeBlocks * 2 * padded_modes(a.modes));
    for (int64_t item = begin; item < end; ++item) {
      const int64_t h = item / segments, segment = item % segments;
      if (item == begin || segment == 0) {
        powers_of_taps(poles, h, a.modes, exact);
        round_powers<T>(exact, table_size, powers);
      }
      T* row = static_cast<T*>(a.kernel) + h * a.length;
      const int64_t last = (segment + 1) * kSegment < a.length ? (segment + 1) * kSegment : a.length;
      for (int64_t l = segment * kSegment; l < last; l += kRange) {
        const int64_t taps = last - l < kRange ? last - l : kRange;
        const int64_t blocks = ((taps + kTaps - 1) / kTaps + kRows - 1) / kRows * kRows;
        if (starts_of_blocks<T>(poles, h, a.modes, l, blocks, starts))
          generate_range<T>(powers, starts, a.modes, taps, row + l);
        else
          zero(row + l, taps);
      }
    }
  });
}

}  // namespace

void s4d_kernel(const S4dKernelArgs& args, const Threads& threads) {
  with_compute_type(args.dtype, [&](auto* p) { forward<Pointee<decltype(p)>>(args, threads); });
}

}  // namespace lyra::cpu::LYRA_ISA
