// The element types of the twins: 16-bit floats as bits, rounded to nearest even, and the dispatch from florence_dtype.
#pragma once

#include <cstdint>
#include <cstring>

#include "florence_kernels.h"

namespace florence::cpu {

struct Half {
  uint16_t bits;
};

struct BFloat16 {
  uint16_t bits;
};

inline uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline float from_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline float to_float(float value) { return value; }

inline float to_float(BFloat16 value) { return from_bits(uint32_t(value.bits) << 16); }

inline float to_float(Half value) {
  const uint32_t sign = uint32_t(value.bits & 0x8000u) << 16;
  const uint32_t exponent = (value.bits >> 10) & 0x1f, mantissa = value.bits & 0x3ff;
  if (exponent == 0) return from_bits(sign | bits_of(float(mantissa) * 0x1p-24f));
  if (exponent == 31) return from_bits(sign | 0x7f800000u | mantissa << 13);
  return from_bits(sign | (exponent + 112) << 23 | mantissa << 13);
}

template <class T>
T from_float(float value);

template <>
inline float from_float<float>(float value) {
  return value;
}

template <>
inline BFloat16 from_float<BFloat16>(float value) {
  const uint32_t bits = bits_of(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {uint16_t(bits >> 16 | 0x40)};
  return {uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}

template <>
inline Half from_float<Half>(float value) {
  const uint32_t bits = bits_of(value), sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return {uint16_t(sign | 0x7e00)};   // NaN
  if (magnitude >= 0x477ff000u) return {uint16_t(sign | 0x7c00)};  // 65520 and more round to infinity
  if (magnitude < 0x38800000u) {                                   // below 2^-14: subnormal, a multiple of 2^-24
    // Adding 1.5 * 2^23 leaves the integer, rounded to nearest even, in the low bits.
    const float shifted = from_bits(magnitude) * 0x1p24f + 0x1.8p23f;
    return {uint16_t(sign | (bits_of(shifted) & 0x7ff))};
  }
  const uint32_t rounded = magnitude + 0xfff + ((magnitude >> 13) & 1);
  return {uint16_t(sign | (rounded - 0x38000000u) >> 13)};
}

// Calls f with a value of the element type that `dtype` names; the checks have refused every other number.
template <class F>
void with_dtype(int dtype, F f) {
  if (dtype == FLORENCE_F16) {
    f(Half{});
  } else if (dtype == FLORENCE_BF16) {
    f(BFloat16{});
  } else {
    f(float{});
  }
}

}  // namespace florence::cpu
