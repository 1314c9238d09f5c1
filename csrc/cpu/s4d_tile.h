// The arithmetic of the scan on one chunk of up to 64 tokens of one group of channels, held in L1 as tile[64][lanes].
//
// Everything is a small product of matrices whose elements are vectors over channels:
//   encode   a block's tokens to its contribution to each mode's state     (kBlock x modes)
//   decode   the states before the blocks to the tokens' outputs           (modes x kBlock)
// and backward the transposes of both, plus the sums over blocks of (state x token) that are the gradients of the
// tables. Per mode and token: forward 2 + 2 + 4/8 fused multiply-adds (a plain complex recurrence needs 6),
// backward 86/8 (the plain one needs 16). Eight accumulators hide the latency of a fused multiply-add, and each
// loaded vector is used at least twice, so that loads stay below one per multiply-add. Carrying two modes at once, to
// fill the wait between steps, made no difference: other modes' products fill it already.
#pragma once

#include "s4d_tables.h"

namespace lyra::cpu::LYRA_ISA {

#define LYRA_UNROLL _Pragma("GCC unroll 8")

// Blocks that are encoded together; tiles are zero or real up to a multiple of it.
constexpr int kTogether = 4;

// Register blocks: 16 accumulators where there are 32 registers, else 8.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr bool kManyRegisters = true;
#else
constexpr bool kManyRegisters = false;
#endif
constexpr int kColumns = kManyRegisters ? 4 : 2;  // blocks that are decoded together

// Modes that are taken through a chunk before the next ones, so that their states are read while still in L1.
constexpr int64_t kModeGroup = 8;

// States of one mode at the kBlocks blocks of a chunk: (re, im) pairs.
template <class T>
constexpr int kStates = kBlocks * kPair<T>;

template <class T>
LYRA_INLINE Vec<T> re(const T* pair) {
  return load(pair);
}
template <class T>
LYRA_INLINE Vec<T> im(const T* pair) {
  return load(pair + kLanes<T>);
}

// re[b] + i im[b] = sum_j a^(7 - j) tile[b][j]
template <class T>
LYRA_INLINE void encode_powers(const T* entry, const T* tile, Vec<T> (&r)[kTogether], Vec<T> (&i)[kTogether]) {
  constexpr int W = kLanes<T>;
  LYRA_UNROLL for (int b = 0; b < kTogether; ++b) {
    r[b] = load(tile + (b * kBlock + kBlock - 1) * W);
    i[b] = Vec<T>{};
  }
  LYRA_UNROLL for (int j = 0; j < kBlock - 1; ++j) {
    const T* power = entry + (kPower + kBlock - 2 - j) * kPair<T>;
    const Vec<T> pr = re(power), pi = im(power);
    LYRA_UNROLL for (int b = 0; b < kTogether; ++b) {
      const Vec<T> x = load(tile + (b * kBlock + j) * W);
      r[b] += pr * x;
      i[b] += pi * x;
    }
  }
}

// re[b] + i im[b] = sum_k c~ a^k tile[b][k]
template <class T>
LYRA_INLINE void encode_decoder(const T* entry, const T* tile, Vec<T> (&r)[kTogether], Vec<T> (&i)[kTogether]) {
  constexpr int W = kLanes<T>;
  LYRA_UNROLL for (int b = 0; b < kTogether; ++b) r[b] = i[b] = Vec<T>{};
  LYRA_UNROLL for (int k = 0; k < kBlock; ++k) {
    const T* decode = entry + (kDecode + k) * kPair<T>;
    const Vec<T> dr = re(decode), di = im(decode);
    LYRA_UNROLL for (int b = 0; b < kTogether; ++b) {
      const Vec<T> x = load(tile + (b * kBlock + k) * W);
      r[b] += dr * x;
      i[b] += di * x;
    }
  }
}

// s + (q s + e): one step of the recurrence, q being the multiplier minus one.
template <class T>
LYRA_INLINE void step(Vec<T>& sr, Vec<T>& si, Vec<T> qr, Vec<T> qi, Vec<T> er, Vec<T> ei) {
  const Vec<T> r = (er + qr * sr) - qi * si;
  const Vec<T> i = (ei + qr * si) + qi * sr;
  sr += r;
  si += i;
}

// Carries the states of some modes through the chunk's blocks; states[n][b] = the state before block b. (Or, Adjoint,
// the adjoint states backward; states[n][b] = the adjoint of the state after block b.)
template <class T, bool Adjoint>
inline void carry(const T* table, int64_t modes, const T* tile, int blocks, T* state, T* states) {
  constexpr int W = kLanes<T>;
  const int groups = (blocks + kTogether - 1) / kTogether;
  for (int64_t n = 0; n < modes; ++n, table += kEntries * kPair<T>, state += kPair<T>, states += kStates<T>) {
    const Vec<T> qr = re(table + kBlockStep * kPair<T>), qi = im(table + kBlockStep * kPair<T>);
    const Vec<T> first_r = re(state), first_i = im(state);
    Vec<T> sr = first_r, si = first_i;
    for (int group = 0; group < groups; ++group) {
      const int b0 = (Adjoint ? groups - 1 - group : group) * kTogether;
      Vec<T> er[kTogether], ei[kTogether];
      if constexpr (Adjoint)
        encode_decoder(table, tile + b0 * kBlock * W, er, ei);
      else
        encode_powers(table, tile + b0 * kBlock * W, er, ei);
      LYRA_UNROLL for (int i = 0; i < kTogether; ++i) {
        const int c = Adjoint ? kTogether - 1 - i : i, b = b0 + c;
        const bool real = b < blocks;
        store(states + b * kPair<T>, Adjoint && !real ? Vec<T>{} : sr);
        store(states + b * kPair<T> + W, Adjoint && !real ? Vec<T>{} : si);
        if (real) step<T>(sr, si, qr, qi, er[c], ei[c]);
      }
    }
    if (blocks == kBlocks) {  // what q = a^8 - 1 has lost by being rounded
      const Vec<T> dr = re(table + kDelta * kPair<T>), di = im(table + kDelta * kPair<T>);
      sr += dr * first_r - di * first_i;
      si += dr * first_i + di * first_r;
    }
    store(state, sr);
    store(state + W, si);
  }
}

// tile[b][k] += Re sum_n table_k states[n][b] for kPart tokens from k0 on of kColumns blocks from b on, where table_k
// is c~ a^k, or (Transposed) a^(7 - k).
template <class T, bool Transposed, int k0, int kPart>
LYRA_INLINE void decode_part(const T* table, int64_t modes, const T* states, int b, T* tile) {
  constexpr int W = kLanes<T>;
  Vec<T> acc[kColumns][kPart];
  LYRA_UNROLL for (int c = 0; c < kColumns; ++c)
    LYRA_UNROLL for (int k = 0; k < kPart; ++k) acc[c][k] = load(tile + ((b + c) * kBlock + k0 + k) * W);
  const T* entry = table + (Transposed ? kPower : kDecode) * kPair<T>;
  const T* state = states + b * kPair<T>;
  for (int64_t n = 0; n < modes; ++n, entry += kEntries * kPair<T>, state += kStates<T>) {
    Vec<T> r[kColumns], i[kColumns];
    LYRA_UNROLL for (int c = 0; c < kColumns; ++c) {
      r[c] = re(state + c * kPair<T>);
      i[c] = im(state + c * kPair<T>);
    }
    LYRA_UNROLL for (int k = 0; k < kPart; ++k) {
      constexpr int kLast = kBlock - 1;
      if (Transposed && k0 + k == kLast) {
        LYRA_UNROLL for (int c = 0; c < kColumns; ++c) acc[c][k] += r[c];
      } else {
        const T* p = entry + (Transposed ? kLast - 1 - (k0 + k) : k0 + k) * kPair<T>;
        const Vec<T> tr = re(p), ti = im(p);
        LYRA_UNROLL for (int c = 0; c < kColumns; ++c) acc[c][k] = acc[c][k] + tr * r[c] - ti * i[c];
      }
    }
  }
  LYRA_UNROLL for (int c = 0; c < kColumns; ++c)
    LYRA_UNROLL for (int k = 0; k < kPart; ++k) store(tile + ((b + c) * kBlock + k0 + k) * W, acc[c][k]);
}

// Touches whole groups of kColumns blocks.
template <class T, bool Transposed>
inline void decode(const T* table, int64_t modes, const T* states, int blocks, T* tile) {
  constexpr int kHalf = kBlock / 2;
  for (int b = 0; b < blocks; b += kColumns) {
    decode_part<T, Transposed, 0, kHalf>(table, modes, states, b, tile);
    decode_part<T, Transposed, kHalf, kHalf>(table, modes, states, b, tile);
  }
}

// sums_k += sum_b states[b] tile[b][k], k in k0 .. k0 + kPart - 1, k-th pair at sums + step k.
template <class T, int kPart, int kStep>
LYRA_INLINE void add_products(const T* states, const T* tile, int blocks, T* sums) {
  constexpr int W = kLanes<T>;
  Vec<T> r[kPart], i[kPart];
  LYRA_UNROLL for (int k = 0; k < kPart; ++k) {
    r[k] = re(sums + kStep * k * kPair<T>);
    i[k] = im(sums + kStep * k * kPair<T>);
  }
  for (int b = 0; b < blocks; ++b) {
    const Vec<T> sr = re(states + b * kPair<T>), si = im(states + b * kPair<T>);
    LYRA_UNROLL for (int k = 0; k < kPart; ++k) {
      const Vec<T> x = load(tile + (b * kBlock + k) * W);
      r[k] += sr * x;
      i[k] += si * x;
    }
  }
  LYRA_UNROLL for (int k = 0; k < kPart; ++k) {
    store(sums + kStep * k * kPair<T>, r[k]);
    store(sums + kStep * k * kPair<T> + W, i[k]);
  }
}

// A mode's sums over the blocks of a chunk (see Sum).
template <class T>
LYRA_INLINE void add_block_sums(const T* states, const T* adjoints, const T* u, const T* g, int blocks, T* sums) {
  constexpr int W = kLanes<T>;
  // Token j meets a^(7 - j), whose sum is entry 6 - j; the last token meets a^0.
  if constexpr (kManyRegisters) {
    add_products<T, 7, -1>(adjoints, u, blocks, sums + (kPowerSum + 6) * kPair<T>);
    add_products<T, 8, 1>(states, g, blocks, sums + kDecodeSum * kPair<T>);
  } else {
    add_products<T, 4, -1>(adjoints, u, blocks, sums + (kPowerSum + 6) * kPair<T>);
    add_products<T, 3, -1>(adjoints, u + 4 * W, blocks, sums + (kPowerSum + 2) * kPair<T>);
    add_products<T, 4, 1>(states, g, blocks, sums + kDecodeSum * kPair<T>);
    add_products<T, 4, 1>(states, g + 4 * W, blocks, sums + (kDecodeSum + 4) * kPair<T>);
  }
  T* sum = sums + kBlockSum * kPair<T>;
  Vec<T> r = re(sum), i = im(sum);
  for (int b = 0; b < blocks; ++b) {
    const Vec<T> sr = re(states + b * kPair<T>), si = im(states + b * kPair<T>);
    const Vec<T> gr = re(adjoints + b * kPair<T>), gi = im(adjoints + b * kPair<T>);
    r += sr * gr - si * gi;
    i += sr * gi + si * gr;
  }
  store(sum, r);
  store(sum + W, i);
}

// out[k] = sum_{j <= k} local_{k-j} in[j] in each block; Transposed: out[j] = sum_{k >= j} local_{k-j} in[k].
template <class T, bool Transposed>
inline void convolve_blocks(const T* local, const T* in, int blocks, T* out) {
  constexpr int W = kLanes<T>;
  for (int b = 0; b < blocks; ++b) {
    const T* x = in + b * kBlock * W;
    T* y = out + b * kBlock * W;
    Vec<T> acc[kBlock] = {};
    LYRA_UNROLL for (int j = 0; j < kBlock; ++j) {
      const Vec<T> v = load(x + (Transposed ? kBlock - 1 - j : j) * W);
      LYRA_UNROLL for (int k = j; k < kBlock; ++k) acc[k] += load(local + (k - j) * W) * v;
    }
    LYRA_UNROLL for (int k = 0; k < kBlock; ++k) store(y + (Transposed ? kBlock - 1 - k : k) * W, acc[k]);
  }
}

// sums_l += sum over blocks and k >= l of g[k] u[k - l]: the gradient of local_l.
template <class T>
inline void correlate_blocks(const T* u, const T* g, int blocks, T* sums) {
  constexpr int W = kLanes<T>;
  Vec<T> acc[kBlock];
  LYRA_UNROLL for (int l = 0; l < kBlock; ++l) acc[l] = load(sums + l * W);
  for (int b = 0; b < blocks; ++b) {
    LYRA_UNROLL for (int k = 0; k < kBlock; ++k) {
      const Vec<T> v = load(g + (b * kBlock + k) * W);
      LYRA_UNROLL for (int l = 0; l <= k; ++l) acc[l] += v * load(u + (b * kBlock + k - l) * W);
    }
  }
  LYRA_UNROLL for (int l = 0; l < kBlock; ++l) store(sums + l * W, acc[l]);
}

// ---- tokens that fill no block, one by one -------------------------------------------------------------------
// y = local_0 u + Re sum c~ S, then S = a S + u for every mode.
template <class T>
inline void token_forward(const T* table, int64_t modes, const T* u, T* state, T* y) {
  constexpr int W = kLanes<T>;
  const Vec<T> x = load(u);
  Vec<T> acc = load(table + modes * kEntries * kPair<T>) * x;
  for (int64_t n = 0; n < modes; ++n) {
    const T* entry = table + n * kEntries * kPair<T>;
    T* s = state + n * kPair<T>;
    Vec<T> sr = re(s), si = im(s);
    acc += re(entry + kDecode * kPair<T>) * sr - im(entry + kDecode * kPair<T>) * si;
    step<T>(sr, si, re(entry + kTokenStep * kPair<T>), im(entry + kTokenStep * kPair<T>), x, Vec<T>{});
    store(s, sr);
    store(s + W, si);
  }
  store(y, acc);
}

// The adjoint of token_forward; `state` is the state before the token, `adjoint` is carried from after to before it.
template <class T>
inline void token_backward(const T* table, int64_t modes, const T* u, const T* g, const T* state, T* adjoint, T* du,
                           T* sums) {
  constexpr int W = kLanes<T>;
  const Vec<T> x = load(u), dy = load(g);
  Vec<T> acc = load(table + modes * kEntries * kPair<T>) * dy;
  for (int64_t n = 0; n < modes; ++n) {
    const T* entry = table + n * kEntries * kPair<T>;
    const T* s = state + n * kPair<T>;
    T* adj = adjoint + n * kPair<T>;
    const Vec<T> sr = re(s), si = im(s);
    Vec<T> gr = re(adj), gi = im(adj);
    acc += gr;
    T* decode_sum = sums + (n * kSums + kDecodeSum) * kPair<T>;
    store(decode_sum, re(decode_sum) + sr * dy);
    store(decode_sum + W, im(decode_sum) + si * dy);
    T* step_sum = sums + (n * kSums + kTokenSum) * kPair<T>;
    store(step_sum, re(step_sum) + sr * gr - si * gi);
    store(step_sum + W, im(step_sum) + sr * gi + si * gr);
    step<T>(gr, gi, re(entry + kTokenStep * kPair<T>), im(entry + kTokenStep * kPair<T>),
            re(entry + kDecode * kPair<T>) * dy, im(entry + kDecode * kPair<T>) * dy);
    store(adj, gr);
    store(adj + W, gi);
  }
  store(du, acc);
  T* local_sum = sums + modes * kSums * kPair<T>;
  store(local_sum, load(local_sum) + dy * x);
}

}  // namespace lyra::cpu::LYRA_ISA
