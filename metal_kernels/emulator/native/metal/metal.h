// Included by every <metal_...> header.
#pragma once
#ifdef EMU_LINT
#include "lint.h"
#else
#include "run.h"
#endif
