// The names a kernel for mx.fast.metal_kernel may use without an include. MLX puts its own utilities before a kernel;
// the emulator offers only these of their names.
#pragma once
#include "metal.h"
using namespace metal;
typedef bfloat bfloat16_t;
typedef half float16_t;
