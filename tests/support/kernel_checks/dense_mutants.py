"""Mutants of the dense shaders and of what they include that compute the same, by file and description: why."""

STEPS_OF_8 = "positions come in steps of 8 and so does the bound: one less cuts off none"
SAME_SUM = "the same added in another order, and whole numbers at that"
LIKE_LANE_0 = "lane 4 has what lane 0 has, under a higher token: ties go to the lower"
NOTHING_LEFT = "where the added turn is taken, no lane's group is within the matrix"
DOUBLES = "steps 4, 8 and 16 are below 31 as they are below 32"
TOKEN = "uint n = first + 4 * b + lane"
TURNED = "turn = row * HALF + i + 4 * b + lane;"
EQUIVALENT = {
    "dense.h: for (uint n = 8 * lane; n < COLUMNS; n += 8 * 32) {  ->  "
    "for (uint n = 8 * lane; n < (COLUMNS - 1); n += 8 * 32) {": STEPS_OF_8,
    "dense.h: for (uint round = 0; round < GROUPS; round += 8) {  ->  "
    "for (uint round = 0; round < (GROUPS + 1); round += 8) {": NOTHING_LEFT,
    "dense.h: for (ushort step = 4; step < 32; step *= 2) pairs.of[b] += simd_shuffle_xor(pairs.of[b], step);  ->  "
    "for (ushort step = 4; step < (32 - 1); step *= 2) pairs.of[b] += simd_shuffle_xor(pairs.of[b], step);": DOUBLES,
    "norm_head_best.metal: if (lane < 4) {  ->  if (lane < (4 + 1)) {": LIKE_LANE_0,
    f"norm_head_best.metal: {TOKEN};  ->  uint n = lane + 4 * b + first;": SAME_SUM,
    "norm_head.metal: uint n = row * VOCABULARY + first + 4 * b + lane;  ->  "
    "uint n = row * VOCABULARY + lane + 4 * b + first;": SAME_SUM,
    f"output_residual.metal: {TOKEN}, m = row * OUTPUTS + n;  ->  "
    "uint n = lane + 4 * b + first, m = row * OUTPUTS + n;": SAME_SUM,
    f"norm_qkv_rope.metal: {TOKEN}, {TURNED}  ->  uint n = lane + 4 * b + first, {TURNED}": SAME_SUM,
    f"norm_qkv_rope.metal: {TOKEN}, {TURNED}  ->  {TOKEN}, turn = row * HALF + lane + 4 * b + i;": SAME_SUM,
}
