// The host's side of the scan: how it is cut, the workspace, the launches that forward and backward both begin with.
#pragma once

#include "s4d_scan.cuh"
#include "workspace.cuh"

namespace lyra::cuda {

// What a kernel keeps in shared memory for each channel: rows of 32 tokens, tiles in the storage type and in R.
struct ScanMemory {
  int rows, inputs, results;
};

template <class R>
size_t scan_bytes(const ScanShape& s, const ScanMemory& m, DType dtype) {
  return s.group * (m.rows * kWarp * sizeof(R) + s.pitch * (m.inputs * storage_bytes(dtype) + m.results * sizeof(R)));
}

// Groups whose rows fill whole 32-byte sectors. Long segments move fewer states and tables, up to the point where warps
// would be too few: a warp has as many tokens in 16-bit storage, of twice the channels, as two have in fp32. As many
// blocks as registers allow have room on a multiprocessor; fewer, down to one, where that makes do with a single segment,
// which is read once.
template <class R>
ScanShape scan_shape(const S4dScanArgs& args, const ScanMemory& memory, int most_shift) {
  if (args.channels * args.modes * args.directions >= int64_t{1} << 31)
    throw Error("s4d_scan: too many channels times modes");
  ScanShape s;
  s.channels = static_cast<int>(args.channels);
  s.modes = static_cast<int>(args.modes);
  s.directions = static_cast<int>(args.directions);
  s.group = 32 / static_cast<int>(storage_bytes(args.dtype));
  s.groups = (s.channels + s.group - 1) / s.group;
  const size_t resident = kScanResident<R> / kWarp / s.group, limit = shared_limit("s4d_scan");
  const int64_t longest = args.layout.max_length;
  for (s.shift = kMostSegmentShift;; --s.shift) {
    const int64_t size = int64_t{1} << s.shift, chunks = ((longest < size ? longest : size) + kScanChunk - 1) / kScanChunk;
    s.pitch = static_cast<int>(chunks * kScanChunk) + 128 / static_cast<int>(sizeof(R)) / s.group;
    s.segmented = longest > size;
    if (s.shift == kChunkShift) break;
    if (longest <= size / 2 || (s.segmented && s.shift > most_shift)) continue;
    if ((s.segmented ? resident : 1) * scan_bytes<R>(s, memory, args.dtype) <= limit) break;
  }
  return s;
}

template <class R>
int64_t scan_blocks(const S4dScanArgs& args, const ScanShape& s) {
  return args.layout.tiles(int64_t{1} << s.shift) * s.groups;
}

template <class R>
ModeParameters<R> scan_parameters(const S4dScanArgs& args) {
  return {static_cast<int>(args.modes), static_cast<const R*>(args.log_dt), static_cast<const R*>(args.log_A_real),
          static_cast<const R*>(args.A_imag), static_cast<const R*>(args.C)};
}

template <class R>
struct ScanTables {
  Complex<R>*a, *c, *states;  // states: what enters each segment
  Correction* lost;
  ScanTables(Pieces& pieces, const S4dScanArgs& args, const ScanShape& shape) {
    const int64_t all = args.channels * args.modes;
    a = pieces.take<Complex<R>>(all);
    lost = pieces.take<Correction>(all);
    c = pieces.take<Complex<R>>(all * args.directions);
    states = pieces.take<Complex<R>>(shape.segmented ? args.layout.tiles(int64_t{1} << shape.shift) * args.directions * all
                                                     : 0);
  }
};

// The activations behind these pointers, which have one storage type and alignment.
template <class... P>
bool wide_accesses(const S4dScanArgs& args, P... pointers) {
  bool wide = false;
  with_storage_type(args.dtype, [&](auto* p) { wide = vectorizable<Pointee<decltype(p)>>(args.channels, pointers...); });
  return wide;
}

template <class R>
void prepare_scan(const S4dScanArgs& args, const ScanShape& shape, const ScanTables<R>& tables, const Activations& x,
                  const void* first, bool adjoint) {
  const int64_t all = args.channels * args.modes;
  launch("s4d_scan_tables", s4d_scan_tables<R>, (all + 127) / 128, 128, 0, args.stream, scan_parameters<R>(args),
         args.channels, shape.directions, tables.a, tables.lost, tables.c);
  if (!shape.segmented) return;
  launch("s4d_scan_segments", s4d_scan_segments<R>, scan_blocks<R>(args, shape), shape.group * kWarp,
         scan_bytes<R>(shape, {1, 1, 0}, args.dtype), args.stream, x, tables.a, tables.lost, tables.states, args.layout,
         shape, adjoint);
  launch("s4d_scan_connect", s4d_scan_connect<R>, (args.layout.sequences * all * shape.directions + 127) / 128, 128, 0,
         args.stream, scan_parameters<R>(args), tables.a, tables.c, static_cast<const Complex<R>*>(first),
         tables.states, args.layout, shape, adjoint);
}

}  // namespace lyra::cuda
