// What the drivers share that run the CPU kernels under sanitizers: random shapes, exactly sized arrays, threads.
#pragma once

#include <cmath>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "../../csrc/cpu/dispatch.h"

namespace lyra::sanitize {

inline std::mt19937_64& random_engine() {
  static std::mt19937_64 engine;
  return engine;
}
// Uniform in low .. high, both included.
inline int64_t integer(int64_t low, int64_t high) {
  return std::uniform_int_distribution<int64_t>(low, high)(random_engine());
}
inline double real(double low, double high) {
  return std::uniform_real_distribution<double>(low, high)(random_engine());
}
inline bool coin() { return integer(0, 1) == 1; }

// The last line printed is the case that a sanitizer's report is about.
inline void describe(const char* format, ...) __attribute__((format(printf, 1, 2)));
inline void describe(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  std::vprintf(format, arguments);
  va_end(arguments);
  std::printf("\n");
  std::fflush(stdout);
}

inline cpu::Order random_order() { return coin() ? cpu::Order::channels_last : cpu::Order::channels_first; }

inline int64_t size_of(cpu::DType dtype) {
  return dtype == cpu::DType::f64 ? 8 : dtype == cpu::DType::f32 ? 4 : 2;
}
inline cpu::DType compute_type(cpu::DType dtype) {
  return dtype == cpu::DType::f64 ? cpu::DType::f64 : cpu::DType::f32;
}

// Exactly `count` elements on the heap, so that one element beyond is an error.
class Array {
 public:
  Array(cpu::DType dtype, int64_t count)
      : dtype_(dtype), count_(count), bytes_(new unsigned char[static_cast<size_t>(count * size_of(dtype))]) {
    for (int64_t i = 0; i < count; ++i) set(i, NAN);  // outputs start as NaN
  }
  Array(cpu::DType dtype, int64_t count, double low, double high) : Array(dtype, count) {
    for (int64_t i = 0; i < count; ++i) set(i, real(low, high));
  }
  void* data() { return bytes_.get(); }

  // Ends the program where an element was not written.
  void check(const char* name) const {
    for (int64_t i = 0; i < count_; ++i)
      if (std::isnan(get(i))) {
        std::fprintf(stderr, "%s[%lld] was not written, or is NaN\n", name, static_cast<long long>(i));
        std::exit(1);
      }
  }

 private:
  void set(int64_t i, double value) {
    unsigned char* p = bytes_.get() + i * size_of(dtype_);
    const float single = static_cast<float>(value);
    if (dtype_ == cpu::DType::f64) {
      __builtin_memcpy(p, &value, 8);
    } else if (dtype_ == cpu::DType::f32) {
      __builtin_memcpy(p, &single, 4);
    } else {  // near enough: the upper half of a float, or a half with its sign and a narrow exponent
      uint32_t bits;
      __builtin_memcpy(&bits, &single, 4);
      uint16_t upper = static_cast<uint16_t>(bits >> 16);
      if (dtype_ == cpu::DType::f16)
        upper = std::isnan(value) ? 0x7e00 : static_cast<uint16_t>((upper & 0x8000) | 0x3800 | (upper & 0x03ff));
      __builtin_memcpy(p, &upper, 2);
    }
  }
  double get(int64_t i) const {
    const unsigned char* p = bytes_.get() + i * size_of(dtype_);
    if (dtype_ == cpu::DType::f64) {
      double value;
      __builtin_memcpy(&value, p, 8);
      return value;
    }
    if (dtype_ == cpu::DType::f32) {
      float value;
      __builtin_memcpy(&value, p, 4);
      return value;
    }
    uint16_t bits;
    __builtin_memcpy(&bits, p, 2);
    const bool half = dtype_ == cpu::DType::f16;
    return (bits & 0x7fff) > (half ? 0x7c00 : 0x7f80) ? NAN : 0.0;
  }

  cpu::DType dtype_;
  int64_t count_;
  std::unique_ptr<unsigned char[]> bytes_;
};

// A random layout, which owns its lengths.
struct RandomLayout {
  cpu::Layout layout;
  std::vector<int64_t> values;

  explicit RandomLayout(int64_t longest) {
    layout.sequences = integer(0, 4);
    layout.max_length = integer(0, longest);
    const int64_t kind = integer(0, 2);
    if (kind == 1) {
      for (int64_t s = 0; s < layout.sequences; ++s) values.push_back(integer(0, layout.max_length));
      layout.lengths = values.data();
    } else if (kind == 2) {
      values.push_back(0);
      for (int64_t s = 0; s < layout.sequences; ++s)
        values.push_back(integer(0, 2) ? integer(values.back(), values.back() + longest) : values.back());
      layout.max_length = values.back();
      layout.cu_seqlens = values.data();
    }
    values.shrink_to_fit();
    if (layout.lengths) layout.lengths = values.data();
    if (layout.cu_seqlens) layout.cu_seqlens = values.data();
  }
  RandomLayout(const RandomLayout&) = delete;
  const char* kind() const { return layout.cu_seqlens ? "packed" : layout.lengths ? "padded" : "dense"; }
};

inline cpu::DType random_dtype() { return static_cast<cpu::DType>(integer(0, 3)); }

// Up to three threads of their own, so that ThreadSanitizer sees what they share.
inline cpu::Threads random_threads() {
  cpu::Threads threads;
  threads.count = static_cast<int>(integer(1, 3));
  threads.run = [](int64_t n, cpu::Threads::Body body, void* context) {
    const int64_t pieces = n < 3 ? n : 3;
    std::vector<std::thread> running;
    for (int64_t i = 0; i < pieces; ++i)
      running.emplace_back([=] { body(n * i / pieces, n * (i + 1) / pieces, context); });
    for (std::thread& thread : running) thread.join();
  };
  return threads;
}

// main(): DRIVER [cases] [seed]
inline int run_cases(int argc, char** argv, void (*one_case)()) {
  const int64_t cases = argc > 1 ? std::atoll(argv[1]) : 100;
  random_engine().seed(argc > 2 ? static_cast<uint64_t>(std::atoll(argv[2])) : 0u);
  for (int64_t i = 0; i < cases; ++i) one_case();
  describe("%lld cases", static_cast<long long>(cases));
  return 0;
}

}  // namespace lyra::sanitize
