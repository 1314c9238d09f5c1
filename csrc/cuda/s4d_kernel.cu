// S4D's convolution kernel as matrix products; see s4d_kernel.h.
//
// A block makes a tile of kRows x J taps of one channel. With l = base + i J + j the power splits,
//   K[i, j] = sum_n Re(X_ni Y_nj),   X_ni = c_n a_n^(base + i J),   Y_nj = a_n^j,
// so a tile needs M (kRows + J) powers instead of M kRows J. The backward runs the product the other way: with
// U_ni = sum_j g_ij Y_nj and V_ni = sum_j g_ij j Y_nj,
//   sum_l g_l a^l = sum_i a^(base + i J) U_i,   sum_l g_l l a^l = sum_i a^(base + i J) ((base + i J) U_i + V_i).
#include "s4d_kernel.h"

#include "s4d_gradients.cuh"

namespace lyra::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kBlocks = 2;  // on a multiprocessor
constexpr int kRows = 64;
constexpr int kSide = 16;  // the threads of a block form a square; each has every 16th row and column of the tile

template <class R>
constexpr int kColumns = sizeof(R) == 4 ? 64 : 32;
template <class R>
constexpr int kModes = sizeof(R) == 4 ? 32 : 16;  // taken at a time; what shared memory holds
template <class R>
constexpr int kTaps = kRows * kColumns<R>;

template <class R>
__global__ void __launch_bounds__(kThreads, kBlocks)
    s4d_kernel_taps(ModeParameters<R> p, int64_t channels, int64_t length, unsigned tiles, R* __restrict__ kernel) {
  constexpr int J = kColumns<R>, kOwn = J / kSide, kOwnRows = kRows / kSide;
  SHARED_ARRAY(Complex<R>, x, [kModes<R>][kRows]);
  SHARED_ARRAY(Complex<R>, y, [kModes<R>][J]);
  SHARED_ARRAY(Exponent, z, [kModes<R>]);
  SHARED_ARRAY(Complex<R>, c, [kModes<R>]);
  const int64_t h = blockIdx.x / tiles, base = static_cast<int64_t>(blockIdx.x % tiles) * kTaps<R>;
  const int64_t left = length - base;
  const int rows = left >= kTaps<R> ? kRows : static_cast<int>((left + J - 1) / J);
  const int row = threadIdx.x / kSide, column = threadIdx.x % kSide;
  R sum[kOwnRows][kOwn] = {};
  for (int first = 0; first < p.modes; first += kModes<R>) {
    const int modes = min(kModes<R>, p.modes - first);
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < modes) {
      const Pole q = discretize(p, h, first + threadIdx.x);
      const Complex<double> value = 2 * q.dt * (weight_of(p, channels, 0, h, first + threadIdx.x) * q.phi);
      store_exponent(&z[threadIdx.x], {q.z.re, q.z.im * kInversePi});
      store_complex(&c[threadIdx.x], Complex<R>{static_cast<R>(value.re), static_cast<R>(value.im)});
    }
    __syncthreads();
    for (int i = threadIdx.x; i < modes * rows; i += kThreads) {
      const int n = i / rows, r = i % rows;
      store_complex(&x[n][r], load_complex<R>(&c[n]) * power<R>(load_exponent(&z[n]), static_cast<double>(base + r * J)));
    }
    for (int i = threadIdx.x; i < modes * J; i += kThreads)
      store_complex(&y[i / J][i % J], power<R>(load_exponent(&z[i / J]), i % J));
    __syncthreads();
    for (int n = 0; n < modes; ++n) {
      Complex<R> right[kOwn];
#pragma unroll
      for (int j = 0; j < kOwn; ++j) right[j] = load_complex<R>(&y[n][column + j * kSide]);
#pragma unroll
      for (int i = 0; i < kOwnRows; ++i) {
        if (row + i * kSide >= rows) break;
        const Complex<R> left_factor = load_complex<R>(&x[n][row + i * kSide]);
#pragma unroll
        for (int j = 0; j < kOwn; ++j) sum[i][j] += left_factor.re * right[j].re - left_factor.im * right[j].im;
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kOwnRows; ++i)
#pragma unroll
    for (int j = 0; j < kOwn; ++j) {
      const int64_t l = base + (row + i * kSide) * J + column + j * kSide;
      if (l < length) kernel[h * length + l] = sum[i][j];
    }
}

// partial (tiles, channels, modes, 4): a tile's share of sum g a^l and of sum g l a^l.
template <class R>
__global__ void __launch_bounds__(kThreads, kBlocks)
    s4d_kernel_gradients(ModeParameters<R> p, int64_t channels, int64_t length, unsigned tiles,
                         const R* __restrict__ grad, R* __restrict__ partial) {
  constexpr int J = kColumns<R>, kGroups = kThreads / kModes<R>, kOwnRows = kRows / kGroups;
  constexpr int kPiece = kVector<R>, kPad = J + kPiece;
  SHARED_ARRAY(Complex<R>, y, [J][kModes<R>]);
  SHARED_ARRAY(uint4, tile, [kRows * kPad / kPiece]);  // grad, kRows x kPad
  SHARED_ARRAY(Exponent, z, [kModes<R>]);
  SHARED_ARRAY(R, shares, [kGroups][4][kModes<R> + kModes<R> / 4]);  // such that 4 of each of 8 modes are in 32 banks
  const unsigned tile_number = blockIdx.x % tiles;
  const int64_t h = blockIdx.x / tiles, base = static_cast<int64_t>(tile_number) * kTaps<R>;
  R* g = reinterpret_cast<R*>(&tile[0]);
  for (int i = threadIdx.x; i < kTaps<R>; i += kThreads)
    g[i / J * kPad + i % J] = base + i < length ? grad[h * length + base + i] : R(0);
  const int64_t left = length - base;
  const int rows = left >= kTaps<R> ? kRows : static_cast<int>((left + J - 1) / J);
  const int lane = threadIdx.x % kModes<R>, group = threadIdx.x / kModes<R>, row = group * kOwnRows;
  for (int first = 0; first < p.modes; first += kModes<R>) {
    const int modes = min(kModes<R>, p.modes - first);
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < modes) store_exponent(&z[threadIdx.x], exponent_of(p, h, first + threadIdx.x));
    __syncthreads();
    for (int i = threadIdx.x; i < J * kModes<R>; i += kThreads) {
      const int n = i % kModes<R>;
      store_complex(&y[i / kModes<R>][n],
                    n < modes ? power<R>(load_exponent(&z[n]), i / kModes<R>) : Complex<R>{0, 0});
    }
    __syncthreads();
    Complex<R> dc{0, 0}, dz{0, 0};
    if (row < rows) {
      Complex<R> u[kOwnRows] = {}, v[kOwnRows] = {};
      for (int j = 0; j < J; j += kPiece) {
        Complex<R> once[kPiece], weighted[kPiece];
#pragma unroll
        for (int q = 0; q < kPiece; ++q) {
          once[q] = load_complex<R>(&y[j + q][lane]);
          weighted[q] = R(j + q) * once[q];
        }
#pragma unroll
        for (int i = 0; i < kOwnRows; ++i) {
          R value[kPiece];
          load<kPiece>(g + (row + i) * kPad + j, value);
#pragma unroll
          for (int q = 0; q < kPiece; ++q) {
            u[i] = u[i] + value[q] * once[q];
            v[i] = v[i] + value[q] * weighted[q];
          }
        }
      }
      if (lane < modes) {
        const Exponent own = load_exponent(&z[lane]);
        const Complex<R> step = power<R>(own, J);
        Complex<R> at = power<R>(own, static_cast<double>(base + row * J));
#pragma unroll
        for (int i = 0; i < kOwnRows; ++i) {
          dc = dc + at * u[i];
          dz = dz + at * (static_cast<R>(base + (row + i) * J) * u[i] + v[i]);
          at = at * step;
        }
      }
    }
    shares[group][0][lane] = dc.re;
    shares[group][1][lane] = dc.im;
    shares[group][2][lane] = dz.re;
    shares[group][3][lane] = dz.im;
    __syncthreads();
    for (int i = threadIdx.x; i < 4 * modes; i += kThreads) {
      const int n = i / 4, k = i % 4;
      R sum = 0;
      for (int q = 0; q < kGroups; ++q) sum += shares[q][k][n];
      partial[((tile_number * channels + h) * p.modes + first + n) * 4 + k] = sum;
    }
  }
}

template <class R>
ModeParameters<R> parameters(const S4dKernelArgs& args) {
  if (args.modes >= int64_t{1} << 28) throw Error("s4d_kernel: too many modes");
  return {static_cast<int>(args.modes), static_cast<const R*>(args.log_dt), static_cast<const R*>(args.log_A_real),
          static_cast<const R*>(args.A_imag), static_cast<const R*>(args.C)};
}

int64_t tiles_of(const S4dKernelArgs& args) {
  const int64_t taps = with_compute_type(args.dtype, [](auto* p) { return kTaps<Pointee<decltype(p)>>; });
  return (args.length + taps - 1) / taps;
}

template <class R>
void run_forward(const S4dKernelArgs& args) {
  const int64_t tiles = tiles_of(args);
  launch("s4d_kernel_taps", s4d_kernel_taps<R>, args.channels * tiles, kThreads, 0, args.stream, parameters<R>(args),
         args.channels, args.length, static_cast<unsigned>(tiles), static_cast<R*>(args.kernel));
}

template <class R>
void run_backward(const S4dKernelBackwardArgs& args) {
  const S4dKernelArgs& f = args.forward;
  const int64_t tiles = tiles_of(f), columns = f.channels * f.modes * 4;
  R* sums = static_cast<R*>(args.workspace);
  R* partial = sums + columns;
  launch("s4d_kernel_gradients", s4d_kernel_gradients<R>, f.channels * tiles, kThreads, 0, f.stream,
         parameters<R>(f), f.channels, f.length, static_cast<unsigned>(tiles), static_cast<const R*>(args.grad),
         partial);
  if (tiles != 1) sum_columns<R>(partial, tiles, columns, sums, f.stream);
  apply_chain_rule<R, true>(tiles == 1 ? partial : sums, parameters<R>(f), 1, f.channels,
                            {static_cast<R*>(args.dlog_dt), static_cast<R*>(args.dlog_A_real),
                             static_cast<R*>(args.dA_imag), static_cast<R*>(args.dC)},
                            f.stream);
}

}  // namespace

void s4d_kernel(const S4dKernelArgs& args) {
  with_compute_type(args.dtype, [&](auto* p) { run_forward<Pointee<decltype(p)>>(args); });
}

size_t s4d_kernel_backward_workspace(const S4dKernelArgs& args) {
  return (tiles_of(args) + 1) * args.channels * args.modes * 4 * compute_bytes(args.dtype);
}

void s4d_kernel_backward(const S4dKernelBackwardArgs& args) {
  with_compute_type(args.forward.dtype, [&](auto* p) { run_backward<Pointee<decltype(p)>>(args); });
}

}  // namespace lyra::cuda
