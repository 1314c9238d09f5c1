// A call of an op on CUDA tensors.
//
// The ops live in namespace lyra_cuda, apart from lyra, so that the Python side can choose between Triton and these.
// With LYRA_EMULATED the same bindings serve CPU tensors, and the emulation is told what memory a kernel may touch.
#pragma once

#include <torch/csrc/stable/accelerator.h>

#include "bind/call.h"
#include "cuda/common.h"

#ifdef LYRA_EMULATED
#include <cstring>

#include "runtime.h"
#define LYRA_CUDA_LIBRARY LYRA_EMULATED
#define LYRA_CUDA_KEY CPU
#else
#define LYRA_CUDA_LIBRARY lyra_cuda
#define LYRA_CUDA_KEY CUDA
#include "bind/stream.h"
#endif

namespace lyra::binding {

// Makes the tensors' device the current one. lengths and cu_seqlens stay on it, so their values cannot be checked.
class CudaCall final : public Call {
 public:
  CudaCall(const Tensor& x, const char* name) : Call(x, name) {
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

  Tensor output(void** pointer, const char* name, ScalarType dtype, std::vector<int64_t> sizes) override {
    Tensor t = torch::stable::new_empty(like_, sizes, dtype);
    *pointer = watch(t.mutable_data_ptr(), bytes_of(t), name, true);
    return t;
  }
  // The pointer of a tensor that the kernel changes.
  void* in_place(const Tensor& t, const char* name) {
    STD_TORCH_CHECK(t.is_contiguous(), name, " must be contiguous");
    return watch(t.mutable_data_ptr(), bytes_of(t), name, true, false);
  }
  Tensor workspace(void** pointer, size_t bytes) {
    return output(pointer, "workspace", ScalarType::Byte, {static_cast<int64_t>(bytes)});
  }

 private:
  const void* read(const Tensor& t, const char* name) override {
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

  std::vector<Tensor> copies_;
  cuda::Stream stream_ = nullptr;
#ifndef LYRA_EMULATED
  int32_t device_ = 0;
  std::optional<torch::stable::accelerator::DeviceGuard> guard_;
#endif
};

}  // namespace lyra::binding
