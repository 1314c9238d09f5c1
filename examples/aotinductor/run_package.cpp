// Runs a Lyra that torch._inductor.aoti_compile_and_package has compiled, on the CPU and without Python.
//
//   run_package MODEL.pt2 TOKENS [LIBRARY] > OUTPUT
//
// TOKENS has a line for each sequence: its tokens' numbers. OUTPUT has a line for each too: what the model says.
// LIBRARY is lyra_kernels/_C.abi3.so, for a package that calls its operators.
#include <dlfcn.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

namespace {

std::vector<std::vector<int64_t>> read_sequences(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw std::runtime_error("cannot open " + path);
  std::vector<std::vector<int64_t>> sequences;
  std::string line;
  while (std::getline(file, line)) {
    std::istringstream fields(line);
    std::vector<int64_t> tokens;
    for (int64_t token; fields >> token;) tokens.push_back(token);
    if (!fields.eof())
      throw std::runtime_error(path + ", line " + std::to_string(sequences.size() + 1) + ": not a token's number");
    sequences.push_back(std::move(tokens));
  }
  if (sequences.empty()) throw std::runtime_error(path + " has no sequences");
  return sequences;
}

// The batch (sequences, longest), padded with zeros, and the sequences' lengths.
std::vector<at::Tensor> padded(const std::vector<std::vector<int64_t>>& sequences) {
  const auto count = static_cast<int64_t>(sequences.size());
  size_t longest = 1;
  for (const auto& tokens : sequences) longest = std::max(longest, tokens.size());
  at::Tensor batch = at::zeros({count, static_cast<int64_t>(longest)}, at::kLong);
  at::Tensor lengths = at::zeros({count}, at::kLong);
  for (int64_t s = 0; s < count; ++s) {
    std::copy(sequences[s].begin(), sequences[s].end(), batch.data_ptr<int64_t>() + s * longest);
    lengths.data_ptr<int64_t>()[s] = static_cast<int64_t>(sequences[s].size());
  }
  return {batch, lengths};
}

void run(const std::string& model, const std::string& tokens, const char* library) {
  // Lazily: it is a Python module too, and the functions of Python that this part of it calls are not there.
  if (library && !dlopen(library, RTLD_LAZY | RTLD_GLOBAL)) throw std::runtime_error(dlerror());
  torch::inductor::AOTIModelPackageLoader package(model);
  const at::Tensor output = package.run(padded(read_sequences(tokens)))[0].to(at::kFloat).contiguous();
  const float* values = output.data_ptr<float>();
  const int64_t columns = output.numel() / output.size(0);
  for (int64_t i = 0; i < output.numel(); ++i)
    std::printf("%.9g%c", static_cast<double>(values[i]), (i + 1) % columns ? '\t' : '\n');
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3 || argc > 4) {
    std::fprintf(stderr, "usage: run_package MODEL.pt2 TOKENS [LIBRARY] > OUTPUT\n");
    return 2;
  }
  try {
    run(argv[1], argv[2], argc > 3 ? argv[3] : nullptr);
  } catch (const c10::Error& error) {
    std::fprintf(stderr, "run_package: %s\n", error.what_without_backtrace());
    if (argc < 4 && std::strstr(error.what_without_backtrace(), "schema for lyra::"))
      std::fprintf(stderr, "The package calls operators of lyra_kernels/_C.abi3.so: give its path as LIBRARY.\n");
    return 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "run_package: %s\n", error.what());
    return 1;
  }
  return 0;
}
