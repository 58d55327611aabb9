// gpt-oss's SwiGLU: clamped, with a slope of its own, and one added to the linear half.
#pragma once

METAL_FUNC float swiglu(float gate, float linear, float limit) {
  gate = min(gate, limit);
  linear = clamp(linear, -limit, limit);
  float away = min(-1.702f * gate, 80.0f);  // so that exp is finite
  return gate / (1.0f + exp(away)) * (linear + 1.0f);
}
