"""Mutants of the expert shaders that compute the same: description to reason."""

STEPS_OF_8 = "positions and the bound are multiples of 8, so one less cuts off none"
ROUNDS_TO_65504 = "65503 and 65505 both round to 65504, which is half's largest"
FAR = "exp of 79 or 81 in a denominator: the quotient is below 1e-33 either way"
INFINITE = "an infinite denominator makes it zero where infinity exists; a compiler for a GPU may assume there is none"
SAME_READ = "every lane reads what lane 0 hands to all, which only counting notices"
NEVER_EQUAL = "no id and no choice equals the number of them, so the extra turn does nothing"
SAME_PICK = "takes v[k] at every turn instead of one: the same value, but not from a register"
EQUIVALENT = {
    "norm_router.metal: for (uint n = 8 * thread_index; n < COLUMNS; n += 8 * 32 * SIMDGROUPS) {  ->  "
    "for (uint n = 8 * thread_index; n < (COLUMNS - 1); n += 8 * 32 * SIMDGROUPS) {": STEPS_OF_8,
    "swiglu.h: float away = min(-1.702f * gate, 80.0f);  ->  float away = min(-1.702f * gate, (80.0f + 1));": FAR,
    "swiglu.h: float away = min(-1.702f * gate, 80.0f);  ->  float away = min(-1.702f * gate, (80.0f - 1));": FAR,
    "swiglu.h: float away = min(-1.702f * gate, 80.0f);  ->  float away = min(-1.702f * gate, (1.25f * 80.0f));": FAR,
    "swiglu.h: float away = min(-1.702f * gate, 80.0f);  ->  float away = (-1.702f * gate);": INFINITE,
    "routing.h: if (lane == 0) slot = slots[expert];  ->  if (true) slot = slots[expert];": SAME_READ,
    "routing.h: for (int i = 0; i < PER_LANE; i++) {  ->  for (int i = 0; i < (PER_LANE + 1); i++) { (2)": NEVER_EQUAL,
    "routing.h: if (k == uint(i)) picked = v[i];  ->  if (i == uint(i)) picked = v[k];": SAME_PICK,
    "routing.h: for (int i = 1; i < K; i++) {  ->  for (int i = 1; i < (K + 1); i++) {": NEVER_EQUAL,
    **{
        f"activations.h: return half(clamp(v, -65504.0f, 65504.0f));  ->  return half(clamp(v, {to}));": ROUNDS_TO_65504
        for to in (
            "(-65504.0f + 1), 65504.0f",
            "(-65504.0f - 1), 65504.0f",
            "-65504.0f, (65504.0f + 1)",
            "-65504.0f, (65504.0f - 1)",
        )
    },
}
