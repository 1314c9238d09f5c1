// torch.ops.lyra_plans: tables of plans, one for each op and choice of its numbers, from signature to plan.
#include <torch/csrc/stable/library.h>

#include <map>
#include <memory>
#include <mutex>
#include <tuple>

#include "bind/plans/plan.h"

namespace lyra::plans {
namespace {

constexpr size_t kMostPlans = 512;  // of one table; lengths may differ from batch to batch without end

struct Entry {
  int64_t calls = 0;                 // of this signature that found no plan
  std::shared_ptr<const Plan> plan;  // a replay goes on while another thread clears the table
  bool refused = false;
};

struct Table {
  std::map<std::vector<int64_t>, Entry> entries;

  Entry& entry(std::vector<int64_t> key) {
    if (entries.size() >= kMostPlans && entries.find(key) == entries.end()) entries.clear();
    return entries[std::move(key)];
  }
};

std::mutex mutex;
std::vector<Table> tables;

Table& table_at(int64_t number) {
  STD_TORCH_CHECK(number >= 0 && number < static_cast<int64_t>(tables.size()), "there is no table ", number);
  return tables[number];
}

int64_t open() {
  const std::lock_guard<std::mutex> lock(mutex);
  tables.emplace_back();
  return static_cast<int64_t>(tables.size()) - 1;
}

// The results, and 0; or none, and how often such arguments have come. None and 0: there will be no plan. None and -1:
// PyTorch could not make a tensor, and Python is to find out why by doing all of it again.
std::tuple<std::vector<Tensor>, int64_t> replay(int64_t table, Arguments arguments) {
  std::shared_ptr<const Plan> plan;
  {
    std::vector<int64_t> key = signature(arguments);
    const std::lock_guard<std::mutex> lock(mutex);
    Entry& entry = table_at(table).entry(std::move(key));
    if (entry.refused) return {std::vector<Tensor>(), 0};
    if (!entry.plan) return {std::vector<Tensor>(), ++entry.calls};
    plan = entry.plan;
  }
  try {
    return {plan->replay(arguments), 0};
  } catch (const NotMade&) {
    return {std::vector<Tensor>(), -1};
  }
}

void add(int64_t table, Arguments arguments, std::vector<int64_t> program) {
  auto plan = std::make_shared<const Plan>(static_cast<int64_t>(arguments.size()), program);
  const std::lock_guard<std::mutex> lock(mutex);
  table_at(table).entry(signature(arguments)).plan = std::move(plan);
}

void refuse(int64_t table, Arguments arguments) {
  const std::lock_guard<std::mutex> lock(mutex);
  table_at(table).entry(signature(arguments)).refused = true;
}

void clear(int64_t table) {
  const std::lock_guard<std::mutex> lock(mutex);
  table_at(table).entries.clear();
}

}  // namespace
}  // namespace lyra::plans

STABLE_TORCH_LIBRARY(lyra_plans, m) {
  m.def("open() -> int");
  m.def("replay(int table, Tensor?[] arguments) -> (Tensor[], int)");
  m.def("add(int table, Tensor?[] arguments, int[] program) -> ()");
  m.def("refuse(int table, Tensor?[] arguments) -> ()");
  m.def("clear(int table) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(lyra_plans, CompositeExplicitAutograd, m) {
  using namespace lyra::plans;
  m.impl("open", TORCH_BOX(&open));
  m.impl("replay", TORCH_BOX(&replay));
  m.impl("add", TORCH_BOX(&add));
  m.impl("refuse", TORCH_BOX(&refuse));
  m.impl("clear", TORCH_BOX(&clear));
}
