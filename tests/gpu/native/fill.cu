// Random memory, drawn on the card. A value depends on its place and the seed alone.
__device__ unsigned drawn(unsigned long long place, unsigned seed) {
  unsigned long long x = place * 0x9e3779b97f4a7c15ull + seed * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return unsigned((x ^ (x >> 31)) >> 16);
}

// kind 0: words of random bits; 1: bytes from low up to high; 2, 3, 4: float32, float16 and bfloat16 between low and
// high; 5: words of ones, which are NaN as floats.
extern "C" __global__ void entry(void* at, unsigned long long count, unsigned seed, int kind, float low, float high) {
  unsigned long long stride = (unsigned long long)gridDim.x * blockDim.x;
  for (unsigned long long i = (unsigned long long)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += stride) {
    unsigned bits = drawn(i, seed);
    float value = low + (high - low) * (float(bits >> 8) * 0x1p-24f);
    if (kind == 0) ((unsigned*)at)[i] = bits;
    if (kind == 1) ((unsigned char*)at)[i] = (unsigned char)value;
    if (kind == 2) ((float*)at)[i] = value;
    if (kind == 3) asm("cvt.rn.f16.f32 %0, %1;" : "=h"(((unsigned short*)at)[i]) : "f"(value));
    if (kind == 4) asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(((unsigned short*)at)[i]) : "f"(value));
    if (kind == 5) ((unsigned*)at)[i] = 0xffffffffu;
  }
}
