// The largest of many values and its position: ties go to the lower position, and NaN is never larger, so that the position
// always is one of those given.
#pragma once

struct Best {
  float value;
  uint at;
};

METAL_FUNC Best better(Best a, Best b) {
  bool second = b.value > a.value || (b.value == a.value && b.at < a.at);
  return {second ? b.value : a.value, second ? b.at : a.at};
}

// Of a simdgroup's lanes. None of the values is NaN.
METAL_FUNC Best simd_best(Best mine) {
  float value = simd_max(mine.value);
  return {value, simd_min(mine.value == value ? mine.at : 0xFFFFFFFFu)};
}
