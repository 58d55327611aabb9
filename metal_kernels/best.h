// The largest of many values and its position. No value is NaN; ties go to the lower position.
#pragma once

struct Best {
  float value;
  uint at;
};

METAL_FUNC Best better(Best a, Best b) {
  bool second = b.value > a.value || (b.value == a.value && b.at < a.at);
  return {second ? b.value : a.value, second ? b.at : a.at};
}

// Returns the value to compare by. A value that is not finite counts as infinity. So the largest tells whether all are
// finite, and its position is one of those given. The test is on bits, because a compiler may assume that there is no
// NaN.
METAL_FUNC float comparable(float x) { return (as_type<uint>(x) & 0x7F800000u) == 0x7F800000u ? INFINITY : x; }

// Returns the best of a simdgroup's lanes to all of them.
METAL_FUNC Best simd_best(Best mine) {
  float value = simd_max(mine.value);
  return {value, simd_min(mine.value == value ? mine.at : 0xFFFFFFFFu)};
}
