// Attention with sinks of new rows over a cache and over themselves. Writes a fresh tail too: the old one and the new
// rows.
//
// Grid: x over splits of the keys, y over key/value heads and the SHARE threadgroups of each, z over the new rows. A
// threadgroup serves GROUP of the query heads of its key/value head. It loads each key and value once, and the first of
// a key/value head copies what belongs in the fresh tail. A simdgroup takes 32 keys at a time. D / 8 lanes read a key,
// eight dimensions each, and the simdgroup reads as many keys side by side as its lanes allow. A reduce-scatter of
// their products leaves each lane with the scores of one key, for an online softmax. The order of the keys follows from
// a row's position alone, so its result depends neither on other rows nor on where keys lie.
//
// SPLIT keys are a split, which SIMDGROUPS simdgroups share. A threadgroup has INSIDE splits beside each other, which
// are all keys of a row, and joins them. With INSIDE 0 it has one of many, and decode_attention_combine is the second
// pass. Both join in the same order.
#include "decode_attention.h"

template <typename T = bfloat, typename S = bfloat, typename O = half, int D = 64, int GROUP = 8, int TAIL = 64,
          int WINDOW = 0, int SPLIT = 256, int INSIDE = 1, int SHARE = 1, int BATCH = 2, int SIMDGROUPS = 4,
          int SCALE_BITS = 1040187392>  // the bits of 0.125
[[kernel]] void decode_attention(
    const device float* q,           // [rows, heads, D]
    const device T* kv,              // [rows, 2, kv heads, D]: keys, then values
    const device T* body,            // [2, 1, kv heads, capacity, D]
    const constant int* body_shape,
    const device T* tail,            // [2, 1, kv heads, TAIL, D]
    const constant int* counts,      // [2]: rows that hold positions in body and tail
    const device S* sinks,           // [heads]
    device O* attended,              // [rows, heads, D]; with INSIDE 0 [rows, heads, splits, D + 4]: maximum, sum, 0, 0
    device T* fresh_tail,            // as tail; rows past the new ones are not written
    uint simdgroup_index_in_threadgroup [[simdgroup_index_in_threadgroup]],
    uint thread_index_in_simdgroup [[thread_index_in_simdgroup]],
    uint thread_index_in_threadgroup [[thread_index_in_threadgroup]],
    uint3 threadgroup_position_in_grid [[threadgroup_position_in_grid]],
    uint3 threadgroups_per_grid [[threadgroups_per_grid]]) {
  constexpr int LANES = D / 8;              // that read one key
  constexpr int BATCHES = LANES / BATCH;    // a lane reads LANES keys of the 32, BATCH at a time
  constexpr int KEPT = GROUP * D / 32;      // sums of a simdgroup that one lane keeps
  constexpr int SPLITS = INSIDE ? INSIDE : 1;  // of a threadgroup
  constexpr uint THREADS = 32 * SIMDGROUPS * SPLITS;
  threadgroup float4 queries[GROUP * D / 4];
  threadgroup float4 parts[SPLITS * SIMDGROUPS][GROUP * D / 4];
  threadgroup float2 scales[SPLITS * SIMDGROUPS][GROUP];  // maximum and sum
  uint lane = thread_index_in_simdgroup, simdgroup = simdgroup_index_in_threadgroup;
  uint splits = threadgroups_per_grid.x, row = threadgroup_position_in_grid.z;
  uint split = INSIDE ? simdgroup / SIMDGROUPS : threadgroup_position_in_grid.x;
  Cache<T> cache;
  cache.body = body;
  cache.tail = tail;
  cache.kv = kv;
  cache.in_body = uint(counts[0]);
  cache.before = cache.in_body + uint(counts[1]);
  cache.capacity = uint(body_shape[3]);
  cache.heads = threadgroups_per_grid.y / SHARE;
  cache.head = threadgroup_position_in_grid.y / SHARE;
  uint first_head = (row * threadgroups_per_grid.y + threadgroup_position_in_grid.y) * GROUP;

  uint own = cache.before + row, end = own + 1, begin = split * SPLIT;
  if (WINDOW) begin = max(end, uint(WINDOW)) - uint(WINDOW);
  end = min(end, begin + SPLIT);
  // Row 0 also copies the old tail into fresh_tail. Every row writes its own key and value.
  uint copied_from = row == 0 ? cache.in_body : own;
  if (threadgroup_position_in_grid.y % SHARE != 0) copied_from = end;

  for (uint i = thread_index_in_threadgroup; i < GROUP * D / 4; i += THREADS) {
    queries[i] = ((const device float4*)q)[first_head * (D / 4) + i] * as_type<float>(SCALE_BITS);
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);

  uint dim = lane % LANES * 8, leader = lane / LANES * LANES;
  float sums[GROUP * 8];
#pragma unroll
  for (int i = 0; i < GROUP * 8; i++) sums[i] = 0;
  float maximum = of_none(), sum = 0;  // of query head `lane`
#pragma unroll 1
  for (uint run = begin + 32 * (simdgroup % SIMDGROUPS); run < end; run += 32 * SIMDGROUPS) {
    float scores[GROUP];
#pragma unroll 1  // with the keys of all batches in flight, a lane would need more than 128 registers
    for (int b = 0; b < BATCHES; b++) {
      Eight keys[BATCH];
#pragma unroll
      for (int i = 0; i < BATCH; i++) {
        keys[i] = cached_eight<0, D, TAIL>(cache, run + leader + i * BATCHES + b, dim, end, copied_from, fresh_tail);
      }
#pragma unroll
      for (int h = 0; h < GROUP; h++) {
        float4 low = queries[(h * D + dim) / 4], high = queries[(h * D + dim) / 4 + 1];
        float products[BATCH];
#pragma unroll
        for (int i = 0; i < BATCH; i++) products[i] = dot_eight(low, high, keys[i]);
        reduce_scatter<LANES / 2, 1>(products, lane);
        if (b == 0 || lane % BATCHES == uint(b)) scores[h] = products[0];
      }
    }
    bool seen = run + lane < end;
#pragma unroll
    for (int h = 0; h < GROUP; h++) {
      float before = simd_broadcast(maximum, ushort(h));
      float top = max(before, simd_max(seen ? scores[h] : of_none()));
      float away = exp(before - top);
      scores[h] = seen ? exp(scores[h] - top) : 0.0f;
      float total = simd_sum(scores[h]);
      if (lane == uint(h)) {
        maximum = top;
        sum = fma(sum, away, total);
      }
#pragma unroll
      for (int i = 0; i < 8; i++) sums[h * 8 + i] *= away;
    }
#pragma unroll 1
    for (int b = 0; b < BATCHES; b++) {
      Eight values[BATCH];
#pragma unroll
      for (int i = 0; i < BATCH; i++) {
        values[i] = cached_eight<1, D, TAIL>(cache, run + leader + b * BATCH + i, dim, end, copied_from, fresh_tail);
      }
#pragma unroll
      for (int i = 0; i < BATCH; i++) {
#pragma unroll
        for (int h = 0; h < GROUP; h++) {
          float weight = simd_shuffle(scores[h], ushort(leader + b * BATCH + i));
#pragma unroll
          for (int d = 0; d < 8; d++) sums[h * 8 + d] = fma(weight, values[i].v[d], sums[h * 8 + d]);
        }
      }
    }
  }

  reduce_scatter<16, LANES>(sums, lane);
  threadgroup float* part = (threadgroup float*)parts[simdgroup];
#pragma unroll
  for (int i = 0; i < KEPT; i++) {
    uint at = lane / LANES * KEPT + i;  // eight dimensions of a head, then eight of the next
    part[at / 8 * D + dim + at % 8] = sums[i];
  }
  if (lane < GROUP) scales[simdgroup][lane] = float2(maximum, sum);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  for (uint i = thread_index_in_threadgroup; i < GROUP * D / 4; i += THREADS) {
    uint h = i / (D / 4), d = i % (D / 4), head = first_head + h;
    float top[SPLITS], total[SPLITS];
    float4 whole[SPLITS];
#pragma unroll
    for (int p = 0; p < SPLITS; p++) {
      top[p] = of_none();
      total[p] = 0;
      whole[p] = 0;
#pragma unroll
      for (int s = 0; s < SIMDGROUPS; s++) top[p] = max(top[p], scales[p * SIMDGROUPS + s][h].x);
#pragma unroll
      for (int s = 0; s < SIMDGROUPS; s++) {
        float weight = exp(scales[p * SIMDGROUPS + s][h].x - top[p]);
        total[p] = fma(weight, scales[p * SIMDGROUPS + s][h].y, total[p]);
        whole[p] += weight * parts[p * SIMDGROUPS + s][i];
      }
    }
    if (INSIDE == 0) {
      device float4* unfinished = (device float4*)attended + (head * splits + split) * (D / 4 + 1);
      unfinished[d] = whole[0];
      if (d == 0) unfinished[D / 4] = float4(top[0], total[0], 0, 0);
    } else {
      float highest = of_none(), sum = 0;
      float4 joined = 0;
#pragma unroll
      for (int p = 0; p < SPLITS; p++) highest = max(highest, top[p]);
#pragma unroll
      for (int p = 0; p < SPLITS; p++) {
        float weight = exp(top[p] - highest);
        sum = fma(weight, total[p], sum);
        joined = fma(float4(weight), whole[p], joined);
      }
      float sink = float(sinks[head - row * threadgroups_per_grid.y * GROUP]);
#pragma unroll
      for (int j = 0; j < 4; j++) {
        attended[head * D + 4 * d + j] = narrowed<O>(with_sink(joined[j], highest, sum, sink));
      }
    }
  }
}
