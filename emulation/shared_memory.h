// The shared memory of the block that is running.
#pragma once

#include <cstddef>

namespace emu {

// Forgets the arrays of the block before.
void start_block_memory(size_t dynamic_bytes);
// Fails where something was written between the arrays.
void check_canaries();

}  // namespace emu
