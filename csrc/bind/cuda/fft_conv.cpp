// The pointwise parts of lyra::fft_conv; lyra_kernels/backends/cuda puts PyTorch's transforms between them.
#include "cuda/fft_conv.h"

#include "bind/cuda/call.h"

namespace lyra::binding {
namespace {

Tensor fft_pack(const Tensor& x, const OptionalTensor& lengths, const OptionalTensor& cu_seqlens, int64_t points) {
  CudaCall call(x, "x");
  STD_TORCH_CHECK(points >= 0, "points must be 0 or more, not ", points);
  cuda::FftPackArgs args;
  args.layout = call.layout(lengths, cu_seqlens);
  args.dtype = call.dtype();
  args.channels = x.size(2);
  args.points = points;
  args.x = call.elements(x, "x");
  args.stream = call.stream();
  Tensor signal = call.output(&args.signal, "signal", call.compute(),
                              {args.layout.sequences, args.channels, points});
  cuda::fft_pack(args);
  return signal;
}

Tensor fft_unpack(const Tensor& x, const Tensor& signal, const OptionalTensor& D, const OptionalTensor& lengths,
                  const OptionalTensor& cu_seqlens) {
  CudaCall call(x, "x");
  STD_TORCH_CHECK(signal.dim() == 3, "signal must be (sequences, channels, points)");
  cuda::FftUnpackArgs args;
  args.layout = call.layout(lengths, cu_seqlens);
  args.dtype = call.dtype();
  args.channels = x.size(2);
  args.points = signal.size(2);
  args.x = call.elements(x, "x");
  args.signal = call.parameter(signal, "signal", {args.layout.sequences, args.channels, args.points});
  args.D = call.parameter(D, "D", {args.channels});
  args.stream = call.stream();
  Tensor y = call.output_like(&args.y, "y", x);
  cuda::fft_unpack(args);
  return y;
}

cuda::FftSpectraArgs spectra(CudaCall& call, const Tensor& x) {
  STD_TORCH_CHECK(x.dim() == 4 && x.size(3) == 2, "spectra must be (sequences, channels, frequencies, 2)");
  STD_TORCH_CHECK(x.scalar_type() == call.compute(), "spectra must be float32 or float64");
  cuda::FftSpectraArgs args;
  args.dtype = call.dtype();
  args.sequences = x.size(0);
  args.channels = x.size(1);
  args.frequencies = x.size(2);
  args.conjugate = false;
  args.stream = call.stream();
  return args;
}

void fft_multiply_(Tensor x, const Tensor& kernel, bool conjugate) {
  CudaCall call(x, "spectra");
  cuda::FftSpectraArgs args = spectra(call, x);
  args.other = call.parameter(kernel, "kernel", {args.channels, args.frequencies, 2});
  args.conjugate = conjugate;
  cuda::fft_multiply(args, call.in_place(x, "spectra"));
}

Tensor fft_correlate(const Tensor& x, const Tensor& other) {
  CudaCall call(x, "spectra");
  cuda::FftSpectraArgs args = spectra(call, x);
  const void* first = call.elements(x, "spectra");
  args.other = call.parameter(other, "other", {args.sequences, args.channels, args.frequencies, 2});
  void* result;
  Tensor sum = call.output(&result, "result", call.compute(), {args.channels, args.frequencies, 2});
  cuda::fft_correlate(args, first, result);
  return sum;
}

}  // namespace
}  // namespace lyra::binding

STABLE_TORCH_LIBRARY_FRAGMENT(LYRA_CUDA_LIBRARY, m) {
  m.def("fft_pack(Tensor x, Tensor? lengths, Tensor? cu_seqlens, SymInt points) -> Tensor");
  m.def("fft_unpack(Tensor x, Tensor signal, Tensor? D, Tensor? lengths, Tensor? cu_seqlens) -> Tensor");
  m.def("fft_multiply_(Tensor(a!) spectra, Tensor kernel, bool conjugate) -> ()");
  m.def("fft_correlate(Tensor spectra, Tensor other) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(LYRA_CUDA_LIBRARY, LYRA_CUDA_KEY, m) {
  m.impl("fft_pack", TORCH_BOX(&lyra::binding::fft_pack));
  m.impl("fft_unpack", TORCH_BOX(&lyra::binding::fft_unpack));
  m.impl("fft_multiply_", TORCH_BOX(&lyra::binding::fft_multiply_));
  m.impl("fft_correlate", TORCH_BOX(&lyra::binding::fft_correlate));
}
