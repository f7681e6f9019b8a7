// How far outputs are from a reference; the same definitions as tvm_iovt/discrepancy.py.
#ifndef TVM_IOVT_RUNTIME_DISCREPANCY_H_
#define TVM_IOVT_RUNTIME_DISCREPANCY_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>

#include "npz.h"

namespace iovt {

struct OutputDiscrepancy {
  std::string name;
  double max_abs = 0, max_rel = 0, cosine = 1;
  int64_t violations = 0, elements = 0;
};

inline double HalfToDouble(uint16_t bits) {
  int exponent = bits >> 10 & 31, fraction = bits & 1023;
  double magnitude = exponent == 31  ? (fraction ? std::nan("") : INFINITY)
                     : exponent == 0 ? std::ldexp(fraction, -24)
                                     : std::ldexp(1024 + fraction, exponent - 25);
  return bits & 0x8000 ? -magnitude : magnitude;
}

template <typename T>
T Load(const NpyArray& array, int64_t i) {
  T value;
  std::memcpy(&value, array.data.data() + static_cast<size_t>(i) * sizeof(T), sizeof(T));
  return value;
}

inline double Element(const NpyArray& a, int64_t i) {
  switch (a.kind) {
    case 'f':
      if (a.itemsize == 2) return HalfToDouble(Load<uint16_t>(a, i));
      return a.itemsize == 4 ? static_cast<double>(Load<float>(a, i)) : Load<double>(a, i);
    case 'i':
      if (a.itemsize == 1) return Load<int8_t>(a, i);
      if (a.itemsize == 2) return Load<int16_t>(a, i);
      return a.itemsize == 4 ? Load<int32_t>(a, i) : static_cast<double>(Load<int64_t>(a, i));
    default:
      if (a.itemsize == 1) return Load<uint8_t>(a, i);
      if (a.itemsize == 2) return Load<uint16_t>(a, i);
      return a.itemsize == 4 ? Load<uint32_t>(a, i) : static_cast<double>(Load<uint64_t>(a, i));
  }
}

// Some units in the last place of a float32 around 1.
constexpr double kRounding = 1e-6;

// The absolute bound is meant for outputs of about this size; elements near zero of larger ones are
// as inexact as the others.
constexpr double kLarge = 10;

// `atol`, scaled with the largest finite |r| of an output of small or large numbers.
inline double AbsoluteBound(const NpyArray& expected, double atol) {
  double largest = 0;
  for (int64_t i = 0; i < expected.size(); ++i) {
    double r = std::fabs(Element(expected, i));
    if (std::isfinite(r)) largest = std::max(largest, r);
  }
  if (largest > kLarge) return atol * (largest / kLarge);
  return largest > 0 ? std::min(atol, std::max(kRounding, atol * largest)) : atol;
}

inline OutputDiscrepancy Compare(const std::string& name, const NpyArray& actual,
                                 const NpyArray& expected, double rtol, double atol) {
  const double infinity = std::numeric_limits<double>::infinity();
  OutputDiscrepancy out;
  out.name = name;
  out.elements = expected.size();
  if (actual.kind != expected.kind || actual.itemsize != expected.itemsize ||
      actual.shape != expected.shape) {
    out.max_abs = out.max_rel = infinity;
    out.cosine = 0;
    out.violations = std::max<int64_t>(1, out.elements);
    return out;
  }
  const bool is_float = expected.kind == 'f';
  if (!is_float) rtol = atol = 0;
  atol = AbsoluteBound(expected, atol);
  const double threshold = rtol > 0 ? atol / rtol : (atol == 0 ? 0 : infinity);
  double largest_y = 0, largest_r = 0;  // of the elements that are finite in both
  for (int64_t i = 0; i < out.elements; ++i) {
    double y = Element(actual, i), r = Element(expected, i);
    size_t at = static_cast<size_t>(i * actual.itemsize);
    bool same = is_float ? y == r || (std::isnan(y) && std::isnan(r))
                         : std::memcmp(actual.data.data() + at, expected.data.data() + at,
                                       static_cast<size_t>(actual.itemsize)) == 0;
    double absolute = same ? 0 : std::fabs(y - r);
    if (std::isnan(absolute)) absolute = infinity;
    bool within = same || (is_float && std::isfinite(r) && absolute <= atol + rtol * std::fabs(r));
    if (!within) ++out.violations;
    out.max_abs = std::max(out.max_abs, absolute);
    if (std::isfinite(r) && std::fabs(r) > threshold) {
      out.max_rel = std::max(out.max_rel, absolute / std::fabs(r));
    }
    if (std::isfinite(y) && std::isfinite(r)) {
      largest_y = std::max(largest_y, std::fabs(y));
      largest_r = std::max(largest_r, std::fabs(r));
    }
  }
  if (largest_y == 0 || largest_r == 0) {
    out.cosine = largest_y == largest_r ? 1 : 0;
    return out;
  }
  double yr = 0, yy = 0, rr = 0;
  for (int64_t i = 0; i < out.elements; ++i) {
    double y = Element(actual, i), r = Element(expected, i);
    if (!std::isfinite(y) || !std::isfinite(r)) continue;
    y /= largest_y, r /= largest_r;  // scaled so that squares neither overflow nor vanish
    yr += y * r, yy += y * y, rr += r * r;
  }
  out.cosine = yr / (std::sqrt(yy) * std::sqrt(rr));
  return out;
}

}  // namespace iovt

#endif  // TVM_IOVT_RUNTIME_DISCREPANCY_H_
