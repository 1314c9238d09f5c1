// A call of an op on CPU tensors.
#pragma once

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "bind/call.h"
#include "cpu/dispatch.h"

namespace lyra::binding {

// From 32 MB on, malloc gets every block new from the system, and touching its pages of 4 KB for the first time took a
// third of the scan's time at a million tokens: ask for pages of 2 MB (where the system grants them).
inline void ask_for_large_pages(void* memory, int64_t bytes) {
#if defined(__linux__)
  constexpr uintptr_t kPage = 4096;
  constexpr int64_t kLargeBlock = int64_t{32} << 20;
  if (bytes < kLargeBlock) return;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(memory), end = begin + static_cast<uintptr_t>(bytes);
  const uintptr_t first = (begin + kPage - 1) / kPage * kPage, last = end / kPage * kPage;
  (void)madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);  // a wish: failing does no harm
#else
  static_cast<void>(memory), static_cast<void>(bytes);
#endif
}

class CpuCall final : public Call {
 public:
  using Call::Call;

  // torch's own pool: respects torch.set_num_threads, runs serially inside another parallel region.
  cpu::Threads threads() const {
    cpu::Threads threads;
    threads.count = static_cast<int>(torch::stable::get_num_threads());
    threads.run = [](int64_t n, cpu::Threads::Body body, void* context) {
      torch::stable::parallel_for(0, n, 1, [&](int64_t begin, int64_t end) { body(begin, end, context); });
    };
    return threads;
  }

  Tensor output(void** pointer, const char*, ScalarType dtype, std::vector<int64_t> sizes) override {
    Tensor t = torch::stable::empty(sizes, dtype);
    *pointer = t.mutable_data_ptr();
    ask_for_large_pages(*pointer, t.numel() * t.element_size());
    return t;
  }

  // The values too are checked: they say which rows the kernels touch.
  Layout layout(const OptionalTensor& lengths, const OptionalTensor& cu_seqlens) override {
    const Layout layout = Call::layout(lengths, cu_seqlens);
    if (const int64_t* values = layout.lengths)
      for (int64_t s = 0; s < layout.sequences; ++s)
        STD_TORCH_CHECK(values[s] >= 0 && values[s] <= layout.max_length, "lengths[", s, "] is ", values[s],
                        ", outside 0 .. ", layout.max_length);
    if (const int64_t* cu = layout.cu_seqlens) {
      STD_TORCH_CHECK(cu[0] == 0 && cu[layout.sequences] == layout.max_length, "cu_seqlens must run from 0 to ",
                      layout.max_length);
      for (int64_t s = 0; s < layout.sequences; ++s)
        STD_TORCH_CHECK(cu[s] <= cu[s + 1], "cu_seqlens must ascend; entry ", s + 1, " is smaller than entry ", s);
    }
    return layout;
  }

 private:
  bool takes_channels_first() const override { return true; }
  // No view of a tensor that is contiguous: autograd lets nobody change that in place.
  Tensor output_lying_like(void** pointer, const Tensor& x) override {
    Tensor t = torch::stable::empty_like(x);
    *pointer = t.mutable_data_ptr();
    ask_for_large_pages(*pointer, t.numel() * t.element_size());
    return t;
  }
  const void* read(const Tensor& t, const char*) override { return t.const_data_ptr(); }
};

}  // namespace lyra::binding
