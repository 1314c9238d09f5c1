// Tiles of 64 tokens x 32 channels turn in shared memory, so that both sides are read and written in rows.
#include "fft_conv.h"

#include "layout.cuh"
#include "types.cuh"

namespace lyra::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kTokens = 64, kChannels = 32, kPitch = kTokens + 1;
constexpr int kShift = 6;
static_assert(kTokens == 1 << kShift);

template <class T>
__global__ void __launch_bounds__(kThreads)
    fft_pack_tiles(const T* __restrict__ x, Compute<T>* __restrict__ signal, Layout layout, int64_t channels,
                   int64_t points, unsigned tiles, unsigned groups) {
  using R = Compute<T>;
  SHARED_ARRAY(R, tile, [kChannels][kPitch]);
  const int64_t first = static_cast<int64_t>(blockIdx.x % groups) * kChannels;
  const int64_t start = static_cast<int64_t>(blockIdx.x / groups % tiles) * kTokens;
  const Tile sequence = sequence_of(layout, blockIdx.x / groups / tiles);
  for (int i = threadIdx.x; i < kTokens * kChannels; i += kThreads) {
    const int t = i / kChannels, c = i % kChannels;
    const bool real = first + c < channels && start + t < sequence.length;
    tile[c][t] = real ? widen(x[(sequence.row + start + t) * channels + first + c]) : R(0);
  }
  __syncthreads();
  for (int i = threadIdx.x; i < kTokens * kChannels; i += kThreads) {
    const int c = i / kTokens, t = i % kTokens;
    if (first + c < channels && start + t < points)
      signal[(sequence.sequence * channels + first + c) * points + start + t] = tile[c][t];
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    fft_unpack_tiles(const Compute<T>* __restrict__ signal, const T* __restrict__ x, const Compute<T>* __restrict__ D,
                     T* __restrict__ y, Layout layout, int64_t channels, int64_t points, unsigned groups) {
  using R = Compute<T>;
  SHARED_ARRAY(R, tile, [kChannels][kPitch]);
  const int64_t first = static_cast<int64_t>(blockIdx.x % groups) * kChannels;
  const Tile place = find_tile(layout, blockIdx.x / groups, kShift);
  for (int i = threadIdx.x; i < kTokens * kChannels; i += kThreads) {
    const int c = i / kTokens, t = i % kTokens;
    const bool real = first + c < channels && place.start + t < place.length;
    tile[c][t] = real ? signal[(place.sequence * channels + first + c) * points + place.start + t] : R(0);
  }
  __syncthreads();
  static_assert(kThreads % kChannels == 0);
  const int c = threadIdx.x % kChannels;  // a thread keeps its channel
  if (first + c >= channels) return;
  const R skip = D ? D[first + c] : R(0);
  for (int t = threadIdx.x / kChannels; t < kTokens; t += kThreads / kChannels) {
    if (place.start + t >= place.rows) break;
    const int64_t at = (place.row + place.start + t) * channels + first + c;
    R value = tile[c][t];
    if (D && place.start + t < place.length) value += skip * widen(x[at]);
    y[at] = Narrow<T>::from(value);
  }
}

template <class R>
__global__ void fft_multiply_spectra(Complex<R>* __restrict__ spectra, const Complex<R>* __restrict__ kernel,
                                     int64_t sequences, int64_t pairs, bool conjugate) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= pairs) return;
  Complex<R> factor = kernel[i];
  if (conjugate) factor.im = -factor.im;
  for (int64_t s = 0; s < sequences; ++s) spectra[s * pairs + i] = factor * spectra[s * pairs + i];
}

template <class R>
__global__ void fft_correlate_spectra(const Complex<R>* __restrict__ spectra, const Complex<R>* __restrict__ other,
                                      Complex<R>* __restrict__ result, int64_t sequences, int64_t pairs) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= pairs) return;
  Complex<R> sum{0, 0};
  for (int64_t s = 0; s < sequences; ++s) {
    Complex<R> factor = other[s * pairs + i];
    factor.im = -factor.im;
    sum = fma(spectra[s * pairs + i], factor, sum);
  }
  result[i] = sum;
}

unsigned groups_of(int64_t channels) { return static_cast<unsigned>((channels + kChannels - 1) / kChannels); }

template <class F>
void with_compute_type(DType dtype, F&& f) {
  if (dtype == DType::f64) return f(static_cast<double*>(nullptr));
  f(static_cast<float*>(nullptr));
}

}  // namespace

void fft_pack(const FftPackArgs& args) {
  with_type(args.dtype, [&](auto* p) {
    using T = Pointee<decltype(p)>;
    const int64_t tiles = (args.points + kTokens - 1) / kTokens;
    launch("fft_pack_tiles", fft_pack_tiles<T>, args.layout.sequences * tiles * groups_of(args.channels), kThreads, 0,
           args.stream, static_cast<const T*>(args.x), static_cast<Compute<T>*>(args.signal), args.layout,
           args.channels, args.points, static_cast<unsigned>(tiles), groups_of(args.channels));
  });
}

void fft_unpack(const FftUnpackArgs& args) {
  with_type(args.dtype, [&](auto* p) {
    using T = Pointee<decltype(p)>;
    launch("fft_unpack_tiles", fft_unpack_tiles<T>, args.layout.tiles(kTokens) * groups_of(args.channels), kThreads, 0,
           args.stream, static_cast<const Compute<T>*>(args.signal), static_cast<const T*>(args.x),
           static_cast<const Compute<T>*>(args.D), static_cast<T*>(args.y), args.layout, args.channels, args.points,
           groups_of(args.channels));
  });
}

void fft_multiply(const FftSpectraArgs& args, void* spectra) {
  with_compute_type(args.dtype, [&](auto* p) {
    using C = Complex<Pointee<decltype(p)>>;
    const int64_t pairs = args.channels * args.frequencies;
    launch("fft_multiply_spectra", fft_multiply_spectra<Pointee<decltype(p)>>, (pairs + 127) / 128, 128, 0, args.stream,
           static_cast<C*>(spectra), static_cast<const C*>(args.other), args.sequences, pairs, args.conjugate);
  });
}

void fft_correlate(const FftSpectraArgs& args, const void* spectra, void* result) {
  with_compute_type(args.dtype, [&](auto* p) {
    using C = Complex<Pointee<decltype(p)>>;
    const int64_t pairs = args.channels * args.frequencies;
    launch("fft_correlate_spectra", fft_correlate_spectra<Pointee<decltype(p)>>, (pairs + 127) / 128, 128, 0, args.stream,
           static_cast<const C*>(spectra), static_cast<const C*>(args.other), static_cast<C*>(result), args.sequences,
           pairs);
  });
}

}  // namespace lyra::cuda
