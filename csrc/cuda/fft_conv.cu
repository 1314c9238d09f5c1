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

// Activations are read and written N channels at a time, 16 bytes where their rows are aligned for it.
template <class T, int N>
__global__ void __launch_bounds__(kThreads)
    fft_pack_tiles(const T* __restrict__ x, Compute<T>* __restrict__ signal, Layout layout, int64_t channels,
                   int64_t points, unsigned tiles, unsigned groups) {
  using R = Compute<T>;
  constexpr int kPacks = kChannels / N;
  SHARED_ARRAY(R, tile, [kChannels][kPitch]);
  const int64_t first = static_cast<int64_t>(blockIdx.x % groups) * kChannels;
  const int64_t start = static_cast<int64_t>(blockIdx.x / groups % tiles) * kTokens;
  const Tile sequence = sequence_of(layout, blockIdx.x / groups / tiles);
  for (int i = threadIdx.x; i < kTokens * kPacks; i += kThreads) {
    const int t = i / kPacks, c = i % kPacks * N;
    R value[N] = {};
    if (first + c < channels && start + t < sequence.length)
      load<N>(x + (sequence.row + start + t) * channels + first + c, value);
#pragma unroll
    for (int k = 0; k < N; ++k) tile[c + k][t] = value[k];
  }
  __syncthreads();
  for (int i = threadIdx.x; i < kTokens * kChannels; i += kThreads) {
    const int c = i / kTokens, t = i % kTokens;
    if (first + c < channels && start + t < points)
      signal[(sequence.sequence * channels + first + c) * points + start + t] = tile[c][t];
  }
}

template <class T, int N>
__global__ void __launch_bounds__(kThreads)
    fft_unpack_tiles(const Compute<T>* __restrict__ signal, const T* __restrict__ x, const Compute<T>* __restrict__ D,
                     T* __restrict__ y, Layout layout, int64_t channels, int64_t points, unsigned groups) {
  using R = Compute<T>;
  constexpr int kPacks = kChannels / N;
  SHARED_ARRAY(R, tile, [kChannels][kPitch]);
  const int64_t first = static_cast<int64_t>(blockIdx.x % groups) * kChannels;
  const Tile place = find_tile(layout, blockIdx.x / groups, kShift);
  for (int i = threadIdx.x; i < kTokens * kChannels; i += kThreads) {
    const int c = i / kTokens, t = i % kTokens;
    const bool real = first + c < channels && place.start + t < place.length;
    tile[c][t] = real ? signal[(place.sequence * channels + first + c) * points + place.start + t] : R(0);
  }
  __syncthreads();
  static_assert(kThreads % kPacks == 0);
  const int c = threadIdx.x % kPacks * N;  // a thread keeps its channels
  if (first + c >= channels) return;
  R skip[N] = {};
  if (D) load_row<N>(D + first + c, skip);
  for (int t = threadIdx.x / kPacks; t < kTokens; t += kThreads / kPacks) {
    if (place.start + t >= place.rows) break;
    const int64_t at = (place.row + place.start + t) * channels + first + c;
    R value[N], input[N] = {};
    if (D && place.start + t < place.length) load<N>(x + at, input);
#pragma unroll
    for (int k = 0; k < N; ++k) value[k] = tile[c + k][t] + skip[k] * input[k];
    store<N>(y + at, value);
  }
}

// N complex numbers, 16 bytes or one.
template <int N, class R>
__device__ inline void load_spectrum(const Complex<R>* p, Complex<R> (&z)[N]) {
  if constexpr (N == 1) {
    z[0] = load_complex<R>(p);
  } else {
    static_assert(N * sizeof(Complex<R>) == 16);
    const uint4 raw = *reinterpret_cast<const uint4*>(p);
    memcpy(z, &raw, sizeof raw);
  }
}
template <int N, class R>
__device__ inline void store_spectrum(Complex<R>* p, const Complex<R> (&z)[N]) {
  if constexpr (N == 1) {
    store_complex(p, z[0]);
  } else {
    uint4 raw;
    memcpy(&raw, z, sizeof raw);
    *reinterpret_cast<uint4*>(p) = raw;
  }
}

template <class R, int N>
__global__ void fft_multiply_spectra(Complex<R>* __restrict__ spectra, const Complex<R>* __restrict__ kernel,
                                     int64_t sequences, int64_t pairs, bool conjugate) {
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * N;
  if (i >= pairs) return;
  Complex<R> factor[N], z[N];
  load_spectrum<N>(kernel + i, factor);
  if (conjugate)
#pragma unroll
    for (int k = 0; k < N; ++k) factor[k].im = -factor[k].im;
  for (int64_t s = 0; s < sequences; ++s) {
    load_spectrum<N>(spectra + s * pairs + i, z);
#pragma unroll
    for (int k = 0; k < N; ++k) z[k] = factor[k] * z[k];
    store_spectrum<N>(spectra + s * pairs + i, z);
  }
}

template <class R, int N>
__global__ void fft_correlate_spectra(const Complex<R>* __restrict__ spectra, const Complex<R>* __restrict__ other,
                                      Complex<R>* __restrict__ result, int64_t sequences, int64_t pairs) {
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * N;
  if (i >= pairs) return;
  Complex<R> sum[N], z[N], factor[N];
#pragma unroll
  for (int k = 0; k < N; ++k) sum[k] = {0, 0};
  for (int64_t s = 0; s < sequences; ++s) {
    load_spectrum<N>(spectra + s * pairs + i, z);
    load_spectrum<N>(other + s * pairs + i, factor);
#pragma unroll
    for (int k = 0; k < N; ++k) {
      factor[k].im = -factor[k].im;
      sum[k] = fma(z[k], factor[k], sum[k]);
    }
  }
  store_spectrum<N>(result + i, sum);
}

unsigned groups_of(int64_t channels) { return static_cast<unsigned>((channels + kChannels - 1) / kChannels); }

// f(null pointer to the compute type, complex numbers of one access as a constant)
template <class... P, class F>
void with_spectra(const FftSpectraArgs& args, F&& f, P... pointers) {
  if (args.dtype == DType::f64) return f(static_cast<double*>(nullptr), std::integral_constant<int, 1>());
  if (vectorizable<float>(2 * args.channels * args.frequencies, pointers...))
    return f(static_cast<float*>(nullptr), std::integral_constant<int, 2>());
  f(static_cast<float*>(nullptr), std::integral_constant<int, 1>());
}

// f(null pointer to the storage type, channels of one access as a constant)
template <class... P, class F>
void with_rows(DType dtype, int64_t channels, F&& f, P... pointers) {
  with_storage_type(dtype, [&](auto* p) {
    using T = Pointee<decltype(p)>;
    with_width<T>(vectorizable<T>(channels, pointers...), [&](auto width) { f(p, width); });
  });
}

}  // namespace

void fft_pack(const FftPackArgs& args) {
  with_rows(
      args.dtype, args.channels,
      [&](auto* p, auto width) {
        using T = Pointee<decltype(p)>;
        const int64_t tiles = (args.points + kTokens - 1) / kTokens;
        launch("fft_pack_tiles", fft_pack_tiles<T, decltype(width)::value>,
               args.layout.sequences * tiles * groups_of(args.channels), kThreads, 0, args.stream,
               static_cast<const T*>(args.x), static_cast<Compute<T>*>(args.signal), args.layout, args.channels,
               args.points, static_cast<unsigned>(tiles), groups_of(args.channels));
      },
      args.x);
}

void fft_unpack(const FftUnpackArgs& args) {
  with_rows(
      args.dtype, args.channels,
      [&](auto* p, auto width) {
        using T = Pointee<decltype(p)>;
        launch("fft_unpack_tiles", fft_unpack_tiles<T, decltype(width)::value>,
               args.layout.tiles(kTokens) * groups_of(args.channels), kThreads, 0, args.stream,
               static_cast<const Compute<T>*>(args.signal), static_cast<const T*>(args.x),
               static_cast<const Compute<T>*>(args.D), static_cast<T*>(args.y), args.layout, args.channels,
               args.points, groups_of(args.channels));
      },
      args.x, args.y, args.D);
}

void fft_multiply(const FftSpectraArgs& args, void* spectra) {
  with_spectra(
      args,
      [&](auto* p, auto width) {
        using R = Pointee<decltype(p)>;
        constexpr int N = decltype(width)::value;
        const int64_t pairs = args.channels * args.frequencies;
        launch("fft_multiply_spectra", fft_multiply_spectra<R, N>, (pairs / N + 127) / 128, 128, 0, args.stream,
               static_cast<Complex<R>*>(spectra), static_cast<const Complex<R>*>(args.other), args.sequences, pairs,
               args.conjugate);
      },
      spectra, args.other);
}

void fft_correlate(const FftSpectraArgs& args, const void* spectra, void* result) {
  with_spectra(
      args,
      [&](auto* p, auto width) {
        using R = Pointee<decltype(p)>;
        constexpr int N = decltype(width)::value;
        const int64_t pairs = args.channels * args.frequencies;
        launch("fft_correlate_spectra", fft_correlate_spectra<R, N>, (pairs / N + 127) / 128, 128, 0, args.stream,
               static_cast<const Complex<R>*>(spectra), static_cast<const Complex<R>*>(args.other),
               static_cast<Complex<R>*>(result), args.sequences, pairs);
      },
      spectra, args.other, result);
}

}  // namespace lyra::cuda
