#include "bind/plans/plan.h"

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <array>

#include "bind/plans/launch.h"
#include "bind/stream.h"

namespace lyra::plans {
namespace {

constexpr uint64_t kAlignment = 16;  // what Triton compiles a kernel anew for

// What a tensor is made from again: handles are read once, the stable wrapper asks for each number alone.
struct Shape {
  int64_t dimensions = 0;
  int64_t* sizes = nullptr;
  int64_t* strides = nullptr;
};

Shape shape_of(const Tensor& t) {
  Shape shape;
  shape.dimensions = t.dim();
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_sizes(t.get(), &shape.sizes));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_strides(t.get(), &shape.strides));
  return shape;
}

uint64_t address(const Tensor& t) { return reinterpret_cast<uint64_t>(t.data_ptr()); }

// A program's numbers, one after the other.
class Reader {
 public:
  explicit Reader(const std::vector<int64_t>& numbers) : numbers_(numbers) {}

  bool done() const { return at_ == numbers_.size(); }
  int64_t next() {
    STD_TORCH_CHECK(at_ < numbers_.size(), "a plan ends in the middle of a step");
    return numbers_[at_++];
  }
  // A count, a size or a place: not negative.
  int64_t number() {
    const int64_t n = next();
    STD_TORCH_CHECK(n >= 0, "a plan has ", n, " where a number cannot be negative");
    return n;
  }
  std::vector<int64_t> several(int64_t count) {
    std::vector<int64_t> out;
    for (int64_t i = 0; i < count; ++i) out.push_back(number());
    return out;
  }

 private:
  const std::vector<int64_t>& numbers_;
  size_t at_ = 0;
};

}  // namespace

std::vector<int64_t> signature(const Arguments& arguments) {
  std::vector<int64_t> key;
  key.reserve(12 * arguments.size());
  std::vector<uint64_t> places;
  places.reserve(arguments.size());
  for (const auto& argument : arguments) {
    if (!argument) {
      key.push_back(-1);
      places.push_back(0);
      continue;
    }
    const uint64_t place = address(*argument);
    int64_t same = 0;  // one that is absent, or has no elements, is nowhere
    while (place != 0 && same < static_cast<int64_t>(places.size()) && places[same] != place) ++same;
    places.push_back(place);
    int32_t dtype = 0, device = 0;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(argument->get(), &dtype));
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(argument->get(), &device));
    const Shape shape = shape_of(*argument);
    for (int64_t n : {int64_t{dtype}, int64_t{device}, int64_t{argument->get_device_index()},
                      static_cast<int64_t>(place % kAlignment), same, shape.dimensions})
      key.push_back(n);
    key.insert(key.end(), shape.sizes, shape.sizes + shape.dimensions);
    key.insert(key.end(), shape.strides, shape.strides + shape.dimensions);
  }
  return key;
}

Plan::Plan(int64_t arguments, const std::vector<int64_t>& program) : slots_(static_cast<size_t>(arguments)) {
  Reader read(program);
  std::vector<bool> tensors(slots_, true);  // which of the slots are, until they are freed
  // Slots are made in order: none is used before.
  const auto slot = [&] {
    const int64_t n = read.number();
    STD_TORCH_CHECK(n < static_cast<int64_t>(slots_) && tensors[n], "a plan uses slot ", n, " of ", slots_,
                    ", which is no tensor");
    return n;
  };
  const auto make = [&](bool tensor) {
    tensors.push_back(tensor);
    return static_cast<int64_t>(slots_++);
  };
  const auto view = [&](bool makes) {
    View v;
    v.slot = makes ? make(true) : slot();
    v.offset = makes ? 0 : read.number();
    const int64_t dimensions = read.number();
    v.sizes = read.several(dimensions);
    v.strides = read.several(dimensions);
    return v;
  };
  memory_ = read.number();
  const int64_t steps = read.number();
  for (int64_t i = 0; i < steps; ++i) {
    Step s;
    s.kind = static_cast<Kind>(read.number());
    switch (s.kind) {
      case Kind::allocate:
        s.dtype = read.number();
        s.to = view(true);
        break;
      case Kind::free:
        s.to.slot = slot();
        STD_TORCH_CHECK(s.to.slot >= arguments, "a plan frees argument ", s.to.slot);
        tensors[s.to.slot] = false;
        break;
      case Kind::place:
        s.to.slot = make(false);
        s.to.offset = read.number();
        STD_TORCH_CHECK(s.to.offset < memory_, "a plan has a place at ", s.to.offset, " of ", memory_, " bytes");
        break;
      case Kind::zero:
        s.to = view(false);
        break;
      case Kind::copy:
        s.to = view(false);
        s.from = view(false);
        break;
      case Kind::product:
        s.from = view(false);
        s.by = view(false);
        s.to.slot = make(true);
        break;
      case Kind::launch: {
        s.function = static_cast<uint64_t>(read.next());
        for (uint32_t& n : s.grid) n = static_cast<uint32_t>(read.number());
        s.threads = static_cast<uint32_t>(read.number());
        s.shared_memory = static_cast<uint32_t>(read.number());
        const int64_t count = read.number();
        for (int64_t j = 0; j < count; ++j) {
          const int64_t place = read.next();
          STD_TORCH_CHECK(place >= -1 && place < static_cast<int64_t>(slots_), "a plan uses slot ", place, " of ",
                          slots_);
          s.parameters.push_back({place, static_cast<uint64_t>(read.next())});
        }
        break;
      }
      default:
        STD_TORCH_CHECK(false, "a plan has no step of kind ", static_cast<int64_t>(s.kind));
    }
    steps_.push_back(std::move(s));
  }
  const int64_t results = read.number();
  for (int64_t i = 0; i < results; ++i) {
    results_.push_back(view(false));
    STD_TORCH_CHECK(results_.back().slot >= arguments, "a plan returns argument ", results_.back().slot);
  }
  STD_TORCH_CHECK(read.done(), "a plan goes on after its results");
}

namespace {

// One replay: what its slots hold.
class Replay {
 public:
  Replay(const Arguments& arguments, size_t slots, int64_t memory) : slots_(slots), places_(slots, 0) {
    for (size_t i = 0; i < arguments.size(); ++i) {
      if (!arguments[i]) continue;
      set(i, *arguments[i]);
      if (device_type_ >= 0) continue;
      STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(arguments[i]->get(), &device_type_));
      device_ = arguments[i]->get_device_index();
    }
    STD_TORCH_CHECK(device_type_ >= 0, "a plan needs a tensor among its arguments");
    if (device_type_ != aoti_torch_device_type_cpu()) use_card();  // on the CPU a test stands in for the driver
    const int64_t stride = 1;
    if (memory) memory_ = allocate(1, &memory, &stride, aoti_torch_dtype_uint8());
  }

  void use_card() {
    guard_.emplace(device_);
    static const binding::CurrentStream current_stream = binding::find_current_stream();
    STD_TORCH_CHECK(current_stream != nullptr, "this PyTorch was built without CUDA");
    STD_TORCH_CHECK(current_stream(device_, &stream_) == 0, "PyTorch has no stream for cuda:", device_);
    Driver::get().make_context(device_);
  }

  void run(const Step& s) {
    switch (s.kind) {
      case Kind::allocate: {
        const auto dimensions = static_cast<int64_t>(s.to.sizes.size());
        set(s.to.slot, allocate(dimensions, s.to.sizes.data(), s.to.strides.data(), static_cast<int32_t>(s.dtype)));
        break;
      }
      case Kind::place:
        places_[s.to.slot] = address(*memory_) + s.to.offset;
        break;
      case Kind::free:
        slots_[s.to.slot].reset();
        break;
      case Kind::zero: {
        Tensor to = part(s.to);
        torch::stable::zero_(to);
        break;
      }
      case Kind::copy: {
        Tensor to = part(s.to);
        torch::stable::copy_(to, part(s.from));
        break;
      }
      case Kind::product: {
        std::array<StableIValue, 2> stack{torch::stable::detail::from(part(s.from)),
                                          torch::stable::detail::from(part(s.by))};
        if (torch_call_dispatcher("aten::mm", "", stack.data(), TORCH_ABI_VERSION) != AOTI_TORCH_SUCCESS) throw NotMade();
        set(s.to.slot, torch::stable::detail::to<Tensor>(stack[0]));
        break;
      }
      case Kind::launch: {
        values_.clear();
        for (const Parameter& p : s.parameters)
          values_.push_back(p.slot < 0 ? p.value : places_[p.slot] + p.value);
        parameters_.clear();
        for (uint64_t& value : values_) parameters_.push_back(&value);
        Driver::get().launch(s.function, s.grid, s.threads, s.shared_memory, stream_, parameters_.data());
        break;
      }
    }
  }

  // The slot's own tensor where that is all of it, else a new one over its memory, which is no view to autograd.
  Tensor part(const View& v) const {
    const Tensor& whole = *slots_[v.slot];
    const Shape shape = shape_of(whole);
    const auto equal = [](const std::vector<int64_t>& a, const int64_t* b) { return std::equal(a.begin(), a.end(), b); };
    if (v.offset == 0 && static_cast<int64_t>(v.sizes.size()) == shape.dimensions && equal(v.sizes, shape.sizes) &&
        equal(v.strides, shape.strides))
      return whole;
    AtenTensorHandle made = nullptr;  // the offset is counted from the slot's own
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch__reinterpret_tensor(
        whole.get(), static_cast<int64_t>(v.sizes.size()), v.sizes.data(), v.strides.data(), v.offset, &made));
    return Tensor(made);
  }

 private:
  Tensor allocate(int64_t dimensions, const int64_t* sizes, const int64_t* strides, int32_t dtype) const {
    AtenTensorHandle made = nullptr;
    if (aoti_torch_empty_strided(dimensions, sizes, strides, dtype, device_type_, device_, &made) != AOTI_TORCH_SUCCESS)
      throw NotMade();
    return Tensor(made);
  }

  void set(size_t slot, const Tensor& t) {
    slots_[slot] = t;
    places_[slot] = address(t);
  }

  std::vector<std::optional<Tensor>> slots_;
  std::optional<Tensor> memory_;
  std::vector<uint64_t> places_;
  std::vector<uint64_t> values_;
  std::vector<void*> parameters_;
  int32_t device_type_ = -1, device_ = 0;
  void* stream_ = nullptr;
  std::optional<torch::stable::accelerator::DeviceGuard> guard_;
};

}  // namespace

std::vector<Tensor> Plan::replay(const Arguments& arguments) const {
  Replay replay(arguments, slots_, memory_);
  for (const Step& step : steps_) replay.run(step);
  std::vector<Tensor> results;
  results.reserve(results_.size());
  for (const View& view : results_) results.push_back(replay.part(view));
  return results;
}

}  // namespace lyra::plans
