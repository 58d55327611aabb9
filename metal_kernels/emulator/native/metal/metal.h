// What every <metal_...> header becomes.
#pragma once
#ifdef EMU_LINT
#include "lint.h"
#else
#include "run.h"
#endif
