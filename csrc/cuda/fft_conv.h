// The pointwise parts of a convolution by FFT; the transforms between them are the caller's.
//
//   pack:       (rows, channels) of any layout -> (sequences, channels, points), zeros where there is no token
//   multiply:   spectra times the kernel's spectrum, in place
//   correlate:  sum over the sequences of one spectrum times the conjugate of another: the kernel's gradient
//   unpack:     back to (rows, channels), plus D x, zeros in the padding
#pragma once

#include "common.h"

namespace lyra::cuda {

struct FftPackArgs {
  DType dtype;      // of x; signal is f64 where this is f64, else f32
  Layout layout;
  int64_t channels, points;
  const void* x;    // (rows, channels)
  void* signal;     // (sequences, channels, points)
  Stream stream;
};

struct FftUnpackArgs {
  DType dtype;         // of x and y; signal and D are f64 where this is f64, else f32
  Layout layout;
  int64_t channels, points;
  const void* signal;  // (sequences, channels, points)
  const void* x;       // (rows, channels), or null where D is
  const void* D;       // (channels), or null
  void* y;             // (rows, channels)
  Stream stream;
};

struct FftSpectraArgs {
  DType dtype;           // f32 or f64, of the parts of the complex numbers
  int64_t sequences, channels, frequencies;
  const void* other;     // multiply: (channels, frequencies, 2); correlate: (sequences, channels, frequencies, 2)
  bool conjugate;        // multiply by the conjugate
  Stream stream;
};

void fft_pack(const FftPackArgs& args);
void fft_unpack(const FftUnpackArgs& args);
// spectra (sequences, channels, frequencies, 2), changed in place.
void fft_multiply(const FftSpectraArgs& args, void* spectra);
// result (channels, frequencies, 2) = sum over the sequences of spectra times conj(other).
void fft_correlate(const FftSpectraArgs& args, const void* spectra, void* result);

}  // namespace lyra::cuda
