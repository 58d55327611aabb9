// A plain read of count times 16 bytes: what a shader that only reads its weights could take.
extern "C" __global__ void __launch_bounds__(256) entry(const uint4* at, unsigned* out, unsigned count) {
  unsigned stride = gridDim.x * 256, i = blockIdx.x * 256 + threadIdx.x, all = 0;
  for (; i + 3 * stride < count; i += 4 * stride) {
    uint4 a = at[i], b = at[i + stride], c = at[i + 2 * stride], d = at[i + 3 * stride];
    all ^= a.x ^ a.y ^ a.z ^ a.w ^ b.x ^ b.y ^ b.z ^ b.w ^ c.x ^ c.y ^ c.z ^ c.w ^ d.x ^ d.y ^ d.z ^ d.w;
  }
  for (; i < count; i += stride) {
    uint4 a = at[i];
    all ^= a.x ^ a.y ^ a.z ^ a.w;
  }
  if (all == 0x12345678u) out[0] = all;
}
