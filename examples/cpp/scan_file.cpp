// Runs an S4D layer's convolution over a file of numbers: a line per token, a column per channel.
//
//   scan_file INPUT [MODES] [THREADS] > OUTPUT
//
// The parameters are those that a model starts with: dt from 0.001 to 0.1 over the channels, A_n = -1/2 + i pi n,
// C = 1, D = 1. A program with a trained model reads them from its checkpoint instead.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "cpu/s4d_scan.h"

namespace {

struct Table {
  int64_t rows = 0, columns = 0;
  std::vector<float> values;
};

Table read_table(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw std::runtime_error("cannot open " + path);
  Table table;
  std::string line;
  for (int64_t number = 1; std::getline(file, line); ++number) {
    std::istringstream fields(line);
    int64_t columns = 0;
    std::string field;
    while (fields >> field) {
      size_t used = 0;
      try {
        table.values.push_back(std::stof(field, &used));
      } catch (const std::exception&) {
      }
      if (used != field.size())
        throw std::runtime_error(path + ", line " + std::to_string(number) + ": '" + field + "' is not a number");
      ++columns;
    }
    if (columns == 0) continue;
    if (table.rows > 0 && columns != table.columns)
      throw std::runtime_error(path + ", line " + std::to_string(number) + ": " + std::to_string(columns) +
                               " columns, but " + std::to_string(table.columns) + " before");
    table.columns = columns;
    ++table.rows;
  }
  return table;
}

int positive(const char* text, const char* name) {
  char* end;
  const long value = std::strtol(text, &end, 10);
  if (*end || value < 1 || value > 4096) throw std::runtime_error(std::string(name) + " must be from 1 to 4096");
  return static_cast<int>(value);
}

// A thread pool for the library to borrow: here, as many threads as the ranges that a call is cut into.
thread_local int thread_count = 1;

lyra::cpu::Threads make_threads(int count) {
  thread_count = count;
  lyra::cpu::Threads threads;
  threads.count = count;
  threads.run = [](int64_t n, lyra::cpu::Threads::Body body, void* context) {
    std::vector<std::thread> workers;
    for (int i = 0; i < thread_count; ++i) {
      const int64_t begin = n * i / thread_count, end = n * (i + 1) / thread_count;
      if (begin < end) workers.emplace_back(body, begin, end, context);
    }
    for (std::thread& worker : workers) worker.join();
  };
  return threads;
}

void run(const std::string& path, int modes, int threads) {
  const Table u = read_table(path);
  const int64_t channels = u.columns;
  const double pi = std::acos(-1.0);
  std::vector<float> log_dt(channels), D(channels, 1.0f), log_A_real(channels * modes, std::log(0.5f));
  std::vector<float> A_imag(channels * modes), C(channels * modes * 2, 0.0f);
  for (int64_t h = 0; h < channels; ++h) {
    const double part = channels > 1 ? static_cast<double>(h) / static_cast<double>(channels - 1) : 0.0;
    log_dt[h] = static_cast<float>(std::log(0.001) + part * std::log(100.0));
    for (int n = 0; n < modes; ++n) {
      A_imag[h * modes + n] = static_cast<float>(pi * n);
      C[(h * modes + n) * 2] = 1.0f;
    }
  }
  std::vector<float> y(u.values.size());

  lyra::cpu::S4dScanArgs args{};
  args.dtype = lyra::cpu::DType::f32;
  args.layout.sequences = 1;
  args.layout.max_length = u.rows;
  args.channels = channels;
  args.modes = modes;
  args.directions = 1;
  args.u = u.values.data();
  args.log_dt = log_dt.data();
  args.log_A_real = log_A_real.data();
  args.A_imag = A_imag.data();
  args.C = C.data();
  args.D = D.data();
  args.y = y.data();
  lyra::cpu::s4d_scan(args, make_threads(threads));

  for (int64_t t = 0; t < u.rows; ++t)
    for (int64_t h = 0; h < channels; ++h)
      std::printf("%.9g%c", static_cast<double>(y[t * channels + h]), h + 1 < channels ? '\t' : '\n');
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2 || argc > 4) {
    std::fprintf(stderr, "usage: scan_file INPUT [MODES] [THREADS] > OUTPUT\n");
    return 2;
  }
  try {
    run(argv[1], argc > 2 ? positive(argv[2], "MODES") : 32, argc > 3 ? positive(argv[3], "THREADS") : 1);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "scan_file: %s\n", error.what());
    return 1;
  }
  return 0;
}
