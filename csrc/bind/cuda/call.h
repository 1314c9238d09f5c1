// From dispatcher tensors on a GPU to the CUDA kernels' plain pointers, on LibTorch's stable ABI.
//
// The ops live in namespace lyra_cuda, apart from lyra, so that the Python side can choose between Triton and these.
// With LYRA_EMULATED the same bindings serve CPU tensors, and the emulation is told what memory a kernel may touch.
#pragma once

#include <torch/csrc/stable/accelerator.h>

#include "bind/tensors.h"
#include "cuda/common.h"

#ifdef LYRA_EMULATED
#include <cstring>

#include "runtime.h"
#define LYRA_CUDA_LIBRARY LYRA_EMULATED
#define LYRA_CUDA_KEY CPU
#else
#define LYRA_CUDA_LIBRARY lyra_cuda
#define LYRA_CUDA_KEY CUDA
#include "bind/cuda/stream.h"
#endif

namespace lyra::binding {

// One call of an op: makes the tensors' device the current one, and hands out checked pointers and fresh tensors.
class CudaCall {
 public:
  explicit CudaCall(const Tensor& x) : like_(x), compute_(compute_type(x)) {
#ifdef LYRA_EMULATED
    emu::forget_memory();
#else
    device_ = x.get_device_index();
    guard_.emplace(device_);  // PyTorch's own device, restored afterwards
    cuda::use_device(device_);
    static const CurrentStream current_stream = find_current_stream();
    STD_TORCH_CHECK(current_stream != nullptr, "this PyTorch was built without CUDA");
    STD_TORCH_CHECK(current_stream(device_, &stream_) == 0, "PyTorch has no stream for cuda:", device_);
#endif
  }

  cuda::Stream stream() const { return stream_; }
  cuda::DType dtype() const { return static_cast<cuda::DType>(dtype_of(like_, "the first argument")); }
  ScalarType compute() const { return compute_; }

  // The pointer of a checked tensor; null for an absent one.
  const void* input(const Tensor& t, const char* name, ScalarType dtype, std::initializer_list<int64_t> sizes) {
    check(t, name, dtype, sizes);
    return elements(t, name, dtype, t.numel());
  }
  const void* input(const OptionalTensor& t, const char* name, ScalarType dtype,
                    std::initializer_list<int64_t> sizes) {
    return t ? input(*t, name, dtype, sizes) : nullptr;
  }
  // The same for a tensor of any shape with so many elements.
  const void* elements(const Tensor& t, const char* name, ScalarType dtype, int64_t count) {
    STD_TORCH_CHECK(t.is_contiguous() && t.numel() == count && t.scalar_type() == dtype, name, " must be contiguous, ",
                    "of ", count, " elements and the right dtype");
#ifndef LYRA_EMULATED
    STD_TORCH_CHECK(t.is_cuda() && t.get_device_index() == device_, name, " must be on cuda:", device_);
#endif
    const void* pointer = t.const_data_ptr();
    if (reinterpret_cast<uintptr_t>(pointer) % 16 != 0) {  // a view into the middle of something; complex numbers and
      copies_.push_back(torch::stable::clone(t));          // wide accesses need whole ones
      pointer = copies_.back().const_data_ptr();
    }
    return watch(const_cast<void*>(pointer), bytes_of(t), name, false);
  }
  // In the compute dtype, as parameters are.
  const void* parameter(const OptionalTensor& t, const char* name, std::initializer_list<int64_t> sizes) {
    return input(t, name, compute_, sizes);
  }

  // A tensor to be written, and its pointer in *pointer.
  Tensor output(void** pointer, const char* name, ScalarType dtype, std::vector<int64_t> sizes) {
    Tensor t = torch::stable::new_empty(like_, sizes, dtype);
    *pointer = watch(t.mutable_data_ptr(), bytes_of(t), name, true);
    return t;
  }
  Tensor output_like(void** pointer, const char* name, const Tensor& x) {
    Tensor t = torch::stable::empty_like(x);
    *pointer = watch(t.mutable_data_ptr(), bytes_of(t), name, true);
    return t;
  }
  // The pointer of a tensor that the kernel changes.
  void* in_place(const Tensor& t, const char* name) {
    STD_TORCH_CHECK(t.is_contiguous(), name, " must be contiguous");
    return watch(t.mutable_data_ptr(), bytes_of(t), name, true, false);
  }
  // The gradient of a parameter that may be absent: then null, and a tensor of no elements.
  Tensor gradient(bool present, void** pointer, const char* name, std::vector<int64_t> sizes) {
    if (present) return output(pointer, name, compute_, std::move(sizes));
    *pointer = nullptr;
    return torch::stable::new_empty(like_, {0}, compute_);
  }
  Tensor workspace(void** pointer, size_t bytes) {
    return output(pointer, "workspace", ScalarType::Byte, {static_cast<int64_t>(bytes)});
  }

  // lengths and cu_seqlens stay on the device, so their values cannot be checked here.
  cuda::Layout layout(const OptionalTensor& lengths, const OptionalTensor& cu_seqlens) {
    STD_TORCH_CHECK(like_.dim() == 3, "activations must be (batch, length, channels)");
    STD_TORCH_CHECK(!(lengths && cu_seqlens), "give lengths or cu_seqlens, not both");
    cuda::Layout layout;
    layout.sequences = like_.size(0);
    layout.max_length = like_.size(1);
    if (lengths)
      layout.lengths =
          static_cast<const int64_t*>(input(*lengths, "lengths", ScalarType::Long, {layout.sequences}));
    if (cu_seqlens) {
      STD_TORCH_CHECK(like_.size(0) == 1, "a packed batch must have batch size 1, not ", like_.size(0));
      STD_TORCH_CHECK(cu_seqlens->dim() == 1 && cu_seqlens->size(0) >= 1, "cu_seqlens must be (sequences + 1)");
      layout.sequences = cu_seqlens->size(0) - 1;
      layout.cu_seqlens = static_cast<const int64_t*>(
          input(*cu_seqlens, "cu_seqlens", ScalarType::Long, {layout.sequences + 1}));
    }
    return layout;
  }

 private:
  static size_t bytes_of(const Tensor& t) { return static_cast<size_t>(t.numel()) * t.element_size(); }

  void* watch(void* pointer, size_t bytes, const char* name, bool writable, bool fresh = true) {
#ifdef LYRA_EMULATED
    if (writable && fresh && bytes) std::memset(pointer, 0xFF, bytes);  // NaN wherever a kernel forgets to write
    emu::register_memory(pointer, bytes, name, writable);
#else
    static_cast<void>(bytes), static_cast<void>(name), static_cast<void>(writable), static_cast<void>(fresh);
#endif
    return pointer;
  }

  const Tensor& like_;
  std::vector<Tensor> copies_;
  ScalarType compute_;
  cuda::Stream stream_ = nullptr;
#ifndef LYRA_EMULATED
  int32_t device_ = 0;
  std::optional<torch::stable::accelerator::DeviceGuard> guard_;
#endif
};

}  // namespace lyra::binding
