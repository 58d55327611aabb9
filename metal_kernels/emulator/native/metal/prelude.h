// What a kernel given to mx.fast.metal_kernel may rely on: MLX puts its own utilities before it, of which the emulator
// promises only these names.
#pragma once
#include "metal.h"
using namespace metal;
typedef bfloat bfloat16_t;
typedef half float16_t;
