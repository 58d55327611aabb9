// Which experts a row chooses. Every simdgroup finds them from the logits by itself: a few simd operations, no barrier.
#pragma once

// Finds the K largest of E logits in falling order, ties to the lower id. All lanes get the same ids and values.
template <int E, int K>
METAL_FUNC void top_experts(const device float* logits, uint lane, thread uint (&ids)[K], thread float (&values)[K]) {
  constexpr int PER_LANE = (E + 31) / 32;
  float v[PER_LANE];
#pragma unroll
  for (int i = 0; i < PER_LANE; i++) {
    uint e = uint(i * 32) + lane;
    v[i] = -INFINITY;
    if (E % 32 == 0 || e < E) v[i] = logits[e];
  }
#pragma unroll
  for (int k = 0; k < K; k++) {
    float best = v[0];
    uint at = lane;
#pragma unroll
    for (int i = 1; i < PER_LANE; i++) {
      if (v[i] > best) {
        best = v[i];
        at = uint(i * 32) + lane;
      }
    }
    values[k] = simd_max(best);
    uint id = simd_min(best == values[k] ? at : uint(E));
    id = min(id, uint(E - 1));  // if all are NaN, none equals the maximum, and E must not become an address
    ids[k] = id;
#pragma unroll
    for (int i = 0; i < PER_LANE; i++) {
      if (uint(i * 32) + lane == id) v[i] = -INFINITY;
    }
  }
}

// Returns v[k] by constant indices only, because a private array indexed by a variable would leave the registers.
template <int K, typename T>
METAL_FUNC T pick(const thread T (&v)[K], uint k) {
  T picked = v[0];
#pragma unroll
  for (int i = 1; i < K; i++) {
    if (k == uint(i)) picked = v[i];
  }
  return picked;
}

// Returns the slot of an expert, or -1 if it is absent. One lane reads it for its simdgroup.
METAL_FUNC int slot_of(const device int* slots, uint expert, uint lane) {
  int slot = 0;
  if (lane == 0) slot = slots[expert];
  return simd_broadcast_first(slot);
}
