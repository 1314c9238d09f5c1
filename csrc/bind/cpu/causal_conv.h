// The arguments of a convolution with one long kernel per channel, direct or by Fourier transforms, from tensors.
#pragma once

#include "bind/cpu/call.h"
#include "cpu/causal_conv.h"

namespace lyra::binding {

inline void fill(cpu::CausalConvArgs& a, CpuCall& call, const Tensor& u, const Tensor& kernel,
                 const OptionalTensor& reverse_kernel, const OptionalTensor& D, const OptionalTensor& lengths,
                 const OptionalTensor& cu_seqlens) {
  a.layout = call.layout(lengths, cu_seqlens);
  STD_TORCH_CHECK(kernel.dim() == 2, "kernel must be (channels, taps)");
  STD_TORCH_CHECK(!reverse_kernel || reverse_kernel->dim() == 2, "reverse_kernel must be (channels, taps)");
  a.dtype = call.dtype();
  a.channels = u.size(2);
  a.taps = kernel.size(1);
  a.reverse_taps = reverse_kernel ? reverse_kernel->size(1) : 0;
  a.u = call.activations(u, "u", a.channels, &a.order);
  a.kernel = call.parameter(kernel, "kernel", {a.channels, a.taps});
  a.reverse_kernel = call.parameter(reverse_kernel, "reverse_kernel", {a.channels, a.reverse_taps});
  a.D = call.parameter(D, "D", {a.channels});
  a.y = nullptr;
}

}  // namespace lyra::binding
