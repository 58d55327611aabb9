// Shared by the shaders of decode attention: where a cache's rows lie, sums over lanes, and the end of a softmax with a
// sink.
#pragma once
#include "activations.h"

// The maximum of no scores. It is finite, so that the difference of two of them is defined.
METAL_FUNC float of_none() { return -numeric_limits<float>::max(); }

// Eight values as they lie in memory.
template <typename T>
struct Chunk {
  uint4 words[sizeof(T) / 2];
};
template <typename T>
METAL_FUNC Chunk<T> load_chunk(const device T* p) {
  Chunk<T> x;
#pragma unroll
  for (uint i = 0; i < sizeof(T) / 2; i++) x.words[i] = ((const device uint4*)p)[i];
  return x;
}
template <typename T>
METAL_FUNC void store_chunk(device T* p, const thread Chunk<T>& x) {
#pragma unroll
  for (uint i = 0; i < sizeof(T) / 2; i++) ((device uint4*)p)[i] = x.words[i];
}
METAL_FUNC Eight open_chunk(const thread Chunk<half>& x) { return from_halves(x.words[0]); }
METAL_FUNC Eight open_chunk(const thread Chunk<bfloat>& x) { return from_bfloats(x.words[0]); }
METAL_FUNC Eight open_chunk(const thread Chunk<float>& x) { return from_floats(x.words[0], x.words[1]); }

// One key/value head of a cache. Its positions are counted through body, tail and new rows (kv), in this order.
template <typename T>
struct Cache {
  const device T* body;   // [2, heads, capacity, D]: keys, then values
  const device T* tail;   // [2, heads, TAIL, D]
  const device T* kv;     // [rows, 2, heads, D]
  uint in_body, before;   // positions in the body, and in body and tail
  uint capacity, heads, head;
};

// Returns where the key (side 0) or value (side 1) of position j lies.
template <int D, int TAIL, typename T>
METAL_FUNC const device T* cached(const thread Cache<T>& cache, uint side, uint j) {
  uint plane = side * cache.heads + cache.head;
  if (j < cache.in_body) return cache.body + (plane * cache.capacity + j) * D;
  if (j < cache.before) return cache.tail + (plane * TAIL + (j - cache.in_body)) * D;
  return cache.kv + ((j - cache.before) * 2 * cache.heads + plane) * D;
}

// Loads eight dimensions from dim on of the key or value of position j, or zeros if j is end or more. Copies them to
// the fresh tail too if j is copied_from or more.
template <int SIDE, int D, int TAIL, typename T>
METAL_FUNC Eight cached_eight(const thread Cache<T>& cache, uint j, uint dim, uint end, uint copied_from,
                              device T* fresh_tail) {
  Eight opened = {{0, 0, 0, 0, 0, 0, 0, 0}};
  if (j < end) {
    Chunk<T> chunk = load_chunk(cached<D, TAIL>(cache, SIDE, j) + dim);
    opened = open_chunk(chunk);
    if (j >= copied_from) {
      uint plane = SIDE * cache.heads + cache.head;
      store_chunk(fresh_tail + (plane * TAIL + (j - cache.in_body)) * D + dim, chunk);
    }
  }
  return opened;
}

METAL_FUNC float dot_eight(float4 low, float4 high, const thread Eight& x) {
  Eight y = {{low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w}};
  float sum = 0;
#pragma unroll
  for (int i = 0; i < 8; i++) sum = fma(y.v[i], x.v[i], sum);
  return sum;
}

// One step of a reduce-scatter between two lanes that differ in BIT. Lanes with BIT clear keep the sums of v[0..KEPT),
// the others those of v[KEPT..2 KEPT). With KEPT 0, both lanes keep the sum of v[0].
template <int BIT, int KEPT, int N>
METAL_FUNC void reduce_scatter_step(thread float (&v)[N], uint lane) {
  if (KEPT == 0) v[0] += simd_shuffle_xor(v[0], ushort(BIT));
  bool later = (lane & uint(BIT)) != 0;
#pragma unroll
  for (int i = 0; i < KEPT; i++) {
    float first = v[i], second = v[i + KEPT];  // loaded before the choice, or v would leave the registers
    v[i] = (later ? second : first) + simd_shuffle_xor(later ? first : second, ushort(BIT));
  }
}

// A reduce-scatter of v over the M lanes that differ in the bits from FROM down to TO. The m-th of these lanes ends
// with sums m * (N / M) to (m + 1) * (N / M) - 1, at the beginning of v. If M exceeds N, M / N lanes hold each sum.
template <int FROM, int TO, int N>
METAL_FUNC void reduce_scatter(thread float (&v)[N], uint lane) {
  if (FROM >= 16 && TO <= 16) reduce_scatter_step<16, (FROM >= 16 ? 8 * N / FROM : 0)>(v, lane);
  if (FROM >= 8 && TO <= 8) reduce_scatter_step<8, (FROM >= 8 ? 4 * N / FROM : 0)>(v, lane);
  if (FROM >= 4 && TO <= 4) reduce_scatter_step<4, (FROM >= 4 ? 2 * N / FROM : 0)>(v, lane);
  if (FROM >= 2 && TO <= 2) reduce_scatter_step<2, (FROM >= 2 ? N / FROM : 0)>(v, lane);
  if (FROM >= 1 && TO <= 1) reduce_scatter_step<1, N / (2 * FROM)>(v, lane);
}

// Returns a weighted value under a softmax's maximum and sum, after adding the sink to it: a logit that has no value.
METAL_FUNC float with_sink(float value, float maximum, float sum, float sink) {
  float top = max(maximum, sink), weight = exp(maximum - top);
  return value * (weight / (sum * weight + exp(sink - top)));
}
