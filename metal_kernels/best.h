// The largest of many values, none of them NaN, and its position: ties go to the lower position.
#pragma once

struct Best {
  float value;
  uint at;
};

METAL_FUNC Best better(Best a, Best b) {
  bool second = b.value > a.value || (b.value == a.value && b.at < a.at);
  return {second ? b.value : a.value, second ? b.at : a.at};
}

// A value to compare by. What is not finite counts as the largest: so the largest tells whether all are finite, and the
// position is one of those given. By its bits, since a compiler may take for granted that there is no NaN.
METAL_FUNC float comparable(float x) { return (as_type<uint>(x) & 0x7F800000u) == 0x7F800000u ? INFINITY : x; }

// Of a simdgroup's lanes.
METAL_FUNC Best simd_best(Best mine) {
  float value = simd_max(mine.value);
  return {value, simd_min(mine.value == value ? mine.at : 0xFFFFFFFFu)};
}
