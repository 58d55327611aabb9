"""Mutants of the dense shaders that compute the same: description to reason."""

STEPS_OF_8 = "positions and the bound are multiples of 8, so one less cuts off none"
NOTHING_LEFT = "in the extra turn no lane's group is within the matrix"
DOUBLES = "steps double, and none is one less than the bound"
THE_SAME_PLACE = "two places are equal only if they are one logit, and no logit that is compared is as low as the start"
BEYOND = "one less is still beyond every position"
EQUIVALENT = {
    "best.h: bool second = b.value > a.value || (b.value == a.value && b.at < a.at);  ->  "
    "bool second = b.value > a.value || (b.value == a.value && b.at < (a.at + 1));": THE_SAME_PLACE,
    "dense.h: for (uint n = 8 * lane; n < COLUMNS; n += 8 * 32) {  ->  "
    "for (uint n = 8 * lane; n < (COLUMNS - 1); n += 8 * 32) {": STEPS_OF_8,
    "dense.h: for (uint round = 0; round < GROUPS; round += 8) {  ->  "
    "for (uint round = 0; round < (GROUPS + 1); round += 8) {": NOTHING_LEFT,
    "dense.h: for (ushort step = 4; step < 32; step *= 2) sums[t][j] += simd_shuffle_xor(sums[t][j], step);  ->  "
    "for (ushort step = 4; step < (32 - 1); step *= 2) sums[t][j] += simd_shuffle_xor(sums[t][j], step);": DOUBLES,
    "norm_head_argmax.metal: for (ushort step = 1; step < 4; step *= 2) {  ->  "
    "for (ushort step = 1; step < (4 - 1); step *= 2) {": DOUBLES,
    "best.h: return {value, simd_min(mine.value == value ? mine.at : 0xFFFFFFFFu)};  ->  "
    "return {value, simd_min(mine.value == value ? mine.at : (0xFFFFFFFFu & (0xFFFFFFFFu - 1u)))};": BEYOND,
    "norm_head_argmax_combine.metal: Best best = {-INFINITY, 0xFFFFFFFFu};  ->  "
    "Best best = {-INFINITY, (0xFFFFFFFFu & (0xFFFFFFFFu - 1u))};": BEYOND,
}
