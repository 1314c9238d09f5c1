// A plan: what an op of the Triton backend does on a card for arguments of one signature, as Python has seen it once.
//
// Python finds out a launch's kernel, grid, constants and memory in tens of microseconds, every time the same. A plan
// has them; to replay it is to allocate, fill in pointers and launch, about a microsecond each.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <exception>
#include <optional>
#include <vector>

namespace lyra::plans {

using torch::stable::Tensor;
using Arguments = std::vector<std::optional<Tensor>>;

// All of the arguments that a plan may depend on: of each its type, device, sizes and strides, whether Triton may take
// its pointer as aligned, and which earlier one it is at the same place as.
std::vector<int64_t> signature(const Arguments& arguments);

// Part of a slot: the arguments come first, in order, then what the plan allocates.
struct View {
  int64_t slot;
  int64_t offset;  // in elements, from the slot's first
  std::vector<int64_t> sizes, strides;
};

// What a kernel gets: a number as it lies in memory, or a place in a slot.
struct Parameter {
  int64_t slot;    // -1: a number
  uint64_t value;  // or the bytes from the slot's first element
};

enum class Kind : int64_t { allocate, free, launch, zero, copy, product, place };

struct Step {
  Kind kind;
  View to, from, by;  // allocate, zero: `to`; copy: `to` and `from`; product: `to` = `from` times `by`;
                      // place: `to`, at `to.offset` bytes of the memory for what only kernels see
  int64_t dtype = 0;  // allocate: a ScalarType
  uint64_t function = 0;
  uint32_t grid[3] = {1, 1, 1}, threads = 0, shared_memory = 0;
  std::vector<Parameter> parameters;
};

// PyTorch could not make a tensor, most likely for want of memory. What it said does not come through the stable ABI,
// nor does the type of its error.
struct NotMade : std::exception {
  const char* what() const noexcept override { return "a plan's tensor was not made"; }
};

class Plan {
 public:
  // From what lyra_kernels/backends/triton/_plans.py writes; throws where that is not a program.
  Plan(int64_t arguments, const std::vector<int64_t>& program);

  // The results, new tensors all, on the current stream of the arguments' device. Throws NotMade; nothing that is seen
  // from outside has been written then.
  std::vector<Tensor> replay(const Arguments& arguments) const;

 private:
  int64_t memory_;  // bytes for what only kernels see
  size_t slots_;
  std::vector<Step> steps_;
  std::vector<View> results_;
};

}  // namespace lyra::plans
