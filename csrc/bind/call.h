// One call of an op: from dispatcher tensors to the kernels' plain pointers, on LibTorch's stable ABI.
//
// The public Python functions have checked shapes, dtypes and values; what is checked here keeps a direct call of
// torch.ops.lyra.* from reading out of bounds.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <tuple>
#include <vector>

#include "batch.h"

namespace lyra::binding {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

inline DType dtype_of(const Tensor& t, const char* name) {
  switch (t.scalar_type()) {
    case ScalarType::Float: return DType::f32;
    case ScalarType::Double: return DType::f64;
    case ScalarType::Half: return DType::f16;
    case ScalarType::BFloat16: return DType::bf16;
    default: STD_TORCH_CHECK(false, name, " must be float32, float64, float16 or bfloat16");
  }
  return DType::f32;
}

// What the CPU and the CUDA have in common; each says how memory is come by.
class Call {
 public:
  // The first tensor, which has the dtype and, where it has three dimensions, the batch of the call.
  Call(const Tensor& x, const char* name)
      : like_(x), dtype_(dtype_of(x, name)),
        compute_(dtype_ == DType::f64 ? ScalarType::Double : ScalarType::Float) {}
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  DType dtype() const { return dtype_; }
  ScalarType compute() const { return compute_; }

  // The pointer of a checked tensor; null for an absent one.
  const void* input(const Tensor& t, const char* name, ScalarType dtype, std::initializer_list<int64_t> sizes) {
    STD_TORCH_CHECK(t.is_contiguous(), name, " must be contiguous");
    STD_TORCH_CHECK(t.scalar_type() == dtype, name, " has the wrong dtype");
    STD_TORCH_CHECK(t.dim() == static_cast<int64_t>(sizes.size()), name, " has ", t.dim(), " dimensions, not ",
                    sizes.size());
    int64_t i = 0;
    for (int64_t size : sizes) {
      STD_TORCH_CHECK(t.size(i) == size, name, " has size ", t.size(i), " in dimension ", i, ", not ", size);
      ++i;
    }
    return read(t, name);
  }
  // In the compute dtype, as parameters are.
  const void* parameter(const OptionalTensor& t, const char* name, std::initializer_list<int64_t> sizes) {
    return t ? input(*t, name, compute_, sizes) : nullptr;
  }
  // In the call's dtype, (batch, length, channels) like the call's batch. A kernel that takes them in either order asks
  // for it.
  const void* activations(const OptionalTensor& t, const char* name, int64_t channels, Order* order = nullptr) {
    if (!t) return nullptr;
    if (order && takes_channels_first() && lies_channels_first(*t)) {
      *order = Order::channels_first;
      return input(torch::stable::transpose(*t, 1, 2), name, like_.scalar_type(),
                   {like_.size(0), channels, like_.size(1)});
    }
    return input(*t, name, like_.scalar_type(), {like_.size(0), like_.size(1), channels});
  }
  // In the call's dtype, of any shape with as many elements as the first tensor.
  const void* elements(const Tensor& t, const char* name) {
    STD_TORCH_CHECK(t.is_contiguous() && t.numel() == like_.numel() && t.scalar_type() == like_.scalar_type(), name,
                    " must be contiguous, of ", like_.numel(), " elements and the right dtype");
    return read(t, name);
  }

  // A tensor to be written, and its pointer in *pointer.
  virtual Tensor output(void** pointer, const char* name, ScalarType dtype, std::vector<int64_t> sizes) = 0;
  // In the order of x, if one is given.
  Tensor output_like(void** pointer, const char* name, const Tensor& x, Order order = Order::channels_last) {
    if (order == Order::channels_first) return output_lying_like(pointer, x);
    std::vector<int64_t> sizes;
    for (int64_t i = 0; i < x.dim(); ++i) sizes.push_back(x.size(i));
    return output(pointer, name, x.scalar_type(), std::move(sizes));
  }
  // The same in the compute dtype where it is wanted; else null, and a tensor of no elements.
  Tensor output_if(bool wanted, void** pointer, const char* name, std::vector<int64_t> sizes) {
    if (wanted) return output(pointer, name, compute_, std::move(sizes));
    Tensor none = output(pointer, name, compute_, {0});
    *pointer = nullptr;
    return none;
  }
  // The gradient of a parameter that may be absent.
  Tensor gradient(const OptionalTensor& parameter, void** pointer, const char* name) {
    return parameter ? output_like(pointer, name, *parameter) : output_if(false, pointer, name, {});
  }

  // Dense, padded (`lengths`) or packed (`cu_seqlens`).
  virtual Layout layout(const OptionalTensor& lengths, const OptionalTensor& cu_seqlens) {
    STD_TORCH_CHECK(like_.dim() == 3, "activations must be (batch, length, channels)");
    STD_TORCH_CHECK(!(lengths && cu_seqlens), "give lengths or cu_seqlens, not both");
    Layout layout;
    layout.sequences = like_.size(0);
    layout.max_length = like_.size(1);
    if (lengths)
      layout.lengths = static_cast<const int64_t*>(input(*lengths, "lengths", ScalarType::Long, {layout.sequences}));
    if (cu_seqlens) {
      STD_TORCH_CHECK(like_.size(0) == 1, "a packed batch must have batch size 1, not ", like_.size(0));
      STD_TORCH_CHECK(cu_seqlens->dim() == 1 && cu_seqlens->size(0) >= 1, "cu_seqlens must be (sequences + 1)");
      layout.sequences = cu_seqlens->size(0) - 1;
      layout.cu_seqlens = static_cast<const int64_t*>(
          input(*cu_seqlens, "cu_seqlens", ScalarType::Long, {layout.sequences + 1}));
    }
    return layout;
  }

 protected:
  ~Call() = default;
  // In the very strides of x, which lies channels first.
  virtual Tensor output_lying_like(void**, const Tensor&) {
    STD_TORCH_CHECK(false, "these kernels know activations channels last only");
  }
  // Whether the kernels of these tensors know both orders of activations.
  virtual bool takes_channels_first() const { return false; }
  virtual const void* read(const Tensor& t, const char* name) = 0;

  const Tensor& like_;

 private:
  // (batch, length, channels) in the memory of a contiguous (batch, channels, length), and not contiguous itself.
  static bool lies_channels_first(const Tensor& t) {
    if (t.dim() != 3 || t.is_contiguous()) return false;
    const int64_t length = t.size(1), channels = t.size(2);
    return (length == 1 || t.stride(1) == 1) && (channels == 1 || t.stride(2) == length) &&
           (t.size(0) == 1 || t.stride(0) == length * channels);
  }

  DType dtype_;
  ScalarType compute_;
};

}  // namespace lyra::binding
