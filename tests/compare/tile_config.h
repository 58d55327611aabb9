// Included before every file of llama.cpp. In gcc 12 the intrinsic says that it reads 8 of the 64 bytes of the tile
// configuration, so that gcc leaves out the stores to the others and the processor refuses what is there.
#if defined(__AMX_TILE__) && defined(__GNUC__) && !defined(__clang__)
#include <immintrin.h>
#define _tile_loadconfig(config) __asm__ volatile("ldtilecfg\t%0" ::"m"(*(const char (*)[64])(config)))
#endif
