// A linear layer c = W a + b for tiles of tokens: the weights packed once a call, and the sums for their gradients.
//
// W's rows come in one group or in two (the halves that a gate splits). In a tile each of two groups begins at a
// whole vector, so that what follows works on aligned halves; the columns between hold zeros.
//
// Beside activations that are stored in bfloat16 the operands of all three products are rounded to bfloat16, where the
// CPU multiplies these faster; sums stay in float32. Autocast rounds the weights so, and a layer in bfloat16 has them so.
#pragma once

#include <type_traits>

#include "bf16/products.h"
#include "gemm.h"
#include "tile.h"

namespace lyra::cpu::LYRA_ISA {

// The products for activations stored as S; null for those of gemm.h.
template <class S>
const bf16::Products* products_of() {
  // Panels are as wide here and there in the kernels that such a CPU takes.
  if constexpr (std::is_same_v<S, BFloat16> && kPanel<float> == bf16::kColumns) return bf16::products();
  return nullptr;
}

template <class T>
class Linear {
 public:
  // weight (groups * size, in) row-major; bias (groups * size), or null. `backward` packs for multiply_back too.
  // products: null, or what multiplies instead; T is float then.
  Linear(const void* weight, const void* bias, int64_t groups, int64_t size, int64_t in, bool backward,
         const bf16::Products* products)
      : products_(products),
        groups_(groups),
        size_(size),
        step_(groups == 1 ? size : whole_vectors<T>(size)),
        in_(in),
        bias_(width(), T(0)),
        forward_(products ? 0 : packed_size<T>(in, columns())),
        backward_(backward && !products ? packed_size<T>(columns(), in) : 0),
        forward16_(products ? bf16::packed_size(in, columns()) : 0),
        backward16_(backward && products ? bf16::packed_size(columns(), in) : 0) {
    const T* w = static_cast<const T*>(weight);
    const T* b = static_cast<const T*>(bias);
    Buffer<T> spread(groups_ > 1 ? columns() * in : 0, T(0));
    if (groups_ > 1) {
      for (int64_t g = 0; g < groups_; ++g) copy<T>(w + g * size * in, size * in, spread + g * step_ * in);
      w = spread;
    }
    if constexpr (kHasProducts) {
      if (products_) {
        products_->pack_transposed(w, columns(), in, forward16_);
        if (backward) products_->pack(w, columns(), in, backward16_);
      }
    }
    if (!products_) {
      pack_transposed<T>(w, columns(), in, forward_);
      if (backward) pack<T>(w, columns(), in, backward_);
    }
    for (int64_t g = 0; b && g < groups_; ++g) copy<T>(b + g * size, size, bias_ + g * step_);
  }

  int64_t in() const { return in_; }
  int64_t columns() const { return groups_ * step_; }       // of c
  int64_t width() const { return padded<T>(columns()); }    // what multiply writes of a row of c
  int64_t in_width() const { return padded<T>(in_); }       // what multiply_back writes of a row of da

  // c (rows, width) = a (rows, in) W^T + b
  void multiply(int64_t rows, const T* a, int64_t a_stride, T* c, int64_t c_stride) const {
    if constexpr (kHasProducts)
      if (products_) return products_->multiply(rows, columns(), in_, a, a_stride, forward16_, bias_, c, c_stride);
    LYRA_ISA::multiply<T>(rows, columns(), in_, a, a_stride, forward_, bias_, c, c_stride);
  }
  // da (rows, in_width) = dc (rows, columns) W
  void multiply_back(int64_t rows, const T* dc, int64_t dc_stride, T* da, int64_t da_stride) const {
    if constexpr (kHasProducts)
      if (products_)
        return products_->multiply(rows, in_, columns(), dc, dc_stride, backward16_, nullptr, da, da_stride);
    LYRA_ISA::multiply<T>(rows, in_, columns(), dc, dc_stride, backward_, nullptr, da, da_stride);
  }

  // Sums over tokens for the gradients: dW, then db.
  int64_t sums_size() const { return columns() * in_width() + width(); }
  // dc (rows, width), a (rows, in_width)
  void add_gradients(int64_t rows, const T* dc, int64_t dc_stride, const T* a, int64_t a_stride, T* sums) const {
    add_products(rows, dc, dc_stride, a, a_stride, sums);
    add_columns<T>(dc, dc_stride, rows, width(), sums + columns() * in_width());
  }
  // The gradients in the shapes of the parameters; dbias may be null.
  void gradients(const T* sums, void* dweight, void* dbias) const {
    T* dw = static_cast<T*>(dweight);
    T* db = static_cast<T*>(dbias);
    for (int64_t g = 0; g < groups_; ++g) {
      for (int64_t n = 0; n < size_; ++n)
        copy(sums + (g * step_ + n) * in_width(), in_, dw + (g * size_ + n) * in_);
      if (db) copy(sums + columns() * in_width() + g * step_, size_, db + g * size_);
    }
  }

 private:
  static constexpr bool kHasProducts = std::is_same_v<T, float>;

  void add_products(int64_t rows, const T* dc, int64_t dc_stride, const T* a, int64_t a_stride, T* sums) const {
    if constexpr (kHasProducts)
      if (products_)
        return products_->add_outer_products(rows, columns(), in_, dc, dc_stride, a, a_stride, sums, in_width());
    add_outer_products<T>(rows, columns(), in_, dc, dc_stride, a, a_stride, sums, in_width());
  }

  const bf16::Products* products_;
  int64_t groups_, size_, step_, in_;
  Buffer<T> bias_, forward_, backward_;
  Buffer<uint16_t> forward16_, backward16_;
};

// Rows of x as the left operand of a product: where they are if they have the compute type and reach over whole
// panels, else in the tile.
template <class S, class T = Compute<S>>
LYRA_INLINE const T* operand_rows(const S* x, int64_t rows, int64_t channels, T* tile, int64_t* stride) {
  if constexpr (sizeof(S) == sizeof(T)) {
    if (channels == padded<T>(channels)) {
      *stride = channels;
      return reinterpret_cast<const T*>(x);
    }
  }
  *stride = tile_stride<T>(channels);
  load_rows<S>(x, rows, channels, tile, *stride, padded<T>(channels));
  return tile;
}

// Tokens a tile, where products are made of up to `reach` rows more: whole register blocks, and few rows done twice.
inline int64_t product_rows(int64_t reach) {
  constexpr int64_t kRows = 96;
  static_assert(kRows % kBlockRows == 0, "a tile must be whole register blocks");
  const int64_t blocks = std::max<int64_t>(1, (5 * reach + kRows - 1) / kRows);
  return blocks * kRows - reach;
}

}  // namespace lyra::cpu::LYRA_ISA
